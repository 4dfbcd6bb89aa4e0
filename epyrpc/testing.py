"""Public helpers for testing code that is built on epyrpc, and transports made for it.

`check_transport` is the conformance suite: a transport is done when it passes.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from epyrpc.conformance import TRANSPORT_CHECKS, check_transport
from epyrpc.errors import ApiParamError
from epyrpc.transactions import HeadTransactionIdGenerator, NeckTransactionIdGenerator, TransactionManager
from epyrpc.transports.memory import MemoryTransportDetails, MemoryTransporter
from epyrpc.transports.queues import QueueTransportDetails, QueueTransporter

if TYPE_CHECKING:
    from collections.abc import Callable

    from epyrpc.transports.base import TransportDetails, Transporter

__all__ = ["TRANSPORT_CHECKS", "ManualClock", "check_transport", "memory_pair", "queue_pair"]


class ManualClock:
    """A clock that stands still until it is told to advance.

    Parameters
    ----------
    start : float, optional
        What it shows at first, in seconds.

    Examples
    --------
    >>> clock = ManualClock()
    >>> before = clock.monotonic()
    >>> clock.advance(5)
    >>> clock.monotonic() - before
    5.0
    """

    def __init__(self, start: float = 1000.0) -> None:
        self._lock = threading.Lock()
        self._now = float(start)  # Guarded by _lock.
        self._listeners: list[Callable[[], object]] = []  # Guarded by _lock.

    def monotonic(self) -> float:
        """Return what the clock shows, in seconds; may be called on any thread."""
        return self._now  # one read of one attribute: a lock would add nothing

    def advance(self, seconds: float) -> None:
        """Move the clock forward, then run the listeners on this thread.

        Parameters
        ----------
        seconds : float
            How far; at least 0.

        Raises
        ------
        ApiParamError
            `seconds` is negative or not a number: a monotonic clock never goes back.
        """
        if not seconds >= 0:
            raise ApiParamError("seconds", seconds, "a number >= 0")
        with self._lock:
            self._now += seconds
            listeners = list(self._listeners)
        for listener in listeners:
            listener()

    def on_advance(self, listener: Callable[[], object]) -> Callable[[], None]:
        """Have a function called after each `advance`, say one that wakes a thread which waits for a deadline.

        Returns
        -------
        callable
            Call it to have the listener forgotten; twice is harmless.
        """
        with self._lock:
            self._listeners.append(listener)

        def forget() -> None:
            with self._lock:
                if listener in self._listeners:
                    self._listeners.remove(listener)

        return forget

    def __repr__(self) -> str:
        """Show the time."""
        return f"<ManualClock at {self._now:g} s>"


def queue_pair(
    details: QueueTransportDetails | None = None, *, connect: bool = True
) -> tuple[Transporter, Transporter]:
    """Return the two ends of a queue transport, both in this process; close both when done.

    Parameters
    ----------
    details : QueueTransportDetails, optional
        Of the first end; new ones by default.
    connect : bool
        Connect both.

    Returns
    -------
    tuple of Transporter
        The Head's end and the Neck's.

    Examples
    --------
    >>> from epyrpc import ApiArb, ApiBase
    >>> head_ipc, neck_ipc = queue_pair()
    >>> head, neck = ApiBase("maths", ipc=ApiArb(head_ipc)), ApiBase("maths", ipc=ApiArb(neck_ipc))
    >>> neck.set_handler("double", lambda x: 2 * x)
    >>> head.double(21)(timeout=5)
    42
    >>> for part in (head, neck):
    ...     part.teardown()
    >>> for part in (head_ipc, neck_ipc):
    ...     part.close()
    """
    return _pair(QueueTransporter, details if details is not None else QueueTransportDetails(), connect)


def memory_pair(*, connect: bool = True) -> tuple[Transporter, Transporter]:
    """Return the two ends of a transport within this process, without descriptors; close both when done.

    Parameters
    ----------
    connect : bool
        Connect both.

    Returns
    -------
    tuple of Transporter
        The Head's end and the Neck's.
    """
    return _pair(MemoryTransporter, MemoryTransportDetails(), connect)


def _pair(kind: type[Transporter], details: TransportDetails, connect: bool) -> tuple[Transporter, Transporter]:
    head = kind(details, TransactionManager(HeadTransactionIdGenerator()), name="head")
    neck = kind(details.invert(), TransactionManager(NeckTransactionIdGenerator()), name="neck")
    if connect:
        head.connect()
        neck.connect()
    return head, neck
