"""What the ancestor's code could do, transports: rows X15 to X20, X23, X24, X35."""

from __future__ import annotations

import hashlib
import hmac
import threading
import time
import zlib

import pytest

from epyrpc import (
    ApiArb,
    ApiBase,
    Chain,
    Cipher,
    CodecError,
    Compression,
    ConnectionTimeout,
    EpyrpcError,
    HeadTransactionIdGenerator,
    IpcError,
    MemoryTransportDetails,
    MemoryTransporter,
    NeckTransactionIdGenerator,
    NoDataError,
    QueueTransportDetails,
    QueueTransporter,
    TransactionManager,
    TransactionTimeout,
    TransportClosed,
    TransportDisconnected,
    TransportDisconnectedError,
    TransportFinishedError,
    TransportState,
    TransportStateError,
    UnsupportedTransportCompressionError,
    UnsupportedTransportEncryptionError,
    UnsupportedTransportError,
)
from tests.api.ends import LIMIT, Recorder, eventually

OPEN, CLOSED, DISCONNECTED = TransportState.OPEN, TransportState.CLOSED, TransportState.DISCONNECTED


# ---- raw data, states, commands ------------------------------------------------------------------------------------


@pytest.mark.capability("X15")
def test_data_that_is_no_call_reaches_the_listeners_both_ways(wire):
    head, neck = wire.pair()
    head.send_raw({"any": [1, "thing"]})
    neck.send_raw(b"back")
    eventually(lambda: wire.neck_listener.data and wire.head_listener.data)
    assert wire.neck_listener.data == [(0, {"any": [1, "thing"]})]
    assert wire.head_listener.data == [(0, b"back")]
    wire.neck_listener.answer = "the answer"
    assert head.send_raw("a question", wait=True, timeout=LIMIT) == "the answer"
    transaction_id, data = wire.neck_listener.data[-1]
    assert data == "a question"
    assert wire.ipc_head.transactions.check(transaction_id) == transaction_id
    assert len(wire.ipc_head.transactions) == 0


@pytest.mark.capability("X15")
def test_raw_question_that_the_listener_fails_on_or_is_late_for(wire):
    head, _neck = wire.pair()
    gate = wire.gate()

    class Failing(Recorder):
        def transport_data_received(self, transaction_id, data):
            if data == "fail":
                raise KeyError("the listener failed")
            gate.wait(LIMIT)

    wire.ipc_neck.add_listener(Failing())
    with pytest.raises(KeyError, match="the listener failed"):
        head.send_raw("fail", wait=True, timeout=LIMIT)
    with pytest.raises(TransactionTimeout):
        head.send_raw("slow", wait=True, timeout=0.05)
    with pytest.raises(CodecError, match="raw data"):
        head.send_raw(threading.Lock())
    assert len(wire.ipc_head.transactions) == 0


@pytest.mark.capability("X16")
def test_states_and_who_hears_of_them(wire):
    head, neck = wire.head_listener.states, wire.neck_listener.states
    eventually(lambda: head == [OPEN] and neck == [OPEN])
    assert wire.ipc_head.state is OPEN
    assert wire.ipc_head.disconnect(LIMIT)
    assert wire.ipc_head.state is DISCONNECTED
    eventually(lambda: neck == [OPEN, DISCONNECTED])
    assert head == [OPEN], "it caused the change itself"
    wire.ipc_neck.connect()
    wire.ipc_head.connect(timeout=LIMIT)
    wire.ipc_neck.close()
    eventually(lambda: head[-2:] == [DISCONNECTED, CLOSED])
    assert CLOSED not in neck
    assert wire.ipc_neck.state is CLOSED
    assert wire.ipc_head.state is DISCONNECTED
    assert [str(state) for state in TransportState] == ["new", "open", "disconnected", "closed"]


@pytest.mark.capability("X17")
def test_ping_and_disconnect_are_answered_while_all_handlers_are_busy(wire):
    head, neck = wire.pair()
    gate, running = wire.gate(), threading.Event()
    neck.set_handler("wait", lambda: running.set() or gate.wait(LIMIT))
    calls = [head.submit("wait") for _ in range(5)]
    assert running.wait(LIMIT)
    assert 0 < wire.ipc_head.ping(LIMIT) < LIMIT
    assert wire.ipc_head.disconnect(LIMIT) is True
    for call in calls:
        with pytest.raises(TransportDisconnected):
            call.result(LIMIT)


@pytest.mark.capability("X17")
def test_silent_peer_does_not_hold_up_a_disconnect(ends):
    ends.ipc_head.connect()
    started = time.monotonic()
    assert ends.ipc_head.disconnect(0.1) is False
    assert 0.05 < time.monotonic() - started < 2
    assert ends.ipc_head.state is DISCONNECTED
    ends.ipc_head.connect()
    with pytest.raises(ConnectionTimeout):
        ends.ipc_head.ping(0.05)
    with pytest.raises(ConnectionTimeout):
        ends.ipc_head.connect(timeout=0.05)


@pytest.mark.capability("X17")
def test_ping_that_the_end_overtakes_says_so(wire):
    wire.ipc_neck._wire._sinks[15] = lambda frame: None  # a peer that does not answer pings
    outcome = []

    def ping():
        try:
            outcome.append(wire.ipc_head.ping(LIMIT))
        except IpcError as exc:
            outcome.append(type(exc))

    thread = threading.Thread(target=ping)
    thread.start()
    eventually(lambda: wire.ipc_head._pongs)
    wire.ipc_neck.close()
    thread.join(LIMIT)
    assert outcome == [TransportDisconnected]


@pytest.mark.capability("X18")
@pytest.mark.parametrize("closer", ["this end", "the other end"])
def test_close_releases_ten_waiters_at_once(wire, closer):
    head, neck = wire.pair()
    gate = wire.gate()
    neck.set_handler("wait", lambda: gate.wait(LIMIT))
    outcomes, ready = [], threading.Barrier(11)

    def wait(kind):
        ready.wait(LIMIT)
        try:
            if kind == 0:
                head.wait()(timeout=LIMIT)
            elif kind == 1:
                head.call("wait")
            else:
                head.submit("wait").result()
        except EpyrpcError as exc:
            outcomes.append((type(exc), time.monotonic()))

    threads = [threading.Thread(target=wait, args=(n % 3,)) for n in range(10)]
    for thread in threads:
        thread.start()
    ready.wait(LIMIT)
    eventually(lambda: len(wire.ipc_head.transactions) == 10)
    started = time.monotonic()
    (wire.ipc_head if closer == "this end" else wire.ipc_neck).close()
    for thread in threads:
        thread.join(LIMIT)
    expected = TransportFinishedError if closer == "this end" else TransportDisconnectedError
    assert [kind for kind, _ in outcomes] == [expected] * 10
    assert max(when for _, when in outcomes) - started < 1
    assert len(wire.ipc_head.transactions) == 0


@pytest.mark.capability("X19")
@pytest.mark.parametrize("state", ["new", "open", "disconnected", "closed"])
def test_what_may_be_done_in_each_state(ends, state):
    ipc = ends.ipc_head
    head = ends.head()
    neck = ends.neck()
    neck.set_handler("echo", lambda value: value)
    if state != "new":
        ends.connect()
        ends.ipc_head.connect(timeout=LIMIT)
    if state == "disconnected":
        ipc.disconnect(LIMIT)
    if state == "closed":
        ipc.close()
    assert str(ipc.state) == state
    assert ipc.is_connected is (state == "open")
    assert ipc.is_finished is (state == "closed")
    error = TransportFinishedError if state == "closed" else TransportDisconnectedError
    uses = {
        "call": lambda: head.echo(1)(timeout=LIMIT),
        "submit": lambda: head.submit("echo", 1).result(LIMIT),
        "event": lambda: head.echo(1)(solicited=False),
        "raw": lambda: head.send_raw(1),
        "ping": lambda: ipc.ping(LIMIT),
        "disconnect": lambda: ipc.disconnect(LIMIT),
    }
    for use in uses.values():
        if state == "open":
            use()
        else:
            with pytest.raises(error):
                use()
    if state == "closed":
        with pytest.raises(TransportFinishedError):
            ipc.connect()
        ipc.close()
        assert head.echo(1)(ignore_errors=True) is None


@pytest.mark.capability("X20")
def test_family_of_transport_errors():
    for kind in (TransportClosed, TransportDisconnected, ConnectionTimeout):
        assert issubclass(kind, TransportStateError)
    for kind in (TransportStateError, NoDataError, CodecError, UnsupportedTransportError):
        assert issubclass(kind, IpcError)
    assert issubclass(IpcError, EpyrpcError)
    assert TransportFinishedError is TransportClosed
    assert TransportDisconnectedError is TransportDisconnected
    assert issubclass(ConnectionTimeout, TimeoutError)
    assert issubclass(UnsupportedTransportCompressionError, UnsupportedTransportError)
    assert issubclass(UnsupportedTransportEncryptionError, UnsupportedTransportError)
    for error in (TransportClosed(), TransportDisconnected(), ConnectionTimeout(), NoDataError()):
        assert ";" in str(error), "the message says what to do next"


@pytest.mark.capability("X35")
def test_listeners_are_added_and_removed_and_never_toggled(wire):
    eventually(lambda: wire.head_listener.states == [OPEN])
    extra = Recorder()
    for _ in range(3):
        wire.ipc_head.add_listener(extra)
    assert wire.ipc_head.listeners == (wire.head_listener, extra)
    wire.ipc_neck.disconnect(LIMIT)
    eventually(lambda: extra.states == [DISCONNECTED])
    wire.ipc_head.remove_listener(extra)
    wire.ipc_head.remove_listener(extra)
    wire.ipc_neck.connect()
    eventually(lambda: wire.head_listener.states == [OPEN, DISCONNECTED, OPEN])
    assert extra.states == [DISCONNECTED]
    assert wire.ipc_head.listeners == (wire.head_listener,)


# ---- X23, X24: chains ----------------------------------------------------------------------------------------------


class Linked:
    """Two ends whose chains may differ, and what goes over the wire between them."""

    def __init__(self, kind, head_chain, neck_chain):
        details_type, transporter_type = {
            "queue": (QueueTransportDetails, QueueTransporter),
            "memory": (MemoryTransportDetails, MemoryTransporter),
        }[kind]
        details = details_type()
        self.ipcs = (
            transporter_type(details, TransactionManager(HeadTransactionIdGenerator()), name="head", chain=head_chain),
            transporter_type(
                details.invert(), TransactionManager(NeckTransactionIdGenerator()), name="neck", chain=neck_chain
            ),
        )
        self.head, self.neck = (ApiBase("t", ipc=ApiArb(ipc)) for ipc in self.ipcs)
        self.neck.set_handler("echo", lambda value: value)
        self.sent = [0, 0]
        for index, ipc in enumerate(self.ipcs):
            ipc.connect()
            self._count(index, ipc.wire.link)

    def _count(self, index, link):
        real = link.send

        def send(outbox):
            self.sent[index] += sum(len(piece) for piece in outbox)
            return real(outbox)

        link.send = send

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        for api in (self.head, self.neck):
            api.teardown()
        for ipc in self.ipcs:
            ipc.close()


TEXT = "the same words again and again " * 2000


@pytest.mark.capability("X23")
@pytest.mark.parametrize("kind", ["queue", "memory"])
@pytest.mark.parametrize("level", [1, 9])
def test_compression_makes_less_of_it_and_loses_nothing(kind, level):
    with Linked(kind, None, None) as plain:
        assert plain.head.echo(TEXT)(timeout=LIMIT) == TEXT
        before = plain.sent[0]
    chain = Chain(Compression.ZLIB(level))
    with Linked(kind, chain, chain) as packed:
        assert packed.head.echo(TEXT)(timeout=LIMIT) == TEXT
        assert packed.head.submit("echo", [TEXT, 1, None]).result(LIMIT) == [TEXT, 1, None]
        assert packed.sent[0] < before / 10
        assert packed.sent[1] < before / 10


@pytest.mark.capability("X23")
@pytest.mark.parametrize(
    ("head_chain", "neck_chain"),
    [
        pytest.param(Chain(Compression.ZLIB(9)), None, id="zlib-plain"),
        pytest.param(None, Chain(Compression.ZLIB(1)), id="plain-zlib"),
        pytest.param(Chain(Compression.ZLIB(9)), Chain(Compression.NONE), id="zlib-none"),
        pytest.param(Chain("zlib", Compression.ZLIB(1)), Chain("zlib"), id="twice-once"),
    ],
)
def test_ends_with_different_chains_understand_each_other_by_the_hint(head_chain, neck_chain):
    with Linked("queue", head_chain, neck_chain) as linked:
        for value in (TEXT, 1, b"", None, {"a": [1.5]}):
            assert linked.head.echo(value)(timeout=LIMIT) == value
        linked.head.set_handler("up", lambda value: value)
        assert linked.neck.up(TEXT)(timeout=LIMIT) == TEXT
        linked.neck.set_handler("fail", lambda: {}["missing"])
        with pytest.raises(KeyError, match="missing"):
            linked.head.fail()(timeout=LIMIT)


class Sealed(Cipher):
    """No cipher for real use: it only shows the slot. Authenticated by HMAC."""

    name = "test-hmac"

    def __init__(self, key):
        self.key = key

    def seal(self, data):
        return hmac.new(self.key, data, hashlib.sha256).digest() + data

    def open(self, data):
        if not hmac.compare_digest(hmac.new(self.key, data[32:], hashlib.sha256).digest(), data[:32]):
            raise ValueError("changed on the way, or another key")
        return data[32:]


@pytest.mark.capability("X24")
def test_cipher_in_the_chain_seals_what_crosses():
    chains = [Chain(Compression.ZLIB, Sealed(b"key")) for _ in range(2)]
    with Linked("queue", *chains) as linked:
        assert linked.head.echo(TEXT)(timeout=LIMIT) == TEXT
        linked.head.set_handler("up", lambda value: value)
        assert linked.neck.up([1, 2])(timeout=LIMIT) == [1, 2]


@pytest.mark.capability("X24")
def test_what_another_key_has_sealed_fails_its_call_and_no_other():
    with Linked("queue", Chain(Sealed(b"one key")), Chain(Sealed(b"another"))) as linked:
        for _ in range(3):
            with pytest.raises(EpyrpcError):
                linked.head.echo(1)(timeout=LIMIT)
        assert linked.ipcs[0].ping(LIMIT) < LIMIT
        assert len(linked.ipcs[0].transactions) == 0


@pytest.mark.capability("X24")
def test_unknown_algorithms_are_named():
    with pytest.raises(UnsupportedTransportCompressionError) as caught:
        Chain("lzma")
    assert caught.value.algo == "lzma"
    assert "'zlib'" in str(caught.value)
    with pytest.raises(UnsupportedTransportEncryptionError) as caught:
        Chain(zlib)
    assert caught.value.algo is zlib
    with pytest.raises(UnsupportedTransportCompressionError) as caught:
        Chain().unpack(b"\xec\x01\x04lzma" + b"data")
    assert caught.value.algo == "lzma"
    with pytest.raises(UnsupportedTransportEncryptionError) as caught:
        Chain().unpack(Chain(Sealed(b"key")).pack(b"data"))
    assert caught.value.algo == "test-hmac"
