"""Start the operating-system process of a body; nothing here knows what the body will do.

`multiprocessing` does the pickling and the child's boot (`multiprocessing.spawn`), because it alone knows how its own
connections and queues travel. How the process is made is ours, for its `start()` would import the user's main module
again, leave the child in the notebook's process group and join it when the head exits.

::

    head                                                        body
    ────                                                        ────
    any thread: launch()
      pickles target and arguments, noting descriptors
      │ job                                  exec, or the fork server forks
      ▼                                    ┌──────────────────────────────────▶ main thread: multiprocessing's boot
    thread "epyrpc-launcher", one for ever ┘                                     _BodyProcess.run: prepare_child,
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
import contextlib
import errno
import math
import os
import select
import signal
import sys
import threading
import time
import types
import warnings
import weakref
from multiprocessing import context, process, reduction, util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from multiprocessing.forkserver import ForkServer
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

_ORPHANED = 1  # a body's exit code when its head is gone; nobody is there to see it
_PIPE_BYTES = 256 * 1024  # room for the output of a body whose head is busy; the kernel's default is 64 KiB
_KILL_SECONDS = 5.0  # how long `close` waits for a killed process to be gone
_PR_SET_PDEATHSIG = 1


# ---------------------------------------------------------------------------------------------------- in the head


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
        self.death_fd = _open_pidfd(pid)
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
            return UNKNOWN_EXIT if self.death_fd is not None and _is_readable(self.death_fd, 0) else None
        try:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:
            return UNKNOWN_EXIT
        return os.waitstatus_to_exitcode(status) if pid else None

    def _ask_server(self) -> int | None:
        """Read what the fork server, whose child the process is, says about it."""
        from multiprocessing.forkserver import read_signed

        if not self._server_gone and _is_readable(self.sentinel, 0):
            try:
                return int(read_signed(self.sentinel))
            except (OSError, EOFError):  # the server was killed; the body may well live on
                self._server_gone = True
        if not self._server_gone or (self.death_fd is not None and not _is_readable(self.death_fd, 0)):
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
                _is_readable(fd, timeout)
            # Without pidfd: a forked process may hold the sentinel, and its end comes shortly before the code does.
            elif _is_readable(fd, 0.05 if timeout is None else min(timeout, 0.05)):
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
        with _Descriptors() as owned:
            return _launch(name, target, args, start_method, owned)
    finally:
        for thing in close_after_start:
            thing.close()


def _launch(
    name: str, target: Callable[..., None], args: tuple[object, ...], start_method: str, owned: _Descriptors
) -> Launch:
    stderr_fd, output_fd = owned.pipe()
    os.set_blocking(stderr_fd, False)
    _enlarge(stderr_fd)
    head_fd = owned.own(_open_pidfd(os.getpid()))
    baggage = _Baggage(start_method)
    if start_method == "spawn":
        sentinel, held_fd = owned.pipe()  # the body holds its end for as long as it lives
        boot_fd, data_fd = owned.pipe()
        baggage.duplicate_for_child(held_fd)
        payload = baggage.pack(name, target, args, head_fd, None)

        def start() -> Launch:
            pid = _start_interpreter(boot_fd, output_fd, baggage.fds)
            return _own_launch(owned, name, pid, start_method, sentinel, data_fd, stderr_fd)

    else:
        payload = baggage.pack(name, target, args, head_fd, output_fd)

        def start() -> Launch:
            pid, sentinel, data_fd = _start_by_server(owned, baggage.fds, getattr(target, "__module__", None) or "")
            return _own_launch(owned, name, pid, start_method, sentinel, data_fd, stderr_fd)

    launched = _get_launcher().run(start)
    try:
        _write_all(launched._data_fd, payload)
    except BaseException:
        launched.close()
        raise
    return launched


def _own_launch(
    owned: _Descriptors, name: str, pid: int, start_method: str, sentinel: int, data_fd: int, stderr_fd: int
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


class _Descriptors:
    """Descriptors that are closed at the end of the block unless given away."""

    def __init__(self) -> None:
        self._fds: set[int] = set()

    def __enter__(self) -> _Descriptors:
        return self

    def __exit__(self, *exc_info: object) -> None:
        for fd in self._fds:
            os.close(fd)

    def pipe(self) -> tuple[int, int]:
        ends = os.pipe()
        self._fds.update(ends)
        return ends

    def own(self, fd: int | None) -> int | None:
        if fd is not None:
            self._fds.add(fd)
        return fd

    def give_away(self, *fds: int) -> None:
        self._fds.difference_update(fds)


class _Baggage:
    """What travels to the child; stands where `multiprocessing` expects its Popen while it pickles.

    Attributes
    ----------
    fds : list of int
        Descriptors that the child must get, in the order in which the pickle refers to them.
    """

    DupFd: Any  # what a descriptor is pickled as; its detach() in the child returns the child's own number

    def __init__(self, start_method: str) -> None:
        if start_method == "spawn":
            from multiprocessing.popen_spawn_posix import Popen as SpawnPopen

            self.DupFd = SpawnPopen.DupFd
        else:
            from multiprocessing.popen_forkserver import Popen as ServerPopen

            self.DupFd = ServerPopen.DupFd
        self.method = start_method
        self.fds: list[int] = []

    def duplicate_for_child(self, fd: int) -> int:
        """Note `fd`; return what `DupFd` wants: the number itself, or with a fork server its place in the list."""
        self.fds.append(fd)
        return fd if self.method == "spawn" else len(self.fds) - 1

    def pack(
        self,
        name: str,
        target: Callable[..., None],
        args: tuple[object, ...],
        head_fd: int | None,
        output_fd: int | None,
    ) -> bytes:
        """Return what `multiprocessing.spawn` loads in the child: preparation data, then the process object."""
        from io import BytesIO

        outer = context.get_spawning_popen()
        context.set_spawning_popen(self)  # type: ignore[arg-type]  # a thread-local variable
        try:
            contents = bytes(reduction.ForkingPickler.dumps((target, args)))
            head = None if head_fd is None else self.DupFd(self.duplicate_for_child(head_fd))
            output = None if output_fd is None else self.DupFd(self.duplicate_for_child(output_fd))
            body = _BodyProcess(name, self.method, contents, tuple(self.fds), head, output)
            file = BytesIO()
            reduction.dump(_preparation(name), file)
            reduction.dump(body, file)
        finally:
            context.set_spawning_popen(outer)
        return file.getvalue()


def can_be_inherited(thing: object) -> bool:
    """Return whether something can be handed down to a process when it starts, as locks of `multiprocessing` can."""
    outer = context.get_spawning_popen()
    context.set_spawning_popen(_Baggage("spawn"))  # type: ignore[arg-type]  # a thread-local variable
    try:
        reduction.ForkingPickler.dumps(thing)
    except Exception:
        return False  # whatever its reason, that is the answer
    finally:
        context.set_spawning_popen(outer)
    return True


def _preparation(name: str) -> dict[str, object]:
    """Return what `multiprocessing.spawn.prepare` restores in the child; the main module is left out.

    `multiprocessing.spawn.get_preparation_data` is not asked: it would also fix the start method for good, so that a
    user's later `multiprocessing.set_start_method` fails.
    """
    import multiprocessing

    data: dict[str, object] = {
        "name": name,
        "authkey": process.current_process().authkey,
        "log_to_stderr": util._log_to_stderr,  # type: ignore[attr-defined]
        "sys_path": _search_path(),
        "sys_argv": sys.argv,
        "orig_dir": process.ORIGINAL_DIR,  # type: ignore[attr-defined]
    }
    logger = util._logger  # type: ignore[attr-defined]
    if logger is not None:
        data["log_level"] = logger.getEffectiveLevel()
    start_method = multiprocessing.get_start_method(allow_none=True)
    if start_method is not None:
        data["start_method"] = start_method
    with contextlib.suppress(FileNotFoundError):  # the folder was removed under us: the child starts in it all the same
        data["dir"] = os.getcwd()
    return data


def _search_path() -> list[str]:
    origin = process.ORIGINAL_DIR  # type: ignore[attr-defined]
    return [origin if entry == "" and origin is not None else str(entry) for entry in sys.path]


def _start_interpreter(boot_fd: int, output_fd: int, fds: list[int]) -> int:
    """Start a new interpreter that boots from `boot_fd`; runs on the launcher thread."""
    import subprocess
    from multiprocessing import resource_tracker, spawn

    with _helpers_in_own_session():
        tracker_fd = resource_tracker.getfd()
    command = [os.fsdecode(part) for part in spawn.get_command_line(tracker_fd=tracker_fd, pipe_handle=boot_fd)]
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output_fd,
        stderr=output_fd,
        pass_fds=(*fds, boot_fd, *(() if tracker_fd is None else (tracker_fd,))),
        start_new_session=True,
    )
    child.returncode = 0  # Launch reaps it: keeps subprocess from doing that, and from warning
    return child.pid


def _start_by_server(owned: _Descriptors, fds: list[int], module: str) -> tuple[int, int, int]:
    """Have the fork server start a process; runs on the launcher thread. Returns pid, sentinel, data pipe."""
    from multiprocessing import forkserver, resource_tracker

    global _server
    with _server_lock, _helpers_in_own_session(module):
        if _server is None:
            _server = forkserver.ForkServer()
            _server.set_forkserver_preload([])  # our own preface loads what is needed, and never the main module
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # its start has unblocked it, and the server inherits
        sentinel, data_fd = _server.connect_to_new_process(fds)
        owned.own(sentinel)
        owned.own(data_fd)
        try:
            return forkserver.read_signed(sentinel), sentinel, data_fd
        except EOFError as exc:
            raise OSError("the fork server died before it had started the process; try again") from exc


@contextlib.contextmanager
def _helpers_in_own_session(module: str = "") -> Iterator[None]:
    """Let `multiprocessing` start its helper processes, on this thread, in sessions of their own.

    Else the resource tracker and the fork server join the process group of the notebook's kernel, whose shutdown then
    waits seconds for them: they ignore SIGTERM. There is no public way to ask for that, so the one function through
    which both are started is replaced for a moment; calls of other threads pass through to the original.
    """
    names = vars(util)
    original = names.get("spawnv_passfds")
    if original is None:  # a Python that starts its helpers in another way: slower shutdown, but all works
        yield
        return
    thread, pid = threading.get_ident(), os.getpid()

    def spawnv_passfds(path: str | bytes, args: Sequence[str | bytes], passfds: Sequence[int]) -> int:
        if threading.get_ident() != thread or os.getpid() != pid:
            return int(original(path, args, passfds))
        return _start_helper(path, [os.fsdecode(part) for part in args], passfds, module)

    names["spawnv_passfds"] = spawnv_passfds
    try:
        yield
    finally:
        if names["spawnv_passfds"] is spawnv_passfds:
            names["spawnv_passfds"] = original
        # The resource tracker's start unblocks it on this thread.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})


def _start_helper(path: str | bytes, args: list[str], passfds: Sequence[int], module: str) -> int:
    import subprocess

    if "multiprocessing.forkserver" in args[-1]:
        args[-1] = (
            f"import sys; sys.path[:] = {_search_path()!r}; "
            f"from {__name__} import _prepare_server; _prepare_server({os.getpid()}, {module!r}); {args[-1]}"
        )
    helper = subprocess.Popen(
        args,
        executable=os.fsdecode(path),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=passfds,
        start_new_session=True,
    )
    helper.returncode = 0  # multiprocessing reaps it
    return helper.pid


def stop_fork_server() -> None:
    """End the fork server, if there is one; bodies that it started live on, with `UNKNOWN_EXIT` as exit code.

    The next launch by *forkserver* starts another.
    """
    global _server
    with _server_lock:
        server, _server = _server, None
        pid, alive_fd = _server_ids(server)
    if pid is not None:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):  # gone, or reaped: as was wanted
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    if alive_fd is not None:
        os.close(alive_fd)


def helper_pids() -> set[int]:
    """Return the pids of the processes that stay between launches: the resource tracker and our fork server."""
    from multiprocessing import resource_tracker

    pids = {getattr(resource_tracker._resource_tracker, "_pid", None), _server_ids(_server)[0]}
    return {pid for pid in pids if pid is not None}


def _server_ids(server: ForkServer | None) -> tuple[int | None, int | None]:
    """Return the fork server's pid and the descriptor that keeps it alive."""
    return getattr(server, "_forkserver_pid", None), getattr(server, "_forkserver_alive_fd", None)


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
_server: ForkServer | None = None  # Guarded by _server_lock.
_server_lock = threading.Lock()


def _get_launcher() -> _Launcher:
    global _launcher
    with _launcher_lock:
        if _launcher is None:
            _launcher = _Launcher()
        return _launcher


def _forget_after_fork() -> None:
    """In a forked child of the head: threads and locks are gone, and the processes are not its own."""
    global _launcher, _launcher_lock, _server, _server_lock
    _launcher, _launcher_lock = None, threading.Lock()
    alive_fd = _server_ids(_server)[1]
    _server, _server_lock = None, threading.Lock()
    for launched in list(_live):
        launched._lock = threading.RLock()  # a thread that is not here may have held it
    _live.clear()
    if alive_fd is not None:
        os.close(alive_fd)  # else the server would outlive the head, where only this descriptor tells it


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


# ---------------------------------------------------------------------------------------------------- in the child


class _BodyProcess(process.BaseProcess):
    """What `multiprocessing.spawn` loads and runs in the child. In the head it is only pickled, never started.

    So the head's `multiprocessing` does not know it: `active_children` does not list it, and it is neither joined nor
    forbidden to have children of its own.
    """

    _start_method = None  # read by BaseProcess._bootstrap: leave the child's default alone

    def __init__(
        self, name: str, start_method: str, contents: bytes, fds: tuple[int, ...], head_fd: Any, output_fd: Any
    ) -> None:
        super().__init__(name=name)
        self._config: dict[str, Any] = {key: value for key, value in self._config.items() if key != "daemon"}
        self._launched_by = start_method
        self._contents = contents  # target and arguments, pickled apart: loading them may fail, or print
        self._fds = fds
        self._head_fd, self._output_fd = head_fd, output_fd

    def run(self) -> None:
        _keep_from_programs(self._fds if self._launched_by == "spawn" else _leave_server())
        if self._output_fd is not None:
            _take_output(self._output_fd.detach())
        prepare_child(self._launched_by, None if self._head_fd is None else self._head_fd.detach())
        fresh_main()
        target, args = self._load()
        accept_interrupts()
        target(*args)

    def _load(self) -> tuple[Callable[..., None], tuple[object, ...]]:
        import pickle

        current: Any = process.current_process()
        current._inheriting = True  # as while multiprocessing itself loads a process object: proxies look at it
        try:
            target, args = pickle.loads(self._contents)
        finally:
            del current._inheriting
        self._contents = b""
        return target, args


def prepare_child(start_method: str, head_fd: int | None = None) -> None:
    """Make the calling process a body's: own session, clean signals, crash messages, and an end when the head ends.

    `launch` has it called before the target is loaded. SIGINT stays blocked until `accept_interrupts`. Main thread.

    Parameters
    ----------
    start_method : {"spawn", "forkserver"}
        How the process was started.
    head_fd : int, optional
        A pidfd of the head.
    """
    import faulthandler

    with contextlib.suppress(PermissionError):  # it leads its session already: so it was started
        os.setsid()
    # A kernel ignores SIGINT between cells, and what it starts then inherits that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if signal.getsignal(signal.SIGTERM) is signal.SIG_IGN:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    faulthandler.enable(file=2)
    die_with_parent(start_method, head_fd)


def accept_interrupts() -> None:
    """Drop a SIGINT that came during the boot, and let later ones raise KeyboardInterrupt. Main thread."""
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)  # ignoring a pending signal discards it
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.signal(signal.SIGINT, handler)


def die_with_parent(start_method: str, head_fd: int | None = None) -> None:
    """Have the calling process end as soon as its head has ended, even while it computes.

    Linux kills a spawned body when the launcher thread of its head is gone. In every case a daemon thread waits for
    the head and calls `os._exit`; it needs the GIL, so C code that keeps it delays the end.

    Parameters
    ----------
    start_method : {"spawn", "forkserver"}
        With a fork server the parent is the server, so only the thread watches, and what it watches is the head.
    head_fd : int, optional
        A pidfd of the head; without it the thread waits for the end of the head's data pipe alone.
    """
    head = process.parent_process()
    if head is None:
        raise RuntimeError("this process was not started by a head; call die_with_parent in a body only")
    if start_method == "spawn" and _set_parent_death_signal() and os.getppid() != head.pid:
        os._exit(_ORPHANED)  # the head ended before the call
    watched = [head.sentinel] if head_fd is None else [head.sentinel, head_fd]
    threading.Thread(target=_watch_head, args=(watched,), name="epyrpc-head-watch", daemon=True).start()


def fresh_main() -> types.ModuleType:
    """Install a new, empty ``__main__`` in `sys.modules` and return it: the home of names that a head sends."""
    main = types.ModuleType("__main__")
    main.__dict__.update(__builtins__=sys.modules["builtins"], __annotations__={})
    _former_mains.append(sys.modules["__main__"])
    # multiprocessing knows it by this name too, whatever pickles in a child of the body's refer to.
    sys.modules["__main__"] = sys.modules["__mp_main__"] = main
    return main


_former_mains: list[types.ModuleType] = []  # their code is still running


def _keep_from_programs(fds: Sequence[int]) -> None:
    """Close `fds` in programs that the body will start: travelling has made them inheritable."""
    for fd in fds:
        os.set_inheritable(fd, False)


def _leave_server() -> list[int]:
    """Drop what keeps the fork server alive, else it could outlive the head; return the descriptors that came along."""
    from multiprocessing import forkserver

    server = forkserver._forkserver
    alive_fd = _server_ids(server)[1]
    if alive_fd is not None:
        os.close(alive_fd)
        server._forkserver_alive_fd = None  # type: ignore[attr-defined,unused-ignore]
    return list(server.get_inherited_fds() or ())


def _take_output(output_fd: int) -> None:
    os.dup2(output_fd, 1)
    os.dup2(output_fd, 2)
    os.close(output_fd)


def _watch_head(fds: list[int]) -> None:
    poller = select.poll()
    for fd in fds:
        poller.register(fd, select.POLLIN)
    poller.poll()
    os._exit(_ORPHANED)


def _set_parent_death_signal() -> bool:
    """Ask Linux to kill this process when the thread that started it ends; say whether it will."""
    if sys.platform != "linux":
        return False
    try:
        import ctypes

        return bool(ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0) == 0)
    except (ImportError, OSError, AttributeError):  # no ctypes or no such function: the watching thread will do
        return False


def _prepare_server(head_pid: int, module: str) -> None:
    """First lines of the fork server: it ends with the head and has imported what its children need."""
    if _set_parent_death_signal() and os.getppid() != head_pid:
        os._exit(_ORPHANED)
    if module:
        with contextlib.suppress(Exception):  # the child that needs it tries again, and its output shows the error
            __import__(module)


# ---------------------------------------------------------------------------------------------------- small calls


def _open_pidfd(pid: int) -> int | None:
    """Return a pidfd, or None where there is no such thing or the process is gone."""
    try:
        return os.pidfd_open(pid)
    except AttributeError:  # not Linux
        return None
    except OSError as exc:
        if exc.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise
        return None


def _is_readable(fd: int, timeout: float | None) -> bool:
    """Wait at most `timeout` seconds until `fd` has something, or its end, to read."""
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    return bool(poller.poll(None if timeout is None else math.ceil(timeout * 1000)))


def _enlarge(pipe_fd: int) -> None:
    import fcntl

    # Not Linux, or the user's share of memory for pipes is used up: the default size does as well.
    with contextlib.suppress(AttributeError, OSError):
        fcntl.fcntl(pipe_fd, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)


def _write_all(fd: int, data: bytes) -> None:
    left = memoryview(data)
    try:
        while left:
            left = left[os.write(fd, left) :]
    except BrokenPipeError:
        pass  # the child ended while booting: poll() and its output tell why
