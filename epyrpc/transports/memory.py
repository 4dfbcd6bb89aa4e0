"""Transport within one process, without descriptors.

For tests, for bodies that are threads, and as proof of the interface.
"""

from __future__ import annotations

import threading
from collections import deque
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

from epyrpc.errors import IpcError
from epyrpc.messages import FrameParser
from epyrpc.transports.base import Link, TransportDetails, Transporter

if TYPE_CHECKING:
    from epyrpc.interrupts import Shield
    from epyrpc.messages import Frame


class _Channel:
    """One direction: byte strings in order, and a flag that no more will come."""

    LIMIT = 1024  # byte strings under way before send() says that there is no room

    def __init__(self) -> None:
        self.condition = threading.Condition(threading.Lock())
        self.items: deque[bytes] = deque()
        self.closed = False
        self.woken = False


class MemoryLink(Link):
    """Byte strings handed over in memory."""

    def __init__(self, inbound: _Channel, outbound: _Channel) -> None:
        self._inbound, self._outbound = inbound, outbound
        self._parser = FrameParser()

    def receive(self, timeout: float | None, shield: Shield | None) -> list[Frame]:
        """See `Link.receive`."""
        channel = self._inbound
        with channel.condition:
            if not (channel.items or channel.closed or channel.woken):
                # The shield stays closed: an interrupt inside Condition.wait would leave its lock in the wrong hands.
                # It is served in slices instead.
                channel.condition.wait(timeout if shield is None else 0.05 if timeout is None else min(timeout, 0.05))
            channel.woken = False
            data = b"".join(channel.items)
            channel.items.clear()
            channel.condition.notify_all()
            if not data and channel.closed:
                raise EOFError("the other end closed")
        if shield is not None and not data:
            shield.serve()
        return self._parser.feed(data) if data else []

    def send(self, outbox: deque[Any]) -> bool:
        """See `Link.send`."""
        channel = self._outbound
        with channel.condition:
            while outbox:
                if channel.closed:
                    raise BrokenPipeError("the other end closed")
                if len(channel.items) >= channel.LIMIT:
                    return False
                channel.items.append(bytes(outbox.popleft()))
            channel.condition.notify_all()
        return True

    def wait_writable(self, timeout: float) -> None:
        """See `Link.wait_writable`."""
        # The shield is open here, and an interrupt inside Condition.wait would leave its lock in the wrong hands: so
        # look, without the lock, and sleep.
        channel, end = self._outbound, monotonic() + timeout
        while len(channel.items) >= channel.LIMIT and not channel.closed and monotonic() < end:
            sleep(0.0005)

    def wake(self) -> None:
        """See `Link.wake`."""
        channel = self._inbound
        with channel.condition:
            channel.woken = True
            channel.condition.notify_all()

    def close(self) -> None:
        """See `Link.close`."""
        for channel in (self._inbound, self._outbound):
            with channel.condition:
                channel.closed = True
                channel.condition.notify_all()


class MemoryTransportDetails(TransportDetails):
    """What is needed to connect within one process; it cannot be pickled."""

    def __init__(self, _channels: tuple[_Channel, _Channel] | None = None) -> None:
        self._channels = _channels if _channels is not None else (_Channel(), _Channel())
        self._opened = False

    def __getstate__(self) -> Any:
        raise TypeError("a memory transport stays within one process; use QueueTransportDetails to reach another")

    def invert(self) -> MemoryTransportDetails:
        """Return the details of the other end."""
        return MemoryTransportDetails((self._channels[1], self._channels[0]))

    def open(self) -> Link:
        """Open this end, once.

        Raises
        ------
        IpcError
            It has been opened before.
        """
        if self._opened:
            raise IpcError("these MemoryTransportDetails have been opened before; make new ones for a new connection")
        self._opened = True
        return MemoryLink(self._channels[0], self._channels[1])


class MemoryTransporter(Transporter):
    """One open end within one process."""

    kind = "memory"
