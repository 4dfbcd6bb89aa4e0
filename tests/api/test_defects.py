"""The ancestor's defects, each shown to be absent: rows D1 to D10 (D6, D7 and D11 stand beside X3, X12 and X5)."""

from __future__ import annotations

import inspect
import multiprocessing
import threading
import time

import pytest

from epyrpc import (
    ApiArb,
    ApiBase,
    ApiParamError,
    AsyncResult,
    CodecError,
    EpyrpcError,
    HeadTransactionIdGenerator,
    QueueTransportDetails,
    QueueTransporter,
    TransactionManager,
    TransactionTimeout,
    TransportDisconnected,
    codec,
    current_call,
    messages,
)
from epyrpc.api.action import ApiAction, CallSettings
from tests.api.ends import LIMIT, eventually, waits


@pytest.mark.capability("D1")
@pytest.mark.parametrize("mode", ["sync", "async", "callback", "delayed", "pieces", "part"])
def test_result_that_cannot_be_pickled_fails_its_call_at_once(wire, mode):
    from epyrpc import Chunks

    head, neck = wire.pair(workers=2)

    def delayed():
        reply = current_call().delay_reply()
        with pytest.raises(CodecError):
            reply.send(threading.Lock())

    neck.set_handler("lock", lambda: {"deep": [threading.Lock()]})
    neck.set_handler("delayed", delayed)
    neck.set_handler("pieces", lambda: Chunks([1, threading.Lock()]))
    neck.set_handler("part", lambda: (part for part in (1, threading.Lock())))
    neck.set_handler("echo", lambda value: value)
    started = time.monotonic()
    if mode == "sync":
        with pytest.raises(CodecError, match="lock"):
            head.lock()()
    elif mode == "async":
        assert isinstance(head.submit("lock").exception(LIMIT), CodecError)
    elif mode == "callback":
        told, event = [], threading.Event()
        head.lock()(callback=lambda _id, value: (told.append(value), event.set()))
        waits(event)
        assert isinstance(told[0], CodecError)
    elif mode == "part":
        stream = head.stream("part")
        assert next(stream) == 1
        with pytest.raises(CodecError, match="lock"):
            next(stream)
    else:
        with pytest.raises(CodecError, match="lock"):
            head.submit(mode).result(LIMIT)
    assert time.monotonic() - started < 5
    assert head.echo("next")(timeout=LIMIT) == "next"
    assert len(wire.ipc_head.transactions) == 0


class Unloadable:
    """Pickles, and cannot be rebuilt."""

    def __reduce__(self):
        return _refuse, ()


def _refuse():
    raise ModuleNotFoundError("No module named 'only_at_the_sender'")


@pytest.mark.capability("D2")
@pytest.mark.parametrize("what", ["argument", "keyword", "garbage", "result", "event"])
def test_packet_that_cannot_be_decoded_fails_one_call_only(wire, what):
    head, neck = wire.pair()
    ran = []
    neck.set_handler("echo", lambda *args, **kwargs: ran.append(args) or args)
    neck.set_handler("give", Unloadable)
    if what == "argument":
        with pytest.raises(Exception, match="only_at_the_sender"):
            head.echo(Unloadable())(timeout=LIMIT)
    elif what == "keyword":
        with pytest.raises(Exception, match="only_at_the_sender"):
            head.echo(x=[Unloadable()])(timeout=LIMIT)
    elif what == "result":
        with pytest.raises(Exception, match="only_at_the_sender"):
            head.give()(timeout=LIMIT)
    elif what == "event":
        head.echo(Unloadable())(solicited=False)
    else:
        result = wire.ipc_head.transactions.new("test.echo")
        wire.ipc_head.wire.send(messages.pack(messages.CALL, int(result.id), "test.echo", b"\x80\x05garbage"))
        assert isinstance(result.exception(LIMIT), EpyrpcError)
    assert ran == []
    for n in range(3):
        assert head.echo(n)(timeout=LIMIT) == (n,)
    assert neck.submit("nobody").exception(LIMIT) is not None
    assert len(wire.ipc_head.transactions) == 0


@pytest.mark.capability("D3")
def test_killed_process_is_noticed_by_every_call(ends):
    from tests.transports.peer_process import serve

    details = QueueTransportDetails()
    ipc = QueueTransporter(details, TransactionManager(HeadTransactionIdGenerator()), name="head")
    head = ApiBase("t", ipc=ApiArb(ipc))
    inverted = details.invert()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(inverted,))
    process.start()
    inverted.release()
    try:
        ipc.connect(timeout=LIMIT * 3)
        pending = [head.submit("wait_for_ever") for _ in range(3)]
        for call in pending:
            call.exception(LIMIT)  # nobody handles it: refused, the wire works
        started = time.monotonic()
        last = head.submit("kill_me")
        with pytest.raises(TransportDisconnected):
            last.result(LIMIT)
        assert time.monotonic() - started < 2
        with pytest.raises(TransportDisconnected):
            head.call("echo", 1)
        assert len(ipc.transactions) == 0
    finally:
        head.teardown()
        ipc.close()
        process.join(LIMIT)
        process.close()


@pytest.mark.capability("D4")
def test_no_timeout_by_default_and_who_waits_can_be_seen(wire):
    head, neck = wire.pair()
    gate = wire.gate()
    neck.set_handler("wait", lambda: gate.wait(LIMIT))
    assert CallSettings().timeout is None
    assert ApiBase().settings.timeout is None
    caller = threading.Thread(target=head.call, args=("wait",), name="caller")
    caller.start()
    manager = wire.ipc_head.transactions
    eventually(lambda: len(manager) == 1)
    (pending,) = manager.pending()
    eventually(lambda: pending.running())
    first = pending.elapsed
    # What it waits for, where, in what state, since when.
    text = repr(pending)
    assert "test.wait" in text
    assert "running" in text
    assert str(pending.id) in text
    assert eventually(lambda: pending.elapsed > first)
    gate.set()
    caller.join(LIMIT)
    assert not caller.is_alive()


@pytest.mark.capability("D4")
def test_call_without_a_limit_ends_when_the_other_end_goes(wire):
    head, neck = wire.pair()
    gate = wire.gate()
    neck.set_handler("wait", lambda: gate.wait(LIMIT))
    outcome = []

    def call():
        try:
            head.call("wait")
        except EpyrpcError as exc:
            outcome.append(exc)

    caller = threading.Thread(target=call, name="caller")
    caller.start()
    eventually(lambda: len(wire.ipc_head.transactions) == 1)
    wire.ipc_neck.close()
    caller.join(LIMIT)
    assert isinstance(outcome[0], TransportDisconnected)


@pytest.mark.capability("D4")
def test_call_to_an_end_without_an_api_says_so(ends):
    """Nobody is there who could answer: the caller must not wait for ever."""
    ends.connect()
    head = ends.head()
    with pytest.raises(EpyrpcError, match="no api"):
        head.anything()(timeout=LIMIT)


@pytest.mark.capability("D5")
def test_slow_callback_delays_nobody(wire):
    head, neck = wire.pair(workers=2)
    neck.set_handler("echo", lambda value: value)
    gate, started, done = wire.gate(), threading.Event(), []
    other, within = threading.Event(), []

    def slow(_id, value):
        started.set()
        # It also asks for another result, which must come although this callback has not ended.
        within.append(head.echo("asked within")(timeout=LIMIT))
        within.append(head.submit("echo", "waited for within").result(LIMIT))
        gate.wait(LIMIT)
        done.append(value)

    head.echo(1)(callback=slow)
    waits(started)
    eventually(lambda: within == ["asked within", "waited for within"])
    before = time.monotonic()
    for n in range(20):
        assert head.echo(n)(timeout=LIMIT) == n
    assert neck.submit("nobody").exception(LIMIT) is not None
    head.echo(2)(callback=lambda _id, value: other.set())
    waits(other)
    assert wire.ipc_head.ping(LIMIT) < LIMIT
    expired = head.echo(3)(sync=False, timeout=LIMIT)
    assert expired.result(LIMIT) == 3
    assert time.monotonic() - before < 2
    assert done == []
    gate.set()
    eventually(lambda: done == [1])


@pytest.mark.capability("D5")
def test_many_slow_callbacks_at_once_delay_nobody(wire):
    head, neck = wire.pair(workers=2)
    neck.set_handler("echo", lambda value: value)
    gate, running = wire.gate(), []
    for n in range(10):
        head.echo(n)(callback=lambda _id, value: (running.append(value), gate.wait(LIMIT)))
    eventually(lambda: sorted(running) == list(range(10)))
    assert head.echo(1)(timeout=LIMIT) == 1


@pytest.mark.capability("D8")
def test_late_reply_is_counted_and_ignored(wire):
    head, neck = wire.pair(workers=2)
    gate, running, ended = wire.gate(), threading.Event(), threading.Event()

    def slow():
        running.set()
        gate.wait(LIMIT)
        ended.set()
        return "late"

    neck.set_handler("slow", slow)
    neck.set_handler("echo", lambda value: value)
    told = []
    manager = wire.ipc_head.transactions
    result = head.slow()(callback=lambda _id, value: told.append(value), timeout=0.05)
    waits(running)
    with pytest.raises(TransactionTimeout):
        result.result(LIMIT)
    # The other end drops the late reply itself; one that comes all the same is counted.
    gate.set()
    waits(ended)
    wire.flush()
    before = manager.late
    payload, _ = codec.encode_value("late")
    for kind in (messages.REPLY, messages.ERROR, messages.END, messages.PART):
        wire.ipc_neck.wire.send(messages.pack(kind, int(result.id), "", payload))
    wire.flush()
    assert manager.late == before + 4
    eventually(lambda: len(told) == 1)
    assert isinstance(told[0], TransactionTimeout)
    with pytest.raises(TransactionTimeout):
        result.result(LIMIT)
    assert head.echo(1)(timeout=LIMIT) == 1
    assert wire.head_listener.data == []


@pytest.mark.capability("D9")
def test_inside_a_process_nothing_is_pickled_again(wire):
    head, neck = wire.pair(workers=2)
    kept = {}

    def keep():
        call = current_call()
        kept["call"], kept["lock"] = call, threading.Lock()
        return call.path

    lock = threading.Lock()
    neck.set_handler("keep", keep)
    neck.set_handler(
        "locked", lambda: lock.acquire(False) and lock.release() is None
    )  # a capture that cannot be pickled
    assert head.keep()(timeout=LIMIT) == "test.keep"
    assert head.locked()(timeout=LIMIT) is True
    assert kept["call"].path == "test.keep"


@pytest.mark.capability("D9")
def test_arguments_are_unpickled_once(wire):
    head, neck = wire.pair()
    neck.set_handler("take", lambda value: _Counted.loads)
    assert head.take(_Counted())(timeout=LIMIT) == 1


class _Counted:
    loads = 0

    def __setstate__(self, state):
        _Counted.loads += 1

    def __getstate__(self):
        _Counted.loads = 0
        return {"x": 1}


@pytest.mark.capability("D10")
def test_options_of_a_call_have_names_and_one_meaning(wire):
    head, neck = wire.pair()
    neck.set_handler("echo", lambda value: value)
    names = [name for name in inspect.signature(ApiAction.__call__).parameters if name != "self"]
    assert names == list(CallSettings._fields)
    assert "async" not in names
    told = []
    callback = lambda _id, value: told.append(value)  # noqa: E731 - passed four times below
    action = head.echo(1)
    assert action() == 1
    assert action(sync=True) == 1
    assert isinstance(action(sync=False), AsyncResult)
    assert isinstance(action(callback=callback), AsyncResult), "a callback alone: not waited for"
    assert action(sync=True, callback=callback) == 1, "waited for, and called back as well"
    assert action(solicited=False) is None
    eventually(lambda: told == [1, 1])
    assert action() == 1, "nothing of it has stuck"
    assert len(told) == 2
    for name, value in (("sync", 1), ("sync", None), ("solicited", "yes"), ("callback", 3), ("ignore_errors", 0)):
        with pytest.raises(ApiParamError, match=name):
            action(**{name: value})
    with pytest.raises(TypeError):
        action(asynchronous=True)
    with pytest.raises(ApiParamError, match="option"):
        head.configure(asynchronous=True)
