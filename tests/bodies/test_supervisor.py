"""The supervisor: one thread for all bodies, which nothing may end too early."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from epyrpc.bodies import supervisor as supervising
from epyrpc.bodies.supervisor import Supervisor
from tests.bodies.tools import LIMIT, eventually, waits


class FakeProcess:
    """A process as far as a supervisor can see: two pipes and an exit code."""

    def __init__(self, pid: int, *, pidfd: bool = True) -> None:
        self.pid = pid
        self.code: int | None = None
        self.killed = threading.Event()
        self._fds = set()
        death, self.death_end = self._pipe()
        self.stderr_fd, self.stderr_end = self._pipe()
        os.set_blocking(self.stderr_fd, False)
        self.leftovers: tuple[int, ...] = ()
        self.death_fd = death if pidfd else None
        self.sentinel = death

    def _pipe(self) -> tuple[int, int]:
        pair = os.pipe()
        self._fds.update(pair)
        return pair

    def close_fd(self, fd: int) -> None:
        self._fds.discard(fd)
        os.close(fd)

    def die(self, code: int) -> None:
        self.code = code
        self.close_fd(self.death_end)

    def poll(self) -> int | None:
        return self.code

    def wait(self, timeout: float | None) -> int | None:
        return self.code

    def kill(self) -> None:
        self.killed.set()

    def close(self) -> None:
        for fd in list(self._fds):
            self.close_fd(fd)


class Watched:
    def __init__(self, pid: int, **options: Any) -> None:
        self.launch = FakeProcess(pid, **options)
        self.ended: list[int | None] = []
        self.log = b""
        self.hold: threading.Event | None = None
        self.held = threading.Event()

    def process_ended(self, exitcode: int | None) -> None:
        self.ended.append(exitcode)
        self.launch.close()

    def take_log(self, data: bytes) -> None:
        self.log += data
        if self.hold is not None:
            self.held.set()
            self.hold.wait(LIMIT)


@pytest.fixture
def watch() -> Iterator[Any]:
    supervisor = Supervisor()
    watched: list[Watched] = []

    def make(**options: Any) -> tuple[Supervisor, Watched]:
        one = Watched(1000 + len(watched), **options)
        watched.append(one)
        supervisor.watch(one)
        return supervisor, one

    yield make
    for one in watched:
        if not one.ended:
            if one.hold is not None:
                one.hold.set()
            one.launch.die(0)
            if one.launch.death_fd is None:
                supervisor.suspect(one.launch.pid)
    eventually(lambda: supervisor._thread is None)


@pytest.mark.parametrize("first", ["death", "end of the output"])
def test_death_and_end_of_output_at_once(watch: Any, first: str) -> None:
    """Both found in one look: what the death has closed must not be touched again."""
    _, busy = watch()
    _, dying = watch()
    _, other = watch()
    busy.hold = threading.Event()
    os.write(busy.launch.stderr_end, b"x")
    waits(busy.held)  # the supervisor is in take_log, and will find the rest together

    def speak_and_close() -> None:
        os.write(dying.launch.stderr_end, b"last words")
        dying.launch.close_fd(dying.launch.stderr_end)

    steps = [lambda: dying.launch.die(-9), speak_and_close]
    for step in steps if first == "death" else reversed(steps):
        step()
    busy.hold.set()
    eventually(lambda: dying.ended)
    assert (dying.ended, dying.log) == ([-9], b"last words")
    os.write(other.launch.stderr_end, b"still heard")
    eventually(lambda: other.log == b"still heard")
    other.launch.die(3)
    eventually(lambda: other.ended == [3])


def test_output_that_ends_early_does_not_end_the_watching(watch: Any) -> None:
    _, one = watch()
    one.launch.close_fd(one.launch.stderr_end)
    time.sleep(0.02)
    assert one.ended == []
    one.launch.die(5)
    eventually(lambda: one.ended == [5])


def test_thread_ends_with_the_last_process_and_starts_again(watch: Any) -> None:
    supervisor, one = watch()
    first = supervisor._thread
    one.launch.die(0)
    eventually(lambda: supervisor._thread is None)
    _, two = watch()
    assert supervisor._thread is not first
    two.launch.die(1)
    eventually(lambda: two.ended == [1])


def test_without_a_pidfd_the_exit_code_tells(watch: Any) -> None:
    _, one = watch(pidfd=False)  # a process that it forked holds the sentinel, which therefore says nothing
    one.launch.code = -11
    eventually(lambda: one.ended == [-11])


def test_process_that_has_closed_its_connection_but_lives_is_killed(
    watch: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervising, "REAP_SECONDS", 0.1)
    supervisor, one = watch()
    supervisor.suspect(one.launch.pid)
    waits(one.launch.killed)
    supervisor.suspect(99999)  # long gone: nothing happens
    one.launch.die(-9)
    eventually(lambda: one.ended == [-9])


def test_timers_run_once_and_a_failing_one_hurts_nobody(watch: Any, caplog: pytest.LogCaptureFixture) -> None:
    supervisor, _ = watch()
    done: list[str] = []
    supervisor.after(0.01, lambda: done.append("a") or 1 / 0)
    supervisor.after(0.02, lambda: done.append("b"))
    eventually(lambda: done == ["a", "b"])
    assert "a timer of the supervisor failed" in caplog.text
    time.sleep(0.03)
    assert done == ["a", "b"]


def test_owner_that_fails_at_the_end_hurts_nobody(watch: Any, caplog: pytest.LogCaptureFixture) -> None:
    _, one = watch()
    _, two = watch()

    def fail(exitcode: int | None) -> None:
        one.ended.append(exitcode)
        one.launch.close()
        raise RuntimeError("in the owner")

    one.process_ended = fail
    one.launch.die(1)
    eventually(lambda: "the end of process 1000 could not be handled" in caplog.text)
    two.launch.die(2)
    eventually(lambda: two.ended == [2])


def test_what_the_process_had_not_read_of_its_own_output_is_read_at_its_end(watch: Any) -> None:
    _, one = watch()
    read, write = one.launch._pipe()
    os.set_blocking(read, False)
    one.launch.leftovers = (read,)
    os.write(write, b"last words\n")
    os.write(one.launch.stderr_end, b"and its log\n")
    eventually(lambda: one.log == b"and its log\n")
    one.launch.die(-6)
    eventually(lambda: one.ended == [-6])
    assert one.log == b"and its log\nlast words\n"
