"""`pdb` in a body, typed at in the head: at a ``breakpoint()``, and on the frames of the call that failed last.

It reads its commands by ``input()`` and prints, so `bodies.questions` and the call's output do the rest.
"""

from __future__ import annotations

import linecache
import pdb
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from epyrpc.bodies import inside
from epyrpc.bodies.questions import SOURCE_PATH, last_failure
from epyrpc.errors import ApiError
from epyrpc.ids import TransactionId
from epyrpc.results import current

if TYPE_CHECKING:
    import types


class BodyPdb(pdb.Pdb):
    """The debugger, as far as it can be used from another process."""

    def __init__(self) -> None:
        # Without a handler for SIGINT: the body has one. Machinery of ours is not stepped into.
        super().__init__(nosigint=True, skip=["epyrpc", "epyrpc.*"], readrc=False)
        self._call = current.get()
        self._bottom: types.FrameType | None = None  # the user's first frame

    def set_trace(self, frame: types.FrameType | None = None, **options: Any) -> None:
        """Stop at the next line of `frame`."""
        self._bottom = frame
        while self._bottom is not None and self._bottom.f_back is not None and not is_ours(self._bottom.f_back):
            self._bottom = self._bottom.f_back
        super().set_trace(frame, **options)

    def get_stack(self, f: types.FrameType | None, t: types.TracebackType | None) -> Any:
        """Return the frames to be walked through: from the user's first one on."""
        stack, index = super().get_stack(f, t)
        frames = [frame for frame, _ in stack]
        start = next((i for i in range(index, -1, -1) if is_ours(frames[i])), -1) + 1
        if start <= index:
            stack, index = stack[start:], index - start
        for frame, _ in stack:
            fetch_source(frame.f_code.co_filename)
        return stack, index

    def trace_dispatch(self, frame: types.FrameType, event: str, arg: Any) -> Any:
        """Trace one event; the debugger's steps end with the call that it was opened in."""
        if current.get() is not self._call:
            sys.settrace(None)
            return None
        local = super().trace_dispatch(frame, event, arg)
        if event == "return" and frame is self._bottom:
            sys.settrace(None)  # a further step would stop in what called the handler
            return None
        return local

    def do_EOF(self, arg: str) -> Any:
        """Go on: nobody is there to type, or the person has left."""
        self.message(getattr(self._call, "unanswered", ""))
        return self.do_continue(arg)


def is_ours(frame: types.FrameType) -> bool:
    """Whether a frame is of the machinery that runs what the user wrote."""
    return str(frame.f_globals.get("__name__", "")).partition(".")[0] in ("epyrpc", "IPython")


def fetch_source(filename: str) -> None:
    """Get the text of what was written in a cell of the notebook, which this process has not got."""
    if filename not in linecache.cache and not Path(filename).exists():
        text = inside.head_api().call(SOURCE_PATH, filename)
        if text:
            linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)


def post_mortem(tid: int | None = None) -> None:
    """Debug what a handler of this body has raised last; with `tid`, if that was this call's.

    Raises
    ------
    ApiError
        There is nothing, or not that.
    """
    if not last_failure:
        raise ApiError(
            "nothing has failed in this body since it was started; bodies of a notebook keep the last failure"
        )
    failure = last_failure[0]
    if tid is not None and tid != failure.tid:
        raise ApiError(
            f"a body keeps its last failure only, and that was call {TransactionId(failure.tid)}, not "
            f"{TransactionId(tid)}; make the call again, then debug it"
        )
    debugger = BodyPdb()
    debugger.reset()
    debugger.message(f"{type(failure.error).__name__}: {failure.error}")
    debugger.interaction(None, _users_part(failure.traceback))


def _users_part(traceback: types.TracebackType | None) -> types.TracebackType | None:
    """Return a traceback without our own frames at its top, unless there are no others."""
    top = traceback
    while top is not None and is_ours(top.tb_frame):
        top = top.tb_next
    return top or traceback


__all__ = ["BodyPdb", "post_mortem"]
