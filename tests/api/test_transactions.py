"""Every solicited call is a transaction of its sender: made, marked with its origin, retired once."""

from __future__ import annotations

import threading

import pytest

from epyrpc import (
    ApiBase,
    ApiParamError,
    HeadTransactionIdGenerator,
    NeckTransactionIdGenerator,
    NoDataError,
    QueueTransportDetails,
    QueueTransporter,
    TransactionId,
    TransactionIdError,
    TransactionManager,
)
from tests.api.ends import LIMIT, Made, eventually, waits


@pytest.mark.capability("S11a")
@pytest.mark.parametrize("direction", ["head to neck", "neck to head"])
def test_solicited_call_is_a_transaction_of_its_sender_until_it_ends(wire, direction):
    head, neck = wire.pair()
    caller, callee = (head, neck) if direction == "head to neck" else (neck, head)
    mine, other = wire.ipc_head.transactions, wire.ipc_neck.transactions
    if direction == "neck to head":
        mine, other = other, mine
    gate = wire.gate()
    callee.set_handler("gated", lambda: gate.wait(LIMIT))
    made, made_there = Made(mine), Made(other)
    assert len(mine) == 0
    held = caller.gated()(sync=False)
    assert (len(mine), len(other)) == (1, 0)
    assert mine.pending() == (held,)
    assert mine.is_valid(held.id)
    assert mine.get_result(held.id) is held
    more = [caller.gated()(sync=False) for _ in range(3)]
    assert mine.pending() == (held, *more)
    mine.validate()
    gate.set()
    for one in (held, *more):
        one.result(LIMIT)
    assert len(mine) == 0
    assert not mine.is_valid(held.id)
    with pytest.raises(NoDataError):
        mine.get_result(held.id)
    assert (made(), made_there()) == (4, 0)


@pytest.mark.capability("S11a")
def test_blocking_call_is_a_transaction_while_it_waits(wire):
    head, neck = wire.pair()
    gate = wire.gate()
    neck.set_handler("gated", lambda: gate.wait(LIMIT))
    thread = threading.Thread(target=head.gated())
    thread.start()
    (held,) = eventually(wire.ipc_head.transactions.pending)
    assert held.path == "test.gated"
    gate.set()
    thread.join(LIMIT)
    assert len(wire.ipc_head.transactions) == 0


@pytest.mark.capability("S11a")
@pytest.mark.parametrize("end", ["answer", "error", "unsupported", "timeout", "cancel", "unpicklable", "close"])
def test_transaction_is_retired_however_the_call_ends(wire, end):
    head, neck = wire.pair()
    gate = wire.gate()
    neck.set_handler("answer", lambda *args: None)
    neck.set_handler("error", lambda: 1 / 0)
    neck.set_handler("gated", lambda: gate.wait(LIMIT))
    manager = wire.ipc_head.transactions
    if end == "unpicklable":
        with pytest.raises(Exception, match="lock"):
            head.answer(threading.Lock())(sync=False)
        assert len(manager) == 0
        return
    path = end if end in ("answer", "error") else "nobody" if end == "unsupported" else "gated"
    held = head.action(path)(sync=False, timeout=0.05 if end == "timeout" else None)
    if end == "cancel":
        held.cancel()
    elif end == "close":
        wire.ipc_head.close()
    eventually(held.done)
    assert len(manager) == 0
    manager.validate()


@pytest.mark.capability("S11b", "E1")
def test_ids_tell_who_made_them():
    head, neck = HeadTransactionIdGenerator(), NeckTransactionIdGenerator(7)
    first, second = TransactionId(head()), TransactionId(head())
    assert (first.origin, first.end) == ("H", 0)
    assert second.count == first.count + 1
    assert str(first) == f"H{first.count}"
    mine = TransactionId(neck())
    assert (mine.origin, mine.end, mine.count) == ("N", 7, 1)
    assert str(mine) == "N7.1"
    assert head.owns(first)
    assert not head.owns(mine)
    assert neck.owns(mine)
    assert not neck.owns(first)
    assert not NeckTransactionIdGenerator(8).owns(mine)
    assert not head.owns(0)


@pytest.mark.capability("S11b", "E1")
def test_ids_of_two_bodies_never_collide():
    ends = [NeckTransactionIdGenerator(end) for end in (0, 1, 2, (1 << TransactionId.END_BITS) - 1)]
    ends += [NeckTransactionIdGenerator(), NeckTransactionIdGenerator(), HeadTransactionIdGenerator()]
    # Those that were given no number are told apart from each other; the bodies of one head are all given theirs.
    numbered, counted = ends[:4], ends[4:]
    for group in (numbered, counted):
        made = [make() for make in group for _ in range(1000)]
        assert len(set(made)) == len(made)
    for bad in (-1, 1 << TransactionId.END_BITS):
        with pytest.raises(ApiParamError):
            NeckTransactionIdGenerator(bad)


@pytest.mark.capability("S11b", "E1")
def test_id_of_another_end_is_refused(wire):
    head, neck = wire.pair()
    gate = wire.gate()
    neck.set_handler("gated", lambda: gate.wait(LIMIT))
    held = head.gated()(sync=False)
    own, foreign = wire.ipc_head.transactions, wire.ipc_neck.transactions
    assert own.check(held.id) == held.id
    for use in (
        lambda: foreign.check(held.id),
        lambda: foreign.get_result(held.id),
        lambda: foreign.release(held.id, 1),
        lambda: foreign.purge(held.id),
    ):
        with pytest.raises(TransactionIdError, match=str(held.id)):
            use()
    assert not foreign.is_valid(held.id)
    assert not held.done()
    with pytest.raises(ValueError, match=r"N\d*"):
        own.check(NeckTransactionIdGenerator()())


@pytest.mark.capability("E1")
def test_each_side_has_a_manager_whose_ids_carry_its_mark(wire):
    head, neck = wire.pair()
    for api in (head, neck):
        api.set_handler("echo", lambda x: x)
    assert str(head.echo(1)(sync=False).id).startswith("H")
    assert str(neck.echo(1)(sync=False).id).startswith("N")
    assert wire.ipc_head.transactions is not wire.ipc_neck.transactions
    wire.flush()


@pytest.mark.capability("S12")
def test_many_threads_each_get_their_own_answers(wire):
    threads_count, calls = 32, 200
    head = wire.head(ApiBase("test", timeout=60))
    neck = wire.neck(ApiBase("test", workers=4))
    neck.set_handler("square", lambda thread, i: (thread, i, i * i))
    wrong, started = [], threading.Barrier(threads_count)

    def hammer(number):
        started.wait()
        for i in range(calls):
            action = head.square(number, i)
            answer = action() if i % 3 else action(sync=False).result(60)
            if answer != (number, i, i * i):
                wrong.append((number, i, answer))

    made = Made(wire.ipc_head.transactions)
    threads = [threading.Thread(target=hammer, args=(number,)) for number in range(threads_count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    assert not any(thread.is_alive() for thread in threads)
    assert not wrong
    assert made() == threads_count * calls
    assert len(wire.ipc_head.transactions) == 0
    assert wire.ipc_head.transactions.late == 0
    wire.ipc_head.transactions.validate()


@pytest.mark.capability("S12")
def test_replies_that_overtake_each_other_find_their_callers(wire):
    head = wire.head()
    neck = wire.neck(ApiBase("test", workers=8))
    gates = [wire.gate() for _ in range(8)]
    neck.set_handler("gated", lambda i: (gates[i].wait(LIMIT), i)[1])
    got = {}
    threads = [threading.Thread(target=lambda i=i: got.setdefault(i, head.gated(i)(timeout=LIMIT))) for i in range(8)]
    for thread in threads:
        thread.start()
    for i in (5, 0, 7, 2, 6, 1, 4, 3):
        gates[i].set()
        eventually(lambda i=i: i in got)
    for thread in threads:
        thread.join(LIMIT)
    assert got == {i: i for i in range(8)}


@pytest.mark.capability("E1")
def test_result_is_released_from_here_with_a_value_or_an_error(wire):
    head, neck = wire.pair()
    gate = wire.gate()
    neck.set_handler("gated", lambda: gate.wait(LIMIT))
    manager = wire.ipc_head.transactions
    first, second = head.gated()(sync=False), head.gated()(sync=False)
    assert manager.release(first.id, {"from": "here"}) is True
    assert first.result(0) == {"from": "here"}
    assert manager.release(second.id, KeyError("from here")) is True
    with pytest.raises(KeyError):
        second.result(0)
    assert manager.release(first.id, 2) is False
    third = head.gated()(sync=False)
    assert manager.purge_all() == 1
    assert third.cancelled()
    waits_for_end = threading.Event()
    third.add_done_callback(lambda _: waits_for_end.set())
    waits(waits_for_end)


@pytest.mark.capability("E1")
def test_manager_can_be_used_before_it_is_connected():
    details = QueueTransportDetails()
    manager = TransactionManager(HeadTransactionIdGenerator())
    ipc = QueueTransporter(details, manager)
    assert ipc.transactions is manager
    assert len(manager) == 0
    ipc.close()
    details.invert().release()
