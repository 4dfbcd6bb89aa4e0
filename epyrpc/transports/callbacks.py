"""Where user callbacks run: not on the thread that reads the wire, and not under a lock.

Threads::

    any thread ──Runner(work)──▶ queue ──▶ runner threads (daemon, epyrpc-callbacks-…), the first one started on demand;
                                           another only when the queue has not moved for a tick, so that a callback that
                                           blocks delays nobody; they end when stop() was called and the queue is empty.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_log = logging.getLogger("epyrpc.callbacks")
MAX_THREADS = 32
STUCK_SECONDS = 0.005


class Runner:
    """Runs callables in the order they came, in few threads, more of them only when some block.

    Parameters
    ----------
    name : str
        For the threads.
    need_tick : callable
        Called when `tick` should be called soon.
    """

    # Guarded by _condition: everything.

    def __init__(self, name: str, need_tick: Callable[[], None]) -> None:
        self._name = name
        self._need_tick = need_tick
        self._condition = threading.Condition(threading.Lock())
        self._queue: deque[Callable[[], object]] = deque()
        self._threads: set[threading.Thread] = set()
        self._idle = 0
        self._stopped = False
        self._taken = 0
        self._seen: tuple[int, float] = (-1, 0.0)

    def __call__(self, work: Callable[[], object]) -> None:
        """Run `work` soon, on another thread; whatever it raises is logged."""
        with self._condition:
            self._queue.append(work)
            if self._idle >= len(self._queue):  # a thread that was notified counts as idle until it has taken its work
                self._condition.notify()
                return
            if not self._threads:
                self._start_thread()
                return
        self._need_tick()

    def tick(self, now: float) -> float | None:
        """Start another thread if nothing was taken from the queue since the last look; say when to look again."""
        with self._condition:
            if len(self._queue) <= self._idle:
                return None
            taken, since = self._seen
            if taken != self._taken:
                self._seen = (self._taken, now)
            elif now - since >= STUCK_SECONDS and len(self._threads) < MAX_THREADS:
                self._start_thread()
            return now + STUCK_SECONDS

    def stop(self) -> None:
        """Let the threads end once the queue is empty; later work still runs, in a thread that ends at once."""
        with self._condition:
            self._stopped = True
            self._condition.notify_all()

    def join(self, timeout: float) -> None:
        """Wait for the threads to end, `timeout` seconds each at most; a thread does not wait for itself."""
        with self._condition:
            threads = list(self._threads)
        for thread in threads:
            if thread is not threading.current_thread():
                thread.join(timeout)

    def _start_thread(self) -> None:
        thread = threading.Thread(target=self._run, name=f"epyrpc-callbacks-{self._name}", daemon=True)
        self._threads.add(thread)
        try:
            thread.start()
        except RuntimeError as exc:
            self._threads.discard(thread)
            if "shutdown" not in str(exc):
                raise
            # From 3.12 on an interpreter that ends starts no more threads; what is queued is dropped with it.

    def _next(self) -> Callable[[], object] | None:
        with self._condition:
            while not self._queue:
                if self._stopped:
                    self._threads.discard(threading.current_thread())
                    return None
                self._idle += 1
                try:
                    self._condition.wait()
                finally:
                    self._idle -= 1
            self._taken += 1
            return self._queue.popleft()

    def _run(self) -> None:
        while (work := self._next()) is not None:
            try:
                work()
            except Exception:
                _log.exception("a callback raised; nobody is there to catch it")
            except BaseException as exc:
                _log.error("a callback ended with %r; the thread goes on", exc)
            del work


class Strand:
    """Runs callables one after the other, in order, on whatever thread `run_later` has."""

    def __init__(self, run_later: Callable[[Callable[[], object]], None]) -> None:
        self._run_later = run_later
        self._queue: deque[Callable[[], object]] = deque()
        self._busy = threading.Lock()

    def __call__(self, work: Callable[[], object]) -> None:
        """Run `work` after everything that was given before."""
        self._queue.append(work)
        self._run_later(self._drain)

    def _drain(self) -> None:
        # Whoever holds _busy takes everything; a piece of work added after its last look has a drain of its own coming.
        while self._queue and self._busy.acquire(False):
            try:
                while self._queue:
                    work = self._queue.popleft()
                    try:
                        work()
                    except Exception:
                        _log.exception("a callback raised; nobody is there to catch it")
            finally:
                self._busy.release()
