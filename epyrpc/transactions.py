"""The pending transactions of one end: ids, deadlines, and the one place where each is retired, once.

A transaction is a call that a reply is owed for. `TransactionManager` keeps a table from id to `AsyncResult`; whoever
takes an id out of the table settles the result, so that a reply, a timeout, a cancel and the end of the connection
can race and one of them wins. What comes later is counted and dropped.

Nothing here starts a thread or knows a transport: the wire that is bound (`bind`) wakes waiters and calls `timers`.
"""

from __future__ import annotations

import itertools
import logging
import threading
from time import monotonic
from typing import TYPE_CHECKING, Any

from epyrpc import codec, messages
from epyrpc import results as _results
from epyrpc.clock import SYSTEM_CLOCK, Clock, DeadlineHeap
from epyrpc.errors import (
    ApiParamError,
    BodyError,
    EpyrpcError,
    IpcError,
    NoDataError,
    TransactionError,
    TransactionIdError,
    TransactionTimeout,
)
from epyrpc.ids import TransactionId
from epyrpc.interrupts import shielded
from epyrpc.results import RUN_PATH, STILL_RUNNING, AsyncResult, CallState
from epyrpc.streams import PartsResult

if TYPE_CHECKING:
    from collections.abc import Callable

    from epyrpc.messages import Frame
    from epyrpc.news import OutputSink, Pump

_log = logging.getLogger("epyrpc.transactions")
_DONE = CallState.DONE  # reading a member off its class takes ten times as long
_head_count = itertools.count(
    1
).__next__  # one for the process, so that ids of several bodies are told apart in one list
_neck_end = itertools.count(0)


class TransactionIdGenerator:
    """Makes the ids of one end, and knows its own.

    Parameters
    ----------
    end : int, optional
        Tells several ends of the same origin apart, 0 to 8,388,607.
    """

    origin = "H"

    def __init__(self, end: int = 0) -> None:
        if not 0 <= end < 1 << TransactionId.END_BITS:
            raise ApiParamError("end", end, f"a number from 0 to {(1 << TransactionId.END_BITS) - 1}")
        self.end = end
        self._base = int(TransactionId.make(self.origin, end, 0))
        self._count: Callable[[], int] = itertools.count(1).__next__

    def __call__(self) -> int:
        """Return the next id; safe from any thread."""
        return self._base | self._count()

    def owns(self, transaction_id: int) -> bool:
        """Whether an id has this end's mark."""
        return (
            transaction_id >> TransactionId.COUNT_BITS == self._base >> TransactionId.COUNT_BITS and transaction_id > 0
        )


class HeadTransactionIdGenerator(TransactionIdGenerator):
    """Ids of the Head, ``H1``, ``H2`` …; all the Head's managers in a process share one count."""

    origin = "H"

    def __init__(self, end: int = 0) -> None:
        super().__init__(end)
        self._count = _head_count


class NeckTransactionIdGenerator(TransactionIdGenerator):
    """Ids of a body's end, ``N1``, ``N2`` …; by default each generator of a process is an end of its own.

    Parameters
    ----------
    end : int, optional
        The body's number.
    """

    origin = "N"

    def __init__(self, end: int | None = None) -> None:
        super().__init__(next(_neck_end) if end is None else end)


def _unpack(payload: Any) -> bytes:
    """Undo compression; which one, the payload says."""
    from epyrpc.algorithms import Chain

    return Chain().unpack(bytes(payload))


class _NoPump:
    """Stands in until a wire is bound: a manager can be used, and tested, alone."""

    def __init__(self) -> None:
        self.condition = threading.Condition()

    def wait(self, awaited: Any, timeout: float | None = None) -> None:
        with self.condition:
            self.condition.wait_for(lambda: awaited.settled or awaited.has_news, timeout)

    def wake(self, awaited: Any) -> None:
        with self.condition:
            self.condition.notify_all()

    wake_followers = wake

    def need_tick(self) -> None:
        """Nobody looks at deadlines but who calls `timers`."""

    def run_later(self, work: Callable[[], object]) -> None:
        work()

    run_detached = run_later

    def send(self, pieces: list[Any], *, urgent: bool = True, may_block: bool = True) -> None:
        """There is no other end to be told."""


class TransactionManager:
    """The pending transactions of one end.

    Parameters
    ----------
    ids : TransactionIdGenerator
        `HeadTransactionIdGenerator` or `NeckTransactionIdGenerator`.
    clock : Clock, optional
        Time for the deadlines.

    Attributes
    ----------
    late : int
        Replies that came after their transaction had been retired.
    """

    # {transaction id: AsyncResult}; taking an id out (one dict.pop) is what retires it.
    # Guarded by _deadline_lock: _deadlines. Not guarded: _pending, whose single operations are atomic.

    STOPPING_LIMIT = 10_000
    STILL_SECONDS = 3.0  # without a word of how a call was stopped, it still runs: the other end itself is stuck

    def __init__(self, ids: TransactionIdGenerator, clock: Clock = SYSTEM_CLOCK) -> None:
        self.ids = ids
        self.late = 0
        self._clock = clock
        self._pending: dict[int, AsyncResult] = {}
        self._made = itertools.count()  # asked for one number by each call of a user's, from any thread
        self._stopping: dict[int, AsyncResult] = {}  # retired here, perhaps still running there
        self._deadlines: DeadlineHeap[int] = DeadlineHeap(clock)
        self._deadline_lock = threading.Lock()
        self._pump: Any = _NoPump()
        # Undoes what the other end's chain did to a payload; a transport with ciphers has its own.
        self.unpack: Callable[[Any], bytes] = _unpack
        # Called with a result whose call is to be ended by force, if need be; set by who can.
        self.killer: Callable[[AsyncResult], None] | None = None
        self.debugger: Callable[[AsyncResult], None] | None = None

    def bind(self, pump: Pump) -> None:
        """Learn who wakes those that wait."""
        self._pump = pump

    @staticmethod
    def encode_error(error: BaseException) -> bytes:
        """Encode an error for the other end."""
        return codec.encode_error(error)

    # --- making

    def new(self, path: str, window: int = 0) -> AsyncResult:
        """Make a transaction; with a `window`, one that takes a stream of parts."""
        result = self.make(path, window)
        self.admit(result)
        return result

    def make(
        self, path: str, window: int = 0, target: str = "", sent: int = 0, sink: OutputSink | None = None
    ) -> AsyncResult:
        """Make a transaction that is not pending yet; whoever calls `admit` sees to it that it is forgotten."""
        tid = self.ids()
        if window:
            return PartsResult(tid, path, self, self._pump, target, sent, sink, window=window)
        return AsyncResult(tid, path, self, self._pump, target, sent, sink)

    def admit(self, result: AsyncResult) -> None:
        """Let a transaction be pending; inside the `try` that forgets it, since Ctrl-C may come at any moment."""
        self._pending[result._tid] = result
        if result.path[:1] != "_" or result.path == RUN_PATH:
            next(self._made)
        if _results.watch is not None:
            _results.watch(result)

    @property
    def made(self) -> int:
        """How many transactions there have been, those with which an end looks after the other left out."""
        return int(repr(self._made)[len("count(") : -1])  # to ask it would count

    def find(self, tid: int) -> AsyncResult | None:
        """Return the pending transaction of an id."""
        return self._pending.get(tid)

    def set_deadline(self, result: AsyncResult, seconds: float) -> None:
        """Retire `result` as timed out after so many seconds from now, unless it has ended."""
        when = self._clock.monotonic() + seconds
        result.deadline = seconds
        with self._deadline_lock:
            earliest = self._deadlines.push(when, result._tid)
        if earliest:
            self._pump.need_tick()

    def forget(self, result: AsyncResult) -> None:
        """Take back a transaction whose call was never sent; it counts as if it had not been."""
        self._pending.pop(result._tid, None)
        self._drop_deadline(result)

    # --- retiring

    def deliver(self, frame: Frame) -> None:
        """Take a frame about one of this end's transactions; on the reading thread, never blocks."""
        kind, tid = frame.kind, frame.transaction_id
        if kind == messages.REPLY:
            self.deliver_reply(frame)
        elif kind == messages.ERROR or kind == messages.END:
            result = self._pending.pop(tid, None)
            if result is not None:
                if frame.options is not None:
                    result._ran = frame.options.timeout
                if result.deadline is not None:
                    self._drop_deadline(result)
                state = CallState.DONE if kind == messages.END else CallState.FAILED
                result._settle(state, frame=frame, by_reader=True)
            else:
                self._note_late(tid)
        elif kind == messages.STOPPED:
            self._hear_stopped(tid, frame)
        else:
            self._deliver_news(kind, tid, frame)

    def deliver_reply(self, frame: Frame) -> None:
        """Take a REPLY; on the reading thread, never blocks. Most calls end here: `AsyncResult._settle`, unrolled."""
        result = self._pending.pop(frame[2], None)
        if result is None:
            self._note_late(frame[2])
            return
        options = frame[4]
        if options is not None:
            result._ran = options.timeout
        if result.deadline is not None:
            self._drop_deadline(result)
        if type(result) is PartsResult:
            result.plain = True
        result._undecoded = [frame]
        result._ended = monotonic()
        result._call_state = _DONE
        result.settled = True
        if result.parkers:
            self._pump.wake_followers(result)
        if result.has_listeners:
            result._tell_listeners(_DONE)

    def _note_late(self, tid: int) -> None:
        self.late += 1
        result = self._stopping.pop(tid, None)
        if result is not None:  # it had ended there before it could be stopped
            self._drop_stop_limit(tid)
            result._set_stopped("cooperative")

    def _deliver_news(self, kind: int, tid: int, frame: Frame) -> None:
        result = self._pending.get(tid)
        if result is None:
            if kind != messages.NOTE and kind != messages.STARTED:  # these two may cross the reply
                self.late += 1
        elif kind == messages.NOTE:
            result._note(frame)
        elif kind == messages.STARTED:
            if frame.options is not None:
                result._ran_from = monotonic() - frame.options.timeout
                result._worker = frame.options.window
            if result._call_state is CallState.PENDING:
                result._call_state = CallState.RUNNING
        elif kind == messages.PART and isinstance(result, PartsResult):
            result._add_part(frame)
        elif kind == messages.CHUNK:
            self._take_chunk(result, frame)
        else:
            _log.warning("%s: a %s frame makes no sense here", result, messages.KIND_NAMES[kind])

    def _take_chunk(self, result: AsyncResult, frame: Frame) -> None:
        try:
            complete = result._add_chunk(frame)
        except TransactionError as exc:
            self._retire(result._tid, CallState.FAILED, exc, by_reader=True)
            return
        if complete and self._pending.pop(result._tid, None) is not None:
            self._drop_deadline(result)
            result._settle(CallState.DONE, frame=frame, by_reader=True)

    def _hear_stopped(self, tid: int, frame: Frame) -> None:
        result = self._stopping.get(tid)
        if result is not None:
            how = frame.path.replace("_", " ")
            if how != STILL_RUNNING:
                self._stopping.pop(tid, None)
            self._drop_stop_limit(tid)
            result._set_stopped(how)

    def _retire(
        self, tid: int, state: CallState, error: BaseException | None, *, by_reader: bool = False
    ) -> AsyncResult | None:
        """Take an id out of the table and settle its result; None when somebody else was first."""
        result = self._pending.pop(tid, None)
        if result is None:
            return None
        self._drop_deadline(result)
        result._settle(state, error=error, by_reader=by_reader)
        return result

    def _drop_stop_limit(self, tid: int) -> None:
        with self._deadline_lock:
            self._deadlines.discard(tid)

    def _drop_deadline(self, result: AsyncResult) -> None:
        if result.deadline is not None:
            with self._deadline_lock:
                self._deadlines.discard(result._tid)

    @shielded  # interrupted half way, the call would be neither pending nor settled
    def expire(self, result: AsyncResult, limit: float) -> bool:
        """Retire `result` because its deadline of `limit` seconds has passed, and stop it at the other end."""
        tid = result._tid
        noted = self._note_stopping(result)
        error = TransactionTimeout(result.path, str(TransactionId(tid)), limit)
        if self._retire(tid, CallState.TIMED_OUT, error) is None:
            if noted:  # else it is being stopped already, and `stopped` is still to be told
                self._stopping.pop(tid, None)
            return False
        self._send_cancel(tid)
        if result.kill_on_timeout and self.killer is not None:
            self.killer(result)
        return True

    @shielded
    def cancel(self, result: AsyncResult, *, kill: bool = False) -> bool:
        """Retire `result` as cancelled and stop it at the other end; False when it had ended.

        With `kill`, True also for a call that was retired before and still runs there.
        """
        tid = result._tid
        noted = self._note_stopping(result)
        if self._retire(tid, CallState.CANCELLED, None) is None:
            if noted:  # else it is being stopped already, and `stopped` is still to be told
                self._stopping.pop(tid, None)
            elif kill and self.killer is not None:
                self.killer(result)
                return True
            return False
        self._send_cancel(tid)
        if kill and self.killer is not None:
            self.killer(result)
        return True

    def _note_stopping(self, result: AsyncResult) -> bool:
        # Before the cancel is sent, or the answer to it might come first.
        if result._tid in self._stopping:
            return False
        self._stopping[result._tid] = result
        while len(self._stopping) > self.STOPPING_LIMIT:
            forgotten = self._stopping.pop(next(iter(self._stopping)), None)
            if forgotten is not None:
                forgotten._set_stopped(forgotten.stopped, last=True)
        return True

    def _send_cancel(self, tid: int) -> None:
        with self._deadline_lock:
            earliest = self._deadlines.push(self._clock.monotonic() + self.STILL_SECONDS, tid)
        if earliest:
            self._pump.need_tick()
        try:
            self._pump.send(messages.pack(messages.CANCEL, tid), may_block=False)
        except (IpcError, BodyError) as exc:
            _log.debug("cannot tell the other end to stop %s: %s", TransactionId(tid), exc)

    def give_credit(self, stream: PartsResult, count: int) -> None:
        """Let the other end send so many more parts."""
        try:
            self._pump.send(messages.pack(messages.CREDIT, stream._tid, options=messages.CallOptions(0.0, 0, count)))
        except (IpcError, BodyError) as exc:
            _log.debug("cannot give credit to %s: %s", stream, exc)

    def timers(self, now: float) -> float | None:
        """Retire what is overdue; return the time of the next deadline. Called by the wire's standby."""
        with self._deadline_lock:
            due = self._deadlines.pop_due()
            following = self._deadlines.next()
        for tid in due:
            result = self._pending.get(tid)
            if result is not None:
                self.expire(result, result.deadline or 0.0)
                continue
            result = self._stopping.get(tid)
            if result is not None and result.stopped is None:
                result._set_stopped(STILL_RUNNING)
        return following

    def release_all(self, error: BaseException) -> int:
        """Fail every pending transaction with `error`; return how many there were."""
        lost = isinstance(error, (IpcError, BodyError))
        killed = isinstance(error, BodyError) and self.killer is not None  # then there was a process, and it is gone
        for tid in list(self._stopping):
            stopping = self._stopping.pop(tid, None)
            if stopping is not None:
                self._drop_stop_limit(tid)
                stopping._set_stopped("killed" if killed else stopping.stopped, last=True)
        count = 0
        for tid in list(self._pending):
            if self._retire(tid, CallState.LOST if lost else CallState.FAILED, error) is not None:
                count += 1
        return count

    def abandon(self, error: BaseException) -> None:
        """In a forked child: its copies of what is pending end here and now; nobody is told."""
        self._deadline_lock = threading.Lock()
        self._deadlines = DeadlineHeap(self._clock)
        self._pump = _NoPump()
        for tid in list(self._pending):
            self._pending.pop(tid)._abandon(error)
        self._stopping.clear()

    # --- asking

    def __len__(self) -> int:
        return len(self._pending)

    def pending(self) -> tuple[AsyncResult, ...]:
        """Return what is pending now, oldest first."""
        return tuple(self._pending.copy().values())

    def is_valid(self, transaction_id: int) -> bool:
        """Whether an id is of a transaction that is pending here."""
        return transaction_id in self._pending

    def check(self, transaction_id: int) -> int:
        """Return the id if it is this end's.

        Raises
        ------
        TransactionIdError
            Another end made it.
        """
        if not self.ids.owns(transaction_id):
            raise TransactionIdError(
                f"{TransactionId(transaction_id)} is not an id of this end, whose ids look like "
                f"{TransactionId.make(self.ids.origin, self.ids.end, 1)}; give it to the manager that made it"
            )
        return transaction_id

    def get_result(self, transaction_id: int) -> AsyncResult:
        """Return the pending result of an id.

        Raises
        ------
        TransactionIdError
            Another end made it.
        NoDataError
            It is not pending (any more).
        """
        result = self._pending.get(self.check(transaction_id))
        if result is None:
            raise NoDataError(f"{TransactionId(transaction_id)} is not pending: it has ended, or never was")
        return result

    def release(self, transaction_id: int, value: Any) -> bool:
        """Settle a transaction from here with a value, or with an exception; False when it was not pending."""
        self.check(transaction_id)
        if isinstance(value, BaseException):
            return self._retire(transaction_id, CallState.FAILED, value) is not None
        payload, buffers = codec.encode_value(value)
        result = self._pending.pop(transaction_id, None)
        if result is None:
            return False
        self._drop_deadline(result)
        views = [memoryview(b) for b in buffers]
        result._settle(
            CallState.DONE, frame=messages.Frame(messages.REPLY, 0, transaction_id, "", None, payload, views)
        )
        return True

    def purge(self, transaction_id: int) -> bool:
        """Cancel one transaction; False when it was not pending."""
        result = self._pending.get(self.check(transaction_id))
        return result is not None and self.cancel(result)

    def purge_all(self) -> int:
        """Cancel everything that is pending; return how many there were."""
        return sum(self.cancel(result) for result in self.pending())

    def validate(self) -> None:
        """Raise EpyrpcError if an invariant does not hold; tests call it."""
        for tid, result in self._pending.copy().items():
            if result.settled and tid in self._pending:
                raise EpyrpcError(f"{result} is settled and still pending")
            if not self.ids.owns(tid):
                raise EpyrpcError(f"{TransactionId(tid)} is foreign")
