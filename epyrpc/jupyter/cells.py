"""What runs in a body for a ``%%body`` cell: an IPython shell whose namespace is the body's ``__main__``.

`run_cell` is called by reference through the body's own verbs. IPython is imported, and the shell made, at the first
cell (some 60 ms more than the import). Cells may run at once on several handler workers: only making the shell and
drawing a traceback are one at a time.
"""

from __future__ import annotations

import ast
import inspect
import linecache
import sys
import threading
import types
from pathlib import Path
from typing import Any, NamedTuple

from epyrpc.api.context import CallCancelled, current_call
from epyrpc.bodies import bootstrap, capture, completing
from epyrpc.codec import RemoteTraceback
from epyrpc.errors import ApiError
from epyrpc.interrupts import shielded
from epyrpc.outputs import DISPLAY
from epyrpc.results import current

_HOUSE = str(Path(bootstrap.__file__).parents[1]) + "/"  # where our own frames are
_STANDARD = str(Path(threading.__file__).parent) + "/"


class Cell(NamedTuple):
    """A cell on its way to a body.

    Attributes
    ----------
    source : str
        Its text below the ``%%body`` line.
    number : int
        The notebook's number of the cell, for its tracebacks.
    first_line : int
        The line of the notebook's cell that `source` begins on.
    """

    source: str
    number: int
    first_line: int = 2

    @property
    def filename(self) -> str:
        """What the code is called where Python asks for a file."""
        return f"<cell In[{self.number}]>"


def current_number(shell: Any) -> int:
    """Return the number of the cell that a notebook is running.

    Its ``execution_count`` is that in IPython 8, and the next cell's in later versions of 9; the display hook knows.
    """
    return max(1, int(shell.displayhook.prompt_count))


class Display(NamedTuple):
    """A rich display on its way to the head.

    Attributes
    ----------
    data, metadata, transient : dict
        As a ``display_data`` message has them; `data` is ``{MIME type: value}``.
    kind : {"display", "update", "clear", "clear later"}
        A new display; another content for the one whose ``display_id`` is in `transient`; an empty cell, now or at the
        next output.
    """

    data: dict[str, Any]
    metadata: dict[str, Any]
    transient: dict[str, Any]
    kind: str = "display"


class Rendered:
    """The traceback of an exception as its own process drew it; IPython shows that in place of one made here.

    It travels on the exception, as ``_render_traceback_``, which IPython asks for.
    """

    def __init__(self, lines: list[str]) -> None:
        self.lines = lines

    def __call__(self) -> list[str]:
        """Return the lines."""
        return self.lines


def run_cell(cell: Cell) -> None:
    """Run a cell in this body and send what it displays to the caller.

    The value of its last expression is displayed, not returned: it may be large, and pulled by name when it is wanted.

    Raises
    ------
    BaseException
        Whatever the cell raises, with the traceback as this body's IPython draws it.
    """
    shell = get_shell()
    try:
        shell.events.trigger("pre_execute")
        _execute(shell, cell)
    except CallCancelled:
        raise
    except BaseException as exc:  # whatever it is, it is the cell's, and is raised again
        _draw_traceback(shell, exc, cell)
        raise
    finally:
        shell.events.trigger("post_execute")  # shows the figures that are open, and closes them


def _execute(shell: Any, cell: Cell) -> None:
    filename = cell.filename
    code = shell.transform_cell(cell.source)  # which takes blank lines off its top
    text = "\n" * (cell.first_line - 1 + _blank_lines(cell.source)) + code  # the numbers of the notebook's cell
    linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
    shell.compile._filename_map[filename] = cell.number  # then tracebacks say "Cell In[3], line 2"
    tree = ast.parse(text, filename)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    for part in _parts(tree):
        _run_code(part, filename, "exec", shell.user_ns)
    if isinstance(last, ast.Expr):
        value = _run_code(ast.Expression(last.value), filename, "eval", shell.user_ns)
        if value is not None and not shell.displayhook.semicolon_at_end_of_expression(cell.source):
            _remember(shell.user_ns, value)
            data, metadata = shell.display_formatter.format(value)
            if data:
                shell.display_pub.publish(data, metadata)


def _blank_lines(source: str) -> int:
    """Return how many lines come before the first that says something."""
    lines = source.splitlines()
    return next((number for number, line in enumerate(lines) if line.strip()), 0)


_shown: Any = ""  # what `_` was set to last


def _remember(namespace: dict[str, Any], value: Any) -> None:
    """Keep the last three values that were displayed as ``_``, ``__`` and ``___``, unless ``_`` is the user's own."""
    global _shown
    if namespace.get("_", "") is _shown:
        namespace["___"], namespace["__"] = namespace.get("__", ""), namespace.get("_", "")
        namespace["_"] = _shown = value


_LOOP_NAMES = frozenset({"create_task", "ensure_future", "get_running_loop", "current_task", "all_tasks"})


def _needs_loop(node: ast.AST) -> bool:
    """Whether code awaits at its top level, or calls there by name what works only where an event loop runs."""
    if isinstance(node, (ast.Await, ast.AsyncFor, ast.AsyncWith)) or getattr(node, "is_async", False):
        return True
    if getattr(node, "id", None) in _LOOP_NAMES or getattr(node, "attr", None) in _LOOP_NAMES:
        return True
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
        return False
    return any(_needs_loop(child) for child in ast.iter_child_nodes(node))


def _parts(tree: ast.Module) -> list[ast.Module]:
    """Return a cell's statements in as few parts as possible, those for the event loop each by itself.

    All others stay on the handler's thread, where they can be interrupted and keep no async handler waiting.
    """
    if not _needs_loop(tree):
        return [tree]
    futures = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module == "__future__"]
    parts: list[list[ast.stmt]] = []
    apart = True
    for node in tree.body:
        before, apart = apart, _needs_loop(node)
        if before or apart:
            parts.append([])
        parts[-1].append(node)
    return [ast.Module([*futures, *part], []) for part in parts]


def _run_code(tree: ast.AST, filename: str, mode: str, namespace: dict[str, Any]) -> Any:
    """Run code; what awaits runs on the body's event loop, as its async handlers do, and this thread waits."""
    code: types.CodeType = compile(tree, filename, mode, ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, True)  # type: ignore[call-overload]
    if not _needs_loop(tree):
        return eval(code, namespace)  # also runs code that was compiled to be executed

    async def run_it() -> Any:
        value = eval(code, namespace)
        return await value if code.co_flags & inspect.CO_COROUTINE else value

    return current_call().dispatcher.run_on_loop(run_it())


def _draw_traceback(shell: Any, exc: BaseException, cell: Cell) -> None:
    """Let the exception carry its traceback as this shell draws it, from the cell's first frame on."""
    top = exc.__traceback__
    while top is not None and top.tb_frame.f_code.co_filename != cell.filename:
        top = top.tb_next
    top = _without_our_end(top)
    exc.with_traceback(top)
    with _drawing:  # the tools keep the traceback that they draw in attributes
        if top is None and isinstance(exc, SyntaxError):
            lines = shell.SyntaxTB.structured_traceback(type(exc), exc, [])
        else:
            lines = _draw_frames(shell, exc, top)
    vars(exc)["_render_traceback_"] = Rendered(lines)  # not setattr, which a frozen class refuses


def _draw_frames(shell: Any, exc: BaseException, top: types.TracebackType | None) -> list[str]:
    """Draw a traceback; of what the notebook has raised, only the notebook's own frames."""
    cause = exc.__cause__
    if not isinstance(cause, RemoteTraceback):
        return list(shell.InteractiveTB.structured_traceback(type(exc), exc, top, tb_offset=0))
    from epyrpc.jupyter.tracebacks import draw_remote

    link: Any = vars(BaseException)["__cause__"]  # not setattr, which a frozen class refuses
    link.__set__(exc, None)
    try:
        lines = list(shell.InteractiveTB.structured_traceback(type(exc), exc, top, tb_offset=0))
    finally:
        link.__set__(exc, cause)
    remote = list(draw_remote(shell, cause))
    return [*lines[:-1], *(["in the notebook:", *remote, ""] if remote else []), *lines[-1:]]


def _without_our_end(traceback: types.TracebackType | None) -> types.TracebackType | None:
    """Return a traceback that ends where the cell's code, or a library of its own, called us."""
    frames = []
    while traceback is not None:
        frames.append(traceback)
        traceback = traceback.tb_next
    end = len(frames)
    for index in range(len(frames) - 1, -1, -1):
        file = frames[index].tb_frame.f_code.co_filename
        if file.startswith(_HOUSE):
            end = index
        elif not file.startswith(_STANDARD) or "site-packages" in file:
            break
    rest: types.TracebackType | None = None
    for frame in reversed(frames[:end]):
        rest = types.TracebackType(rest, frame.tb_frame, frame.tb_lasti, frame.tb_lineno)
    return rest


# --- the shell

_shell: Any = None
_making = threading.Lock()
_drawing = threading.Lock()


def get_shell() -> Any:
    """Return this body's IPython shell; made when it is first asked for."""
    return _shell if _shell is not None else _make_shell_once()


@shielded  # an interrupt in the midst of it would leave modules of IPython behind that cannot be imported again
def _make_shell_once() -> Any:
    global _shell
    with _making:
        if _shell is None:
            _shell = _make_shell()
        return _shell


def _make_shell() -> Any:
    from IPython.core import page
    from IPython.core.displaypub import DisplayPublisher
    from IPython.core.error import UsageError
    from IPython.core.interactiveshell import InteractiveShell
    from traitlets import Type
    from traitlets.config import Config

    from epyrpc.bodies.debugging import post_mortem

    class BodyPublisher(DisplayPublisher):
        """Sends displays to the caller of the call that makes them."""

        def publish(
            self,
            data: dict[str, Any],
            metadata: dict[str, Any] | None = None,
            *args: Any,
            transient: dict[str, Any] | None = None,
            update: bool = False,
            **kwargs: Any,
        ) -> None:
            send(Display(data, metadata or {}, transient or {}, "update" if update else "display"))

        def clear_output(self, wait: bool = False) -> None:
            send(Display({}, {}, {}, "clear later" if wait else "clear"))

    class BodyShell(InteractiveShell):
        """IPython in a body: no history, no prompts, displays go to the head."""

        display_pub_class = Type(BodyPublisher)

        def ask_exit(self) -> None:
            """Say what ``exit`` cannot do here."""
            print("The body goes on; %body stop, in the notebook, ends it.")  # noqa: T201 - a reply to who typed it

        def debugger(self, force: bool = False) -> None:
            """Do what ``%debug`` does: look at what this body raised last."""
            post_mortem()

        def enable_gui(self, gui: str | None = None) -> None:
            """Take ``%matplotlib inline``, which needs no event loop, and refuse what needs one."""
            if gui not in (None, "inline"):
                raise UsageError(f"a body has no screen for {gui}; %matplotlib inline shows figures in the notebook")

    settings = Config()
    settings.HistoryManager.enabled = False
    settings.Completer.use_jedi = False  # it reads code, and is slow; here the objects themselves are at hand
    streams = sys.stdout, sys.stderr
    shell: Any = BodyShell.instance(config=settings, user_module=sys.modules["__main__"])
    sys.stdout, sys.stderr = streams
    pager: Any = page  # untyped
    shell.set_hook("show_in_pager", pager.as_hook(pager.display_page), 90)  # help is displayed: no pager runs here
    bootstrap.hidden_names.update(shell.user_ns_hidden)

    def body(line: str, cell: str = "") -> None:
        """Say where ``%body`` works."""
        raise UsageError("%body belongs to the notebook: give it a cell of its own, without %%body on top")

    shell.register_magic_function(body, "line_cell")
    asking = threading.Lock()

    def complete(line: str, column: int) -> tuple[str, list[str]]:
        with asking:
            fragment, found = shell.Completer.complete(line_buffer=line, cursor_pos=column)
        return fragment, list(found)

    def describe(name: str, detail_level: int) -> dict[str, str]:
        with asking:
            try:
                return dict(shell.object_inspect_mime(name, detail_level=detail_level))
            except KeyError:  # there is no such name
                return {}

    completing.by_shell, completing.described_by_shell = complete, describe
    return shell


def send(display: Display) -> None:
    """Send a display to the caller, behind what the call has printed; outside of calls its text goes to the log."""
    call = current.get()
    if call is None or not call.solicited or call.stage == "ended":
        text = display.data.get("text/plain")
        if text:
            print(text)  # noqa: T201 - to this body's log
        return
    captured = capture.active()
    if captured is not None:
        captured.drain()
    call.flush_output()
    call._send_note(DISPLAY, tuple(display))


def refuse_thread(name: str) -> ApiError:
    """Return the error for a cell that is to run in a body without a process."""
    return ApiError(
        f"%%body needs a process of its own, and {name} is a thread of this one; spawn it with --start-method spawn"
    )


__all__ = ["DISPLAY", "Cell", "Display", "Rendered", "current_number", "get_shell", "run_cell", "send"]
