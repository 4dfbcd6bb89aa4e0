"""What a `Pool` is made of: its queue, and its members, which take from it.

Threads::

    any thread ──submit, map──▶ queue ──take──▶ member threads (epyrpc-pool-NAME_N), one for each body
        │                                         starts the body, feeds it, waits for its replies and settles futures,
        │                                         stops what is late, and replaces the process when it has died
        └── acts for idle members, whose threads sleep on: sends the first chunks of a map of short items, and takes
            their results in

A member's thread ends when the pool is shut down and nothing is left to do, or when it is not needed any more. They
hold the engine, never the `Pool`: a pool that nobody refers to is shut down.
"""

from __future__ import annotations

import builtins
import contextlib
import itertools
import logging
import math
import os
import sys
import threading
import types
import weakref
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING, Any

from epyrpc import codec
from epyrpc.bodies.pool_jobs import BURST_SECONDS, BURST_TASKS, Batch, Function, Task, Work
from epyrpc.bodies.pool_map import MapWork
from epyrpc.bodies.pool_member import Member
from epyrpc.errors import BodyLost, PoolBroken
from epyrpc.interrupts import SIGNAL_SECONDS, shielded

if TYPE_CHECKING:
    from collections.abc import Callable

_log = logging.getLogger("epyrpc.pool")
KEPT_FUNCTIONS = 64
KEPT_FUNCTION_BYTES = 1 << 20  # a larger one is kept for one map only
LARGE_FUNCTION_BYTES = 10 << 20
RELIEVED_SECONDS = 0.008  # a body that has more to do gives some of it to one that has nothing
HAND_SECONDS = 0.002  # how long the caller of a map waits for its first chunks itself
# From 3.12.0 on an interpreter refuses new threads as soon as it begins to end, before it waits for those that run
# (`_finish_all`); 3.13 only after that.
NO_LATE_THREADS = sys.version_info[:2] == (3, 12)
_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


class Settings:
    """What a pool was made with."""

    def __init__(self, **given: Any) -> None:
        self.initializer: Callable[..., Any] | None = given["initializer"]
        self.initargs: tuple[Any, ...] = given["initargs"]
        self.max_tasks_per_child: int | None = given["max_tasks_per_child"]
        self.start_method: str = given["start_method"]
        self.idle_timeout: float | None = given["idle_timeout"]
        self.threads: int | None = given["threads"]
        self.inherited: bool = given["inherited"]  # initargs travel with the process's start


class Engine:
    """The queue of a pool and its members."""

    # Guarded by lock: tasks, _maps, members, idle, size, closing, broken, _functions, and the inflight of each member.
    # Invariant: a member is in idle exactly while its thread waits in rest() and nobody else acts for it.

    def __init__(self, name: str, size: int, settings: Settings) -> None:
        self.name = name
        self.size = size  # how many members there may be
        self.settings = settings
        self.lock = threading.Lock()
        self.tasks: deque[tuple[Task, int]] = deque()  # with how often each has been lost
        self._maps: deque[MapWork] = deque()
        self.members: list[Member] = []
        self.idle: list[Member] = []
        self.closing = False
        self.broken: PoolBroken | None = None
        self.failed_starts = 0.0  # in a row
        self.mistakes = 0  # how often a member's thread has failed
        self.handlers: dict[str, Callable[..., Any]] = {}  # for every body, later ones too
        self.listeners: dict[str, Callable[..., Any]] = {}
        self._functions: dict[bytes, Function] = {}  # the most recent ones, by what they are encoded as
        # {function that travels by name: that name, and how it travels}
        self._named: weakref.WeakKeyDictionary[Callable[..., Any], tuple[str, Function]] = weakref.WeakKeyDictionary()
        self._numbers = itertools.count(1)
        self._tasks_turn = True
        self.changed = threading.Condition(self.lock)  # a member has become ready, or has gone
        self.owner_pid = os.getpid()
        with self.lock:
            try:
                for _ in range(size):
                    self._add_member()
            except BaseException:  # a name is taken; those that have been begun end by themselves
                self.closing = True
                raise
        _engines.add(self)

    # --- members

    def _add_member(self) -> None:
        member = Member(self, f"{self.name}_{next(self._numbers)}")
        try:
            member.thread.start()  # it waits for the lock, which is held here
        except RuntimeError:  # the system has no thread to give, or the interpreter is ending
            member.body.stop(0)
            member.discard()
            raise
        self.members.append(member)

    def scale(self, size: int) -> None:
        """Have so many bodies from now on; those too many end after what they run."""
        with self.lock:
            self.check_open()
            self.size = size
            staying = [member for member in self.members if not member.retired]
            for _ in range(size - len(staying)):
                self._add_member()
            # Idle ones first: nobody has to wait for them.
            for member in sorted(staying, key=lambda m: (m not in self.idle, -m.serial))[: max(0, len(staying) - size)]:
                member.retired = True
            self._wake_all()

    def rest(self, member: Member) -> bool:
        """Let a member wait until there may be something to do; False when it is to end."""
        with self.lock:
            if self.broken is not None:
                return False
            if self._has_something():
                return not member.retired
            if member.retired or (self.closing and self._is_all_given_out()):
                return False
            self.idle.append(member)
            self._relieve_another()
            try:
                in_time = member.condition.wait(self.settings.idle_timeout)
                while member.lent:
                    member.stirred = True
                    member.condition.wait()
                    in_time = True
                member.stirred = False
            finally:
                with contextlib.suppress(ValueError):  # whoever woke it has taken it out
                    self.idle.remove(member)
            if not in_time and not self._has_something() and not member.inflight:
                member.retired = True
                return False
            return True

    def _relieve_another(self) -> None:
        """Have the body that has most to do give some of it back, if that is worth the while."""
        seconds, busiest = max(
            ((member.seconds_left(), member) for member in self.members), key=lambda pair: pair[0], default=(0.0, None)
        )
        if busiest is not None and seconds > RELIEVED_SECONDS:
            busiest.ask_for_relief()

    def gone(self, member: Member) -> None:
        """Hear that a member's thread ends."""
        with self.lock:
            self.members.remove(member)
            if not self.closing and self.broken is None and not member.retired:
                self._add_member()  # it ended by a mistake of ours, which was logged
            elif self._has_something():
                self._wake_one()
            if self.closing and not self.members:
                self.settings.initargs = ()  # no process will ask for them any more, and they may be large
            self.changed.notify_all()

    def ready(self, timeout: float | None = None) -> list[Member]:
        """Return the members that have a body, waiting for the first one.

        Raises
        ------
        RuntimeError, PoolBroken
            There will be none.
        """
        self.check_owner()
        with self.lock:
            self._wait_until(lambda: bool(self._find_ready()), timeout)
            return self._find_ready()

    def _find_ready(self) -> list[Member]:
        self.check_open()
        if not self.members:
            self._add_member()
        return [member for member in self.members if member.ready and not member.retired]

    def wait_for_all(self, timeout: float | None = None) -> list[Member]:
        """Return all members, once each of them has a body; but for the one on whose thread a callback asks for it."""
        self.check_owner()
        caller = threading.current_thread()
        with self.lock:
            self.check_open()
            while len(self.members) < self.size:
                self._add_member()
            self._wait_until(
                lambda: (
                    self.closing or self.broken is not None or all(m.ready or m.thread is caller for m in self.members)
                ),
                timeout,
            )
            self.check_open()
            return [member for member in self.members if member.ready and not member.retired]

    def _wait_until(self, condition: Callable[[], bool], timeout: float | None = None) -> None:
        """Wait for a change of the members, holding the lock, at most so long.

        An interrupt is heard within a moment, whichever thread the system gives it to.
        """
        limit = math.inf if timeout is None else monotonic() + timeout
        while not condition() and (left := limit - monotonic()) > 0:
            self.changed.wait(min(left, SIGNAL_SECONDS))

    # --- the queue

    def encode_function(self, function: Callable[..., Any], *, once: bool = False) -> Function:
        """Return a function ready to travel: the one that travelled before, if it is the same down to what it captures.

        Raises
        ------
        CodecError
            It cannot be pickled.
        """
        name = codec.reference_to(function) if type(function) is types.FunctionType else None
        if name is not None:  # it travels by its name, whatever it refers to
            with self.lock:
                named = self._named.get(function)
            if named is not None and named[0] == name:
                return named[1]
        made = Function(function)
        if made.size_bytes >= LARGE_FUNCTION_BYTES:
            _log.warning(
                "%s captures %.0f MB, which travel once to each body of %s%s",
                made.name,
                made.size_bytes / 1e6,
                self.name,
                " for each task: use map(), which sends it once" if not once else "",
            )
        if made.buffers or made.shared or made.size_bytes > KEPT_FUNCTION_BYTES:
            known = made
        else:
            with self.lock:
                known = self._functions.pop(made.payload, made)
                self._functions[made.payload] = known  # now the most recent
                if len(self._functions) > KEPT_FUNCTIONS:
                    del self._functions[next(iter(self._functions))]
        if known is made:
            weakref.finalize(made, _forget, weakref.ref(self), made.token).atexit = False
        if name is not None:
            with self.lock:
                self._named[function] = (name, known)
        return known

    def add_task(self, task: Task) -> None:
        """Queue a task."""
        with self.lock:
            self.check_open()
            self.tasks.append((task, 0))
            self._wake_one()
        if NO_LATE_THREADS:
            self._wait_for_launches()

    def _wait_for_launches(self) -> None:
        """Let the processes start, with all threads that go with them, before the interpreter may begin to end."""
        caller = threading.current_thread()
        with self.lock:
            self._wait_until(
                lambda: (
                    self.closing
                    or self.broken is not None
                    or all(member.launched or member.thread is caller for member in self.members)
                )
            )

    def add_map(self, work: MapWork) -> None:
        """Queue a map."""
        with self.lock:
            self.check_open()
            if not work.is_given_out():
                self._maps.append(work)
                if not work.is_light:
                    self._wake_enough()
        if NO_LATE_THREADS:
            self._wait_for_launches()
        if work.is_light:
            try:
                self._lend_a_hand()
            except BaseException:  # an interrupt that came meanwhile: nobody gets the results
                work.close(stop=True)
                raise
        elif work._feeder is not None:
            work._feeder.start()

    @shielded
    def _lend_a_hand(self) -> None:
        """Act for idle members, on this thread: send what they would take, and take in what is soon done.

        That is a whole map of short items, for which two changes of threads each would be most of the time. What
        cannot be sent, or takes longer, is left to the members' own threads.
        """
        lent: list[tuple[Member, Batch]] = []
        try:
            if self._send_to_idle(lent) and not self._has_something():
                limit = monotonic() + HAND_SECONDS
                for member, batch in lent:
                    if not member.finish_for(batch, limit):
                        return
        finally:
            self._return_lent([member for member, _ in lent])

    def _send_to_idle(self, lent: list[tuple[Member, Batch]]) -> bool:
        try:
            while (pair := self._take_for_idle()) is not None:
                lent.append(pair)
                if not pair[0].send_for(pair[1]):
                    return False
        except Exception:  # a mistake of ours: the members' threads will make it too, and know what to do about it
            _log.exception("%s: the first chunks of a map could not be sent at once", self.name)
            return False
        return True

    def _return_lent(self, lent: list[Member]) -> None:
        """Let members act for themselves again; those that all have nothing to do sleep on."""
        with self.lock:
            awake = self.closing or self.broken is not None or self._has_something()
            awake = awake or self.settings.idle_timeout is not None  # which begins anew
            awake = awake or any(member.has_business() for member in lent)
            for member in reversed(lent):
                member.lent = False
                if awake or member.stirred:
                    member.condition.notify_all()
                else:
                    self.idle.append(member)
            if self._has_something():
                self._wake_enough()

    def _take_for_idle(self) -> tuple[Member, Batch] | None:
        """Take an idle member and a batch for it; from then on the caller acts for the member."""
        with self.lock:
            member = self.idle[-1] if self.idle else None
            # Not where other work is waiting: what it takes to send it is not known, and tasks have callbacks.
            if member is None or not member.has_body() or self.tasks or len(self._maps) != 1:
                return None
            if not self._maps[0].is_light:
                return None
            batch = self._take(member)
            if batch is None:
                return None
            self.idle.pop()
            member.lent = True
            return member, batch

    def take(self, member: Member) -> Batch | None:
        """Give a member its next batch; None when there is none for it now."""
        with self.lock:
            batch = self._take(member)
            if batch is not None and self._has_something():
                self._wake_one()
            return batch

    def _take(self, member: Member) -> Batch | None:
        if self.broken is not None or member.retired:
            return None
        at_most = member.tasks_left()
        if at_most == 0:
            return None
        for tasks in (self._tasks_turn, not self._tasks_turn):
            batch = self._take_task(member) if tasks else self._take_of_map(member, at_most)
            if batch is not None:
                self._tasks_turn = not tasks  # they take turns, so that nothing waits for a long map
                member.note(batch)
                return batch
            if self.tasks if tasks else any(work.has_more() for work in self._maps):
                break  # it may not be sent ahead, and its turn it is: were others sent, it would never come
        return None

    def _take_task(self, member: Member) -> Batch | None:
        ahead = len(member.inflight)
        while self.tasks:
            task, attempts = self.tasks[0]
            if ahead and (self.idle or not _may_burst(task.cost.seconds, ahead)):
                return None
            self.tasks.popleft()
            if task.begin():
                task.batch = Batch(task, 0, (None,), attempts)
                return task.batch
        return None

    def _take_of_map(self, member: Member, at_most: int | None) -> Batch | None:
        for _ in range(len(self._maps)):
            work = self._maps[0]
            batch = work.take(len(member.inflight), max(1, len(self.members)), at_most)
            if work.is_given_out():
                self._maps.popleft()
                if self.closing:
                    self._wake_all()
            elif batch is not None or not work.has_more():
                self._maps.rotate(-1)
            if batch is not None or (self._maps and work is self._maps[0] and work.has_more()):
                return batch  # None: may not be sent ahead, and it is its turn
        return None

    def put_back(self, work: Work, batches: list[Batch], *, its_turn: bool = False) -> None:
        """Take items back that did not run; with `its_turn` they are the next: their turn has come to nothing."""
        if not batches:
            return
        with self.lock:
            work.put_back(batches)
            if isinstance(work, MapWork):
                if its_turn and work in self._maps:
                    self._maps.remove(work)
                if work not in self._maps and not work.is_given_out():
                    self._maps.appendleft(work)
            if its_turn:
                self._tasks_turn = not isinstance(work, MapWork)
            self._wake_one()

    def drop(self, work: MapWork, *, stop: bool) -> None:
        """Give nothing more of a map away; with `stop`, stop what runs of it."""
        with self.lock:
            if work in self._maps:
                self._maps.remove(work)
            running = [batch for member in self.members for batch in member.inflight if batch.work is work]
            self._wake_all()
        if stop:
            for batch in running:
                if batch.call is not None:
                    batch.call.cancel()

    def _has_something(self) -> bool:
        return bool(self.tasks) or any(work.has_more() for work in self._maps)

    def _is_all_given_out(self) -> bool:
        return not self.tasks and all(work.is_given_out() for work in self._maps)

    def wake_one(self) -> None:
        """Wake an idle member; holding the lock."""
        self._wake_one()

    def wake_all(self) -> None:
        """Wake all idle members; holding the lock."""
        self._wake_all()

    def _wake_one(self) -> None:
        if self.idle:
            self.idle.pop().condition.notify_all()
        elif len(self.members) < self.size and not self.closing and self.broken is None:
            self._add_member()  # some had gone because there was nothing to do

    def _wake_enough(self) -> None:
        """Wake whoever may take of a map; whoever takes some of it sees to it that others come."""
        if self.idle:
            self._wake_all()
        else:
            self._wake_one()

    def _wake_all(self) -> None:
        while self.idle:
            self.idle.pop().condition.notify_all()

    # --- the end

    def check_owner(self) -> None:
        """Raise in a forked child, whose parent has the threads and the bodies."""
        if os.getpid() != self.owner_pid:
            raise BodyLost(
                f"pool {self.name!r} belongs to process {self.owner_pid}; a forked child cannot use it: make another",
                self.name,
            )

    def check_open(self) -> None:
        """Raise if nothing can be submitted any more.

        Raises
        ------
        PoolBroken
            The initializer failed, or bodies do not start.
        RuntimeError
            It was shut down.
        """
        if self.broken is not None:
            raise PoolBroken(str(self.broken), self.name) from self.broken.__cause__
        if self.closing:
            raise RuntimeError("cannot schedule new futures after shutdown")

    def break_down(self, error: PoolBroken) -> None:
        """End everything that is pending with an error; the pool cannot be used after it."""
        with self.lock:
            if self.broken is not None:
                return
            self.broken = error
            tasks, self.tasks = list(self.tasks), deque()
            maps, self._maps = list(self._maps), deque()
            members = list(self.members)
            self._wake_all()
            self.changed.notify_all()
        for task, _ in tasks:
            task.fail(error)
        for work in maps:
            work.fail(error)
        for member in members:
            member.kill()

    def shutdown(self, *, wait: bool = True, cancel: bool = False) -> None:
        """Take nothing more; end when everything that was taken is done."""
        if os.getpid() != self.owner_pid:
            return  # a forked child has nothing to shut down: it is all its parent's
        with self.lock:
            self.closing = True
            dropped: list[Task] = []
            maps = list(self._maps)
            if cancel:
                # A body that is just being started is about to take one: as with executors, that one counts as begun.
                kept = sum(not member.ready and not member.inflight for member in self.members)
                dropped = [task for task, _ in itertools.islice(self.tasks, kept, None)]
                self.tasks = deque(itertools.islice(self.tasks, kept))
                self._maps.clear()
            self._wake_all()
            self.changed.notify_all()
            threads = [member.thread for member in self.members]
            unneeded = [member for member in self.members if not member.ready and not member.inflight]
            if not self._is_all_given_out():
                unneeded = []
        for task in dropped:
            if task.future.cancel():
                task.future.set_running_or_notify_cancel()
            else:
                task.future._cancel_running()  # it came back when its body died before it began
        for work in maps:
            if work._feeder is not None:
                work._feeder.stop()
            if cancel:
                work.fail(cancelled_error())
        for member in unneeded:
            member.stop_starting()
        if wait:
            for thread in threads:
                if thread is not threading.current_thread():
                    thread.join()

    def __repr__(self) -> str:
        return f"<Engine {self.name}: {len(self.members)} of {self.size} bodies, {len(self.tasks)} tasks queued>"


def _forget(engine: weakref.ref[Engine], token: int) -> None:
    """Let the bodies forget a function that nothing refers to; called by the collector, so without a lock."""
    pool = engine()
    for member in tuple(pool.members) if pool is not None else ():
        member.forget(token)


def cancelled_error() -> BaseException:
    """Return what a map raises whose pool was shut down before it was done."""
    from concurrent.futures import CancelledError

    return CancelledError("the pool was shut down, and what had not begun was cancelled")


def _may_burst(cost: float | None, ahead: int) -> bool:
    return cost is not None and ahead < BURST_TASKS and cost * ahead < BURST_SECONDS


def _finish_all() -> None:
    """Before the interpreter ends, what was submitted is done, as with the standard library's executors.

    A notebook's kernel that is told to end does not wait: whoever restarts it wants nothing of the old one.
    """
    is_kernel = "ipykernel" in sys.modules and hasattr(builtins, "__IPYTHON__")
    for engine in list(_engines):
        engine.shutdown(wait=not is_kernel, cancel=is_kernel)
        if is_kernel:
            for member in list(engine.members):
                member.kill()


def _forget_after_fork() -> None:
    _engines.clear()


# As concurrent.futures does: before the daemon threads are frozen, which an atexit function would come after.
_register = getattr(threading, "_register_atexit", None)
if _register is not None:
    _register(_finish_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)

__all__ = ["Engine", "Settings", "cancelled_error"]
