"""``python -m tests.benchmarks.watching``: what a monitor costs those who make the calls that it watches.

Rounds with and without a monitor take turns, in one process, with one body. Of each the processor time of this process
for one call is taken, and the rate; what is printed are medians, and the median of the rounds' own differences and
ratios, since what else the machine does changes from round to round. The monitor's messages are counted, not sent.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import epyrpc
from epyrpc_widgets import TransactionMonitor
from epyrpc_widgets.live import flusher

BATCH = 200


class Round(NamedTuple):
    """What one round took: microseconds of processor time for a call, calls a second, messages a second."""

    cost: float
    rate: float
    messages: float


def one_by_one(body: epyrpc.Body, seconds: float) -> int:
    """Call and wait, again and again; return how often."""
    until, call, count = time.perf_counter() + seconds, body.call.half, 0
    while time.perf_counter() < until:
        for n in range(20):
            call(n)
        count += 20
    return count


def in_batches(body: epyrpc.Body, seconds: float) -> int:
    """Submit many calls, then take their results; as fast as possible."""
    until, count = time.perf_counter() + seconds, 0
    while time.perf_counter() < until:
        count += _batch(body)
    return count


def paced(body: epyrpc.Body, seconds: float) -> int:
    """Make 10,000 calls a second."""
    begun, count = time.perf_counter(), 0
    while (passed := time.perf_counter() - begun) < seconds:
        count += _batch(body)
        time.sleep(max(0.0, count / 10_000 - passed))
    return count


def _batch(body: epyrpc.Body) -> int:
    submit = body.submit.half
    for result in [submit(n) for n in range(BATCH)]:
        result.result()
    return BATCH


WAYS = {"one by one": one_by_one, "in batches": in_batches, "10,000 a second": paced}


class Counting(TransactionMonitor):
    """A monitor with a page that is there, whose messages are counted."""

    sent = 0

    def __init__(self) -> None:
        super().__init__()
        self._greeted = True

    def send(self, content: object, buffers: object = None) -> None:
        """Count a message."""
        self.sent += 1

    def send_state(self, key: object = None) -> None:
        """Count the message of a trait that has changed."""
        self.sent += 1

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Watch for a while."""
        self.observer.reopen()
        flusher.add(self)
        yield
        self.stop()


def take(way: Callable[[epyrpc.Body, float], int], body: epyrpc.Body, seconds: float, watcher: Counting) -> Round:
    """Make calls for a while."""
    gc.collect()
    before, spent, begun = watcher.sent, time.process_time(), time.perf_counter()
    count = way(body, seconds)
    took = time.perf_counter() - begun
    return Round(1e6 * (time.process_time() - spent) / count, count / took, (watcher.sent - before) / took)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.watching", description=__doc__)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=1.0, help="that a round lasts")
    options = parser.parse_args()
    watcher = Counting()
    watcher.stop()
    with epyrpc.spawn("watched") as body:
        body.set_handler("half", lambda x: x / 2)
        print(f"CPython {sys.version.split()[0]}, medians of {options.rounds} rounds\n")
        print(f"{'':17}{'µs of CPU a call':>18}{'watched':>10}{'more':>8}{'rate ×':>9}{'messages/s, most':>19}")
        for name, way in WAYS.items():
            way(body, 0.3)
            alone, watched = [], []
            for _ in range(options.rounds):
                alone.append(take(way, body, options.seconds, watcher))
                with watcher.at_work():
                    watched.append(take(way, body, options.seconds, watcher))
            more = statistics.median(w.cost - a.cost for a, w in zip(alone, watched, strict=True))
            ratio = statistics.median(w.rate / a.rate for a, w in zip(alone, watched, strict=True))
            costs = [statistics.median(r.cost for r in rounds) for rounds in (alone, watched)]
            most = max(r.messages for r in watched)
            print(f"{name:17}{costs[0]:18.1f}{costs[1]:10.1f}{more:8.2f}{ratio:9.2f}{most:19.1f}")
    watcher.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
