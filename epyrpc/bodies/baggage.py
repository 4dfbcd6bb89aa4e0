"""What travels to a new process: the target with its arguments, what `multiprocessing` prepares there, descriptors."""

from __future__ import annotations

import contextlib
import os
import sys
from multiprocessing import context, process, reduction, util
from typing import TYPE_CHECKING, Any

from epyrpc.bodies.child import BodyProcess

if TYPE_CHECKING:
    from collections.abc import Callable


class Baggage:
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
            body = BodyProcess(name, self.method, contents, tuple(self.fds), head, output)
            file = BytesIO()
            reduction.dump(_preparation(name), file)
            reduction.dump(body, file)
        finally:
            context.set_spawning_popen(outer)
        return file.getvalue()


def can_be_inherited(thing: object) -> bool:
    """Return whether something can be handed down to a process when it starts, as locks of `multiprocessing` can."""
    outer = context.get_spawning_popen()
    context.set_spawning_popen(Baggage("spawn"))  # type: ignore[arg-type]  # a thread-local variable
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
        "sys_path": search_path(),
        "sys_argv": sys.argv,
        "orig_dir": process.ORIGINAL_DIR,  # type: ignore[attr-defined]
    }
    logger = util._logger  # type: ignore[attr-defined]
    if logger is not None:
        data["log_level"] = logger.getEffectiveLevel()
    start_method = multiprocessing.get_start_method(allow_none=True)
    if start_method in multiprocessing.get_all_start_methods():  # not that of a library, such as loky, unknown there
        data["start_method"] = start_method
    with contextlib.suppress(FileNotFoundError):  # the folder was removed under us: the child starts in it all the same
        data["dir"] = os.getcwd()
    return data


def search_path() -> list[str]:
    """Return `sys.path` as a process that starts in another folder needs it."""
    origin = process.ORIGINAL_DIR  # type: ignore[attr-defined]
    return [origin if entry == "" and origin is not None else str(entry) for entry in sys.path]
