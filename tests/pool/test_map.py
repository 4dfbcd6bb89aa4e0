"""`map` and its relatives: order, chunks, errors, limits."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import threading
import time
import warnings
import weakref
from typing import Any

import pytest

import epyrpc
from tests.bodies.tools import LIMIT, eventually


def test_results_come_in_order(pool: epyrpc.Pool) -> None:
    def square(n: int) -> int:
        return n * n

    assert list(pool.map(square, range(3000))) == [n * n for n in range(3000)]
    assert list(pool.map(pow, range(10), range(10))) == [n**n for n in range(10)]
    assert list(pool.map(pow, [2, 3], itertools.repeat(2))) == [4, 9]
    assert list(pool.map(square, [])) == []
    assert list(pool.map(square, iter(range(5)), chunksize=3)) == [0, 1, 4, 9, 16]
    assert list(pool.starmap(pow, [(2, 3), (3, 2)])) == [8, 9]
    assert sorted(pool.imap_unordered(square, range(100))) == [n * n for n in range(100)]


def test_it_is_an_iterator_that_ends_at_the_first_exception(pool: epyrpc.Pool) -> None:
    results = pool.map(divmod, [1, 1, 1, 1], [2, 3, 0, 5])
    assert next(results) == (0, 1)
    assert next(results) == (0, 1)
    with pytest.raises(ZeroDivisionError) as caught:
        next(results)
    assert caught.value.item_index == 2  # type: ignore[attr-defined]
    assert caught.value.item == (1, 0)  # type: ignore[attr-defined]
    with pytest.raises(StopIteration):
        next(results)


def test_exceptions_may_be_results(pool: epyrpc.Pool) -> None:
    def reciprocal(n: int) -> float:
        return 1 / n

    results = list(pool.map(reciprocal, [1, 0, 2] * 50, return_exceptions=True))
    assert [type(r) for r in results] == [float, ZeroDivisionError, float] * 50
    assert results[4].item_index == 4


def test_a_function_that_raises_stop_iteration_loses_no_item(pool: epyrpc.Pool) -> None:
    def odd_ends(n: int) -> int:
        if n % 100 == 99:
            raise StopIteration
        return n

    results = list(pool.map(odd_ends, range(5000), return_exceptions=True))
    assert len(results) == 5000
    assert [i for i, r in enumerate(results) if isinstance(r, BaseException)] == list(range(99, 5000, 100))


def test_an_explicit_chunksize_is_honoured(pool: epyrpc.Pool) -> None:
    marks = list(pool.map(_which_chunk, range(20), chunksize=5))
    assert [len(list(group)) for _, group in itertools.groupby(marks)] == [5, 5, 5, 5]
    with pytest.raises(ValueError, match="chunksize"):
        pool.map(abs, [1], chunksize=0)


def _which_chunk(item: int) -> int:
    return int(epyrpc.current_call().id)


def test_the_function_travels_once_to_each_body(pool: epyrpc.Pool) -> None:
    class Counted:
        def __call__(self, n: int) -> tuple[int, int]:
            return os.getpid(), self.loads  # type: ignore[attr-defined,no-any-return]

        def __setstate__(self, state: Any) -> None:
            import builtins

            builtins.loads = getattr(builtins, "loads", 0) + 1  # type: ignore[attr-defined]
            self.loads = builtins.loads  # type: ignore[attr-defined]

        def __getstate__(self) -> dict[str, Any]:
            return {"some": "state"}

    seen = set(pool.map(Counted(), range(2000)))
    assert 1 <= len(seen) <= 2
    assert {loads for _, loads in seen} == {1}


def test_results_are_not_kept_by_the_iterator(pool: epyrpc.Pool) -> None:
    for thing in pool.map(lambda n: type("Thing", (), {})(), range(30)):
        watched = weakref.ref(thing)
        del thing
        assert watched() is None


def test_the_limit_of_a_map_is_counted_from_its_call(pool: epyrpc.Pool) -> None:
    results: list[Any] = []
    with pytest.raises(TimeoutError, match="were not all there within"):
        results.extend(pool.map(time.sleep, [0, 0, 60], timeout=1.0))
    assert results == [None, None]
    assert pool.submit(pow, 2, 2).result(LIMIT) == 4
    eventually(lambda: not any(member.inflight for member in pool._engine.members))


def test_a_task_that_takes_too_long_is_stopped_and_others_are_not(pool: epyrpc.Pool) -> None:
    pids = {body.pid for body in pool.each._bodies()}
    results = list(pool.map(time.sleep, [0.01, 60, 0.01, 0.01], task_timeout=0.5, return_exceptions=True))
    assert [type(r) for r in results] == [type(None), epyrpc.TransactionTimeout, type(None), type(None)]
    eventually(lambda: results[1].stopped == "raised")
    assert results[1].item == 60
    assert {body.pid for body in pool.bodies} == pids
    with pytest.raises(TimeoutError):
        pool.submit(timeout=0.2)(time.sleep, 60).result(LIMIT)


def test_a_task_that_cannot_be_stopped_is_killed_after_a_second(pool: epyrpc.Pool) -> None:
    def stubborn() -> None:
        import time

        while True:
            try:
                while True:
                    time.sleep(0.01)
            except BaseException:  # that is what makes it stubborn
                pass

    pool.submit(pow, 1, 1).result(LIMIT)
    future = pool.submit(timeout=0.1)(stubborn)
    with pytest.raises(epyrpc.TransactionTimeout):
        future.result(LIMIT)
    assert str(future.state) == "timed out"
    assert sorted(pool.map(abs, range(10))) == list(range(10))
    eventually(lambda: any(body.restarts for body in pool.bodies))


def test_an_endless_iterable_is_read_only_so_far_ahead(pool: epyrpc.Pool) -> None:
    read = []

    def numbers() -> Any:
        for n in itertools.count():
            read.append(n)
            yield n

    results = pool.map(lambda n: n + 1, numbers(), max_in_flight=10)
    for expected in range(1, 101):
        assert next(results) == expected
        assert len(read) <= expected + 10 + 10
    results.close()
    assert len(list(results)) <= 20


def test_an_error_of_the_iterable_comes_after_the_results_before_it(pool: epyrpc.Pool) -> None:
    def numbers() -> Any:
        yield from range(5)
        raise OSError("the disk is gone")

    got: list[int] = []
    with pytest.raises(OSError, match="the disk is gone"):
        got.extend(pool.map(abs, numbers(), max_in_flight=3))
    assert got == [0, 1, 2, 3, 4]
    with pytest.raises(OSError, match="the disk is gone"):
        pool.map(abs, numbers())


def test_one_long_item_does_not_hold_up_those_behind_it(pool: epyrpc.Pool, tmp_path: Any) -> None:
    path = str(tmp_path / "open")

    def mostly_quick(n: int) -> int:
        import os
        import time

        if n == 500:
            while not os.path.exists(path):
                time.sleep(0.01)
        return n

    results = pool.imap_unordered(mostly_quick, range(1000))
    got = list(itertools.islice(results, 999))  # all but that one, while it still runs
    assert 500 not in got
    (tmp_path / "open").touch()
    assert list(results) == [500]


def test_items_that_cannot_travel_fail_alone(pool: epyrpc.Pool) -> None:
    import threading

    items: list[Any] = [*range(40)]
    items[17] = threading.Lock()
    results = list(pool.map(repr, items, chunksize=10, return_exceptions=True))
    assert isinstance(results[17], epyrpc.CodecError)
    assert [r for i, r in enumerate(results) if i != 17] == [repr(i) for i in range(40) if i != 17]

    def some_locks(n: int) -> Any:
        return threading.Lock() if n == 5 else n

    results = list(pool.map(some_locks, range(10), chunksize=10, return_exceptions=True))
    assert isinstance(results[5], epyrpc.CodecError)
    assert [r for r in results if isinstance(r, int)] == [0, 1, 2, 3, 4, 6, 7, 8, 9]


def test_two_maps_and_tasks_share_the_bodies(pool: epyrpc.Pool) -> None:
    long = pool.map(time.sleep, [0.01] * 300)
    short = pool.map(abs, range(3))
    started = time.monotonic()
    assert list(short) == [0, 1, 2]
    assert pool.submit(pow, 2, 2).result(LIMIT) == 4
    assert time.monotonic() - started < 1.4, "they had to wait for the long map"
    long.close()


def test_what_is_short_has_its_turn_between_long_items() -> None:
    def nap(seconds: float) -> float:
        import time

        time.sleep(seconds)
        return seconds

    with epyrpc.Pool(1) as pool:
        pool.submit(abs, -1).result(LIMIT)  # now it is known to be short, so it is sent ahead
        short = pool.map(nap, [0.001] * 100)
        long: Any = pool.map(nap, [0.15] * 60)
        assert list(short) == [0.001] * 100
        tasks = [pool.submit(abs, -n) for n in range(3)]
        assert [task.result(LIMIT) for task in tasks] == [0, 1, 2]
        assert long.work.done < 40  # they are not taken back from behind it again and again
        long.cancel()


def test_progress_is_one_line(pool: epyrpc.Pool, capsys: pytest.CaptureFixture[str]) -> None:
    list(pool.map(abs, range(100), progress=True))
    err = capsys.readouterr().err
    assert err.endswith("\n")
    assert err.count("\n") == 1
    assert "100/100" in err


def test_each_item_has_a_random_generator_of_its_own(pool: epyrpc.Pool) -> None:
    import numpy as np

    def draw(n: int, rng: Any) -> float:
        return float(rng.random()) + n

    children = np.random.SeedSequence(7).spawn(50)
    expected = [float(np.random.default_rng(child).random()) + n for n, child in enumerate(children)]
    assert list(pool.map(draw, range(50), rng=7)) == expected
    assert list(pool.map(draw, range(50), rng=7, chunksize=7)) == expected
    assert list(pool.map(draw, range(3), rng=True)) == list(pool.map(draw, range(3), rng=True))


def test_unknown_options_are_refused(pool: epyrpc.Pool) -> None:
    with pytest.raises(TypeError, match="no option 'chunk_size'"):
        pool.map(abs, [1], chunk_size=3)
    with pytest.raises(TypeError, match="not callable"):
        pool.map(3, [1])


def test_leaving_the_block_finishes_an_unread_map() -> None:
    with epyrpc.Pool(2) as pool:
        results = pool.map(abs, range(1000))
    assert list(results) == list(range(1000))


def test_an_interrupt_stops_what_runs_and_nothing_else(pool: epyrpc.Pool) -> None:
    pids = {body.pid for body in pool.each._bodies()}
    other = pool.submit(time.sleep, 2.0)
    eventually(other.running)
    results = pool.map(time.sleep, [60, 60, 60])

    def interrupt_when_it_runs() -> None:
        waiters = results.work.condition._waiters  # type: ignore[attr-defined]
        eventually(lambda: waiters and all(member.inflight for member in pool._engine.members))
        os.kill(os.getpid(), signal.SIGINT)

    helper = threading.Thread(target=interrupt_when_it_runs)
    helper.start()
    with pytest.raises(KeyboardInterrupt):
        list(results)
    helper.join()
    left = lambda: {b.work.label for m in pool._engine.members for b in m.inflight if b.work.how != 0}  # noqa: E731
    eventually(lambda: not left())
    assert other.result(LIMIT) is None
    assert {body.pid for body in pool.bodies} == pids


@pytest.mark.parametrize("wait", ["result", "exception", "acquire"])
def test_an_interrupted_wait_for_a_task_stops_that_task(pool: epyrpc.Pool, wait: str) -> None:
    pids = {body.pid for body in pool.each._bodies()}

    def nap(seconds: float) -> None:
        sys.stdout.write("here\n")
        sys.stdout.flush()
        time.sleep(seconds)

    awaited, other = pool.submit(nap, 60), pool.submit(nap, 2.0)
    eventually(lambda: awaited.stdout and other.stdout)

    def interrupt_when_it_waits() -> None:
        eventually(lambda: awaited._condition._waiters)  # type: ignore[attr-defined]
        os.kill(os.getpid(), signal.SIGINT)

    helper = threading.Thread(target=interrupt_when_it_waits)
    helper.start()
    with pytest.raises(KeyboardInterrupt):
        getattr(awaited, wait)()
    helper.join()
    assert awaited.cancelled()
    eventually(lambda: awaited._call.stopped == "raised")  # type: ignore[union-attr]
    assert other.result(LIMIT) is None
    assert {body.pid for body in pool.bodies} == pids


def test_an_interrupt_that_a_task_raised_is_its_outcome(pool: epyrpc.Pool) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    future = pool.submit(interrupted)
    with pytest.raises(KeyboardInterrupt):
        future.result(LIMIT)
    assert not future.cancelled()


def test_a_forked_child_is_told_that_the_pool_is_not_its_own(pool: epyrpc.Pool) -> None:
    assert pool.submit(pow, 2, 2).result(LIMIT) == 4
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of a fork beside threads
        pid = os.fork()
    if pid == 0:
        try:
            pool.submit(pow, 2, 2)
        except epyrpc.BodyLost as exc:
            os.write(write, str(exc).encode())
        finally:
            pool.shutdown()
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as file:
        assert "a forked child cannot use it" in file.read()
    os.waitpid(pid, 0)
    assert pool.submit(pow, 2, 3).result(LIMIT) == 8


def test_memory_does_not_grow_with_the_items_of_a_lazy_map(pool: epyrpc.Pool) -> None:
    import tracemalloc

    results = pool.map(abs, (n for n in range(200_000)), max_in_flight=1000)
    assert sum(itertools.islice(results, 20_000)) == sum(range(20_000))
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        assert sum(1 for _ in itertools.islice(results, 30_000)) == 30_000
        assert tracemalloc.get_traced_memory()[0] - before < 2_000_000
    finally:
        tracemalloc.stop()
    results.close()


def test_a_look_at_a_map_tells_what_its_items_take(pool: epyrpc.Pool) -> None:
    results = pool.map(abs, range(-2000, 0))
    assert sum(results) == sum(range(2001))
    seen = results.run.look()
    assert seen.chosen
    assert isinstance(seen.item_seconds, float)
    assert 0 < seen.item_seconds < seen.elapsed


def test_a_map_interrupted_before_its_results_are_handed_out_is_stopped(
    pool: epyrpc.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: Any, **kwargs: Any) -> Any:
        raise KeyboardInterrupt

    pids = sorted(pool.each.call(os.getpid).values())
    with monkeypatch.context() as late:
        late.setattr("epyrpc.bodies.pool.make_results", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pool.map(time.sleep, [600] * 4)
    assert list(pool.map(abs, [-1, 2], timeout=30)) == [1, 2]
    assert sorted(pool.each.call(os.getpid).values()) == pids
