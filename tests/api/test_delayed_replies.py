"""Replies given later, or by nobody."""

from __future__ import annotations

import threading

import pytest

from epyrpc import ApiError, CodecError, NoResponseRequired, TransactionFailed, current_call
from tests.api.ends import LIMIT, eventually, waits


@pytest.fixture
def delayed(wire):
    """`(head, replies)`: test.later keeps its `DelayedReply` in the list and returns."""
    head, neck = wire.pair()
    replies = []

    def later():
        replies.append(current_call().delay_reply())
        return "this is not sent"

    neck.set_handler("later", later)
    neck.set_handler("echo", lambda x: x)
    return head, replies


@pytest.mark.capability("X1")
def test_reply_is_given_later_by_another_thread_while_the_worker_serves_others(delayed):
    head, replies = delayed
    held = head.later()(sync=False)
    eventually(lambda: replies)
    assert [head.echo(i)(timeout=LIMIT) for i in range(5)] == list(range(5))  # there is one worker
    assert not held.done()
    assert replies[0].id == held.id
    sent = []
    thread = threading.Thread(target=lambda: sent.append(replies[0].send({"late": 1})))
    thread.start()
    assert held.result(LIMIT) == {"late": 1}
    thread.join(LIMIT)
    assert sent == [True]
    assert replies[0].send("again") is False
    assert replies[0].fail(ValueError()) is False


@pytest.mark.capability("X1")
def test_delayed_reply_may_be_an_error(delayed):
    head, replies = delayed
    held = head.later()(sync=False)
    eventually(lambda: replies)
    assert replies[0].fail(KeyError("late")) is True
    with pytest.raises(KeyError, match="late"):
        held.result(LIMIT)


def test_delayed_reply_that_cannot_be_pickled_fails_at_both_ends(delayed):
    head, replies = delayed
    held = head.later()(sync=False)
    eventually(lambda: replies)
    with pytest.raises(CodecError):
        replies[0].send(threading.Lock())
    with pytest.raises(CodecError):
        held.result(LIMIT)


def test_reply_may_be_sent_before_the_handler_returns(wire):
    head, neck = wire.pair()

    def early():
        assert current_call().delay_reply().send("early")
        return "not this"

    neck.set_handler("early", early)
    assert head.early()(timeout=LIMIT) == "early"
    assert head.early()(timeout=LIMIT) == "early"


def test_exception_of_a_handler_that_has_delayed_its_reply_is_the_reply(wire):
    head, neck = wire.pair()
    replies = []

    def fails():
        replies.append(current_call().delay_reply())
        raise ValueError("now")

    neck.set_handler("fails", fails)
    with pytest.raises(ValueError, match="now"):
        head.fails()(timeout=LIMIT)
    assert replies[0].send(1) is False


@pytest.mark.parametrize("end", ["cancel", "timeout"])
def test_delayed_reply_to_a_call_that_has_ended_is_dropped(delayed, end, wire):
    head, replies = delayed
    held = head.later()(sync=False, timeout=0.1 if end == "timeout" else None)
    eventually(lambda: replies)
    if end == "cancel":
        held.cancel()
    else:
        with pytest.raises(TransactionFailed):
            held.result(LIMIT)
    assert eventually(lambda: held.stopped)
    assert replies[0].send("late") is False
    wire.flush()
    assert len(wire.ipc_head.transactions) == 0


def test_event_has_no_reply_to_be_delayed(wire):
    head, neck = wire.pair()
    told = []

    def event():
        try:
            current_call().delay_reply()
        except ApiError as exc:
            told.append(str(exc))

    neck.set_handler("event", event)
    head.event()(solicited=False)
    eventually(lambda: told)
    assert "test.event is an event" in told[0]


@pytest.mark.capability("X2")
def test_no_response_required_sends_none(wire):
    head, neck = wire.pair()
    ran = threading.Event()

    def silent():
        ran.set()
        raise NoResponseRequired

    neck.set_handler("silent", silent)
    neck.set_handler("echo", lambda x: x)
    held = head.silent()(sync=False, timeout=0.3)
    waits(ran)
    assert head.echo(1)(timeout=LIMIT) == 1
    wire.flush()
    assert not held.done()
    with pytest.raises(TransactionFailed):
        held.result(LIMIT)
    assert wire.ipc_head.transactions.late == 0


@pytest.mark.capability("X2")
def test_no_response_required_of_an_event_is_no_error(wire, caplog):
    head, neck = wire.pair()
    ran = threading.Event()

    def silent():
        ran.set()
        raise NoResponseRequired

    neck.set_handler("silent", silent)
    head.silent()(solicited=False)
    waits(ran)
    wire.flush()
    assert "silent" not in caplog.text


@pytest.mark.capability("X1", "X2")
def test_no_response_now_leaves_a_delayed_reply_possible(wire):
    head, neck = wire.pair()
    replies = []

    def silent():
        replies.append(current_call().delay_reply())
        raise NoResponseRequired

    neck.set_handler("silent", silent)
    held = head.silent()(sync=False, timeout=3)
    eventually(lambda: replies)
    wire.flush()
    assert replies[0].send("later") is True
    assert held.result(LIMIT) == "later"


@pytest.mark.capability("X1")
def test_async_handler_may_delay_its_reply_too(wire):
    head, neck = wire.pair()
    replies = []

    async def later():
        replies.append(current_call().delay_reply())
        return "this is not sent"

    neck.set_handler("later", later)
    held = head.later()(sync=False)
    eventually(lambda: replies)
    wire.flush()
    assert not held.done()
    assert replies[0].send("this is") is True
    assert held.result(LIMIT) == "this is"
