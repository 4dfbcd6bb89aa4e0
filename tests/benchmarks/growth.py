"""Memory of both ends before and after many calls: ``python -m tests.benchmarks.growth [calls]``, else a million.

The calls are of every sort: blocking, pipelined, events, streams, failing, timed out, cancelled, calling back,
printing.
What is compared is the resident size after a warm-up, after a collection, with the size at the end.
"""

from __future__ import annotations

import contextlib
import gc
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import psutil

import epyrpc
from epyrpc import results

BATCH = 1000


class Growth(NamedTuple):
    """What a measurement has found."""

    calls: int
    seconds: float
    head_before: int  # bytes
    head_after: int
    body_before: int
    body_after: int
    pending: tuple[int, int]  # transactions still there, at the head and in the body

    @property
    def head_bytes(self) -> int:
        """By how much the head has grown."""
        return self.head_after - self.head_before

    @property
    def body_bytes(self) -> int:
        """By how much the body has grown."""
        return self.body_after - self.body_before


def measure(calls: int, warm_up: int = 50_000) -> Growth:
    """Make so many calls of every sort, and as many as `warm_up` before that."""
    sink, results.make_output_sink = results.make_output_sink, lambda: lambda stream, text: None
    try:
        with epyrpc.spawn("growing", workers=4) as body:
            _register(body)
            _run(body, warm_up)
            before = _sizes(body)
            started = time.perf_counter()
            _run(body, calls)
            seconds = time.perf_counter() - started
            after = _sizes(body)
            pending = (len(body.transporter.transactions), body.call.pending())
        return Growth(calls, seconds, before[0], after[0], before[1], after[1], pending)
    finally:
        results.make_output_sink = sink


def _register(body: epyrpc.Body) -> None:
    def back(x: int) -> Any:
        from epyrpc import head

        return head.call.echo(x)

    def pending() -> int:
        from epyrpc import head

        return len(head.api.transporter.transactions)

    def collect() -> None:
        import gc

        gc.collect()

    body.on("echo", lambda x: x)
    body.set_handler("echo", lambda x: x)
    body.set_handler("fail", lambda: 1 / 0)
    body.set_handler("rows", lambda n: (i for i in range(n)))
    body.set_handler("say", print)
    body.set_handler("nap", time.sleep)
    body.set_handler("back", back)
    body.set_handler("pending", pending)
    body.set_handler("collect", collect)


def _run(body: epyrpc.Body, calls: int) -> None:
    done = 0
    while done < calls:
        done += _batch(body)
        if done % (100 * BATCH) < BATCH and sys.stdout.isatty():
            print(f"\r{done:,}", end="", flush=True)


def _batch(body: epyrpc.Body) -> int:
    many: Callable[..., Any] = body.submit.echo
    for result in [many(n) for n in range(BATCH - 200)]:
        result.result()
    for n in range(100):
        body.call.echo(n)
        body.emit.echo(n)
    list(body.stream.rows(10))
    body.call.back(1)
    body.call.say("said")
    body.call(abs, -1)
    with contextlib.suppress(ZeroDivisionError):
        body.call.fail()
    cancelled = body.submit.nap(0.001)
    cancelled.cancel()
    with contextlib.suppress(epyrpc.TransactionTimeout):
        body.call(timeout=0).nap(0.0)
    body.submit(callback=lambda *args: None, timeout=60).echo(1).result()
    body.submit.echo(1).then(abs).result()
    return BATCH


def _sizes(body: epyrpc.Body) -> tuple[int, int]:
    gc.collect()
    body.call.collect()
    return psutil.Process().memory_info().rss, psutil.Process(body.pid).memory_info().rss


if __name__ == "__main__":
    growth = measure(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
    print(f"\r{growth.calls:,} calls in {growth.seconds:.1f} s")
    for end, before, after in (
        ("head", growth.head_before, growth.head_after),
        ("body", growth.body_before, growth.body_after),
    ):
        print(f"{end}: {before / 1e6:.2f} MB before, {after / 1e6:.2f} MB after, {(after - before) / 1e3:+.0f} kB")
    print("pending transactions (head, body):", growth.pending)
