"""Listeners of a transport: its states, raw data; its logger; connecting in either order."""

from __future__ import annotations

import logging
import threading

import pytest

from epyrpc import (
    ApiArb,
    ApiBase,
    EpyrpcError,
    HeadTransactionIdGenerator,
    QueueTransportDetails,
    QueueTransporter,
    TransactionFailed,
    TransactionManager,
    TransportClosed,
    TransportDisconnected,
    TransportDisconnectedError,
    TransportState,
)
from tests.api.ends import LIMIT, Recorder, eventually, waits

OPEN, CLOSED, DISCONNECTED = TransportState.OPEN, TransportState.CLOSED, TransportState.DISCONNECTED


def sides(ends, which):
    """Return (this transporter, its listener, the other transporter, its listener)."""
    head, neck = (ends.ipc_head, ends.head_listener), (ends.ipc_neck, ends.neck_listener)
    return (*head, *neck) if which == "head" else (*neck, *head)


@pytest.mark.capability("E2", "X16")
@pytest.mark.parametrize("closer", ["head", "neck"])
def test_remote_close_is_heard_and_the_own_one_is_not(wire, closer):
    ipc, own, _, other = sides(wire, closer)
    wire.flush()
    eventually(lambda: own.states == [OPEN] and other.states == [OPEN])
    ipc.close()
    eventually(lambda: other.states == [OPEN, DISCONNECTED, CLOSED])
    wire.ipc_head.close()
    wire.ipc_neck.close()
    assert own.states == [OPEN]
    assert other.states == [OPEN, DISCONNECTED, CLOSED]


@pytest.mark.capability("E2", "X16")
def test_own_close_is_told_where_that_is_asked_for(wire):
    eventually(lambda: wire.head_listener.states == [OPEN])
    wire.ipc_head.close(notify=True)
    wire.ipc_head.close(notify=True)
    eventually(lambda: wire.head_listener.states == [OPEN, CLOSED])


@pytest.mark.capability("E2")
def test_disconnecting_is_heard_and_so_is_coming_back(wire):
    eventually(lambda: wire.neck_listener.states == [OPEN])
    assert wire.ipc_head.disconnect(LIMIT) is True
    eventually(lambda: wire.neck_listener.states == [OPEN, DISCONNECTED])
    assert wire.ipc_neck.state is DISCONNECTED
    wire.ipc_head.connect()
    eventually(lambda: wire.neck_listener.states == [OPEN, DISCONNECTED, OPEN])
    head, neck = wire.pair()
    neck.set_handler("echo", lambda x: x)
    assert head.echo(1)(timeout=LIMIT) == 1


@pytest.mark.capability("E2")
def test_coming_back_is_answered_by_an_end_that_comes_back_by_it(wire):
    eventually(lambda: wire.neck_listener.states == [OPEN])
    assert wire.ipc_head.disconnect(LIMIT) is True
    eventually(lambda: wire.ipc_neck.state is DISCONNECTED)
    wire.ipc_neck.connect()
    eventually(lambda: wire.ipc_head.state is OPEN)
    wire.ipc_head.connect()  # there is nothing left to do for it
    wire.ipc_neck.connect(timeout=LIMIT)
    wire.ipc_head.connect(timeout=LIMIT)


@pytest.mark.capability("E2")
def test_listener_hears_in_order_off_the_reading_thread_and_may_call(wire):
    head, neck = wire.pair()
    neck.set_handler("echo", lambda x: x)
    eventually(lambda: wire.head_listener.states == [OPEN] and wire.neck_listener.states == [OPEN])
    threads, answers = [], []

    class Calling(Recorder):
        def transport_state_changed(self, state):
            super().transport_state_changed(state)
            threads.append(threading.current_thread())
            if state is OPEN:
                answers.append(head.echo("from the listener")(timeout=LIMIT))

    listener = Calling()
    wire.ipc_head.add_listener(listener)
    wire.ipc_head.add_listener(listener)
    wire.ipc_neck.disconnect(LIMIT)
    wire.ipc_neck.connect()
    eventually(lambda: answers)
    assert answers == ["from the listener"]
    assert listener.states == [DISCONNECTED, OPEN]
    assert all("callbacks" in thread.name for thread in threads)
    wire.ipc_head.remove_listener(listener)
    wire.ipc_neck.close()
    eventually(lambda: wire.head_listener.states[-1] is CLOSED)
    assert listener.states == [DISCONNECTED, OPEN]


def test_goodbye_that_another_thread_is_about_to_write_is_written_before_the_link_is_closed(wire):
    eventually(lambda: wire.head_listener.states == [OPEN] and wire.neck_listener.states == [OPEN])
    neck_wire = wire.ipc_neck.wire
    neck_wire._write_lock.acquire()  # as the standby does that has seen something in the outbox
    closing = threading.Thread(target=wire.ipc_neck.close)
    closing.start()
    eventually(lambda: neck_wire._outbox)
    closing.join(0.05)
    neck_wire._write_lock.release()
    neck_wire._flush()
    closing.join(LIMIT)
    assert not closing.is_alive()
    eventually(lambda: wire.head_listener.states == [OPEN, DISCONNECTED, CLOSED])


# ---------------------------------------------------------------------------------------------------------------- raw


@pytest.mark.capability("E3", "X15")
@pytest.mark.parametrize("sender", ["head", "neck"])
@pytest.mark.parametrize("data", [b"bytes", {"any": ["thing", 1]}, None], ids=repr)
def test_raw_data_reaches_the_listener_and_no_api(wire, sender, data):
    apis = dict(zip(("head", "neck"), wire.pair(), strict=True))
    for api in apis.values():
        api.set_handler("*", lambda *args: pytest.fail("an api got raw data"))
    *_, other = sides(wire, sender)
    assert apis[sender].send_raw(data) is None
    eventually(lambda: other.data)
    assert other.data == [(0, data)]


@pytest.mark.capability("E3", "X15")
@pytest.mark.parametrize("sender", ["head", "neck"])
def test_return_value_of_the_listener_answers_a_raw_send(wire, sender):
    apis = dict(zip(("head", "neck"), wire.pair(), strict=True))
    ipc, *_, other = sides(wire, sender)
    other.answer = {"heard": True}
    assert apis[sender].send_raw("question", wait=True, timeout=LIMIT) == {"heard": True}
    ((transaction_id, data),) = other.data
    assert data == "question"
    assert ipc.transactions.ids.owns(transaction_id)
    other.answer = None
    assert apis[sender].send_raw("again", wait=True, timeout=LIMIT) is None
    assert len(ipc.transactions) == 0


@pytest.mark.capability("E3")
def test_error_of_a_listener_reaches_who_asked_and_is_logged_where_nobody_did(wire, caplog):
    head, _ = wire.pair()

    class Failing(Recorder):
        def transport_data_received(self, transaction_id, data):
            raise LookupError(f"cannot take {data}")

    wire.ipc_neck.add_listener(Failing())
    with pytest.raises(LookupError, match="cannot take it"):
        head.send_raw("it", wait=True, timeout=LIMIT)
    head.send_raw("unasked")
    eventually(lambda: "cannot take unasked" in caplog.text)
    assert "Neck" in [record.name for record in caplog.records]


@pytest.mark.capability("E3")
def test_raw_send_that_is_not_answered_times_out(wire):
    head, _ = wire.pair()
    gate = wire.gate()

    class Slow(Recorder):
        def transport_data_received(self, transaction_id, data):
            gate.wait(LIMIT)

    wire.ipc_neck.add_listener(Slow())
    with pytest.raises(TransactionFailed):
        head.send_raw("x", wait=True, timeout=0.1)
    assert len(wire.ipc_head.transactions) == 0
    gate.set()


# ------------------------------------------------------------------------------------------------------------- logging


@pytest.mark.capability("E5")
@pytest.mark.parametrize("which", ["head", "neck"])
def test_records_of_a_side_appear_under_the_logger_it_was_given(wire, which, caplog):
    caplog.set_level(logging.DEBUG)
    wire.flush()

    class Failing(Recorder):
        def transport_state_changed(self, state):
            raise RuntimeError("of the listener")

    ipc, _, other, _ = sides(wire, which)
    ipc.add_listener(Failing())
    other.disconnect(LIMIT)
    eventually(lambda: "of the listener" in caplog.text)
    names = {record.name for record in caplog.records if record.exc_info}
    assert names == {which.capitalize()}


@pytest.mark.capability("E5")
def test_unhandled_event_and_failing_event_are_logged_by_their_side(wire, caplog):
    head, neck = wire.pair()
    neck.set_handler("fails", lambda: 1 / 0)
    head.nobody()(solicited=False)
    head.fails()(solicited=False)
    eventually(lambda: "test.nobody" in caplog.text and "test.fails" in caplog.text)
    assert {record.name for record in caplog.records} == {"Neck"}


@pytest.mark.capability("E5")
def test_logger_is_optional():
    details = QueueTransportDetails()
    ipc = QueueTransporter(details, TransactionManager(HeadTransactionIdGenerator()))
    assert ipc.logger.name == "epyrpc.transport"
    ipc.close()
    details.invert().release()


# ---------------------------------------------------------------------------------------------------------- connecting


@pytest.mark.capability("E9")
@pytest.mark.parametrize("first", ["head", "neck"])
def test_ends_connect_in_either_order(ends, first):
    head, neck = ends.pair()
    neck.set_handler("echo", lambda x: x)
    head.set_handler("echo", lambda x: x)
    one, _, other, _ = sides(ends, first)
    one.connect()
    early = (head if first == "head" else neck).echo("early")(sync=False)  # it waits in the pipe
    assert not early.done()
    other.connect(timeout=LIMIT)
    assert early.result(LIMIT) == "early"
    assert head.echo(1)(timeout=LIMIT) == 1
    assert neck.echo(2)(timeout=LIMIT) == 2


@pytest.mark.capability("E9")
@pytest.mark.parametrize("options", [{}, {"sync": False}, {"solicited": False}], ids=str)
def test_call_before_connect_fails_clearly(ends, options):
    head, _ = ends.pair()
    with pytest.raises(TransportDisconnectedError, match=r"connect\(\)"):
        head.m()(**options)
    for verb in ("call", "submit", "stream", "send_raw"):
        with pytest.raises(TransportDisconnected, match=r"connect\(\)"):
            getattr(head, verb)("m")
    assert len(ends.ipc_head.transactions) == 0


@pytest.mark.capability("E9")
@pytest.mark.parametrize("options", [{}, {"sync": False}, {"solicited": False}], ids=str)
def test_call_after_close_says_that_it_is_over(wire, options):
    head, neck = wire.pair()
    wire.ipc_head.close()
    with pytest.raises(TransportClosed):
        head.m()(**options)
    eventually(lambda: wire.ipc_neck.state is DISCONNECTED)
    with pytest.raises(TransportDisconnected):
        neck.m()(**options)


@pytest.mark.capability("E9", "E17")
@pytest.mark.timeout(30)
def test_call_to_an_end_where_no_api_is_bound_yet_is_refused(wire):
    head = wire.head()
    with pytest.raises(EpyrpcError, match=r"no api to handle 'test\.m'"):
        head.m()(timeout=LIMIT)
    neck = wire.neck()
    neck.set_handler("m", lambda: "now")
    assert head.m()(timeout=LIMIT) == "now"


@pytest.mark.parametrize("kind", ["raw data", "event"])
def test_what_comes_to_an_end_where_no_api_is_bound_is_logged(wire, kind, caplog):
    head = wire.head()
    if kind == "event":
        head.m()(solicited=False)
    else:
        head.send_raw("early")
    eventually(lambda: "no api is bound here" in caplog.text)
    assert {record.name for record in caplog.records} == {"Neck"}


def test_listener_is_told_while_the_end_waits_for_a_reply(wire):
    head, neck = wire.pair()
    gate, started = wire.gate(), threading.Event()
    neck.set_handler("slow", lambda: (started.set(), gate.wait(LIMIT)))
    held = head.slow()(sync=False)
    waits(started)
    neck.send_raw("meanwhile")
    eventually(lambda: wire.head_listener.data)
    gate.set()
    held.result(LIMIT)


def test_listeners_of_two_arbiters_do_not_mix():
    pairs = []
    for _ in range(2):
        details = QueueTransportDetails()
        listener = Recorder()
        one = QueueTransporter(details, TransactionManager(HeadTransactionIdGenerator()), listener)
        two = QueueTransporter(details.invert(), TransactionManager(HeadTransactionIdGenerator()))
        ApiBase("a", ipc=ApiArb(one))
        api = ApiBase("a", ipc=ApiArb(two))
        one.connect()
        two.connect()
        pairs.append((one, two, listener, api))
    pairs[0][3].send_raw("first")
    eventually(lambda: pairs[0][2].data)
    assert pairs[1][2].data == []
    for one, two, _, _ in pairs:
        one.close()
        two.close()
