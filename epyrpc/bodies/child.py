"""What a new process does before it is a body, and the fork server before it is a server.

A process imports this module before anything else of ours: it stands on nothing but the standard library. See `spawn`
for the threads, and for how the end of the head is watched.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import types
from multiprocessing import process
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from multiprocessing.forkserver import ForkServer

_ORPHANED = 1  # a body's exit code when its head is gone; nobody is there to see it
_PR_SET_PDEATHSIG = 1


class BodyProcess(process.BaseProcess):
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
        """Make the process a body's, then load the target and call it."""
        _keep_from_programs(self._fds if self._launched_by == "spawn" else _leave_server())
        if self._output_fd is not None:
            _take_output(self._output_fd.detach())
        prepare_child(self._launched_by, None if self._head_fd is None else self._head_fd.detach())
        _reseed()
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
    # Of the thread that crashes only: the others run on, and to read their frames would crash in the middle of it.
    faulthandler.enable(file=2, all_threads=False)
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


def _reseed() -> None:
    """Give NumPy's global generator, if the fork server had it, a state of this process's own."""
    random = sys.modules.get("numpy.random")
    if random is not None:
        random.seed()


_former_mains: list[types.ModuleType] = []  # their code is still running


def _keep_from_programs(fds: Sequence[int]) -> None:
    """Close `fds` in programs that the body will start: travelling has made them inheritable."""
    for fd in fds:
        os.set_inheritable(fd, False)


def _leave_server() -> list[int]:
    """Drop what keeps the fork server alive, else it could outlive the head; return the descriptors that came along."""
    from multiprocessing import forkserver

    server = forkserver._forkserver
    alive_fd = server_ids(server)[1]
    if alive_fd is not None:
        os.close(alive_fd)
        server._forkserver_alive_fd = None  # type: ignore[attr-defined,unused-ignore]
    return list(server.get_inherited_fds() or ())


def server_ids(server: ForkServer | None) -> tuple[int | None, int | None]:
    """Return the fork server's pid and the descriptor that keeps it alive."""
    return getattr(server, "_forkserver_pid", None), getattr(server, "_forkserver_alive_fd", None)


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


def prepare_server(head_pid: int, modules: Sequence[str]) -> None:
    """First lines of the fork server: it ends with the head and has imported what its children need."""
    if _set_parent_death_signal() and os.getppid() != head_pid:
        os._exit(_ORPHANED)
    for module in filter(None, modules):
        with contextlib.suppress(Exception):  # the child that needs it tries again, and its output shows the error
            __import__(module)
