"""What the ancestor's code could do, trees and arbiters: rows X5 to X14, X25, X26, X34, X40, X41."""

from __future__ import annotations

import logging
import multiprocessing
import threading
import time

import pytest

from epyrpc import (
    ApiArb,
    ApiBase,
    ApiParamError,
    HeadTransactionIdGenerator,
    MemoryTransportDetails,
    MultipleApiResponseError,
    QueueTransportDetails,
    QueueTransporter,
    TransactionManager,
    TransportDetailsFactory,
    TransportDisconnected,
    TransportFactory,
    UnsupportedApiError,
    UnsupportedTransportError,
    api_from_config,
    current_call,
)
from tests.api.ends import LIMIT, eventually, waits


class Leaf(ApiBase):
    EVENT__leaf = "leaf.happened"

    def _handler_own(self):
        return "leaf"


class Left(ApiBase):
    EVENT__left = "left.happened"
    EVENT__shared = "left.shared"


class Right(ApiBase):
    EVENT__right = "right.happened"
    EVENT__shared = "right.shared"
    EVENTUALLY = "no event"


class Both(Left, Right):
    EVENT__both = "both.happened"
    leaf = Leaf

    def _handler_top(self, a, b=1):
        return a + b


# ---- finding handlers ----------------------------------------------------------------------------------------------


@pytest.mark.capability("X5")
def test_catch_all_answers_only_what_no_specific_handler_does(wire):
    head = wire.head()
    neck = wire.neck(Both("test"))
    neck.set_handler("*", lambda *args: f"root * got {current_call().path}")
    assert head.leaf.own()(timeout=LIMIT) == "leaf"
    assert head.leaf.other()(timeout=LIMIT) == "root * got test.leaf.other"
    neck.set_handler("leaf.*", lambda *args: "leaf *")
    assert head.leaf.other()(timeout=LIMIT) == "leaf *"
    assert head.leaf.deeper.still()(timeout=LIMIT) == "leaf *"
    assert head.leaf.own()(timeout=LIMIT) == "leaf"
    assert head.top(1)(timeout=LIMIT) == 2
    neck.set_handler("leaf.*", None)
    assert head.leaf.other()(timeout=LIMIT).startswith("root *")
    neck.set_handler("*", None)
    with pytest.raises(UnsupportedApiError):
        head.leaf.other()(timeout=LIMIT)


@pytest.mark.capability("D11")
def test_catch_all_of_a_parent_does_not_hide_a_nested_handler(wire):
    head = wire.head()
    neck = wire.neck(Both("test"))
    neck.set_handler("*", lambda: "root *")
    assert head.leaf.own()(timeout=LIMIT) == "leaf"


@pytest.mark.capability("X6")
def test_unhandled_event_is_consumed_silently_where_asked(wire, caplog):
    head = wire.head()
    neck = wire.neck(ApiBase("test", ignore_unhandled=True))
    neck.set_handler("known", lambda: "known")
    caplog.set_level(logging.INFO)
    head.unknown(1)(solicited=False)
    assert head.known()(timeout=LIMIT) == "known"
    records = [record for record in caplog.records if "test.unknown" in record.getMessage()]
    assert [record.levelno for record in records] == [logging.INFO]
    with pytest.raises(UnsupportedApiError):
        head.unknown()(timeout=LIMIT)
    neck.ignore_unhandled = False
    head.unknown(1)(solicited=False)
    wire.flush()
    records = [record for record in caplog.records if "test.unknown" in record.getMessage()]
    assert [record.levelno for record in records][1:] == [logging.WARNING]


@pytest.mark.capability("X7")
def test_map_of_a_whole_tree():
    api = Both("test")
    api.set_handler("leaf.added", lambda x, *, y=2: None)
    api.set_handler("leaf.*", lambda *args: None)
    api.leaf.more = Leaf()
    mapped = api.api_map()
    assert set(mapped) == {
        "test.top", "test.leaf.own", "test.leaf.added", "test.leaf.*", "test.leaf.more.own",
    }  # fmt: skip
    assert list(mapped) == sorted(mapped)
    assert mapped["test.top"] == "(a, b=1)"
    assert mapped["test.leaf.added"] == "(x, *, y=2)"
    assert set(api.leaf.api_map()) == {path for path in mapped if path.startswith("test.leaf.")}
    api.set_handler("leaf.added", None)
    assert "test.leaf.added" not in api.api_map()


@pytest.mark.capability("X8")
def test_events_to_handle_over_multiple_inheritance_and_nesting():
    assert Left().events_to_handle() == {"left.happened", "left.shared"}
    assert Right().events_to_handle() == {"right.happened", "right.shared"}
    # `EVENT__shared` of Left hides that of Right, as attributes do.
    assert Both().events_to_handle() == {
        "both.happened", "left.happened", "left.shared", "right.happened", "leaf.happened",
    }  # fmt: skip
    assert ApiBase().events_to_handle() == frozenset()


@pytest.mark.capability("X9")
def test_namespaces_are_case_sensitive_and_match_by_whole_parts(wire):
    head, neck = wire.pair()
    neck.set_handler("name", lambda: "lower")
    neck.set_handler("Name", lambda: "upper")
    assert head.name()(timeout=LIMIT) == "lower"
    assert head.Name()(timeout=LIMIT) == "upper"
    with pytest.raises(UnsupportedApiError):
        head.NAME()(timeout=LIMIT)
    near = wire.neck(ApiBase("test2"))
    near.set_handler("*", lambda: "test2")
    neck.set_handler("*", lambda: "test")
    assert wire.head(ApiBase("test2")).anything()(timeout=LIMIT) == "test2"
    assert head.anything()(timeout=LIMIT) == "test"


@pytest.mark.capability("X10")
def test_none_removes_a_handler_and_uncovers_what_it_hid(wire):
    head = wire.head()
    neck = wire.neck(Both("test"))
    neck.set_handler("top", lambda *args: "registered")
    assert head.top(1)(timeout=LIMIT) == "registered"
    neck.set_handler("top", None)
    assert head.top(1)(timeout=LIMIT) == 2, "the method of the class is there again"
    neck.set_handler("extra", lambda: 1)
    assert head.extra()(timeout=LIMIT) == 1
    neck.set_handler("extra", None)
    neck.set_handler("extra", None)
    with pytest.raises(UnsupportedApiError):
        head.extra()(timeout=LIMIT)


@pytest.mark.capability("X11")
@pytest.mark.parametrize(
    ("path", "inside"),
    [
        ("test", True), ("test.x", True), ("test.leaf.x", True), ("test2.x", False), ("tes", False), ("x.test", False),
        ("Test.x", False), ("", False),
    ],
)  # fmt: skip
def test_whether_a_path_is_in_a_namespace(path, inside):
    assert Both("test").is_in_my_namespace(path) is inside
    assert ApiBase().is_in_my_namespace(path)


@pytest.mark.capability("X11")
@pytest.mark.parametrize(
    ("path", "exists"),
    [("top", True), ("leaf.own", True), ("own", False), ("leaf", False), ("leaf.other", False), ("added", True)],
)
def test_whether_a_handler_exists(path, exists):
    api = Both("test")
    api.set_handler("added", lambda: None)
    api.set_handler("*", lambda: None)  # a catch-all is no handler of a path
    assert api.handler_exists(path) is exists


# ---- the arbiter ---------------------------------------------------------------------------------------------------


@pytest.mark.capability("X12")
def test_path_that_two_apis_claim_is_an_error_at_the_caller(wire):
    head = wire.head()
    one, two = wire.neck(ApiBase("test")), wire.neck(ApiBase("test"))
    one.set_handler("shared", lambda: 1)
    two.set_handler("shared", lambda: 2)
    two.set_handler("own", lambda: "own")
    with pytest.raises(MultipleApiResponseError) as caught:
        head.shared()(timeout=LIMIT)
    assert (caught.value.path, caught.value.count) == ("test.shared", 2)
    assert len(caught.value.names) == 2
    assert head.own()(timeout=LIMIT) == "own"
    two.set_handler("shared", None)
    assert head.shared()(timeout=LIMIT) == 1


@pytest.mark.capability("D7")
@pytest.mark.parametrize("value", [True, False, 0, None, ""])
def test_one_answer_is_one_answer(wire, value):
    head = wire.head()
    neck = wire.neck(ApiBase("test"))
    wire.neck(ApiBase("other")).set_handler("x", lambda: "other")
    neck.set_handler("x", lambda: value)
    assert head.x()(timeout=LIMIT) is value


@pytest.mark.capability("X13")
def test_apis_come_and_go_while_calls_are_under_way(queue_wire):
    head = queue_wire.head(ApiBase())
    steady = queue_wire.neck(ApiBase("steady", workers=2))
    steady.set_handler("echo", lambda value: value)
    arb = ApiArb(queue_wire.ipc_neck)
    over, wrong, counts = threading.Event(), [], {"answered": 0, "refused": 0}

    def steady_calls():
        n = 0
        while not over.is_set():
            n += 1
            if head.steady.echo(n)(timeout=LIMIT) != n:
                wrong.append("a wrong answer")

    def guest_calls():
        while not over.is_set():
            try:
                if head.guest.echo(7)(timeout=LIMIT) != 7:
                    wrong.append("a wrong answer of a guest")
                counts["answered"] += 1
            except UnsupportedApiError:
                counts["refused"] += 1

    def guarded(work):
        def run():
            try:
                work()
            except BaseException as exc:
                wrong.append(repr(exc))

        return run

    threads = [threading.Thread(target=guarded(work)) for work in (steady_calls, steady_calls, guest_calls)]
    for thread in threads:
        thread.start()
    end = time.monotonic() + 1.5
    rounds = 0
    while time.monotonic() < end:
        guest = ApiBase("guest", ipc=arb)
        guest.set_handler("echo", lambda value: value)
        before = counts["answered"]
        eventually(lambda before=before: counts["answered"] > before or wrong)
        guest.teardown()
        refused = counts["refused"]
        eventually(lambda refused=refused: counts["refused"] > refused or wrong)
        rounds += 1
    over.set()
    for thread in threads:
        thread.join(LIMIT)
    assert wrong == []
    assert rounds > 5
    assert arb.apis == (steady,)


@pytest.mark.capability("X14")
def test_one_arbiter_for_each_transport(wire):
    arb = ApiArb(wire.ipc_head)
    assert ApiArb(wire.ipc_head) is arb
    assert ApiArb(arb) is arb
    assert ApiArb(wire.ipc_neck) is not arb
    assert arb.apis == ()
    found = []
    threads = [threading.Thread(target=lambda: found.append(ApiArb(wire.ipc_head))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(map(id, found)) == {id(arb)}


@pytest.mark.capability("X14")
def test_arbiter_passes_the_transport_through(wire):
    arb = ApiArb(wire.ipc_head)
    assert arb.is_connected
    assert arb.name == wire.ipc_head.name
    assert arb.state is wire.ipc_head.state
    assert arb.ping(LIMIT) < LIMIT
    assert arb.transactions is wire.ipc_head.transactions
    assert arb.disconnect(LIMIT)
    assert not wire.ipc_head.is_connected
    arb.connect()
    arb.close()
    assert arb.is_finished
    with pytest.raises(AttributeError):
        arb.no_such_method  # noqa: B018 - the look is the test
    with pytest.raises(ApiParamError, match="ipc"):
        ApiArb("no transport")


def _arbiters_in_a_child(details, pipe):
    """In a spawned process nothing of the parent's arbiters is known."""
    from epyrpc.api import arbiter

    ipc = QueueTransporter(details, TransactionManager(HeadTransactionIdGenerator()))
    pipe.send((type(ipc.receiver).__name__, ApiArb(ipc) is ApiArb(ipc), arbiter._arb_lock.locked()))
    ipc.close()


@pytest.mark.capability("X14")
def test_no_arbiter_is_inherited_by_a_child():
    details = QueueTransportDetails()
    ipc = QueueTransporter(details, TransactionManager(HeadTransactionIdGenerator()))
    arb = ApiArb(ipc)
    with pytest.raises(TypeError, match="stays in its process"):
        arb.__reduce__()
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    inverted = details.invert()
    process = context.Process(target=_arbiters_in_a_child, args=(inverted, theirs))
    process.start()
    inverted.release()
    assert ours.poll(LIMIT * 3)
    assert ours.recv() == ("NoneType", True, False)
    process.join(LIMIT)
    process.close()
    for end in (ours, theirs, ipc):
        end.close()


@pytest.mark.capability("X25")
def test_head_answers_calls_of_the_neck(wire):
    head, neck = wire.pair()
    head.set_handler("ask", lambda question: f"{question}? yes")
    assert neck.ask("may I")(timeout=LIMIT) == "may I? yes"
    assert neck.submit("ask", "may I").result(LIMIT) == "may I? yes"
    with pytest.raises(UnsupportedApiError):
        neck.unknown()(timeout=LIMIT)


@pytest.mark.capability("X41")
def test_unsolicited_catch_all_at_the_head(wire):
    head, neck = wire.pair()
    seen, came = [], threading.Event()

    def anything(*args, **kwargs):
        call = current_call()
        seen.append((call.path, call.solicited, args, kwargs))
        came.set()

    head.set_handler("*", anything)
    neck.some.thing(1, two=2)(solicited=False)
    waits(came)
    assert seen == [("test.some.thing", False, (1,), {"two": 2})]
    assert len(wire.ipc_neck.transactions) == 0


# ---- factories -----------------------------------------------------------------------------------------------------


@pytest.mark.capability("X26")
@pytest.mark.parametrize(
    ("kind", "details_type"), [("queue", QueueTransportDetails), ("memory", MemoryTransportDetails)]
)
def test_factories_make_details_transports_and_apis_by_name(kind, details_type):
    details = TransportDetailsFactory.get(kind)
    assert type(details) is details_type
    ids = HeadTransactionIdGenerator
    ends = (
        TransportFactory.get(details, TransactionManager(ids()), name="a"),
        TransportFactory.get_no_arb(details.invert(), TransactionManager(ids()), name="b"),
    )
    assert isinstance(ends[0], ApiArb)
    assert not isinstance(ends[1], ApiArb)
    apis = [api_from_config({"namespace": "made", "workers": 2}), ApiBase("made")]
    for api, end in zip(apis, ends, strict=True):
        api.ipc = end
        end.connect()
    apis[0].set_handler("x", lambda: kind)
    assert apis[1].x()(timeout=LIMIT) == kind
    for api, end in zip(apis, ends, strict=True):
        api.teardown()
        end.close()


@pytest.mark.capability("X26")
@pytest.mark.parametrize("kind", ["socket", "", None, 3])
def test_unknown_kind_of_transport_names_the_known_ones(kind):
    with pytest.raises(UnsupportedTransportError, match="'queue', 'memory'") as caught:
        TransportDetailsFactory.get(kind)
    assert caught.value.allowed == ("queue", "memory")
    with pytest.raises(UnsupportedTransportError, match="QueueTransportDetails"):
        TransportFactory.get("no details", TransactionManager(HeadTransactionIdGenerator()))


# ---- teardown and load ---------------------------------------------------------------------------------------------


@pytest.mark.capability("X34")
def test_teardown_is_quick_and_may_be_repeated(wire):
    head, neck = wire.pair(workers=4)
    neck.set_handler("echo", lambda value: value)
    for n in range(20):
        assert head.submit("echo", n).result(LIMIT) == n
    arb = neck.ipc
    started = time.monotonic()
    neck.teardown()
    neck.teardown()
    assert time.monotonic() - started < 0.5
    assert neck.torn_down
    assert arb.apis == ()
    with pytest.raises(UnsupportedApiError):
        head.echo(1)(timeout=LIMIT)
    with pytest.raises(TransportDisconnected, match="torn down"):
        neck.anything()(timeout=LIMIT)
    again = wire.neck(ApiBase("test"))
    again.set_handler("echo", lambda value: [value])
    assert head.echo(1)(timeout=LIMIT) == [1]


@pytest.mark.capability("X34")
@pytest.mark.parametrize("workers", [1, 3])
def test_teardown_by_one_of_its_own_workers(wire, workers):
    head, neck = wire.pair(workers=workers)
    spent = []

    def end():
        started = time.monotonic()
        neck.teardown()
        spent.append(time.monotonic() - started)
        return "still answered"

    neck.set_handler("end", end)
    assert head.end()(timeout=LIMIT) == "still answered"
    assert spent[0] < 0.5
    name = "epyrpc-neck-test-worker"
    eventually(lambda: not [t for t in threading.enumerate() if t.name.startswith(name)], "its workers are left")


@pytest.mark.capability("X34")
def test_teardown_fails_what_is_queued_and_lets_finish_what_runs(wire):
    head, neck = wire.pair(workers=1)
    gate, running = wire.gate(), threading.Event()
    neck.set_handler("wait", lambda: running.set() or (gate.wait(LIMIT) and "finished"))
    first = head.submit("wait")
    waits(running)
    second = head.submit("wait")
    wire.flush()
    thread = threading.Thread(target=neck.teardown)
    thread.start()
    with pytest.raises(UnsupportedApiError):
        second.result(LIMIT)
    gate.set()
    assert first.result(LIMIT) == "finished"
    thread.join(LIMIT)
    assert not thread.is_alive()


@pytest.mark.capability("X40")
@pytest.mark.parametrize("workers", [1, 2, 5, 10])
def test_ten_callers_ten_calls_each_for_every_size_of_the_pool(wire, workers):
    head, neck = wire.pair(workers=workers)
    inside, most, lock = [0], [0], threading.Lock()

    def handle(caller, number):
        with lock:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
        time.sleep(0.001)
        with lock:
            inside[0] -= 1
        return caller, number

    neck.set_handler("handle", handle)
    wrong = []

    def call(caller):
        for number in range(10):
            answer = head.handle(caller, number)(timeout=LIMIT)
            if answer != (caller, number):
                wrong.append(answer)

    threads = [threading.Thread(target=call, args=(n,)) for n in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert not any(thread.is_alive() for thread in threads)
    assert wrong == []
    assert inside == [0]
    assert most[0] <= workers
    assert most[0] > 1 or workers == 1
    assert len(wire.ipc_head.transactions) == 0
