"""`CallView`: a call as a live row."""

from __future__ import annotations

import threading
import time
import weakref
from typing import TYPE_CHECKING, Any, ClassVar

import traitlets

import epyrpc
from epyrpc_widgets import details
from epyrpc_widgets.live import LiveView, flusher, module, styles

if TYPE_CHECKING:
    from epyrpc import AsyncResult, PoolResult

OUTPUT_SECONDS = 0.25  # text is drawn at most so often
AFTERMATH_SECONDS = 5.0  # how long a call that was cancelled may take to say how it was stopped


class CallView(LiveView):
    """One call: its state, how far it is, Cancel or Retry; opened, its arguments, output, result or error.

    The row is a trait, so that a page that is loaded again, and a second view, show the same at once.

    Parameters
    ----------
    call : AsyncResult or PoolResult
        Which call.
    """

    _esm = module("row", "call")
    _css = styles("call")

    row = traitlets.Dict().tag(sync=True)
    retries: Any = traitlets.List().tag(sync=True)

    views: ClassVar[weakref.WeakValueDictionary[int, CallView]] = weakref.WeakValueDictionary()  # {id of call: view}

    def __init__(self, call: AsyncResult | PoolResult) -> None:
        self._call = call
        self._started = epyrpc.snapshot(call).started
        self._open: set[str] = set()  # the page's views that are open
        self._shown_output = -1
        self._next_output = 0.0
        self._over_since = 0.0
        self._retrying = threading.Lock()
        super().__init__(row=self._look())
        CallView.views[id(call)] = self
        flusher.add(self)

    @classmethod
    def of(cls, call: AsyncResult | PoolResult) -> CallView:
        """Return the view of a call; there is one, wherever and however often it is displayed."""
        view = cls.views.get(id(call))
        return view if view is not None and view._call is call else cls(call)

    # --- what is shown

    def _look(self) -> dict[str, Any]:
        """Return the row as it is now; equal to the last one when nothing has changed."""
        seen = epyrpc.snapshot(self._call)
        ended = seen.state.ended
        can_repeat = ended and str(seen.state) != "done" and self._call.recall is not None
        return {
            "state": str(seen.state),
            "id": seen.id,
            "path": seen.path,
            "target": seen.target,
            "started": self._started,
            "elapsed": seen.elapsed if ended else 0.0,
            "ended": ended,
            "text": seen.detail if seen.ahead is None else place_in_line(seen.ahead),
            "progress": None if seen.progress is None or ended else list(seen.progress),
            "parts": seen.parts,
            "unread": seen.unread,
            "bytes": seen.received if seen.parts else 0,
            "button": "retry" if can_repeat else "" if ended else "cancel",
            "retry_of": seen.retry_of,
        }

    def flush(self, now: float) -> bool:
        """Send the row if it has changed, and new output to pages that have it open."""
        row = self._look()
        if row != self.row:
            self.row = row
        output = epyrpc.snapshot(self._call).output if self._open else self._shown_output
        if output != self._shown_output and (now >= self._next_output or row["ended"]):
            self._shown_output = output
            self._next_output = now + OUTPUT_SECONDS
            self.send({"kind": "delta", "outputs": details.outputs_of(self._call)})
        if not row["ended"]:
            return True
        self._over_since = self._over_since or now
        tells_more = row["state"] in ("cancelled", "timed out") and self._call.stopped in (None, "still running")
        return tells_more and now - self._over_since < AFTERMATH_SECONDS

    # --- what a page says

    def hear(self, kind: str, content: dict[str, Any]) -> None:
        """Answer a page."""
        if kind == "hello":
            self.send({"kind": "hello", "now": time.time()})
        elif kind == "open":
            self._open.add(str(content.get("view")))
            self._shown_output = epyrpc.snapshot(self._call).output
            self.send({"kind": "full", "now": time.time(), "detail": details.detail_of(self._call)})
        elif kind == "close":
            self._open.discard(str(content.get("view")))
        elif kind == "cancel":
            cancel(self._call)
            flusher.add(self)
        elif kind == "retry" and isinstance(self._call, epyrpc.AsyncResult):
            self.apart(self._retry, "retry")

    def _retry(self) -> None:
        """Make the call again; its row appears under this one, which stays what it is."""
        with self._retrying:
            try:
                view = CallView.of(self._call.again())  # type: ignore[union-attr]  # tasks are not made again
            except Exception as exc:  # said in the row: nobody else would hear of it
                self.send({"kind": "retried", "error": f"{type(exc).__name__}: {exc}"})
                return
            self.retries = [*self.retries, f"IPY_MODEL_{view.model_id}"]
            self.send({"kind": "retried"})


def place_in_line(ahead: int) -> str:
    """Return which place a call has that waits.

    Examples
    --------
    >>> [place_in_line(n) for n in (0, 1, 2, 10, 20, 21)]
    ['next in line', '2nd in line', '3rd in line', '11th in line', '21st in line', '22nd in line']
    """
    place = ahead + 1
    if place == 1:
        return "next in line"
    ending = "th" if place % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(place % 10, "th")
    return f"{place:,}{ending} in line"


def cancel(call: AsyncResult | PoolResult) -> None:
    """Cancel a call, or a task, also one that runs."""
    if isinstance(call, epyrpc.AsyncResult):
        call.cancel()
    else:
        call.cancel(kill=True)


__all__ = ["CallView", "cancel", "place_in_line"]
