"""`api.straight`: what a blocking call does when something else comes than its reply, and that nothing is reordered."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError
from typing import Any

import pytest

import epyrpc
from epyrpc import (
    CodecError,
    TransportDisconnected,
    codec,
    current_call,
    messages,
)
from epyrpc.api import straight
from epyrpc.messages import ERROR, REPLY, STARTED, pack
from epyrpc.transports.lead import VACANT
from epyrpc.transports.wire import my_parker
from tests.api.ends import LIMIT, eventually
from tests.api.peer import Peer, event, note, reply

AROUND = {
    "alone": lambda tid: [reply(tid)],
    "cut in the header": lambda tid: [reply(tid)[:11], reply(tid)[11:]],
    "cut in the payload": lambda tid: [reply(tid)[:26], reply(tid)[26:]],
    "byte by byte": lambda tid: [reply(tid)[n : n + 1] for n in range(len(reply(tid)))],
    "behind the reply of nobody": lambda tid: [reply(tid + 1_000_000, "lost") + reply(tid)],
    "before the reply of nobody": lambda tid: [reply(tid) + reply(tid + 1_000_000, "lost")],
    "twice": lambda tid: [reply(tid) + reply(tid, "again")],
    "behind output": lambda tid: [note(tid, "said\n") + reply(tid)],
    "behind output that came before": lambda tid: [note(tid, "said\n"), reply(tid)],
    "behind the word that it runs": lambda tid: [
        b"".join(pack(STARTED, tid, options=messages.CallOptions(0.01, 0, 1))),
        reply(tid),
    ],
    "between events": lambda tid: [event(1) + reply(tid) + event(2)],
    "behind events that came before": lambda tid: [event(1) + event(2), reply(tid)],
    "with a time": lambda tid: [
        b"".join(pack(REPLY, tid, "", codec.dump_plain("mine"), options=messages.CallOptions(0.5, 0, 1)))
    ],
}


@pytest.mark.parametrize("what", list(AROUND))
def test_reply_is_found_whatever_comes_with_it(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    with Peer() as peer:
        peer.answer(AROUND[what], lambda tid: [reply(tid, "next")])
        assert peer.head.call("ask", 1) == "mine"
        assert capsys.readouterr().out == ("said\n" if "output" in what else "")
        if "events" in what:
            eventually(lambda: peer.heard == [1, 2], f"the events did not come: {peer.heard}")
        assert peer.head.call("ask", 2) == "next"
        assert peer.ipc.transactions.late == ("nobody" in what or "twice" in what)
        assert len(peer.ipc.transactions) == 0
        assert peer.ipc.wire.lead.holder is not my_parker()  # the standby may have it
        peer.ipc.wire.lead.validate()


def test_reply_that_somebody_else_has_read_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    with Peer() as peer:
        transactions, link = peer.ipc.transactions, peer.ipc.wire.link
        waited: list[str] = []
        wait_readable = link.wait_readable

        def note_who_waits(limit: float | None) -> Any:
            waited.append(threading.current_thread().name)
            return wait_readable(limit)

        def write_and_wait_for_the_standby(fd: int, data: bytes) -> int:
            count = os.write(fd, data)
            eventually(lambda: not len(transactions), "the standby did not read the reply")
            eventually(lambda: peer.ipc.wire.lead.state is VACANT, "the standby did not give the lead away")
            return count

        monkeypatch.setattr(straight, "write", write_and_wait_for_the_standby)
        link.wait_readable = note_who_waits
        peer.answer(lambda tid: [reply(tid)])
        assert peer.head.call("ask") == "mine"
        assert threading.current_thread().name not in waited


def test_error_is_raised_and_the_next_call_goes_well() -> None:
    with Peer() as peer:
        peer.answer(
            lambda tid: [b"".join(pack(ERROR, tid, "", codec.encode_error(ValueError("no good"))))],
            lambda tid: [reply(tid)],
        )
        with pytest.raises(ValueError, match="no good"):
            peer.head.call("ask")
        assert peer.head.call("ask") == "mine"


def test_reply_that_cannot_be_decoded_is_its_callers_affair() -> None:
    with Peer() as peer:
        peer.answer(
            lambda tid: [b"".join(pack(REPLY, tid, "", b"\x80\x05cno_such_module\nthing\n."))], lambda tid: [reply(tid)]
        )
        with pytest.raises(CodecError, match="no_such_module"):
            peer.head.call("ask")
        assert len(peer.ipc.transactions) == 0
        assert peer.head.call("ask") == "mine"


@pytest.mark.parametrize("data", [b"x" * 40, bytes(24), b"Traceback (most recent call last)"], ids=["x", "0", "text"])
def test_garbage_instead_of_a_reply_ends_the_call_and_the_connection(data: bytes) -> None:
    with Peer() as peer:
        peer.answer(lambda tid: [data])
        with pytest.raises(TransportDisconnected, match="garbage"):
            peer.head.call("ask")
        assert len(peer.ipc.transactions) == 0


@pytest.mark.parametrize("sent", [0, 1, 23, 24, 30], ids="after {} bytes".format)
def test_end_of_the_other_end_ends_the_call(sent: int) -> None:
    with Peer() as peer:

        def hang_up(tid: int) -> None:
            peer.write(reply(tid)[:sent])
            peer.hang_up()

        peer.answer(hang_up)
        with pytest.raises(TransportDisconnected):
            peer.head.call("ask")
        assert len(peer.ipc.transactions) == 0


def test_call_that_another_thread_cancels_ends_at_once() -> None:
    with Peer() as peer:
        said: list[bool] = []

        def cancel(tid: int) -> list[bytes]:
            (pending,) = peer.ipc.transactions.pending()
            said.append(pending.cancel())
            return [reply(tid)]

        peer.answer(cancel, lambda tid: [reply(tid, "next")])
        with pytest.raises(CancelledError):
            peer.head.call("ask")
        assert peer.head.call("ask") == "next"
        assert said == [True]


def test_whoever_else_waits_for_the_call_gets_its_value_too() -> None:
    with Peer() as peer:
        others: list[threading.Thread] = []
        values: list[Any] = []

        def wait_too(tid: int) -> list[bytes]:
            (pending,) = peer.ipc.transactions.pending()
            ready = threading.Barrier(4)

            def wait() -> None:
                ready.wait(LIMIT)
                values.append(pending.result(LIMIT))

            others.extend(threading.Thread(target=wait) for _ in range(3))
            for thread in others:
                thread.start()
            ready.wait(LIMIT)
            return [reply(tid)]

        for _ in range(50):
            peer.answer(wait_too)
            assert peer.head.call("ask") == "mine"
            for thread in others:
                thread.join(LIMIT)
            others.clear()
        assert values == ["mine"] * 150


def test_observers_hear_of_straight_calls(worker_of_two: epyrpc.Body) -> None:
    with epyrpc.observe() as observer:
        assert worker_of_two.call.echo(1) == 1
        worker_of_two.submit.echo(2).result(LIMIT)
        records = [record for record in observer.poll() if record.path == "echo"]
    assert [str(record.state) for record in records] == ["done", "done"]


@pytest.fixture
def worker_of_two() -> Iterator[epyrpc.Body]:
    with epyrpc.spawn("straight", workers=2) as body:
        body.set_handler("echo", lambda value: value)
        yield body


@pytest.mark.parametrize("workers", [1, 3])
def test_events_and_calls_begin_in_the_order_in_which_they_were_sent(workers: int) -> None:
    with epyrpc.spawn("in_order", workers=workers) as body:
        body.execute("seen = []")
        body.set_handler("tell", lambda value: seen.append(value))  # type: ignore[name-defined] # noqa: F821
        for start in range(0, 3000, 10):
            body.emit.tell(start)
            body.emit.tell(start + 1)
            last = body.submit.tell(start + 2) if workers == 1 else None
            body.emit.tell(start + 3)
        if last is not None:
            last.result(LIMIT)
        expected = [n for start in range(0, 3000, 10) for n in range(start, start + 4) if workers == 1 or n % 10 != 2]
        eventually(lambda: len(body.pull("seen")) == len(expected), "not all events came")
        assert body.pull("seen") == expected


def test_event_handler_that_fails_leaves_those_behind_it(caplog: pytest.LogCaptureFixture) -> None:
    with epyrpc.spawn("failing", workers=2) as body:
        body.execute("seen = []")

        def odd_ones_fail(value: int) -> None:
            call = current_call()
            assert not call.solicited
            if value % 2:
                raise ValueError(value)
            seen.append(value)  # type: ignore[name-defined] # noqa: F821

        body.set_handler("tell", odd_ones_fail)
        for n in range(200):
            body.emit.tell(n)
        eventually(lambda: len(body.pull("seen")) == 100, "the events behind a failure did not come")
        assert body.pull("seen") == list(range(0, 200, 2))


def test_event_whose_path_cannot_be_encoded_is_refused_where_it_is_sent(worker_of_two: epyrpc.Body) -> None:
    with pytest.raises(UnicodeEncodeError):
        getattr(worker_of_two.emit, "half of a \ud800")(1)
    assert worker_of_two.call.echo(1) == 1
