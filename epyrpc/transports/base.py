"""Interfaces of the transports: a link of bytes, the details needed to open one, and one open end, the `Transporter`.

A transport carries frames (`epyrpc.messages`) from end to end, in order, each once. It knows no api and no body; what a
frame means is its receiver's business. A new transport is a `Link` and a `TransportDetails`; it is done when
`epyrpc.testing.check_transport` passes.
"""

from __future__ import annotations

import abc
import atexit
import enum
import logging
import os
import threading
import weakref
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from epyrpc import messages
from epyrpc.errors import ApiParamError, ConnectionTimeout, EpyrpcError, TransportClosed, TransportDisconnected
from epyrpc.interrupts import forget_shield
from epyrpc.transports.callbacks import Strand
from epyrpc.transports.wire import Wire, my_parker

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable

    from epyrpc.interrupts import Shield
    from epyrpc.messages import Frame

_log = logging.getLogger("epyrpc.transport")
T = TypeVar("T", bound="Transporter")


class Link(abc.ABC):
    """Bytes between two ends.

    `receive` is only ever called by one thread at a time, `send` too (another than the one in `receive`, perhaps);
    `wake` and `wait_writable` may be called by any thread at any time before `close`.

    Attributes
    ----------
    has_partial : bool
        A byte string has been written in part; `send` must be called again although the outbox may be empty.
    """

    has_partial = False
    is_pipe = False  # `queues.PipeLink`, whose `receive` may be gone round

    @abc.abstractmethod
    def receive(self, timeout: float | None, shield: Shield | None) -> list[Frame]:
        """Return the frames that have come, in order; an empty list after `timeout` seconds, or when woken.

        While it waits, and only then, `shield.open` is set. It may return an empty list at any time.

        Raises
        ------
        EOFError
            The other end is gone; every frame that it sent whole has been returned before.
        CodecError
            What came is no frame.
        OSError
            The descriptor failed.
        """

    @abc.abstractmethod
    def send(self, outbox: deque[Any]) -> bool:
        """Send byte strings from the left of `outbox`, in order, without blocking.

        False when there is no room for more.

        What could not be sent stays at the left of `outbox`, or is kept here until the next call.

        Raises
        ------
        OSError
            The other end is gone.
        """

    def send_one(self, data: bytes, outbox: deque[Any]) -> bool:
        """Put `data` before what is in `outbox`, and `send`; while nothing of an earlier string is left to be sent.

        A link that can send `data` alone, without looking at `outbox`, may do so.
        """
        outbox.appendleft(data)
        return self.send(outbox)

    @abc.abstractmethod
    def wait_writable(self, timeout: float) -> None:
        """Return when there may be room, after `timeout` seconds at the latest."""

    @abc.abstractmethod
    def wake(self) -> None:
        """Make the thread in `receive`, or the next one, return at once."""

    @abc.abstractmethod
    def close(self) -> None:
        """Release everything; nobody is inside `receive` or `send` then. The other end sees the end of the file."""

    def abandon(self) -> None:  # noqa: B027 - where nothing is held there is nothing to do
        """In a forked child: close its copies of descriptors, by and by.

        A lock may be held by a thread that is not here.
        """


class TransportState(enum.Enum):
    """Where one end of a transport is in its life."""

    NEW = "new"
    OPEN = "open"
    DISCONNECTED = "disconnected"  # the peer or the world did it
    CLOSED = "closed"  # we did it; final

    def __str__(self) -> str:
        return self.value


class TransportDetails(abc.ABC):
    """What an end needs to connect, made before its peer is started; picklable while a process is being spawned."""

    @abc.abstractmethod
    def invert(self) -> TransportDetails:
        """Return the details of the other end."""

    @abc.abstractmethod
    def open(self) -> Link:
        """Open this end; once."""

    def release(self) -> None:  # noqa: B027 - most details hold nothing before they are opened
        """Give up this end in this process, as after handing it to another; idempotent."""


class TransportListener:
    """Hears state changes, and data that no api handles. Subclass it and override what you need.

    Its methods run on a thread that delivers nothing else, one after the other; they may block and may call back.
    """

    def transport_state_changed(self, state: TransportState) -> None:
        """Hear of a change that the other end caused."""

    def transport_data_received(self, transaction_id: int, data: Any) -> Any:
        """Take data sent with `send_raw`; what this returns answers it when a reply was asked for."""


class Receiver(Protocol):
    """Who gets the frames of a transporter; `api.arbiter.ApiArb` and `ApiBase` are receivers.

    One may also have a ``take_plain(data)``, which delivers the plain frames with which `data` begins, those for the
    transactions too, and returns how many bytes they were; it is `Wire.take_plain`.
    """

    def receive(self, frame: Frame) -> None:
        """Take a CANCEL, CREDIT or RAW frame, in order, on the reading thread; must not block or raise."""

    def receive_call(self, frame: Frame) -> None:
        """Take a CALL frame, likewise."""

    def receive_event(self, frame: Frame) -> None:
        """Take an EVENT frame, likewise."""

    def timers(self, now: float) -> float | None:
        """Look at what is due; return the time of the next look, or None."""

    def transport_state_changed(self, state: TransportState) -> None:
        """Hear of a change that the other end caused; must not block."""

    def transport_ended(self, exc: BaseException) -> None:
        """The transport is over, with `exc` as the reason; must not block."""


class Transactions(Protocol):
    """What a transporter needs of a `TransactionManager`."""

    unpack: Callable[[Any], bytes]

    def __len__(self) -> int:
        """How many are pending."""

    def pending(self) -> tuple[Any, ...]:
        """What is pending now, oldest first."""

    def encode_error(self, error: BaseException) -> bytes:
        """Encode an error for the other end."""

    def bind(self, wire: Any) -> None:
        """Learn who wakes those that wait for a reply."""

    def deliver(self, frame: Frame) -> None:
        """Take a frame about a pending transaction, on the reading thread."""

    def deliver_reply(self, frame: Frame) -> None:
        """Take a REPLY, likewise."""

    def timers(self, now: float) -> float | None:
        """Retire what is overdue; return the time of the next deadline, or None."""

    def release_all(self, error: BaseException) -> int:
        """Fail every pending transaction with `error`."""

    def abandon(self, error: BaseException) -> None:
        """In a forked child: end every pending transaction there, telling nobody."""


_TO_TRANSACTIONS = frozenset(
    {
        messages.REPLY,
        messages.ERROR,
        messages.PART,
        messages.CHUNK,
        messages.END,
        messages.STARTED,
        messages.STOPPED,
        messages.NOTE,
    }
)
_GOODBYE = ("it was closed",)
_TO_RECEIVER = (messages.CALL, messages.EVENT, messages.CANCEL, messages.CREDIT, messages.RAW)


class Transporter:
    """One open end of a transport.

    Parameters
    ----------
    details : TransportDetails
        How to connect.
    transactions : TransactionManager
        The pending transactions of this end.
    listener : TransportListener, optional
        Hears state changes and raw data.
    logger : logging.Logger, optional
        Where this end's records go; `epyrpc.transport` by default.
    name : str, optional
        For threads and messages.
    chain : algorithms.Chain, optional
        Compresses payloads on their way out; each frame says how it was packed, so the other end may have another
        chain.

    Notes
    -----
    States: ``NEW ─connect()→ OPEN ─peer disconnects, or is gone→ DISCONNECTED ─connect()→ OPEN``, and from any of them
    ``─close()→ CLOSED``, which is final.
    """

    # Guarded by _state_lock: state, _ended_with.

    kind = "transport"

    def __init__(
        self,
        details: TransportDetails,
        transactions: Transactions,
        listener: TransportListener | None = None,
        *,
        logger: logging.Logger | None = None,
        name: str = "",
        chain: Any = None,
    ) -> None:
        self.details = details
        self.chain = chain
        self.tells_cause = False  # events carry the call in whose handler they were made; for a head that is a notebook
        self.transactions = transactions
        self.logger = logger if logger is not None else _log
        self.name = name or self.kind
        self.local_name = self.name  # what this end calls itself when it refuses a call
        self.state = TransportState.NEW
        self.peer_seen = threading.Event()  # set when the other end's HELLO has come
        # Called with (transporter, reason) when the link ends by itself; must see to it that finish() is called.
        self.on_end: Callable[[Transporter, BaseException], None] | None = None
        # Returns the error for whoever uses an end that is not open, where somebody knows better than this class.
        self.explain: Callable[[], Exception] | None = None
        self._listeners: list[TransportListener] = [listener] if listener is not None else []
        self._receiver: Receiver | None = None
        self._wire: Wire | None = None
        self._state_lock = threading.Lock()
        self._ended_with: BaseException | None = None
        self._pongs: dict[int, threading.Event] = {}
        self._next_ping = 0
        self._disconnected = threading.Event()
        if chain is not None:
            transactions.unpack = chain.unpack
        self._strand = Strand(self.run_later)
        self._sinks: list[Callable[[Frame], None]] = [self._deliver_control] * (messages.LAST_KIND + 1)
        for kind in _TO_TRANSACTIONS:
            self._sinks[kind] = transactions.deliver
        self._sinks[messages.REPLY] = transactions.deliver_reply
        for kind in _TO_RECEIVER:
            self._sinks[kind] = self._without_receiver

    # --- connecting

    @property
    def is_connected(self) -> bool:
        """Whether calls may be made now."""
        return self.state is TransportState.OPEN

    @property
    def is_finished(self) -> bool:
        """Whether this end has been closed for good."""
        return self.state is TransportState.CLOSED

    @property
    def wire(self) -> Wire:
        """The reading and writing half.

        Raises
        ------
        TransportClosed, TransportDisconnected
            There is none now.
        """
        if self.state is TransportState.OPEN and self._wire is not None:
            return self._wire
        raise self.state_error()

    def state_error(self) -> Exception:
        """Return the error that says why nothing can be sent in this state."""
        if self.explain is not None:
            return self.explain()
        if self.state is TransportState.CLOSED:
            return TransportClosed(f"{self.name}: this end has been closed; make a new transport from new details")
        if self.state is TransportState.NEW:
            return TransportDisconnected(f"{self.name}: not connected yet; call connect() first")
        why = f" ({self._ended_with})" if self._ended_with is not None else ""
        return TransportDisconnected(f"{self.name}: the other end has disconnected{why}; make a new connection")

    def connect(self, timeout: float | None = None) -> None:
        """Open this end; the ends may connect in either order.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait for the other end to have connected too. By default it is not waited for: what is sent
            before waits in the pipe.

        Raises
        ------
        TransportClosed
            This end has been closed.
        ConnectionTimeout
            The other end did not connect within `timeout`; this end stays open.
        """
        with self._state_lock:
            if self.state is TransportState.CLOSED or (self._wire is not None and self._wire.over):
                raise self.state_error()
            first = self._wire is None
            if first:
                link = self.details.open()
                self._wire = Wire(link, self._sinks, self._link_ended, self._timers, self.name)
                self._wire.take_plain = getattr(self._receiver, "take_plain", None)
            reopen = not first and self.state is TransportState.DISCONNECTED
            self.state = TransportState.OPEN
        wire = self._wire
        if wire is None:
            raise AssertionError("no wire after connect")
        if first:
            wire.explain = self.explain
            _connected.add(self)
            self.transactions.bind(wire)
            wire.start()
        if first or reopen:
            wire.send(messages.pack(messages.HELLO), may_block=False)
        if timeout is not None and not self.peer_seen.wait(timeout):
            raise ConnectionTimeout(f"{self.name}: the other end did not connect within {timeout} s; is it running?")

    def ping(self, timeout: float | None = 5.0) -> float:
        """Return the seconds that a question to the other end's reader took.

        Answered even while all its handlers are busy.

        Raises
        ------
        ConnectionTimeout
            No answer within `timeout` seconds.
        TransportClosed, TransportDisconnected
            There is no connection, or it ended meanwhile.
        """
        from time import perf_counter

        wire = self.wire
        with self._state_lock:
            self._next_ping += 1
            number = self._next_ping
            event = self._pongs[number] = threading.Event()
        started = perf_counter()
        try:
            wire.send(
                messages.pack(messages.PING, number), may_block=False
            )  # the limit holds while the pipe is full, too
            if not event.wait(timeout):
                raise ConnectionTimeout(
                    f"{self.name}: no answer to a ping within {timeout} s; the other end may be stopped"
                )
            if number in self._pongs:  # not answered: woken by the end of the connection
                raise self.state_error()
        finally:
            self._pongs.pop(number, None)
        return perf_counter() - started

    def disconnect(self, timeout: float = 1.0) -> bool:
        """Part from the other end, which hears of it; `connect` resumes.

        Returns
        -------
        bool
            Whether the other end has confirmed within `timeout` seconds. This end is disconnected in any case.

        Raises
        ------
        TransportClosed, TransportDisconnected
            There is nothing to disconnect.
        """
        wire = self.wire
        self._disconnected.clear()
        wire.send(messages.pack(messages.DISCONNECT), may_block=False)
        confirmed = self._disconnected.wait(timeout)
        with self._state_lock:
            if self.state is TransportState.OPEN:
                self.state = TransportState.DISCONNECTED
        self.peer_seen.clear()
        self.transactions.release_all(TransportDisconnected(f"{self.name}: disconnected while this call was pending"))
        return confirmed

    def close(self, *, notify: bool = False, linger: float = 1.0) -> None:
        """Close this end for good; pending calls fail with `TransportClosed`, the other end hears of it. Idempotent.

        Parameters
        ----------
        notify : bool
            Tell this end's own listeners as well.
        linger : float
            Seconds to wait at most for what has been sent to leave.
        """
        with self._state_lock:
            if self.state is TransportState.CLOSED:
                return
            self.state = TransportState.CLOSED
            wire = self._wire
        if wire is not None:
            if not wire.over:
                try:
                    wire.send(messages.pack(messages.GOODBYE), may_block=False)
                except EpyrpcError:
                    self.logger.debug("%s: the other end was gone before we said goodbye", self.name)
            wire.stop(linger)
        else:
            self.details.release()
        self._finish(
            TransportClosed(f"{self.name}: closed while this call was pending"), TransportState.CLOSED, notify=notify
        )

    def __enter__(self: T) -> T:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def abandon(self) -> None:
        """In a forked child: let go of the parent's connection without a word on it; no thread of ours is here."""
        self._state_lock = threading.Lock()
        if self.state is TransportState.CLOSED:
            return
        self.state = TransportState.CLOSED
        pid, name = os.getppid(), self.name
        if self.explain is None:
            self.explain = lambda: TransportDisconnected(
                f"{name}: this connection belongs to process {pid}, of which this one was forked; make a new one here"
            )
        if self._wire is not None:
            self._wire.abandon()
        self.transactions.abandon(self.explain())
        abandon = getattr(self._receiver, "abandon", None)
        if abandon is not None:
            abandon()

    # --- sending

    @staticmethod
    def my_parker() -> Any:
        """Return the calling thread's parker."""
        return my_parker()

    def pack(
        self,
        kind: int,
        transaction_id: int = 0,
        path: str = "",
        payload: Any = b"",
        *,
        flags: int = 0,
        options: messages.CallOptions | None = None,
        buffers: Any = (),
    ) -> list[Any]:
        """Lay out a frame, its payload packed by the chain if there is one; buffers are sent as they are."""
        if self.chain is not None and payload:
            payload = self.chain.pack(bytes(payload))
            flags |= messages.PACKED
        return messages.pack(kind, transaction_id, path, payload, flags=flags, options=options, buffers=buffers)

    def send_raw(self, data: bytes, transaction_id: int = 0, *, flags: int = 0) -> None:
        """Send encoded data for the other end's listeners, past every api."""
        self.wire.send(messages.pack(messages.RAW, transaction_id, payload=data, flags=flags))

    def add_listener(self, listener: TransportListener) -> None:
        """Let `listener` hear as well; adding it twice is one."""
        if listener not in self._listeners:
            self._listeners.append(listener)

    def remove_listener(self, listener: TransportListener) -> None:
        """Let `listener` hear no more; nothing when it did not."""
        if listener in self._listeners:
            self._listeners.remove(listener)

    @property
    def listeners(self) -> tuple[TransportListener, ...]:
        """Who hears of state changes and of raw data."""
        return tuple(self._listeners)

    @property
    def receiver(self) -> Receiver | None:
        """Who gets calls and events."""
        return self._receiver

    def set_receiver(self, receiver: Receiver | None) -> None:
        """Set who gets calls and events; one api, or an `ApiArb` for many.

        Raises
        ------
        ApiParamError
            There is one already.
        """
        with self._state_lock:
            if receiver is not None and self._receiver is not None and self._receiver is not receiver:
                raise ApiParamError(
                    "ipc",
                    receiver,
                    ["a transport without an api"],
                    hint="wrap it once in ApiArb(ipc) to share it among apis",
                )
            self._receiver = receiver
            if self._wire is not None:
                self._wire.take_plain = getattr(receiver, "take_plain", None)
            for kind in _TO_RECEIVER:
                self._sinks[kind] = self._without_receiver if receiver is None else receiver.receive
            if receiver is not None:
                self._sinks[messages.CALL] = receiver.receive_call
                self._sinks[messages.EVENT] = receiver.receive_event

    # --- delivering, on the reading thread

    def _without_receiver(self, frame: Frame) -> None:
        """Nobody is there to take a call yet; its caller must hear of it."""
        self.logger.warning(
            "%s: no api is bound here: %s is dropped", self.name, frame.path or messages.KIND_NAMES[frame.kind]
        )
        if frame.kind == messages.CALL and self._wire is not None:
            error = TransportDisconnected(
                f"{self.local_name} has no api to handle {frame.path!r}; bind one there first"
            )
            self._wire.send(
                messages.pack(
                    messages.ERROR, frame.transaction_id, messages.REFUSED, self.transactions.encode_error(error)
                )
            )

    def _deliver_control(self, frame: Frame) -> None:
        wire = self._wire
        if wire is None:
            return
        if frame.kind == messages.PING:
            wire.send(messages.pack(messages.PONG, frame.transaction_id), may_block=False)
        elif frame.kind == messages.PONG:
            event = self._pongs.pop(frame.transaction_id, None)
            if event is not None:
                event.set()
        elif frame.kind == messages.HELLO:
            if self._peer_connected():  # a connect() that comes now finds this end open and says nothing
                wire.send(messages.pack(messages.HELLO), may_block=False)
        elif frame.kind == messages.DISCONNECT:
            wire.send(messages.pack(messages.DISCONNECTED), may_block=False)
            self._peer_disconnected()
        elif frame.kind == messages.DISCONNECTED:
            self._disconnected.set()
        elif frame.kind == messages.GOODBYE:
            self._ended_with = EOFError(*_GOODBYE)

    def _peer_connected(self) -> bool:
        """Note that the other end has connected; return whether that has brought this one back too."""
        with self._state_lock:
            resumed = self.state is TransportState.DISCONNECTED
            if resumed:
                self.state = TransportState.OPEN
        self.peer_seen.set()
        self._tell(TransportState.OPEN)
        return resumed

    def _peer_disconnected(self) -> None:
        with self._state_lock:
            if self.state is not TransportState.OPEN:
                return
            self.state = TransportState.DISCONNECTED
        self.peer_seen.clear()
        self.transactions.release_all(TransportDisconnected(f"{self.name}: the other end disconnected"))
        self._tell(TransportState.DISCONNECTED)

    def _timers(self, now: float) -> float | None:
        due = self.transactions.timers(now)
        if self._receiver is not None:
            other = self._receiver.timers(now)
            if other is not None and (due is None or other < due):
                return other
        return due

    # --- the end

    def _link_ended(self, exc: BaseException) -> None:
        """Hear from the wire that the link has ended by itself; runs on whichever thread read it."""
        with self._state_lock:
            said_goodbye = isinstance(self._ended_with, EOFError) and self._ended_with.args == _GOODBYE
            if not said_goodbye:
                self._ended_with = exc
        if self.on_end is not None:
            self.on_end(self, exc)
            return
        text = "the other end closed" if said_goodbye else f"the connection ended: {exc or type(exc).__name__}"
        error = TransportDisconnected(f"{self.name}: {text}; make a new connection")
        error.__cause__ = exc
        self.finish(error)

    def finish(self, error: BaseException) -> None:
        """The link is over: fail what is pending with `error` and tell everybody. Once; later calls do nothing."""
        with self._state_lock:
            if self.state in (TransportState.CLOSED, TransportState.DISCONNECTED):
                return
            self.state = TransportState.DISCONNECTED
            said_goodbye = isinstance(self._ended_with, EOFError) and self._ended_with.args == _GOODBYE
        self._finish(error, TransportState.DISCONNECTED, notify=True)
        if said_goodbye:
            self._tell(TransportState.CLOSED)

    def _finish(self, error: BaseException, state: TransportState, *, notify: bool) -> None:
        self.peer_seen.clear()
        self.transactions.release_all(error)
        receiver = self._receiver
        if receiver is not None:
            receiver.transport_ended(error)
        if notify:
            self._tell(state)
        for event in list(self._pongs.values()):
            event.set()

    def _tell(self, state: TransportState) -> None:
        """Tell the receiver and the listeners; listeners on a thread where they may block."""
        receiver = self._receiver
        if receiver is not None:
            receiver.transport_state_changed(state)
        if self._listeners:
            self._strand(lambda: self._tell_listeners(state))

    def _tell_listeners(self, state: TransportState) -> None:
        for listener in self.listeners:
            try:
                listener.transport_state_changed(state)
            except Exception:
                self.logger.exception("%s: a listener failed on %s", self.name, state)

    def run_later(self, work: Callable[[], object]) -> None:
        """Run `work` on a thread where user code may block; here and now when this end was never connected."""
        if self._wire is None:
            work()
        else:
            self._wire.run_later(work)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} {self.state}>"


_connected: weakref.WeakSet[Transporter] = weakref.WeakSet()


def _abandon_all() -> None:
    forget_shield()
    for transporter in list(_connected):
        transporter.abandon()
    _connected.clear()


def _still_all() -> None:
    """At the interpreter's end: no thread of a transport left open may wake while Python is being taken down."""
    for transporter in list(_connected):
        if transporter._wire is not None:
            transporter._wire.still()


atexit.register(_still_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_abandon_all)
