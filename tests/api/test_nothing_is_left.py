"""Apis and transports come and go for ever: nothing grows, nothing is left."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time

import pytest

from epyrpc import (
    ApiArb,
    ApiBase,
    HeadTransactionIdGenerator,
    NeckTransactionIdGenerator,
    QueueTransportDetails,
    QueueTransporter,
    TransactionManager,
    TransportDisconnected,
    TransportState,
    UnsupportedApiError,
)
from tests.api.ends import KINDS, LIMIT, eventually

LOOPS = 1000


def held():
    """Return how many threads and descriptors this process has."""
    return threading.active_count(), len(os.listdir("/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"))


def settles(at_most):
    """Wait until there are no more threads and descriptors than `at_most`."""
    eventually(lambda: all(now <= then for now, then in zip(held(), at_most, strict=True)), f"{held()} <= {at_most}")


@pytest.mark.capability("S7a", "S15")
def test_a_thousand_apis_come_and_go_over_one_transport(wire):
    caller = wire.head(ApiBase("extra"))
    wire.neck(ApiBase("stays"))
    most = (0, 0)
    for i in range(LOOPS):
        extra = ApiBase("extra", ipc=ApiArb(wire.ipc_neck), workers=2)
        extra.set_handler("double", lambda x: 2 * x)
        assert caller.double(i)(timeout=LIMIT) == 2 * i
        extra.teardown()
        if i == 20:
            most = held()
    settles(most)
    with pytest.raises(UnsupportedApiError):
        caller.double(1)(timeout=LIMIT)
    assert len(ApiArb(wire.ipc_neck).apis) == 1
    assert len(wire.ipc_head.transactions) == 0
    gc.collect()
    assert sum(isinstance(thing, ApiBase) for thing in gc.get_objects()) < 50


@pytest.mark.capability("S15", "S7a")
@pytest.mark.parametrize("kind", list(KINDS))
def test_a_thousand_transports_come_and_go(kind):
    details_type, transporter_type = KINDS[kind]
    before = held()
    for i in range(LOOPS):
        details = details_type()
        ipc_head = transporter_type(details, TransactionManager(HeadTransactionIdGenerator()))
        ipc_neck = transporter_type(details.invert(), TransactionManager(NeckTransactionIdGenerator(1)))
        head, neck = ApiBase("t", ipc=ApiArb(ipc_head)), ApiBase("t", ipc=ApiArb(ipc_neck))
        neck.set_handler("double", lambda x: 2 * x)
        ipc_head.connect()
        ipc_neck.connect()
        assert head.double(i)(timeout=LIMIT) == 2 * i
        if i % 3 == 0:  # torn down or not, in either order
            head.teardown()
            neck.teardown()
        for ipc in (ipc_head, ipc_neck) if i % 2 else (ipc_neck, ipc_head):
            ipc.close()
        if i % 100 == 99:
            settles((before[0] + 2, before[1]))
    settles(before)


@pytest.mark.capability("S15")
@pytest.mark.parametrize("kind", list(KINDS))
def test_ends_that_never_connect_leave_nothing(kind):
    details_type, transporter_type = KINDS[kind]
    before = held()
    for _ in range(50):
        details = details_type()
        ends = [
            transporter_type(d, TransactionManager(HeadTransactionIdGenerator())) for d in (details, details.invert())
        ]
        ApiBase("t", ipc=ends[0])
        for end in ends:
            end.close()
    settles(before)


SCRIPT = """
import os, threading
from epyrpc import (ApiArb, ApiBase, HeadTransactionIdGenerator, NeckTransactionIdGenerator, QueueTransportDetails,
                    QueueTransporter, TransactionManager)

async def later(x):
    return x

details = QueueTransportDetails()
ipc_head = QueueTransporter(details, TransactionManager(HeadTransactionIdGenerator()))
ipc_neck = QueueTransporter(details.invert(), TransactionManager(NeckTransactionIdGenerator()))
head, neck = ApiBase("t", ipc=ApiArb(ipc_head)), ApiBase("t", ipc=ApiArb(ipc_neck), workers=3)
neck.set_handler("double", lambda x: 2 * x)
neck.set_handler("stuck", threading.Event().wait)
neck.set_handler("later", later)
neck.set_handler("parts", lambda: iter_forever())
def iter_forever():
    i = 0
    while True:
        yield (i := i + 1)
ipc_head.connect(); ipc_neck.connect()
assert head.double(4)(timeout=30) == 8
assert head.later(4)(timeout=30) == 4
stream = head.stream("parts")
assert next(stream) == 1
held = head.stuck()(sync=False)
{end}
print("over")
"""

ENDS = {
    "everything is closed": "held.cancel(); stream.close(); ipc_head.close(); ipc_neck.close()",
    "nothing is closed": "",
    "one end is closed": "ipc_neck.close()",
    "a call waits": "threading.Thread(target=head.stuck(), daemon=True).start()",
}


@pytest.mark.capability("S15")
@pytest.mark.parametrize("end", ENDS)
def test_interpreter_ends_quietly_and_soon(end, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.replace("{end}", ENDS[end]), encoding="utf-8")
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-W", "error", "-X", "dev", str(script)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "over\n", "")
    assert time.monotonic() - started < 20


@pytest.mark.capability("S15")
def test_teardown_waits_for_what_runs_and_fails_what_is_queued(wire):
    head, neck = wire.pair(workers=1)
    gate, started = wire.gate(), threading.Event()
    neck.set_handler("slow", lambda: (started.set(), gate.wait(LIMIT), "finished")[2])
    running = head.slow()(sync=False)
    assert started.wait(LIMIT)
    queued = [head.slow()(sync=False) for _ in range(3)]
    wire.flush()
    opener = threading.Timer(0.1, gate.set)
    opener.start()
    neck.teardown()
    opener.join()
    assert running.result(LIMIT) == "finished"
    for held_call in queued:
        with pytest.raises(UnsupportedApiError):
            held_call.result(LIMIT)


@pytest.mark.capability("S7a", "X34")
def test_api_may_tear_itself_down_from_its_own_handler(wire):
    head, neck = wire.pair()

    def leave():
        neck.teardown()
        return "gone"

    neck.set_handler("leave", leave)
    started = time.monotonic()
    assert head.leave()(timeout=LIMIT) == "gone"
    assert time.monotonic() - started < 2
    with pytest.raises(UnsupportedApiError):
        head.leave()(timeout=LIMIT)


def test_with_blocks_close_transports_and_tear_down_apis():
    details = QueueTransportDetails()
    with (
        QueueTransporter(details, TransactionManager(HeadTransactionIdGenerator())) as ipc_head,
        ApiArb(QueueTransporter(details.invert(), TransactionManager(NeckTransactionIdGenerator()))) as ipc_neck,
        ApiBase("test", ipc=ipc_head) as head,
        ApiBase("test", ipc=ipc_neck) as neck,
    ):
        neck.set_handler("double", lambda x: 2 * x)
        ipc_head.connect()
        ipc_neck.connect()
        assert head.double(4)(timeout=LIMIT) == 8
    assert ipc_head.state is TransportState.CLOSED
    assert ipc_neck.state is TransportState.CLOSED
    assert head.torn_down
    assert neck.torn_down
    with pytest.raises(TransportDisconnected, match="torn down"):
        head.double(4)(timeout=LIMIT)
