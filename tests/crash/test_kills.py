"""SIGKILL of a body at random moments under load: every call ends at once, and knows why."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import epyrpc
from epyrpc import Body, BodyDied
from epyrpc.bodies import spawn as launching
from tests.bodies.tools import LIMIT, eventually

ROUNDS = 50
LATEST = 0.03  # seconds of load before the kill
BIG = b"x" * 3_000_000


class Load:
    """Threads that use a body in every way until it fails them."""

    def __init__(self, body: Body) -> None:
        self.body = body
        self.begun = threading.Semaphore(0)
        self.ends: list[tuple[str, float, BaseException]] = []  # (what, when, why)
        self.late: list[Any] = []  # calls that were pending then
        self.threads = [
            threading.Thread(target=self._run, args=(name, use), name=f"load-{name}", daemon=True)
            for name, use in (
                ("call", self._call),
                ("call with timeout", self._call_with_timeout),
                ("submit", self._submit),
                ("emit", self._emit),
                ("stream", self._stream),
                ("big", self._big),
                ("callable", self._callable),
                ("back", self._back),
            )
        ]
        for thread in self.threads:
            thread.start()

    def _run(self, name: str, use: Callable[[], None]) -> None:
        first = True
        try:
            while True:
                use()
                if first:
                    self.begun.release()
                    first = False
        except BaseException as exc:
            self.ends.append((name, time.monotonic(), exc))
            if first:
                self.begun.release()

    def _call(self) -> None:
        assert self.body.call.echo(1) == 1

    def _call_with_timeout(self) -> None:
        assert self.body.call(timeout=LIMIT).echo("x") == "x"

    def _submit(self) -> None:
        results = [self.body.submit.echo(n) for n in range(20)]
        self.late = results
        assert [result.result(LIMIT) for result in results] == list(range(20))

    def _emit(self) -> None:
        self.body.emit.note(1)
        time.sleep(0.0005)

    def _stream(self) -> None:
        assert sum(1 for _ in self.body.stream.rows(200)) == 200

    def _big(self) -> None:
        assert len(self.body.call.echo(BIG)) == len(BIG)

    def _callable(self) -> None:
        assert self.body.call(lambda x: x + 1, 1) == 2

    def _back(self) -> None:
        assert self.body.call.back(5) == 5


def handlers_of(body: Body) -> None:
    def back(x: Any) -> Any:
        from epyrpc import head

        return head.call.echo(x)

    def fork() -> int:
        pid = os.fork()
        if pid == 0:
            signal.pause()
        return pid

    body.set_handler("echo", lambda x: x)
    body.set_handler("note", lambda x: None)
    body.set_handler("rows", lambda n: (i for i in range(n)))
    body.set_handler("back", back)
    body.set_handler("fork", fork)
    body.on("echo", lambda x: x)


@pytest.fixture
def loaded(cleanup: None) -> Body:
    body = epyrpc.spawn("loaded", workers=4, start_method="forkserver")
    handlers_of(body)
    return body


def kill_and_look(body: Body, delay: float) -> float:
    """Kill a body under load after so many seconds; return how long its last call took to end."""
    load = Load(body)
    for _ in load.threads:
        assert load.begun.acquire(timeout=LIMIT)
    assert load.ends == []
    time.sleep(delay)
    pid = body.pid
    assert pid is not None
    killed = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    for thread in load.threads:
        thread.join(LIMIT)
        assert not thread.is_alive(), f"{thread.name} still waits"
    for name, _, why in load.ends:
        if not isinstance(why, BodyDied):
            raise AssertionError(f"{name} ended with {why!r}") from why
        assert (why.pid, why.exitcode) == (pid, -9), name
    for result in load.late:  # each of the pipelined ones too
        assert result.done()
    assert len(body.transporter.transactions) == 0
    return max(when for _, when, _ in load.ends) - killed


@pytest.mark.capability("D3")
@pytest.mark.parametrize("seed", range(4))
def test_killed_at_a_random_moment(loaded: Body, seed: int) -> None:
    moments = random.Random(seed)
    slowest = 0.0
    for _ in range(ROUNDS):
        slowest = max(slowest, kill_and_look(loaded, moments.uniform(0, LATEST)))
        loaded.restart()
    assert slowest < 1
    assert loaded.call.echo(1) == 1
    assert loaded.restarts == ROUNDS


@pytest.mark.parametrize("pidfd", [True, False], ids=["pidfd", "no pidfd"])
def test_grandchild_that_holds_the_pipe_hides_nothing(
    loaded: Body, pidfd: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not pidfd:
        monkeypatch.setattr(launching, "open_pidfd", lambda pid: None)
        loaded.restart()
    for round_ in range(5):
        grandchild = loaded.call.fork()
        watch = os.pidfd_open(grandchild)
        try:
            assert kill_and_look(loaded, 0.002 * round_) < 1
        finally:
            signal.pidfd_send_signal(watch, signal.SIGKILL)
            os.close(watch)
        loaded.restart()


def test_other_bodies_do_not_notice(loaded: Body) -> None:
    other = epyrpc.spawn("other", start_method="forkserver")
    handlers_of(other)
    watched = Load(other)
    for _ in watched.threads:
        assert watched.begun.acquire(timeout=LIMIT)
    for round_ in range(5):
        kill_and_look(loaded, 0.002 * round_)
        loaded.restart()
    assert watched.ends == []
    other.stop(0)
    for thread in watched.threads:
        thread.join(LIMIT)
    assert {type(why) for _, _, why in watched.ends} == {epyrpc.BodyLost}


def test_restart_and_stop_under_load_end_each_call_once(loaded: Body) -> None:
    for _ in range(5):
        load = Load(loaded)
        for _ in load.threads:
            assert load.begun.acquire(timeout=LIMIT)
        loaded.restart()
        # Some go on with the new process: what was pending was lost, the next call works.
        loaded.stop(0)
        for thread in load.threads:
            thread.join(LIMIT)
            assert not thread.is_alive()
        for name, _, why in load.ends:
            if not isinstance(why, epyrpc.BodyLost):
                raise AssertionError(f"{name} ended with {why!r}") from why
        loaded.restart()
    eventually(lambda: loaded.call.echo(1) == 1)
