"""Watches the processes of all bodies, in one thread.

Threads::

    supervisor (daemon, epyrpc-supervisor; started with the first body, ends with the last)
        waits for: a death descriptor ─▶ body.process_ended(exit code)
                   output on a body's descriptors 1 and 2 ─▶ body.take_log(bytes)
                   a poke: a connection has ended, a body was added or removed, a time is up

It never blocks for longer than a process takes to be reaped, and runs no user code.
"""

from __future__ import annotations

import logging
import os
import selectors
import threading
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

_log = logging.getLogger("epyrpc.supervisor")
REAP_SECONDS = 2.0
LOOK_SECONDS = 0.05  # where the system has no descriptor for a process's death


class Watched(Protocol):
    """What a supervisor watches: one incarnation of a body."""

    launch: Any

    def process_ended(self, exitcode: int | None) -> None:
        """The process has ended."""

    def take_log(self, data: bytes) -> None:
        """Something came out of descriptor 1 or 2."""


class Supervisor:
    """Watches processes; there is one in a process that has bodies."""

    # Guarded by _lock: _watched, _thread, _timers.

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watched: dict[int, Watched] = {}  # {pid: incarnation}
        self._suspects: dict[int, float] = {}  # {pid: when its connection ended}
        self._timers: list[tuple[float, Callable[[], object]]] = []
        self._thread: threading.Thread | None = None
        self._wake_read = self._wake_write = -1
        self._selector: selectors.BaseSelector | None = None

    def watch(self, incarnation: Watched) -> None:
        """Watch a process from now on."""
        with self._lock:
            self._watched[incarnation.launch.pid] = incarnation
            if self._thread is None:
                self._wake_read, self._wake_write = os.pipe()
                os.set_blocking(self._wake_read, False)
                self._thread = threading.Thread(
                    target=self._run, args=(self._wake_read,), name="epyrpc-supervisor", daemon=True
                )
                self._thread.start()
            self._poke()

    def suspect(self, pid: int) -> None:
        """Look at a process whose connection has ended: it is dead, or about to be."""
        with self._lock:
            self._suspects[pid] = monotonic()
            self._poke()

    def after(self, seconds: float, work: Callable[[], object]) -> None:
        """Run `work`, which must not block, after some time; dropped when the last body goes before that."""
        with self._lock:
            self._timers.append((monotonic() + seconds, work))
            self._poke()

    def _poke(self) -> None:
        if self._wake_write >= 0:
            os.write(self._wake_write, b"p")

    def _run(self, wake: int) -> None:
        selector = self._selector = selectors.DefaultSelector()
        selector.register(wake, selectors.EVENT_READ, None)
        known: dict[int, Watched] = {}
        while True:
            with self._lock:
                current = dict(self._watched)
                if not current:
                    self._thread = None
                    self._timers.clear()
                    os.close(self._wake_write)
                    self._wake_write = -1
                    break
            self._adapt(selector, known, current)
            ready = [key for key, _ in selector.select(self._patience(current))]
            for key in ready:
                if key.data is None:
                    os.read(wake, 4096)
                elif key.data[0] == "log" and not self._read_log(key.data[1]):
                    selector.unregister(key.fd)
            # Deaths come last: they close descriptors, whose numbers may be somebody else's the next moment.
            for key in ready:
                if key.data is not None and key.data[0] == "death":
                    self._bury(selector, key.data[1])
            self._look(selector, current)
        selector.close()
        os.close(wake)

    @staticmethod
    def _adapt(selector: selectors.BaseSelector, known: dict[int, Watched], current: dict[int, Watched]) -> None:
        """Register the descriptors of new processes."""
        for pid, incarnation in current.items():
            if known.get(pid) is incarnation:
                continue
            known[pid] = incarnation
            launch = incarnation.launch
            selector.register(launch.stderr_fd, selectors.EVENT_READ, ("log", incarnation))
            death = launch.death_fd if launch.death_fd is not None else launch.sentinel
            selector.register(death, selectors.EVENT_READ, ("death", incarnation))
        for pid in [pid for pid in known if pid not in current]:
            del known[pid]

    def _patience(self, current: dict[int, Watched]) -> float | None:
        with self._lock:
            limits = [when - monotonic() for when, _ in self._timers]
            if self._suspects or any(i.launch.death_fd is None for i in current.values()):
                limits.append(LOOK_SECONDS)
        return max(0.0, min(limits)) if limits else None

    @staticmethod
    def _read_log(incarnation: Watched) -> bool:
        """Read what there is; False at the end."""
        try:
            data = os.read(incarnation.launch.stderr_fd, 65536)
        except BlockingIOError:
            return True
        except OSError as exc:
            _log.debug("cannot read a body's output: %s", exc)
            return False
        if data:
            incarnation.take_log(data)
        return bool(data)

    def _bury(self, selector: selectors.BaseSelector, incarnation: Watched) -> None:
        launch = incarnation.launch
        pid = launch.pid
        exitcode = launch.wait(REAP_SECONDS)
        for key in list(selector.get_map().values()):
            if key.data is not None and key.data[1] is incarnation:
                selector.unregister(key.fd)
        for fd in (*launch.leftovers, launch.stderr_fd):
            self._read_rest(fd, incarnation)
        with self._lock:
            self._watched.pop(pid, None)
            self._suspects.pop(pid, None)
        try:
            incarnation.process_ended(exitcode)
        except Exception:
            _log.exception("the end of process %d could not be handled", pid)

    @staticmethod
    def _read_rest(fd: int, incarnation: Watched) -> None:
        """Read what it had still written; bounded, since a process that it forked may go on writing."""
        for _ in range(64):
            before = monotonic()
            try:
                data = os.read(fd, 65536)
            except OSError:  # nothing more, or closed
                break
            if not data or monotonic() - before > 1:
                break
            incarnation.take_log(data)

    def _look(self, selector: selectors.BaseSelector, current: dict[int, Watched]) -> None:
        """Look at timers, at processes whose connection has ended, and at those without a death descriptor."""
        now = monotonic()
        with self._lock:
            due = [work for when, work in self._timers if when <= now]
            self._timers = [(when, work) for when, work in self._timers if when > now]
            suspects = dict(self._suspects)
        for work in due:
            try:
                work()
            except Exception:
                _log.exception("a timer of the supervisor failed")
        for pid, since in suspects.items():
            incarnation = current.get(pid)
            if incarnation is None:
                with self._lock:
                    self._suspects.pop(pid, None)
            elif now - since > REAP_SECONDS and incarnation.launch.poll() is None:
                incarnation.launch.kill()  # it closed its end but lives on: nobody could reach it any more
        for pid, incarnation in current.items():
            # What stands in for a pidfd stays silent while a process that it forked lives.
            if incarnation.launch.death_fd is None and pid in self._watched and incarnation.launch.poll() is not None:
                self._bury(selector, incarnation)


_supervisor: Supervisor | None = None
_supervisor_lock = threading.Lock()


def supervisor() -> Supervisor:
    """Return the process's supervisor."""
    global _supervisor
    with _supervisor_lock:
        if _supervisor is None:
            _supervisor = Supervisor()
        return _supervisor


def _forget_after_fork() -> None:
    # The thread is not in the child, and the bodies are not the child's.
    global _supervisor, _supervisor_lock
    forgotten, _supervisor, _supervisor_lock = _supervisor, None, threading.Lock()
    if forgotten is not None and forgotten._thread is not None:
        os.close(forgotten._wake_read)
        os.close(forgotten._wake_write)
        if forgotten._selector is not None:
            forgotten._selector.close()  # only this copy of the descriptor; to unregister would reach the parent's


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)
