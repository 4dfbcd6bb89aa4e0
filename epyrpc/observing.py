"""Watching calls: `snapshot` says what one call is doing, `observe` collects all calls of this process.

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
from collections import Counter, deque
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any, NamedTuple

from epyrpc import results as _results
from epyrpc.clock import format_seconds
from epyrpc.ids import TransactionId
from epyrpc.results import RUN_PATH, AsyncResult, CallState, Progress
from epyrpc.streams import PartsResult, Stream

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from epyrpc.bodies.pool_jobs import PoolResult

DETAIL_LIMIT = 120
ITEMS_SHOWN = 30
SETTLING_SECONDS = 0.05  # a younger call is on its way rather than waiting
NEW_LIMIT = 10_000  # calls that may wait to be looked at; then whoever makes the next one looks
PATHS_KEPT = 1_000  # of which the last result is kept
STOPPED = {
    "never started": "never started",
    "cooperative": "handler stopped itself",
    "raised": "handler interrupted",
    "killed": "body ended",
    "still running": "handler still runs",
}
_PENDING, _DONE = CallState.PENDING, CallState.DONE  # reading a member off its class takes ten times as long
_CONTROL = "_epyrpc."
_size_of = _results.size_of


class Snapshot(NamedTuple):
    """What a call was doing when it was looked at.

    Attributes
    ----------
    state : CallState
        What had become of it.
    id, path, target : str
        Its id, what was called, and the name of the end that was called.
    started : float
        When it was made, in seconds since 1970.
    elapsed : float
        Seconds from then to its end, or until now.
    detail : str
        What the state leaves to be said, in one bounded line: the error, the value, how it was stopped, the last line
        printed.
    progress : Progress or None
        How far it said it had come.
    parts : int
        Parts of a stream that have come.
    unread : int
        Of these, those that wait to be read.
    output : int
        Grows with everything that it prints or displays.
    stopped : str or None
        As `AsyncResult.stopped`.
    retry_of : str or None
        As `AsyncResult.retry_of`.
    sent, received : int
        Bytes of its arguments, and of what has come back, on the wire.
    worker : int
        Which handler worker of the other end runs it, or ran it, counted from 1; 0 where that was not told, as of calls
        that run for less than 10 ms.
    ahead : int or None
        Of a call that waits for a handler: how many calls from here to the same end have been waiting for longer. None
        for others, and for a call that is just on its way.
    """

    state: CallState
    id: str
    path: str
    target: str
    started: float
    elapsed: float
    detail: str
    progress: Progress | None
    parts: int
    unread: int
    output: int
    stopped: str | None
    retry_of: str | None
    sent: int
    received: int
    worker: int
    ahead: int | None


def snapshot(call: AsyncResult | Stream | PoolResult) -> Snapshot:
    """Look at a call, or at a task of a pool; one that has ended well is decoded, if that has not been done.

    Examples
    --------
    >>> from epyrpc import HeadTransactionIdGenerator, TransactionManager
    >>> snapshot(TransactionManager(HeadTransactionIdGenerator()).new("maths.scale")).state
    <CallState.PENDING: 'pending'>
    """
    result = call.call if isinstance(call, Stream) else call
    what = detail(result)  # first: it may find that the reply cannot be decoded, which is a failure
    sent, received, worker = result._wire_facts
    output = result._output
    return Snapshot(
        state=result.state,
        id=str(result.id),
        path=result.path,
        target=result.target,
        started=_epoch(result._started),
        elapsed=result.elapsed,
        detail=what,
        progress=result.progress,
        parts=result.parts if isinstance(result, PartsResult) else 0,
        unread=len(result._parts) if isinstance(result, PartsResult) else 0,
        output=0 if output is None else output._count,
        stopped=result.stopped,
        retry_of=result.retry_of,
        sent=sent,
        received=received,
        worker=worker,
        ahead=_ahead(result),
    )


def _ahead(result: AsyncResult | PoolResult) -> int | None:
    """Return how many calls wait in front of one that waits."""
    if not isinstance(result, AsyncResult) or result._call_state is not _PENDING or result.elapsed < SETTLING_SECONDS:
        return None
    ahead: int = sum(
        other._call_state is _PENDING and other._started < result._started and not other.path.startswith(_CONTROL)
        for other in result._owner.pending()
    )
    return ahead


def _epoch(moment: float) -> float:
    """Return the time since 1970 of a moment on the monotonic clock."""
    return time.time() - (time.monotonic() - moment)


def detail(result: AsyncResult | PoolResult) -> str:
    """Return what a call's state leaves to be said, bounded in length."""
    error = None if not result.done() or result.cancelled() else result.exception()
    state = result.state  # asked second: a reply that cannot be decoded has only now become a failure
    if state is CallState.DONE:
        return _bounded(describe_value(result.result()))
    if state in (CallState.FAILED, CallState.LOST):
        return _bounded(f"{type(error).__name__}: {error}" if state is CallState.FAILED else str(error))
    if state.ended:
        first = "by you" if state is CallState.CANCELLED else f"limit {format_seconds(result.deadline or 0.0)}"
        how = STOPPED.get(result.stopped or "")
        return f"{first} · {how}" if how else first
    progress = result.progress
    if progress is not None and progress.total is not None:
        return f"{progress.done:,g}/{progress.total:,g}"
    lines = result.stdout[-2000:].rstrip().splitlines()
    return _bounded(f"› {lines[-1]}") if lines else ""  # noqa: RUF001 - as terminals mark output


def describe_value(value: Any) -> str:
    """Return a value in a few words: its shape if it has one, else its repr, of which the end may be left out."""
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple) and shape and all(isinstance(n, int) for n in shape):
        return f"{type(value).__name__} {' × '.join(f'{n:,}' for n in shape)}"
    if value is None:
        return ""
    try:
        return repr(_beginning(value))
    except Exception as exc:  # a repr of the user's; the call itself went well
        return f"{type(value).__name__} whose repr raises {type(exc).__name__}"


def _beginning(value: Any) -> Any:
    """Return what is left of a large builtin when its end is left out, since nobody reads a repr of megabytes."""
    kind = type(value)
    if kind in (str, bytes, list, tuple) and len(value) > ITEMS_SHOWN * 100:
        return value[: ITEMS_SHOWN * 100]
    if kind in (set, frozenset, dict) and len(value) > ITEMS_SHOWN * 100:
        items: Iterable[Any] = value.items() if kind is dict else value
        return kind(itertools.islice(items, ITEMS_SHOWN * 100))
    return value


def _bounded(text: str) -> str:
    line = " ".join(text[: 20 * DETAIL_LIMIT].split())
    return line if len(line) <= DETAIL_LIMIT else f"{line[: DETAIL_LIMIT - 1]}…"


class Record:
    """What an observer knows of one call or event; it stays when the call itself is gone.

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
        What has become of it, when it was last looked at.
    started : float
        In seconds since 1970.
    waited : float or None
        Seconds until it was known to be running.
    elapsed : float
        Seconds to its end, or until it was last looked at.
    error : str
        Its error, in one bounded line.
    worker : int
        As `Snapshot.worker`; of one that came in, which worker here.
    size_bytes : int
        What it takes on the wire both ways, as far as that is known here.
    """

    __slots__ = (
        "_call",
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

    def __init__(self, number: int, call: Any, offset: float) -> None:
        self.number = number
        self.path: str = call.path
        self.tid: int = call._tid
        self.error = ""
        self.waited: float | None = None
        self.worker = self.size_bytes = 0
        self._call = weakref.ref(call)
        if isinstance(call, AsyncResult):
            self.incoming = self.event = False
            self.size_bytes = call._sent
            self.target: str = call.target
            self.started: float = call._started + offset
            if call.settled:
                if call._ran_from is not None:
                    self.waited = max(0.0, call._ran_from - call._started)
                self.state = call._call_state
                self.elapsed = call._ended - call._started
                self.worker = call._worker
                self.size_bytes += _received(call) if call._undecoded is not None else call._received
                return
        else:
            self.incoming, self.event = not call.outgoing, not call.solicited
            self.target = call.caller
            self.started = call.came_at + offset
        self.state = _PENDING
        self.elapsed = 0.0

    @property
    def id(self) -> str:
        """The transaction's id, such as ``H128``; empty for an event."""
        return "" if self.event else str(TransactionId(self.tid))

    @property
    def call(self) -> Any:
        """The `AsyncResult`, or the `CurrentCall` of one that came in, while anybody holds it; else None."""
        return self._call()

    def __repr__(self) -> str:
        return f"<Record {self.number} {self.id} {self.path}: {self.state}, {format_seconds(self.elapsed)}>"


def _received(result: AsyncResult) -> int:
    """Return the bytes of a reply, also of one that nobody has decoded yet."""
    holder = result._undecoded
    if holder:
        try:
            return result._received + _size_of(holder[0])
        except IndexError:  # just being decoded, on another thread
            pass
    return result._received


class Observer:
    """Collects the calls of this process, those that it makes and those that it answers; made by `observe`.

    Of each it keeps a small `Record`, never arguments or results, but for the last result of each path (`last`).

    Parameters
    ----------
    limit : int
        How many records of calls that have ended are kept; those under way are always kept.

    Attributes
    ----------
    events : int
        Events seen.
    dropped : int
        Records that have been forgotten.
    """

    # Guarded by _lock: everything but _new, whose single operations are atomic.

    def __init__(self, limit: int = 10_000) -> None:
        self.limit = limit
        self._tally: dict[str, int] = {state.value: 0 for state in CallState}  # an enum's member is slow as a key
        self.events = 0
        self.dropped = 0
        self._new: deque[Any] = deque()
        self._records: dict[int, Record] = {}  # {number: record}, oldest first
        self._running: dict[int, tuple[Record, Any]] = {}  # {number: (record, the call itself)}
        self._unread: deque[Record] = deque(maxlen=limit)  # done, but nobody has decoded the reply yet
        self._last: dict[str, AsyncResult] = {}
        self._count = 0
        self._lock = threading.RLock()
        self._offset = time.time() - time.monotonic()
        self._changed: dict[int, Record] = {}
        self._missing: set[int] = set()

    @property
    def counts(self) -> Counter[CallState]:
        """Calls by state, those of forgotten records included."""
        return Counter({CallState(value): count for value, count in self._tally.copy().items()})

    # --- hearing of calls

    def _hear(self, call: Any) -> None:
        self._new.append(call)
        if len(self._new) > NEW_LIMIT:  # nobody asks: what has ended is not to be kept alive for ever
            with self._lock:
                self._look()

    def poll(self) -> list[Record]:
        """Look at all calls; return the records that are new or have changed since the last poll, oldest first."""
        with self._lock:
            self._look()
            changed, self._changed = self._changed, {}
            return [changed[number] for number in sorted(changed)]

    def _look(self) -> None:
        for _ in range(len(self._new)):
            self._admit(self._new.popleft())
        for record, call in list(self._running.values()):
            if isinstance(call, AsyncResult):
                self._look_at_result(record, call)
            else:
                self._look_at_answer(record, call)
        self._look_at_unread()
        if len(self._records) > self.limit + len(self._running):
            self._forget_oldest()

    def _admit(self, call: Any) -> None:
        path = call.path
        if path[:1] == "_" and path.startswith(_CONTROL) and path != RUN_PATH:
            return
        self._count = number = self._count + 1
        self._records[number] = self._changed[number] = record = Record(number, call, self._offset)
        if record.state is _DONE:  # most calls are over by now: nothing more is to be found out
            self._tally["done"] += 1
            self._last[path] = call
            if call._undecoded is not None:
                self._unread.append(record)
            if len(self._last) > PATHS_KEPT:
                self._keep_last(call)
            return
        if record.state is not _PENDING:  # found out below, with its error
            record.state = _PENDING
        if record.event:
            self.events += 1
        else:
            self._tally["pending"] += 1
        self._running[number] = (record, call)

    def _look_at_result(self, record: Record, result: AsyncResult) -> None:
        settled = result.settled  # before the state
        state = result._call_state
        if not settled and not result._owner_holds():
            # Sending it failed, so it counts as if it had not been; or it is being settled this very moment.
            if record.number in self._missing:
                self._missing.discard(record.number)
                self._remove(record)
            else:
                self._missing.add(record.number)
            return
        self._missing.discard(record.number)
        record.path = result.path
        if record.waited is None and result._ran_from is not None:
            record.waited = max(0.0, result._ran_from - result._started)
            record.worker = result._worker
            self._changed[record.number] = record
        if settled:
            record.size_bytes = result._sent + _received(result)
            state = result._call_state
            if state in (CallState.FAILED, CallState.LOST):
                record.error = self._error_of(result)
                state = result._call_state
            self._end(record, state, result.elapsed)
            self._keep_last(result)
            if result._undecoded is not None:
                self._unread.append(record)
        elif state is not record.state:
            self._move(record, state)
        if not settled:
            record.elapsed = result.elapsed

    @staticmethod
    def _error_of(result: AsyncResult) -> str:
        try:
            error = result.exception()
        except CancelledError:
            return ""
        return _bounded(f"{type(error).__name__}: {error}")

    def _look_at_answer(self, record: Record, call: Any) -> None:
        stage = call.stage
        record.worker = call.worker
        if record.waited is None and call.ran_at:
            record.waited = call.ran_at - call.came_at
            self._changed[record.number] = record
        if stage == "ended":
            record.error = call.failure
            state = CallState.CANCELLED if call._cancelled else CallState.FAILED if call.failure else CallState.DONE
            self._end(record, state, call.ended_at - call.came_at)
            return
        state = CallState.PENDING if stage == "queued" else CallState.RUNNING
        if state is not record.state:
            self._move(record, state)
        record.elapsed = time.monotonic() - call.came_at

    def _look_at_unread(self) -> None:
        """A reply that somebody has tried to decode meanwhile may have turned out to be a failure."""
        for _ in range(len(self._unread)):
            record = self._unread.popleft()
            result = record.call
            if result is None:
                continue
            if result._undecoded is not None:
                self._unread.append(record)
            elif result._call_state is not record.state:
                record.error = self._error_of(result)
                self._move(record, result._call_state)

    def _end(self, record: Record, state: CallState, elapsed: float) -> None:
        record.elapsed = elapsed
        self._running.pop(record.number, None)
        if state is record.state:
            self._changed[record.number] = record
        else:
            self._move(record, state)

    def _move(self, record: Record, state: CallState) -> None:
        if not record.event:
            self._tally[record.state.value] -= 1
            self._tally[state.value] += 1
        record.state = state
        self._changed[record.number] = record

    def _remove(self, record: Record) -> None:
        for table in (self._running, self._records, self._changed):
            table.pop(record.number, None)
        self._tally[record.state.value] -= 1

    def _keep_last(self, result: AsyncResult) -> None:
        self._last.pop(result.path, None)
        self._last[result.path] = result
        if len(self._last) > PATHS_KEPT:
            del self._last[next(iter(self._last))]

    def _forget_oldest(self) -> None:
        surplus = len(self._records) - self.limit - len(self._running)
        ended = (number for number in self._records if number not in self._running)
        for number in list(itertools.islice(ended, surplus)):
            del self._records[number]
            self._changed.pop(number, None)
            self.dropped += 1

    # --- asking

    def records(self) -> list[Record]:
        """Return all records that are kept, oldest first, as they were at the last poll."""
        with self._lock:
            return list(self._records.values())

    def under_way(self) -> list[Record]:
        """Return the records of what had not ended at the last poll, oldest first."""
        with self._lock:
            return [record for record, _ in self._running.values()]

    def record(self, number: int) -> Record | None:
        """Return the record of a number, or None when it has been forgotten."""
        with self._lock:
            return self._records.get(number)

    def last(self, path: str) -> AsyncResult | None:
        """Return the last call of `path` that has ended, or None; of the thousand paths that ended last."""
        with self._lock:
            self._look()
            return self._last.get(path)

    def clear(self) -> None:
        """Forget every call that has ended, and the last results."""
        with self._lock:
            self._look()
            self._records = {number: record for number, (record, _) in self._running.items()}
            self._changed = {n: r for n, r in self._changed.items() if n in self._records}
            self._tally = dict.fromkeys(self._tally, 0)
            for record in self._records.values():
                if not record.event:
                    self._tally[record.state.value] += 1
            self.events = self.dropped = 0
            self._unread.clear()
            self._last.clear()

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
            assert all(number in self._records for number in self._running)
            assert not self.dropped or len(self._records) <= self.limit + len(self._running)
            assert all(not record.state.ended for record, _ in self._running.values())


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


__all__ = ["Observer", "Record", "Snapshot", "describe_value", "detail", "observe", "snapshot"]
