"""Bodies that die: who is told, and what goes on."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import Any

import pytest

import epyrpc
from tests.bodies.tools import LIMIT, eventually


def _end(n: int) -> int:
    if n == 7:
        os._exit(3)
    return n


def test_only_what_it_was_running_has_failed(pool: epyrpc.Pool) -> None:
    results = list(pool.map(_end, range(200), return_exceptions=True))
    assert [i for i, r in enumerate(results) if isinstance(r, BaseException)] == [7]
    assert isinstance(results[7], epyrpc.BodyDied)
    assert results[7].exitcode == 3
    assert "item 7" in str(results[7])
    assert "the pool replaces it" in str(results[7])
    assert [r for i, r in enumerate(results) if i != 7] == [n for n in range(200) if n != 7]


def test_even_among_short_items_the_culprit_is_found(pool: epyrpc.Pool) -> None:
    def end_late(n: int) -> int:
        if n == 15_000:
            import os

            os._exit(3)
        return n

    results = list(pool.map(end_late, range(20_000), return_exceptions=True))
    assert [i for i, r in enumerate(results) if isinstance(r, BaseException)] == [15_000]


def test_a_task_whose_body_is_killed_fails_and_the_pool_goes_on(pool: epyrpc.Pool) -> None:
    def kill() -> None:
        import os
        import signal

        os.kill(os.getpid(), signal.SIGKILL)

    futures = [pool.submit(kill), *(pool.submit(pow, n, 2) for n in range(20))]
    with pytest.raises(epyrpc.BodyDied, match="SIGKILL"):
        futures[0].result(LIMIT)
    assert str(futures[0].state) == "lost"
    assert [f.result(LIMIT) for f in futures[1:]] == [n * n for n in range(20)]
    assert len(pool.each.call(os.getpid)) == 2


def test_retry_runs_it_again(pool: epyrpc.Pool, tmp_path: Any) -> None:
    def die_twice(n: int) -> int:
        import os

        for attempt in range(2):
            try:
                os.close(os.open(f"{tmp_path}/{n}.{attempt}", os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                continue
            os._exit(1)
        return n

    assert list(pool.map(die_twice, [1, 2], retry=2)) == [1, 2]
    assert pool.submit(retry=2)(die_twice, 3).result(LIMIT) == 3
    with pytest.raises(epyrpc.BodyDied):
        pool.submit(retry=1)(die_twice, 4).result(LIMIT)


def test_an_idle_body_that_dies_is_replaced(pool: epyrpc.Pool) -> None:
    before = pool.each.call(os.getpid)
    os.kill(before["crunch_1"], signal.SIGKILL)
    eventually(lambda: pool.bodies[0].pid not in (None, before["crunch_1"]))
    after = pool.each.call(os.getpid)
    assert after["crunch_2"] == before["crunch_2"]
    assert after["crunch_1"] != before["crunch_1"]


def test_every_item_has_one_outcome_whatever_is_killed(pool: epyrpc.Pool) -> None:
    pool.each.call(os.getpid)
    results = pool.imap_unordered(_spend, range(600), return_exceptions=True)
    kills, outcomes = 0, []
    for count, outcome in enumerate(results):
        outcomes.append(outcome)
        if count % 60 == 30:
            pid = pool.bodies[kills % 2].pid
            if pid is not None:
                with contextlib.suppress(ProcessLookupError):  # still on its way out from the last time
                    os.kill(pid, signal.SIGKILL)
                    kills += 1
    assert kills >= 5
    assert len(outcomes) == 600
    died = [o for o in outcomes if isinstance(o, BaseException)]
    assert {type(o) for o in died} <= {epyrpc.BodyDied}
    assert len(died) <= kills
    fine = [o for o in outcomes if not isinstance(o, BaseException)]
    assert len(set(fine)) == len(fine)


def _spend(n: int) -> int:
    sum(range(20_000))
    return n


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_body_killed_in_its_initializer_is_replaced(tmp_path: Any, number: int) -> None:
    def prepare() -> None:
        import os
        import time

        for attempt in range(4):  # more than a pool takes of starts that fail by themselves
            try:
                os.close(os.open(tmp_path / str(attempt), os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                continue
            os.kill(os.getpid(), number)
            time.sleep(60)

    with epyrpc.Pool(1, initializer=prepare) as pool:
        assert pool.submit(pow, 2, 3).result(LIMIT) == 8
    assert len(os.listdir(tmp_path)) == 4


def test_an_initializer_that_ends_its_process_breaks_the_pool() -> None:
    def leave() -> None:
        os._exit(7)

    with (
        epyrpc.Pool(1, initializer=leave) as pool,
        pytest.raises(epyrpc.PoolBroken, match="exit code 7 while running leave"),
    ):
        pool.submit(pow, 2, 3).result(LIMIT)


def test_bodies_that_do_not_start_break_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    from epyrpc.bodies import pool_inside

    monkeypatch.setattr(pool_inside, "set_up", lambda *args: os._exit(4))
    pool = epyrpc.Pool(1)
    with pytest.raises(epyrpc.PoolBroken, match="do not start"):
        pool.submit(pow, 2, 2).result(LIMIT)
    pool.shutdown()
