"""Where user callbacks run: in order, in few threads, and a callback that blocks delays nobody."""

from __future__ import annotations

import logging
import threading
import time
from functools import partial

import pytest

from epyrpc.transports.callbacks import MAX_THREADS, STUCK_SECONDS, Runner, Strand

LIMIT = 10


class Ticked:
    """A `Runner` whose ticks a thread gives, as the standby does; only after it has been asked to."""

    def __init__(self):
        self.asked = threading.Event()
        self.over = False
        self.runner = Runner("test", self.asked.set)
        self.thread = threading.Thread(target=self._tick, name="ticker")
        self.thread.start()

    def _tick(self):
        while not self.over:
            self.asked.wait()
            self.asked.clear()
            while not self.over and self.runner.tick(time.monotonic()) is not None:
                time.sleep(0.001)

    def __enter__(self):
        return self.runner

    def __exit__(self, *exc_info):
        self.over = True
        self.asked.set()
        self.thread.join()
        self.runner.stop()
        self.runner.join(LIMIT)


@pytest.fixture
def runner():
    with Ticked() as ticked:
        yield ticked


@pytest.fixture
def gate():
    event = threading.Event()
    yield event
    event.set()


def callback_threads():
    return [t for t in threading.enumerate() if t.name.startswith("epyrpc-callbacks-test")]


def test_no_thread_before_there_is_work(runner):
    assert callback_threads() == []


def test_work_runs_in_order_in_one_thread(runner):
    seen, done = [], threading.Event()
    for index in range(500):
        runner(lambda index=index: seen.append((index, threading.get_ident())))
    runner(done.set)
    assert done.wait(LIMIT)
    assert [index for index, _ in seen] == list(range(500))
    assert threading.get_ident() not in {ident for _, ident in seen}


def test_work_that_blocks_delays_nobody(runner, gate):
    runner(gate.wait)
    done = threading.Event()
    runner(done.set)
    assert done.wait(LIMIT)


def test_work_that_blocks_an_idle_thread_delays_nobody(runner, gate):
    """Two pieces come at once while one thread is idle: it is notified for the first, and counts for no other."""
    for _ in range(50):
        warm = threading.Event()
        runner(warm.set)
        assert warm.wait(LIMIT)
    while runner._idle != len(callback_threads()):
        time.sleep(0.001)
    done = threading.Event()
    blocked = [threading.Event() for _ in callback_threads()]
    for event in blocked:
        runner(lambda event=event: (event.set(), gate.wait()))
    runner(done.set)
    assert done.wait(LIMIT), "the second piece waited for the first"


def test_threads_are_bounded(runner, gate):
    for _ in range(MAX_THREADS + 10):
        runner(gate.wait)
    deadline = time.monotonic() + LIMIT
    while len(callback_threads()) < MAX_THREADS and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(3 * STUCK_SECONDS)
    assert len(callback_threads()) == MAX_THREADS


def test_error_is_logged_and_the_next_runs(runner, caplog):
    done = threading.Event()
    with caplog.at_level(logging.ERROR, "epyrpc.callbacks"):
        runner(lambda: 1 / 0)

        def end():
            raise SystemExit("from a callback")

        runner(end)
        runner(done.set)
        assert done.wait(LIMIT)
    assert "a callback raised" in caplog.text
    assert "ZeroDivisionError" in caplog.text
    assert "SystemExit" in caplog.text


def test_stop_runs_what_is_queued_then_ends_every_thread(gate):
    with Ticked() as runner:
        seen = []
        runner(gate.wait)
        for index in range(10):
            runner(lambda index=index: seen.append(index))
        runner.stop()
        gate.set()
        runner.join(LIMIT)
        assert sorted(seen) == list(range(10))
        assert callback_threads() == []


def test_work_after_stop_still_runs(gate):
    with Ticked() as runner:
        runner.stop()
        done = threading.Event()
        runner(done.set)
        assert done.wait(LIMIT)
        runner.join(LIMIT)
        assert callback_threads() == []


def test_stop_and_join_from_a_callback(gate):
    with Ticked() as runner:
        done = threading.Event()

        def end():
            runner.stop()
            runner.join(LIMIT)
            done.set()

        runner(end)
        assert done.wait(LIMIT)


def test_many_threads_give_work_and_all_of_it_runs_once(runner):
    seen, count = [], 2000

    def give(number):
        for index in range(count):
            runner(partial(seen.append, (number, index)))

    threads = [threading.Thread(target=give, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    done = threading.Event()
    runner(done.set)
    assert done.wait(LIMIT)
    deadline = time.monotonic() + LIMIT
    while len(seen) < 4 * count and time.monotonic() < deadline:
        time.sleep(0.005)
    assert len(seen) == 4 * count


# ---- a strand: one after the other, whatever the number of threads -------------------------------------------------


def test_strand_keeps_order_while_work_blocks(runner, gate):
    strand, seen = Strand(runner), []
    started = threading.Event()

    def slow():
        started.set()
        gate.wait()
        seen.append("slow")

    strand(slow)
    strand(lambda: seen.append("next"))
    assert started.wait(LIMIT)
    other = threading.Event()
    runner(other.set)
    assert other.wait(LIMIT), "a strand that blocks holds up only itself"
    assert seen == []
    gate.set()
    done = threading.Event()
    strand(done.set)
    assert done.wait(LIMIT)
    assert seen == ["slow", "next"]


def test_strand_never_runs_two_at_once(runner):
    strand, inside, wrong, count = Strand(runner), threading.Lock(), [], []

    def work():
        if not inside.acquire(False):
            wrong.append("two at once")
            return
        count.append(1)
        inside.release()

    def give():
        for _ in range(1000):
            strand(work)

    threads = [threading.Thread(target=give) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    done = threading.Event()
    strand(done.set)
    assert done.wait(LIMIT)
    assert wrong == []
    assert len(count) == 4000


def test_strand_goes_on_after_an_error(runner, caplog):
    strand, done = Strand(runner), threading.Event()
    strand(lambda: 1 / 0)
    strand(lambda: (_ for _ in ()).throw(SystemExit))
    strand(done.set)
    assert done.wait(LIMIT)
    assert "a callback raised" in caplog.text
