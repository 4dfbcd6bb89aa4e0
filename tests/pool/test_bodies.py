"""A pool as a group of bodies: verbs, handlers, size."""

from __future__ import annotations

import os
import sys
from typing import Any

import numpy as np
import pytest

import epyrpc
from epyrpc.bodies import pool_inside
from tests.bodies.tools import LIMIT, eventually, is_alive


def test_verbs_reach_a_body(pool: epyrpc.Pool) -> None:
    pool.set_handler("maths.scale", lambda x: x * 10)
    assert pool.call.maths.scale(4) == 40
    assert pool.submit.maths.scale(5).result(LIMIT) == 50
    assert pool.call(lambda a: a + 1, 2) == 3

    @pool.handler("rows")
    def rows(n: int) -> Any:
        yield from range(n)

    assert list(pool.stream.rows(3)) == [0, 1, 2]
    with pytest.raises(epyrpc.UnsupportedApiError):
        pool.call.maths.unknown(4)


def test_a_verb_takes_the_least_busy_body(pool: epyrpc.Pool, tmp_path: Any) -> None:
    path = str(tmp_path / "open")

    def wait() -> int:
        import os
        import time

        while not os.path.exists(path):
            time.sleep(0.005)
        return os.getpid()

    pool.each.call(os.getpid)
    busy = pool.submit(wait)
    eventually(lambda: busy.target)
    other = pool.call(os.getpid)
    (tmp_path / "open").touch()
    assert busy.result(LIMIT) != other


def test_each_answers_by_name(pool: epyrpc.Pool) -> None:
    pool.set_handler("who", lambda: os.getpid())
    pids = pool.each.call.who()
    assert sorted(pids) == ["crunch_1", "crunch_2"]
    assert len(set(pids.values())) == 2
    results = pool.each.submit.who()
    assert {name: result.result(LIMIT) for name, result in results.items()} == pids
    pool.each.push(x=5)
    assert pool.each.pull("x") == {"crunch_1": 5, "crunch_2": 5}
    assert pool.each.execute("x + 1") == {"crunch_1": 6, "crunch_2": 6}

    def fail() -> None:
        raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"):
        pool.each.call(fail)


def test_bodies_call_back(pool: epyrpc.Pool) -> None:
    told: list[int] = []
    pool.on("progress.step", told.append)

    def work(n: int) -> None:
        from epyrpc import head

        head.emit.progress.step(n)

    list(pool.map(work, range(5)))
    eventually(lambda: sorted(told) == [0, 1, 2, 3, 4])


def test_handlers_are_there_for_later_bodies_too(pool: epyrpc.Pool) -> None:
    pool.set_handler("maths.scale", lambda x: x * 10)
    pool.on("ask.base", lambda: 3)
    pool.scale(3)
    assert pool.each.call.maths.scale(2) == {f"crunch_{n}": 20 for n in (1, 2, 3)}

    def ask() -> Any:
        from epyrpc import head

        return head.call.ask.base()

    assert set(pool.each.call(ask).values()) == {3}
    os.kill(pool.bodies[0].pid or 0, 9)
    eventually(lambda: pool.bodies[0].restarts == 1)
    assert set(pool.each.call.maths.scale(2).values()) == {20}


def test_scaling_down_ends_idle_bodies_and_lets_busy_ones_finish(pool: epyrpc.Pool) -> None:
    pool.scale(4)
    pids = set(pool.each.call(os.getpid).values())
    results = pool.map(_short, range(400))
    pool.scale(1)
    assert list(results) == list(range(400))
    eventually(lambda: len(pool.bodies) == 1)
    eventually(lambda: sum(is_alive(pid) for pid in pids) == 1)
    pool.scale(2)
    assert len(pool.each.call(os.getpid)) == 2
    with pytest.raises(ValueError, match="greater than 0"):
        pool.scale(0)


def _short(n: int) -> int:
    sum(range(5000))
    return n


def test_idle_bodies_end_and_come_back() -> None:
    with epyrpc.Pool(2, idle_timeout=0.2) as pool:
        assert pool.submit(pow, 2, 2).result(LIMIT) == 4
        eventually(lambda: not pool.bodies)
        assert pool.submit(pow, 2, 2).result(LIMIT) == 4
        assert list(pool.map(abs, range(10))) == list(range(10))


def test_numeric_libraries_get_their_share_of_the_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    from epyrpc.bodies import helpers
    from epyrpc.bodies.pool import cpu_count

    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    helpers.stop_fork_server()  # it hands its environment down
    look = "import os; (os.environ.get('OMP_NUM_THREADS'), os.environ.get('MKL_NUM_THREADS'))"
    with epyrpc.Pool(1, name="share") as pool:
        assert pool.each.execute(look) == {"share_1": (str(cpu_count()), str(cpu_count()))}
    with epyrpc.Pool(1, name="told", threads=3) as pool:
        assert pool.each.execute(look) == {"told_1": ("3", "3")}
    with epyrpc.Pool(1, name="alone", threads=0) as pool:
        assert pool.each.execute(look) == {"alone_1": (None, None)}
    helpers.stop_fork_server()
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    with epyrpc.Pool(1, name="users", threads=3) as pool:
        assert pool.each.execute(look) == {"users_1": ("7", "3")}
    helpers.stop_fork_server()


def test_bodies_have_what_the_head_has_imported() -> None:
    from epyrpc.bodies import helpers

    helpers.stop_fork_server()
    assert np.__name__ in sys.modules
    with epyrpc.Pool(2) as pool:
        loaded = pool.each.call(lambda: "numpy" in sys.modules)
        drawn = pool.each.call(lambda: __import__("numpy").random.rand())
    assert set(loaded.values()) == {sys.platform == "linux"}
    assert len(set(drawn.values())) == 2, "they share the state of a generator"


def _openblas_threads() -> list[int]:
    import ctypes

    with open("/proc/self/maps", encoding="utf-8") as maps:
        paths = {line.split()[-1] for line in maps if "openblas" in line}
    names = [name.replace("_set_", "_get_") for name in pool_inside.OPENBLAS_FUNCTIONS]
    libraries = [ctypes.CDLL(path) for path in paths]
    return [getattr(library, name)() for library in libraries for name in names if hasattr(library, name)]


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize(
    ("threads", "users", "expected"),
    [pytest.param(3, None, {3}, id="told"), pytest.param(3, "2", {2}, id="the user's own")],
)
def test_a_numeric_library_that_is_loaded_is_told_its_threads(
    monkeypatch: pytest.MonkeyPatch, threads: int, users: str | None, expected: set[int]
) -> None:
    from epyrpc.bodies import helpers

    for name in pool_inside.OPENBLAS_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    if users is not None:
        monkeypatch.setenv("OPENBLAS_NUM_THREADS", users)
    helpers.stop_fork_server()  # it hands its environment down
    with epyrpc.Pool(1, threads=threads) as pool:
        found = pool.submit(_openblas_threads).result(LIMIT)
    helpers.stop_fork_server()
    if not found:
        pytest.skip("this NumPy comes without OpenBLAS")
    assert set(found) == expected


def test_a_pool_says_what_it_is(pool: epyrpc.Pool) -> None:
    pool.each.call(os.getpid)
    assert repr(pool) == "<Pool crunch · running · 2 bodies, 0 busy · 0 tasks queued>"
    assert "crunch_1" in pool._repr_html_()
    assert len(pool) == 2
    assert [body.name for body in pool] == ["crunch_1", "crunch_2"]
    with pytest.raises(TypeError, match="cannot travel"):
        pool.__reduce__()


def test_a_name_that_is_taken_is_refused(pool: epyrpc.Pool) -> None:
    with pytest.raises(epyrpc.ApiParamError, match="no living body"):
        epyrpc.Pool(1, name="crunch")


def test_each_body_keeps_a_state_from_task_to_task() -> None:
    def prepare() -> None:
        epyrpc.worker_state()["model"] = {"loaded by": os.getpid(), "uses": 0}

    def use(n: int) -> tuple[bool, int]:
        model = epyrpc.worker_state()["model"]
        model["uses"] += 1
        return model["loaded by"] == os.getpid(), model["uses"]

    with epyrpc.Pool(2, initializer=prepare) as pool:
        results = list(pool.map(use, range(100)))
        assert all(own for own, _ in results)
        assert max(uses for _, uses in results) >= 50
