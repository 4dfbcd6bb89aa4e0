"""One wire, many apis."""

from __future__ import annotations

import pickle
import threading

import pytest

from epyrpc import (
    ApiArb,
    ApiBase,
    ApiParamError,
    HeadTransactionIdGenerator,
    MemoryTransportDetails,
    MemoryTransporter,
    MultipleApiResponseError,
    QueueTransportDetails,
    QueueTransporter,
    TransactionManager,
    TransportFactory,
    TransportListener,
    TransportState,
    UnsupportedApiError,
    UnsupportedTransportError,
)
from tests.api.ends import LIMIT, eventually


@pytest.mark.capability("S16a")
def test_bare_transport_carries_one_api(ends):
    first, second = ApiBase("first"), ApiBase("second")
    first.ipc = ends.ipc_head
    assert first.ipc is ends.ipc_head
    with pytest.raises(ApiParamError, match="ApiArb"):
        second.ipc = ends.ipc_head
    assert second.ipc is None
    second.ipc = ends.ipc_neck
    ends.connect()
    second.set_handler("m", lambda: "bare")
    assert ApiBase.action(first, "x").path == "first.x"
    with pytest.raises(UnsupportedApiError):
        first.m()(timeout=LIMIT)
    second.teardown()
    third = ApiBase("first", ipc=ends.ipc_neck)  # its place is free again
    third.set_handler("m", lambda: "bare")
    assert first.m()(timeout=LIMIT) == "bare"
    third.teardown()
    first.teardown()


@pytest.mark.capability("S16a")
def test_many_apis_share_one_pair_under_an_interleaved_hammer(wire):
    names = ["a", "b", "a.nested", "c"]
    heads = {name: wire.head(ApiBase(name)) for name in names}
    for name in names:
        neck = wire.neck(ApiBase(name, workers=2))
        neck.set_handler("tag", lambda i, name=name: (name, i))
        heads[name].set_handler("tag", lambda i, name=name: ("head", name, i))
    wrong = []

    def hammer(name, number):
        for i in range(100):
            if heads[name].tag((number, i))(timeout=60) != (name, (number, i)):
                wrong.append((name, number, i))
            if back[name].tag((number, i))(timeout=60) != ("head", name, (number, i)):
                wrong.append((name, number, i, "back"))

    back = {name: ApiBase(name, ipc=ApiArb(wire.ipc_neck)) for name in names}
    threads = [threading.Thread(target=hammer, args=(name, number)) for name in names for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    assert not any(thread.is_alive() for thread in threads)
    assert not wrong
    assert len(ApiArb(wire.ipc_head).apis) == len(names)
    for api in back.values():
        api.teardown()


@pytest.mark.capability("S16a")
def test_api_joins_and_leaves_while_another_one_is_busy(wire):
    head, neck = wire.pair()
    gate = wire.gate()
    neck.set_handler("gated", lambda: gate.wait(LIMIT))
    held = head.gated()(sync=False)
    caller = wire.head(ApiBase("extra"))
    for i in range(20):
        extra = ApiBase("extra", ipc=ApiArb(wire.ipc_neck))
        extra.set_handler("double", lambda x: 2 * x)
        assert caller.double(i)(timeout=LIMIT) == 2 * i
        extra.teardown()
        with pytest.raises(UnsupportedApiError):
            caller.double(i)(timeout=LIMIT)
    assert not held.done()
    gate.set()
    assert held.result(LIMIT) is True


@pytest.mark.capability("S16a", "X12")
def test_two_apis_that_claim_a_path_are_an_error_at_the_caller(wire):
    head = wire.head()
    first, second = wire.neck(ApiBase("test")), wire.neck(ApiBase("test"))
    first.set_handler("m", lambda: 1)
    second.set_handler("m", lambda: 2)
    with pytest.raises(MultipleApiResponseError) as caught:
        head.m()(timeout=LIMIT)
    assert caught.value.path == "test.m"
    assert caught.value.count == 2
    second.set_handler("m", None)
    assert head.m()(timeout=LIMIT) == 1


@pytest.mark.capability("S16b", "X26")
@pytest.mark.parametrize(
    ("details_type", "transporter_type"),
    [(QueueTransportDetails, QueueTransporter), (MemoryTransportDetails, MemoryTransporter)],
)
def test_factory_gives_an_arbitrated_transport_or_a_bare_one(details_type, transporter_type):
    heard = TransportListener()
    with_arb, without = details_type(), details_type()
    arb = TransportFactory.get(with_arb, TransactionManager(HeadTransactionIdGenerator()), heard, name="named")
    bare = TransportFactory.get_no_arb(without, TransactionManager(HeadTransactionIdGenerator()))
    assert isinstance(arb, ApiArb)
    assert type(arb.transporter) is transporter_type
    assert arb.name == "named"
    assert arb.listeners == (heard,)
    assert arb.state is TransportState.NEW
    assert not isinstance(bare, ApiArb)
    assert type(bare) is transporter_type
    for ipc, details in ((arb, with_arb), (bare, without)):
        ipc.close()
        details.invert().release()
    with pytest.raises(UnsupportedTransportError, match="QueueTransportDetails"):
        TransportFactory.get(object(), None)


@pytest.mark.capability("S16b")
def test_transports_of_the_factory_carry_calls():
    details = QueueTransportDetails()
    ipc_head = TransportFactory.get(details, TransactionManager(HeadTransactionIdGenerator()))
    ipc_neck = TransportFactory.get_no_arb(details.invert(), TransactionManager(HeadTransactionIdGenerator()))
    head, neck = ApiBase("t", ipc=ipc_head), ApiBase("t", ipc=ipc_neck)
    neck.set_handler("echo", lambda x: x)
    ipc_head.connect()
    ipc_neck.connect()
    assert head.echo("x")(timeout=LIMIT) == "x"
    for api in (head, neck):
        api.teardown()
    ipc_head.close()
    ipc_neck.close()


@pytest.mark.capability("X14", "M5")
def test_there_is_one_arbiter_for_each_transport_and_it_stands_for_it(wire):
    arb = ApiArb(wire.ipc_head)
    assert ApiArb(wire.ipc_head) is arb
    assert ApiArb(arb) is arb
    assert wire.ipc_head.receiver is arb
    assert ApiArb(wire.ipc_neck) is not arb
    assert arb.is_connected
    assert arb.state is TransportState.OPEN
    assert arb.ping(LIMIT) >= 0
    assert arb.details is wire.details
    with pytest.raises(TypeError, match="TransportDetails"):
        pickle.dumps(arb)
    for bad in (None, "queue", 3, ApiBase("x")):
        with pytest.raises(ApiParamError):
            ApiArb(bad)
    arb.close()
    assert wire.ipc_head.is_finished


@pytest.mark.capability("X14")
def test_threads_that_ask_at_once_get_the_same_arbiter(ends):
    start, got = threading.Barrier(8), []

    def ask():
        start.wait()
        got.append(ApiArb(ends.ipc_head))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert len(set(map(id, got))) == 1


@pytest.mark.capability("S7a", "S16a")
def test_calls_to_an_api_that_comes_and_goes_always_end(wire):
    caller = wire.head(ApiBase("extra"))
    wire.neck(ApiBase("stays"))
    over = threading.Event()
    outcomes = {"answered": 0, "refused": 0}
    stuck = []

    def call():
        while not over.is_set():
            held = caller.work()(sync=False)
            try:
                held.result(LIMIT)
            except UnsupportedApiError:
                outcomes["refused"] += 1
            except TimeoutError:
                stuck.append(held)
                return
            else:
                outcomes["answered"] += 1

    threads = [threading.Thread(target=call) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(150):
        extra = ApiBase("extra", ipc=ApiArb(wire.ipc_neck), workers=2)
        extra.set_handler("work", lambda: None)
        before = sum(outcomes.values())
        eventually(lambda before=before: sum(outcomes.values()) > before + 3 or stuck)
        extra.teardown()
    over.set()
    for thread in threads:
        thread.join(2 * LIMIT)
    assert not stuck
    assert outcomes["answered"] > 100
    assert outcomes["refused"] > 0
