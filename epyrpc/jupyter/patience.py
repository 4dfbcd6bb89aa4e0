"""A cell that waits long for a body says so: one line, kept up to date, and taken away when the wait is over.

Only where a person watches: a front end that executes notebooks by itself takes no input, and is shown nothing. The
line is taken away by an update of its display without any content, of which nothing is left to be seen or compared.

Threads::

    main thread: a cell begins ──▶ thread "epyrpc-patience" (daemon) looks, twice a second, what the cell waits for
                 a cell ends ────▶ what is shown is taken away
"""

from __future__ import annotations

import threading
import uuid
from typing import TYPE_CHECKING, Any

from epyrpc.bodies import questions
from epyrpc.bodies.registry import bodies
from epyrpc.bodies.waiting import waiting
from epyrpc.clock import format_seconds
from epyrpc.errors import EpyrpcError
from epyrpc.jupyter.cells import DISPLAY, Display

if TYPE_CHECKING:
    from epyrpc.results import AsyncResult

PROGRESS_AFTER = 5.0  # seconds, unless --progress-after says otherwise
LOOK_SECONDS = 0.5
REFRESH_SECONDS = 2.0  # between two questions to a body that is waited for
ASK_SECONDS = 0.3


class Line:
    """The line that is shown for one call."""

    def __init__(self, result: AsyncResult) -> None:
        self.result = result
        self._id = f"epyrpc-{uuid.uuid4().hex}"
        self._kind = "display"
        self.shown_at = 0.0  # seconds since the call was made

    def show(self) -> None:
        """Show what the call waits for now."""
        self.shown_at = self.result.elapsed
        text = f"waiting for {self.result.target}: {describe(self.result)}; ■ stops it"
        if not self.result.done():
            self._send({"text/plain": text})

    def take_away(self) -> None:
        """Leave nothing of it."""
        if self._kind == "update":
            self._send({})

    def _send(self, data: dict[str, str]) -> None:
        sink: Any = self.result._sink
        sink.show(DISPLAY, tuple(Display(data, {}, {"display_id": self._id}, self._kind)))
        self._kind = "update"


def describe(result: AsyncResult) -> str:
    """Say what a call does, as its body sees it."""
    name = result.path.removeprefix("_epyrpc.")
    spent = f"{result.elapsed:.0f} s" if result.elapsed < 60 else format_seconds(result.elapsed)
    try:
        seen = waiting(result.target, timeout=ASK_SECONDS)
        call = next((call for call in seen if call.id == str(result.id)), None)
    except EpyrpcError:  # the body has just gone: the call will say so
        call = None
    if call is None or call.state == "running":
        progress = result.progress
        done = f" {progress.done:,g}/{progress.total:,g}," if progress is not None and progress.total else ""
        return f"{name}, running{done} {spent}"
    return f"{name}, {spent}: {call.why}"


class Patience:
    """Watches what running cells wait for.

    Parameters
    ----------
    ip : InteractiveShell
        A kernel's.
    """

    # Guarded by _lock: _cell, _line, _stopped. Showing happens outside of it, on the one thread, but for the last word.

    def __init__(self, ip: Any) -> None:
        self._ip = ip
        self._lock = threading.Lock()
        self._cell: Any = None  # the request of the cell that runs
        self._line: Line | None = None
        self._showing = threading.Lock()  # held while something is sent
        self._thread: threading.Thread | None = None
        self._changed = threading.Event()
        self._stopped = False

    def install(self) -> None:
        """Watch the cells from the next one on."""
        self._ip.events.register("pre_run_cell", self._begin)
        self._ip.events.register("post_run_cell", self._end)

    def uninstall(self) -> None:
        """Watch no more."""
        self._ip.events.unregister("pre_run_cell", self._begin)
        self._ip.events.unregister("post_run_cell", self._end)
        self._end()
        self._stopped = True
        self._changed.set()

    def _begin(self, info: Any = None) -> None:
        """Note the cell that begins; on the main thread."""
        if not bodies() or not getattr(self._ip.kernel, "_allow_stdin", False):
            return
        with self._lock:
            self._cell = self._ip.get_parent()
        if self._thread is None:
            self._thread = threading.Thread(target=self._watch, name="epyrpc-patience", daemon=True)
            self._thread.start()
        self._changed.set()

    def _end(self, result: Any = None) -> None:
        """Take away what the cell has been shown; on the main thread."""
        if self._cell is None:
            return
        with self._lock:
            self._cell = None
        with self._showing:
            self._replace(None)

    def _watch(self) -> None:
        while not self._stopped:
            self._changed.wait(None if self._cell is None else LOOK_SECONDS)
            self._changed.clear()
            if self._cell is not None:
                self._look()

    def _look(self) -> None:
        with self._showing:
            cell, line = self._cell, self._line
            result = self._awaited(cell) if cell is not None else None
            if line is None or result is not line.result:
                line = Line(result) if result is not None else None
                self._replace(line)
            if line is not None and (not line.shown_at or line.result.elapsed - line.shown_at >= REFRESH_SECONDS):
                line.show()

    def _replace(self, line: Line | None) -> None:
        before, self._line = self._line, line
        if before is not None:
            before.take_away()

    @staticmethod
    def _awaited(cell: Any) -> AsyncResult | None:
        """Return the call that the cell has been waiting for too long, if there is one."""
        for body in bodies().values():
            transporter = body._transporter
            for result in transporter.transactions.pending() if transporter is not None else ():
                patience = PROGRESS_AFTER if result.progress_after is None else result.progress_after
                if (
                    result._waiting
                    and result.elapsed >= patience
                    and getattr(result._sink, "parent", None) is cell
                    and result.path != questions.DEBUG_PATH
                    and result not in questions.being_asked
                ):
                    return result  # type: ignore[no-any-return]  # a transporter is Any there
        return None


__all__ = ["PROGRESS_AFTER", "Patience", "describe"]
