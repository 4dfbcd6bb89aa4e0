"""Calls made by handlers: they work while a worker is free, and are diagnosed when none ever will be."""

from __future__ import annotations

import threading
import time

import pytest

from epyrpc import ApiBase, DeadlockError, TransactionFailed, current_call
from tests.api.ends import LIMIT, eventually, waits


def ping_pong(head, neck, ids=None):
    """Register handlers that call each other `n` times before they answer."""

    def down(here, there):
        def handler(n):
            if ids is not None:
                ids.append(str(current_call().id))
            return [n] if n == 0 else [n, *there.down(n - 1)()]

        here.set_handler("down", handler)

    down(neck, neck)  # the neck's handler calls the head
    down(head, head)


@pytest.mark.capability("S14c")
@pytest.mark.parametrize("depth", [1, 2, 3, 6])
def test_nested_calls_work_while_there_are_workers(wire, depth):
    head, neck = wire.head(ApiBase("test", workers=4)), wire.neck(ApiBase("test", workers=4))
    ping_pong(head, neck)
    assert head.down(depth)(timeout=LIMIT) == list(range(depth, -1, -1))
    assert neck.down(depth)(timeout=LIMIT) == list(range(depth, -1, -1))


@pytest.mark.capability("S14c")
def test_head_to_body_to_head_needs_one_worker_each(wire):
    head, neck = wire.pair()
    ping_pong(head, neck)
    for _ in range(50):
        assert head.down(1)(timeout=LIMIT) == [1, 0]


@pytest.mark.capability("S14c")
@pytest.mark.parametrize("timeout", [None, LIMIT])
def test_call_back_into_a_busy_body_is_named_as_a_deadlock(wire, timeout):
    head, neck = wire.pair(workers=1)
    ids = []
    ping_pong(head, neck, ids)
    started = time.monotonic()
    with pytest.raises(DeadlockError) as caught:
        head.down(2)(timeout=timeout)
    assert time.monotonic() - started < 2
    text = str(caught.value)
    assert "test.down" in text
    assert "workers" in text
    queued = caught.value.calls[0]
    assert queued.startswith("H")
    assert ids[0] in text  # the call that holds the worker
    assert queued in text  # the call that waits for it
    assert ids[1] in text  # ... and what the one that holds it waits for
    assert set(caught.value.calls) >= {ids[0]}
    assert head.down(1)(timeout=LIMIT) == [1, 0]
    for ipc in (wire.ipc_head, wire.ipc_neck):
        assert len(ipc.transactions) == 0


@pytest.mark.capability("S14c")
def test_deadlock_is_found_from_either_side_and_through_longer_circles(wire):
    head, neck = wire.pair(workers=2)  # the head has one worker
    ping_pong(head, neck)
    with pytest.raises(DeadlockError):
        head.down(4)()
    with pytest.raises(DeadlockError):
        neck.down(3)()
    assert head.down(1)(timeout=LIMIT) == [1, 0]


@pytest.mark.capability("S14c")
def test_handler_may_catch_the_deadlock_and_answer(wire):
    head, neck = wire.pair()

    def outer():
        try:
            return neck.back()()
        except DeadlockError:
            return "caught"

    neck.set_handler("outer", outer)
    head.set_handler("back", lambda: head.inner()())
    neck.set_handler("inner", lambda: "never")
    assert head.outer()(timeout=LIMIT) == "caught"


@pytest.mark.capability("S14c")
def test_deadlock_that_starts_with_an_event_is_found(wire):
    head, neck = wire.pair()
    outcome = []

    def on_event():
        try:
            outcome.append(neck.back()(timeout=5))
        except TransactionFailed as exc:
            outcome.append(exc)
        except DeadlockError as exc:
            outcome.append(exc)

    neck.set_handler("on_event", on_event)
    head.set_handler("back", lambda: head.inner()())
    neck.set_handler("inner", lambda: "never")
    head.on_event()(solicited=False)
    eventually(lambda: outcome)
    assert isinstance(outcome[0], DeadlockError)


@pytest.mark.capability("S14c")
@pytest.mark.parametrize("quiet", [0.05, 0.3])
def test_deadlock_that_arises_late_in_a_quiet_wire_is_found(wire, quiet):
    head, neck = wire.pair()

    def outer():
        time.sleep(quiet)  # everything that was to be looked at has been by now
        return neck.back()()

    def back():
        time.sleep(quiet)
        return head.inner()()

    neck.set_handler("outer", outer)
    head.set_handler("back", back)
    neck.set_handler("inner", lambda: "never")
    held = head.outer()(sync=False, timeout=5)
    with pytest.raises(DeadlockError):
        held.result(LIMIT)


@pytest.mark.capability("S14c")
def test_deadlock_across_two_apis_of_one_end_is_found(wire):
    head_a, head_b = wire.head(ApiBase("a")), wire.head(ApiBase("b"))
    neck_a, neck_b = wire.neck(ApiBase("a")), wire.neck(ApiBase("b"))
    # head → a.first → (head) a.back → b.second → (head) b.back → a.third, whose only worker runs a.first
    neck_a.set_handler("first", lambda: neck_a.back()())
    head_a.set_handler("back", lambda: head_b.second()())
    neck_b.set_handler("second", lambda: neck_b.back()())
    head_b.set_handler("back", lambda: head_a.third()())
    neck_a.set_handler("third", lambda: "never")
    held = head_a.first()(sync=False, timeout=5)
    with pytest.raises(DeadlockError):
        held.result(LIMIT)


@pytest.mark.capability("S14c")
def test_deadlock_through_a_stream_is_found(wire):
    head, neck = wire.pair()
    neck.set_handler("outer", lambda: list(neck.stream("parts")))

    def parts():
        yield 1
        yield head.inner()()

    head.set_handler("parts", parts)
    neck.set_handler("inner", lambda: "never")
    held = head.outer()(sync=False, timeout=5)
    with pytest.raises(DeadlockError):
        held.result(LIMIT)


@pytest.mark.capability("S14c")
def test_call_that_is_only_queued_is_no_deadlock(wire):
    head, neck = wire.pair()
    gate, asked = wire.gate(), threading.Event()

    def ask():
        asked.set()
        gate.wait(LIMIT)
        return "asked"

    head.set_handler("ask", ask)
    neck.set_handler("outer", lambda: neck.ask()())
    neck.set_handler("other", lambda: "other")
    outer = head.outer()(sync=False)
    waits(asked)
    others = [head.other()(sync=False) for _ in range(5)]  # they wait for the worker, which will be free again
    time.sleep(0.1)  # many looks of the standby
    assert not any(held.done() for held in others)
    gate.set()
    assert outer.result(LIMIT) == "asked"
    assert [held.result(LIMIT) for held in others] == ["other"] * 5


@pytest.mark.capability("S14c")
def test_call_back_that_nobody_waits_for_is_no_deadlock(wire):
    head, neck = wire.pair()
    inner_ran = threading.Event()
    neck.set_handler("outer", lambda: neck.back()())
    neck.set_handler("inner", inner_ran.set)
    held = []

    def back():
        held.append(head.inner()(sync=False))  # runs as soon as outer has ended
        time.sleep(0.1)  # many looks of the standby
        return "did not wait"

    head.set_handler("back", back)
    assert head.outer()(timeout=LIMIT) == "did not wait"
    assert held[0].result(LIMIT) is None
    waits(inner_ran)


@pytest.mark.capability("S14c")
def test_waiting_later_for_a_call_back_is_a_deadlock_all_the_same(wire):
    head, neck = wire.pair()
    neck.set_handler("outer", lambda: neck.back()())
    neck.set_handler("inner", lambda: "never")

    def back():
        held = head.inner()(sync=False)
        time.sleep(0.05)
        return held.result()

    head.set_handler("back", back)
    with pytest.raises(DeadlockError):
        head.outer()(timeout=5)


@pytest.mark.capability("S14c")
def test_lock_up_that_nobody_can_see_ends_with_the_deadline(wire):
    head, neck = wire.pair()
    threads = []

    def outer():
        # The call back is made by another thread, which is answering nothing: no parent is known.
        thread = threading.Thread(target=lambda: head.inner()(sync=False).exception(LIMIT), daemon=True)
        threads.append(thread)
        thread.start()
        thread.join()

    neck.set_handler("outer", outer)
    neck.set_handler("inner", lambda: "late")
    with pytest.raises(TransactionFailed) as caught:
        head.outer()(timeout=0.3)
    assert "test.outer" in str(caught.value)
    wire.ipc_neck.close()
    for thread in threads:
        thread.join(LIMIT)
