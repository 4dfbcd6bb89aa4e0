"""Who may read the wire: one leader at a time, everybody else follows.

A thread that waits for a reply could sleep until a reader thread wakes it; that hand-over costs as much as the rest
of a call. So there is no reader thread: whoever waits reads (leader/followers, Schmidt et al. 2000). `Lead` is the
state machine that says who; it does no input or output and starts no thread, so that it can be tested by walking
through every order of moves. `transports.wire` drives it.

States and moves (`t`, `u` are parked or running threads, each known by its `Parker`)::

    VACANT      ──take(t)──────────▶ READING(t)     a caller that waits, a worker with nothing to do, the standby
    READING(t)  ──run(t)───────────▶ RUNNING(t)     t runs the handlers that it has just read, keeping the lead
    RUNNING(t)  ──resume(t)────────▶ READING(t)
    RUNNING(t)  ──rescue(u)────────▶ READING(u)     t takes too long: the standby reads on; t's resume() says False
    READING(t)  ──pass_on(t)───────▶ READING(u)     u the newest follower
                └──────────────────▶ VACANT         when nobody follows
    any         ──end()────────────▶ ENDED          the link is gone: nobody reads, everybody follows until settled

Only a thread in READING touches the link, and a thread is in READING only between the locked moves above: two readers
at once cannot be. A handler that starts to wait for a call of its own while it is RUNNING resumes reading itself.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sized

VACANT, READING, RUNNING, ENDED = "vacant", "reading", "running", "ended"


class Awaited(Protocol):
    """What a thread may wait for; `results.AsyncResult` is one."""

    settled: bool  # the outcome is there
    has_news: bool  # output of the call is there, to be shown by whoever waits
    parkers: list[Parker] | None  # the threads to be woken; guarded by the lead's lock


class Parker:
    """Where one thread sleeps, and what it finds when it wakes."""

    __slots__ = ("leads", "lock", "parked")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.lock.acquire()
        self.leads = False  # woken to lead
        self.parked = False  # Guarded by the lead's lock: whether somebody still owes this thread a release.

    def unpark(self) -> None:
        """Wake the thread; the lead's lock is held and `parked` is set."""
        self.parked = False
        self.lock.release()


class Lead:
    """The right to read one link.

    Attributes
    ----------
    lock : threading.Lock
        Guards everything here; held for a few instructions only, never while reading, writing or running user code.
    state : str
        `VACANT`, `READING`, `RUNNING` or `ENDED`.
    serial : int
        Counts the moves, but those of which a `run` or `pass_on` is sure to follow or has just been: who sees it
        unchanged knows that nobody has read since, or begun to run what was read.
    """

    # Invariant: holder is None exactly in VACANT and ENDED.
    # Invariant: a Parker in followers is parked; the holder is not in followers.

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.state = VACANT
        self.holder: Parker | None = None
        self.followers: dict[Parker, None] = {}  # callers, oldest first
        self.serial = 0
        self.sleeper: Parker | None = None  # the standby, while it sleeps without a limit

    # --- callers

    def take_or_follow(self, me: Parker, awaited: Awaited) -> bool | None:
        """Wait for `awaited`: True when `me` leads now, False when it must park.

        None when there is nothing to wait for.
        """
        with self.lock:
            if awaited.settled or awaited.has_news:
                return None
            if self.state is VACANT or self.holder is me:
                self.state = READING
                self.holder = me
                return True
            if awaited.parkers is None:
                awaited.parkers = [me]
            else:
                awaited.parkers.append(me)
            # Who settles sets `settled`, then looks for parkers, without this lock: so register first, look again
            # second.
            if awaited.settled or awaited.has_news:
                awaited.parkers.remove(me)
                return None
            me.leads = False
            me.parked = True
            self.followers[me] = None
            return False

    def leave(self, me: Parker, awaited: Awaited) -> bool:
        """Stop following, for whatever reason; True when `me` was promoted meanwhile and leads."""
        with self.lock:
            if awaited.parkers is not None and me in awaited.parkers:
                awaited.parkers.remove(me)
            self.followers.pop(me, None)
            if me.parked:
                me.parked = False
            else:
                me.lock.acquire(False)  # somebody released it; take that back, or the next park would not sleep
            leads, me.leads = me.leads, False
            return leads and self.holder is me

    def wake(self, awaited: Awaited) -> bool:
        """Wake those who wait for `awaited`; True when somebody reads, who may be waiting for it as well."""
        with self.lock:
            parkers, awaited.parkers = awaited.parkers, None
            for parker in parkers or ():
                if parker.parked:
                    self.followers.pop(parker, None)
                    parker.unpark()
            return self.state is READING

    # --- everybody

    def pass_on(self, me: Parker) -> None:
        """Give the lead away, to the newest follower or to nobody; nothing when `me` does not hold it any more."""
        with self.lock:
            if self.holder is not me:
                return
            if self.followers:
                parker, _ = self.followers.popitem()
                parker.leads = True
                self._move(READING, parker)
                parker.unpark()
            else:
                self.state = VACANT
                self.holder = None
                self.serial += 1
                if self.sleeper is not None:
                    self._rouse()

    def run(self, me: Parker) -> bool:
        """`me` is about to run handlers; True while it keeps the lead."""
        with self.lock:
            if self.holder is not me:
                return False
            self.state = RUNNING
            self.serial += 1
            if self.sleeper is not None:
                self._rouse()
            return True

    def resume(self, me: Parker) -> bool:
        """`me` is done running; True when it still leads and may read."""
        with self.lock:
            if self.holder is not me:
                return False
            self.state = READING
            return True

    def end(self) -> None:
        """The link is gone; followers stay parked until what they wait for is settled."""
        with self.lock:
            self._move(ENDED, None)
            self._rouse()

    # --- the standby and idle workers

    def take_vacant(self, me: Parker) -> bool:
        """Take the lead if nobody has it; `api.straight` has this unrolled, as `run`, `resume` and `pass_on`."""
        with self.lock:
            if self.state is not VACANT:
                return False
            self._move(READING, me)
            return True

    def idle(
        self, me: Parker, queue: Sized, idlers: list[Parker], may_lead: bool, first: Parker | None = None
    ) -> bool | None:
        """Find out what a worker without work does.

        None when there is work after all, True when it leads now, False when it must park. The `first` of the workers
        is preferred while it is idle: it gets the lead, and is the next to be hired.
        """
        with self.lock:
            if queue:
                return None
            if may_lead and self.state is VACANT:
                if first is None or first is me or first not in idlers:
                    self._move(READING, me)
                    return True
                self._give(first, idlers)
            me.parked = True
            if first is not None and idlers and idlers[-1] is first:
                idlers.insert(-1, me)
            else:
                idlers.append(me)
            return False

    def give(self, me: Parker, other: Parker | None, idlers: list[Parker]) -> bool:
        """Give the lead to an idle worker; False when `me` does not hold it, or the other is not idle."""
        with self.lock:
            if other is None or other is me or self.holder is not me or other not in idlers:
                return False
            self._give(other, idlers)
            return True

    def _give(self, other: Parker, idlers: list[Parker]) -> None:
        idlers.remove(other)
        other.leads = True
        self._move(READING, other)
        other.unpark()

    def stir(self, me: Parker, idlers: list[Parker]) -> bool:
        """Note that an idle worker is awake, by a release or because its time was up; True when it leads."""
        with self.lock:
            if me.parked:
                me.parked = False
                idlers.remove(me)
            else:
                me.lock.acquire(False)
            leads, me.leads = me.leads, False
            return leads and self.holder is me

    def hire(self, idlers: list[Parker]) -> bool:
        """Wake the worker that became idle last (its caches are warm); False when none is idle."""
        with self.lock:
            if not idlers:
                return False
            idlers.pop().unpark()
            return True

    def rescue(self, me: Parker, serial: int) -> bool:
        """Take the lead if nobody has it, or if its holder has run handlers since before `serial` was read."""
        with self.lock:
            if self.serial != serial or self.state not in (VACANT, RUNNING):
                return False
            self._move(READING, me)
            return True

    def sleep(self, me: Parker, serial: int) -> bool:
        """The standby wants to sleep until something moves.

        False when something did, or when a handler is being run.
        """
        with self.lock:
            if self.serial != serial or self.state in (VACANT, RUNNING):
                return False
            me.parked = True
            self.sleeper = me
            return True

    def rouse(self) -> None:
        """Wake the standby if it sleeps."""
        if self.sleeper is not None:
            with self.lock:
                self._rouse()

    def woken(self, me: Parker) -> None:
        """Say that the standby is awake, by a release or because its time was up."""
        with self.lock:
            self.sleeper = None
            if me.parked:
                me.parked = False
            else:
                me.lock.acquire(False)

    def _rouse(self) -> None:
        sleeper = self.sleeper
        if sleeper is not None:
            self.sleeper = None
            if sleeper.parked:
                sleeper.unpark()

    def abandon(self) -> None:
        """In a forked child: end, whoever holds the lock."""
        self.lock = threading.Lock()
        self.followers.clear()
        self.sleeper = None
        self._move(ENDED, None)

    def _move(self, state: str, holder: Parker | None) -> None:
        if self.state is ENDED:
            state, holder = ENDED, None
        self.state = state
        self.holder = holder
        self.serial += 1

    def validate(self) -> None:
        """Raise AssertionError if an invariant does not hold; tests call it between moves."""
        with self.lock:
            if (self.holder is None) != (self.state in (VACANT, ENDED)):
                raise AssertionError(f"{self.state} with holder {self.holder}")
            if self.holder is not None and self.holder in self.followers:
                raise AssertionError("the holder follows itself")
            if any(not parker.parked for parker in self.followers):
                raise AssertionError("a follower is owed no release")
