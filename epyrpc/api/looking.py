"""What one end sees of the calls that it answers, for whoever asks why something waits.

Looking takes no lock and stops nothing: what runs goes on meanwhile, so a call may be seen in two states, or in none.
"""

from __future__ import annotations

import linecache
import os
import sys
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

from epyrpc.api.context import QUEUED

if TYPE_CHECKING:
    import types
    from collections.abc import Iterable, Iterator

    from epyrpc.api.context import CurrentCall

MAX_FRAMES = 5  # of a stack, the innermost
MAX_AWAITS = 100
_FRAMES = ("cr_frame", "ag_frame", "gi_frame")
_AWAITS = ("cr_await", "ag_await", "gi_yieldfrom")
_STANDARD = os.path.dirname(linecache.__file__) + os.sep


class Line(NamedTuple):
    """One line of a stack; `source` is empty where this process does not know it."""

    filename: str
    number: int
    function: str
    source: str


class Seen(NamedTuple):
    """One call as the end that answers it sees it; this crosses the wire.

    Attributes
    ----------
    tid : int
        The transaction's id; 0 for an event.
    path : str
        What was called.
    stage : str
        ``"queued"``, ``"running"`` or ``"delayed"``.
    seconds : float
        How long it has been running.
    workers : int
        How many handlers run at once there.
    behind : tuple of int
        The ids of the calls that all its workers run, while it is queued.
    waits_for : tuple or None
        Id, path and target of the call that its handler waits for.
    lines : list of Line
        The user's part of its stack, outermost first.
    """

    tid: int
    path: str
    stage: str
    seconds: float
    workers: int
    behind: tuple[int, ...]
    waits_for: tuple[int, str, str] | None
    lines: list[Line]


def look(dispatcher: Any) -> list[Seen]:
    """Return what `dispatcher` runs and what is queued there; any thread."""
    frames = sys._current_frames()
    threads: dict[int, int] = {}  # {id of a CurrentCall: thread}
    calls: dict[int, CurrentCall] = {}
    for pool in list(dispatcher._pools):
        for ident, call in list(pool.running.items()):
            threads[id(call)] = ident
            calls[id(call)] = call
    calls.update((id(call), call) for call in list(dispatcher._calls.values()))
    return [_see(call, frames.get(threads.get(key, 0))) for key, call in calls.items()]


def _see(call: CurrentCall, frame: types.FrameType | None) -> Seen:
    pool = call.pool
    queued = call.stage is QUEUED
    task, awaited = call.task, call.waiting_on
    frames = _outermost_first(frame) if task is None else list(_awaiting(task.get_coro()))
    return Seen(
        call._tid,
        call.path,
        call.stage,
        monotonic() - call._started_at if call._started_at else 0.0,
        pool.size,
        tuple(other._tid for other in list(pool.running.values())) if queued else (),
        None if awaited is None else (awaited._tid, awaited.path, awaited.target),
        trim(frames),
    )


def _outermost_first(frame: types.FrameType | None) -> list[types.FrameType]:
    found: list[types.FrameType] = []
    while frame is not None:
        found.append(frame)
        frame = frame.f_back
    return found[::-1]


def _awaiting(coroutine: Any) -> Iterator[types.FrameType]:
    """Yield the frames of a coroutine, or an async generator, and of what each awaits, outermost first."""
    for _ in range(MAX_AWAITS):
        frame = next((found for name in _FRAMES if (found := getattr(coroutine, name, None)) is not None), None)
        if frame is None:
            return
        yield frame
        coroutine = next((found for name in _AWAITS if (found := getattr(coroutine, name, None)) is not None), None)


_DISPATCHING = ("epyrpc.api.dispatch", "epyrpc.api.async_loop")  # who calls handlers


def trim(frames: Iterable[types.FrameType]) -> list[Line]:
    """Return the user's lines of a stack: below the dispatcher, and above where our own code waits."""
    lines: list[Line] = []
    dispatched = False
    for frame in frames:
        module = str(frame.f_globals.get("__name__", ""))
        ours = module.startswith("epyrpc.")
        if lines and ours:
            break
        dispatched = dispatched or module in _DISPATCHING
        if dispatched and not ours and module.partition(".")[0] not in ("IPython", "asyncio"):
            code = frame.f_code
            number = frame.f_lineno
            source = linecache.getline(code.co_filename, number, frame.f_globals).strip()
            lines.append(Line(code.co_filename, number, code.co_name, source))
    while lines and _is_standard(lines[-1].filename):
        lines.pop()  # how the library waits says less than the line that made it wait
    return lines[-MAX_FRAMES:]


def _is_standard(filename: str) -> bool:
    return filename.startswith("<frozen") or (filename.startswith(_STANDARD) and "site-packages" not in filename)


__all__ = ["Line", "Seen", "look"]
