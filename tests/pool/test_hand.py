"""Maps of short items: the caller's thread acts for idle members."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

import pytest

import epyrpc
from epyrpc.bodies import pool_engine
from epyrpc.bodies.pool_member import Member
from tests.bodies.tools import LIMIT, eventually, is_alive


@pytest.fixture
def idle(pool: epyrpc.Pool) -> epyrpc.Pool:
    """Wait until the bodies of a pool have nothing to do."""
    pool.each.call(os.getpid)
    eventually(lambda: len(pool._engine.idle) == 2)
    return pool


def check_at_rest(pool: epyrpc.Pool) -> None:
    """See to it that every member is idle, once, and acts for itself."""
    engine = pool._engine

    def at_rest() -> bool:
        with engine.lock:
            return sorted(member.serial for member in engine.idle) == sorted(member.serial for member in engine.members)

    eventually(at_rest)
    with engine.lock:
        assert not any(member.lent or member.inflight for member in engine.members)


def test_short_items_are_done_without_the_members_threads(idle: epyrpc.Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: set[str] = set()
    finish = Member._finish

    def note(member: Member, batch: Any) -> bool:
        threads.add(threading.current_thread().name)
        return finish(member, batch)

    monkeypatch.setattr(Member, "_finish", note)
    monkeypatch.setattr(pool_engine, "HAND_SECONDS", LIMIT)
    assert list(idle.map(abs, range(-600, 0))) == list(range(600, 0, -1))
    assert sorted(idle.imap_unordered(str, [1, 2, None])) == ["1", "2", "None"]
    assert threads == {threading.current_thread().name}
    check_at_rest(idle)


def test_what_takes_longer_is_left_to_them(idle: epyrpc.Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_engine, "HAND_SECONDS", 0.0)
    assert list(idle.map(lambda n: time.sleep(0.01) or n, range(20))) == list(range(20))
    check_at_rest(idle)


def test_so_is_what_cannot_be_sent(idle: epyrpc.Pool) -> None:
    results = idle.map(str, [1, threading.Lock(), 3], return_exceptions=True)
    first, second, third = results
    assert (first, third) == ("1", "3")
    assert isinstance(second, epyrpc.CodecError)
    check_at_rest(idle)


def test_and_a_body_that_has_died_unnoticed(idle: epyrpc.Pool) -> None:
    pids = [body.pid for body in idle.bodies]
    for pid in pids:
        os.kill(pid or 0, signal.SIGKILL)
    assert list(idle.map(abs, range(300))) == list(range(300))
    eventually(lambda: not any(is_alive(pid or 0) for pid in pids))
    check_at_rest(idle)


def test_an_error_comes_in_its_turn(idle: epyrpc.Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_engine, "HAND_SECONDS", LIMIT)
    results = idle.map(lambda n: 1 // (n - 250), range(500))
    assert next(results) == -1
    with pytest.raises(ZeroDivisionError) as caught:
        list(results)
    assert caught.value.item_index == 250  # type: ignore[attr-defined]
    check_at_rest(idle)


def test_an_item_that_ends_its_body_fails_alone(idle: epyrpc.Pool) -> None:
    outcomes = list(idle.map(lambda n: os._exit(3) if n == 5 else n, range(40), return_exceptions=True))
    assert isinstance(outcomes[5], epyrpc.BodyDied)
    assert outcomes[:5] + outcomes[6:] == [*range(5), *range(6, 40)]
    check_at_rest(idle)


def test_an_interrupt_waits_for_the_hand_to_be_withdrawn(idle: epyrpc.Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    send = Member.send_for

    def send_and_interrupt(member: Member, batch: Any) -> bool:
        signal.raise_signal(signal.SIGINT)
        return send(member, batch)

    with monkeypatch.context() as patched:
        patched.setattr(Member, "send_for", send_and_interrupt)
        with pytest.raises(KeyboardInterrupt):
            idle.map(abs, range(10))
    check_at_rest(idle)
    assert list(idle.map(abs, range(10))) == list(range(10))


def test_many_callers_at_once(idle: epyrpc.Pool) -> None:
    wrong: list[Any] = []

    def call(start: int) -> None:
        for size in range(1, 120, 7):
            got = list(idle.map(abs, range(start, start + size)))
            if got != list(range(start, start + size)):
                wrong.append(got)

    callers = [threading.Thread(target=call, args=(n * 1000,)) for n in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(LIMIT)
    assert not wrong
    check_at_rest(idle)


def test_bodies_that_a_hand_was_lent_to_still_end_when_idle() -> None:
    with epyrpc.Pool(2, idle_timeout=0.2) as pool:
        for _ in range(5):
            assert list(pool.map(abs, range(100))) == list(range(100))
        eventually(lambda: not pool.bodies)
        assert list(pool.map(abs, range(100))) == list(range(100))


def test_a_process_that_has_done_its_tasks_is_replaced_at_once() -> None:
    with epyrpc.Pool(1, max_tasks_per_child=20) as pool:
        first = next(iter(pool.each.call(os.getpid).values()))
        eventually(lambda: len(pool._engine.idle) == 1)
        assert list(pool.map(abs, range(20))) == list(range(20))
        eventually(lambda: not is_alive(first))


def test_callbacks_of_tasks_may_use_the_pool(idle: epyrpc.Pool) -> None:
    heard: list[int] = []
    done = threading.Event()

    def hear(future: Any) -> None:
        heard.extend(idle.map(abs, range(3)))
        done.set()

    idle.submit(abs, -1).add_done_callback(hear)
    for _ in range(20):
        assert list(idle.map(abs, range(50))) == list(range(50))
    assert done.wait(LIMIT)
    assert heard == [0, 1, 2]
    check_at_rest(idle)


def test_a_pool_may_be_shut_down_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    send = Member.send_for
    with epyrpc.Pool(2) as pool:
        pool.each.call(os.getpid)
        eventually(lambda: len(pool._engine.idle) == 2)

        def send_and_shut_down(member: Member, batch: Any) -> bool:
            pool.shutdown(wait=False)
            return send(member, batch)

        monkeypatch.setattr(Member, "send_for", send_and_shut_down)
        assert list(pool.map(abs, range(100))) == list(range(100))
    assert not pool.bodies
