"""Output of a call goes to the cell that made the call, whichever cell runs when it comes.

A notebook's kernel notes the request that each output belongs to by thread, with the latest cell as the fallback; a
call's output comes on whatever thread reads the wire. So a sink is made on the thread that makes the call, where the
request is known, and sets it for the moment of each write. Kernels without that (``set_thread_parent``) are sent the
message as it is.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from epyrpc import results
from epyrpc.jupyter.cells import DISPLAY, Display

if TYPE_CHECKING:
    from collections.abc import Callable


class CellSink:
    """Takes what a call puts out to the cell that made the call.

    Parameters
    ----------
    ip : InteractiveShell
        The notebook's, or the terminal's.
    parent : dict or None
        The request that made the cell run; None where there are no requests (a terminal).
    """

    __slots__ = ("_ip", "parent")

    def __init__(self, ip: Any, parent: Any) -> None:
        self._ip = ip
        self.parent = parent

    def __call__(self, stream: str, text: str) -> None:
        """Write to the cell's standard output or error; any thread."""
        if self._needs_message:
            self._send("stream", {"name": stream, "text": text})
        else:
            self._in_cell(results._write_to_standard_stream, stream, text)

    def show(self, name: str, value: Any) -> None:
        """Show a display, which came as a note; any thread."""
        if name != DISPLAY:
            return
        display = Display(*value)
        if self._needs_message:
            self._send_display(display)
        else:
            self._in_cell(self._publish, display)

    def _publish(self, display: Display) -> None:
        publisher = self._ip.display_pub
        if display.kind.startswith("clear"):
            publisher.clear_output(wait=display.kind == "clear later")
        else:
            update = display.kind == "update"
            publisher.publish(display.data, display.metadata, transient=display.transient, update=update)

    def _in_cell(self, work: Callable[..., object], *args: Any) -> None:
        if self.parent is None or self._ip.get_parent() is self.parent:
            work(*args)
            return
        token = self._ip.set_thread_parent(self.parent)
        try:
            work(*args)
        finally:
            sys.stdout.flush()  # before the request is taken back
            sys.stderr.flush()
            self._ip.reset_thread_parent(token)

    # --- kernels whose shell cannot set the request of a thread

    @property
    def _needs_message(self) -> bool:
        return self.parent is not None and not hasattr(self._ip, "set_thread_parent")

    def _send(self, kind: str, content: dict[str, Any]) -> None:
        kernel = self._ip.kernel
        kernel.session.send(kernel.iopub_socket, kind, content, parent=self.parent)

    def _send_display(self, display: Display) -> None:
        if display.kind.startswith("clear"):
            self._send("clear_output", {"wait": display.kind == "clear later"})
            return
        from ipykernel import jsonutil

        encode: Any = jsonutil  # untyped
        kind = "update_display_data" if display.kind == "update" else "display_data"
        content = {
            "data": encode.encode_images(display.data),
            "metadata": display.metadata,
            "transient": display.transient,
        }
        self._send(kind, encode.json_clean(content))


class SinkMaker:
    """Makes the sinks of calls, `results.make_output_sink`; calls of one cell share one.

    Parameters
    ----------
    ip : InteractiveShell
        Whose cells.
    """

    def __init__(self, ip: Any) -> None:
        self._ip = ip
        has_requests = hasattr(ip, "kernel") and hasattr(ip, "get_parent")
        self._get_parent: Callable[[], Any] | None = ip.get_parent if has_requests else None
        self._last = CellSink(ip, None)

    def __call__(self) -> CellSink:
        """Return the sink for a call that is being made on this thread."""
        last = self._last
        if self._get_parent is None:
            return last
        parent = self._get_parent()
        if last.parent is not parent:
            # Another thread may store its own meanwhile: then one more is made than was necessary.
            last = self._last = CellSink(self._ip, parent)
        return last


_before: Any = None  # what made the sinks when nothing was installed


def install(ip: Any) -> None:
    """Send the output of calls made from now on to their cells."""
    global _before
    if _before is None:
        _before = results.make_output_sink
    results.make_output_sink = SinkMaker(ip)


def uninstall() -> None:
    """Undo `install`; calls that have been made keep their sinks."""
    global _before
    if _before is not None:
        results.make_output_sink = _before
        _before = None


__all__ = ["CellSink", "SinkMaker", "install", "uninstall"]
