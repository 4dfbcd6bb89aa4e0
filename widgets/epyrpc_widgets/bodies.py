"""`BodyCard`: a body, how it is doing, and what can be done with it."""

from __future__ import annotations

import time
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, ClassVar

import traitlets

import epyrpc
from epyrpc_widgets.live import LiveView, flusher, module, styles

if TYPE_CHECKING:
    from epyrpc import Body, Vitals

SAMPLE_SECONDS = 1.0
SAMPLES = 60
PATHS_SHOWN = 5
LAST_LINES = 5
STOP_SECONDS = 5.0


class BodyCard(LiveView):
    """A body: state, handlers at work, CPU, memory, what it handles, its last words; Interrupt, Restart, Stop.

    The card is a trait, so that a page that is loaded again, and a second view, show the same at once.

    Parameters
    ----------
    body : Body
        Which one.
    """

    _esm = module("spark", "body")
    _css = styles("body")

    card = traitlets.Dict().tag(sync=True)

    cards: ClassVar[weakref.WeakValueDictionary[int, BodyCard]] = weakref.WeakValueDictionary()  # {id of body: card}

    def __init__(self, body: Body) -> None:
        self._body = body
        self._cpu: deque[float] = deque(maxlen=SAMPLES)  # per cent of one core
        self._rss: deque[int] = deque(maxlen=SAMPLES)  # bytes
        self._before: tuple[int | None, float, float] | None = None  # process, when, CPU seconds by then
        self._next_sample = self._sampled_at = 0.0
        self._started: tuple[int | None, float] = (None, 0.0)  # process, when
        self._log: list[str] = []
        self._state = ""
        self._stopping_since = 0.0
        self._calls: tuple[int | None, int, float] = (None, 0, 0.0)  # process, calls at the last sample, calls a second
        self._ended = 0.0  # when it was first seen to have ended
        super().__init__(card=self._look(time.monotonic()))
        BodyCard.cards[id(body)] = self
        flusher.add(self)

    @classmethod
    def of(cls, body: Body) -> BodyCard:
        """Return the card of a body; there is one, wherever and however often it is displayed."""
        card = cls.cards.get(id(body))
        return card if card is not None and card._body is body else cls(body)

    def flush(self, now: float) -> bool:
        """Send the card if it has changed; figures of its process once a second. A stopped body may come back."""
        card = self._look(now)
        if card != self.card:
            self.card = card
        return True

    def _look(self, now: float) -> dict[str, Any]:
        seen = epyrpc.vitals(self._body)
        if now >= self._next_sample or seen.state != self._state:
            self._next_sample = now + SAMPLE_SECONDS
            self._state = seen.state
            self._sample(seen, now)
            self._log = self._body.log().rstrip().splitlines()
        if self._started[0] != seen.pid:  # kept, since looked at twice it differs in the last digits
            self._started = (seen.pid, seen.started)
        self._stopping_since = (self._stopping_since or time.time()) if seen.state == "stopping" else 0.0
        alive = seen.pid is not None
        self._ended = 0.0 if alive else self._ended or time.time()
        log = self._log
        return {
            "name": self._body.name,
            "state": seen.state,
            "pid": seen.pid,
            "thread": seen.start_method == "thread",
            "transport": seen.transport,
            "started": self._started[1],
            "workers": seen.workers,
            "busy": seen.busy,
            "waiting": seen.waiting,
            "cpu": list(self._cpu),
            "rss": list(self._rss),
            "paths": list(seen.paths[:PATHS_SHOWN]),
            "more_paths": max(0, len(seen.paths) - PATHS_SHOWN),
            "handlers": len(seen.paths),
            "calls": seen.calls,
            "rate": self._calls[2],
            "last_pid": seen.last_pid,
            "lived": round(seen.lived or 0.0, 1),
            "ended": self._ended,
            "exitcode": seen.exitcode,
            "why": seen.why,
            "earlier_lines": max(0, len(log) - LAST_LINES),
            "last_lines": log[-LAST_LINES:],
            "stopping_since": self._stopping_since,
            "stop_seconds": STOP_SECONDS,
        }

    def _sample(self, seen: Vitals, now: float) -> None:
        spent = max(0.001, now - self._sampled_at)
        pid, before, _ = self._calls
        self._calls = (seen.pid, seen.calls, round((seen.calls - before) / spent, 1) if pid == seen.pid else 0.0)
        self._sampled_at = now
        if seen.cpu_seconds is None or seen.rss_bytes is None:
            self._before = None
            return
        if self._before is not None and self._before[0] == seen.pid:
            _, then, used = self._before
            self._cpu.append(round(100 * (seen.cpu_seconds - used) / max(0.001, now - then)))
        else:
            self._cpu.clear()
            self._rss.clear()
            self._cpu.append(0)
        self._before = (seen.pid, now, seen.cpu_seconds)
        self._rss.append(round(seen.rss_bytes, -5))

    def hear(self, kind: str, content: dict[str, Any]) -> None:
        """Do what a button says, on a thread of its own: each may wait for the body."""
        if kind == "hello":
            self.send({"kind": "hello", "now": time.time()})
            return
        does = {
            "interrupt": self._interrupt,
            "restart": self._body.restart,
            "stop": lambda: self._body.stop(STOP_SECONDS),
            "stop now": lambda: self._body.stop(0),
        }.get(kind)
        if does is not None:
            flusher.add(self)
            self.apart(lambda: self._do(kind, does), kind.replace(" ", "-"))

    def _do(self, kind: str, does: Any) -> None:
        try:
            said = does()
        except Exception as exc:  # said on the card: nobody else would hear of it
            said = f"{type(exc).__name__}: {exc}".partition("\n")[0]
        self.send({"kind": "did", "what": kind, "text": said if isinstance(said, str) else ""})

    def _interrupt(self) -> str:
        count = self._body.interrupt()
        return f"{count} call{'s' if count > 1 else ''} interrupted" if count else "runs nothing now"


__all__ = ["BodyCard"]
