"""The main job in a terminal: ``python -m epyrpc.demo``, or ``make demo``.

The input is real: the hundred measurements of the speed of light that Albert Michelson made in 1879 (in km/s above
299,000; S. M. Stigler, "Do robust estimators work with real data?", Annals of Statistics 5, 1977, table 6). A body
bootstraps their median, streams, calls back, is killed, and comes back.
"""

from __future__ import annotations

import os
import random
import signal
import statistics
import sys
import time
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import epyrpc

if TYPE_CHECKING:
    from collections.abc import Iterator

MICHELSON_1879 = (
    850, 740, 900, 1070, 930, 850, 950, 980, 980, 880, 1000, 980, 930, 650, 760, 810, 1000, 1000, 960, 960,
    960, 940, 960, 940, 880, 800, 850, 880, 900, 840, 830, 790, 810, 880, 880, 830, 800, 790, 760, 800,
    880, 880, 880, 860, 720, 720, 620, 860, 970, 950, 880, 910, 850, 870, 840, 840, 850, 840, 840, 840,
    890, 810, 810, 820, 800, 770, 760, 740, 750, 760, 910, 920, 890, 860, 880, 720, 840, 850, 850, 780,
    890, 840, 780, 810, 760, 810, 790, 810, 820, 850, 870, 870, 810, 740, 810, 940, 950, 800, 810, 870,
)  # fmt: skip
OFFSET = 299_000
BAR = 32
STEPS = 3  # of the trimming


def say(text: str = "") -> None:
    """Print a line at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def step(number: int, text: str) -> None:
    """Print a heading."""
    say(f"\n{number}. {text}")


def watch(result: epyrpc.AsyncResult) -> Any:
    """Show a call's progress until it has ended; return its value."""
    live = sys.stdout.isatty()
    shown = -1
    while not result.done():
        progress = result.progress
        if progress is not None and progress.total:
            filled = int(BAR * progress.done / progress.total)
            if live:
                eta = f"{progress.eta:4.1f} s left" if progress.eta is not None else ""
                sys.stdout.write(
                    f"\r   [{'█' * filled}{'·' * (BAR - filled)}] {progress.done:.0f}/{progress.total:.0f} {eta} "
                )
                sys.stdout.flush()
            elif (quarter := int(4 * progress.done / progress.total)) > shown:
                shown = quarter
                say(f"   {result.state}: {progress.done:.0f} of {progress.total:.0f} resamples")
        time.sleep(0.05)
    value = result.result()
    if live:
        sys.stdout.write("\r" + " " * 78 + "\r")
    say(f"   {result!r}")
    return value


def run() -> None:
    """Run the whole demonstration."""
    readings = MICHELSON_1879
    epochs: SimpleQueue[tuple[int, float]] = SimpleQueue()
    say("epyrpc: closures of this process, run in another, watched from here.")
    say(f"Input: Michelson's {len(readings)} measurements of the speed of light, 1879.")

    step(1, "Spawn a body")
    lab = epyrpc.spawn("lab", workers=2)
    say(f"   {lab!r}   (this process: {os.getpid()})")

    step(2, "Register closures; they carry the measurements with them")

    @lab.handler("light.bootstrap")
    def bootstrap(resamples: int, seed: int) -> tuple[float, float]:
        """Return the 95 % interval of the median."""
        rng = random.Random(seed)
        draws = epyrpc.track(range(resamples))
        medians = sorted(statistics.median(rng.choices(readings, k=len(readings))) for _ in draws)
        return medians[int(0.025 * resamples)], medians[int(0.975 * resamples)]

    @lab.handler("light.days")
    def days() -> Iterator[tuple[int, float]]:
        """Yield the mean of each of Michelson's five series."""
        for day in range(5):
            yield day + 1, statistics.fmean(readings[20 * day : 20 * day + 20])

    for path, (signature, doc) in lab.describe().items():
        say(f"   {path}{signature}   {doc}")

    step(3, "Call one, and watch it")
    low, high = watch(lab.submit.light.bootstrap(60_000, seed=1))
    median = statistics.median(readings)
    say(f"   median {OFFSET + median:,.0f} km/s, 95 % between {OFFSET + low:,.0f} and {OFFSET + high:,.0f}")

    step(4, "Stream parts as the handler yields them")
    for day, mean in lab.stream.light.days():
        say(f"   series {day}: {OFFSET + mean:,.1f} km/s")

    step(5, "The body calls back, and sends events")
    lab.on("ask.trim", lambda: 0.1)
    lab.on("fit.epoch", lambda number, value: epochs.put((number, value)))
    trimmed = lab.call(trimmed_mean, readings)
    say(f"   the body asked for the trim: the trimmed mean is {OFFSET + trimmed:,.1f} km/s")
    for _ in range(STEPS):  # an event is nobody's reply: it may be handled a moment after the call has ended
        number, value = epochs.get(timeout=10)
        say(f"   and told of step {number} on the way: {OFFSET + value:,.1f} km/s")

    step(6, "Kill it in the middle of a call")
    doomed = lab.submit.light.bootstrap(10_000_000, seed=2)
    while doomed.progress is None:
        time.sleep(0.01)
    pid = lab.pid
    if pid is not None:
        os.kill(pid, signal.SIGKILL)
    started = time.perf_counter()
    try:
        doomed.result()
    except epyrpc.BodyDied as exc:
        say(f"   after {(time.perf_counter() - started) * 1000:.1f} ms: BodyDied: {exc}")

    step(7, "Restart it; its handlers are registered again")
    lab.restart()
    say(f"   {lab!r}")
    again = lab.call.light.bootstrap(500, seed=1)
    say(f"   light.bootstrap answers again: {again}")
    lab.stop()
    say(f"   {lab!r}")
    say("\nThat was it. Next, in JupyterLab, the tutorials:  make lab")


def trimmed_mean(values: tuple[float, ...]) -> float:
    """Return the mean without the extremes; how many, the head is asked."""
    share = epyrpc.head.call.ask.trim()
    ordered = sorted(values)
    mean = 0.0
    for number in range(1, STEPS + 1):
        cut = int(len(ordered) * share * number / STEPS)
        mean = statistics.fmean(ordered[cut : len(ordered) - cut])
        epyrpc.head.emit.fit.epoch(number, mean)
    return mean


if __name__ == "__main__":
    run()
