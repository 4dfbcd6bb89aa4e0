"""A head here, a neck in a process of its own that was spawned with the details of its end."""

from __future__ import annotations

import multiprocessing
import multiprocessing.queues
import os
import pickle
import signal
import threading
import time

import pytest

import epyrpc
from epyrpc import (
    ApiArb,
    ApiBase,
    HeadTransactionIdGenerator,
    QueueTransportDetails,
    QueueTransporter,
    TransactionManager,
    TransportDisconnected,
    UnsupportedApiError,
)
from tests.api import neck_process
from tests.api.ends import LIMIT, Recorder, eventually

START = 60  # seconds for a process to start on a busy machine


class Far:
    """A head whose neck is another process."""

    def __init__(self, target=neck_process.serve, head=None):
        self.details = QueueTransportDetails()
        self.listener = Recorder()
        self.ipc = QueueTransporter(
            self.details, TransactionManager(HeadTransactionIdGenerator()), self.listener, name="head"
        )
        self.head = ApiBase("test", workers=4) if head is None else head
        self.head.ipc = ApiArb(self.ipc)
        peer = self.details.invert()
        context = multiprocessing.get_context("spawn")
        self.process = context.Process(target=target, args=(peer,), daemon=True)
        self.process.start()
        peer.release()  # they are the child's now; kept here, they would hide that it ends
        self.ipc.connect()

    def close(self):
        self.head.teardown()
        self.ipc.close()
        self.process.join(LIMIT)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join(LIMIT)
        exitcode = self.process.exitcode
        self.process.close()
        return exitcode


@pytest.fixture
def far():
    pair = Far()
    yield pair
    pair.close()


@pytest.mark.capability("S1", "E4")
def test_call_crosses_to_another_process(far):
    pid = far.head.pid()(timeout=START)
    assert pid == far.process.pid
    assert pid != os.getpid()
    assert far.head.echo(1, "two", [3])(timeout=LIMIT) == (1, "two", [3])
    with pytest.raises(UnsupportedApiError):
        far.head.nobody()(timeout=LIMIT)


@pytest.mark.capability("S1")
def test_wheel_is_pure_python(repository):
    assert not [path for path in (repository / "epyrpc").rglob("*") if path.suffix in (".so", ".c", ".pyx", ".pyd")]
    text = (repository / "pyproject.toml").read_text(encoding="utf-8")
    assert 'build-backend = "hatchling.build"' in text  # without a build hook it makes py3-none-any wheels only
    assert "build.hooks" not in text


@pytest.mark.capability("M5", "S1")
def test_everything_runs_over_queues_with_an_arbiter_at_both_ends(far):
    there = far.head.describe()(timeout=START)
    assert there == {
        "transport": "QueueTransporter",
        "arbiter": "ApiArb",
        "receiver is the arbiter": True,
        "queues": ["multiprocessing.queues"] * 2,
        "main": "tests.api.neck_process",
    }
    assert isinstance(far.head.ipc, ApiArb)
    assert type(far.head.ipc.transporter) is QueueTransporter
    assert far.ipc.receiver is far.head.ipc
    for queue in (far.details.inbound, far.details.outbound):
        assert isinstance(queue, multiprocessing.queues.Queue)


@pytest.mark.capability("E4")
def test_details_cross_over_and_travel_only_while_a_process_is_spawned():
    details = QueueTransportDetails()
    peer = details.invert()
    assert peer.inbound is details.outbound
    assert peer.outbound is details.inbound
    again = peer.invert()
    assert (again.inbound, again.outbound) == (details.inbound, details.outbound)
    with pytest.raises(RuntimeError, match=r"spawning|inheritance"):
        pickle.dumps(details)
    details.release()
    peer.release()
    details.release()


@pytest.mark.capability("E4", "E3")
def test_messages_cross_from_a_process_that_ends_at_once():
    far = Far(neck_process.exchange)
    try:
        eventually(lambda: far.listener.data, limit=START)
        assert far.listener.data == [(0, {"from": far.process.pid})]
        eventually(lambda: far.listener.states[-1:] == [epyrpc.TransportState.CLOSED])
    finally:
        assert far.close() == 0


@pytest.mark.capability("S16d", "S3d")
def test_both_sides_call_each_other_at_the_same_time(far):
    count = 1000
    far.head.set_handler("square", lambda i: i * i)
    assert far.head.pid()(timeout=START) == far.process.pid
    back = far.head.call_back(count)(sync=False)
    wrong = [i for i in range(count) if far.head.echo(i, "x" * (i % 50))(timeout=60) != (i, "x" * (i % 50))]
    assert not wrong
    assert back.result(60) == []
    assert len(far.ipc.transactions) == 0
    assert far.ipc.transactions.late == 0


@pytest.mark.capability("S16d")
def test_both_sides_call_each_other_in_many_threads(far):
    far.head.set_handler("square", lambda i: i * i)
    assert far.head.pid()(timeout=START) == far.process.pid
    back = [far.head.call_back(250)(sync=False) for _ in range(3)]  # of the neck's four workers
    wrong = []

    def hammer(number):
        wrong.extend((number, i) for i in range(250) if far.head.echo(number, i)(timeout=60) != (number, i))

    threads = [threading.Thread(target=hammer, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    assert [held.result(60) for held in back] == [[], [], []]
    assert not wrong


@pytest.mark.capability("S1", "E2")
@pytest.mark.parametrize("how", ["close", "kill"])
def test_end_of_the_other_process_is_noticed(far, how):
    pid = far.head.pid()(timeout=START)
    gate = threading.Event()
    far.head.set_handler("square", lambda i: gate.wait(START))
    held = far.head.call_back(1)(sync=False)
    if how == "kill":
        os.kill(pid, signal.SIGKILL)
        started = time.monotonic()
        with pytest.raises(TransportDisconnected):
            held.result(LIMIT)
        assert time.monotonic() - started < 2
        far.process.join(LIMIT)
        assert far.process.exitcode == -signal.SIGKILL
    else:
        far.head.set_handler("square", None)
        far.ipc.close()
        far.process.join(LIMIT)
        assert far.process.exitcode == 0
    gate.set()
