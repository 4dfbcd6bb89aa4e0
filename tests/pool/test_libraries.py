"""Libraries that take an executor, or are given one: the real ones."""

from __future__ import annotations

import io
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any

import joblib
import numpy as np
import pytest

import epyrpc
from tests.bodies.tools import LIMIT, head

pytestmark = pytest.mark.filterwarnings("default::DeprecationWarning")


@pytest.fixture
def shared() -> Iterator[None]:
    """End the pool that joblib's calls share."""
    yield
    from epyrpc.joblib import shutdown

    shutdown()


def test_joblib_runs_on_the_shared_pool(shared: None) -> None:
    with joblib.parallel_config(backend="epyrpc", n_jobs=2):
        got = joblib.Parallel()(joblib.delayed(pow)(n, 2) for n in range(200))
        from epyrpc.joblib import shared_pool

        bodies = set(shared_pool(2).each.call(os.getpid).values())
        pids = set(joblib.Parallel()(joblib.delayed(os.getpid)() for _ in range(50)))
    assert got == [n * n for n in range(200)]
    assert pids <= bodies, "not in this process"
    with joblib.parallel_config(backend="epyrpc", n_jobs=2):
        again = set(joblib.Parallel()(joblib.delayed(os.getpid)() for _ in range(50)))
    assert again <= bodies, "the bodies are kept"
    assert os.getpid() not in bodies


@pytest.mark.parametrize("first", ["epyrpc", "joblib"])
@pytest.mark.parametrize(
    ("config", "options"),
    [('backend="epyrpc", n_jobs=2', ""), ("n_jobs=2", 'backend="epyrpc"')],
    ids=["config", "call"],
)
def test_joblib_knows_the_name_whoever_is_imported_first(first: str, config: str, options: str) -> None:
    second = "joblib" if first == "epyrpc" else "epyrpc"
    code = f"""
import sys
import {first}
import {second}
from joblib import Parallel, delayed
assert "epyrpc.joblib" not in sys.modules
with joblib.parallel_config({config}):
    print(Parallel({options})(delayed(abs)(-n) for n in range(3)))
assert "epyrpc.joblib" in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert (done.stdout, done.stderr) == ("[0, 1, 2]\n", "")


NESTED = """
import multiprocessing
import epyrpc
import joblib
from joblib import Parallel, delayed

def inner(n):
    import epyrpc  # makes the backend known in a worker, too
    with joblib.parallel_config(backend="epyrpc", n_jobs=2):
        return sum(Parallel()(delayed(abs)(-n) for _ in range(3)))

def in_body(n):
    import epyrpc
    with epyrpc.spawn("inside", start_method="spawn") as body:
        return body.call(abs, -n)

if __name__ == "__main__":
    if {outer!r} == "fork":
        inner(1)  # the parent has a pool already, which is not the child's
        with multiprocessing.get_context("fork").Pool(1) as pool:
            print(pool.map(inner, [2]))
    else:
        print(Parallel(n_jobs=2, backend={outer!r})(delayed(inner)(n) for n in (1, 2)))
        print(Parallel(n_jobs=2, backend={outer!r})(delayed(in_body)(n) for n in (3, 4)))
"""


@pytest.mark.parametrize(("outer", "printed"), [("loky", "[3, 6]\n[3, 4]\n"), ("fork", "[6]\n")])
def test_workers_of_others_may_have_bodies_and_pools_of_their_own(outer: str, printed: str) -> None:
    with head("", "-") as process:
        out, err = process.communicate(NESTED.format(outer=outer), timeout=90)
    assert (process.returncode, out) == (0, printed), err


def test_joblib_hands_an_initializer_to_the_bodies(shared: None) -> None:
    def prepare(value: int) -> None:
        epyrpc.worker_state()["prepared"] = value

    def look() -> Any:
        return epyrpc.worker_state().get("prepared")

    options: dict[str, Any] = {"backend": "epyrpc", "n_jobs": 2, "initargs": (7,), "initializer": prepare}
    assert set(joblib.Parallel(**options)(joblib.delayed(look)() for _ in range(20))) == {7}
    with joblib.parallel_config(**options):
        assert set(joblib.Parallel()(joblib.delayed(look)() for _ in range(20))) == {7}
    assert set(joblib.Parallel(n_jobs=2, backend="epyrpc")(joblib.delayed(look)() for _ in range(20))) == {None}


def test_joblib_with_a_given_pool_takes_no_initializer(pool: epyrpc.Pool) -> None:
    with (
        joblib.parallel_config(backend="epyrpc", pool=pool, n_jobs=2, initializer=abs),
        pytest.raises(ValueError, match="give the initializer to the pool"),
    ):
        joblib.Parallel()(joblib.delayed(abs)(n) for n in range(5))


def test_joblib_runs_on_a_given_pool_and_carries_errors(pool: epyrpc.Pool) -> None:
    def fail(n: int) -> int:
        if n == 7:
            raise ValueError("seven")
        return n

    with joblib.parallel_config(backend="epyrpc", pool=pool, n_jobs=-1):
        assert joblib.Parallel()(joblib.delayed(fail)(n) for n in range(5)) == list(range(5))
        with pytest.raises(ValueError, match="seven"):
            joblib.Parallel()(joblib.delayed(fail)(n) for n in range(50))
        parts = joblib.Parallel(return_as="generator")(joblib.delayed(fail)(n) for n in range(6))
        assert list(parts) == list(range(6))
    assert pool.submit(pow, 2, 2).result(LIMIT) == 4


def test_scikit_learn_works_over_it(pool: epyrpc.Pool) -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    selection = pytest.importorskip("sklearn.model_selection")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 3))
    y = x @ np.array([1.0, 2.0, 3.0]) + rng.normal(scale=0.1, size=200)
    with joblib.parallel_config(backend="epyrpc", pool=pool, n_jobs=2):
        scores = selection.cross_val_score(linear_model.Ridge(), x, y, cv=5)
        search = selection.GridSearchCV(linear_model.Ridge(), {"alpha": [0.1, 1.0, 10.0]}, cv=3).fit(x, y)
    assert scores.min() > 0.9
    assert search.best_params_["alpha"] in (0.1, 1.0)


def test_tqdm_maps_over_it(monkeypatch: pytest.MonkeyPatch) -> None:
    concurrent = pytest.importorskip("tqdm.contrib.concurrent")
    monkeypatch.setattr("tqdm.std.tqdm.monitor_interval", 0)  # else a thread watches its bars for ever
    shown = io.StringIO()
    factory = partial(epyrpc.Pool, name="bars")
    got = concurrent._executor_map(factory, pow, range(20), range(20), max_workers=2, file=shown, desc="powers")
    assert got == [n**n for n in range(20)]
    assert "20/20" in shown.getvalue()


def test_tqdm_iterates_over_a_map(pool: epyrpc.Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    tqdm = pytest.importorskip("tqdm")
    monkeypatch.setattr("tqdm.std.tqdm.monitor_interval", 0)  # else a thread watches its bars for ever
    shown = io.StringIO()
    assert list(tqdm.tqdm(pool.map(abs, range(50)), total=50, file=shown)) == list(range(50))
    assert "50/50" in shown.getvalue()


@pytest.mark.parametrize("scheduler", ["processes", "threads"])
def test_dask_computes_on_it(pool: epyrpc.Pool, scheduler: str) -> None:
    dask = pytest.importorskip("dask")

    @dask.delayed  # type: ignore[untyped-decorator,unused-ignore]
    def where(n: int) -> tuple[int, int]:
        return os.getpid(), n * n

    def add_up(parts: Any) -> tuple[set[int], int]:
        return {pid for pid, _ in parts}, sum(value for _, value in parts)

    total = dask.delayed(add_up)([where(n) for n in range(20)])
    pids, value = total.compute(scheduler=scheduler, pool=pool)
    assert value == sum(n * n for n in range(20))
    assert pids <= {body.pid for body in pool.bodies}


def test_locks_and_queues_are_handed_down_to_the_initializer() -> None:
    context = multiprocessing.get_context("spawn")
    queue, limit = context.SimpleQueue(), context.Semaphore(2)

    def prepare(queue: Any, limit: Any) -> None:
        import builtins

        limit.acquire()
        builtins.told = queue  # type: ignore[attr-defined]

    def tell(n: int) -> None:
        import builtins

        builtins.told.put(n)  # type: ignore[attr-defined]

    with epyrpc.Pool(2, initializer=prepare, initargs=(queue, limit)) as pool:
        list(pool.map(tell, range(5)))
        pool.each.call(os.getpid)
        assert not limit.acquire(block=False)
    assert sorted(queue.get() for _ in range(5)) == [0, 1, 2, 3, 4]
    queue.close()
    import threading

    with pytest.raises(epyrpc.CodecError, match="lock"):
        epyrpc.Pool(1, initializer=print, initargs=(threading.Lock(),))
