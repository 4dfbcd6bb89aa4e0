"""`CallList`: many calls as one compact list with a bar for all."""

from __future__ import annotations

import time
import weakref
from typing import TYPE_CHECKING, Any, ClassVar

import traitlets

import epyrpc
from epyrpc_widgets.calls import CallView, cancel
from epyrpc_widgets.live import LiveView, flusher, module, styles

if TYPE_CHECKING:
    from epyrpc import AsyncResult, Gathered, PoolResult

ROWS = 500  # that are shown
UNASKED_SECONDS = (0.5, 1.5, 4.0)  # when a page that cannot be heard is told everything, after its making
AFTERMATH_SECONDS = 5.0  # how long cancelled calls may take to say how they were stopped


class CallList(LiveView):
    """Calls in the order in which they were made: a tally, a bar, a line for each; Cancel all, Retry failed.

    Parameters
    ----------
    calls : Gathered
        Which ones.
    """

    _esm = module("row", "total", "list")
    _css = styles("call", "list")

    summary = traitlets.Dict().tag(sync=True)

    lists: ClassVar[weakref.WeakValueDictionary[int, CallList]] = weakref.WeakValueDictionary()  # {id of calls: list}

    def __init__(self, calls: Gathered) -> None:
        self._calls = calls
        self._started = min((epyrpc.snapshot(call).started for call in calls[:1]), default=time.time())
        self._rows: dict[int, dict[str, Any]] = {}
        self._greeted = False
        self._made_at = time.monotonic()
        self._unasked = list(UNASKED_SECONDS)
        self._over_since = 0.0
        self._ended_after = 0.0
        self._changed()
        super().__init__(summary=self._summarise())
        CallList.lists[id(calls)] = self
        flusher.add(self)

    @classmethod
    def of(cls, calls: Gathered) -> CallList:
        """Return the list of some gathered calls; there is one, wherever and however often it is displayed."""
        shown = cls.lists.get(id(calls))
        return shown if shown is not None and shown._calls is calls else cls(calls)

    def flush(self, now: float) -> bool:
        """Send the rows that have changed."""
        changed = self._changed()
        summary = self._summarise()
        if not self._greeted and self._unasked and now - self._made_at >= self._unasked[0]:
            del self._unasked[0]
            self._tell("full", self._rows)
        elif changed and (self._greeted or len(self._unasked) < len(UNASKED_SECONDS)):
            self._tell("delta", changed)
        if summary != self.summary:
            self.summary = summary
        if not summary["over"]:
            return True
        self._over_since = self._over_since or now
        return (not self._greeted and bool(self._unasked)) or now - self._over_since < AFTERMATH_SECONDS

    def _changed(self) -> dict[int, dict[str, Any]]:
        """Look at the calls that may have changed; return their rows."""
        changed = {}
        for index, call in enumerate(self._calls[:ROWS]):
            before = self._rows.get(index)
            if before is not None and (
                before["final"] or (before["state"] == "pending" and str(call.state) == "pending")
            ):
                continue
            row = self._row(call)
            if row != before:
                self._rows[index] = changed[index] = row
        return changed

    @staticmethod
    def _row(call: AsyncResult | PoolResult) -> dict[str, Any]:
        seen = epyrpc.snapshot(call)
        state, ended = str(seen.state), seen.state.ended
        return {
            "state": state,
            "id": seen.id,
            "path": seen.path,
            "target": seen.target,
            "started": round(seen.started, 3),
            "elapsed": seen.elapsed if ended else 0.0,
            "ended": ended,
            "text": seen.detail,
            "progress": None if seen.progress is None or ended else list(seen.progress),
            "parts": seen.parts,
            "unread": seen.unread,
            "bytes": seen.received if seen.parts else 0,
            "button": "" if ended and (state == "done" or call.recall is None) else "retry" if ended else "cancel",
            "final": ended and (state not in ("cancelled", "timed out") or seen.stopped not in (None, "still running")),
        }

    def _summarise(self) -> dict[str, Any]:
        states = self._calls.states
        over = self._calls.done()
        if over and not self._ended_after:
            self._ended_after = max((call.elapsed for call in self._calls), default=0.0)
        again = sum(call.recall is not None for call in self._calls if self._went_wrong(call)) if over else 0
        return {
            "counts": {str(state): states[state] for state in epyrpc.CallState if states[state]},
            "total": len(self._calls),
            "started": self._started,
            "elapsed": self._ended_after,
            "over": over,
            "retry": again,
            "hidden": max(0, len(self._calls) - ROWS),
        }

    @staticmethod
    def _went_wrong(call: AsyncResult | PoolResult) -> bool:
        return call.done() and str(call.state) in ("failed", "timed out", "lost")

    def _tell(self, kind: str, rows: dict[int, dict[str, Any]]) -> None:
        self.send({"kind": kind, "now": time.time(), "rows": {str(index): row for index, row in rows.items()}})

    def hear(self, kind: str, content: dict[str, Any]) -> None:
        """Answer a page."""
        if kind == "hello":
            with flusher.between_rounds():
                self._greeted = True
                self._tell("full", self._rows)
        elif kind == "open":
            index = int(content["index"])
            view = CallView.of(self._calls[index])
            self.send({"kind": "opened", "index": index, "model": view.model_id})
        elif kind == "cancel":
            cancel(self._calls[int(content["index"])])
        elif kind == "retry one":
            CallView.of(self._calls[int(content["index"])]).hear("retry", {})
        elif kind == "cancel all":
            self._calls.cancel()
        elif kind == "retry":
            self.apart(self._retry, "retry")
        flusher.add(self)

    def _retry(self) -> None:
        """Make the calls again that went wrong; their list appears under this one."""
        failed = [call for call in self._calls if self._went_wrong(call) and call.recall is not None]
        try:
            again = CallList.of(epyrpc.gather([call.again() for call in failed]))
        except Exception as exc:  # said in the list: nobody else would hear of it
            self.send({"kind": "retried", "error": f"{type(exc).__name__}: {exc}"})
            return
        self.send({"kind": "retried", "model": again.model_id})


__all__ = ["CallList"]
