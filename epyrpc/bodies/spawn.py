"""Start the operating-system process of a body; nothing here knows what the body will do.

`multiprocessing` does the pickling and the child's boot (`multiprocessing.spawn`), because it alone knows how its own
connections and queues travel. How the process is made is ours, for its `start()` would import the user's main module
again, leave the child in the notebook's process group and join it when the head exits. Here is the head's side; what
travels is packed in `baggage`, the process is made in `helpers`, and what it does before the target runs is in `child`.

::

    head                                                        body
    ────                                                        ────
    any thread: launch()
      pickles target and arguments, noting descriptors
      │ job                                  exec, or the fork server forks
      ▼                                    ┌──────────────────────────────────▶ main thread: multiprocessing's boot
    thread "epyrpc-launcher", one for ever ┘                                     BodyProcess.run: prepare_child,
      starts the resource tracker, the fork server, bodies                       fresh_main, load, target(*args)
      ▲ done                                                                      │ starts
      │                                                                           ▼
    any thread: writes the pickle ── data pipe ─────────────────────────────▶ thread "epyrpc-head-watch"
                Launch.poll, wait, kill, close (under its lock)                  waits for the head's pidfd or the end
                stderr_fd ◀───────── output pipe ────────────── fd 1, 2          of the data pipe, then os._exit

The launcher never ends before the process does: the kernel sends `PR_SET_PDEATHSIG` when the *thread* that started the
child ends. It has SIGINT blocked, and what it starts inherits that until the body is ready for it. A forked child of
the head has no launcher; `os.register_at_fork` forgets it there, and the child's first launch starts its own.

Ends of the watching: the body's death shows on `Launch.death_fd`, the head's death as above. Nothing is ever read from
a pipe's end alone, because a process forked by user code keeps the pipe open.
"""

from __future__ import annotations

import atexit
import os
import signal
import threading
import time
import warnings
import weakref
from typing import TYPE_CHECKING

from epyrpc.bodies.baggage import Baggage
from epyrpc.bodies.descriptors import Descriptors, enlarge, is_readable, open_pidfd, write_all
from epyrpc.bodies.helpers import start_by_server, start_interpreter, stop_fork_server

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from queue import SimpleQueue
    from typing import Protocol

    class Closable(Protocol):
        """Anything with a `close` method, say a `multiprocessing.connection.Connection`."""

        def close(self) -> object:
            """Release what it holds."""


START_METHODS = ("spawn", "forkserver")
"""How a process may be started; a body in a thread is no business of this module."""

UNKNOWN_EXIT = 255
"""The exit code of a process that has ended and was reaped by somebody else, as `multiprocessing` has it."""

_KILL_SECONDS = 5.0  # how long `close` waits for a killed process to be gone


class Launch:
    """A started process, as its head sees it.

    Made by `launch`, and to be closed. Every method may be called on any thread, and on a process that is gone.

    Attributes
    ----------
    pid : int
        Process id; it is also the id of the body's session and process group.
    name : str
        The name given to `launch`; `multiprocessing.current_process().name` in the body.
    death_fd : int or None
        A pidfd (Linux 5.3 and later): readable when the process has ended, even while processes forked by it live on.
    sentinel : int
        A descriptor that becomes readable when the process has ended; with *spawn* not before all processes forked by
        it have ended too. For systems without pidfd.
    stderr_fd : int
        Read end, non-blocking, of the pipe that is fd 1 and fd 2 of the body: text of C libraries, tracebacks of a
        failed boot, crash messages. The head must read it: a body that writes into a full pipe waits.
    leftovers : tuple of int
        More read ends, non-blocking, of pipes that the body reads itself; what it has not read is there when it has
        ended. Given by who made them; closed with the rest.
    """

    # Invariant: once _code is not None it never changes. Once _closed, no descriptor is used any more.
    # Guarded by _lock: _code, _closed, _server_gone, and every use of a descriptor (a closed number is soon reused).

    def __init__(self, name: str, pid: int, start_method: str, *, sentinel: int, data_fd: int, stderr_fd: int) -> None:
        self.name = name
        self.pid = pid
        self.death_fd = open_pidfd(pid)
        self.sentinel = sentinel
        self.stderr_fd = stderr_fd
        self.leftovers: tuple[int, ...] = ()
        self._data_fd = data_fd  # its end tells the body, where there is no pidfd, that the head is gone
        self._start_method = start_method
        self._owner = os.getpid()
        self._lock = threading.RLock()
        self._code: int | None = None
        self._closed = False
        self._server_gone = False
        _live.add(self)

    def __repr__(self) -> str:
        """Name the process and what is known of its end."""
        state = "running" if self.poll() is None else f"ended with {self._code}"
        return f"<Launch {self.name!r} pid={self.pid} {state}>"

    def __del__(self) -> None:
        """Warn of a launch that was dropped unclosed, and close it."""
        if not getattr(self, "_closed", True) and self._owner == os.getpid():
            warnings.warn(f"{self.name!r} (pid {self.pid}) was not closed", ResourceWarning, source=self, stacklevel=2)
            self.close()

    def poll(self) -> int | None:
        """Return the exit code, minus the signal's number if one ended the process, or None while it runs.

        `UNKNOWN_EXIT` if somebody else has taken the code: `os.wait` in user code, a fork server that was killed.
        """
        with self._lock:
            if self._code is None and not self._closed:
                self._code = self._reap_child() if self._start_method == "spawn" else self._ask_server()
            return self._code

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait until the process has ended and return as `poll` does.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait; None for ever.
        """
        end = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            left = None if end is None else end - time.monotonic()
            if self._closed or (left is not None and left <= 0):
                return None
            self._sleep_until_sign(left)
        return code

    def is_suspended(self) -> bool:
        """Whether a signal (SIGSTOP, SIGTSTP) has stopped the process; False where that cannot be seen."""
        try:
            with open(f"/proc/{self.pid}/stat", "rb") as file:
                return file.read().rpartition(b")")[2].split()[:1] == [b"T"]
        except OSError:  # another system than Linux, or the process is gone
            return False

    def interrupt(self) -> None:
        """Send SIGINT to the process: a KeyboardInterrupt in its main thread, nothing while it is still booting."""
        self._signal(signal.SIGINT)

    def terminate(self) -> None:
        """Send SIGTERM to the process."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL to the process."""
        self._signal(signal.SIGKILL)

    def close(self) -> None:
        """Release the process and the descriptors; a process that still runs is killed. May be called again.

        In a forked child of the head only the child's copies of the descriptors are closed.
        """
        if self._owner == os.getpid() and self.poll() is None and not self._closed:
            self.kill()
            self.wait(_KILL_SECONDS)
        with self._lock:
            if self._closed:
                return
            self._closed = True
            for fd in (self.death_fd, self.sentinel, self._data_fd, self.stderr_fd, *self.leftovers):
                if fd is not None:
                    os.close(fd)
        _live.discard(self)

    def _reap_child(self) -> int | None:
        if self._owner != os.getpid():  # a forked child of the head: not our child, so all we can do is look
            return UNKNOWN_EXIT if self.death_fd is not None and is_readable(self.death_fd, 0) else None
        try:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:
            return UNKNOWN_EXIT
        return os.waitstatus_to_exitcode(status) if pid else None

    def _ask_server(self) -> int | None:
        """Read what the fork server, whose child the process is, says about it."""
        from multiprocessing.forkserver import read_signed

        if not self._server_gone and is_readable(self.sentinel, 0):
            try:
                return int(read_signed(self.sentinel))
            except (OSError, EOFError):  # the server was killed; the body may well live on
                self._server_gone = True
        if not self._server_gone or (self.death_fd is not None and not is_readable(self.death_fd, 0)):
            return None
        return UNKNOWN_EXIT

    def _sleep_until_sign(self, timeout: float | None) -> None:
        """Wait until `poll` may have something new to say."""
        with self._lock:
            if self._closed:
                return
            told_by_server = self._start_method == "forkserver" and not self._server_gone
            watched = self.sentinel if told_by_server or self.death_fd is None else self.death_fd
            fd = os.dup(watched)  # ours while we wait: close() may come meanwhile
        try:
            if told_by_server or self.death_fd is not None:
                is_readable(fd, timeout)
            # Without pidfd: a forked process may hold the sentinel, and its end comes shortly before the code does.
            elif is_readable(fd, 0.05 if timeout is None else min(timeout, 0.05)):
                time.sleep(0.001)
        finally:
            os.close(fd)

    def _signal(self, number: signal.Signals) -> None:
        with self._lock:
            # Until we have reaped it, a process of ours keeps its pid; the pidfd also covers a code taken by others.
            if self._closed or self.poll() is not None:
                return
            try:
                if self.death_fd is not None:
                    signal.pidfd_send_signal(self.death_fd, number)
                else:
                    os.kill(self.pid, number)
            except ProcessLookupError:
                pass  # it ended between the two lines: nothing is left to signal


def launch(
    name: str,
    target: Callable[..., None],
    args: tuple[object, ...] = (),
    *,
    start_method: str = "spawn",
    close_after_start: Sequence[Closable] = (),
) -> Launch:
    """Start a process in its own session that runs ``target(*args)``, and return without waiting for it.

    The user's main module is not imported there. By the time `target` runs, `__main__` is a new, empty module, fd 0 is
    ``/dev/null``, fd 1 and 2 lead to `Launch.stderr_fd`, Ctrl-C of the head's terminal or notebook does not reach the
    process, `Launch.interrupt` does, and the death of the head, in whatever way, ends it.

    Parameters
    ----------
    name : str
        Name of the process.
    target : callable
        Function of an importable module; what it returns is dropped. It may use `multiprocessing` itself.
    args : tuple
        Pickled here and now; may hold `multiprocessing` connections, queues and locks (of a *spawn* context).
    start_method : {"spawn", "forkserver"}
        A new interpreter, or a fork of a small server process that has imported the target's module and nothing of
        the user's. The server is ours alone, started by the first such launch, and ends with the head.
    close_after_start : sequence
        Their `close` is called once the child has its copies, also when the start fails.

    Returns
    -------
    Launch
        To be closed by the caller. A target that cannot be imported shows as exit code 1 and a traceback in
        `Launch.stderr_fd`, not as an error here.

    Raises
    ------
    ValueError
        Another `start_method`, or a `target` that lives in `__main__`, which the process does not have.
    OSError
        The system gives no process or descriptor, or the fork server died.
    Exception
        Whatever pickling `args` raises.
    """
    try:
        if start_method not in START_METHODS:
            raise ValueError(f"start method {start_method!r} is unknown; use one of {', '.join(START_METHODS)}")
        if getattr(target, "__module__", None) == "__main__":
            raise ValueError(
                f"{target!r} is defined in __main__, which the new process does not have; move it to a module"
            )
        with Descriptors() as owned:
            return _launch(name, target, args, start_method, owned)
    finally:
        for thing in close_after_start:
            thing.close()


def occupy_standard_descriptors() -> None:
    """Open the null device on each of the descriptors 0, 1 and 2 that is closed, as they may be in a service.

    A pipe that is made later would get such a number, and the body its own standard stream in place of the pipe.
    """
    while True:
        fd = os.open(os.devnull, os.O_RDWR)
        if fd > 2:
            os.close(fd)
            return
        os.set_inheritable(fd, True)  # as standard streams are


def _launch(
    name: str, target: Callable[..., None], args: tuple[object, ...], start_method: str, owned: Descriptors
) -> Launch:
    stderr_fd, output_fd = owned.pipe()
    os.set_blocking(stderr_fd, False)
    enlarge(stderr_fd)
    head_fd = owned.own(open_pidfd(os.getpid()))
    baggage = Baggage(start_method)
    if start_method == "spawn":
        sentinel, held_fd = owned.pipe()  # the body holds its end for as long as it lives
        boot_fd, data_fd = owned.pipe()
        baggage.duplicate_for_child(held_fd)
        payload = baggage.pack(name, target, args, head_fd, None)

        def start() -> Launch:
            pid = start_interpreter(boot_fd, output_fd, baggage.fds)
            return _own_launch(owned, name, pid, start_method, sentinel, data_fd, stderr_fd)

    else:
        payload = baggage.pack(name, target, args, head_fd, output_fd)

        def start() -> Launch:
            pid, sentinel, data_fd = start_by_server(owned, baggage.fds, getattr(target, "__module__", None) or "")
            return _own_launch(owned, name, pid, start_method, sentinel, data_fd, stderr_fd)

    launched = _get_launcher().run(start)
    try:
        write_all(launched._data_fd, payload)
    except BaseException:
        launched.close()
        raise
    return launched


def _own_launch(
    owned: Descriptors, name: str, pid: int, start_method: str, sentinel: int, data_fd: int, stderr_fd: int
) -> Launch:
    try:
        launched = Launch(name, pid, start_method, sentinel=sentinel, data_fd=data_fd, stderr_fd=stderr_fd)
    except BaseException:  # no descriptor for the pidfd
        os.kill(pid, signal.SIGKILL)
        if start_method == "spawn":
            os.waitpid(pid, 0)
        raise
    owned.give_away(sentinel, data_fd, stderr_fd)
    return launched


class _Launcher:
    """The one thread of this process that starts processes."""

    def __init__(self) -> None:
        from queue import SimpleQueue

        self._jobs: SimpleQueue[_Job] = SimpleQueue()
        threading.Thread(target=self._work, name="epyrpc-launcher", daemon=True).start()

    def run(self, start: Callable[[], Launch]) -> Launch:
        """Call `start` on the launcher thread; return what it returns or raise what it raises.

        Ctrl-C meanwhile is raised when `start` is done, which takes milliseconds: it is using the caller's descriptors.
        """
        job = _Job(start)
        interrupt: BaseException | None = None
        while not job.done.is_set():
            try:
                self._jobs.put(job)  # perhaps again, if an interrupt came before we waited: it runs once
                while not job.done.wait():
                    pass
            except BaseException as exc:
                interrupt = exc
        if interrupt is not None:
            if job.result is not None:
                job.result.close()
            raise interrupt
        if job.error is not None:
            raise job.error
        assert job.result is not None
        return job.result

    def _work(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # children inherit it and boot undisturbed
        while True:
            job = self._jobs.get()
            job.run()
            del job  # it holds the launch, whose owner may drop it while we wait here


class _Job:
    def __init__(self, start: Callable[[], Launch]) -> None:
        self._start = start
        self.done = threading.Event()
        self.result: Launch | None = None
        self.error: BaseException | None = None

    def run(self) -> None:
        if self.done.is_set():
            return
        try:
            self.result = self._start()
        except BaseException as exc:  # belongs to the thread that waits
            self.error = exc
        finally:
            self.done.set()


_live: weakref.WeakSet[Launch] = weakref.WeakSet()  # not closed
_launcher: _Launcher | None = None  # Guarded by _launcher_lock.
_launcher_lock = threading.Lock()


def _get_launcher() -> _Launcher:
    global _launcher
    with _launcher_lock:
        if _launcher is None:
            _launcher = _Launcher()
        return _launcher


def _forget_after_fork() -> None:
    """In a forked child of the head: threads and locks are gone, and the processes are not its own."""
    global _launcher, _launcher_lock
    _launcher, _launcher_lock = None, threading.Lock()
    for launched in list(_live):
        launched._lock = threading.RLock()  # a thread that is not here may have held it
    _live.clear()


def _end_all() -> None:
    """At exit: end what was not closed.

    The head's death would do it too, but some Pythons wait at exit for the resource tracker, and that for our bodies.
    Registered when this module is imported, so that it runs after the exit functions of the modules that use it.
    """
    left = list(_live)
    for launched in left:
        launched.kill()
    for launched in left:
        launched.close()
    stop_fork_server()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)
atexit.register(_end_all)
