"""How many events one end may have sent that the other has not handled yet.

Calls hold their caller up by themselves; events do not, so without this a sender that is faster than the handlers fills
the other end's memory. The other end tells from time to time how many it has handled (a CREDIT frame of no call), and
who sends more than `LIMIT` ahead of that waits.

The reader of the wire never waits here. Nobody waits for ever: when nothing at all has been handled for a second, one
more event is let through, since the two ends' handlers may wait for each other.
"""

from __future__ import annotations

import itertools
import threading
from time import monotonic
from typing import TYPE_CHECKING, Any

from epyrpc import messages
from epyrpc.interrupts import raise_shield
from epyrpc.transports.lead import READING

if TYPE_CHECKING:
    from epyrpc.transports.lead import Parker

LIMIT = 10_000  # of `messages.EVENT_BYTES` or less: 64 MB in all
PATIENCE_SECONDS = 1.0
LOOK_SECONDS = 0.05  # an interrupt of who waits is served that soon


class EventWindow:
    """Counts the events that one end has sent and the other has handled.

    Attributes
    ----------
    sent : iterator
        Gives each event its number; one step, so that threads need no lock.
    allowed : int
        The number of the last event that may be sent now.
    """

    # Guarded by _news: writing `allowed`.

    def __init__(self) -> None:
        self.sent = itertools.count(1)
        self.allowed = LIMIT
        self._news = threading.Condition()

    def add(self, count: int) -> None:
        """Note that so many more have been handled; any thread, the reader too."""
        with self._news:
            self.allowed += count
            self._news.notify_all()

    def take(self, payload: Any, buffers: Any) -> int:
        """Return how many events one counts for, by its size; that it is one is counted already."""
        weight: int = 1 + (len(payload) + sum(len(buffer.raw()) for buffer in buffers)) // messages.EVENT_BYTES
        if weight > 1:
            self.add(1 - weight)
        return weight

    def wait(self, number: int, wire: Any, me: Parker) -> None:
        """Wait until event `number` may be sent; returns at once on the thread that reads the wire.

        Raises
        ------
        BaseException
            What interrupts the thread; then the event is taken back.
        """
        lead = wire.lead
        if lead.holder is me and lead.state == READING:
            return  # a signal handler: it interrupted the very reader
        lead.pass_on(me)  # who sleeps does not lead: the credit has to be read
        seen, since = self.allowed, monotonic()
        try:
            while number > self.allowed and not wire.over:
                shield = raise_shield()  # an interrupt inside the condition could leave its lock behind
                try:
                    with self._news:
                        if number > self.allowed:
                            self._news.wait(LOOK_SECONDS)
                finally:
                    if shield is not None:
                        shield.lower()
                if self.allowed != seen:
                    seen, since = self.allowed, monotonic()
                elif monotonic() - since >= PATIENCE_SECONDS:
                    return
        except BaseException:
            self.add(1)  # as if it had been handled
            raise


__all__ = ["LIMIT", "EventWindow"]
