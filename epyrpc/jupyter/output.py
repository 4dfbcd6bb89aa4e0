"""Output of a call goes to the cell that made the call, whichever cell runs when it comes.

A notebook's kernel notes the request that each output belongs to by thread, with the latest cell as the fallback; a
call's output comes on whatever thread reads the wire. So a sink is made on the thread that makes the call, where the
request is known, and what comes later is put out in its name. Three kinds of kernels are told apart by what they have:

- ``set_thread_parent`` (ipykernel 7.1 and later) sets the request of a thread;
- before, the streams keep it in context variables, and 7.0 the display publisher too: those are set;
- a display publisher without one (6.x) takes hooks of a thread, which write the request into each message.

In a terminal there are no requests, and everything is printed.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from contextvars import ContextVar
from time import monotonic
from typing import TYPE_CHECKING, Any

from epyrpc import results
from epyrpc.bodies import life, pool_progress
from epyrpc.jupyter import rich
from epyrpc.jupyter.ancestry import straighten
from epyrpc.jupyter.cells import DISPLAY, Display
from epyrpc.jupyter.publisher import Publisher, Queue, Shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from epyrpc.jupyter.publisher import Budget

HURRY_SECONDS = 0.05  # between two messages of text that a waiting cell writes; what comes meanwhile is put together
# The cell in whose name this thread puts out, for kernels that cannot be asked.
_entered: ContextVar[CellSink | None] = ContextVar("epyrpc_cell", default=None)


class CellSink:
    """Takes what a call puts out to the cell that made the call.

    Parameters
    ----------
    ip : InteractiveShell
        The notebook's, or the terminal's.
    parent : dict or None
        The request that made the cell run; None where there are no requests (a terminal).
    publisher : Publisher
        Who brings it there.
    """

    __slots__ = ("_hurried", "_ip", "_publisher", "parent", "queue")

    def __init__(self, ip: Any, parent: Any, publisher: Publisher) -> None:
        self._ip = ip
        self._publisher = publisher
        self.parent = parent
        self.queue = Queue()
        self._hurried = 0.0

    def __call__(self, stream: str, text: str) -> None:
        """Write to the cell's standard output or error, soon; any thread."""
        if self.parent is None:
            results._write_to_standard_stream(stream, text)
        else:
            self._publisher.put(self, stream, text)

    def show(self, name: str, value: Any) -> None:
        """Show a display, which came as a note, soon; any thread."""
        if name != DISPLAY:
            return
        display = Display(*value)
        if self.parent is None:
            _flush_streams()
            self._publish(display)
            return
        clears = {"clear": "now", "clear later": "later"}.get(display.kind, "")
        replaces = display.transient.get("display_id") if display.kind == "update" else None
        self._publisher.put_display(self, Shown(display, _size(display.data), replaces, clears))

    def flush(self) -> None:
        """Return when everything that came so far is in the cell."""
        if self.parent is not None:
            self._publisher.flush(self)

    def run(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Call `function`; what it prints and displays lands in the cell."""
        with self.entered():
            return function(*args, **kwargs)

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Let what this thread, or task, puts out in the block land in the cell."""
        if self.parent is None:
            yield
            return
        leave = self._enter()
        try:
            yield
        finally:
            if not hasattr(sys.stdout, "_buffers"):  # else the stream keeps text by request, and sends it soon
                _flush_streams()  # before the request is taken back
            leave()

    def _enter(self) -> Callable[[], None]:
        """Set the request of this thread; return what undoes that."""
        ip, parent = self._ip, self.parent
        mark = _entered.set(self)
        if hasattr(ip, "set_thread_parent"):
            token = ip.set_thread_parent(parent)

            def leave() -> None:
                ip.reset_thread_parent(token)
                _entered.reset(mark)

            return leave
        undo: list[Callable[[], object]] = [lambda: _entered.reset(mark)]
        for part in (ip, getattr(ip, "displayhook", None), ip.display_pub, sys.stdout, sys.stderr):
            variable = getattr(part, "_parent_header", None)
            if isinstance(variable, ContextVar):
                token = variable.set(parent if part is ip else _header(parent))
                undo.append(_Reset(variable, token))
            elif part is ip.display_pub and hasattr(part, "register_hook"):
                hook = self._put_request_into
                part.register_hook(hook)
                undo.append(_Unhook(part, hook))

        def leave_all() -> None:
            for work in undo:
                work()

        return leave_all

    def _put_request_into(self, message: dict[str, Any]) -> dict[str, Any]:
        """Change the request that a display belongs to."""
        message["parent_header"] = _header(self.parent)
        return message

    # --- for the publisher

    @property
    def is_here(self) -> bool:
        """Whether the calling thread is the one that runs the cell, so that what it writes is in its place."""
        if threading.current_thread() is not threading.main_thread():
            return False  # of another thread the kernel may only guess the cell: the latest
        return self._ip.get_parent() is self.parent

    def write(self, stream: str, text: str, budget: Budget) -> None:
        """Write text where the cell's prints go; only where it `is_here`.

        The kernel sends its two streams each by itself, and changing from one to the other in order takes messages:
        where the budget has no place for them, each stream keeps its own order, as with a cell's own prints.
        """
        target, other = _streams(stream)
        if _count(other) and budget.take_if_free():
            self._flush_early(other, budget)
        if target is not None:
            target.write(text)

    def hurry(self, stream: str, budget: Budget) -> None:
        """Have what was written sent at once, if that is due and there is a place for it; else it is sent soon."""
        target, _ = _streams(stream)
        now = monotonic()
        if (stream == "stderr" or now - self._hurried >= HURRY_SECONDS) and _count(target) and budget.take_if_free():
            self._hurried = now
            self._flush_early(target, budget)

    @staticmethod
    def _flush_early(target: Any, budget: Budget) -> None:
        target.flush()
        budget.charge(1)  # the kernel's own timer still runs, and sends what comes until then

    def publish_text(self, stream: str, text: str, budget: Budget) -> None:
        """Send text, which has its place; other messages that this takes are charged to the budget."""
        if _is_redirected() and self._is_latest:
            self._write_now(stream, text, budget)
        elif self._needs_message or _is_redirected():
            self._send("stream", {"name": stream, "text": text}, budget)
        else:
            with self.entered():
                self._write_now(stream, text, budget)

    @staticmethod
    def _write_now(stream: str, text: str, budget: Budget) -> None:
        target, other = _streams(stream)
        if other is not None:
            budget.charge(_count(other))
            other.flush()  # each of the two is sent by itself: this keeps their order
        if target is not None:
            target.write(text)
            budget.charge(max(0, _count(target) - 1))  # of other cells
            target.flush()

    def publish_display(self, display: Display, budget: Budget) -> None:
        """Send a display, which has its place; other messages that this takes are charged to the budget."""
        if _is_redirected() and self._is_latest:
            self._publish(display)
        elif self._needs_message or _is_redirected():
            self._send_display(display, budget)
        else:
            with self.entered():
                _flush_streams(budget)
                self._publish(display)

    def _publish(self, display: Display) -> None:
        publisher = self._ip.display_pub
        if display.kind.startswith("clear"):
            publisher.clear_output(wait=display.kind == "clear later")
        else:
            update = display.kind == "update"
            publisher.publish(display.data, display.metadata, transient=display.transient, update=update)

    @property
    def _is_latest(self) -> bool:
        """Whether no cell has been run since this one."""
        try:
            return self._ip.get_parent() is self.parent
        except LookupError:  # a thread under ipykernel 7.0, which does not know; its streams do
            return bool(getattr(_kernels_stdout, "_parent_header_global", None) == _header(self.parent))

    # --- kernels whose shell cannot set the request of a thread

    @property
    def _needs_message(self) -> bool:
        return self.parent is not None and not hasattr(self._ip, "set_thread_parent")

    def _send(self, kind: str, content: dict[str, Any], budget: Budget) -> None:
        _flush_streams(budget)  # what the cell itself has printed before
        kernel = self._ip.kernel
        kernel.session.send(kernel.iopub_socket, kind, content, parent=self.parent)

    def _send_display(self, display: Display, budget: Budget) -> None:
        if display.kind.startswith("clear"):
            self._send("clear_output", {"wait": display.kind == "clear later"}, budget)
            return
        from ipykernel import jsonutil

        encode: Any = jsonutil  # untyped
        kind = "update_display_data" if display.kind == "update" else "display_data"
        content = {
            "data": encode.encode_images(display.data),
            "metadata": display.metadata,
            "transient": display.transient,
        }
        self._send(kind, encode.json_clean(content), budget)


class _Reset:
    """Takes back what a context variable was set to."""

    def __init__(self, variable: ContextVar[Any], token: Any) -> None:
        self._variable, self._token = variable, token

    def __call__(self) -> None:
        self._variable.reset(self._token)


class _Unhook:
    """Takes back a hook of a display publisher."""

    def __init__(self, publisher: Any, hook: Any) -> None:
        self._publisher, self._hook = publisher, hook

    def __call__(self) -> None:
        self._publisher.unregister_hook(self._hook)


def _header(parent: Any) -> Any:
    return parent.get("header", parent) if isinstance(parent, dict) else parent


def _is_redirected() -> bool:
    """Whether a cell, by ``%%capture`` say, gets what is printed in place of the front end."""
    return not hasattr(sys.stdout, "set_parent")


def _flush_streams(budget: Budget | None = None) -> None:
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            if budget is not None:
                budget.charge(_count(stream))
            stream.flush()


def _streams(name: str) -> tuple[Any, Any]:
    """Return the standard stream of a name, and the other one; None under pythonw and in some embeddings."""
    return (sys.stderr, sys.stdout) if name == "stderr" else (sys.stdout, sys.stderr)


def _count(stream: Any) -> int:
    """Return how many messages flushing a stream would take: a kernel's streams gather text by cell."""
    return 0 if stream is None else len(getattr(stream, "_buffers", (None,)))


def _size(data: dict[str, Any]) -> int:
    return 1000 + sum(len(value) for value in data.values() if isinstance(value, (str, bytes)))


class SinkMaker:
    """Makes the sinks of calls, `results.make_output_sink`; calls of one cell share one.

    Parameters
    ----------
    ip : InteractiveShell
        Whose cells.
    """

    def __init__(self, ip: Any) -> None:
        self._ip = ip
        self.publisher = Publisher()
        has_requests = hasattr(ip, "kernel") and hasattr(ip, "get_parent")
        self._get_parent: Callable[[], Any] | None = None
        if has_requests:
            self._get_parent = ip.get_parent if hasattr(ip, "set_thread_parent") else self._find_parent
        self._last = CellSink(ip, None, self.publisher)

    def __call__(self) -> CellSink:
        """Return the sink for a call that is being made on this thread."""
        last = self._last
        if self._get_parent is None:
            return last
        parent = self._get_parent()
        if last.parent is not parent:
            # Another thread may store its own meanwhile: then one more is made than was necessary.
            last = self._last = CellSink(self._ip, parent, self.publisher)
        return last

    def _find_parent(self) -> Any:
        """Return the request of this thread where the shell knows only that of the latest cell, or not even that."""
        sink = _entered.get()
        if sink is not None:
            return sink.parent
        try:
            return self._ip.get_parent()
        except LookupError:  # a thread of the user's, under ipykernel 7.0; the streams do know
            return {"header": getattr(_kernels_stdout, "parent_header", {})}


_kernels_stdout: Any = None  # as it was when the extension was loaded
_before: Any = None  # what made the sinks when nothing was installed


def install(ip: Any) -> None:
    """Send the output of calls made from now on to their cells.

    Bodies spawned from now on also send what C code and programs write, and rich displays of any handler.
    """
    global _before, _kernels_stdout
    if _before is None:
        _before = results.make_output_sink
    if hasattr(sys.stdout, "parent_header"):
        _kernels_stdout = sys.stdout
    straighten(sys.stdout, sys.stderr)
    results.make_output_sink = SinkMaker(ip)
    life.prepare_for_notebook = rich.prepare
    pool_progress.default_stream = lambda: sys.stdout if hasattr(ip, "kernel") else sys.stderr


def uninstall() -> None:
    """Undo `install`; calls that have been made keep their sinks."""
    global _before
    if _before is not None:
        results.make_output_sink = _before
        life.prepare_for_notebook = None
        pool_progress.default_stream = lambda: sys.stderr
        _before = None


def _forget_after_fork() -> None:
    """In a forked child: the publisher's thread is not here, and its locks may be held by threads that are not."""
    maker = results.make_output_sink
    if isinstance(maker, SinkMaker):
        results.make_output_sink = SinkMaker(maker._ip)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)

__all__ = ["CellSink", "SinkMaker", "install", "uninstall"]
