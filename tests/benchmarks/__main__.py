"""``python -m tests.benchmarks``: epyrpc beside its peers, in one run.

All systems are alive at once, pinned to one core so that where the scheduler puts a pair of processes does not decide
(``--free`` leaves them alone); rounds are interleaved in shuffled order, with several process pairs of each system;
what is printed is the median over the rounds, and for blocking calls the median of the rounds' ratios to the manager
proxy.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from tests.benchmarks.systems import System, available, in_threads

CALLS, SUBMITTED, EVENTS, THREADS, THREAD_CALLS = 2000, 10_000, 40_000, 8, 400
MANAGER = "multiprocessing manager"


def calls(system: System) -> float:
    """Microseconds a blocking call."""
    call = system.call
    started = time.perf_counter()
    for i in range(CALLS):
        call(i)
    return (time.perf_counter() - started) / CALLS * 1e6


def pipelined(system: System) -> float | None:
    """Thousands of calls a second, each its own, made before any result is asked for."""
    submit = system.submit
    if submit is None:
        return None
    started = time.perf_counter()
    results = [submit(i) for i in range(SUBMITTED)]
    if [result.result() for result in results] != list(range(SUBMITTED)):
        raise AssertionError(f"{system.name} mixed its results up")
    return SUBMITTED / (time.perf_counter() - started) / 1e3


def events(system: System) -> float | None:
    """Thousands of events a second, until the other end has seen the last one."""
    if system.emit is None or system.events_seen is None:
        return None
    emit, before = system.emit, system.events_seen()
    started = time.perf_counter()
    for i in range(EVENTS):
        emit(i)
    while system.events_seen() - before < EVENTS:
        pass
    return EVENTS / (time.perf_counter() - started) / 1e3


def threads(system: System) -> float | None:
    """Thousands of blocking calls a second, from eight threads."""
    if system.name in ("bare multiprocessing.Pipe", "execnet"):
        return None  # one caller at a time

    def work() -> None:
        for i in range(THREAD_CALLS):
            system.call(i)

    started = time.perf_counter()
    in_threads(THREADS, work)
    return THREADS * THREAD_CALLS / (time.perf_counter() - started) / 1e3


MEASURES: tuple[tuple[str, Callable[[System], float | None]], ...] = (
    ("call µs", calls),
    ("pipelined k/s", pipelined),
    ("events k/s", events),
    (f"{THREADS} threads k/s", threads),
)


def measure(pairs: int, rounds: int) -> tuple[dict[tuple[str, str], list[float]], list[float]]:
    """Return all figures by system and measure, and epyrpc's ratios to the manager, one a round."""
    figures: dict[tuple[str, str], list[float]] = defaultdict(list)
    ratios: list[float] = []
    for pair in range(pairs):
        systems = [make() for make in available()]
        try:
            for system in systems:
                system.call(0)
            for number in range(rounds):
                print(
                    f"\rpair {pair + 1} of {pairs}, round {number + 1} of {rounds} ",
                    end="",
                    file=sys.stderr,
                    flush=True,
                )
                for name, take in MEASURES:
                    of_round = {}
                    for system in random.sample(systems, len(systems)):
                        value = take(system)
                        if value is not None:
                            figures[system.name, name].append(value)
                            of_round[system.name] = value
                    if name == "call µs":
                        ratios.append(of_round["epyrpc"] / of_round[MANAGER])
        finally:
            for system in systems:
                system.close()
    print("\r" + " " * 40 + "\r", end="", file=sys.stderr)
    return figures, ratios


def main() -> int:
    """Measure and print; return 1 when a bound is missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("--free", action="store_true", help="do not pin the processes to one core")
    parser.add_argument("--pairs", type=int, default=3, help="process pairs of each system")
    parser.add_argument("--rounds", type=int, default=5, help="rounds with each pair")
    options = parser.parse_args()
    if not options.free and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    figures, ratios = measure(options.pairs, options.rounds)
    names = [name for name, _ in MEASURES]
    where = "free" if options.free else "pinned to one core"
    lines = [f"{where}, CPython {sys.version.split()[0]}, {options.pairs} pairs × {options.rounds} rounds, medians", ""]
    lines.append(f"{'':28}" + "".join(f"{name:>18}" for name in names))
    for system in available():
        cells = [figures.get((system.name, name)) for name in names]
        lines.append(
            f"{system.name:28}" + "".join(f"{statistics.median(c):18.1f}" if c else f"{'–':>18}" for c in cells)
        )
    ratio = statistics.median(ratios)
    own = {name: statistics.median(figures["epyrpc", name]) for name in names}
    lines += ["", f"blocking call: {ratio:.2f} × a manager proxy's (median of {len(ratios)} rounds; bound 1.20)"]
    print("\n".join(lines))
    if options.free:
        return 0
    return int(ratio > 1.2 or own["pipelined k/s"] < 60 or own["events k/s"] < 200)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    sys.exit(main())
