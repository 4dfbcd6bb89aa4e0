"""Every transport of the package passes the public conformance suite, and the suite can fail."""

from __future__ import annotations

import multiprocessing
import threading
from functools import partial
from typing import Any

import pytest

from epyrpc.errors import ApiParamError, TransportClosed
from epyrpc.messages import EVENT, GOODBYE
from epyrpc.testing import TRANSPORT_CHECKS, check_transport, memory_pair, queue_pair
from epyrpc.transports.base import Link
from epyrpc.transports.memory import MemoryLink, MemoryTransportDetails, MemoryTransporter
from epyrpc.transports.queues import QueueTransportDetails


def plain_queue_pair():
    queues = multiprocessing.Queue(), multiprocessing.Queue()
    ends = queue_pair(QueueTransportDetails(outbound=queues[0], inbound=queues[1]), connect=False)

    def release():
        for queue in queues:
            queue._ignore_epipe = True  # a queue that still holds something has nobody who will read it
            queue._reader.close()
            queue.close()
            queue.join_thread()

    return (*ends, release)


PAIRS = {
    "queue": partial(queue_pair, connect=False),
    "memory": partial(memory_pair, connect=False),
    "multiprocessing.Queue": plain_queue_pair,
}


@pytest.mark.capability("S2b")
@pytest.mark.parametrize("check", TRANSPORT_CHECKS)
@pytest.mark.parametrize("kind", PAIRS)
def test_transport_keeps_its_promises(kind, check):
    check_transport(PAIRS[kind], only=check)


def test_suite_names_the_check_that_does_not_exist():
    with pytest.raises(ApiParamError, match="order"):
        check_transport(PAIRS["memory"], only="speed")


# ---- transports that break one promise each -------------------------------------------------------------------------


class BrokenLink(MemoryLink):
    """Does something to the events that come in; calls and control pass."""

    fault = ""

    def receive(self, timeout, shield):
        return self.spoil(super().receive(timeout, shield))

    def spoil(self, frames):
        events = [i for i, frame in enumerate(frames) if frame.kind == EVENT]
        if not events:
            return frames
        first, last = events[0], events[-1]
        if self.fault == "drop":
            del frames[first]
        elif self.fault == "duplicate":
            frames.insert(first, frames[first])
        elif self.fault == "reorder" and first != last:
            frames[first], frames[last] = frames[last], frames[first]
        elif self.fault == "change":
            for i in events:
                if len(frames[i].payload) > 3:
                    frames[i] = frames[i]._replace(payload=b"!" + bytes(frames[i].payload[1:]))
        return frames


class BlockingLink(MemoryLink):
    """Waits for room while it sends: large frames both ways lock up."""

    def send(self, outbox):
        while not super().send(outbox):
            self.wait_writable(0.05)
        return True


class DeafLink(MemoryLink):
    """Does not notice that the other end has closed."""

    def receive(self, timeout, shield):
        try:
            return super().receive(timeout, shield)
        except EOFError:
            threading.Event().wait(0.01 if timeout is None else min(timeout, 0.01))
            return []


class LeakyLink(MemoryLink):
    """Leaves a thread behind."""

    stop = threading.Event()

    def close(self):
        super().close()
        threading.Thread(target=self.stop.wait, args=(30,), name="left-behind").start()


class HastyLink(MemoryLink):
    """Loses the last event before the other end says goodbye."""

    held = ()

    def receive(self, timeout, shield):
        frames = [*self.held, *super().receive(timeout, shield)]
        events = [i for i, frame in enumerate(frames) if frame.kind == EVENT]
        if events and any(frame.kind == GOODBYE for frame in frames):
            del frames[events[-1]]
        self.held = tuple(frames[-1:]) if frames and frames[-1].kind == EVENT else ()
        return frames[: len(frames) - len(self.held)]


def broken_pair(link_type: type[Link], fault: str = "") -> Any:
    class Details(MemoryTransportDetails):
        def invert(self):
            return Details((self._channels[1], self._channels[0]))

        def open(self):
            link = link_type(*self._channels)
            link.fault = fault
            return link

    from epyrpc.transactions import HeadTransactionIdGenerator, NeckTransactionIdGenerator, TransactionManager

    details = Details()
    return (
        MemoryTransporter(details, TransactionManager(HeadTransactionIdGenerator()), name="head"),
        MemoryTransporter(details.invert(), TransactionManager(NeckTransactionIdGenerator()), name="neck"),
    )


@pytest.mark.parametrize(
    ("link_type", "fault", "check", "complaint"),
    [
        pytest.param(BrokenLink, "drop", "order", "lost|came in", id="drops"),
        pytest.param(BrokenLink, "duplicate", "order", "twice|more than", id="duplicates"),
        pytest.param(BrokenLink, "reorder", "order", "out of order", id="reorders"),
        pytest.param(BrokenLink, "change", "order", "changed", id="changes"),
        pytest.param(BrokenLink, "change", "sizes", "changed", id="changes-large"),
        pytest.param(DeafLink, "", "close is heard", "not told", id="deaf"),
        pytest.param(HastyLink, "", "close is heard", "199 of 200", id="hasty"),
    ],
)
def test_suite_fails_on_a_broken_transport(monkeypatch, link_type, fault, check, complaint):
    monkeypatch.setattr("epyrpc.conformance.PATIENCE", 2.0)
    with pytest.raises(AssertionError, match=complaint) as caught:
        check_transport(partial(broken_pair, link_type, fault), only=check)
    assert str(caught.value).startswith(f"transport check {check!r}")


def test_suite_fails_on_a_transport_that_leaves_a_thread():
    try:
        with pytest.raises(AssertionError, match="left-behind"):
            check_transport(partial(broken_pair, LeakyLink), only="corked frames")
    finally:
        LeakyLink.stop.set()
        for thread in threading.enumerate():
            if thread.name == "left-behind":
                thread.join(5)


def test_suite_fails_on_a_transport_that_forgets_that_it_is_closed(monkeypatch):
    def make():
        head, neck = memory_pair(connect=False)
        head.close = lambda **options: type(head).close(neck, **options)  # closes the wrong one
        return head, neck, lambda: type(head).close(head)

    with pytest.raises(AssertionError, match=r"after close\(\)"):
        check_transport(make, only="after close")


def test_suite_wants_ends_that_are_not_connected():
    ends = memory_pair()
    with pytest.raises(AssertionError, match="not connected yet"):
        check_transport(lambda: ends, only="order")
    for end in ends:
        end.close()


def test_pairs_are_connected_when_asked_for():
    for make in (queue_pair, memory_pair):
        head, neck = make()
        assert head.ping() < 5
        head.close()
        neck.close()
        with pytest.raises(TransportClosed):
            head.ping()


def test_the_broken_link_is_only_broken_where_it_says():
    """The control: the same link with no fault passes, so that it is the fault that is found."""
    check_transport(partial(broken_pair, BrokenLink), only="order")
