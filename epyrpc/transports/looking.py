"""Whether a thread that waits for the other end looks for a while before it is put to sleep.

While two processes answer each other within microseconds, each on a core of its own, to fall asleep and to be woken
takes longer than all the rest of a call. So the reader of a pipe may look some dozen times whether something has come
before it sleeps (competitive spinning: Karlin, Li, Manasse, Owicki, "Empirical studies of competitive spinning for a
shared-memory multiprocessor", 1991). Where the other end takes its time, has to wait for this very core, or where
others want it, that only costs. Which it is cannot be told beforehand, so it is tried: looking is kept up as long as
the same number of waits goes by faster with it than it did without.

This module starts no thread; an instance belongs to whoever reads.
"""

from __future__ import annotations

from math import inf
from time import monotonic
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

LOOKS = 80  # about 0.4 µs each
EPOCH = 64  # waits that are timed together
TRIAL = 6  # epochs of looking before it is judged by the best of them; at first both ends may still share a core
GAIN = 0.9  # of the time without is what looking has to get by with
DOUBTS = 8  # epochs in a row that took no less than without, after which it is given up
REST = 4  # epochs without looking before the first trial
LONG_REST = 64  # ... after the first trial in vain; each further one doubles it
LONGEST_REST = 1024


class Looker:
    """Looks for something to read.

    Parameters
    ----------
    poll : callable
        ``poll(0)`` returns what is ready, without waiting.
    clock : callable
        Returns the time in seconds.

    Attributes
    ----------
    looking : bool
        Whether `look` looks.
    left : int
        Waits until the time is taken again. Who is about to wait counts one down, and calls `look` while `looking`,
        or when none is left.
    """

    # Invariant: _trial is above 0 only while `looking`; _rest only while not.

    def __init__(self, poll: Callable[[float], list[tuple[int, int]]], clock: Callable[[], float] = monotonic) -> None:
        self.looking = False
        self._poll = poll
        self._clock = clock
        self.left = EPOCH
        self._begun = inf  # when it began
        self._without = inf  # the time of the fastest epoch without looking since looking was last given up
        self._best = inf  # ... and of the fastest of this trial
        self._trial = 0  # epochs left of it
        self._doubts = 0
        self._rest = REST  # epochs left without looking
        self._next_rest = LONG_REST

    def look(self) -> list[tuple[int, int]]:
        """Return what is ready; empty when there is nothing for a while, or when it is not worth the looking."""
        if not self.left:
            self._end_epoch()
        ready: list[tuple[int, int]] = []
        if self.looking:
            poll = self._poll
            for _ in range(LOOKS):
                ready = poll(0)
                if ready:
                    break
        return ready

    def _end_epoch(self) -> None:
        now = self._clock()
        took, self._begun, self.left = now - self._begun, now, EPOCH
        if took < 0:  # the first: it has no beginning
            return
        if not self.looking:
            self._without = min(self._without, took)
            self._rest -= 1
            if not self._rest:
                self.looking, self._trial, self._best = True, TRIAL, inf
        elif self._trial:
            self._best = min(self._best, took)
            self._trial -= 1
            if not self._trial and self._best > GAIN * self._without:
                self._give_up()
        elif took < self._without:
            self._doubts = 0
            self._next_rest = LONG_REST
        else:
            self._doubts += 1
            if self._doubts == DOUBTS:
                self._give_up()

    def _give_up(self) -> None:
        self.looking, self._doubts, self._without = False, 0, inf
        self._rest, self._next_rest = self._next_rest, min(2 * self._next_rest, LONGEST_REST)
