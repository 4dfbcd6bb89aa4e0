"""How the process itself is made, and the helper processes of it: `multiprocessing`'s resource tracker, a fork server.

Both stay between launches and end with the head. They have sessions of their own, so that they hold up no kernel's
shutdown. What starts a process runs on the launcher thread, see `spawn`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from multiprocessing import util
from typing import TYPE_CHECKING

from epyrpc.bodies.baggage import search_path
from epyrpc.bodies.child import prepare_server, server_ids

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from multiprocessing.forkserver import ForkServer

    from epyrpc.bodies.descriptors import Descriptors

PRELOADED = ("numpy",)  # takes a tenth of a second, which else the first task with an array waits for
_server: ForkServer | None = None  # Guarded by _server_lock.
_server_lock = threading.Lock()


def start_interpreter(boot_fd: int, output_fd: int, fds: list[int]) -> int:
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


def start_by_server(owned: Descriptors, fds: list[int], module: str) -> tuple[int, int, int]:
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
            f"import sys; sys.path[:] = {search_path()!r}; "
            f"from {prepare_server.__module__} import prepare_server; "
            f"prepare_server({os.getpid()}, {(module, *_preloaded())!r}); {args[-1]}"
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


def _preloaded() -> tuple[str, ...]:
    """Return what the fork server is to import besides, so that its children need not: what the head has imported."""
    # On macOS a NumPy that computes with the system's own library does not survive a fork.
    return tuple(name for name in PRELOADED if name in sys.modules) if sys.platform == "linux" else ()


def stop_fork_server() -> None:
    """End the fork server, if there is one; bodies that it started live on, with `UNKNOWN_EXIT` as exit code.

    The next launch by *forkserver* starts another.
    """
    global _server
    with _server_lock:
        server, _server = _server, None
        pid, alive_fd = server_ids(server)
    if pid is not None:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):  # gone, or reaped: as was wanted
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    if alive_fd is not None:
        os.close(alive_fd)


def helper_pids() -> set[int]:
    """Return the pids of the processes that stay between launches: the resource tracker and our fork server."""
    from multiprocessing import resource_tracker

    pids = {getattr(resource_tracker._resource_tracker, "_pid", None), server_ids(_server)[0]}
    return {pid for pid in pids if pid is not None}


def _forget_after_fork() -> None:
    """In a forked child of the head the server is the parent's."""
    global _server, _server_lock
    alive_fd = server_ids(_server)[1]
    _server, _server_lock = None, threading.Lock()
    if alive_fd is not None:
        os.close(alive_fd)  # else the server would outlive the head, where only this descriptor tells it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)
