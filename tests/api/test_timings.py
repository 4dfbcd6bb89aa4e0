"""`AsyncResult.timings`: where the time of a call went."""

from __future__ import annotations

import threading
from time import monotonic

import pytest

from tests.api.ends import LIMIT, eventually, waits


def test_queued_and_ran_of_a_call_that_took_its_time(wire):
    head, neck = wire.pair()  # with one worker
    first, second, here = wire.gate(), wire.gate(), threading.Event()

    def serve(gate):
        here.set()
        gate.wait(LIMIT)

    neck.set_handler("first", lambda: serve(first))
    neck.set_handler("second", lambda: serve(second))
    blocker = head.first()(sync=False)
    waits(here)
    here.clear()
    made = monotonic()
    held = head.second()(sync=False)
    eventually(lambda: monotonic() - made > 0.03)
    assert list(held.timings) == ["encode", "total"]  # it has not begun
    waited = monotonic() - made
    first.set()
    waits(here)
    begun = monotonic()
    eventually(lambda: "ran" in held.timings)
    eventually(lambda: monotonic() - begun > 0.03)
    worked = monotonic() - begun
    second.set()
    held.result(LIMIT)
    blocker.result(LIMIT)
    timings = held.timings
    assert list(timings) == ["encode", "queued", "ran", "reply", "total"]
    assert sum(timings.values()) == pytest.approx(2 * timings["total"])
    assert min(timings.values()) >= 0
    assert timings["total"] == held.elapsed
    assert timings["queued"] >= waited - 0.005
    assert timings["ran"] >= worked - 0.005


def test_an_error_and_a_stream_tell_how_long_their_handler_ran(wire):
    head, neck = wire.pair()
    gate = wire.gate()

    def fail():
        gate.wait(LIMIT)
        raise ValueError

    neck.set_handler("fail", fail)
    held = head.fail()(sync=False)
    eventually(lambda: "ran" in held.timings)
    assert "reply" not in held.timings  # it still runs
    gate.set()
    assert isinstance(held.exception(LIMIT), ValueError)
    assert "reply" in held.timings

    def rows():
        yield 1
        again.wait(LIMIT)

    again = wire.gate()
    neck.set_handler("rows", rows)
    parts = head.stream("rows")
    assert next(parts) == 1
    eventually(lambda: "ran" in parts.call.timings)
    again.set()
    assert list(parts) == []
    assert "reply" in parts.call.timings


def test_large_arguments_tell_how_long_they_were_sent(wire):
    head, neck = wire.pair()
    neck.set_handler("size", len)
    held = head.size(bytes(2_000_000))(sync=False)
    assert held.result(LIMIT) == 2_000_000
    assert list(held.timings)[:2] == ["encode", "send"]
    assert sum(held.timings.values()) <= 2 * held.elapsed + 1e-9


def test_encoding_takes_its_time(wire):
    head, neck = wire.pair()
    neck.set_handler("echo", lambda x: None)

    class Slow:
        def __reduce__(self):
            limit = monotonic() + 0.05
            while monotonic() < limit:
                pass
            return int, ()

    held = head.echo(Slow())(sync=False)
    held.result(LIMIT)
    assert held.timings["encode"] >= 0.05
    assert held.elapsed >= 0.05


def test_quick_call_was_not_seen_running(wire):
    head, neck = wire.pair()
    neck.set_handler("echo", lambda x: x)
    held = head.echo(1)(sync=False)
    held.result(LIMIT)
    assert {"encode", "total"} <= set(held.timings)
    assert held.timings["total"] == held.elapsed
