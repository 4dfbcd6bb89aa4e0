"""What takes its time at the end that answers: late starts, cancels that escalate, deadlocks, a backlog.

Threads: `Overdue.look` is called by the wire's standby; the rest by any thread.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from epyrpc import messages
from epyrpc.api.context import OUTPUT_SECONDS, CallCancelled, deadlock_error

if TYPE_CHECKING:
    from epyrpc.api.context import CurrentCall

ANNOUNCE_SECONDS = 0.01  # a call that runs longer is announced as running
RAISE_SECONDS = 0.1  # a cancelled handler that has not stopped by then is interrupted
GIVE_UP_SECONDS = 2.0  # ... and one that still has not by then is reported as still running


class Overdue:
    """Looks after the calls of a `Dispatcher` for as long as they run, and after those that are to stop."""

    # Guarded by _lock: _stopping.

    def __init__(self, dispatcher: Any) -> None:
        self._dispatcher = dispatcher
        self._lock = threading.Lock()
        self._stopping: list[CurrentCall] = []

    def add(self, call: CurrentCall) -> None:
        """Stop a call in steps; see that `look` is called."""
        with self._lock:
            self._stopping.append(call)

    def drop(self, call: CurrentCall) -> None:
        """Let a call be: it has ended, or is given up."""
        with self._lock:
            if call in self._stopping:
                self._stopping.remove(call)

    def abandon(self) -> None:
        """In a forked child: the calls are the parent's."""
        self._lock = threading.Lock()
        self._stopping.clear()

    def look(self, now: float) -> float | None:
        """Look at everything that takes its time; return when to look again, None while nothing runs."""
        due: float | None = None
        run = False
        for pool in self._dispatcher.pools:
            again = pool.look()
            if again is not None:
                due = _earlier(due, now + again)
            for ident, call in list(pool.running.items()):
                run = True
                due = self._look_at(call, pool.numbers.get(ident, -1) + 1, now, due)
        for call in list(self._stopping):
            due = self._escalate(call, now, due)
        self._look_for_deadlocks()
        self._dispatcher.wire.handlers_run = run
        return due

    def _look_at(self, call: CurrentCall, worker: int, now: float, due: float | None) -> float | None:
        if not call.announced and call.solicited:
            if now - call._started_at >= ANNOUNCE_SECONDS:
                call.announced = True
                call.worker = worker
                # How long it has been running, and where.
                since = messages.CallOptions(now - call._started_at, 0, worker)
                self._dispatcher.try_send(messages.STARTED, call._tid, options=since)
            else:
                due = _earlier(due, call._started_at + ANNOUNCE_SECONDS)
        if call._output:
            call.flush_lines(now)
        if call._output is not None:
            due = _earlier(due, now + OUTPUT_SECONDS)
        return due

    def _escalate(self, call: CurrentCall, now: float, due: float | None) -> float | None:
        spent = now - call._cancelled_at
        if not call._told and spent >= RAISE_SECONDS:
            call._told = True
            waiting_on = call.waiting_on
            if waiting_on is not None:
                waiting_on.cancel()  # what it waits for ends, so that it comes out of the wire
            # A task is not interrupted: it was cancelled at once, in asyncio's own way, and its thread runs others too.
            if call._shield is not None and call.task is None:
                call._injected = True  # before it can have ended the call
                call._shield.interrupt(CallCancelled, call)
        elif call._told and spent >= GIVE_UP_SECONDS:
            self.drop(call)
            self._dispatcher.try_send(messages.STOPPED, call._tid, path="still_running")
            return due
        return _earlier(due, call._cancelled_at + (GIVE_UP_SECONDS if call._told else RAISE_SECONDS))

    def _look_for_deadlocks(self) -> None:
        """Fail the queued calls that can never run: every worker of their pool waits, in the end, for such a call."""
        dispatcher = self._dispatcher
        stuck = {pool: calls for pool in dispatcher.pools if pool.queue and (calls := pool.all_waiting())}
        if not stuck:
            return
        running = {call.parent: call for call in dispatcher.running() if call.parent and call.solicited}
        while stuck:
            queued = {call.parent: call for pool in stuck for call in list(pool.queue) if call.awaited}
            ends = {pool: [_end_of_chain(call, queued, running) for call in calls] for pool, calls in stuck.items()}
            free = [pool for pool, found in ends.items() if not all(found)]
            if not free:
                break
            for pool in free:
                del stuck[pool]
        for pool, calls in stuck.items():
            for call in list(pool.queue):
                if any(call in found for found in ends.values()):
                    dispatcher.fail(call, deadlock_error(call, calls), refused=True)


def _end_of_chain(
    call: CurrentCall, queued: dict[int, CurrentCall], running: dict[int, CurrentCall]
) -> CurrentCall | None:
    """Return the queued call that a waiting handler waits for, over however many hops to the other end and back."""
    for _ in range(len(running) + 1):
        awaited = call.waiting_on
        if awaited is None:
            return None  # it has stopped waiting while we looked
        end = queued.get(awaited._tid)
        if end is not None:
            return end
        following = running.get(awaited._tid)
        if following is None or not following.awaited:
            return None
        call = following
    return None


def _earlier(due: float | None, when: float) -> float:
    return when if due is None or when < due else due


__all__ = ["Overdue"]
