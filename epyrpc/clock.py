"""Time as something that is passed in, the heap of deadlines, and durations as people give and read them.

Whatever measures time takes a `Clock`, so that a test advances five seconds in no time (`epyrpc.testing.ManualClock`).
Each end has one `DeadlineHeap` for all its calls instead of a timer thread for each.
"""

from __future__ import annotations

import heapq
import math
import time
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar

from epyrpc.errors import ApiParamError

if TYPE_CHECKING:
    from collections.abc import Hashable

KeyT = TypeVar("KeyT", bound="Hashable")

# Below this size sweeping out stale entries is not worth its while.
_COMPACT_MIN = 64


class Clock(Protocol):
    """A source of time that never goes back."""

    def monotonic(self) -> float:
        """Return seconds since some fixed moment; may be called on any thread."""
        ...


class _SystemClock:
    """The clock of the operating system."""

    monotonic = staticmethod(time.monotonic)

    def __repr__(self) -> str:
        """Name the constant."""
        return "SYSTEM_CLOCK"


SYSTEM_CLOCK: Final[Clock] = _SystemClock()


class DeadlineHeap(Generic[KeyT]):
    """Keys with the times at which they become due, the earliest at hand.

    Discarding is lazy: an entry is left in the heap until it comes up, or until stale entries outnumber the live ones.
    So a call that ends long before its deadline costs a dictionary removal, and the memory held is proportional to
    the live keys.

    Not thread-safe: its owner holds a lock around every method.

    Parameters
    ----------
    clock : Clock, optional
        What `pop_due` asks for the time.

    Examples
    --------
    >>> from epyrpc.testing import ManualClock
    >>> clock = ManualClock()
    >>> heap = DeadlineHeap(clock)
    >>> heap.push(clock.monotonic() + 5, "call 1")
    True
    >>> clock.advance(5)
    >>> heap.pop_due()
    ['call 1']
    """

    # Invariant: each live key has exactly one entry in the heap with the number noted in _live; all others are stale.

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._heap: list[tuple[float, int, KeyT]] = []
        self._live: dict[KeyT, int] = {}  # {key: number of its entry}
        self._count = 0

    def __len__(self) -> int:
        """Return the number of live keys."""
        return len(self._live)

    def __contains__(self, key: object) -> bool:
        """Return whether a key is live."""
        return key in self._live

    def push(self, when: float, key: KeyT) -> bool:
        """Note that a key is due at a time; a key that is there already is moved.

        Parameters
        ----------
        when : float
            Seconds on the heap's clock.
        key : hashable
            What becomes due.

        Returns
        -------
        bool
            True when the key became the earliest, so that whoever waits for the earliest must look again.

        Raises
        ------
        ApiParamError
            `when` is infinite or not a number: what never becomes due has no business here.
        """
        if not math.isfinite(when):
            raise ApiParamError("when", when, "a finite number of seconds", "Do not push what has no deadline.")
        self._count += 1
        # The number also decides between equal times, first come first due, so that keys need not be comparable.
        entry = (when, self._count, key)
        self._live[key] = self._count
        heapq.heappush(self._heap, entry)
        if len(self._heap) > _COMPACT_MIN:
            self._compact()
        self._drop_stale()
        return self._heap[0] is entry

    def discard(self, key: KeyT) -> None:
        """Forget a key; one that is not there is fine."""
        if self._live.pop(key, None) is not None and len(self._heap) > _COMPACT_MIN:
            self._compact()

    def next(self) -> float | None:
        """Return the time of the earliest live key in seconds of the clock, or None when there is no key."""
        self._drop_stale()
        return self._heap[0][0] if self._heap else None

    def pop_due(self) -> list[KeyT]:
        """Take out the keys whose time has come, the earliest first."""
        now = self._clock.monotonic()
        due: list[KeyT] = []
        heap, live = self._heap, self._live
        while heap and heap[0][0] <= now:
            _, number, key = heapq.heappop(heap)
            if live.get(key) == number:
                del live[key]
                due.append(key)
        return due

    def clear(self) -> None:
        """Forget every key."""
        self._heap.clear()
        self._live.clear()

    def validate(self) -> None:
        """Raise `AssertionError` unless the invariants hold; for tests."""
        entries = {number: key for _, number, key in self._heap}
        if len(entries) != len(self._heap) or any(entries.get(number) != key for key, number in self._live.items()):
            raise AssertionError("a live key has not exactly one entry in the heap")
        if len(self._heap) > max(_COMPACT_MIN, 2 * len(self._live) + 1):
            raise AssertionError(f"{len(self._heap)} entries are kept for {len(self._live)} live keys")
        if any(self._heap[(i - 1) // 2] > entry for i, entry in enumerate(self._heap) if i):
            raise AssertionError("the heap is out of order")

    def _drop_stale(self) -> None:
        heap, live = self._heap, self._live
        while heap and live.get(heap[0][2]) != heap[0][1]:
            heapq.heappop(heap)

    def _compact(self) -> None:
        """Sweep out the stale entries once they outnumber the live ones."""
        if len(self._heap) > 2 * len(self._live):
            self._heap[:] = [entry for entry in self._heap if self._live.get(entry[2]) == entry[1]]
            heapq.heapify(self._heap)


def check_timeout(timeout: Any, item: str = "timeout") -> float | None:
    """Return a time limit in seconds, or None for ever.

    Raises
    ------
    ApiParamError
        It is negative, not a number, or NaN.
    """
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not timeout >= 0:
        raise ApiParamError(item, timeout, "None (for ever) or a number of seconds, 0 or more")
    return float(timeout) if timeout != float("inf") else None


def format_seconds(seconds: float) -> str:
    """Return a duration as people read it: ``0.4 ms``, ``842 ms``, ``1.24 s``, ``2 min 05 s``, ``1 h 04 min``."""
    if seconds < 0.1:
        return f"{seconds * 1000:.1f} ms"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.{2 if seconds < 10 else 1}f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
