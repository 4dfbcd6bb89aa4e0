"""Cancelling: over at once here, stopped in steps at the other end, and told how."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import threading
import time

import pytest

from epyrpc import CallCancelled, CallState, TransactionTimeout, current_call
from tests.api.ends import LIMIT, eventually, waits


class Stubborn:
    """Handlers that stop in various ways, and note how."""

    def __init__(self, gate):
        self.gate = gate
        self.running, self.ended = threading.Event(), threading.Event()
        self.how = ""

    def cooperative(self):
        self.running.set()
        while not current_call().cancelled:
            time.sleep(0.001)
        self.how = "looked"
        self.ended.set()
        return "dropped"

    def checking(self):
        self.running.set()
        try:
            while True:
                current_call().check()
                time.sleep(0.001)
        except CallCancelled:
            self.how = "checked"
            raise
        finally:
            self.ended.set()

    def spinning(self):
        self.running.set()
        try:
            while True:
                pass
        except CallCancelled:
            self.how = "raised"
            raise
        finally:
            self.ended.set()

    def blocked(self):
        self.running.set()
        try:
            self.gate.wait()
        finally:
            self.ended.set()

    def deaf(self):
        self.running.set()
        while not self.gate.is_set():
            try:
                time.sleep(0.001)
            except CallCancelled:
                self.how += "!"
        self.ended.set()


@pytest.fixture
def stubborn(wire):
    """`(head, Stubborn)`."""
    head, neck = wire.pair()
    handlers = Stubborn(wire.gate())
    for name in ("cooperative", "checking", "spinning", "blocked", "deaf"):
        neck.set_handler(name, getattr(handlers, name))
    neck.set_handler("echo", lambda x: x)
    return head, handlers


@pytest.mark.parametrize(
    ("path", "stopped", "how"),
    [
        ("cooperative", "cooperative", "looked"),
        ("checking", "cooperative", "checked"),
        ("spinning", "raised", "raised"),
    ],
)
def test_running_call_is_cancelled_at_once_here_and_stopped_there(stubborn, path, stopped, how):
    head, handlers = stubborn
    held = head.action(path)(sync=False)
    waits(handlers.running)
    started = time.monotonic()
    assert held.cancel() is True
    assert held.done()
    assert held.cancelled()
    assert held.state is CallState.CANCELLED
    assert time.monotonic() - started < 0.5
    with pytest.raises(concurrent.futures.CancelledError):
        held.result(0)
    with pytest.raises(concurrent.futures.CancelledError):
        held.exception(0)
    waits(handlers.ended)
    assert handlers.how == how
    assert eventually(lambda: held.stopped) == stopped
    assert held.cancel() is False
    assert head.echo(1)(timeout=LIMIT) == 1


def test_queued_call_never_starts(stubborn):
    head, handlers = stubborn
    blocker = head.blocked()(sync=False)
    waits(handlers.running)
    handlers.running.clear()
    queued = head.cooperative()(sync=False)
    assert queued.cancel() is True
    assert eventually(lambda: queued.stopped) == "never started"
    handlers.gate.set()
    blocker.result(LIMIT)
    assert head.echo(1)(timeout=LIMIT) == 1
    assert not handlers.running.is_set()


@pytest.mark.parametrize("path", ["blocked", "deaf"])
def test_handler_that_does_not_stop_is_reported_as_still_running(stubborn, path):
    head, handlers = stubborn
    held = head.action(path)(sync=False)
    waits(handlers.running)
    held.cancel()
    assert eventually(lambda: held.stopped) == "still running"
    assert held.state is CallState.CANCELLED
    handlers.gate.set()
    waits(handlers.ended)
    assert head.echo(1)(timeout=LIMIT) == 1
    eventually(lambda: held.stopped != "still running", "it has stopped after all")


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_timed_out_call_is_stopped_too(stubborn, mode):
    head, handlers = stubborn
    action = head.spinning()
    if mode == "sync":
        with pytest.raises(TransactionTimeout):
            action(timeout=0.1)
    else:
        held = action(sync=False, timeout=0.1)
        with pytest.raises(TransactionTimeout):
            held.result(LIMIT)
        assert held.state is CallState.TIMED_OUT
        assert eventually(lambda: held.stopped) == "raised"
        assert not held.cancelled()
    waits(handlers.ended)
    assert handlers.how == "raised"
    assert head.echo(1)(timeout=LIMIT) == 1


def test_settled_call_cannot_be_cancelled(stubborn, wire):
    head, _ = stubborn
    held = head.echo("x")(sync=False)
    assert held.result(LIMIT) == "x"
    assert held.cancel() is False
    assert not held.cancelled()
    assert held.result() == "x"
    assert held.stopped is None


def test_cancel_races_with_the_reply_and_one_of_them_wins(wire):
    head, neck = wire.pair()
    neck.set_handler("echo", lambda x: x)
    outcomes = {"cancelled": 0, "answered": 0}
    for i in range(300):
        told = []
        held = head.echo(i)(sync=False)
        held.add_done_callback(told.append)
        for _ in range(i % 7):
            time.sleep(0)
        if held.cancel():
            assert held.cancelled()
            with pytest.raises(concurrent.futures.CancelledError):
                held.result(0)
            outcomes["cancelled"] += 1
        else:
            assert held.result(0) == i
            outcomes["answered"] += 1
        eventually(lambda told=told: told)
        assert told == [held]
    wire.flush()
    assert len(wire.ipc_head.transactions) == 0
    wire.ipc_head.transactions.validate()
    assert outcomes["cancelled"] > 0


def test_no_exception_of_a_cancel_hits_the_next_call_of_the_worker(wire):
    head, neck = wire.pair()

    def busy(n):
        for _ in range(n):
            pass
        return n

    neck.set_handler("busy", busy)
    for i in range(10):
        spinning = head.busy(10_000_000)(sync=False)
        time.sleep(0.001 * i)
        spinning.cancel()
        for _ in range(5):
            assert head.busy(1000)(timeout=LIMIT) == 1000


def test_cancelling_a_handler_that_waits_for_a_call_of_its_own_releases_it(wire):
    head, neck = wire.pair()
    gate, waiting = wire.gate(), threading.Event()
    ended = []

    def outer():
        try:
            return neck.inner()()
        except BaseException as exc:
            ended.append(type(exc))
            raise

    def inner():
        waiting.set()
        gate.wait(LIMIT)

    neck.set_handler("outer", outer)
    head.set_handler("inner", inner)
    held = head.outer()(sync=False)
    waits(waiting)
    held.cancel()
    assert eventually(lambda: held.stopped) in ("raised", "cooperative")
    assert len(ended) == 1
    assert issubclass(ended[0], concurrent.futures.CancelledError)


def test_cancelling_a_handler_that_reads_a_stream_of_its_own_releases_it(wire):
    head, neck = wire.pair()
    gate, waiting, ended = wire.gate(), threading.Event(), threading.Event()

    def outer():
        try:
            return list(neck.stream("parts"))
        finally:
            ended.set()

    def parts():
        yield 1
        waiting.set()
        gate.wait(LIMIT)

    neck.set_handler("outer", outer)
    head.set_handler("parts", parts)
    held = head.outer()(sync=False)
    waits(waiting)
    held.cancel()
    assert ended.wait(3), "the handler still waits for the stream"


@pytest.mark.parametrize("kind", ["async", "async generator"])
def test_async_call_is_cancelled_at_any_moment_without_a_warning(wire, kind):
    head, neck = wire.pair()

    async def handler():
        await asyncio.sleep(0.001)

    async def generator():
        await asyncio.sleep(0.001)
        yield 1

    neck.set_handler("m", handler if kind == "async" else generator)
    for i in range(200):
        held = head.m()(sync=False)
        for _ in range(i % 9):
            time.sleep(0)
        if held.cancel():
            assert eventually(lambda held=held: held.stopped) in ("never started", "cooperative")
    gc.collect()
    assert head.m()(timeout=LIMIT) == (None if kind == "async" else [1])


def test_cancel_of_an_async_call_that_is_slow_to_stop_hits_no_other_call(wire):
    head, neck = wire.pair()
    started = threading.Event()

    async def slow_to_stop():
        started.set()
        try:
            await asyncio.sleep(100)
        finally:
            await asyncio.sleep(0.4)

    def innocent():
        end = time.monotonic() + 0.8
        while time.monotonic() < end:
            pass
        return "finished"

    neck.set_handler("slow_to_stop", slow_to_stop)
    neck.set_handler("innocent", innocent)
    held = head.slow_to_stop()(sync=False)
    waits(started)
    other = head.innocent()(sync=False)
    held.cancel()
    assert other.result(LIMIT) == "finished"
    assert eventually(lambda: held.stopped)
