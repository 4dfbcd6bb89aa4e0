"""`MapView`: a map over a pool as one bar, and a line for each body."""

from __future__ import annotations

import time
import weakref
from typing import TYPE_CHECKING, Any, ClassVar

import traitlets

from epyrpc_widgets.live import LiveView, flusher, module, styles

if TYPE_CHECKING:
    from epyrpc import MapRun, MapVitals

BODIES_SHOWN = 32
SAMPLE_SECONDS = 1.0


class MapView(LiveView):
    """A map: how many items are done, failed and in hand, rate and rest; opened, a line for each body.

    Both are traits, since nothing that a page says is heard while a cell takes the results.

    Parameters
    ----------
    run : MapRun
        Which one.
    """

    _esm = module("row", "total", "map")
    _css = styles("call", "list")

    summary = traitlets.Dict().tag(sync=True)
    bodies: Any = traitlets.List().tag(sync=True)

    views: ClassVar[weakref.WeakValueDictionary[int, MapView]] = weakref.WeakValueDictionary()  # {id of run: view}

    def __init__(self, run: MapRun) -> None:
        self._run = run
        self._used: dict[int, float] = {}  # {process: CPU seconds at the last sample}
        self._cpu: dict[int, int] = {}  # {process: per cent of one core}
        self._sampled_at = 0.0
        seen = run.look()
        self._started = seen.started  # kept, since looked at twice it differs in the last digits
        super().__init__(summary=self._summarise(seen), bodies=self._lines(seen))
        MapView.views[id(run)] = self
        flusher.add(self)

    @classmethod
    def of(cls, run: MapRun) -> MapView:
        """Return the view of a map; there is one, wherever and however often it is displayed."""
        view = cls.views.get(id(run))
        return view if view is not None and view._run is run else cls(run)

    def flush(self, now: float) -> bool:
        """Send what has changed."""
        seen = self._run.look()
        if now >= self._sampled_at + SAMPLE_SECONDS:
            self._sample(seen, now)
        lines, summary = self._lines(seen), self._summarise(seen)
        with self.hold_sync():
            if lines != self.bodies:
                self.bodies = lines
            if summary != self.summary:
                self.summary = summary
        return not summary["over"]

    def _summarise(self, seen: MapVitals) -> dict[str, Any]:
        over = seen.state.ended
        counts = {"done": seen.done - seen.failed, "failed": seen.failed, "running": 0 if over else seen.running}
        return {
            "state": str(seen.state),
            "path": self._run.path,
            "pool": self._run.pool,
            "processes": seen.processes,
            "counts": counts,
            "tally": {"failed": seen.failed} if seen.failed else {},
            "total": seen.total,
            "started": self._started,
            "elapsed": seen.elapsed if over else 0.0,
            "over": over,
            "note": note_of(seen),
        }

    def _lines(self, seen: MapVitals) -> list[dict[str, Any]]:
        return [
            {
                "body": share.body,
                "items": None if share.items is None or seen.state.ended else list(share.items),
                "at": share.at,
                "done": share.done,
                "cpu": self._cpu.get(share.pid or 0),
            }
            for share in seen.shares[:BODIES_SHOWN]
        ]

    def _sample(self, seen: MapVitals, now: float) -> None:
        spent, self._sampled_at = max(0.001, now - self._sampled_at), now
        used = {share.pid: share.cpu_seconds for share in seen.shares if share.pid and share.cpu_seconds is not None}
        self._cpu = {
            pid: round(100 * (cpu - self._used[pid]) / spent) for pid, cpu in used.items() if pid in self._used
        }
        self._used = used

    def hear(self, kind: str, content: dict[str, Any]) -> None:
        """Answer a page."""
        if kind == "hello":
            self.send({"kind": "hello", "now": time.time()})
        elif kind == "cancel all":
            self.apart(self._run.cancel, "cancel")


def note_of(seen: MapVitals) -> str:
    """Return a sentence on order, chunks and what ran again.

    Its names of bodies stand between back quotes.
    """
    facts = []
    if seen.ordered and not seen.state.ended:
        facts.append(
            f"results 0–{seen.handed_out - 1:,} handed over in order" if seen.handed_out else "results in order"
        )
    elif not seen.ordered:
        facts.append("results in the order in which they come")
    if seen.chunk:
        chunks = f"chunks of {seen.chunk:,}" if seen.chunk > 1 else "items travel one by one"
        if seen.chosen and seen.chunk > 1 and seen.item_seconds is not None:
            chunks += f", chosen from a run time of {_short(seen.item_seconds)} an item"
        facts.append(chunks)
    for body, items in seen.reruns.items():
        facts.append(f"{items:,} item{'' if items == 1 else 's'} ran again after `{body}` died")
    return " · ".join(facts)


def _short(seconds: float) -> str:
    """Return what an item takes; it is never long, or it would travel alone."""
    return f"{1e6 * seconds:.0f} µs" if seconds < 0.001 else f"{1e3 * seconds:.0f} ms"


__all__ = ["MapView"]
