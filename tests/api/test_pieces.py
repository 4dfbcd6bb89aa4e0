"""Plain frames that come in one piece are delivered and run together: each as if it had come alone, and in order."""

from __future__ import annotations

import copy
import re
import threading
from collections.abc import Iterator
from typing import Any

import pytest

import epyrpc
from epyrpc import NoResponseRequired, codec, current_call
from epyrpc.api import dispatch
from epyrpc.api.workers import WorkerPool
from epyrpc.messages import CREDIT, EVENT, SEVERAL, lay_out_events, pack
from tests.api.ends import LIMIT, eventually, waits
from tests.api.peer import Peer, call, event, events, reply


@pytest.fixture(params=[1, 3], ids=["one worker", "three workers"])
def peer(request: pytest.FixtureRequest) -> Iterator[Peer]:
    with Peer(workers=request.param) as peer:
        peer.head.set_handler("other", peer.heard.append)
        for path in ("t.tell", "t.other"):  # once by the general road, which notes who handles it
            peer.write(event(-1, path))
        eventually(lambda: peer.heard == [-1, -1])
        peer.heard.clear()
        yield peer


def hears(peer: Peer, values: Any) -> None:
    expected = list(values)
    eventually(lambda: len(peer.heard) >= len(expected), f"{len(expected)} events did not come")
    assert peer.heard == expected


def test_all_are_handled_in_order(peer: Peer) -> None:
    for start in range(0, 3000, 300):
        peer.write(events(range(start, start + 300)))
    hears(peer, range(3000))


def test_piece_may_be_cut_anywhere(peer: Peer) -> None:
    piece = events(range(3))
    for cut in range(len(piece) + 1):
        peer.heard.clear()
        peer.write(piece[:cut])
        hears(peer, range(cut * 3 // len(piece)))
        peer.write(piece[cut:])
        hears(peer, range(3))


def test_each_is_an_event_of_its_own(peer: Peer) -> None:
    seen = []

    def keep(value: int) -> None:
        me = current_call()
        seen.append((value, me.path, me.solicited, me.stage, me.cancelled, me))

    peer.head.set_handler("tell", keep)
    peer.write(event(-1))
    peer.write(events(range(20)))
    eventually(lambda: len(seen) == 21)
    assert [one[:5] for one in seen] == [(n, "t.tell", False, dispatch.RUNNING, False) for n in range(-1, 20)]
    eventually(lambda: all(one[5].stage == dispatch.ENDED for one in seen))
    assert len({id(one[5]) for one in seen}) == 21


def test_what_one_does_is_none_of_the_others_affair(peer: Peer, caplog: pytest.LogCaptureFixture) -> None:
    def take(value: int) -> None:
        if value % 5 == 1:
            raise ValueError(f"no {value}")
        if value % 5 == 2:
            raise NoResponseRequired
        if value % 5 == 3:
            raise SystemExit(value)
        peer.heard.append(value)

    peer.head.set_handler("tell", take)
    broken = b"".join(pack(EVENT, 0, "t.tell", b"no pickle"))
    peer.write(event(0) + events(range(1, 10)) + broken + events(range(10, 15)))
    hears(peer, [0, 4, 5, 9, 10, 14])
    text = eventually(lambda: caplog.text if caplog.text.count("the handler of the event t.tell raised") == 7 else "")
    assert re.findall(r"^ValueError: (no \d+)", text, re.M) == ["no 1", "no 6", "no 11"]
    assert "CodecError" in text
    assert peer.head.ipc.dispatcher.running() == []


def test_coroutines_generators_and_middleware_have_their_way(peer: Peer) -> None:
    async def later(value: int) -> None:
        peer.heard.append(value)

    def parts(value: int) -> Iterator[int]:
        peer.heard.append(value)
        yield value

    peer.head.set_handler("later", later)
    peer.head.set_handler("parts", parts)
    for path in ("t.later", "t.parts"):
        peer.heard.clear()
        peer.write(event(0, path))
        peer.write(events(range(1, 50), path))
        hears(peer, range(50))
    peer.heard.clear()
    peer.head.add_middleware(lambda path, args, kwargs, proceed: proceed(args[0] * 2))
    peer.write(event(0))
    peer.write(events(range(1, 50)))
    hears(peer, range(0, 100, 2))


def test_order_among_paths_calls_and_replies(peer: Peer) -> None:
    peer.answer(
        lambda tid: [
            events([1, 2])
            + events([3], "t.nobody")
            + events([4, 5], "t.other")
            + call(1 << 60, 6)
            + events([7])
            + reply(tid)
            + reply(tid + 1_000_000)
            + events([8, 9])
        ],
        lambda tid: [events([10, 11]) + call(2 << 60, 12) + reply(tid, "next") + events([13])],
    )
    assert peer.head.call("ask", 1) == "mine"
    assert peer.head.call("ask", 2) == "next"
    everything = [1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]
    eventually(lambda: len(peer.heard) == len(everything))
    if peer.head.pool.size == 1:
        assert peer.heard == everything
    else:  # events of a path follow each other, nothing else does
        assert sorted(peer.heard) == everything
        tell, other = {1, 2, 7, 8, 9, 10, 11, 13}, {4, 5}
        assert [n for n in peer.heard if n in tell] == sorted(tell)
        assert [n for n in peer.heard if n in other] == sorted(other)
    eventually(lambda: sum(frame.transaction_id in (1 << 60, 2 << 60) for frame in peer.came) == 2)
    assert peer.ipc.transactions.late == 1


def test_interrupt_hits_the_one_that_runs(peer: Peer, caplog: pytest.LogCaptureFixture) -> None:
    begun, dispatcher = threading.Event(), peer.head.ipc.dispatcher

    def spin(value: int) -> None:
        if value == 3:
            begun.set()
            while True:
                pass
        peer.heard.append(value)

    peer.head.set_handler("tell", spin)
    peer.write(event(0))
    peer.write(events(range(1, 6)))
    waits(begun)
    assert dispatcher.interrupt_running() == 1
    hears(peer, [0, 1, 2, 4, 5])
    assert "KeyboardInterrupt" in caplog.text


def test_those_that_wait_are_counted_and_given_back_when_their_api_ends(peer: Peer) -> None:
    begun, go_on, dispatcher = threading.Event(), threading.Event(), peer.head.ipc.dispatcher

    def hold(value: int) -> None:
        peer.heard.append(value)
        if value == 5:
            begun.set()
            assert go_on.wait(LIMIT)

    peer.head.set_handler("tell", hold)
    pool = peer.head.pool
    peer.write(event(0))
    peer.write(events(range(1, 11)))
    waits(begun)
    peer.write(events(range(11, 21)))
    eventually(lambda: pool.waiting == 15)
    pool.stopped = True  # as `teardown` begins
    go_on.set()
    eventually(lambda: not pool.running)
    peer.head.teardown()
    assert peer.heard == [0, 1, 2, 3, 4, 5]
    eventually(lambda: pool.waiting == 0)
    # Their sender is told of all, the two of the fixture too; what was not handled would keep it waiting for ever.
    eventually(lambda: repr(dispatcher._handled_small) == "count(24)", repr(dispatcher._handled_small))


def test_sender_is_told_of_those_that_were_handled(peer: Peer) -> None:
    for start in range(0, 3 * dispatch.EVENTS_PER_CREDIT, 500):
        peer.write(events(range(start, start + 500)))
    eventually(lambda: len(peer.heard) == 3 * dispatch.EVENTS_PER_CREDIT)
    credit = [dispatch.EVENTS_PER_CREDIT] * 3
    eventually(lambda: [one.options.window for one in peer.came if one.kind == CREDIT] == credit)


def test_frame_that_cannot_be_queued_is_lost_alone(
    peer: Peer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    queue = WorkerPool.submit_event

    def fail_for_other(pool: WorkerPool, first: Any) -> None:
        if first.path == "t.other":
            raise RuntimeError("can't start new thread")
        queue(pool, first)

    monkeypatch.setattr(WorkerPool, "submit_event", fail_for_other)
    peer.write(events([1, 2]) + events([3, 4], "t.other") + events([5, 6]) + events([7], "t.other"))
    hears(peer, [1, 2, 5, 6])
    eventually(lambda: caplog.text.count("events could not be delivered: 't.other'") == 2)
    peer.write(events([8]))
    hears(peer, [1, 2, 5, 6, 8])


def test_events_that_travel_together_arrive_as_they_were_sent_and_when() -> None:
    with epyrpc.spawn("together", workers=2) as body:
        body.execute("seen = []")
        body.set_handler("tell", lambda *args, **named: seen.append((args, named)))  # type: ignore[name-defined] # noqa: F821
        body.set_handler("other", lambda *args: seen.append((args, {})))  # type: ignore[name-defined] # noqa: F821
        mutable = [0]
        sent: list[Any] = []
        for number in range(2000):
            mutable[0] = number
            mixed = (True, None, 1e300, -(2**70)), ("té\ud800xt", number), ("long " * 30,), tuple(range(20))
            for args in ((number,), (), *mixed, (mutable, b"raw")):
                body.emit.tell(*args)
                sent.append((copy.deepcopy(args), {}))
            body.emit.tell(number, named=number)
            sent.append(((number,), {"named": number}))
        eventually(lambda: body.call(lambda: len(seen)) == len(sent))  # type: ignore[name-defined] # noqa: F821
        got = body.pull("seen")
        assert got == sent
        assert [tuple(map(type, args)) for args, _ in got] == [tuple(map(type, args)) for args, _ in sent]


def test_events_of_paths_in_turn_keep_the_order_of_a_single_worker() -> None:
    with epyrpc.spawn("in_turn") as body:
        body.execute("seen = []")
        for path in ("a", "b"):
            body.set_handler(path, lambda value: seen.append(value))  # type: ignore[name-defined] # noqa: F821
        for number in range(0, 3000, 3):
            body.emit.a(number)
            body.emit.b(number + 1)
            body.emit.a(number + 2)
        eventually(lambda: body.call(lambda: len(seen)) == 3000)  # type: ignore[name-defined] # noqa: F821
        assert sorted(body.pull("seen")) == list(range(3000))
        assert [n for n in body.pull("seen") if n % 3 != 1] == [n for n in range(3000) if n % 3 != 1]


def states(observer: Any) -> list[str]:
    return [str(record.state) for record in observer.poll() if record.path == "t.tell" and record.state.ended]


def test_events_that_travelled_together_are_observed_one_by_one(peer: Peer) -> None:
    with epyrpc.observe() as observer:
        peer.write(lay_out_events([(b"t.tell", (n,)) for n in range(5)])[0])
        hears(peer, range(5))
        got: list[str] = []
        eventually(lambda: got.extend(states(observer)) or len(got) >= 5)
        assert got == ["done"] * 5


@pytest.mark.parametrize("payload", [b"no pickle", codec.dump_plain([]), codec.dump_plain([(1,), 2, (3,)])])
def test_events_that_make_no_sense_hurt_nobody(peer: Peer, payload: bytes, caplog: pytest.LogCaptureFixture) -> None:
    peer.write(event(1) + b"".join(pack(EVENT, 0, "t.tell", payload, flags=SEVERAL)) + event(4))
    hears(peer, [1, 1, 3, 4] if payload == codec.dump_plain([(1,), 2, (3,)]) else [1, 4])
    assert payload == codec.dump_plain([]) or "could not be delivered" in caplog.text or "TypeError" in caplog.text
