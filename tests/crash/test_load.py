"""Many threads both ways at once: nothing is lost, nothing comes twice, memory does not grow.

The full size, 32 threads × 2,000 calls each way, runs with ``EPYRPC_TEST_LOAD=2000``; the million calls of the memory
figure are ``python -m tests.benchmarks.growth``.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from typing import Any

import pytest

import epyrpc
from tests.benchmarks.growth import Growth, measure
from tests.bodies.tools import LIMIT

THREADS = 32
CALLS = int(os.environ.get("EPYRPC_TEST_LOAD", "100"))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("method", ["spawn", "thread"])
def test_many_threads_both_ways_lose_nothing(method: str, cleanup: None) -> None:
    body = epyrpc.spawn("worker", workers=THREADS + 4, start_method=method)
    here: Counter[tuple[int, int]] = Counter()
    body.push(there=Counter_in_the_body())
    body.on("count", lambda thread, n: here.update([(thread, n)]) or thread * n)
    body.set_handler("count", lambda thread, n: there.update([(thread, n)]) or thread * n)  # noqa: F821 - the body's own

    def call_back(thread: int, calls: int) -> int:
        from epyrpc import head

        wrong = 0
        for n in range(calls):
            if n % 3:
                wrong += head.call.count(thread, n) != thread * n
            else:
                wrong += head.submit.count(thread, n).result(60) != thread * n
        return wrong

    wrong: list[Any] = []

    def call(thread: int) -> None:
        try:
            for n in range(CALLS):
                value = body.call.count(thread, n) if n % 3 else body.submit.count(thread, n).result(LIMIT * 6)
                if value != thread * n:
                    wrong.append((thread, n, value))
        except BaseException as exc:
            wrong.append(exc)

    back = [body.submit(call_back, thread, CALLS) for thread in range(THREADS)]
    threads = [threading.Thread(target=call, args=(thread,)) for thread in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT * 60)
    assert wrong == []
    assert [result.result(LIMIT * 60) for result in back] == [0] * THREADS
    expected = {(thread, n): 1 for thread in range(THREADS) for n in range(CALLS)}
    assert here == expected
    assert body.pull("there") == expected
    assert len(body.transporter.transactions) == 0
    assert body.transporter.transactions.late == 0


def Counter_in_the_body() -> Counter[tuple[int, int]]:
    return Counter()


def test_events_of_many_threads_arrive_once_each(worker: epyrpc.Body) -> None:
    worker.push(there=Counter())
    worker.set_handler("note", lambda thread, n: there.update([(thread, n)]))  # noqa: F821 - the body's own

    def emit(thread: int) -> None:
        for n in range(CALLS):
            worker.emit.note(thread, n)

    threads = [threading.Thread(target=emit, args=(thread,)) for thread in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    expected = {(thread, n): 1 for thread in range(THREADS) for n in range(CALLS)}
    for _ in range(1000):
        if sum(worker.pull("there").values()) == len(expected):
            break
        worker.ping()
    assert worker.pull("there") == expected


@pytest.mark.timeout(600)
def test_memory_does_not_grow_with_calls() -> None:
    growth: Growth = measure(20_000, warm_up=10_000)
    assert growth.pending == (0, 0)
    assert growth.head_bytes < 3_000_000
    assert growth.body_bytes < 3_000_000
