"""Calls that are stopped in a body: each kind of handler by the gentlest step that works, and by force when asked."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from typing import Any

import pytest

import epyrpc
from epyrpc import Body, BodyDied, CallState, TransactionTimeout
from tests.bodies.tools import LIMIT, Busy, eventually


def looks() -> None:
    """Stop by itself."""
    while not epyrpc.current_call().cancelled:
        time.sleep(0.001)


def spins() -> None:
    """Never look."""
    while True:
        pass


def naps() -> None:
    """Be in a system call."""
    time.sleep(LIMIT * 10)


def rows() -> Any:
    """Be a generator."""
    while True:
        yield 1


async def awaits() -> None:
    """Be a coroutine."""
    await asyncio.sleep(LIMIT * 10)


async def tidies_up() -> None:
    """Be a coroutine that takes longer to stop than a plain handler is given."""
    try:
        await asyncio.sleep(LIMIT * 10)
    finally:
        await asyncio.sleep(0.4)


def computes() -> None:
    """Be in C code that lets other threads run, for some four seconds: longer than the body waits."""
    began = time.thread_time()
    hashlib.pbkdf2_hmac("sha256", b"x", b"y", 20_000)
    hashlib.pbkdf2_hmac("sha256", b"x", b"y", int(20_000 * 4 / (time.thread_time() - began)))


def holds() -> None:
    """Be in C code that lets nothing else run, for some seconds: longer than the head waits for a word."""
    began = time.thread_time()
    sum(range(2_000_000))
    epyrpc.head.call.busy.here()  # not an event: it has arrived when this returns
    sum(range(int(2_000_000 * 6 / (time.thread_time() - began))))


def started(body: Body, function: Any, **options: Any) -> Any:
    """Submit a call of a function whose path is registered, and return its result when it runs."""
    body.set_handler("m", function)
    result = body.submit(**options).m() if options else body.submit.m()
    eventually(lambda: result.running())
    return result


STEPS = [
    pytest.param(looks, "cooperative", id="looks"),
    pytest.param(spins, "raised", id="spins"),
    pytest.param(rows, "raised", id="generator"),
    pytest.param(awaits, "cooperative", id="async"),
    pytest.param(tidies_up, "cooperative", id="async, slow to stop"),
]


@pytest.mark.parametrize("thread", ["main", "other"])
@pytest.mark.parametrize(("function", "how"), STEPS)
def test_each_kind_of_handler_is_stopped_by_the_gentlest_step(
    worker: Body, function: Any, how: str, thread: str
) -> None:
    worker.push(kept=1)
    other = Busy(worker).start() if thread == "other" else None  # the main thread is the first worker
    result = started(worker, function) if function not in (awaits, tidies_up) else submitted(worker, function)
    began = time.monotonic()
    assert result.cancel() is True
    assert result.cancelled()
    assert result.wait_stopped(LIMIT) == how
    assert time.monotonic() - began < 2
    assert result.wait_stopped(0, last=True) == how
    if other is not None:
        assert not other.done()
    assert worker.call(lambda: kept) == 1  # type: ignore[name-defined]  # noqa: F821 - the body's


def submitted(body: Body, function: Any) -> Any:
    """Submit an async handler, which is not announced as running, and return when it waits."""
    here = Busy(body)._here

    async def announces() -> Any:
        from epyrpc import head

        head.emit.busy.here()
        return await function()

    body.set_handler("m", announces)
    result = body.submit.m()
    assert here.acquire(timeout=LIMIT)
    return result


def test_stream_is_stopped_while_it_waits_for_its_reader(worker: Body) -> None:
    worker.set_handler("rows", rows)
    stream = worker.stream.rows()
    assert next(stream) == 1
    stream.call.cancel()
    assert stream.call.wait_stopped(LIMIT) == "cooperative"


def test_system_call_in_the_main_thread_is_interrupted_and_in_another_it_is_not(worker: Body) -> None:
    first = Busy(worker).start(time.sleep, LIMIT * 10)
    second = Busy(worker).start(time.sleep, 3.5)
    second.cancel()
    assert second.wait_stopped(LIMIT) == "still running"
    assert "still running there: it is in code that cannot be interrupted" in repr(second)
    assert "cancel(kill=True)" in repr(second)
    assert not first.done()
    first.cancel()
    assert first.wait_stopped(LIMIT) == "raised"
    assert second.wait_stopped(LIMIT, last=True) == "raised"  # as soon as the nap was over
    assert repr(second).endswith(", stopped there: raised>")


def test_handler_in_c_code_still_runs_and_is_final_when_it_has_ended(worker: Body) -> None:
    result = started(worker, computes)
    result.cancel()
    assert result.wait_stopped(LIMIT) == "still running"
    assert worker.call(lambda: 1) == 1  # another worker
    assert result.wait_stopped(LIMIT * 3, last=True) == "raised"


def test_handler_that_lets_the_whole_body_do_nothing_still_runs(worker: Body) -> None:
    here = Busy(worker)._here
    result = worker.submit(holds)
    assert here.acquire(timeout=LIMIT)
    eventually(lambda: not answers(worker))
    result.cancel()
    assert result.wait_stopped(LIMIT) == "still running"  # found out here: the body cannot say so
    assert result.wait_stopped(LIMIT * 3, last=True) in ("raised", "cooperative")
    assert worker.call(lambda: 1) == 1


def answers(body: Body) -> bool:
    """Whether a body answers within a moment."""
    try:
        body.ping(0.2)
    except epyrpc.ConnectionTimeout:
        return False
    return True


@pytest.mark.parametrize("way", ["cancel", "verb", "action", "action, async"])
def test_killed_on_request_comes_back_with_its_handlers(worker: Body, way: str) -> None:
    def stubborn() -> None:
        while True:
            try:
                while True:
                    time.sleep(0.01)
            except BaseException:
                pass

    worker.set_handler("stubborn", stubborn)
    worker.set_handler("pid", os.getpid)
    worker.push(lost=1)
    old = worker.call.pid()
    other = Busy(worker).start()
    if way == "cancel":
        result = worker.submit.stubborn()
        eventually(lambda: result.state is CallState.RUNNING)  # or it would be over before it had begun
        result.cancel(kill=True)
    elif way == "verb":
        result = worker.submit(timeout=0.1, on_timeout="kill").stubborn()
    elif way == "action":
        with pytest.raises(TransactionTimeout):
            worker.api.stubborn()(timeout=0.1, on_timeout="kill")
        eventually(lambda: worker.restarts == 1)
        assert worker.call.pid() != old
        return
    else:
        result = worker.api.stubborn()(sync=False, timeout=0.1, on_timeout="kill")
    assert result.wait_stopped(LIMIT) in ("still running", "killed")
    assert result.wait_stopped(LIMIT, last=True) == "killed"
    assert result.state is (CallState.CANCELLED if way == "cancel" else CallState.TIMED_OUT)
    assert worker.call.pid() != old  # it is back when wait_stopped returns
    assert worker.restarts == 1
    with pytest.raises(BodyDied, match=rf"was killed on request, to end stubborn \({result.id}\) while running"):
        other.result(LIMIT)
    with pytest.raises(epyrpc.ApiParamError):
        worker.pull("lost")


def test_call_that_still_runs_can_be_killed_afterwards(worker: Body) -> None:
    Busy(worker).start()
    result = Busy(worker).start(time.sleep, LIMIT * 10)
    assert result.cancel() is True
    assert result.cancel() is False
    assert result.wait_stopped(LIMIT) == "still running"
    pid = worker.pid
    assert result.cancel(kill=True) is True
    assert result.wait_stopped(LIMIT, last=True) == "killed"
    assert worker.pid != pid
    assert result.cancel(kill=True) is False


def test_nothing_is_waited_for_where_nothing_is_stopped(worker: Body) -> None:
    result = worker.submit(lambda: 1)
    assert result.result(LIMIT) == 1
    assert result.wait_stopped(LIMIT) is None
    running = Busy(worker).start()
    assert running.wait_stopped(0.01) is None
    running.cancel()
    worker.stop(0)
    assert running.wait_stopped(LIMIT) in ("raised", "killed")


@pytest.mark.parametrize("function", [spins, naps, awaits], ids=["spins", "naps", "async"])
def test_interrupt_raises_in_whatever_runs(worker: Body, function: Any) -> None:
    result = submitted(worker, function) if function is awaits else Busy(worker).start(function)
    assert worker.interrupt() == 1
    with pytest.raises(KeyboardInterrupt):
        result.result(LIMIT)
    assert worker.call(lambda: 1) == 1


def test_mistake_with_on_timeout_is_named(worker: Body) -> None:
    with pytest.raises(epyrpc.ApiParamError, match="on_timeout is 'explode', but must be one of 'cancel', 'kill'"):
        worker.api.m()(on_timeout="explode")
