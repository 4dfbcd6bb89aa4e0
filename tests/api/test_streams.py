"""Generator handlers: parts as they come, back-pressure, errors after parts, readers that go away."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import gc
import threading

import pytest

from epyrpc import ApiBase, CallState, Stream, TransactionTimeout, TransportDisconnected, current_call
from epyrpc.api.action import STREAM_WINDOW
from tests.api.ends import LIMIT, eventually, waits


class Counting:
    """Handlers that count on, and note how far they came and that they ended."""

    def __init__(self):
        self.made = 0
        self.closed = threading.Event()
        self.started = threading.Event()

    def plain(self, limit=None):
        self.started.set()
        try:
            while self.made != limit:
                self.made += 1
                yield self.made
        finally:
            self.closed.set()

    async def asynchronous(self, limit=None):
        self.started.set()
        try:
            while self.made != limit:
                await asyncio.sleep(0)
                self.made += 1
                yield self.made
        finally:
            self.closed.set()


@pytest.fixture(params=["plain", "asynchronous"])
def counting(request, wire):
    """`(head, Counting)`; the neck's test.count is a generator, or an async one."""
    head, neck = wire.pair()
    counter = Counting()
    neck.set_handler("count", getattr(counter, request.param))
    return head, counter


def test_stream_yields_the_parts_in_order(counting):
    head, counter = counting
    stream = head.stream("count", 1000)
    assert isinstance(stream, Stream)
    assert list(stream) == list(range(1, 1001))
    assert stream.state is CallState.DONE
    assert list(stream) == []
    assert counter.closed.is_set()


@pytest.mark.parametrize("count", [0, 1, STREAM_WINDOW - 1, STREAM_WINDOW, STREAM_WINDOW + 1, 3 * STREAM_WINDOW])
def test_stream_of_any_length_ends(queue_wire, count):
    head, neck = queue_wire.pair()
    neck.set_handler("count", lambda n: iter_numbers(n))
    assert list(head.stream("count", count)) == list(range(count))
    assert len(queue_wire.ipc_head.transactions) == 0


def iter_numbers(n):
    yield from range(n)


def test_call_and_submit_give_the_parts_as_a_list(counting):
    head, _ = counting
    assert head.count(3)(timeout=LIMIT) == [1, 2, 3]
    assert head.count(5)(sync=False).result(LIMIT) == [4, 5]
    assert head.submit("count", 7).result(LIMIT) == [6, 7]


def test_stream_of_a_plain_handler_yields_once(wire):
    head, neck = wire.pair()
    neck.set_handler("plain", lambda x: x)

    async def later(x):
        await asyncio.sleep(0)
        return x

    neck.set_handler("later", later)
    for path in ("plain", "later"):
        for value in ([1, 2], None, 0):
            stream = head.stream(path, value)
            assert list(stream) == [value]
            assert list(stream) == []
    stream = head.stream("plain", "x")
    assert stream.call.result(LIMIT) == "x"
    assert list(stream) == ["x"]


def test_parts_come_while_the_handler_runs(wire):
    head, neck = wire.pair()
    taken, gate = wire.gate(), wire.gate()

    def handler():
        yield "first"
        waits(taken)
        yield "second"
        waits(gate)

    neck.set_handler("parts", handler)
    stream = head.stream("parts")
    assert next(stream) == "first"
    eventually(lambda: stream.state is CallState.STREAMING)
    taken.set()
    assert next(stream) == "second"
    gate.set()
    with pytest.raises(StopIteration):
        next(stream)


def test_handler_runs_ahead_of_its_reader_by_the_window_and_no_more(counting, wire):
    head, counter = counting
    stream = head.stream("count")
    eventually(lambda: counter.made >= STREAM_WINDOW)
    ahead = STREAM_WINDOW + 1  # one more is made, and waits to be sent
    for taken in (0, STREAM_WINDOW // 2, STREAM_WINDOW, 10 * STREAM_WINDOW):
        while stream_taken(stream) < taken:
            next(stream)
            stream.seen += 1
        for _ in range(5):
            wire.flush()
        assert counter.made <= taken + ahead
    assert counter.made > 10 * STREAM_WINDOW
    stream.close()
    waits(counter.closed)


def stream_taken(stream):
    if not hasattr(stream, "seen"):
        stream.seen = 0
    return stream.seen


@pytest.mark.parametrize("kind", ["plain", "async"])
def test_exception_after_parts_comes_after_the_parts(wire, kind):
    head, neck = wire.pair()

    def plain():
        yield from (1, 2, 3)
        raise KeyError("after three")

    async def asynchronous():
        for i in (1, 2, 3):
            yield i
        raise KeyError("after three")

    neck.set_handler("fails", plain if kind == "plain" else asynchronous)
    stream, got = head.stream("fails"), []
    with pytest.raises(KeyError, match="after three") as caught:
        got.extend(stream_into(got, stream))
    assert got == [1, 2, 3]
    assert f"in {'plain' if kind == 'plain' else 'asynchronous'}" in str(caught.value.__cause__)
    assert stream.state is CallState.FAILED
    assert list(stream) == []
    with pytest.raises(KeyError, match="after three"):
        head.fails()(timeout=LIMIT)


def stream_into(got, stream):
    for part in stream:
        got.append(part)
    return ()


def test_part_that_cannot_be_pickled_fails_the_stream(wire):
    head, neck = wire.pair()

    def handler():
        yield 1
        yield threading.Lock()

    neck.set_handler("lock", handler)
    stream = head.stream("lock")
    assert next(stream) == 1
    with pytest.raises(Exception, match=r"part of the stream.*lock"):
        next(stream)


@pytest.mark.parametrize("way", ["close", "with", "cancel", "drop", "break"])
def test_stream_that_is_given_up_stops_the_handler(counting, way, wire):
    head, counter = counting
    stream = head.stream("count")
    assert next(stream) == 1
    call = stream.call
    if way == "close":
        stream.close()
        stream.close()
        assert list(stream) == []
    elif way == "with":
        with stream as same:
            assert same is stream
            assert next(stream) == 2
    elif way == "cancel":
        assert stream.cancel() is True
        assert stream.cancel() is False
        with pytest.raises(concurrent.futures.CancelledError):
            list(stream)
    elif way == "drop":
        del stream
    else:
        for part in stream:
            if part == 10:
                break
        del part, stream
    gc.collect()
    waits(counter.closed)
    assert call.state is CallState.CANCELLED
    assert eventually(lambda: call.stopped) in ("cooperative", "raised")
    assert len(wire.ipc_head.transactions) == 0
    assert head.count(counter.made + 1)(timeout=LIMIT) == [counter.made]


def test_stream_collected_while_its_thread_holds_the_locks_of_the_wire_does_not_hang(wire):
    head, neck = wire.pair()
    head.configure(timeout=60)
    counter = Counting()
    neck.set_handler("count", counter.plain)
    manager, lead = wire.ipc_head.transactions, wire.ipc_head.wire.lead

    def collect(lock):
        stream = head.stream("count")
        next(stream)
        cycle = [stream]
        cycle.append(cycle)
        del stream, cycle
        lock.acquire()
        gc.collect()  # as may happen wherever something is allocated
        with contextlib.suppress(RuntimeError):  # the test released it, having seen that this thread is stuck
            lock.release()

    for lock in (manager._deadline_lock, lead.lock):
        thread = threading.Thread(target=collect, args=(lock,), daemon=True)
        thread.start()
        thread.join(2)
        stuck = thread.is_alive()
        if stuck:
            lock.release()  # so that the test can end
            thread.join(LIMIT)
        assert not stuck
        waits(counter.closed)
        counter.closed.clear()


def test_deadline_of_a_stream_ends_it(wire):
    head, neck = wire.pair()
    gate = wire.gate()
    closed = threading.Event()

    def handler():
        try:
            yield 1
            while not gate.wait(0.005):
                current_call().check()
        finally:
            closed.set()

    neck.set_handler("stuck", handler)
    head.configure(timeout=0.1)
    stream = head.stream("stuck")
    assert next(stream) == 1
    with pytest.raises(TransactionTimeout):
        next(stream)
    assert stream.state is CallState.TIMED_OUT
    waits(closed)


def test_stream_ends_with_the_connection(counting, wire):
    head, counter = counting
    stream = head.stream("count")
    assert next(stream) == 1
    wire.ipc_neck.close()
    with pytest.raises(TransportDisconnected):
        list(stream)
    assert stream.state is CallState.LOST
    waits(counter.closed)


def test_other_calls_are_served_while_a_stream_waits_for_its_reader(wire):
    head = wire.head()
    neck = wire.neck(ApiBase("test", workers=2))
    counter = Counting()
    neck.set_handler("count", counter.plain)
    neck.set_handler("echo", lambda x: x)
    with head.stream("count") as stream:
        eventually(lambda: counter.made > STREAM_WINDOW)
        for i in range(10):
            assert head.echo(i)(timeout=LIMIT) == i
        assert next(stream) == 1
    waits(counter.closed)


def test_two_streams_of_one_handler_do_not_mix(wire):
    head = wire.head()
    neck = wire.neck(ApiBase("test", workers=2))
    neck.set_handler("pairs", lambda name, n: ((name, i) for i in range(n)))
    first, second = head.stream("pairs", "a", 300), head.stream("pairs", "b", 300)
    for i, pair in enumerate(zip(first, second, strict=True)):
        assert pair == (("a", i), ("b", i))


def test_stream_is_an_asynchronous_iterator_too(counting):
    head, _ = counting

    async def main():
        return [part async for part in head.stream("count", 100)]

    assert asyncio.run(main()) == list(range(1, 101))


def test_event_to_a_generator_handler_runs_it_to_its_end(counting):
    head, counter = counting
    assert head.count(20)(solicited=False) is None
    waits(counter.closed)
    assert counter.made == 20


# ------------------------------------------------------------------------------------------------------ async handlers


def test_async_handlers_share_one_loop_and_do_not_hold_a_worker(wire):
    head, neck = wire.pair(workers=1)
    events = {}

    async def meet(name, other):
        for key in (name, other):
            events.setdefault(key, asyncio.Event())
        events[name].set()
        await asyncio.wait_for(events[other].wait(), LIMIT)
        return threading.current_thread().name, current_call().path

    neck.set_handler("meet", meet)
    a, b = head.meet("a", "b")(sync=False), head.meet("b", "a")(sync=False)
    assert a.result(LIMIT) == b.result(LIMIT) == ("epyrpc-asyncio", "test.meet")


def test_exception_of_an_async_handler_reaches_the_caller(wire):
    head, neck = wire.pair()

    async def fails():
        await asyncio.sleep(0)
        raise LookupError("from the loop")

    neck.set_handler("fails", fails)
    with pytest.raises(LookupError, match="from the loop"):
        head.fails()(timeout=LIMIT)


@pytest.mark.parametrize("end", ["cancel", "timeout", "close"])
def test_async_handler_is_cancelled_with_its_call(wire, end):
    head, neck = wire.pair()
    started, stopped = threading.Event(), threading.Event()

    async def forever():
        started.set()
        try:
            await asyncio.sleep(1000)
        finally:
            stopped.set()

    neck.set_handler("forever", forever)
    held = head.forever()(sync=False, timeout=0.2 if end == "timeout" else None)
    waits(started)
    if end == "cancel":
        held.cancel()
    elif end == "close":
        wire.ipc_head.close()
    waits(stopped)
    if end != "close":
        assert eventually(lambda: held.stopped) == "cooperative"


def test_async_handler_may_await_a_call_of_its_own(wire):
    head, neck = wire.pair()
    head.set_handler("rate", lambda: 7)

    async def handler():
        return await neck.rate()(sync=False) + 1

    neck.set_handler("asks", handler)
    assert head.asks()(timeout=LIMIT) == 8
