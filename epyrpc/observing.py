"""Watching calls: `observe` collects all calls of this process; for one call, see `snapshots`.

Nothing here is told what becomes of a call. An observer hears of each call once, when it is made or comes in, and looks
at it whenever it is asked, so what it says is the call's own state. While nobody observes, a call pays one look at a
variable (`results.watch`), which is None.

Threads: calls are made, and come in, on any thread; `Observer.poll` is called by whoever wants to know, on any.
"""

from __future__ import annotations

import itertools
import threading
import time
import weakref
from array import array
from collections import Counter, deque
from concurrent.futures import CancelledError
from itertools import compress
from math import inf
from typing import TYPE_CHECKING, Any, NamedTuple

from epyrpc import ledger
from epyrpc import results as _results
from epyrpc.clock import format_seconds
from epyrpc.ids import TransactionId
from epyrpc.interrupts import shielded
from epyrpc.ledger import Ledger, Writer
from epyrpc.results import RUN_PATH, AsyncResult, CallState
from epyrpc.snapshots import bounded

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from epyrpc.ledger import Facts, Rows

HEARD_LIMIT = 256  # calls that may wait to be looked at; when there are twice as many, who makes the next looks at half
THOROUGH_LIMIT = 10_000  # calls that are heard of while nobody asks; then all that are under way are looked at too
MANY = 500  # calls that may be searched, at each look, for what seldom happens; more are searched once in
SEARCH_SECONDS = 1.0
HELD_LIMIT = 1_000
PATHS_KEPT = 1_000  # of which the last result is kept
_PENDING, _DONE = CallState.PENDING, CallState.DONE  # reading a member off its class takes ten times as long


class Record:
    """What an observer knew of one call or event when it was asked; it stays when the call itself is gone.

    Attributes
    ----------
    number : int
        The how-manieth of its observer.
    tid : int
        Its id as a number, see `TransactionId`; 0 for an event.
    incoming : bool
        It came from the other end and is answered here.
    event : bool
        No reply is owed.
    state : CallState
        What had become of it.
    started : float
        In seconds since 1970.
    waited : float or None
        Seconds until it was known to be running.
    elapsed : float
        Seconds to its end, or until then.
    error : str
        Its error, in one bounded line.
    worker : int
        As `Snapshot.worker`; of one that came in, which worker here.
    size_bytes : int
        What it takes on the wire both ways, as far as that is known here.
    """

    __slots__ = (
        "_observer",
        "elapsed",
        "error",
        "event",
        "incoming",
        "number",
        "path",
        "size_bytes",
        "started",
        "state",
        "target",
        "tid",
        "waited",
        "worker",
    )

    def __init__(self, observer: Observer, row: Rows) -> None:
        writer = observer.writer
        number, prefix, count, path, target, code, self.started, waited, self.elapsed, worker, size = row
        state = int(code)
        self._observer = observer
        self.number, self.worker, self.size_bytes = int(number), int(worker), int(size)
        self.tid = writer.tid(prefix, count)
        self.path, self.target = writer.word(path), writer.word(target)
        self.state = ledger.STATES[state & 7]
        self.incoming, self.event = bool(state & ledger.INCOMING), bool(state & ledger.EVENT)
        self.waited = None if waited < 0 else waited
        self.error = observer.errors.get(self.number, "")

    @property
    def id(self) -> str:
        """The transaction's id, such as ``H128``; empty for an event."""
        return "" if self.event else str(TransactionId(self.tid))

    @property
    def call(self) -> Any:
        """The `AsyncResult`, or the `CurrentCall` of one that came in, while anybody holds it; else None."""
        return self._observer._find(self.number)

    def __repr__(self) -> str:
        return f"<Record {self.number} {self.id} {self.path}: {self.state}, {format_seconds(self.elapsed)}>"


class Changes(NamedTuple):
    """What has changed since an observer was last asked.

    Attributes
    ----------
    parts : list of array
        The rows of the calls that are new or have changed, see `ledger`; of a call at most one.
    gone : list of int
        Numbers of calls that were told as being under way and are not heard of again.
    errors : dict
        The errors of those that have failed, by number.
    """

    parts: list[Rows]
    gone: list[int]
    errors: dict[int, str]


class Observer:
    """Collects the calls of this process, those that it makes and those that it answers; made by `observe`.

    Of each it keeps some numbers and names, never arguments or results, but for the last result of each path (`last`).

    Parameters
    ----------
    limit : int
        How many calls that have ended are kept; those under way are always kept.

    Attributes
    ----------
    events : int
        Events seen.
    ended : int
        Calls that have ended, those that were cleared away included.
    dropped : int
        What has ended and been forgotten.
    errors : dict
        The errors of what is kept, each in one bounded line, by number.
    writer : ledger.Writer
        Who knows the words in the rows.
    """

    # Who makes a call pays for one append; and who makes every few hundredth, for taking down the facts of those before
    # it, while what they have left in the processor's caches is still there, and no garbage collection has met them.
    # Guarded by _lock: everything but _new, whose single operations are atomic.
    # Invariant: a number is in one of _calls, _answers and _kept, or has been forgotten.

    def __init__(self, limit: int = 10_000) -> None:
        self.limit = limit
        self.events = self.ended = self.dropped = 0
        self.errors: dict[int, str] = {}
        self._new: deque[Any] = deque()
        self._calls: dict[int, AsyncResult] = {}  # under way when they were last looked at; the oldest first
        self._answers: dict[int, Any] = {}  # likewise, what came in
        self._stages: dict[int, int] = {}  # {number of a call under way: what it has come to, if that is anything}
        self._begun: set[int] = set()  # numbers of what came in and is known to run
        self._kept = Ledger(limit)
        self._untold = Ledger(limit)  # of these, those that have ended since `take`
        self._moved: dict[int, None] = {}  # numbers of what is under way and has changed since
        self._told: set[int] = set()  # numbers that `take` has given as being under way
        self._gone: list[int] = []  # of these, those that it will not tell of
        self._failed: dict[int, str] = {}  # errors since `take`
        self._held: dict[int, Any] = {}  # {number: weak reference to a call that has ended and that somebody holds}
        self._held_limit = HELD_LIMIT  # then those that nobody holds any more are sorted out
        self._unread: dict[int, Any] = {}  # {number: weak reference to one whose reply nobody had decoded}
        self._last: dict[str, AsyncResult] = {}
        self._tally = [0] * len(ledger.STATES)  # of those that have ended
        self._count = 0
        self._heard = 0  # since the last thorough look
        self._swept = 0  # how many that were when those under way were last looked through
        self._next_search = 0.0
        self._missing: set[int] = set()
        self._looking = False
        self._lock = threading.RLock()
        self.writer = Writer(time.time() - time.monotonic())

    @property
    def counts(self) -> Counter[CallState]:
        """Calls by state, those included that are forgotten."""
        with self._lock:
            answers = (ledger.code_of_answer(call) for call in self._answers.values() if call.solicited)
            codes = [*self._stages.values(), *(ledger.OPEN[code] for code in answers)]
            counts = Counter(dict(zip(ledger.STATES, self._tally, strict=True)))
            counts[_PENDING] = len(self._calls) - len(self._stages)
            for code in codes:
                counts[ledger.STATES[code & 7]] += 1
            return counts

    @property
    def backlog(self) -> int:
        """How many have ended since `take`, of those that are still kept."""
        return self._untold.count

    # --- hearing of calls

    def _hear(self, call: Any) -> None:
        self._new.append(call)
        if len(self._new) >= 2 * HEARD_LIMIT:
            self._take_some()

    @shielded  # an interrupt half way would lose calls, or leave the lock locked
    def _take_some(self) -> None:
        if self._lock.acquire(blocking=False):  # else somebody is just looking
            try:
                self._look(self._heard > THOROUGH_LIMIT)
            finally:
                self._lock.release()

    def look(self) -> None:
        """Look at all calls; what is found is told by `take` and `poll`."""
        with self._lock:
            self._look()

    @shielded
    def _look(self, thorough: bool = True) -> None:
        """Look at the calls that are new, and, to be thorough, at all that are under way."""
        if self._looking:  # a finalizer, or an error that is just decoded, has made a call
            return
        self._looking = True
        try:
            self._admit(len(self._new) - (0 if thorough else HEARD_LIMIT))
            if thorough:
                self._heard = self._swept = 0
                self._look_at_calls()
                self._answers = self._take_answers(self._answers)
                if len(self._calls) + len(self._unread) < MANY or time.monotonic() >= self._next_search:
                    self._next_search = time.monotonic() + SEARCH_SECONDS
                    self._look_for_missing()
                    self._look_at_unread()
                self._forget()
            elif self._heard - self._swept > len(self._calls):  # so it is little for each call
                self._swept = self._heard
                self._take_over()
                if self._kept.count > 2 * self.limit:
                    self._forget()
        finally:
            self._looking = False

    def _admit(self, many: int) -> None:
        """Take in the oldest of what is new."""
        take = self._new.popleft
        calls = [take() for _ in range(many)]
        try:
            facts = ledger.facts_of(calls)
        except AttributeError:  # not all of them were made here
            self._admit_others(calls)
            return
        if any(ledger.is_control(path, RUN_PATH) for path in set(facts.path)):
            calls = [call for call in calls if not ledger.is_control(call.path, RUN_PATH)]
            facts = ledger.facts_of(calls)
        self._admit_calls(range(self._count + 1, self._count + 1 + len(calls)), calls, facts)
        self._count += len(calls)
        self._heard += len(calls)

    def _admit_others(self, found: list[Any]) -> None:
        """Take in calls and events of all kinds."""
        others: dict[int, Any] = {}
        calls: dict[int, AsyncResult] = {}
        for call in found:
            if not ledger.is_control(call.path, RUN_PATH):
                self._count += 1
                (calls if isinstance(call, AsyncResult) else others)[self._count] = call
        self._heard += len(calls) + len(others)
        self.events += sum(not call.solicited for call in others.values())
        rest = self._take_answers(others)
        self._answers.update(rest)
        self._moved.update(dict.fromkeys(rest))
        self._admit_calls(list(calls), list(calls.values()), ledger.facts_of(calls.values()))

    def _admit_calls(self, numbers: Sequence[int], calls: list[AsyncResult], facts: Facts) -> None:
        pending = self._take_good(numbers, calls, facts)
        self._calls.update(pending)
        self._moved.update(dict.fromkeys(pending))

    def _take_good(self, numbers: Sequence[int], calls: list[AsyncResult], facts: Facts) -> dict[int, AsyncResult]:
        """Take down those that have ended well; return the others."""
        if facts.state.count(_DONE) < len(calls):
            good = [state is _DONE for state in facts.state]
            bad = [not fine for fine in good]
            others = dict(zip(compress(numbers, bad), compress(calls, bad), strict=True))
            numbers, calls = list(compress(numbers, good)), list(compress(calls, good))
            # Looked at again, for the few that somebody was just decoding, and that have failed over it.
            return {**others, **self._take_good(numbers, calls, ledger.facts_of(calls))}
        if calls:
            self._note(self.writer.ended(numbers, calls, facts), len(calls))
            self._tally[ledger.ENDED_CODE] += len(calls)
            paths = facts.path
            if paths.count(paths[0]) == len(paths):
                self._keep_last({paths[0]: calls[-1]})
            else:
                self._keep_last(dict(zip(paths, calls, strict=True)))
            held = ledger.held_elsewhere(calls)
            if True in held:
                kept = {n: weakref.ref(call) for n, call in compress(zip(numbers, calls, strict=True), held)}
                self._held.update(kept)
                self._unread.update(
                    item
                    for item, reply in zip(kept.items(), compress(facts.undecoded, held), strict=True)
                    if reply is not None
                )
        return {}

    def _take_over(self) -> dict[int, AsyncResult]:
        """Take down those under way that have ended well meanwhile; return those that have ended otherwise."""
        over = [number for number, call in self._calls.items() if call.settled]
        calls = [self._calls[number] for number in over]
        others = self._take_good(over, calls, ledger.facts_of(calls))
        for number in over:
            if number not in others:
                del self._calls[number]
                self._stages.pop(number, None)
        return others

    def _look_at_calls(self) -> None:
        bad = self._take_over()
        if bad:
            for number in bad:
                del self._calls[number]
            errors = {number: self._error_of(call) for number, call in bad.items()}  # first: it may change the state
            calls = list(bad.values())
            rows = self.writer.ended(list(bad), calls, ledger.facts_of(calls))
            codes = [ledger.CODES[call._call_state.value] for call in bad.values()]
            rows[ledger.CODE :: ledger.WIDTH] = array("d", codes)
            for code in codes:
                self._tally[code] += 1
            self._note(rows, len(bad), {number: text for number, text in errors.items() if text})
            self._held.update((number, weakref.ref(call)) for number, call in bad.items())
            self._keep_last({call.path: call for call in bad.values()})
        stages = {
            number: ledger.open_code(call) + 8 * (call._ran_from is not None)
            for number, call in self._calls.items()
            if call._call_state is not _PENDING
        }
        self._moved.update(dict.fromkeys(number for number, code in stages.items() if self._stages.get(number) != code))
        self._stages = stages

    def _take_answers(self, answers: dict[int, Any]) -> dict[int, Any]:
        """Take down what came in and has ended; return the rest."""
        over = {number: call for number, call in answers.items() if call.stage == "ended"}
        if over:
            rows = self.writer.answers(list(over), list(over.values()), 0.0)
            codes = [int(code) for code in rows[ledger.CODE :: ledger.WIDTH] if code < ledger.EVENT]
            for code in codes:
                self._tally[code & 7] += 1
            self._note(rows, len(codes), {n: bounded(call.failure) for n, call in over.items() if call.failure})
            answers = {number: call for number, call in answers.items() if number not in over}
            self._begun.difference_update(over)
        begun = {number for number, call in answers.items() if call.ran_at} - self._begun
        self._begun |= begun
        self._moved.update(dict.fromkeys(begun))
        return answers

    def _note(self, rows: Rows, calls: int, errors: dict[int, str] | None = None) -> None:
        self.ended += calls
        self._kept.add(rows)
        self._untold.add(rows)
        if errors:
            self.errors.update(errors)
            self._failed.update(errors)

    @staticmethod
    def _error_of(result: AsyncResult) -> str:
        if result._call_state not in (CallState.FAILED, CallState.LOST):
            return ""
        try:
            error = result.exception()
        except CancelledError:
            return ""
        return bounded(f"{type(error).__name__}: {error}")

    def _look_for_missing(self) -> None:
        """Remove calls that could not be sent: they count as if they had not been made.

        One that is settled at this very moment looks the same; it is told by the second look.
        """
        missing = {n for n, call in self._calls.items() if not call.settled and not call._owner_holds()}
        for number in missing & self._missing:
            for table in (self._calls, self._stages, self._moved):
                table.pop(number, None)
            if number in self._told:
                self._gone.append(number)
        self._missing = missing - self._missing

    def _look_at_unread(self) -> None:
        """A reply that somebody has tried to decode meanwhile may have turned out to be a failure."""
        for number, reference in list(self._unread.items()):
            call = reference()
            if call is None or call._undecoded is None:
                del self._unread[number]
                if call is not None and call._call_state is not _DONE:
                    self._mend(number, call)

    def _mend(self, number: int, call: AsyncResult) -> None:
        found = self._kept.find(number)
        if found is None:
            return
        code = ledger.CODES[call._call_state.value]
        self._tally[ledger.ENDED_CODE] -= 1
        self._tally[code] += 1
        self.errors[number] = self._failed[number] = self._error_of(call)
        rows, begin = found
        rows[begin + ledger.CODE] = code
        untold = self._untold.find(number)
        if untold is None:
            self._untold.add(rows[begin : begin + ledger.WIDTH])
        else:
            untold[0][untold[1] + ledger.CODE] = code

    def _keep_last(self, calls: dict[str, AsyncResult]) -> None:
        for path, call in calls.items():
            self._last.pop(path, None)
            self._last[path] = call
        while len(self._last) > PATHS_KEPT:
            del self._last[next(iter(self._last))]

    def _forget(self) -> None:
        for numbers in self._kept.trim():
            self.dropped += len(numbers)
            if self.errors:
                for number in self.errors.keys() & set(map(int, numbers)):
                    del self.errors[number]
        for numbers in self._untold.trim():
            self._gone.extend(map(int, self._told.intersection(numbers)))
        for number in list(itertools.islice(self._unread, max(0, len(self._unread) - self.limit))):
            del self._unread[number]
        if len(self._held) > self._held_limit:
            kept = self._kept.numbers()
            self._held = {n: ref for n, ref in self._held.items() if n in kept and ref() is not None}
            self._held_limit = max(HELD_LIMIT, 2 * len(self._held))

    # --- asking

    def take(self) -> Changes:
        """Look at all calls; return the facts of those that are new or have changed since they were last taken."""
        with self._lock:
            self._look()
            parts = [*self._untold.parts, *self._open_rows(self._moved)]
            self._untold = Ledger(self.limit)
            changes = Changes(parts, self._gone, self._failed)
            self._told = {n for n in self._told.union(self._moved) if n in self._calls or n in self._answers}
            self._moved, self._gone, self._failed = {}, [], {}
            return changes

    def everything(self) -> Changes:
        """Return the facts of all that is kept, as it was at the last look."""
        with self._lock:
            numbers = {**self._calls, **self._answers}
            self._told.update(numbers)
            return Changes([*self._kept.parts, *self._open_rows(numbers)], [], dict(self.errors))

    def _open_rows(self, numbers: Iterable[int], before: float = inf) -> list[Rows]:
        """Return the facts of those that are under way, and began before a moment."""
        now, parts = time.monotonic(), []
        calls = {n: self._calls[n] for n in numbers if n in self._calls and self._calls[n]._started < before}
        if calls:
            parts.append(self.writer.under_way(list(calls), list(calls.values()), now))
        answers = {n: self._answers[n] for n in numbers if n in self._answers and self._answers[n].came_at < before}
        if answers:
            parts.append(self.writer.answers(list(answers), list(answers.values()), now))
        return parts

    def poll(self) -> list[Record]:
        """Look at all calls; return the records that are new or have changed since the last poll, oldest first."""
        return self._records_of(self.take().parts)

    def _records_of(self, parts: Iterable[Rows]) -> list[Record]:
        width = ledger.WIDTH
        records = [Record(self, rows[at : at + width]) for rows in parts for at in range(0, len(rows), width)]
        records.sort(key=lambda record: record.number)
        return records

    def records(self) -> list[Record]:
        """Return the records of all that is kept, oldest first."""
        with self._lock:
            numbers = {**self._calls, **self._answers}
            return self._records_of([*self._kept.parts, *self._open_rows(numbers)])

    def under_way(self, seconds: float = 0.0) -> list[Record]:
        """Return the records of what had not ended at the last look and began so many seconds ago, oldest first."""
        with self._lock:
            numbers = {**self._calls, **self._answers}
            return self._records_of(self._open_rows(numbers, time.monotonic() - seconds))

    def record(self, number: int) -> Record | None:
        """Return the record of a number, or None when it has been forgotten."""
        with self._lock:
            found = self._kept.find(number)
            if found is not None:
                rows, begin = found
                return Record(self, rows[begin : begin + ledger.WIDTH])
            return next(iter(self._records_of(self._open_rows([number]))), None)

    def held(self) -> Iterator[tuple[int, Any]]:
        """Give the calls that are under way and those that somebody still holds, by number."""
        with self._lock:
            found = [*self._calls.items(), *((number, reference()) for number, reference in self._held.items())]
        yield from ((number, call) for number, call in found if call is not None)

    def _find(self, number: int) -> Any:
        reference = self._held.get(number)
        return self._calls.get(number) or self._answers.get(number) or (reference and reference())

    def last(self, path: str) -> AsyncResult | None:
        """Return the last call of `path` that has ended, or None; of the thousand paths that ended last."""
        with self._lock:
            self._look()
            return self._last.get(path)

    def clear(self) -> None:
        """Forget every call that has ended, and the last results."""
        with self._lock:
            self._look()
            self._kept, self._untold = Ledger(self.limit), Ledger(self.limit)
            self._tally = [0] * len(self._tally)
            self.events = self.dropped = 0
            for table in (self.errors, self._failed, self._held, self._unread, self._last):
                table.clear()

    def reopen(self) -> None:
        """Hear of calls again, after `close`. Idempotent."""
        _add_observer(self)

    def close(self) -> None:
        """Hear of no more calls. Idempotent."""
        _remove_observer(self)

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records())

    def __enter__(self) -> Observer:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def validate(self) -> None:
        """Raise AssertionError if an invariant does not hold; tests call it."""
        with self._lock:
            for kept in (self._kept, self._untold):
                kept.validate()
            assert self._kept.count <= self.limit
            assert not self._kept.numbers() & (self._calls.keys() | self._answers.keys())
            assert self._stages.keys() <= self._calls.keys()
            assert self._tally[ledger.ENDED_CODE - 1] == 0


_observers: tuple[Observer, ...] = ()
_observers_lock = threading.Lock()


def observe(limit: int = 10_000) -> Observer:
    """Collect the calls and events of this process from now on, both ways; a context manager.

    Parameters
    ----------
    limit : int
        How many ended ones are kept.

    Examples
    --------
    >>> from epyrpc import HeadTransactionIdGenerator, TransactionManager
    >>> manager = TransactionManager(HeadTransactionIdGenerator())
    >>> with observe() as observer:
    ...     result = manager.new("maths.scale")
    ...     released = manager.release(result.id, 40)
    ...     [(record.path, str(record.state)) for record in observer.poll()]
    [('maths.scale', 'done')]
    """
    observer = Observer(limit)
    observer.reopen()
    return observer


def _add_observer(observer: Observer) -> None:
    global _observers
    with _observers_lock:
        _observers = (*(o for o in _observers if o is not observer), observer)
        _results.watch = _observers[0]._hear if len(_observers) == 1 else _tell_all


def _remove_observer(observer: Observer) -> None:
    global _observers
    with _observers_lock:
        _observers = tuple(o for o in _observers if o is not observer)
        _results.watch = None if not _observers else _observers[0]._hear if len(_observers) == 1 else _tell_all


def _tell_all(call: Any) -> None:
    for observer in _observers:
        observer._hear(call)


__all__ = ["Observer", "Record", "observe"]
