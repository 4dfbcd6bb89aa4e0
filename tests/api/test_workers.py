"""Handlers run on workers: how many, in which order, on which threads; the reader goes on."""

from __future__ import annotations

import threading
import time

import pytest

from epyrpc import ApiBase, current_call
from tests.api.ends import LIMIT, eventually, waits


class Load:
    """Counts how many handlers are inside at once."""

    def __init__(self):
        self.lock = threading.Lock()
        self.now = self.most = 0
        self.order = []

    def __call__(self, i, seconds=0.0):
        with self.lock:
            self.now += 1
            self.most = max(self.most, self.now)
            self.order.append(i)
        time.sleep(seconds)
        with self.lock:
            self.now -= 1
        return i


@pytest.mark.capability("S14a")
@pytest.mark.parametrize("workers", [2, 4, 8])
def test_as_many_handlers_run_at_once_as_there_are_workers(wire, workers):
    head = wire.head()
    neck = wire.neck(ApiBase("test", workers=workers))
    together = threading.Barrier(workers)
    neck.set_handler("meet", lambda: together.wait(LIMIT) >= 0)
    for _ in range(3):
        held = [head.meet()(sync=False) for _ in range(workers)]
        assert all(one.result(LIMIT) for one in held)


@pytest.mark.capability("S14a")
def test_four_workers_do_four_slow_calls_in_the_time_of_two(wire):
    head = wire.head()
    neck = wire.neck(ApiBase("test", workers=4))
    load = Load()
    neck.set_handler("slow", load)
    started = time.monotonic()
    held = [head.slow(i, 0.5)(sync=False) for i in range(4)]
    assert [one.result(LIMIT) for one in held] == [0, 1, 2, 3]
    assert time.monotonic() - started < 1
    assert load.most == 4


@pytest.mark.capability("S14a")
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_never_more_run_than_there_are_workers(wire, workers):
    head = wire.head()
    neck = wire.neck(ApiBase("test", workers=workers))
    load = Load()
    neck.set_handler("work", load)
    held = [head.work(i, 0.002)(sync=False) for i in range(60)]
    assert [one.result(LIMIT) for one in held] == list(range(60))
    assert load.most == workers
    names = [thread.name for thread in threading.enumerate() if "neck-test-worker" in thread.name]
    assert len(names) <= workers


@pytest.mark.capability("S14b")
def test_one_worker_is_strictly_serial_and_in_order(wire):
    head, neck = wire.pair(workers=1)
    load = Load()
    neck.set_handler("work", load)
    neck.set_handler("other", load)
    gate, first = wire.gate(), threading.Event()
    neck.set_handler("first", lambda: (first.set(), gate.wait(LIMIT)))
    blocker = head.first()(sync=False)
    waits(first)  # everything from here on queues up
    held = []
    for i in range(200):
        action = (head.work, head.other)[i % 2](i, 0.0005 if i % 10 == 0 else 0.0)
        held.append(action(sync=False)) if i % 3 else action(solicited=False)
    gate.set()
    blocker.result(LIMIT)
    for one in held:
        one.result(LIMIT)
    eventually(lambda: len(load.order) == 200)
    assert load.order == list(range(200))
    assert load.most == 1


@pytest.mark.capability("S14b")
def test_one_worker_serves_several_callers_serially(wire):
    head, neck = wire.pair(workers=1)
    load = Load()
    neck.set_handler("work", load)
    threads = [
        threading.Thread(target=lambda n=n: [head.work((n, i))(timeout=LIMIT) for i in range(50)]) for n in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert load.most == 1
    for n in range(6):
        assert [i for who, i in load.order if who == n] == list(range(50))


@pytest.mark.capability("S14b")
def test_default_is_one_worker(wire):
    head, neck = wire.head(), wire.neck()
    load = Load()
    neck.set_handler("work", load)
    held = [head.work(i, 0.002)(sync=False) for i in range(20)]
    assert [one.result(LIMIT) for one in held] == list(range(20))
    assert load.most == 1
    assert load.order == list(range(20))


@pytest.mark.capability("E22")
@pytest.mark.parametrize("direction", ["head to neck", "neck to head"])
def test_handler_runs_on_a_worker_thread_of_its_api(wire, direction):
    head, neck = wire.pair()
    caller, callee = (head, neck) if direction == "head to neck" else (neck, head)
    callee.set_handler("name", lambda: (threading.current_thread().name, threading.current_thread().daemon))
    name, daemon = caller.name()(timeout=LIMIT)
    assert name.startswith(f"epyrpc-{'neck' if callee is neck else 'head'}-test-worker-")
    assert daemon
    assert name != threading.current_thread().name


@pytest.mark.capability("E22")
def test_receiver_goes_on_while_a_handler_takes_its_time(wire):
    head, neck = wire.pair(workers=1)
    other_head, other_neck = wire.head(ApiBase("other")), wire.neck(ApiBase("other"))
    gate, started = wire.gate(), threading.Event()

    def slow():
        started.set()
        return gate.wait(LIMIT)

    neck.set_handler("slow", slow)
    other_neck.set_handler("echo", lambda x: x)
    head.set_handler("echo", lambda x: x)
    held = head.slow()(sync=False)
    waits(started)
    for i in range(20):
        assert wire.ipc_head.ping(LIMIT) < LIMIT
        assert other_head.echo(i)(timeout=LIMIT) == i
        assert neck.echo(i)(timeout=LIMIT) == i  # and replies are read
    queued = head.slow()(sync=False)
    assert queued.cancel()
    assert eventually(lambda: queued.stopped) == "never started"
    assert not held.done()
    gate.set()
    assert held.result(LIMIT) is True


@pytest.mark.capability("S16c")
def test_apis_with_workers_of_their_own_run_at_once_and_do_not_delay_each_other(wire):
    sizes = {"x": 1, "y": 2, "z": 5}
    heads = {name: wire.head(ApiBase(name)) for name in sizes}
    gate = wire.gate()
    inside = {name: threading.Semaphore(0) for name in sizes}
    loads = {name: Load() for name in sizes}
    for name, size in sizes.items():
        neck = wire.neck(ApiBase(name, workers=size))
        neck.set_handler("hold", lambda name=name: (inside[name].release(), gate.wait(LIMIT)))
        neck.set_handler("work", loads[name])
    # One more than there are workers: all are busy, one call waits.
    held = {
        name: [heads[name].hold()(sync=False) for _ in range(size + 1)] for name, size in sizes.items() if name == "x"
    }
    assert inside["x"].acquire(timeout=LIMIT)
    assert not inside["x"].acquire(timeout=0.05)
    for name in ("y", "z"):
        started = time.monotonic()
        calls = [heads[name].work(i, 0.01)(sync=False) for i in range(20)]
        assert [one.result(LIMIT) for one in calls] == list(range(20))
        assert time.monotonic() - started < 5
        assert loads[name].most == sizes[name]
    together = [heads[name].hold()(sync=False) for name in ("y", "z") for _ in range(sizes[name])]
    for name in ("y", "z"):
        for _ in range(sizes[name]):
            assert inside[name].acquire(timeout=LIMIT)
    gate.set()
    for one in (*held["x"], *together):
        assert one.result(LIMIT) is not None


class Pooled(ApiBase):
    """A nested api with workers of its own."""

    def __init__(self):
        super().__init__(workers=2)

    def _handler_name(self):
        return threading.current_thread().name


class Shared(ApiBase):
    """A nested api without."""

    def _handler_name(self):
        return threading.current_thread().name


class Root(ApiBase):
    """A tree with both kinds."""

    pooled = Pooled
    shared = Shared


@pytest.mark.capability("S16c", "S14a")
def test_nested_api_has_workers_of_its_own_or_those_above(wire):
    head = wire.head()
    neck = wire.neck(Root("test"))
    gate, started = wire.gate(), threading.Event()
    neck.set_handler("hold", lambda: (started.set(), gate.wait(LIMIT)))
    held = head.hold()(sync=False)
    waits(started)
    assert head.pooled.name()(timeout=LIMIT).startswith("epyrpc-neck-test.pooled-worker-")
    waiting = head.shared.name()(sync=False)
    wire.flush()
    assert not waiting.done()
    gate.set()
    held.result(LIMIT)
    assert waiting.result(LIMIT).startswith("epyrpc-neck-test-worker-")


def test_worker_is_told_apart_from_the_caller_by_its_current_call(wire):
    head, neck = wire.pair()
    neck.set_handler("path", lambda: current_call().path)
    assert head.path()(timeout=LIMIT) == "test.path"


@pytest.mark.parametrize("workers", [1, 4])
def test_events_of_one_path_are_handled_in_the_order_they_were_sent(wire, workers):
    head, neck = wire.pair(workers)
    load = Load()
    neck.set_handler("note", lambda i: load(i, 0.002 if i % 7 == 0 else 0.0))  # slow ones bring more workers
    for i in range(500):
        head.note(i)(solicited=False)
    eventually(lambda: len(load.order) == 500)
    assert load.order == list(range(500))
    assert load.most == 1


def test_events_of_different_paths_and_calls_do_not_wait_for_each_other(wire):
    head, neck = wire.pair(4)
    held = wire.gate()
    entered = threading.Semaphore(0)

    def hold(*_):
        entered.release()
        assert held.wait(LIMIT)

    for path in ("a", "b"):
        neck.set_handler(path, hold)
        for i in range(3):
            getattr(head, path)(i)(solicited=False)
    for _ in range(2):
        assert entered.acquire(timeout=LIMIT)
    neck.set_handler("c", lambda x: x)
    assert [head.c(i)(timeout=LIMIT) for i in range(10)] == list(range(10))
    assert not entered.acquire(timeout=0.05)  # the second of each path waits for the first
    held.set()
    for _ in range(4):
        assert entered.acquire(timeout=LIMIT)


def test_event_handler_that_fails_lets_the_next_ones_through(wire, caplog):
    head, neck = wire.pair(3)
    heard = []

    def note(i):
        time.sleep(0.001)
        heard.append(i)
        if i % 2:
            raise ValueError(i)

    neck.set_handler("note", note)
    for i in range(20):
        head.note(i)(solicited=False)
    eventually(lambda: len(heard) == 20)
    assert heard == list(range(20))
