"""Large data: shared memory that is lent and comes back, and values that all bodies read."""

from __future__ import annotations

import gc
import os
from typing import Any

import numpy as np
import pytest

import epyrpc
from epyrpc.bodies.sharing import KEPT_OUT, Reader, Store
from tests.bodies.tools import LIMIT, eventually

MEGABYTE = 1 << 17  # float64 numbers


def test_a_segment_comes_back_when_its_last_array_is_gone() -> None:
    store, reader = Store(), Reader()
    data = np.arange(MEGABYTE, dtype=float)
    ref = store.put([data])
    views = reader.open(tuple(ref))
    array = np.frombuffer(views[0])
    del views
    assert (array == data).all()
    array[0] = -1.0
    assert data[0] == 0
    assert reader.news() == ((), ())
    part = array[10:20]
    del array
    gc.collect()
    assert reader.news() == ((), ())
    del part
    gc.collect()
    assert reader.news() == ((ref.number,), ())
    store.take_back((ref.number,), ())
    again = store.put([data])
    assert again.fd == ref.fd
    store.close()


def test_what_stays_out_is_let_go_and_still_there() -> None:
    store, reader = Store(), Reader()
    arrays = []
    for n in range(KEPT_OUT + 3):
        data = np.full(MEGABYTE, float(n))
        arrays.append(np.frombuffer(reader.open(tuple(store.put([data])))[0]))
    freed, kept = reader.news()
    assert (freed, kept) == ((), (1, 2, 3))
    store.take_back(freed, kept)
    store.close()
    assert [array[-1] for array in arrays] == list(range(KEPT_OUT + 3))
    del arrays
    gc.collect()


def test_large_arrays_go_both_ways(pool: epyrpc.Pool) -> None:
    def double(array: Any) -> Any:
        array *= 2  # its own: nobody else sees it
        return array

    arrays = [np.full(MEGABYTE, float(n)) for n in range(40)]
    results = list(pool.map(double, arrays))
    assert [r[0] for r in results] == [2.0 * n for n in range(40)]
    assert [a[-1] for a in arrays] == list(range(40))
    results[0][:] = 7
    assert results[1][0] == 2.0
    assert pool.submit(double, arrays[3]).result(LIMIT)[5] == 6.0


def test_descriptors_do_not_grow_with_results_that_are_kept(pool: epyrpc.Pool) -> None:
    def make(n: int) -> Any:
        import numpy

        return numpy.full(1 << 17, float(n))

    def count() -> int:
        import os

        return len(os.listdir("/proc/self/fd"))

    kept = list(pool.map(make, range(30)))
    before = pool.each.call(count), count()
    kept += pool.map(make, range(100))
    after = pool.each.call(count), count()
    assert after[1] <= before[1] + 4
    assert all(after[0][name] <= before[0][name] + 2 * KEPT_OUT for name in before[0])
    assert [a[0] for a in kept] == [*range(30), *range(100)]


def test_a_shared_value_is_one_read_only_copy(pool: epyrpc.Pool) -> None:
    data = np.arange(4 * MEGABYTE, dtype=float)
    shared = pool.share({"data": data, "name": "readings"})
    assert "MB" in repr(shared)

    def look(n: int, value: Any) -> Any:
        return value["name"], float(value["data"][n]), value["data"].flags.writeable

    looks = list(pool.map(lambda n, value=shared: look(n, value), range(3)))
    assert looks == [("readings", float(n), False) for n in range(3)]
    del looks
    assert pool.submit(look, 5, shared).result(LIMIT) == ("readings", 5.0, False)
    with pytest.raises(ValueError, match="read-only"):
        shared.value["data"][0] = 1
    inode = shared._ref.inode
    futures = [pool.submit(look, n, pool.share({"data": data, "name": "dropped"})) for n in range(10)]
    assert [f.result(LIMIT)[1] for f in futures] == list(range(10))
    del shared
    gc.collect()
    eventually(lambda: inode not in {os.stat(f"/proc/self/fd/{fd}").st_ino for fd in _memory_descriptors()})


def _memory_descriptors() -> list[str]:
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            if "memfd:epyrpc" in os.readlink(f"/proc/self/fd/{fd}"):
                found.append(fd)
        except OSError:  # the one that listed the folder
            continue
    return found


def test_a_function_that_captures_much_says_so_and_travels_once(
    pool: epyrpc.Pool, caplog: pytest.LogCaptureFixture
) -> None:
    data = np.arange(2_000_000, dtype=float)
    assert list(pool.map(lambda n: float(data[n]), range(500))) == [float(n) for n in range(500)]
    assert "captures 16 MB" in caplog.text
    assert caplog.text.count("captures") == 1


def test_data_frames_travel_too(pool: epyrpc.Pool) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"x": np.arange(MEGABYTE, dtype=float), "y": 1.0})

    def add_up(frame: Any) -> Any:
        frame["z"] = frame["x"] + frame["y"]
        return frame

    back = list(pool.map(add_up, [frame, frame]))
    assert (back[1]["z"] == frame["x"] + 1).all()
    assert "z" not in frame


def test_a_body_that_dies_with_lent_memory_harms_nobody(pool: epyrpc.Pool) -> None:
    def end(array: Any) -> Any:
        if array[0] == 3:
            import os

            os._exit(1)
        return array + 1

    arrays = [np.full(MEGABYTE, float(n)) for n in range(10)]
    results = list(pool.map(end, arrays, return_exceptions=True))
    assert isinstance(results[3], epyrpc.BodyDied)
    assert [r[7] for n, r in enumerate(results) if n != 3] == [n + 1.0 for n in range(10) if n != 3]


def test_bodies_forget_functions_that_nobody_needs(pool: epyrpc.Pool) -> None:
    def count() -> int:
        from epyrpc.bodies import inside, pool_inside

        agent = inside._neck[-1].find_handler(pool_inside.RUN_CHUNK)[0].function.__self__
        return len(agent._functions)

    data = np.arange(1000.0)
    for n in range(100):
        assert pool.submit(lambda n=n: float(data[n])).result(LIMIT) == n
    gc.collect()
    pool.submit(pow, 2, 2).result(LIMIT)
    eventually(lambda: max(pool.each.call(count).values()) <= 20)
