"""The handlers' workers: how many there are, who of them reads, and which call each runs next.

Threads::

    reader (whoever leads the wire) ──▶ WorkerPool.queue ──▶ workers (daemon, epyrpc-<api>-worker-N) ──▶ Dispatcher.run
    worker with nothing to do ──leads the wire──▶ reads its next call itself and runs it at once
    standby of the wire ──WorkerPool.look──▶ one more worker where the queue moves slowly

A worker is started when there is work and no idle one, up to the pool's size; it ends with the pool.
"""

from __future__ import annotations

import threading
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING, Any

from epyrpc.api.straight import LOST, NOTHING, OTHER, RAN, serve_straight
from epyrpc.interrupts import HandlerShield, set_handler_shield

if TYPE_CHECKING:
    from epyrpc.api.context import CurrentCall
    from epyrpc.api.dispatch import Dispatcher

BACKLOG_JOBS_PER_TICK = 20  # fewer than these done in a look, with more waiting: another worker helps
LOOK_SECONDS = 0.001
BUSY_LOOK_SECONDS = 0.02  # the same while every worker runs something: then only a deadlock could be found
CALM_LOOK_SECONDS = 0.1  # and none of them waits for a call, so that it would first have to begin to


class WorkerPool:
    """The handler workers of one api.

    Parameters
    ----------
    name : str
        For the threads.
    size : int
        How many handlers run at once at most. Threads are started when there is work for them.
    dispatcher : Dispatcher
        Whose calls they run.
    """

    # Guarded by lead.lock: idlers. queue is a deque whose single operations are atomic; one thread at a time appends.
    # Guarded by _lock: _threads, stopped.
    # Guarded by _strands_lock: _strands. A path is in it while an event of that path is queued or runs.

    def __init__(self, name: str, size: int, dispatcher: Dispatcher, api: Any = None) -> None:
        self.name = name
        self.api = api  # whose workers these are
        self.size = size
        self.queue: deque[CurrentCall] = deque()
        self.idlers: list[Any] = []
        self.running: dict[int, CurrentCall] = {}  # {thread id: call}
        self.done = 0
        self.stopped = False
        self.first: Any = None  # the parker of the worker that is preferred, while it has one
        self._reserved = False  # that worker is on its way
        self._first_ident = 0  # of its thread
        self._parkers: set[Any] = set()  # of the workers
        self._seen_done = 0
        self._dispatcher = dispatcher
        self._threads: dict[int, threading.Thread | None] = {}  # {number: thread}
        self._lock = threading.Lock()
        self.numbers: dict[int, int] = {}  # {thread id: which worker it is, from 0}
        self._strands: dict[str, deque[CurrentCall]] = {}  # {path: its events that wait for the one before}
        self.following: dict[int, deque[Any]] = {}  # {thread id: what is to be run with the event that it has begun}
        self._strands_lock = threading.Lock()

    def submit_event(self, event: CurrentCall) -> None:
        """Queue an event, and its `rest`; by the reader only.

        Events of one path are handled in the order in which they were sent, one at a time, however many workers there
        are: who appends them to a list finds them there in that order.
        """
        if self.size > 1:  # one worker keeps the order anyway
            with self._strands_lock:
                waiting = self._strands.get(event.path)
                if waiting is not None:
                    waiting.append(event)
                    return
                self._strands[event.path] = deque()
            event.in_strand = True
        self.queue.append(event)
        if self._dispatcher.wire.reads_for is not self:
            self.hire_or_look()  # else the reader is an idle worker of this pool, and runs it next

    def run_events(self, event: CurrentCall, shield: HandlerShield) -> None:
        """Run an event and its `rest`, then those of its path that wait; by the worker that took it off the queue."""
        path, dispatcher = event.path, self._dispatcher
        waiting = self._strands[path] if event.in_strand else None
        while True:
            dispatcher.run(event, self, shield, False)
            if event.rest is not None:
                self.following[shield.ident] = event.rest
                try:
                    dispatcher.run_following(event, self, shield)
                finally:
                    del self.following[shield.ident]
            if waiting is None:
                return
            try:
                event = waiting.popleft()
            except IndexError:
                with self._strands_lock:
                    if not waiting:
                        del self._strands[path]
                        return
                event = waiting.popleft()
            if self.stopped:
                with self._strands_lock:
                    del self._strands[path]
                for dropped in (event, *waiting):
                    dispatcher.drop_event(dropped)
                return

    @property
    def waiting(self) -> int:
        """How many calls and events wait for a worker."""
        heads = list(self.queue)
        with self._strands_lock:
            for strand in self._strands.values():
                heads += strand
        behind = [event.rest for event in heads if event.rest] + list(self.following.values())
        return len(heads) + sum(map(len, behind))

    def hire_or_look(self) -> None:
        """Get a worker for what was just queued; when all are busy, have it looked at, for it may be a deadlock."""
        if not self.hire() and len(self.queue) <= 1:
            self._dispatcher.need_tick()  # further ones find the standby looking every millisecond

    def hire(self, at_once: bool = False) -> bool:
        """Get one more worker to work: an idle one, or a new one while there may be more; False when all are busy."""
        wire = self._dispatcher.wire
        if (not at_once and self._is_first_coming()) or wire.lead.hire(self.idlers):
            wire.roused = True
            wire.need_tick()
            return True
        if self._reserved and len(self.queue) <= 1:
            return True  # the reserved worker looks at the queue when it comes
        return self._start_worker()

    def _is_first_coming(self) -> bool:
        """Whether the preferred worker neither runs a call nor sleeps: then it is about to look at the queue.

        Should it have taken another call this very moment, the standby finds this one waiting.
        """
        first = self.first
        return (
            first is not None
            and len(self.queue) <= 1
            and self._first_ident not in self.running
            and first not in self.idlers
            and not self.stopped
        )

    def _start_worker(self) -> bool:
        if self.stopped:
            self._dispatcher.remove_pool(self)  # what the reader has just queued comes too late
            return False
        with self._lock:
            if self.stopped or len(self._threads) >= self.size:
                return False
            number = next(i for i in range(self.size) if i not in self._threads)
            thread = threading.Thread(
                target=self._work, args=(number,), name=f"epyrpc-{self.name}-worker-{number}", daemon=True
            )
            self._threads[number] = thread
            try:
                thread.start()
            except RuntimeError as exc:
                del self._threads[number]
                if "shutdown" not in str(exc):
                    raise
                return False  # from 3.12 on an interpreter that ends starts no more threads; its calls end with it
        self._dispatcher.wire.roused = True
        self._dispatcher.wire.need_tick()
        return True

    def reserve(self) -> None:
        """Keep the first worker's place for `work_here`; before anything can be received, or another might take it."""
        with self._lock:
            self._threads[0] = None
            self._reserved = True

    def work_here(self) -> None:
        """Be the worker that was reserved, in the calling thread, until the pool stops; for the main thread of a body.

        It is preferred to the others whenever it is idle: only there a handler can be interrupted inside a system call.
        """
        self._first_ident = threading.get_ident()
        self.first = self._dispatcher.my_parker()
        self._work(0)

    def stop(self, *, wait: float = 5.0) -> None:
        """Let the workers end after what they are running; waits up to `wait` seconds. Callable from a worker."""
        with self._lock:
            self.stopped = True
            threads = [t for t in self._threads.values() if t is not None]
        wire = self._dispatcher.wire
        while wire.lead.hire(self.idlers):
            pass
        wire.link.wake()  # one of them may be reading
        limit = monotonic() + wait
        for thread in threads:
            if thread is not threading.current_thread():
                while thread.is_alive() and monotonic() < limit:
                    if not wire.over:
                        wire.link.wake()
                    thread.join(0.02)

    def _work(self, number: int) -> None:
        shield = HandlerShield()
        set_handler_shield(shield)
        ident = threading.get_ident()
        self.numbers[ident] = number
        try:
            self._loop(shield)
        finally:
            self.numbers.pop(ident, None)
            set_handler_shield(None)
            with self._lock:
                self._threads.pop(number, None)
            if self.stopped and not self._dispatcher.wire.over:
                self._dispatcher.remove_pool(self)  # this worker was to run what it had read itself

    def _loop(self, shield: HandlerShield) -> None:
        wire = self._dispatcher.wire
        lead, queue = wire.lead, self.queue
        me = self._dispatcher.my_parker()
        self._parkers.add(me)
        if me is self.first:
            self._reserved = False
        may_lead = True
        while not self.stopped:
            try:
                call = queue.popleft()
            except IndexError:
                pass  # not worked on in here: what a handler raises would have this for its context
            else:
                if call.solicited:
                    self._dispatcher.run(call, self, shield, not queue)
                else:
                    self.run_events(call, shield)
                may_lead = True
                continue
            verdict = lead.idle(me, queue, self.idlers, may_lead and not wire.over, self.first)
            if verdict is False:
                if me is self.first and lead.holder in self._parkers:
                    wire.link.wake()  # another worker reads, and is to give the lead to this one
                if not self.stopped:
                    me.lock.acquire()
                verdict = lead.stir(me, self.idlers)
            if verdict:
                may_lead = self._lead(me, shield)

    def _lead(self, me: Any, shield: HandlerShield) -> bool:
        """Read and run until there is a better reader.

        True when the lead was lost while running, so it may be taken again.
        """
        dispatcher = self._dispatcher
        wire = dispatcher.wire
        lead, queue, run = wire.lead, self.queue, dispatcher.run
        try:
            while not self.stopped and not wire._over:
                if wire.link.is_pipe and not queue:
                    came = serve_straight(self, dispatcher, me, shield)
                else:
                    wire.reads_for = self
                    came = OTHER if wire.read(None) else NOTHING
                    wire.reads_for = None
                if came == LOST:
                    return True
                if queue:
                    lead.run(me)
                    while queue and not self.stopped:
                        try:
                            call = queue.popleft()
                        except IndexError:  # another worker was quicker
                            break
                        if call.solicited:
                            run(call, self, shield, not queue)
                        else:
                            self.run_events(call, shield)
                    if not lead.resume(me):
                        return True
                    came = RAN
                if came == RAN:
                    if self.first is not me and self.first is not None and lead.give(me, self.first, self.idlers):
                        return False
                elif came == OTHER or lead.give(me, self.first, self.idlers):
                    return False  # it was for others: who waits for replies reads them with one hand-over less
        finally:
            if lead.holder is me:
                wire.reads_for = None
                lead.pass_on(me)
        return False

    def all_waiting(self) -> list[CurrentCall]:
        """Return the running calls if every worker runs one that itself waits for a call, else nothing."""
        calls = list(self.running.values())
        if len(calls) < self.size or any(call.waiting_on is None for call in calls):
            return []
        return calls

    def look(self) -> float | None:
        """Hire one more if the queue moves slowly; say after how many seconds to look again while there is a queue."""
        if not self.queue:
            return None
        moved, self._seen_done = self.done - self._seen_done, self.done
        if moved < BACKLOG_JOBS_PER_TICK:
            for _ in range(min(len(self.queue), self.size)):
                if not self.hire(True):  # the preferred worker did not come: it may be reading
                    break
        running = tuple(self.running.values())
        if len(running) < self.size:
            return LOOK_SECONDS
        return BUSY_LOOK_SECONDS if any(call.waiting_on is not None for call in running) else CALM_LOOK_SECONDS


__all__ = ["WorkerPool"]
