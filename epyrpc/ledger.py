"""What is kept of calls that have ended: rows of numbers, not an object for each call.

Ten thousand calls a second are to be watched beside those who make them. So the facts are taken from many calls at
once, by functions that loop in C, and kept as numbers beside one another, which no garbage collection walks through,
and which can be sent as they are.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left
from collections import deque
from itertools import chain
from operator import add, attrgetter, sub
from typing import TYPE_CHECKING, Any, NamedTuple

from epyrpc.ids import TransactionId
from epyrpc.results import CallState, size_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from epyrpc.results import AsyncResult

    Rows = array[float]

STATES: tuple[CallState, ...] = tuple(CallState)
CODES: dict[str, int] = {state.value: code for code, state in enumerate(STATES)}
ENDED_CODE = CODES["done"]  # this one and those above it have ended
# {state's number: that of one which is told as being under way; it may end at this very moment}
OPEN: tuple[int, ...] = (*range(ENDED_CODE), *[CODES["running"]] * (len(STATES) - ENDED_CODE))
INCOMING, EVENT = 8, 16  # added to a state's number

# What a row has, each a float:
#   0  the how-manieth of its observer     4  word: whom it went to     8  seconds to its end, or until now
#   1  word: what its id begins with       5  state, and INCOMING and EVENT      9  handler worker, or 0
#   2  the count in its id                 6  begin, in seconds since 1970      10  bytes both ways
#   3  word: its path                      7  seconds until it ran, or -1
WIDTH = 11
CODE, ELAPSED = 5, 8

_END_BITS = TransactionId.COUNT_BITS
_COUNT_MASK = (1 << _END_BITS) - 1
_facts_of = attrgetter(
    *("path", "_undecoded", "_call_state", "_started", "_ended", "_ran_from", "_tid", "target", "_sent", "_received")
)
path_of, _worker_of = attrgetter("path"), attrgetter("_worker")


class Facts(NamedTuple):
    """What is known of many calls that this process has made, an item for each call in each.

    Attributes
    ----------
    path, undecoded, state, started, ended, ran, tid, target, sent, received : tuple
        The attributes of `AsyncResult`, looked at in this order.
    """

    path: tuple[str, ...] = ()
    undecoded: tuple[Any, ...] = ()
    state: tuple[CallState, ...] = ()
    started: tuple[float, ...] = ()
    ended: tuple[float, ...] = ()
    ran: tuple[float | None, ...] = ()
    tid: tuple[int, ...] = ()
    target: tuple[str, ...] = ()
    sent: tuple[int, ...] = ()
    received: tuple[int, ...] = ()


def facts_of(calls: Iterable[Any]) -> Facts:
    """Look at each call once, since each is somewhere else in memory.

    Raises
    ------
    AttributeError
        One of them was not made by this process, but has come in.
    """
    return Facts(*zip(*map(_facts_of, calls), strict=True))


class Writer:
    """Writes rows, and knows the words in them.

    Parameters
    ----------
    offset : float
        To be added to a monotonic time, so that it counts from 1970.

    Attributes
    ----------
    words : dict
        The number of each word.
    """

    def __init__(self, offset: float) -> None:
        self.words: dict[str, int] = {}
        self._names: list[str] = []
        self._ends: dict[int, int] = {}  # {whose ids: number of the word in front of them}
        self._end_of: dict[int, int] = {}  # the other way round
        self._offset = offset

    def ended(self, numbers: Sequence[int], calls: Sequence[AsyncResult], facts: Facts) -> Rows:
        """Return the rows of calls that this process has made and that have ended well."""
        return self._of_calls(numbers, calls, facts, map(sub, facts.ended, facts.started))

    def under_way(self, numbers: Sequence[int], calls: Sequence[AsyncResult], now: float) -> Rows:
        """Return the rows of calls that this process has made and that have not ended."""
        facts = facts_of(calls)
        rows = self._of_calls(numbers, calls, facts, [now - begin for begin in facts.started])
        rows[CODE::WIDTH] = array("d", list(map(open_code, calls)))
        return rows

    def _of_calls(
        self, numbers: Sequence[int], calls: Sequence[AsyncResult], facts: Facts, elapsed: Iterable[float]
    ) -> Rows:
        sizes: Iterable[int] = map(add, facts.sent, facts.received)
        if facts.undecoded.count(None) < len(calls):
            sizes = map(add, sizes, map(_waiting_bytes, facts.undecoded))
        waited, workers = None, None
        if facts.ran.count(None) < len(calls):  # told of a few: those that run for more than a moment
            ran = zip(facts.ran, facts.started, strict=True)
            waited = [-1.0 if r is None else max(0.0, r - begin) for r, begin in ran]
            workers = list(map(_worker_of, calls))
        return self._write(
            numbers, facts.tid, facts.path, facts.target, None, facts.started, waited, elapsed, workers, sizes
        )

    def answers(self, numbers: Sequence[int], answers: Sequence[Any], now: float) -> Rows:
        """Return the rows of what came in (`WatchedCall`), and of events that were sent (`SentEvent`)."""
        codes = [
            (0 if call.outgoing else INCOMING) + (0 if call.solicited else EVENT) + code_of_answer(call)
            for call in answers
        ]
        return self._write(
            numbers,
            [call._tid for call in answers],
            [call.path for call in answers],
            [call.caller for call in answers],
            codes,
            [call.came_at for call in answers],
            [call.ran_at - call.came_at if call.ran_at else -1.0 for call in answers],
            [(call.ended_at or now) - call.came_at for call in answers],
            [call.worker for call in answers],
            None,
        )

    def _write(
        self,
        numbers: Iterable[int],
        tids: Sequence[int],
        paths: Sequence[str],
        targets: Sequence[str],
        codes: Iterable[float] | None,
        started: Iterable[float],
        waited: Iterable[float] | None,
        elapsed: Iterable[float],
        workers: Iterable[int] | None,
        sizes: Iterable[int] | None,
    ) -> Rows:
        """Put columns together; what is the same in all rows, as most of it is, is not written row by row."""
        many, offset = len(tids), self._offset
        end, path, target = tids[0] >> _END_BITS, paths[0], targets[0]
        rows = array(
            "d", (0, self._prefix(end), 0, self._number(path), self._number(target), ENDED_CODE, 0, -1, 0, 0, 0)
        )
        rows *= many
        rows[0::WIDTH] = array("d", list(numbers))  # a list is read three times as fast as an iterator
        if end == 0 == max(tids) >> _END_BITS:
            rows[2::WIDTH] = array("d", tids)
        else:
            rows[1::WIDTH] = array("d", [self._prefix(tid >> _END_BITS) for tid in tids])
            rows[2::WIDTH] = array("d", [tid & _COUNT_MASK for tid in tids])
        if paths.count(path) < many:
            rows[3::WIDTH] = array("d", map(self._number, paths))
        if targets.count(target) < many:
            rows[4::WIDTH] = array("d", map(self._number, targets))
        rows[6::WIDTH] = array("d", [begin + offset for begin in started])
        rows[8::WIDTH] = array("d", list(elapsed))
        for place, column in ((5, codes), (7, waited), (9, workers), (10, sizes)):
            if column is not None:
                rows[place::WIDTH] = array("d", list(column))
        return rows

    def _number(self, word: str) -> int:
        number = self.words.get(word)
        if number is None:
            self._names.append(word)
            number = self.words[word] = len(self._names) - 1
        return number

    def _prefix(self, end: int) -> int:
        """Return the number of the word that ids begin with, of the end that makes them."""
        number = self._ends.get(end)
        if number is None:
            number = self._ends[end] = self._number(str(TransactionId(end << _END_BITS)).rstrip("0123456789"))
            self._end_of[number] = end
        return number

    def word(self, number: float) -> str:
        """Return the word of a number."""
        return self._names[int(number)]

    def tid(self, prefix: float, count: float) -> int:
        """Return an id from the word in front of it and its count."""
        return self._end_of[int(prefix)] << _END_BITS | int(count)

    def words_after(self, first: int) -> list[str]:
        """Return the words from a number on."""
        return self._names[first:]


def _waiting_bytes(holder: list[Any] | None) -> int:
    """Return how many bytes a reply has that nobody has decoded."""
    try:
        return size_of(holder[0]) if holder else 0
    except IndexError:  # just being decoded, on another thread
        return 0


def open_code(call: AsyncResult) -> int:
    """Return the number of the state of a call that is under way."""
    name: str = call._call_state._value_  # `value` takes five times as long
    return OPEN[CODES[name]]


def code_of_answer(call: Any) -> int:
    """Return the number of the state of a call that is answered here."""
    stage = call.stage
    if stage == "ended":
        return CODES["cancelled" if call._cancelled else "failed" if call.failure else "done"]
    return CODES["pending" if stage == "queued" else "running"]


class Ledger:
    """The rows of the last so many calls that have ended, in the order in which that was noticed.

    Parameters
    ----------
    limit : int
        How many are kept.
    """

    # Invariant: no part is empty, the numbers in each ascend, and `count` is the number of rows in all.

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.count = 0
        self.parts: deque[Rows] = deque()

    def add(self, rows: Rows) -> None:
        """Note some more; `trim` sees to the limit."""
        self.parts.append(rows)
        self.count += len(rows) // WIDTH

    def trim(self) -> Iterator[Rows]:
        """Forget those above the limit, the first ones first; give their numbers."""
        while self.count > self.limit:
            first = self.parts.popleft()
            surplus = min(self.count - self.limit, len(first) // WIDTH)
            self.count -= surplus
            if surplus * WIDTH < len(first):
                self.parts.appendleft(first[surplus * WIDTH :])
            yield first[: surplus * WIDTH : WIDTH]

    def numbers(self) -> set[int]:
        """Return the numbers of all."""
        return set(chain.from_iterable(map(int, rows[::WIDTH]) for rows in self.parts))

    def find(self, number: int) -> tuple[Rows, int] | None:
        """Return the rows that a number is in, and where its own begins."""
        for rows in self.parts:
            if rows[0] <= number <= rows[-WIDTH]:
                numbers = rows[::WIDTH]
                place = bisect_left(numbers, number)
                if numbers[place] == number:
                    return rows, place * WIDTH
        return None

    def validate(self) -> None:
        """Raise AssertionError if an invariant does not hold; tests call it."""
        assert self.count * WIDTH == sum(map(len, self.parts))
        for rows in self.parts:
            numbers = rows[::WIDTH].tolist()
            assert numbers
            assert numbers == sorted(set(numbers))


def is_control(path: str, exception: str) -> bool:
    """Whether a path is one of those with which an end looks after the other."""
    return path[:1] == "_" and path.startswith("_epyrpc.") and path != exception


def held_elsewhere(calls: list[Any]) -> list[bool]:
    """Return of each call whether it may be that somebody else holds it than the list."""
    if _getrefcount is None:
        return [True] * len(calls)
    return [count > _ONCE for count in map(_getrefcount, calls)]


# CPython knows how often something is referred to; asking is a third of making a weak reference for nothing.
_getrefcount = getattr(sys, "getrefcount", None)
_ONCE = 0 if _getrefcount is None else max(map(_getrefcount, [object() for _ in range(3)]))


__all__ = [
    "CODE",
    "CODES",
    "ELAPSED",
    "ENDED_CODE",
    "EVENT",
    "INCOMING",
    "OPEN",
    "STATES",
    "WIDTH",
    "Facts",
    "Ledger",
    "Writer",
    "code_of_answer",
    "facts_of",
    "held_elsewhere",
    "is_control",
    "open_code",
    "path_of",
]
