"""How errors look in a notebook: the cell's own lines, then the remote ones, and nothing of the machinery between them.

IPython asks an exception for ``_render_traceback_``. Exceptions that come from a ``%%body`` cell carry what the body
drew; those of other handlers get a function that draws both ends when they are shown; errors of ours leave their own
frames out.
"""

from __future__ import annotations

import linecache
import re
import sys
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any

from IPython import get_ipython

from epyrpc import codec, results
from epyrpc.bodies.registry import bodies
from epyrpc.errors import EpyrpcError
from epyrpc.jupyter.cells import Rendered
from epyrpc.results import STILL_RUNNING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from epyrpc.results import AsyncResult

_HOUSE = str(Path(codec.__file__).parent) + "/"  # where our own frames are
STOPPED_SECONDS = 2.5  # how long an interrupted cell waits to hear how it was stopped; the body gives up after 2
CONTEXT_LINES = 2  # shown around the line of a remote frame
_GREEN, _CYAN, _PLAIN = "\x1b[32m", "\x1b[36m", "\x1b[39m"


class Message:
    """How an error is drawn whose one line says all, or another text in its place."""

    def __init__(self, exc: BaseException, text: str = "") -> None:
        self._text = f"{type(exc).__name__}: {text or exc}"

    def __call__(self) -> list[str]:
        """Return the lines."""
        return self._text.splitlines()


def is_drawn(exc: BaseException) -> bool:
    """Whether an exception has a drawing of its own, made where it was raised."""
    return isinstance(vars(exc).get("_render_traceback_"), Rendered)


def draw_as_message(exc: BaseException, text: str = "") -> BaseException:
    """Let IPython show `exc` as its message, or `text`, alone, unless it has been drawn already."""
    if not isinstance(vars(exc).get("_render_traceback_"), (Rendered, Message)):
        vars(exc)["_render_traceback_"] = Message(exc, text)
    return exc


class Interrupted:
    """How an interrupt of a wait is drawn: with what became of the call, which is known only a moment later."""

    def __init__(self, result: AsyncResult) -> None:
        self._result = result

    def __call__(self) -> list[str]:
        """Return the lines; waits until the body has said how the call was stopped, or might have."""
        exc = sys.exc_info()[1]
        if exc is None:
            return []
        exc.args = (how_stopped(self._result, f"{self._result.path} ({self._result.id})"),)
        return draw(exc)


def how_stopped(result: AsyncResult, what: str, seconds: float = STOPPED_SECONDS) -> str:
    """Say how `what`, a call that was interrupted, was stopped; waits a moment to hear it."""
    how, target = result.wait_stopped(seconds, last=seconds > STOPPED_SECONDS), result.target
    if how in (None, STILL_RUNNING):
        force = f"; %body restart {target} ends it by force" if target in bodies() else ""
        return f"{target} was told to stop {what}, which still runs{force}"
    if how == "killed":
        return f"{target} was killed to stop {what}, and started again; its variables are lost"
    steps = {"never started": "had not begun, and will not", "cooperative": "stopped when asked to"}
    return f"{what} {steps.get(how or '', 'was stopped by an interrupt')}; {target} and its variables live on"


def draw_current() -> list[str]:
    """Draw the exception that is being handled: what an exception that has arrived carries as ``_render_traceback_``.

    A function of the module, so that such an exception can travel on; it does not hold the exception: no cycle.
    """
    exc = sys.exc_info()[1]
    return draw(exc) if exc is not None else []


def draw(exc: BaseException) -> list[str]:
    """Return the lines of a traceback: the user's frames here, the remote ones, the message."""
    ip = get_ipython()
    if ip is None:  # asked for by something else than IPython's own display
        return Message(exc)()
    stand_in = type(type(exc).__name__, (Exception,), {"__module__": "builtins"})(str(exc))  # without cause and context
    lines = ip.InteractiveTB.structured_traceback(
        type(stand_in), stand_in, _user_frames(exc.__traceback__), tb_offset=0
    )
    cause = exc.__cause__
    remote = list(draw_remote(ip, cause)) if isinstance(cause, codec.RemoteTraceback) else []
    return [*lines[:-1], *(["in the body:", *remote, ""] if remote else []), *lines[-1:]]


def _user_frames(tb: types.TracebackType | None) -> types.TracebackType | None:
    """Return a traceback of the frames before the first one of ours, without IPython's at its top."""
    frames: list[types.TracebackType] = []
    while tb is not None:
        module = str(tb.tb_frame.f_globals.get("__name__", "")).partition(".")[0]
        if module == "epyrpc":
            break
        if frames or module not in ("IPython", "ipykernel"):
            frames.append(tb)
        tb = tb.tb_next
    top: types.TracebackType | None = None
    for frame in reversed(frames):
        top = types.TracebackType(top, frame.tb_frame, frame.tb_lasti, frame.tb_lineno)
    return top


def draw_remote(ip: Any, cause: codec.RemoteTraceback) -> Iterator[str]:
    """Yield the lines of what the other end has told of its frames; none when they are all of the machinery."""
    files = re.findall(r'^  File "(.+?)"', cause.text, re.MULTILINE)
    if all(file.startswith(_HOUSE) or "/cloudpickle/" in file for file in files):
        return
    green, cyan, plain = ("", "", "") if str(ip.colors).lower() == "nocolor" else (_GREEN, _CYAN, _PLAIN)
    if cause.text.count("Traceback (most recent call last)") > 1:
        yield str(cause).strip("\n")  # of several exceptions, in the words of Python
        return
    frames = [frame for frame in cause.frames if not frame[0].startswith(_HOUSE)]
    for index, (file, number, function, source) in enumerate(frames):
        if index:
            yield ""
        known = ip.compile.format_code_name(file)
        place = f"{known[0]} {known[1]}" if known else f"File {file}"
        yield f"{cyan}{place}{plain}, line {green}{number}{plain}, in {cyan}{function}{plain}"
        yield from _source_lines(file, number, source, green, plain)


def _source_lines(file: str, number: int, source: str, green: str, plain: str) -> Iterator[str]:
    """Yield a line with its neighbours, where this process knows the same file."""
    lines = linecache.getlines(file)
    here = lines[number - 1].strip() if 0 < number <= len(lines) else ""
    if not here or (source and source.strip() != here):
        if source:
            yield f"{green}----> {number}{plain} {source.strip()}"
        return
    last = min(len(lines), number + CONTEXT_LINES)
    while last > number and not lines[last - 1].strip():
        last -= 1
    for n in range(max(1, number - CONTEXT_LINES), last + 1):
        mark = f"{'-' * (5 - len(str(n)))}> " if n == number else " " * (7 - len(str(n)))
        yield f"{green}{mark}{n}{plain} {lines[n - 1].rstrip()}"


def _arrived(exc: BaseException) -> None:
    """Have an exception that has arrived drawn by `draw_current`, unless it brought its drawing."""
    if not is_drawn(exc):
        vars(exc)["_render_traceback_"] = draw_current  # not setattr, which a frozen class refuses


def _left(result: AsyncResult | None, exc: BaseException) -> None:
    """Have an exception that one of our waits has raised drawn without our frames."""
    if result is None:  # unless it is known better
        vars(exc).setdefault("_render_traceback_", draw_current)
    elif not is_drawn(exc):
        interrupted = isinstance(exc, KeyboardInterrupt)
        vars(exc)["_render_traceback_"] = Interrupted(result) if interrupted else draw_current


def install() -> None:
    """Draw what arrives from now on, and every error of ours."""
    results.on_raise = _left
    codec.on_error_decoded = _arrived
    EpyrpcError._render_traceback_ = draw  # type: ignore[attr-defined]  # found as a method


def uninstall() -> None:
    """Undo `install`."""
    codec.on_error_decoded = results.on_raise = None
    if "_render_traceback_" in vars(EpyrpcError):
        del EpyrpcError._render_traceback_  # type: ignore[attr-defined]


__all__ = [
    "Message",
    "draw",
    "draw_as_message",
    "draw_current",
    "draw_remote",
    "how_stopped",
    "install",
    "is_drawn",
    "uninstall",
]
