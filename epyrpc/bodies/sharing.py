"""Large buffers by shared memory: segments that are lent, read where they are, and come back to be used again.

A segment is a `memfd`: memory without a name, gone when the last process that maps it has ended, however that ends.
Its other end is opened through ``/proc/PID/fd``, which only processes of the same user can do. ::

    sender                                          receiver
    Store.put(buffers) ── copies into a segment ──▶ Reader.open(ref) ── maps it, privately: writing changes no other
      ▲                                               │ arrays stand on the mapping, without a copy
      └──── freed: may be used again ─────────────────┤ when the last of them goes, it is unmapped and noted
            kept: will not come back soon, closed ────┘ when many are out, the oldest are let go

A fresh segment costs a page fault for each 4 KiB, a warm one only the copying; so those that come back are kept.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import pickle
import threading
import weakref
from collections import deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from epyrpc import codec
from epyrpc.errors import CodecError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MIN_SHARED_BYTES = 512 * 1024  # less goes through the pipe: mapping costs more than copying
KEPT_BYTES = 256 << 20  # of free segments
KEPT_OUT = 8  # segments that a receiver holds and that may still come back; the sender lets go of older ones
_ALIGN = 64
_GRANULE = 1 << 20
_MAP_FAILED = ctypes.c_void_p(-1).value
_collecting = threading.local()


class Ref(NamedTuple):
    """Where buffers lie: what travels in their place."""

    number: int
    pid: int
    fd: int
    inode: int
    sizes: tuple[int, ...]


class Segment:
    """A piece of memory that other processes can map."""

    def __init__(self, size: int) -> None:
        self.size = -(-size // _GRANULE) * _GRANULE
        self.fd = os.memfd_create("epyrpc", getattr(os, "MFD_CLOEXEC", 0))
        try:
            os.ftruncate(self.fd, self.size)
        except BaseException:
            os.close(self.fd)
            self.fd = -1
            raise
        self.inode = os.fstat(self.fd).st_ino
        self._address = 0  # where it is mapped here, from its second use on
        self._used = False

    def fill(self, buffers: Sequence[Any], number: int = 0) -> Ref:
        """Copy buffers into it, one after the other, and return where they are."""
        sizes, at = [], 0
        view = self._mapped() if self._used else None
        self._used = True
        for buffer in buffers:
            with buffer.raw() if isinstance(buffer, pickle.PickleBuffer) else memoryview(buffer).cast("B") as raw:
                if view is None:
                    self._write(raw, at)
                else:
                    view[at : at + raw.nbytes] = raw
                sizes.append(raw.nbytes)
            at = _next(at, sizes[-1])
        return Ref(number, os.getpid(), self.fd, self.inode, tuple(sizes))

    def _mapped(self) -> memoryview:
        """Return its memory; three times as fast to write to as the file, once its pages are there."""
        if not self._address:
            protection = mmap.PROT_READ | mmap.PROT_WRITE
            self._address = _map_fd(self.fd, self.size, protection, mmap.MAP_SHARED)
        return memoryview((ctypes.c_ubyte * self.size).from_address(self._address)).cast("B")

    def _write(self, raw: memoryview, at: int) -> None:
        """Write to the file: the first time, this saves a page fault for each page."""
        done = 0
        while done < raw.nbytes:
            done += os.pwrite(self.fd, raw[done:], at + done)

    def close(self) -> None:
        """Let go of it; who has mapped it keeps it."""
        if self.fd >= 0:
            if self._address:
                _libc().munmap(self._address, self.size)
            os.close(self.fd)
            self.fd = -1

    def __del__(self) -> None:
        if getattr(self, "fd", -1) >= 0:
            self.close()


class Store:
    """The segments of one sender; used by one thread at a time."""

    def __init__(self) -> None:
        self._free: list[Segment] = []
        self._lent: dict[int, Segment] = {}
        self._count = 0

    def put(self, buffers: Sequence[Any]) -> Ref:
        """Lend a segment with a copy of the buffers."""
        need = total_bytes(buffers, aligned=True)
        fitting = [segment for segment in self._free if need <= segment.size <= 4 * need + _GRANULE]
        if fitting:
            segment = min(fitting, key=lambda s: s.size)
            self._free.remove(segment)
        else:
            segment = Segment(need)
        self._count += 1
        ref = segment.fill(buffers, self._count)
        self._lent[self._count] = segment
        return ref

    def take_back(self, freed: Sequence[int], kept: Sequence[int]) -> None:
        """Hear which segments may be used again, and which will stay out."""
        for number in freed:
            segment = self._lent.pop(number, None)
            if segment is not None:
                self._free.append(segment)
        for number in kept:
            segment = self._lent.pop(number, None)
            if segment is not None:
                segment.close()
        while sum(segment.size for segment in self._free) > KEPT_BYTES:
            self._free.pop(0).close()

    def reset(self) -> None:
        """Hear that the receiver is gone: nothing is out any more."""
        self.take_back(list(self._lent), ())

    def close(self) -> None:
        """Let go of everything."""
        for segment in [*self._free, *self._lent.values()]:
            segment.close()
        self._free.clear()
        self._lent.clear()


class Reader:
    """Opens what one sender lends, and notes what is not used any more."""

    # Not guarded: _out and _freed, whose single operations are atomic; the collector may call _release at any moment.

    def __init__(self) -> None:
        self._out: dict[int, None] = {}  # those that may still come back, the oldest first
        self._freed: deque[int] = deque()

    def open(self, ref: Sequence[Any]) -> list[memoryview]:
        """Return the buffers that lie there, writable; writing changes only what is seen here."""
        where = Ref(*ref)
        self._out[where.number] = None
        return attach(where, released=lambda: self._release(where.number))

    def _release(self, number: int) -> None:
        self._freed.append(number)

    def news(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the numbers that were freed since the last time, and those that will stay."""
        freed = []
        while self._freed:
            number = self._freed.popleft()
            if number in self._out:
                del self._out[number]
                freed.append(number)
        kept = list(self._out)[: max(0, len(self._out) - KEPT_OUT)]
        for number in kept:
            del self._out[number]
        return tuple(freed), tuple(kept)


def attach(where: Ref, *, released: Any = None, writable: bool = True) -> list[memoryview]:
    """Map a segment of this or another process; it is unmapped when the last of the buffers is not used any more.

    Raises
    ------
    CodecError
        It is there no more.
    """
    total = total_size(where.sizes)
    address = _map(where, total, writable)
    memory = (ctypes.c_ubyte * total).from_address(address)
    weakref.finalize(memory, _unmap, address, total, released).atexit = False
    view = memoryview(memory).cast("B")
    if not writable:
        view = view.toreadonly()
    views, at = [], 0
    for size in where.sizes:
        views.append(view[at : at + size])
        at = _next(at, size)
    return views


def _map(where: Ref, total: int, writable: bool) -> int:
    try:
        fd = os.open(f"/proc/{where.pid}/fd/{where.fd}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError as exc:
        raise CodecError(f"shared memory of process {where.pid} is there no more: {exc}") from exc
    try:
        if os.fstat(fd).st_ino != where.inode:
            raise CodecError(f"shared memory of process {where.pid} is there no more: it was freed before it was used")
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        return _map_fd(fd, total, protection, mmap.MAP_PRIVATE if writable else mmap.MAP_SHARED)
    finally:
        os.close(fd)


def _map_fd(fd: int, size: int, protection: int, flags: int) -> int:
    """Map a file; unlike `mmap.mmap` this keeps no descriptor, and there may be many."""
    address = _libc().mmap(None, size, protection, flags, fd, 0)
    if address in (_MAP_FAILED, None):
        raise CodecError(f"shared memory cannot be mapped: {os.strerror(ctypes.get_errno())}")
    return int(address)


def _unmap(address: int, total: int, released: Any) -> None:
    _libc().munmap(address, total)
    if released is not None:
        released()


_loaded: list[Any] = []


def _libc() -> Any:
    if not _loaded:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = ctypes.c_void_p
        libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
        libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        _loaded.append(libc)
    return _loaded[0]


def _next(at: int, size: int) -> int:
    return at + -(-size // _ALIGN) * _ALIGN


def total_size(sizes: Sequence[int]) -> int:
    """Return how many bytes of a segment buffers of these sizes take."""
    return max(1, sum(-(-size // _ALIGN) * _ALIGN for size in sizes))


def total_bytes(buffers: Sequence[Any], *, aligned: bool = False) -> int:
    """Return the size of buffers together."""
    sizes = []
    for buffer in buffers:
        with buffer.raw() if isinstance(buffer, pickle.PickleBuffer) else memoryview(buffer) as raw:
            sizes.append(raw.nbytes)
    return total_size(sizes) if aligned else sum(sizes)


def is_possible() -> bool:
    """Whether this system has what is needed."""
    return hasattr(os, "memfd_create") and os.path.isdir("/proc/self/fd")


# --- values that several bodies read


class Shared:
    """A value whose arrays lie in shared memory, read-only, once for all bodies; made by `Pool.share`.

    In a body it arrives as the value itself. It is freed when nobody uses it any more, here or there.

    Attributes
    ----------
    value : object
        The value, as the bodies see it: its arrays are read-only.
    """

    def __init__(self, value: Any) -> None:
        payload, buffers = codec.encode(value, what="value to be shared")
        self.size_bytes = total_bytes(buffers)
        self._payload = payload
        self._segment = Segment(total_bytes(buffers, aligned=True))
        self._ref = self._segment.fill(buffers)
        self.value = _rebuild(payload, self._ref)

    def __reduce__(self) -> Any:
        used = getattr(_collecting, "used", None)
        if used is not None:
            used.append(self)
        return _arrive, (self._payload, tuple(self._ref))

    def __repr__(self) -> str:
        return f"<Shared {type(self.value).__name__}, {self.size_bytes / 1e6:.1f} MB>"


@contextmanager
def collected() -> Iterator[list[Shared]]:
    """Collect the shared values that are encoded in the block: they must live until they have arrived."""
    outer = getattr(_collecting, "used", None)
    used: list[Shared] = []
    _collecting.used = used
    try:
        yield used
    finally:
        _collecting.used = outer


# {(pid, inode): the value}; what arrives again while it is in use is the same object.
_arrived: weakref.WeakValueDictionary[tuple[int, int], Any] = weakref.WeakValueDictionary()


def _rebuild(payload: bytes, where: Ref) -> Any:
    return codec.decode(payload, attach(where, writable=False))


def _arrive(payload: bytes, ref: Sequence[Any]) -> Any:
    where = Ref(*ref)
    key = (where.pid, where.inode)
    value = _arrived.get(key)
    if value is None:
        value = _rebuild(payload, where)
        try:
            _arrived[key] = value
        except TypeError:  # not everything can be referred to weakly; then it is mapped each time
            return value
    return value


__all__ = ["MIN_SHARED_BYTES", "Reader", "Ref", "Segment", "Shared", "Store", "attach", "collected", "is_possible"]
