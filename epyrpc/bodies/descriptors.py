"""Small calls on descriptors: pipes, pidfds, waiting for one, and a block that closes what it made."""

from __future__ import annotations

import contextlib
import errno
import math
import os
import select

_PIPE_BYTES = 256 * 1024  # room for the output of a body whose head is busy; the kernel's default is 64 KiB


class Descriptors:
    """Descriptors that are closed at the end of the block unless given away."""

    def __init__(self) -> None:
        self._fds: set[int] = set()

    def __enter__(self) -> Descriptors:
        return self

    def __exit__(self, *exc_info: object) -> None:
        for fd in self._fds:
            os.close(fd)

    def pipe(self) -> tuple[int, int]:
        """Make a pipe; return its read end and its write end."""
        ends = os.pipe()
        self._fds.update(ends)
        return ends

    def own(self, fd: int | None) -> int | None:
        """Take a descriptor over, if it is one, and return it."""
        if fd is not None:
            self._fds.add(fd)
        return fd

    def give_away(self, *fds: int) -> None:
        """Leave descriptors open at the end: somebody else closes them."""
        self._fds.difference_update(fds)


def open_pidfd(pid: int) -> int | None:
    """Return a pidfd, or None where there is no such thing or the process is gone."""
    try:
        return os.pidfd_open(pid)
    except AttributeError:  # not Linux
        return None
    except OSError as exc:
        if exc.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise
        return None


def is_readable(fd: int, timeout: float | None) -> bool:
    """Wait at most `timeout` seconds until `fd` has something, or its end, to read."""
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    return bool(poller.poll(None if timeout is None else math.ceil(timeout * 1000)))


def enlarge(pipe_fd: int) -> None:
    """Give a pipe more room than the default, where that can be."""
    import fcntl

    # Not Linux, or the user's share of memory for pipes is used up: the default size does as well.
    with contextlib.suppress(AttributeError, OSError):
        fcntl.fcntl(pipe_fd, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)


def write_all(fd: int, data: bytes) -> None:
    """Write it all to a pipe whose reader may end meanwhile."""
    left = memoryview(data)
    try:
        while left:
            left = left[os.write(fd, left) :]
    except BrokenPipeError:
        pass  # the child ended while booting: poll() and its output tell why
