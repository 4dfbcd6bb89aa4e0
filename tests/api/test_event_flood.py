"""Events that come faster than they are handled hold up their sender, and nobody else."""

from __future__ import annotations

import os
import signal
import threading

import pytest

import epyrpc
from epyrpc import BodyDied
from epyrpc.transports import window
from epyrpc.transports.window import LIMIT as AHEAD
from tests.api.ends import LIMIT, eventually, waits
from tests.bodies.tools import Busy

SLACK = 2_000  # told of only now and then, and one more each second


class Sender(threading.Thread):
    """Emits numbered events, and counts those that are out."""

    def __init__(self, emit, count):
        super().__init__(daemon=True)
        self.emit, self.count, self.out = emit, count, 0
        self.error = None

    def run(self):
        try:
            for number in range(self.count):
                self.emit(number)
                self.out = number + 1
        except Exception as exc:
            self.error = exc

    def is_held_up(self):
        """Whether nothing more goes out, or next to nothing."""
        before = self.out
        threading.Event().wait(0.2)
        return self.out - before <= 1


def test_flood_is_held_up_and_every_event_arrives_in_order(wire):
    head, neck = wire.pair()
    gate, got, longest = wire.gate(), [], [0]

    def take(number):
        if number == 0:
            gate.wait(LIMIT * 3)
        got.append(number)
        longest[0] = max(longest[0], neck.pool.waiting)

    neck.set_handler("take", take)
    sender = Sender(lambda number: head.take(number)(solicited=False), 200_000)
    sender.start()
    eventually(lambda: sender.out >= AHEAD and sender.is_held_up(), limit=LIMIT * 3)
    assert sender.out < AHEAD + SLACK
    gate.set()
    sender.join(LIMIT * 6)
    eventually(lambda: len(got) == 200_000, limit=LIMIT * 3)
    assert got == list(range(200_000))
    assert sender.error is None
    assert longest[0] < AHEAD + SLACK


def test_large_events_count_by_their_size(wire):
    head, neck = wire.pair()
    gate, got = wire.gate(), []

    def take(number, data):
        gate.wait(LIMIT * 3)
        got.append((number, len(data)))

    neck.set_handler("take", take)
    data = b"x" * 1_000_000
    sender = Sender(lambda number: head.take(number, data)(solicited=False), 300)
    sender.start()
    eventually(lambda: sender.out >= 50 and sender.is_held_up(), limit=LIMIT * 3)
    assert sender.out < 90
    gate.set()
    sender.join(LIMIT * 3)
    eventually(lambda: len(got) == 300)
    assert got == [(number, len(data)) for number in range(300)]


def test_dropped_and_failing_events_hold_nobody_up(wire, caplog):
    caplog.set_level("CRITICAL")
    head, neck = wire.pair(workers=2)
    ended = threading.Event()

    def fail(number):
        if number == 2 * AHEAD:
            ended.set()
        raise ValueError(number)

    neck.set_handler("fail", fail)
    for number in range(2 * AHEAD + 1):
        head.nobody(number)(solicited=False)
        head.fail(number)(solicited=False)
    waits(ended)
    # The rest of them is not worth a word to the sender.
    eventually(lambda: wire.ipc_head._wire.events.allowed >= 5 * AHEAD - SLACK)


def test_two_ends_that_flood_each_other_wait_for_no_one_for_ever(wire, monkeypatch):
    monkeypatch.setattr(window, "PATIENCE_SECONDS", 0.02)
    head, neck = wire.pair()
    pings, pongs = [], []

    def ping(number):
        pings.append(number)
        for _ in range(3):
            neck.pong(number)(solicited=False)

    def pong(number):
        pongs.append(number)
        if number:
            head.ping(number - 1)(solicited=False)

    neck.set_handler("ping", ping)
    head.set_handler("pong", pong)
    for ipc in (wire.ipc_head, wire.ipc_neck):
        ipc._wire.events.allowed = 0  # as if both were as far ahead as they may be
    head.ping(3)(solicited=False)
    eventually(lambda: len(pings) == 1 + 3 + 9 + 27, limit=LIMIT * 3)
    eventually(lambda: len(pongs) == 3 * len(pings), limit=LIMIT * 3)


@pytest.fixture
def body():
    """Give a body, with one worker."""
    with epyrpc.spawn("worker", workers=1, start_method="forkserver") as worker:
        yield worker


def test_handler_that_is_held_up_can_be_cancelled(body):
    gate, first = threading.Event(), threading.Event()

    def take(number):
        first.set()
        gate.wait(LIMIT * 3)

    body.on("take", take)

    def flood():
        from epyrpc import head

        for number in range(10**9):
            head.emit.take(number)

    try:
        result = body.submit(flood)
        waits(first)
        assert body.ping(LIMIT) < LIMIT
        eventually(lambda: body._api.pool.waiting >= AHEAD - 1, limit=LIMIT * 3)
        assert result.cancel()
        assert result.wait_stopped(LIMIT) == "raised"
        assert body._api.pool.waiting < AHEAD + SLACK
    finally:
        gate.set()
    assert body.call(lambda: 2) == 2


def test_sender_that_is_held_up_hears_of_the_end(body):
    Busy(body).start()
    body.set_handler("take", lambda number: None)
    sender = Sender(body.emit.take, 10**9)
    sender.start()
    eventually(lambda: sender.out >= AHEAD and sender.is_held_up(), limit=LIMIT * 3)
    os.kill(body.pid, signal.SIGKILL)
    sender.join(LIMIT)
    assert isinstance(sender.error, BodyDied)
