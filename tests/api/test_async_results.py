"""`AsyncResult`: waited for, called back, composed, asked; and that it is a Future in every respect."""

from __future__ import annotations

import asyncio
import concurrent.futures
import pickle
import threading
import time

import pytest

from epyrpc import (
    ApiParamError,
    AsyncResult,
    CallState,
    TransactionFailed,
    TransactionTimeout,
    TransportClosed,
    TransportDisconnected,
    UnsupportedApiError,
    codec,
    messages,
)
from epyrpc.testing import ManualClock
from tests.api.ends import KINDS, LIMIT, Ends, Made, eventually, waits


@pytest.fixture
def served(wire):
    """A head whose neck handles test.echo, test.fails and test.gated, which waits for `served.open`."""
    head, neck = wire.pair(workers=4)
    gate = wire.gate()
    neck.set_handler("echo", lambda x: x)
    neck.set_handler("fails", lambda: {}["missing"])
    neck.set_handler("gated", lambda x=None: (gate.wait(LIMIT), x)[1])
    object.__setattr__(head, "open", gate.set)
    object.__setattr__(head, "manager", wire.ipc_head.transactions)
    return head


class Told:
    """A callback that keeps what it is told, by whom, on which thread."""

    def __init__(self):
        self.calls, self.threads, self.event = [], [], threading.Event()

    def __call__(self, *args):
        self.calls.append(args)
        self.threads.append(threading.current_thread())
        self.event.set()

    def wait(self):
        waits(self.event)
        return self.calls[0]


# ------------------------------------------------------------------------------------------------------------ callback


@pytest.mark.capability("S3b", "X31")
def test_callback_gets_id_and_result_on_another_thread_and_waiting_works_as_well(served):
    told = Told()
    held = served.echo("x")(callback=told)
    assert told.wait() == (held.id, "x")
    assert told.threads[0] is not threading.current_thread()
    assert held.result(LIMIT) == "x"


@pytest.fixture(params=list(KINDS))
def slow_clock(request):
    """A wire whose deadlines follow a clock that the test moves, as `(ends, clock)`."""
    # It starts far ahead, so that the standby, which knows the real time, never finds a deadline near.
    clock = ManualClock(time.monotonic() + 1e6)
    ends = Ends(request.param, clock).connect()
    forget = clock.on_advance(lambda: ends.ipc_head.wire.need_tick())
    yield ends, clock
    forget()
    ends.close()


@pytest.mark.capability("S3b", "D8")
def test_callback_of_a_call_that_times_out_is_told_once_and_a_late_reply_is_dropped(slow_clock):
    ends, clock = slow_clock
    head, neck = ends.pair()
    gate = ends.gate()
    neck.set_handler("gated", lambda: gate.wait(LIMIT))
    told = Told()
    held = head.gated()(timeout=60, callback=told)
    clock.advance(59.9)
    ends.flush()
    assert not told.calls
    assert len(ends.ipc_head.transactions) == 1
    clock.advance(0.2)
    transaction_id, error = told.wait()
    assert transaction_id == held.id
    assert isinstance(error, TransactionFailed)
    assert isinstance(error, TimeoutError)
    assert held.state is CallState.TIMED_OUT
    assert len(ends.ipc_head.transactions) == 0
    payload, _ = codec.encode_value("too late")
    for _ in range(2):
        ends.ipc_neck.wire.send(messages.pack(messages.REPLY, held.id, payload=payload))
    ends.flush()
    assert ends.ipc_head.transactions.late == 2
    with pytest.raises(TransactionTimeout):
        held.result(0)
    assert len(told.calls) == 1


@pytest.mark.capability("S3b")
def test_callback_of_a_call_whose_connection_ends_gets_the_error(wire):
    head, neck = wire.pair()
    gate = wire.gate()
    neck.set_handler("gated", lambda: gate.wait(LIMIT))
    told = Told()
    held = head.gated()(callback=told)
    wire.ipc_neck.close()
    assert isinstance(told.wait()[1], TransportDisconnected)
    assert held.state is CallState.LOST


@pytest.mark.capability("S9b")
@pytest.mark.parametrize("path", ["fails", "nobody"])
def test_callback_gets_the_exception_object(served, path):
    told = Told()
    held = served.action(path)(callback=told)
    transaction_id, error = told.wait()
    assert transaction_id == held.id
    assert isinstance(error, KeyError if path == "fails" else UnsupportedApiError)
    assert held.exception(LIMIT) is error
    assert held.state is CallState.FAILED


@pytest.mark.capability("S9b")
def test_exception_that_a_handler_returns_is_a_result(served):
    told = Told()
    held = served.echo(ValueError("a value"))(callback=told)
    assert isinstance(told.wait()[1], ValueError)
    assert held.state is CallState.DONE
    assert held.exception(LIMIT) is None


def test_callback_that_raises_is_logged_and_harms_nothing(served, caplog):
    def raises(*args):
        raise RuntimeError("of the callback")

    told = Told()
    held = served.echo(1)(callback=raises)
    held.add_done_callback(raises)
    held.add_done_callback(told)
    told.wait()
    assert held.result(LIMIT) == 1
    assert caplog.text.count("RuntimeError: of the callback") == 2
    assert served.echo(2)(timeout=LIMIT) == 2


@pytest.mark.capability("D5")
def test_callback_may_call_and_wait(served):
    told = Told()
    served.echo(1)(callback=lambda _, one: told(served.echo(one + 1)(timeout=LIMIT)))
    assert told.wait() == (2,)


# ------------------------------------------------------------------------------------------------------------- waiting


@pytest.mark.capability("S3c")
def test_result_is_waited_for_later_within_a_timeout_or_for_ever(served):
    held = served.gated("x")(sync=False)
    started = time.monotonic()
    with pytest.raises(concurrent.futures.TimeoutError):
        held.acquire(timeout=0.1)
    assert 0.1 <= time.monotonic() - started < 2
    assert held.state in (CallState.PENDING, CallState.RUNNING)
    assert not held.done()
    served.open()
    assert held.acquire(timeout=LIMIT) == "x"
    assert held.acquire() == "x"
    assert held.state is CallState.DONE


@pytest.mark.capability("S3c")
@pytest.mark.parametrize("waiters", [1, 5])
def test_waiters_in_other_threads_wake(served, waiters):
    held = served.gated([1])(sync=False)
    got = []
    started = threading.Barrier(waiters + 1)

    def wait():
        started.wait()
        got.append(held.acquire(timeout=LIMIT))

    threads = [threading.Thread(target=wait) for _ in range(waiters)]
    for thread in threads:
        thread.start()
    started.wait()
    served.open()
    for thread in threads:
        thread.join(LIMIT)
    assert got == [[1]] * waiters
    assert all(value is got[0] for value in got)  # decoded once


@pytest.mark.capability("S3c")
def test_waiter_wakes_when_the_call_is_cancelled_or_its_time_is_over(served):
    for end in ("cancel", "deadline"):
        held = served.gated()(sync=False, timeout=0.2 if end == "deadline" else None)
        outcome = []

        def wait(held=held, outcome=outcome):
            try:
                held.result(LIMIT)
            except BaseException as exc:
                outcome.append(type(exc))

        thread = threading.Thread(target=wait)
        thread.start()
        if end == "cancel":
            held.cancel()
        thread.join(LIMIT)
        assert outcome == [concurrent.futures.CancelledError if end == "cancel" else TransactionTimeout]


@pytest.mark.capability("X33")
def test_time_limits(served):
    held = served.gated(1)(sync=False)
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        held.acquire(timeout=0)
    with pytest.raises(concurrent.futures.TimeoutError):
        held.result(0)
    with pytest.raises(concurrent.futures.TimeoutError):
        held.exception(0)
    assert time.monotonic() - started < 1
    for bad in (-1, -0.5, "5", True, float("nan"), [1]):
        with pytest.raises(ApiParamError):
            held.acquire(timeout=bad)
        with pytest.raises(ApiParamError):
            served.echo(1)(timeout=bad)
    served.open()
    assert held.acquire(timeout=None) == 1
    assert held.acquire(timeout=0) == 1
    assert served.echo(1)(timeout=None) == 1
    assert served.echo(1)(timeout=float("inf")) == 1
    with pytest.raises(TransactionTimeout):
        served.gated(1)(timeout=0)
    assert len(served.manager) == 0


@pytest.mark.capability("S3c")
def test_stopping_to_wait_is_not_the_end_of_the_call(served):
    held = served.gated("x")(sync=False, timeout=LIMIT)
    for _ in range(3):
        with pytest.raises(concurrent.futures.TimeoutError):
            held.result(0.01)
    assert not held.done()
    served.open()
    assert held.result(LIMIT) == "x"


# -------------------------------------------------------------------------------------------------------------- asking


@pytest.mark.capability("S10", "X30")
def test_result_tells_state_age_id_and_call(served):
    action = served.gated("x")
    held = action(sync=False)
    assert held.state in (CallState.PENDING, CallState.RUNNING)
    assert not held.done()
    assert not held.cancelled()
    assert str(held.id).startswith("H")
    assert held.transaction_id == held.id
    assert held.path == "test.gated"
    assert held.action is action
    first = held.elapsed
    assert 0 < first < held.elapsed
    assert "pending" in repr(held) or "running" in repr(held)
    eventually(lambda: held.state is CallState.RUNNING, "the handler is reported as running")
    assert held.running()
    served.open()
    assert held.result(LIMIT) == "x"
    assert held.state is CallState.DONE
    assert str(held.state) == "done"
    assert held.done()
    assert not held.running()
    assert held.elapsed == held.elapsed
    assert held.timings["total"] == held.elapsed
    assert repr(held).startswith(f"<AsyncResult {held.id} test.gated")
    assert "done" in repr(held)


@pytest.mark.capability("S10")
@pytest.mark.parametrize("settled", [False, True])
def test_result_refuses_to_be_pickled(served, settled):
    held = served.gated()(sync=False)
    if settled:
        served.open()
        held.result(LIMIT)
    with pytest.raises(TypeError, match=r"cannot travel.*result\(\)"):
        pickle.dumps(held)
    made = Made(served.manager)
    with pytest.raises(pickle.PicklingError, match=r"argument 1 of the call.*cannot travel.*result\(\)"):
        served.echo(held)(timeout=LIMIT)
    assert made() == 0


# ------------------------------------------------------------------------------------------------------ it is a Future


def test_result_is_a_future(served):
    held = served.echo(1)(sync=False)
    assert isinstance(held, concurrent.futures.Future)
    assert held.result(timeout=LIMIT) == 1
    assert held.exception() is None
    assert not held.cancelled()
    assert not held.running()
    assert held.cancel() is False


def test_as_completed_yields_in_the_order_of_ending(wire):
    head, neck = wire.pair(workers=4)
    gates = [wire.gate() for _ in range(3)]
    neck.set_handler("gated", lambda i: (gates[i].wait(LIMIT), i)[1])
    held = [head.gated(i)(sync=False) for i in range(3)]
    order = []
    gates[1].set()
    for future in concurrent.futures.as_completed(held, timeout=LIMIT):
        order.append(future.result())
        if order[-1] == 1:
            gates[2].set()
        elif order[-1] == 2:
            gates[0].set()
    assert order == [1, 2, 0]


@pytest.mark.parametrize("how", ["FIRST_COMPLETED", "FIRST_EXCEPTION", "ALL_COMPLETED"])
def test_wait_of_concurrent_futures(served, how):
    quick, stuck, failing = served.echo(1)(sync=False), served.gated(2)(sync=False), served.fails()(sync=False)
    if how == "ALL_COMPLETED":
        done, left = concurrent.futures.wait([quick, stuck, failing], timeout=0.3)
        assert (done, left) == ({quick, failing}, {stuck})
        served.open()
        done, left = concurrent.futures.wait([quick, stuck, failing], timeout=LIMIT)
        assert (done, left) == ({quick, stuck, failing}, set())
    elif how == "FIRST_EXCEPTION":
        done, left = concurrent.futures.wait([stuck, failing], timeout=LIMIT, return_when=how)
        assert (done, left) == ({failing}, {stuck})
    else:
        done, left = concurrent.futures.wait([stuck, quick], timeout=LIMIT, return_when=how)
        assert (done, left) == ({quick}, {stuck})
    stuck.cancel()
    assert concurrent.futures.wait([stuck], timeout=LIMIT).done == {stuck}


def test_done_callbacks_get_the_result_itself_early_and_late(served):
    early, late = Told(), Told()
    held = served.gated(1)(sync=False)
    held.add_done_callback(early)
    served.open()
    assert early.wait() == (held,)
    held.add_done_callback(late)
    assert late.calls == [(held,)]
    assert late.threads == [threading.current_thread()]
    assert len(early.calls) == 1


def test_done_callback_is_told_of_every_kind_of_end(served):
    for make, state in (
        (lambda: served.echo(1)(sync=False), CallState.DONE),
        (lambda: served.fails()(sync=False), CallState.FAILED),
        (lambda: served.gated()(sync=False, timeout=0.05), CallState.TIMED_OUT),
    ):
        told = Told()
        held = make()
        held.add_done_callback(told)
        told.wait()
        assert held.state is state
    told = Told()
    held = served.gated()(sync=False)
    held.add_done_callback(told)
    assert held.cancel()
    told.wait()
    assert held.cancelled()


def test_only_the_other_end_settles_a_result(served):
    held = served.gated()(sync=False)
    for settle in (
        lambda: held.set_result(1),
        lambda: held.set_exception(ValueError()),
        held.set_running_or_notify_cancel,
    ):
        with pytest.raises(RuntimeError):
            settle()
    assert not held.done()


def test_many_threads_register_callbacks_while_the_result_settles(served):
    for _ in range(50):
        held = served.echo(1)(sync=False)
        told, start = [], threading.Barrier(4)

        def register(held=held, told=told, start=start):
            start.wait()
            for _ in range(5):
                held.add_done_callback(told.append)

        threads = [threading.Thread(target=register) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(LIMIT)
        eventually(lambda told=told: len(told) == 20)
    assert all(one is held for one in told)


# ------------------------------------------------------------------------------------------------------------- asyncio


def test_result_is_awaitable(served):
    async def main():
        one = served.echo(1)(sync=False)
        two, three = await asyncio.gather(served.echo(2)(sync=False), asyncio.wrap_future(served.echo(3)(sync=False)))
        with pytest.raises(KeyError, match="missing"):
            await served.fails()(sync=False)
        return await one, two, three, await one

    assert asyncio.run(main()) == (1, 2, 3, 1)


def test_awaiting_a_cancelled_call_raises(served):
    async def main():
        held = served.gated()(sync=False)
        asyncio.get_running_loop().call_later(0.05, held.cancel)
        with pytest.raises(asyncio.CancelledError):
            await held
        return held

    assert asyncio.run(main()).state is CallState.CANCELLED


def test_cancelling_a_task_that_awaits_cancels_the_call(served):
    async def main():
        held = served.gated()(sync=False)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.wrap_future(held), 0.05)
        return held

    held = asyncio.run(main())
    eventually(held.cancelled)
    assert len(served.manager) == 0


def test_loop_serves_others_while_a_call_is_awaited(served):
    async def main():
        held = served.gated("x")(sync=False)
        ticks = 0
        waiting = asyncio.ensure_future(held)
        while ticks < 5:
            await asyncio.sleep(0.001)
            ticks += 1
        served.open()
        return await waiting

    assert asyncio.run(main()) == "x"


def test_awaiting_a_call_whose_handler_raised_stop_iteration_ends(wire):
    head, neck = wire.pair()
    neck.set_handler("empty", lambda: next(iter(())))

    async def main():
        with pytest.raises((StopIteration, RuntimeError)):
            await asyncio.wait_for(asyncio.ensure_future(_await(head.empty()(sync=False))), LIMIT)

    asyncio.run(main())


async def _await(held):
    return await held


# ---------------------------------------------------------------------------------------------------------------- then


def test_then_gives_a_future_of_what_the_function_returned(served):
    held = served.gated(4)(sync=False)
    outcome = held.then(lambda x: x + 1)
    assert isinstance(outcome, concurrent.futures.Future)
    assert not isinstance(outcome, AsyncResult)
    assert not outcome.done()
    served.open()
    assert outcome.result(LIMIT) == 5
    assert held.then(lambda x: x + 2).result(LIMIT) == 6


def test_then_passes_the_error_on_or_to_its_handler(served):
    held = served.fails()(sync=False)
    calls = []
    with pytest.raises(KeyError):
        held.then(calls.append).result(LIMIT)
    assert held.then(calls.append, on_error=lambda exc: type(exc).__name__).result(LIMIT) == "KeyError"
    assert not calls
    with pytest.raises(ZeroDivisionError):
        held.then(None, on_error=lambda exc: 1 / 0).result(LIMIT)
    with pytest.raises(ZeroDivisionError):
        served.echo(0)(sync=False).then(lambda x: 1 / x).result(LIMIT)


@pytest.mark.parametrize("end", ["cancelled", "timed out", "closed", "exit"])
def test_then_hears_of_ends_that_are_no_answer(wire, end):
    head, neck = wire.pair()
    gate = wire.gate()
    neck.set_handler("gated", lambda: gate.wait(LIMIT))
    neck.set_handler("exits", lambda: (_ for _ in ()).throw(SystemExit(3)))
    held = head.action("exits" if end == "exit" else "gated")(sync=False, timeout=0.05 if end == "timed out" else None)
    outcome = held.then(lambda value: ("fn", value), on_error=lambda exc: ("on_error", type(exc)))
    if end == "cancelled":
        held.cancel()
    elif end == "closed":
        wire.ipc_head.close()
    expected = {
        "cancelled": concurrent.futures.CancelledError,
        "timed out": TransactionTimeout,
        "closed": TransportClosed,
        "exit": SystemExit,
    }
    assert outcome.result(LIMIT) == ("on_error", expected[end])


def test_function_of_then_may_block_and_call(served):
    first = served.echo(1)(sync=False)
    outcome = first.then(lambda x: served.echo(x + 1)(timeout=LIMIT)).result(LIMIT)
    assert outcome == 2
