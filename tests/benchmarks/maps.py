"""``python -m tests.benchmarks.maps``: maps over many bodies, beside the peers that do the same.

Every figure comes from a fresh interpreter that starts one system, warms it up until each of its processes has worked,
and times one map. No system gets a tuning argument. Rounds are interleaved in shuffled order; what is printed are
medians in milliseconds, and in the last column how many times as long epyrpc took as the best peer: the median of the
rounds' own ratios, since what else the machine does changes from round to round more than within one.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import operator
import random
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

WORKERS = 2
Map = Callable[[Callable[[Any], Any], Iterable[Any]], Any]


# --- what is mapped


def increment(n: int) -> int:
    """Do next to nothing."""
    return n + 1


def spin(seconds: float) -> float:
    """Keep a processor busy."""
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass
    return seconds


def double(array: Any) -> Any:
    """Return an array of the same size."""
    return array * 2


class Lookup:
    """Stands for a closure over a large array: every system can pickle it."""

    def __init__(self, size: int) -> None:
        import numpy as np

        self.table = np.arange(size, dtype=float)

    def __call__(self, n: int) -> float:
        return float(self.table[n])


def cases() -> dict[str, Callable[[], tuple[Callable[[Any], Any], list[Any]]]]:
    """Return ``{name: maker of (function, items)}``."""

    def skewed() -> list[float]:
        costs = [0.0005] * 400 + [0.05] * 8
        random.Random(1).shuffle(costs)
        return costs

    def arrays() -> list[Any]:
        import numpy as np

        return [np.full(131_072, float(n)) for n in range(60)]

    return {
        "1,000 trivial": lambda: (increment, list(range(1000))),
        "100,000 trivial": lambda: (increment, list(range(100_000))),
        "1 ms": lambda: (spin, [0.001] * 400),
        "30 ms": lambda: (spin, [0.03] * 30),
        "skewed": lambda: (spin, skewed()),
        "1 MB arrays": lambda: (double, arrays()),
        "100 MB closure": lambda: (Lookup(13_107_200), list(range(8))),
    }


# --- who maps


@contextmanager
def _epyrpc() -> Any:
    import epyrpc

    with epyrpc.Pool(WORKERS) as pool:
        yield pool.map


@contextmanager
def _process_pool_executor() -> Any:
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(WORKERS) as pool:
        yield pool.map


@contextmanager
def _multiprocessing_pool() -> Any:
    import multiprocessing

    with multiprocessing.get_context("fork").Pool(WORKERS) as pool:
        yield pool.map


@contextmanager
def _loky() -> Any:
    import loky  # type: ignore[import-untyped,unused-ignore]

    pool = loky.get_reusable_executor(WORKERS)
    yield pool.map
    pool.shutdown()


@contextmanager
def _joblib() -> Any:
    import joblib  # type: ignore[import-untyped,unused-ignore]

    with joblib.Parallel(WORKERS) as parallel:
        yield lambda function, items: parallel(joblib.delayed(function)(item) for item in items)


@contextmanager
def _mpire() -> Any:
    import mpire  # type: ignore[import-untyped,import-not-found,unused-ignore]

    with mpire.WorkerPool(WORKERS, keep_alive=True) as pool:

        def run(function: Callable[[Any], Any], items: Iterable[Any]) -> Any:
            if type(items[0]).__module__ == "numpy":  # type: ignore[index]
                items = [(item,) for item in items]  # it would take an array for several arguments
            return pool.map(function, items)

        yield run


@contextmanager
def _pebble() -> Any:
    import pebble  # type: ignore[import-untyped,import-not-found,unused-ignore]

    with pebble.ProcessPool(WORKERS) as pool:
        yield lambda function, items: pool.map(function, items).result()


SYSTEMS: dict[str, tuple[str, Callable[[], Any]]] = {  # {name: (module that it needs, maker)}
    "epyrpc": ("epyrpc", _epyrpc),
    "ProcessPoolExecutor": ("concurrent.futures", _process_pool_executor),
    "multiprocessing.Pool": ("multiprocessing", _multiprocessing_pool),
    "loky": ("loky", _loky),
    "joblib": ("joblib", _joblib),
    "mpire": ("mpire", _mpire),
    "pebble": ("pebble", _pebble),
}


def take(system: str, case: str) -> float:
    """Return the seconds of one map, in this process."""
    function, items = cases()[case]()
    with SYSTEMS[system][1]() as run:
        list(run(time.sleep, [0.2] * (2 * WORKERS)))  # so long that every process has come up
        list(run(increment, [1] * (2 * WORKERS)))
        started = time.perf_counter()
        count = sum(1 for _ in run(function, items))
        spent = time.perf_counter() - started
    if count != len(items):
        raise AssertionError(f"{system} gave {count} results for {len(items)} items")
    return spent


def take_fresh(system: str, case: str, limit: float) -> float | None:
    """Return the seconds of one map, in a fresh interpreter; None when it fails or takes longer than `limit`."""
    command = [sys.executable, "-m", "tests.benchmarks.maps", "--one", system, case]
    folder = Path(__file__).parents[2]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=limit, cwd=folder)
    except subprocess.TimeoutExpired:
        return None
    return float(done.stdout) if done.returncode == 0 else None


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.maps", description=__doc__)
    parser.add_argument("--one", nargs=2, metavar=("SYSTEM", "CASE"), help="print the seconds of one map")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--limit", type=float, default=60.0, help="seconds that one map may take")
    parser.add_argument("--cases", default="", help="only those whose name contains this")
    parser.add_argument("--systems", default="", help="only those whose names, with commas between, are given")
    options = parser.parse_args()
    if options.one:
        print(take(*options.one))
        return 0
    names = [name for name, (module, _) in SYSTEMS.items() if importlib.util.find_spec(module) is not None]
    if options.systems:
        names = [name for name in names if name in options.systems.split(",")]
    chosen = [case for case in cases() if options.cases in case]
    figures: dict[tuple[str, str], list[float]] = defaultdict(list)
    for number in range(options.rounds):
        for case in chosen:
            for system in random.sample(names, len(names)):
                print(f"\rround {number + 1} of {options.rounds}: {case} ", end="", file=sys.stderr, flush=True)
                spent = take_fresh(system, case, options.limit)
                figures[case, system].append(math.inf if spent is None else spent * 1000)
    print("\r" + " " * 60 + "\r", end="", file=sys.stderr)
    print(f"{WORKERS} processes, CPython {sys.version.split()[0]}, medians of {options.rounds} rounds, milliseconds\n")
    print(f"{'':18}" + "".join(f"{name:>22}" for name in names) + f"{'× best peer':>14}")
    for case in chosen:
        medians = {name: statistics.median(figures[case, name]) for name in names}
        peers = [name for name in names if name != "epyrpc" and medians[name] < math.inf]
        ratio = f"{'–':>14}"
        if peers and medians.get("epyrpc", math.inf) < math.inf:
            best = min(peers, key=lambda name: medians[name])
            ratios = map(operator.truediv, figures[case, "epyrpc"], figures[case, best])
            ratio = f"{statistics.median(ratios):14.2f}"
        cells = "".join(f"{medians[name]:22.1f}" if medians[name] < math.inf else f"{'–':>22}" for name in names)
        print(f"{case:18}{cells}{ratio}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
