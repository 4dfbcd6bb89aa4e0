"""How a map is cut into chunks, and how bodies share what is left."""

from __future__ import annotations

import gc
import itertools
import threading
import time
import weakref
from types import SimpleNamespace
from typing import Any

import pytest

import epyrpc
from epyrpc.api.workers import BUSY_LOOK_SECONDS, CALM_LOOK_SECONDS, LOOK_SECONDS, WorkerPool
from epyrpc.bodies import pool_engine, pool_member
from epyrpc.bodies.pool import _MAP_OPTIONS
from epyrpc.bodies.pool_inside import BLOCK_ITEMS, MANY, Agent, Chunk
from epyrpc.bodies.pool_jobs import (
    CHUNK_BYTES,
    CHUNK_GROWTH,
    CHUNK_ITEMS,
    CHUNK_SECONDS,
    FIRST_CHUNK_ITEMS,
    FIRST_TIME_SLICE,
    TIME_SLICE,
    Cost,
    Function,
    chunk_size,
    first_chunk_size,
)
from epyrpc.bodies.pool_map import MapWork
from tests.bodies.tools import LIMIT


def _work(items: Any, **options: Any) -> MapWork:
    engine: Any = SimpleNamespace(size=2)
    given = {**_MAP_OPTIONS, **options}
    return MapWork(engine, Function(abs), items, None, star=False, ordered=True, options=given)


def test_chunks_grow_with_what_items_cost() -> None:
    cost = Cost()
    assert chunk_size(cost, 0, 0, 1000, 2) == 1
    cost.note(1.0, 10)
    assert chunk_size(cost, 1, 8, None, 2) == 1
    for _ in range(100):
        cost.note(2e-6, 1)
    assert chunk_size(cost, 1, 8, None, 2) == CHUNK_GROWTH, "growth is limited"
    assert chunk_size(cost, 10**6, 8, None, 2) == pytest.approx(20_000, rel=0.3)
    assert chunk_size(cost, 10**6, 8, 100, 2) > 100, "what takes no time is not spread"
    assert chunk_size(cost, 10**6, 8, 8000, 2) == pytest.approx(2000, rel=0.01), "the last items are spread"
    assert chunk_size(cost, 10**6, CHUNK_BYTES / 2, None, 2) == 2, "bytes are limited"
    for _ in range(100):
        cost.note(1e-9, 1)
    assert chunk_size(cost, 10**9, 1, None, 2) == CHUNK_ITEMS


@pytest.mark.parametrize(
    ("item", "left", "size"),
    [
        pytest.param(1, 1000, 500, id="a share of the whole"),
        pytest.param(1, 3, 2, id="of a few"),
        pytest.param(1, 10**6, FIRST_CHUNK_ITEMS, id="of many"),
        pytest.param((1, "a", 2.0), 1000, 500, id="small arguments"),
        pytest.param("a" * 101, 1000, 1, id="a long text"),
        pytest.param((1, [2]), 1000, 1, id="who knows what"),
        pytest.param(1, None, 1, id="of who knows how many"),
    ],
)
def test_the_first_chunk_is_a_whole_share_of_small_items(item: Any, left: int | None, size: int) -> None:
    assert first_chunk_size(item, left, 2) == size


def test_a_first_chunk_ends_soon_and_one_that_was_asked_for_never() -> None:
    work = _work(range(10))
    assert work.time_slice() == FIRST_TIME_SLICE
    work.cost.note(1.0, 1)
    assert work.time_slice() == TIME_SLICE
    assert _work(range(10), chunksize=5).time_slice() is None


def test_a_chunk_that_takes_what_was_expected_is_left_alone() -> None:
    assert 2 * CHUNK_SECONDS <= TIME_SLICE < pool_member.OVERDUE_SECONDS
    cost = Cost()
    cost.note(0.030, 1)
    assert chunk_size(cost, 1, 8, 28, 2) == 2, "a second item costs no message"
    assert chunk_size(cost, 1, 8, 4, 2) == 1, "the last items are spread"


def test_what_has_come_back_is_shared_out_again() -> None:
    work = _work(range(1000))
    first, second = work.take(0, 2, None), work.take(0, 2, None)
    assert first is not None
    assert second is not None
    assert [len(first.items), len(second.items)] == [500, 500]
    assert work.take(1, 2, None) is None, "nothing is sent ahead: it is all given out"
    work.cost.note(0.010, 10)
    work.deliver(first, [None] * 10, {})
    work.put_back(first.rest(10, 500))
    third = work.take(0, 2, None)
    assert third is not None
    assert third.start == 10
    assert len(third.items) == pytest.approx(CHUNK_SECONDS / 0.001, abs=1), "not one item at a time"


def test_a_range_is_cut_into_ranges(pool: epyrpc.Pool) -> None:
    numbers = range(10, 40_000, 3)
    work = _work(numbers)
    batch = work.take(0, 2, None)
    assert batch is not None
    assert batch.items == numbers[:FIRST_CHUNK_ITEMS]
    payload, buffers = work.encode(batch)
    assert len(payload) < 100
    assert buffers == []
    assert list(pool.map(abs, numbers)) == list(numbers)
    outcomes = list(pool.map(lambda n: 1 // (n - 13), numbers, return_exceptions=True))
    assert isinstance(outcomes[1], ZeroDivisionError)
    assert (outcomes[1].item, outcomes[1].item_index) == (13, 1)  # type: ignore[attr-defined]


@pytest.mark.parametrize("make", [list, tuple, iter], ids=["list", "tuple", "iterator"])
def test_items_are_read_at_once_and_kept_until_they_are_given_out(make: Any) -> None:
    class Item:
        pass

    items = [Item() for _ in range(3)]
    kept = weakref.WeakSet(items)
    work = _work(make(items), chunksize=2)
    items.clear()
    assert len(kept) == 3
    assert work.take(0, 2, None) is not None
    assert work.take(0, 2, None) is not None
    assert work.take(0, 2, None) is None
    gc.collect()
    assert len(kept) == 0


def test_the_last_long_items_are_not_sent_ahead() -> None:
    work = _work(range(6))
    work._first_size = 1
    assert work.take(0, 2, None) is not None
    assert work.take(1, 2, None) is None, "nothing is known yet"
    work.cost.note(0.03, 1)
    assert work.take(1, 2, None) is not None
    assert work.take(2, 2, None) is None, "one is enough"
    assert work.take(1, 2, None) is not None
    assert work.take(1, 2, None) is not None
    assert work.take(1, 2, None) is None, "the last ones are for who has nothing to do"
    assert work.take(0, 2, None) is not None


def test_what_items_cost_is_found_out_by_each_map(pool: epyrpc.Pool) -> None:
    list(pool.map(time.sleep, [0.3, 0.3]))
    results: Any = pool.map(time.sleep, [0] * 1000)
    assert len(list(results)) == 1000
    assert results.work.cost.seconds < 0.1


def test_a_body_finds_out_how_many_items_to_run_in_a_row() -> None:
    spans = []

    class Mark(dict[int, int]):
        def __setitem__(self, index: int, value: int) -> None:
            super().__setitem__(index, value)
            if index == 2:
                spans.append(self[2] - self[1])

    agent = Agent(Mark())
    chunk = Chunk(1, list(range(20_000)))
    agent._run(chunk, abs, MANY, 1, time.monotonic() + 60)
    assert chunk.outcomes == list(range(20_000))
    assert spans[0] == 1
    assert max(spans) == BLOCK_ITEMS
    spans.clear()
    slow = Chunk(2, [0.001] * 10)
    agent._run(slow, time.sleep, MANY, 1, time.monotonic() + 60)
    assert spans == [1] * 10, "what takes long runs alone, so that it is known what ended a process"


def test_a_body_without_work_gets_what_another_has_not_begun(
    pool: epyrpc.Pool, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is overdue, if there is enough of it."""
    monkeypatch.setattr(pool_member, "OVERDUE_SECONDS", 3600.0)
    path = str(tmp_path / "open")

    def mostly_short(n: int) -> int:
        import os
        import time

        time.sleep(0.002)
        while n == 3 and not os.path.exists(path):
            time.sleep(0.01)
        return n

    pool._engine.wait_for_all()
    results = pool.imap_unordered(mostly_short, range(100))
    got = list(itertools.islice(results, 99))
    assert 3 not in got
    (tmp_path / "open").touch()
    assert list(results) == [3]


def test_what_waits_for_a_busy_body_stays_there_while_nobody_else_is_free(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_member, "OVERDUE_SECONDS", 0.01)
    overdue, asked = threading.Semaphore(0), []
    look, ask_back = pool_member.Member._overdue, pool_member.Member._ask_back
    monkeypatch.setattr(pool_member.Member, "_overdue", lambda self, batch: (look(self, batch), overdue.release()))
    monkeypatch.setattr(pool_member.Member, "_ask_back", lambda self, batch: (asked.append(1), ask_back(self, batch)))
    path = str(tmp_path / "open")

    def wait() -> None:
        import os
        import time

        while not os.path.exists(path):
            time.sleep(0.001)

    with epyrpc.Pool(1) as pool:
        (body,) = pool.each._bodies()
        busy = body.submit(wait)
        results = pool.map(abs, range(100))
        try:
            for _ in range(5):
                assert overdue.acquire(timeout=LIMIT)
            assert not asked
        finally:
            (tmp_path / "open").touch()
        busy.result(LIMIT)
        assert list(results) == list(range(100))


def test_a_body_that_has_little_left_keeps_it(pool: epyrpc.Pool) -> None:
    member = pool._engine.wait_for_all()[0]
    engine = pool._engine
    asked = []
    member.ask_for_relief = lambda: asked.append(1)  # type: ignore[method-assign]
    for seconds, expected in ((pool_engine.RELIEVED_SECONDS / 2, 0), (pool_engine.RELIEVED_SECONDS * 2, 1)):
        member.seconds_left = lambda seconds=seconds: seconds  # type: ignore[method-assign,misc]
        with engine.lock:
            engine._relieve_another()
        assert len(asked) == expected


def test_nobody_looks_at_a_queue_that_a_busy_worker_will_come_to() -> None:
    hired = []
    workers = WorkerPool("test", 1, SimpleNamespace())  # type: ignore[arg-type]
    workers.hire = lambda at_once=False: hired.append(at_once)  # type: ignore[method-assign,func-returns-value]
    assert workers.look() is None
    workers.queue.append(None)  # type: ignore[arg-type]
    assert workers.look() == LOOK_SECONDS
    for waits_for, expected in ((None, CALM_LOOK_SECONDS), ("a call", BUSY_LOOK_SECONDS)):
        workers.running[1] = SimpleNamespace(waiting_on=waits_for)  # type: ignore[assignment]
        assert workers.look() == expected
    assert hired == [True, True, True]
