"""What a body does with text that does not come through Python's streams: C code's, and that of programs it starts.

Only the bodies of a notebook do this. Descriptors 1 and 2 become pipes that end in the body itself, and what comes out
goes to the call that runs, if exactly one does, else to the body's log. A program started by a handler gets pipes that
are its call's own, so that it is right with any number of calls.

::

    C code, os.system ──▶ fd 1, 2 ═══ pipes ═══▶ ┐                            ┌──▶ the call's output
    subprocess.Popen ──▶ a call's own pipes ════▶ ┼─▶ drain(), under its lock ─┤
                                                  │                            └──▶ the body's log
    called by: the thread "epyrpc-capture" (daemon), when there is something to read;
               a handler's thread before each Python-level write, and before its call is answered

The thread waits a moment before it reads: text is put together, and what a dying process says stays in the pipe. The
head holds the reading ends too, and takes from them what is left when the body has died. What C code says on fd 2
goes to the log in any case, since a crash often says why before it happens; faulthandler writes there directly.

C code that holds the GIL for long has its text shown when it lets go.
"""

from __future__ import annotations

import codecs
import contextlib
import faulthandler
import functools
import logging
import os
import select
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from epyrpc.api.context import DELAYED, ENDED
from epyrpc.results import current

if TYPE_CHECKING:
    from collections.abc import Callable

    from epyrpc.api.context import CurrentCall

_log = logging.getLogger("epyrpc.capture")
GATHER_SECONDS = 0.01
_READ_BYTES = 65536  # all that a pipe holds
_NAMES = {1: "stdout", 2: "stderr"}
_OWN_CALLS = ("_epyrpc.run", "_epyrpc.execute", "_epyrpc.debug")  # of the package's own, those that run a user's code


class Pipes:
    """The pipes that become fd 1 and 2 of a body; made by the head, and pickled only while a process is launched.

    Attributes
    ----------
    reads, writes : tuple of int
        For fd 1 and fd 2; the reading ends do not block.
    """

    def __init__(self, reads: tuple[int, int] | None = None, writes: tuple[int, int] | None = None) -> None:
        if reads is None or writes is None:
            out = os.pipe()
            try:
                err = os.pipe()
            except OSError:
                for fd in out:
                    os.close(fd)
                raise
            reads, writes = (out[0], err[0]), (out[1], err[1])
            for fd in reads:
                os.set_blocking(fd, False)
        self.reads, self.writes = reads, writes

    def close(self) -> None:
        """Close the writing ends, which the body has now."""
        for fd in self.writes:
            os.close(fd)
        self.writes = ()  # type: ignore[assignment]

    def abandon(self) -> None:
        """Close the reading ends too: there is no body."""
        for fd in self.reads:
            os.close(fd)
        self.reads = ()  # type: ignore[assignment]

    def __reduce__(self) -> Any:
        from multiprocessing.reduction import DupFd

        return _arrive, tuple(DupFd(fd) for fd in (*self.reads, *self.writes))


def _arrive(out_read: Any, err_read: Any, out_write: Any, err_write: Any) -> Pipes:
    return Pipes((out_read.detach(), err_read.detach()), (out_write.detach(), err_write.detach()))


class _Source:
    """The reading end of a pipe, and whose text comes out of it."""

    def __init__(self, fd: int, stream: str, call: CurrentCall | None = None) -> None:
        self.fd = fd
        self.stream = stream
        self.call = call  # None: of whichever call runs
        self.decode = codecs.getincrementaldecoder("utf-8")("replace").decode


class Capture:
    """Takes over fd 1 and 2 of this process; there is one.

    Parameters
    ----------
    pipes : Pipes
        What they become.
    dispatcher : Dispatcher
        Knows which calls run.

    Attributes
    ----------
    endings : list of callables
        Each is called with a call that is about to be answered, on its thread.
    """

    # Guarded by _lock: _sources, _pollers[0] and all reading. Re-entrant: a finalizer may print while we read.

    def __init__(self, pipes: Pipes, dispatcher: Any) -> None:
        self.endings: list[Callable[[CurrentCall], object]] = []
        self._dispatcher = dispatcher
        self._lock = threading.RLock()
        self._sources: dict[int, _Source] = {}
        self._pollers = (select.poll(), select.poll())  # of drain(), and of the thread
        self._pipes_of: dict[CurrentCall, dict[str, int]] = {}  # {call: {stream: writing end}}
        self._owner = os.getpid()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        self.log_fd = os.dup(2)
        for read, write, fd in zip(pipes.reads, pipes.writes, (1, 2), strict=True):
            os.dup2(write, fd)
            self._add(_Source(read, _NAMES[fd]))
        pipes.close()
        faulthandler.enable(file=self.log_fd, all_threads=False)  # see `child`
        self._c_library = _CLibrary()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        self._pollers[1].register(self._wake_read, select.POLLIN)
        threading.Thread(target=self._run, name="epyrpc-capture", daemon=True).start()

    def open_log(self) -> Any:
        """Return a text stream that writes to the body's log."""
        return open(os.dup(self.log_fd), "w", buffering=1, encoding="utf-8", errors="backslashreplace")

    # --- reading

    def _run(self) -> None:
        while True:
            for fd, _ in self._pollers[1].poll():
                if fd == self._wake_read:
                    os.read(fd, 4096)
            time.sleep(GATHER_SECONDS)
            try:
                self.drain()
            except Exception:  # of the wire, when the head is going: the next one may be shown all the same
                _log.debug("output of C code or of a program cannot be shown", exc_info=True)

    def drain(self) -> None:
        """Give what can be read now to whom it belongs; any thread, does not wait for more."""
        self._c_library.flush()
        with self._lock:
            for fd, _ in self._pollers[0].poll(0):
                source = self._sources.get(fd)
                if source is not None:
                    self._read(source)

    def _read(self, source: _Source) -> None:
        to_log = source.call is None and source.stream == "stderr"
        copied = self._c_library.copy(source.fd, self.log_fd) if to_log else 0
        try:
            data = os.read(source.fd, copied or _READ_BYTES)
        except BlockingIOError:
            return
        if not data:
            self._remove(source)
            return
        if to_log and not copied:
            self.write_log(data)
        call = source.call if source.call is not None else self._only_call()
        if call is None or call.stage == ENDED:
            if not to_log:
                self.write_log(data)
            return
        text = source.decode(data)
        if text:
            call.write(source.stream, text)

    def _only_call(self) -> CurrentCall | None:
        """Return the call that runs, if it is the only one that could have written."""
        found = [call for call in self._dispatcher.running() if _is_users(call)]
        found += [
            call for call in list(self._dispatcher._calls.values()) if call.stage == DELAYED and call.task is not None
        ]
        return found[0] if len(found) == 1 and found[0].solicited else None

    def write_log(self, data: bytes) -> None:
        """Write to the body's log."""
        left = memoryview(data)
        while left:
            left = left[os.write(self.log_fd, left) :]

    def _add(self, source: _Source) -> None:
        self._sources[source.fd] = source
        for poller in self._pollers:
            poller.register(source.fd, select.POLLIN)

    def _remove(self, source: _Source) -> None:
        del self._sources[source.fd]
        for poller in self._pollers:
            poller.unregister(source.fd)
        os.close(source.fd)

    # --- a call's own pipes

    def pipe_for(self, call: CurrentCall, stream: str) -> int:
        """Return the writing end of the pipe for programs that `call` starts."""
        with self._lock:
            ends = self._pipes_of.setdefault(call, {})
            if stream not in ends:
                read, ends[stream] = os.pipe()
                os.set_blocking(read, False)
                self._add(_Source(read, stream, call))
                with contextlib.suppress(BlockingIOError):  # it has been woken often enough
                    os.write(self._wake_write, b"+")
            return ends[stream]

    def before_reply(self, call: CurrentCall) -> None:
        """Give a call what is its own before it is answered; a program that outlives it writes to the log from then."""
        try:
            for work in self.endings:
                work(call)
            self.drain()
            with self._lock:
                for fd in self._pipes_of.pop(call, {}).values():
                    os.close(fd)
        except Exception:  # the reply matters more than the last line before it
            _log.exception("the last output of %s cannot be shown", call.path)

    def stop_here(self) -> None:
        """In a forked child: the pipes are read by the parent."""
        global _active
        _active = None
        self._dispatcher.before_reply = None


class _CLibrary:
    """C's own standard output, shown by the line, and up to the last character when it matters; and `tee`."""

    def __init__(self) -> None:
        self._flush: Callable[[Any], object] | None = None
        self._pending: Callable[[Any], int] = lambda stream: 1
        self._tee: Callable[..., int] = lambda *args: -1
        try:
            import ctypes

            library = ctypes.CDLL(None)
            self._stream = ctypes.c_void_p.in_dll(library, "__stdoutp" if sys.platform == "darwin" else "stdout")
            library.setvbuf(self._stream, None, 1, 0)  # _IOLBF
            self._flush = library.fflush  # lets go of the GIL: it may wait for room in the pipe
            with contextlib.suppress(AttributeError):  # not glibc: then it is flushed each time
                self._pending = ctypes.PyDLL(None).__fpending
            with contextlib.suppress(AttributeError):  # not Linux
                self._tee = library.tee
        except (ImportError, OSError, AttributeError, ValueError) as exc:  # what C has gathered shows when it likes
            _log.debug("C's standard output cannot be flushed: %s", exc)

    def flush(self) -> None:
        """Write out what C has gathered."""
        if self._flush is not None and self._pending(self._stream):
            self._flush(self._stream)

    def copy(self, source: int, target: int) -> int:
        """Copy what is in a pipe into another and leave it there; return how many bytes, 0 where that cannot be done.

        A process that dies between reading and writing would take the text with it.
        """
        return max(0, int(self._tee(source, target, _READ_BYTES, 2)))  # SPLICE_F_NONBLOCK


def _is_users(call: CurrentCall) -> bool:
    return not call.path.startswith("_epyrpc.") or call.path in _OWN_CALLS


# --- this process's

_active: Capture | None = None


def active() -> Capture | None:
    """Return this process's capture, if it has one."""
    return _active


def start(pipes: Pipes, dispatcher: Any) -> Capture:
    """Capture this process's output from now on; standard streams that Python code has behind ours become the log."""
    global _active
    _active = made = Capture(pipes, dispatcher)
    for name in ("__stdout__", "__stderr__"):
        with contextlib.suppress(AttributeError, ValueError):  # no such stream
            getattr(sys, name).reconfigure(line_buffering=True)  # it writes to fd 1 or 2, and so into the pipes
    sys.stdout, sys.stderr = made.open_log(), made.open_log()
    dispatcher.before_reply = made.before_reply
    _wrap_popen()
    os.register_at_fork(after_in_child=made.stop_here)
    return made


def _wrap_popen() -> None:
    """Let programs whose output is not redirected write to the call that starts them."""
    original = subprocess.Popen.__init__

    @functools.wraps(original)
    def __init__(
        self: Any,
        args: Any,
        bufsize: int = -1,
        executable: Any = None,
        stdin: Any = None,
        stdout: Any = None,
        stderr: Any = None,
        *more: Any,
        **options: Any,
    ) -> None:
        call = current.get()
        capture = _active
        if capture is not None and call is not None and call.solicited and call.stage != ENDED:
            capture.drain()  # what C code has said before the program does
            stdout = _redirect(capture, call, stdout, 1)
            stderr = _redirect(capture, call, stderr, 2)
        original(self, args, bufsize, executable, stdin, stdout, stderr, *more, **options)

    wait_for = subprocess.Popen.wait

    @functools.wraps(wait_for)
    def wait(self: Any, timeout: float | None = None) -> int:
        code = wait_for(self, timeout)
        if _active is not None and current.get() is not None:
            _active.drain()  # what it has said comes before whatever is said from now on
        return code

    changed: Any = subprocess.Popen
    changed.__init__, changed.wait = __init__, wait


def _redirect(capture: Capture, call: CurrentCall, given: Any, number: int) -> Any:
    """Return what a program is to get for fd `number`, when it was `given` something."""
    if given is None:
        return capture.pipe_for(call, _NAMES[number])
    if given in (subprocess.PIPE, subprocess.DEVNULL, subprocess.STDOUT):
        return given
    try:
        fd = given if isinstance(given, int) else given.fileno()
    except (AttributeError, OSError, ValueError):  # Popen will say what is wrong with it
        return given
    return capture.pipe_for(call, _NAMES[fd]) if fd in _NAMES else given


__all__ = ["Capture", "Pipes", "active", "start"]
