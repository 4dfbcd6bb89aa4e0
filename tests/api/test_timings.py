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
    assert set(held.timings) == {"total"}  # it has not begun
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
    assert timings["queued"] + timings["ran"] == pytest.approx(timings["total"])
    assert timings["total"] == held.elapsed
    assert timings["queued"] >= waited - 0.005
    assert timings["ran"] >= worked - 0.005


def test_quick_call_has_its_total_only(wire):
    head, neck = wire.pair()
    neck.set_handler("echo", lambda x: x)
    held = head.echo(1)(sync=False)
    held.result(LIMIT)
    assert "total" in held.timings
    assert held.timings["total"] == held.elapsed
