"""Transport over a pair of `multiprocessing.Queue`s, one reader and one writer each.

`WireQueue` is a `multiprocessing.queues.Queue` without the parts that an RPC wire must not have: the feeder thread,
in which pickling errors have no caller and which costs a hand-over, and the semaphores, which a killed process leaves
locked. It carries byte strings; the thread that puts writes the pipe itself. Any other object with a queue's
interface works too (`PlainQueueLink`), a good deal slower.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.context
import multiprocessing.queues
import os
import queue
import select
import struct
import threading
from typing import TYPE_CHECKING, Any

from epyrpc.errors import IpcError
from epyrpc.interrupts import SIGNAL_SECONDS
from epyrpc.messages import FrameParser, lay_out_events
from epyrpc.transports.base import Link, TransportDetails, Transporter
from epyrpc.transports.looking import Looker

if TYPE_CHECKING:
    from collections import deque
    from multiprocessing.connection import Connection

    from epyrpc.interrupts import Shield
    from epyrpc.messages import Frame

    _BytesQueue = multiprocessing.queues.Queue[bytes]
else:
    _BytesQueue = multiprocessing.queues.Queue  # not subscriptable before 3.12

PIPE_BYTES = 1 << 20
READ_BYTES = 32768  # what glibc frees in pieces of 64 KiB and more, it consolidates each time
READ_LARGE_BYTES = 1 << 20
JOIN_BYTES = 262144  # what is gathered into one write at most
JOIN_PIECES = 1024
_F_SETPIPE_SZ = 1031  # fcntl.F_SETPIPE_SZ, which 3.10 has only where it was built with it
_LENGTH = struct.Struct("<Q")
SIGNAL_MS = SIGNAL_SECONDS * 1000.0


class WireQueue(_BytesQueue):
    """A `multiprocessing.Queue` of byte strings for one reading and one writing process.

    `put` and `get` keep a queue's manners, so that it can be used and tested as one; the transport reads and writes
    its two connections in bulk. It can be pickled only while a process is being spawned, as any such queue.

    Notes
    -----
    The base class's constructor is not called on purpose: it makes three semaphores, each a name in ``/dev/shm`` and
    all together twenty times the cost of the pipe.
    """

    def __init__(self) -> None:
        reader, writer = multiprocessing.Pipe(duplex=False)
        self._setup(reader, writer)
        with contextlib.suppress(OSError, ImportError):  # smaller pipes only cost speed; macOS has no such call
            import fcntl

            fcntl.fcntl(writer.fileno(), _F_SETPIPE_SZ, PIPE_BYTES)

    def _setup(self, reader: Connection | None, writer: Connection | None) -> None:
        self._reader: Any = reader
        self._writer: Any = writer
        # What the base class's own methods look at; unused here, but a method not overridden must not trip over them.
        self._maxsize = 0
        self._rlock = self._wlock = self._sem = None
        self._opid = os.getpid()
        self._ignore_epipe = False
        self._rest = b""

    def __getstate__(self) -> Any:
        multiprocessing.context.assert_spawning(self)
        return (self._reader, self._writer)

    def __setstate__(self, state: Any) -> None:
        self._setup(*state)

    def _reset(self, after_fork: bool = False) -> None:
        """Do nothing: there is no feeder thread to be reset after a fork."""

    def half(self, *, reading: bool) -> WireQueue:
        """Return a queue object with only the one connection that an end needs."""
        other = WireQueue.__new__(WireQueue)
        other._setup(self._reader if reading else None, None if reading else self._writer)
        return other

    def put(self, obj: bytes, block: bool = True, timeout: float | None = None) -> None:
        """Write one byte string; blocks while the pipe is full, whatever `block` says."""
        data = _LENGTH.pack(len(obj)) + obj
        fd = self._writer.fileno()
        while data:
            try:
                data = data[os.write(fd, data) :]
            except BlockingIOError:
                select.select([], [fd], [])

    def get(self, block: bool = True, timeout: float | None = None) -> bytes:
        """Read one byte string.

        Raises
        ------
        queue.Empty
            Nothing came within `timeout` seconds, or at all without `block`.
        EOFError
            The writing end is closed.
        """
        if not self._reader.poll(timeout if block else 0):
            raise queue.Empty
        (size,) = _LENGTH.unpack(self._read_exactly(_LENGTH.size))
        return self._read_exactly(size)

    def _read_exactly(self, size: int) -> bytes:
        pieces = []
        while size:
            piece = os.read(self._reader.fileno(), min(size, READ_LARGE_BYTES))
            if not piece:
                raise EOFError("the writing end of the queue is closed")
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)

    def empty(self) -> bool:
        """Whether nothing can be read right now."""
        return not self._reader.poll()

    def full(self) -> bool:
        """Return False: how full a pipe is cannot be known."""
        return False

    def qsize(self) -> int:
        """Refuse, as a `multiprocessing.Queue` on macOS does: a pipe does not count."""
        raise NotImplementedError("a WireQueue cannot tell its size")

    def close(self) -> None:
        """Close this process's connections; idempotent."""
        for connection in (self._reader, self._writer):
            if connection is not None and not connection.closed:
                connection.close()

    def join_thread(self) -> None:
        """Return at once: there is no feeder thread."""

    def cancel_join_thread(self) -> None:
        """Return at once: there is no feeder thread."""


class _Waker:
    """A pipe to end a `poll` from another thread."""

    def __init__(self) -> None:
        self.fd, self.write_fd = os.pipe()
        os.set_blocking(self.fd, False)
        os.set_blocking(self.write_fd, False)
        self._lock = threading.Lock()  # a byte must never go to a descriptor that was closed and is somebody else's now
        self._closed = False

    def wake(self) -> None:
        with self._lock, contextlib.suppress(BlockingIOError):  # full: it will wake anyway
            if not self._closed:
                os.write(self.write_fd, b"w")

    def clear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self.fd, 4096)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            os.close(self.fd)
            os.close(self.write_fd)

    def abandon(self) -> None:
        self._lock = threading.Lock()
        self.close()


class PipeLink(Link):
    """A stream of bytes each way, read and written in bulk; what is public here is for `api.straight`.

    Its outbox may also hold events that are not laid out yet; see `messages.lay_out_events`.

    Parameters
    ----------
    reader, writer : multiprocessing.connection.Connection
        Owned from now on. The write end is made non-blocking; the open file behind it is not shared with the other end.
    """

    def __init__(self, reader: Connection, writer: Connection) -> None:
        self.is_pipe = True  # of the instance, where it is found quicker; likewise has_partial
        self.has_partial = False
        self._reader, self._writer = reader, writer
        self.read_fd, self.write_fd = reader.fileno(), writer.fileno()
        os.set_blocking(self.write_fd, False)
        self.parser = FrameParser()
        self._waker = _Waker()
        self.only_data = [(self.read_fd, select.POLLIN)]
        poll = select.poll()
        poll.register(self.read_fd, select.POLLIN)
        poll.register(self._waker.fd, select.POLLIN)
        self.wait_readable = poll.poll
        self.looker = Looker(poll.poll)
        self._partial: memoryview | None = None  # what is left of the byte string last written in part

    def receive(self, timeout: float | None, shield: Shield | None) -> list[Frame]:
        """See `Link.receive`."""
        data = self.receive_bytes(timeout, shield)
        return self.parser.feed(data) if data else []

    def receive_bytes(self, timeout: float | None, shield: Shield | None) -> bytes:
        """Do `receive`, but return what was read as it is, for `parser`."""
        ready = None
        if timeout is None or timeout >= SIGNAL_SECONDS:
            looker = self.looker
            looker.left -= 1
            if looker.looking or not looker.left:
                ready = looker.look()
        if not ready:
            if shield is not None:
                shield.open = True
                if shield.pending:
                    shield.reopen()
                limit = SIGNAL_MS if timeout is None or timeout > SIGNAL_SECONDS else timeout * 1000.0
                ready = self.wait_readable(limit)
                shield.open = False
            else:
                ready = self.wait_readable(None if timeout is None else timeout * 1000.0)
        for fd, _ in ready:
            if fd == self.read_fd:
                missing = self.parser.missing
                data = os.read(fd, READ_BYTES if not missing else min(missing, READ_LARGE_BYTES))
                if not data:
                    raise EOFError("the other end closed its side of the queue, or is gone")
                return data
            self._waker.clear()
        return b""

    def send(self, outbox: deque[Any]) -> bool:
        """See `Link.send`."""
        while True:
            data = self._partial
            if data is None:
                if not outbox:
                    return True
                data = outbox.popleft()
                if (outbox and len(data) < JOIN_BYTES) or type(data) is tuple:
                    data = self._join(data, outbox)
            try:
                written = os.write(self.write_fd, data)
            except BaseException as exc:
                self.keep(data, 0)
                if isinstance(exc, BlockingIOError):
                    return False
                raise
            if written < len(data):
                self.keep(data, written)
            elif self.has_partial:
                self._partial = None
                self.has_partial = False

    def send_one(self, data: bytes, outbox: deque[Any]) -> bool:
        """See `Link.send_one`."""
        try:
            written = os.write(self.write_fd, data)
            if written == len(data):
                return True
        except BaseException as exc:
            self.keep(data, 0)
            if isinstance(exc, BlockingIOError):
                return False
            raise
        self.keep(data, written)
        return False

    def keep(self, data: bytes | memoryview, written: int) -> bool:
        """Keep what is left of a byte string, before anything else: whoever comes next goes on exactly here."""
        self._partial = memoryview(data)[written:]
        self.has_partial = True
        return True

    @staticmethod
    def _join(first: Any, outbox: deque[Any]) -> Any:
        """Gather small pieces into one write; others may append to `outbox` meanwhile, nobody else takes from it."""
        take = outbox.popleft
        pieces = [first, *[take() for _ in range(min(len(outbox), JOIN_PIECES))]]
        if tuple in map(type, pieces):
            pieces = lay_out_events(pieces)
        if sum(map(len, pieces)) > JOIN_BYTES:  # seldom: put back what is too much
            room, count = JOIN_BYTES - len(pieces[0]), 1
            while count < len(pieces) and len(pieces[count]) <= room:
                room -= len(pieces[count])
                count += 1
            outbox.extendleft(reversed(pieces[count:]))
            del pieces[count:]
        return b"".join(pieces) if len(pieces) > 1 else pieces[0]

    def wait_writable(self, timeout: float) -> None:
        """See `Link.wait_writable`."""
        with contextlib.suppress(ValueError):  # closed meanwhile: the caller looks
            poll = select.poll()
            poll.register(self.write_fd, select.POLLOUT)
            poll.poll(timeout * 1000.0)

    def wake(self) -> None:
        """See `Link.wake`."""
        self._waker.wake()

    def close(self) -> None:
        """See `Link.close`."""
        self._reader.close()
        self._writer.close()
        self._waker.close()

    def abandon(self) -> None:
        """See `Link.abandon`."""
        self._reader.close()
        self._writer.close()
        self._waker.abandon()


class PlainQueueLink(Link):
    """Frames over any pair of objects with a queue's `put` and `get`.

    A queue that has no descriptor to wait on is looked at in slices of 20 ms, so `wake` takes that long; an end is
    said to be gone by an empty byte string.
    """

    SLICE = 0.02

    def __init__(self, inbound: Any, outbound: Any) -> None:
        self._inbound, self._outbound = inbound, outbound
        self._parser = FrameParser()
        self._woken = threading.Event()

    def receive(self, timeout: float | None, shield: Shield | None) -> list[Frame]:
        """See `Link.receive`; the shield stays closed, since a `get` cut short may lose what it took."""
        left = timeout
        while True:
            if self._woken.is_set():
                self._woken.clear()
                return []
            try:
                data = self._inbound.get(True, self.SLICE if left is None else max(0.0, min(left, self.SLICE)))
            except queue.Empty:
                if left is not None:
                    left -= self.SLICE
                    if left <= 0:
                        return []
                if shield is not None:
                    shield.serve()
                continue
            if not data:
                raise EOFError("the other end closed the queue")
            return self._parser.feed(data)

    def send(self, outbox: deque[Any]) -> bool:
        """See `Link.send`; a bounded queue that is full is tried again later."""
        while outbox:
            piece = outbox.popleft()
            if not len(piece):
                continue  # an empty one would say that this end has closed
            try:
                self._outbound.put(bytes(piece), False)
            except queue.Full:
                outbox.appendleft(piece)
                return False
        return True

    def wait_writable(self, timeout: float) -> None:
        """See `Link.wait_writable`."""
        threading.Event().wait(min(timeout, self.SLICE))

    def wake(self) -> None:
        """See `Link.wake`."""
        self._woken.set()

    def close(self) -> None:
        """See `Link.close`; the queues belong to whoever made them."""
        with contextlib.suppress(queue.Full, ValueError, OSError):  # full or closed: the other end finds out by itself
            self._outbound.put(b"", False)


class QueueTransportDetails(TransportDetails):
    """What is needed to connect over a pair of queues.

    Parameters
    ----------
    outbound, inbound : queue-like, optional
        Queues to use instead of own ones; anything with ``put(obj, block)`` and ``get(block, timeout)``.

    Examples
    --------
    >>> details = QueueTransportDetails()
    >>> peer = details.invert()
    >>> details.outbound is peer.inbound
    True
    >>> details.release()
    >>> peer.release()
    """

    def __init__(self, outbound: Any = None, inbound: Any = None) -> None:
        self.outbound: Any = outbound if outbound is not None else WireQueue()
        self.inbound: Any = inbound if inbound is not None else WireQueue()
        self._opened = False

    def __getstate__(self) -> Any:
        out, inbound = self.outbound, self.inbound
        # The other process gets its own two connections only: an end left open anywhere hides the end of the file.
        return (
            out.half(reading=False) if isinstance(out, WireQueue) else out,
            inbound.half(reading=True) if isinstance(inbound, WireQueue) else inbound,
        )

    def __setstate__(self, state: Any) -> None:
        self.outbound, self.inbound = state
        self._opened = False

    def invert(self) -> QueueTransportDetails:
        """Return the details of the other end: the same queues, crossed over."""
        return QueueTransportDetails(self.inbound, self.outbound)

    def open(self) -> Link:
        """Open this end.

        Raises
        ------
        IpcError
            It has been opened, or released, before.
        """
        if self._opened:
            raise IpcError("these QueueTransportDetails have been opened before; make new ones for a new connection")
        self._opened = True
        if isinstance(self.outbound, WireQueue) and isinstance(self.inbound, WireQueue):
            return PipeLink(self.inbound._reader, self.outbound._writer)
        return PlainQueueLink(self.inbound, self.outbound)

    def release(self) -> None:
        """Close this end's connections in this process, unless it has been opened here; idempotent."""
        if self._opened:
            return
        self._opened = True
        for wire_queue, end in ((self.inbound, "_reader"), (self.outbound, "_writer")):
            if isinstance(wire_queue, WireQueue):
                connection = getattr(wire_queue, end)
                if connection is not None and not connection.closed:
                    connection.close()


class QueueTransporter(Transporter):
    """One open end over a pair of `multiprocessing.Queue`s."""

    kind = "queue"
