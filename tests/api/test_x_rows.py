"""What the ancestor's code could do, replies and calls: rows X1 to X4, X21, X22, X28 to X33, X36, X38, X39."""

from __future__ import annotations

import logging
import threading
import time

import pytest

from epyrpc import (
    ApiBase,
    ApiParamError,
    ApiPicklable,
    AsyncResult,
    Chunks,
    CodecError,
    DebugHook,
    NoDataError,
    NoResponseRequired,
    TransactionError,
    TransactionFailed,
    TransactionIdError,
    TransactionTimeout,
    TransportClosed,
    codec,
    current_call,
    messages,
)
from tests.api.ends import LIMIT, eventually, waits


class Told:
    """A callback that notes what it is called with."""

    def __init__(self):
        self.calls = []
        self.event = threading.Event()

    def __call__(self, transaction_id, value):
        self.calls.append((transaction_id, value))
        self.event.set()

    def value(self):
        waits(self.event)
        assert len(self.calls) == 1
        return self.calls[0][1]


# ---- X1, X2: replies later, or never -------------------------------------------------------------------------------


@pytest.mark.capability("X1")
def test_reply_given_after_the_handler_has_ended_from_another_thread(wire):
    head, neck = wire.pair(workers=1)
    kept = []

    def later():
        kept.append(current_call().delay_reply())
        return "not this"

    neck.set_handler("later", later)
    neck.set_handler("now", lambda: "served meanwhile")
    pending, told = head.submit("later"), Told()
    head.later()(callback=told)
    eventually(lambda: len(kept) == 2)
    assert head.now()(timeout=LIMIT) == "served meanwhile"
    assert not pending.done()
    for index, reply in enumerate(kept):
        thread = threading.Thread(target=reply.send, args=(index,))
        thread.start()
        thread.join()
    assert pending.result(LIMIT) == 0
    assert told.value() == 1
    assert kept[0].id == pending.id
    assert not kept[0].send("twice")


@pytest.mark.capability("X2")
def test_handler_that_requires_no_response_sends_no_frame(wire):
    head, neck = wire.pair()
    frames = []
    real = wire.ipc_head._wire._sinks.copy()

    def none():
        raise NoResponseRequired

    neck.set_handler("none", none)
    neck.set_handler("ping", lambda: "pong")
    pending = head.submit("none")
    assert head.call("ping") == "pong"
    wire.flush()
    for kind in (messages.REPLY, messages.ERROR, messages.END):
        wire.ipc_head._wire._sinks[kind] = lambda frame, kind=kind: (frames.append(frame), real[kind](frame))
    second = head.submit("none")
    wire.flush()
    assert frames == []
    assert not pending.done()
    assert not second.done()
    assert pending.cancel()
    assert second.cancel()


# ---- X3, X4: results in pieces -------------------------------------------------------------------------------------


@pytest.mark.capability("X3", "D6")
@pytest.mark.parametrize("count", [0, 1, 2, 3, 100])
@pytest.mark.parametrize("combined", [False, True])
def test_result_in_pieces_is_combined_for_waiters_and_callbacks(wire, count, combined):
    head, neck = wire.pair()
    factor = 10  # captured: a combiner travels by value

    def combine(parts):
        return [part * factor for part in parts]

    neck.set_handler("pieces", lambda: Chunks(range(count), combine if combined else None))
    expected = [n * (factor if combined else 1) for n in range(count)]
    told = Told()
    assert head.pieces()(timeout=LIMIT) == expected
    result = head.pieces()(callback=told)
    assert told.value() == expected
    assert result.result(LIMIT) == expected
    assert head.submit("pieces").acquire(timeout=LIMIT) == expected


class Pieces:
    """The head's pending call, and its pieces sent by hand from the neck."""

    def __init__(self, wire):
        self.head, self.neck = wire.pair()
        self.wire = wire
        self.told = Told()
        self.neck.set_handler("silent", self._silent)
        self.result = self.head.silent()(callback=self.told)

    @staticmethod
    def _silent():
        raise NoResponseRequired

    def send(self, index, count, data, combiner=None):
        payload, _ = codec.encode_value((data, combiner))
        options = messages.CallOptions(0.0, index, count)
        self.wire.ipc_neck.wire.send(messages.pack(messages.CHUNK, int(self.result.id), "", payload, options=options))
        self.wire.flush()


@pytest.mark.capability("X3")
@pytest.mark.parametrize("order", [[2, 0, 1], [2, 1, 0], [0, 1, 1, 0, 2], [1, 1, 1, 0, 2]], ids=str)
def test_pieces_in_any_order_and_twice(wire, order):
    pieces = Pieces(wire)
    for index in order:
        assert not pieces.result.done()
        pieces.send(index, 3, f"piece {index}")
    expected = ["piece 0", "piece 1", "piece 2"]
    assert pieces.result.result(LIMIT) == expected
    assert pieces.told.value() == expected


@pytest.mark.capability("X3")
@pytest.mark.parametrize(
    ("index", "count", "what"),
    [pytest.param(3, 3, "does not belong", id="too-big"), pytest.param(1, 4, "does not belong", id="other-count")],
)
def test_piece_that_contradicts_the_others_fails_the_call(wire, index, count, what):
    pieces = Pieces(wire)
    pieces.send(0, 3, "first")
    pieces.send(index, count, "bad")
    with pytest.raises(TransactionError, match=what):
        pieces.result.result(LIMIT)
    assert isinstance(pieces.told.value(), TransactionError)


@pytest.mark.capability("X3")
def test_pieces_with_different_combiners_fail_the_call(wire):
    pieces = Pieces(wire)
    pieces.send(0, 2, "first", len)
    pieces.send(1, 2, "second", sum)
    with pytest.raises(TransactionError, match="combined by"):
        pieces.result.result(LIMIT)


@pytest.mark.capability("X4")
def test_piece_that_never_comes_fails_the_call_at_its_deadline(wire):
    head, neck = wire.pair()

    def silent():
        raise NoResponseRequired

    neck.set_handler("silent", silent)
    told = Told()
    result = head.silent()(callback=told, timeout=0.3)
    for index in (0, 2):  # each within the time: the limit is for the whole set
        payload, _ = codec.encode_value((index, None))
        options = messages.CallOptions(0.0, index, 3)
        frame = messages.pack(messages.CHUNK, int(result.id), "", payload, options=options)
        wire.ipc_neck.wire.send(frame)
        wire.flush()
        assert not result.done()
    with pytest.raises(TransactionFailed):
        result.result(LIMIT)
    assert isinstance(told.value(), TransactionTimeout)
    assert 0.25 < result.elapsed < 5


# ---- X21, X28, X29: what is sent -----------------------------------------------------------------------------------


@pytest.mark.capability("X21")
@pytest.mark.parametrize("mode", ["sync", "async", "event", "callback"])
def test_argument_that_cannot_be_pickled_fails_at_the_sender(wire, mode):
    head, neck = wire.pair()
    seen, sent = [], []
    neck.set_handler("take", lambda *args, **kwargs: seen.append(args))
    wire.flush()
    real = wire.ipc_head.wire.send
    wire.ipc_head.wire.send = lambda *args, **kwargs: (sent.append(args), real(*args, **kwargs))
    options = {
        "sync": {},
        "async": {"sync": False},
        "event": {"solicited": False},
        "callback": {"callback": Told()},
    }[mode]
    with pytest.raises(CodecError, match="argument 2"):
        head.take(1, threading.Lock())(**options)
    with pytest.raises(CodecError, match="'deep'"):
        head.take(deep={"a": [threading.Lock()]})(**options)
    assert sent == []
    assert len(wire.ipc_head.transactions) == 0
    wire.ipc_head.wire.send = real
    wire.flush()
    assert seen == []


class Checked(ApiBase):
    """Hand-written methods that check their arguments before anything is sent."""

    def scale(self, factor):
        if not isinstance(factor, (int, float)):
            raise ApiParamError("factor", factor, (int, float))
        if factor not in (1, 2, 3):
            raise ApiParamError("factor", factor, (1, 2, 3))
        return self.action("scale", factor)


@pytest.mark.capability("X28")
def test_parameter_check_at_the_caller_stops_the_call(wire):
    ran = []
    head = wire.head(Checked("test"))
    neck = wire.neck(ApiBase("test"))
    neck.set_handler("scale", lambda factor: ran.append(factor) or factor)
    for value, allowed in (("x", (int, float)), (7, (1, 2, 3))):
        with pytest.raises(ApiParamError) as caught:
            head.scale(value)
        assert (caught.value.item, caught.value.value, caught.value.allowed) == ("factor", value, allowed)
    assert head.scale(2)(timeout=LIMIT) == 2
    assert ran == [2]


@pytest.mark.capability("X28")
@pytest.mark.parametrize("mode", ["sync", "async", "callback"])
def test_parameter_check_of_the_handler_reaches_the_caller_in_every_mode(wire, mode):
    head, neck = wire.pair()

    def scale(factor):
        if factor not in (1, 2, 3):
            raise ApiParamError("factor", factor, (1, 2, 3))
        return factor

    neck.set_handler("scale", scale)
    if mode == "sync":
        with pytest.raises(ApiParamError) as caught:
            head.scale(7)(timeout=LIMIT)
        error = caught.value
    elif mode == "async":
        error = head.submit("scale", 7).exception(LIMIT)
    else:
        told = Told()
        head.scale(7)(callback=told)
        error = told.value()
    assert isinstance(error, ApiParamError)
    assert (error.item, error.value, error.allowed) == ("factor", 7, (1, 2, 3))


class Guarded(ApiPicklable):
    """Keeps a lock for itself."""

    def __init__(self, value):
        self.value, self.lock = value, threading.Lock()

    def export(self):
        return {"value": self.value}


@pytest.mark.capability("X29")
def test_object_strips_itself_before_it_travels(wire):
    head, neck = wire.pair()
    neck.set_handler("take", lambda thing: (type(thing).__name__, thing))
    neck.set_handler("give", lambda: [Guarded(5)])
    assert head.take(Guarded(4))(timeout=LIMIT) == ("dict", {"value": 4})
    assert head.give()(timeout=LIMIT) == [{"value": 5}]


# ---- X30 to X33: results, the manager, timeouts --------------------------------------------------------------------


@pytest.mark.capability("X30")
def test_names_of_a_result(wire):
    head, neck = wire.pair()
    gate = wire.gate()
    neck.set_handler("wait", lambda: gate.wait(LIMIT) and "done")
    action = head.wait()
    result = action(sync=False, timeout=LIMIT)
    assert result.action is action
    assert result.id in [pending.id for pending in wire.ipc_head.transactions.pending()]
    first = result.elapsed
    assert eventually(lambda: result.elapsed > first)
    with pytest.raises(TimeoutError):
        result.acquire(timeout=0.01)
    with pytest.raises(TimeoutError):
        result.acquire(timeout=0)
    assert wire.ipc_head.transactions.is_valid(result.id)
    gate.set()
    assert result.acquire(timeout=LIMIT) == "done"
    stopped = result.elapsed
    assert result.elapsed == stopped
    assert not wire.ipc_head.transactions.is_valid(result.id)


@pytest.mark.capability("X30")
def test_no_timer_thread_for_a_thousand_deadlines(queue_wire):
    head, neck = queue_wire.pair()
    neck.set_handler("silent", lambda: current_call().delay_reply() and None)
    head.submit("silent").cancel()
    queue_wire.flush()
    before = threading.active_count()
    results = [head.silent()(sync=False, timeout=100 + n) for n in range(1000)]
    assert threading.active_count() <= before + 1
    manager = queue_wire.ipc_head.transactions
    assert len(manager) == 1000
    assert manager.purge_all() == 1000
    assert all(result.cancelled() for result in results)
    eventually(lambda: len(manager._deadlines) == 0)  # once it is known that each has stopped


@pytest.mark.capability("X31")
def test_result_with_a_callback_can_be_waited_for_by_many(wire):
    head, neck = wire.pair()
    gate = wire.gate()
    neck.set_handler("wait", lambda: gate.wait(LIMIT) and 7)
    told, values = Told(), []
    result = head.wait()(callback=told)
    assert isinstance(result, AsyncResult)
    threads = [threading.Thread(target=lambda: values.append(result.result(LIMIT))) for _ in range(4)]
    for thread in threads:
        thread.start()
    gate.set()
    for thread in threads:
        thread.join(LIMIT)
    assert values == [7] * 4
    assert told.value() == 7
    assert told.calls[0][0] == result.id


@pytest.mark.capability("X32")
def test_table_of_the_manager(wire):
    head, neck = wire.pair()
    manager = wire.ipc_head.transactions

    def silent():
        raise NoResponseRequired

    neck.set_handler("silent", silent)
    one, two, three, four = (head.submit("silent") for _ in range(4))
    assert [result.id for result in manager.pending()] == [one.id, two.id, three.id, four.id]
    assert manager.is_valid(one.id)
    assert manager.get_result(one.id) is one

    assert manager.release(one.id, {"by": "hand"})
    assert one.result(LIMIT) == {"by": "hand"}
    assert not manager.is_valid(one.id)
    assert not manager.release(one.id, "again")
    with pytest.raises(NoDataError, match="not pending"):
        manager.get_result(one.id)

    assert manager.release(two.id, KeyError("by hand"))
    with pytest.raises(KeyError):
        two.result(LIMIT)

    assert manager.purge(three.id)
    assert three.cancelled()
    assert not manager.purge(three.id)

    assert manager.purge_all() == 1
    assert four.cancelled()
    assert manager.purge_all() == 0
    assert len(manager) == 0

    foreign = wire.ipc_neck.transactions.ids()
    for ask in (manager.get_result, manager.purge, lambda tid: manager.release(tid, 1)):
        with pytest.raises(TransactionIdError):
            ask(foreign)

    last = head.submit("silent")
    assert manager.release_all(TransportClosed("over")) == 1
    with pytest.raises(TransportClosed):
        last.result(LIMIT)
    manager.validate()


@pytest.mark.capability("X33")
@pytest.mark.parametrize("bad", [-1, -0.001, "5", b"1", float("nan"), True, [1], object], ids=repr)
def test_timeout_that_is_no_time_is_refused(queue_wire, bad):
    head, neck = queue_wire.pair()
    neck.set_handler("echo", lambda value: value)
    with pytest.raises(ApiParamError, match="timeout"):
        head.echo(1)(timeout=bad)
    with pytest.raises(ApiParamError, match="timeout"):
        ApiBase("x", timeout=bad)
    with pytest.raises(ApiParamError, match="timeout"):
        head.submit("echo", 1).acquire(timeout=bad)


@pytest.mark.capability("X33")
def test_meaning_of_each_timeout(wire):
    head, neck = wire.pair()
    gate = wire.gate()
    neck.set_handler("echo", lambda value: value)
    neck.set_handler("wait", lambda: gate.wait(LIMIT))
    assert head.echo(1)(timeout=None) == 1
    assert head.echo(1)(timeout=float("inf")) == 1
    assert head.echo(1)(timeout=10) == 1
    started = time.monotonic()
    with pytest.raises(TransactionTimeout):
        head.wait()(timeout=0)
    assert time.monotonic() - started < 1
    # What is not given is the api's default, and None is not "not given".
    head.configure(timeout=0.05)
    with pytest.raises(TransactionTimeout):
        head.wait()()
    pending = head.wait()(sync=False, timeout=None)
    assert pending.deadline is None
    time.sleep(0.1)
    assert not pending.done()
    gate.set()
    assert pending.result(LIMIT)


# ---- X22, X38, X39: looking on -------------------------------------------------------------------------------------


class Watching(DebugHook):
    """Notes everything, and raises when told to."""

    def __init__(self):
        self.seen = []
        self.raises = False

    def note(self, kind, debug_id, path, *details):
        self.seen.append((kind, debug_id, path, details))
        if self.raises:
            raise RuntimeError("a faulty hook")

    def api_sync_call(self, debug_id, path, args, kwargs):
        self.note("sync", debug_id, path, args, kwargs)

    def api_async_call(self, debug_id, path, args, kwargs):
        self.note("async", debug_id, path, args, kwargs)

    def api_result(self, debug_id, path, result):
        self.note("result", debug_id, path, result)

    def api_timeout(self, debug_id, path, limit):
        self.note("timeout", debug_id, path, limit)


@pytest.mark.capability("X22")
@pytest.mark.parametrize("raises", [False, True], ids=["sound", "faulty"])
def test_debug_hook_sees_calls_results_and_timeouts(wire, raises, caplog):
    caplog.set_level(logging.CRITICAL, "epyrpc.api")
    head, neck = wire.pair(workers=3)
    gate = wire.gate()
    neck.set_handler("echo", lambda value: value)
    neck.set_handler("fail", lambda: 1 / 0)
    neck.set_handler("wait", lambda: gate.wait(LIMIT))
    hook = Watching()
    hook.raises = raises
    head.debug_hook = hook
    assert head.echo(1)() == 1
    assert head.echo(2)(timeout=LIMIT) == 2
    assert head.echo(3)(sync=False).result(LIMIT) == 3
    assert head.submit("echo", 4).result(LIMIT) == 4
    head.echo(5)(solicited=False)
    with pytest.raises(ZeroDivisionError):
        head.fail()()
    with pytest.raises(TransactionTimeout):
        head.wait()(timeout=0.01)
    with pytest.raises(TransactionTimeout):
        head.wait()(sync=False, timeout=0.01).result(LIMIT)
    kinds = [kind for kind, *_ in hook.seen]
    eventually(lambda: [k for k, *_ in hook.seen].count("timeout") == 2)
    eventually(lambda: [k for k, *_ in hook.seen].count("result") == 5)
    kinds = [kind for kind, *_ in hook.seen]
    assert kinds.count("sync") == 4
    assert kinds.count("async") == 4
    assert hook.seen[0][0] == "sync"
    assert hook.seen[0][2:] == ("test.echo", ((1,), {}))
    assert hook.seen[1][0] == "result"
    assert hook.seen[1][1:] == (hook.seen[0][1], "test.echo", (1,))
    started = [debug_id for kind, debug_id, *_ in hook.seen if kind in ("sync", "async")]
    assert len(set(started)) == 8, "each call has a number of its own"
    assert {debug_id for kind, debug_id, *_ in hook.seen if kind in ("result", "timeout")} < set(started)
    head.debug_hook = None
    before = len(hook.seen)
    assert head.echo(1)() == 1
    assert len(hook.seen) == before


@pytest.mark.capability("X22")
def test_debug_hook_of_a_node_hears_of_what_is_below():
    root, below = ApiBase("root"), ApiBase()
    root.below = below
    hook, other = Watching(), Watching()
    root.debug_hook = hook
    assert below.debug_hook is hook
    below.debug_hook = other
    assert below.debug_hook is other
    assert root.debug_hook is hook


@pytest.mark.capability("X38")
def test_middleware_before_and_after_calls_and_handlers(wire):
    head, neck = wire.pair()
    neck.set_handler("add", lambda a, b=0: a + b)
    neck.set_handler("fail", lambda: 1 / 0)
    seen = []

    def layer(name):
        def around(path, args, kwargs, proceed):
            seen.append((name, "before", path, args, kwargs))
            try:
                result = proceed(*args, **kwargs)
            except ZeroDivisionError:
                seen.append((name, "failed"))
                raise
            seen.append((name, "after", result))
            return result

        return around

    head.add_middleware(layer("outer call"), around="calls")
    head.add_middleware(layer("inner call"), around="calls")
    neck.add_middleware(layer("handler"))
    assert head.add(2, b=3)(timeout=LIMIT) == 5
    assert seen == [
        ("outer call", "before", "test.add", (2,), {"b": 3}),
        ("inner call", "before", "test.add", (2,), {"b": 3}),
        ("handler", "before", "test.add", (2,), {"b": 3}),
        ("handler", "after", 5),
        ("inner call", "after", 5),
        ("outer call", "after", 5),
    ]
    seen.clear()
    with pytest.raises(ZeroDivisionError):
        head.fail()(timeout=LIMIT)
    assert [entry[:2] for entry in seen if entry[1] == "failed"] == [
        ("handler", "failed"),
        ("inner call", "failed"),
        ("outer call", "failed"),
    ]
    # It may change what goes in and what comes out, or answer by itself.
    neck.add_middleware(lambda path, args, kwargs, proceed: 100 if path == "test.add" else proceed(*args, **kwargs))
    assert head.add(1)(timeout=LIMIT) == 100
    head.add_middleware(lambda path, args, kwargs, proceed: proceed(*args, **kwargs) + 1, around="calls")
    assert head.add(1)(timeout=LIMIT) == 101
    with pytest.raises(ApiParamError, match="around"):
        head.add_middleware(layer("x"), around="nothing")
    with pytest.raises(ApiParamError, match="layer"):
        head.add_middleware("no function")


@pytest.mark.capability("X39")
@pytest.mark.parametrize("name", ["Neck", "epyrpc"])
def test_logging_switched_off_and_on_three_times_while_running(wire, caplog, name):
    """Of one side by its own logger, of the whole package by the package's."""
    head, neck = wire.pair()
    neck.set_handler("fail", lambda: 1 / 0)
    wire.ipc_neck.logger = wire.ipc_neck.logger if name == "Neck" else logging.getLogger("epyrpc.transport")
    logger = logging.getLogger(name)
    before = logger.level
    try:
        for _ in range(3):
            logger.setLevel(logging.CRITICAL + 1)
            caplog.clear()
            head.fail()(solicited=False)
            wire.flush()
            eventually(lambda: not neck.pool.running and not neck.pool.queue)
            assert caplog.records == []
            logger.setLevel(logging.ERROR)
            head.fail()(solicited=False)
            eventually(lambda: any("test.fail" in record.getMessage() for record in caplog.records))
    finally:
        logger.setLevel(before)
