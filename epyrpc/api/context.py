"""What a handler can ask about the call that it is answering: `current_call()`."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import CancelledError
from time import monotonic
from typing import TYPE_CHECKING, Any

from epyrpc import codec, messages
from epyrpc.errors import ApiError, BodyError, DeadlockError, IpcError
from epyrpc.ids import TransactionId
from epyrpc.results import current

if TYPE_CHECKING:
    from epyrpc.interrupts import HandlerShield
    from epyrpc.messages import Frame

OUTPUT_CHUNK = 8192
OUTPUT_SECONDS = 0.02
PARTIAL_SECONDS = 0.06  # how long what is no whole line waits for its end
PROGRESS_SECONDS = 0.05

CALL = messages.CALL
QUEUED, RUNNING, DELAYED, ENDED = "queued", "running", "delayed", "ended"


class CallCancelled(CancelledError):
    """Raised in a handler's thread when its call was cancelled or has timed out.

    And the handler did not stop by itself.
    """


_first_output = threading.RLock()


class CurrentCall:
    """One call, as its handler sees it.

    Attributes
    ----------
    path : str
        The full path that was called; a catch-all handler learns from it what was meant.
    solicited : bool
        Whether a reply is owed.
    deadline : float or None
        When the caller gives up, on `time.monotonic`.
    """

    # A call is ended once, by whoever takes it out of the dispatcher's table; see `dispatch`.

    # What every call uses lies in slots, which are quicker to make and to read; of the rest most calls use little, so
    # they are defaults of the class.
    __slots__ = (
        "__dict__",
        "__weakref__",
        "_cancelled",
        "_frame",
        "_handler",
        "_output",
        "_shield",
        "_started_at",
        "_tid",
        "announced",
        "delayed",
        "dispatcher",
        "in_strand",
        "path",
        "pool",
        "rest",
        "solicited",
        "stage",
    )
    deadline: float | None = None
    parent = 0
    weight = 1  # an event: how many it counts for; see `transports.window`
    cause: Any = None  # the AsyncResult of the call in whose handler this one was made, at the end that made that call
    in_strand: bool  # an event that the next one of its path waits for
    # Of the plain events of its path that came in one piece with this one: payloads, or positional arguments.
    rest: deque[Any] | None
    announced: bool
    awaited = False  # made by a handler of the other end, which waits for it
    delayed: bool  # the reply is given by a DelayedReply
    waiting_on: Any = None  # the AsyncResult that the handler waits for
    task: Any = None  # of an async handler
    interrupted: type[BaseException] | None = None  # what its task is cancelled for, other than by its caller
    _cancelled: bool
    _cancelled_at = 0.0
    _told = False  # asking was not enough: the second step has been taken
    _injected = False  # an exception was raised in the handler's thread
    _saw_cancel = False
    # What has been written and not been sent yet. A piece leaves it after it was sent, so that whoever finds it empty
    # and then sends the reply knows that no piece is still on its way. Guarded by _output_lock: taking pieces out.
    _output: deque[tuple[str, str]] | None
    _output_lock: threading.Lock | None = None
    _output_size = 0
    _held_since = 0.0  # when what is no whole line was first found to be none
    _credit = 0
    worker = 0  # which worker runs it, counted from 1, once it has run for a while
    _wake: threading.Condition | None = None
    _shield: HandlerShield | None
    _started_at: float
    _last_progress = 0.0

    outgoing = False  # see SentEvent

    def __init__(self, frame: Frame, handler: Any, dispatcher: Any, pool: Any) -> None:
        self._frame: Frame | None = frame
        self._handler = handler
        self.dispatcher = dispatcher
        self.pool = pool
        kind, _, self._tid, self.path, options, _, _ = frame
        self.solicited = kind == CALL
        self.stage = QUEUED
        self.in_strand = self.announced = self.delayed = self._cancelled = False
        self._output = self._shield = self.rest = None
        self._started_at = 0.0
        if options is not None:
            if options.timeout == options.timeout:
                self.deadline = monotonic() + options.timeout
            self.parent = options.parent
            if not self.solicited and options.window:
                self.weight = options.window
            if options.parent:
                # Now, on the reader: the call may have ended when the handler looks.
                self.cause = dispatcher.transporter.transactions.find(options.parent)
            self.awaited = frame.flags & messages.AWAITED != 0

    @property
    def caller(self) -> str:
        """The name of the connection that the call came over."""
        return str(self.dispatcher.name)

    @property
    def id(self) -> TransactionId:
        """The transaction's id, made by the caller; 0 for an event."""
        return TransactionId(self._tid)

    transaction_id = id

    @property
    def cancelled(self) -> bool:
        """Whether the caller has cancelled, or has given up waiting; a long handler looks now and then, and returns."""
        if self._cancelled:
            self._saw_cancel = True
        return self._cancelled

    @property
    def remaining(self) -> float | None:
        """Seconds until the caller gives up, or None when it never does."""
        return None if self.deadline is None else self.deadline - monotonic()

    def check(self) -> None:
        """Raise if the call was cancelled.

        Raises
        ------
        CallCancelled
            It was; let it pass, it ends the call.
        """
        if self.cancelled:
            raise CallCancelled(f"{self.path} was cancelled by its caller")

    def progress(self, done: float, total: float | None = None) -> None:
        """Tell the caller how far this call has come; at most 20 times a second are sent, and the last step."""
        self.check()
        if not self.solicited:
            return
        now = monotonic()
        if now - self._last_progress < PROGRESS_SECONDS and done != total:
            return
        self._last_progress = now
        spent = now - self._started_at
        rate = done / spent if spent > 0 and done else None
        eta = (total - done) / rate if rate and total is not None else None
        self._send_note("progress", (done, total, rate, eta))

    def write(self, stream: str, text: str) -> None:
        """Send output to the caller; gathered into pieces of up to 20 ms."""
        if self._output is None:
            with _first_output:  # threads of the handler's own may come here at once
                if self._output is None:
                    self._output_lock = threading.Lock()
                    self._output = deque()
        output: deque[tuple[str, str]] = self._output
        first = not output
        output.append((stream, text))
        self._output_size += len(text)
        if self._output_size > OUTPUT_CHUNK and (text[-1:] == "\n" or self._output_size > 2 * OUTPUT_CHUNK):
            self.flush_output()
        elif first:
            self.dispatcher.need_tick()

    def flush_lines(self, now: float) -> None:
        """Send the lines that `write` has gathered, and what is no whole line if it has waited for a while.

        A `print` writes in several pieces: so what other calls print at the same time does not fall between them.
        """
        pieces = tuple(self._output or ())
        lines = next((count for count in range(len(pieces), 0, -1) if pieces[count - 1][1][-1:] == "\n"), 0)
        if lines == len(pieces):
            self._held_since = 0.0
        elif lines or not self._held_since:
            self._held_since = now
        elif now - self._held_since >= PARTIAL_SECONDS:
            self._held_since = 0.0
            lines = len(pieces)
        if lines:
            self.flush_output(lines)

    def flush_output(self, count: int | None = None) -> None:
        """Send what `write` has gathered; when it returns, that has been sent, also by another thread.

        With `count`, about so many pieces of it.
        """
        output, lock = self._output, self._output_lock
        if not output or lock is None:
            return
        # The standby never waits for a writer that waits for room in the pipe: it looks again soon.
        wire = self.dispatcher.wire
        if not lock.acquire(wire is None or threading.current_thread() is not wire._standby):
            return
        try:
            while output and count != 0:
                sent = self._send_output(output, count)
                count = None if count is None else count - sent
        finally:
            lock.release()

    def _send_output(self, output: deque[tuple[str, str]], limit: int | None) -> int:
        """Send what was written to one stream until it changed to the other; holding _output_lock."""
        name, count, pieces = output[0][0], 0, []
        for stream, text in tuple(output)[:limit]:
            if stream != name:
                break
            pieces.append(text)
            count += 1
        self._output_size = 0
        self._send_note("output", (name, "".join(pieces)))
        for _ in range(count):
            output.popleft()
        return count

    def _send_note(self, name: str, value: Any) -> None:
        payload, _ = codec.encode_value(value)
        try:
            self.dispatcher.send(messages.NOTE, self._tid, name, payload, urgent=False)
        except (IpcError, BodyError):
            self._cancelled = True  # nobody listens any more

    def note_failure(self, error: BaseException) -> None:
        """Hear of the error that the call ends with; only who observes keeps it."""

    def delay_reply(self) -> DelayedReply:
        """Answer later: what the handler returns is not sent, the returned object sends the reply from any thread.

        Raises
        ------
        ApiError
            No reply is owed.
        """
        if not self.solicited:
            raise ApiError(f"{self.path} is an event: there is no reply to be delayed")
        self.stage = DELAYED
        self.delayed = True
        return DelayedReply(self)

    def __repr__(self) -> str:
        return f"<CurrentCall {self.id} {self.path}: {self.stage}>"


class WatchedCall(CurrentCall):
    """A call that somebody observes: it also notes when it came, ran and ended, and its error."""

    ran_at = ended_at = 0.0
    failure = ""
    _stage = QUEUED

    def __init__(self, frame: Frame, handler: Any, dispatcher: Any, pool: Any) -> None:
        self.came_at = monotonic()
        super().__init__(frame, handler, dispatcher, pool)

    @property
    def stage(self) -> str:
        """How far it has come."""
        return self._stage

    @stage.setter
    def stage(self, stage: str) -> None:
        if stage is RUNNING:
            self.ran_at = monotonic()
        elif stage is ENDED:
            self.ended_at = monotonic()
        self._stage = stage

    def note_failure(self, error: BaseException) -> None:
        """Keep the error's text."""
        self.failure = f"{type(error).__name__}: {error}"[:500]


class FollowingEvent(CurrentCall):
    """An event that is run with the one before it: `Dispatcher.run_following` makes it, and sets what differs."""

    __slots__ = ()
    # Of the class, in front of the slots of these names, so that they need not be set; whoever sets one of an event all
    # the same finds it there.
    _cancelled = announced = delayed = in_strand = solicited = False
    _frame = _output = rest = None
    _tid = 0


class SentEvent:
    """An event that was sent, for whoever observes: over at once."""

    solicited = False
    outgoing = True
    stage = ENDED
    failure = ""
    _cancelled = False
    _tid = 0
    worker = 0

    def __init__(self, path: str, caller: str) -> None:
        self.path, self.caller = path, caller
        self.came_at = self.ran_at = self.ended_at = monotonic()


class DelayedReply:
    """The reply to one call, to be given once, from any thread, before or after the handler has returned."""

    def __init__(self, call: CurrentCall) -> None:
        self._call = call

    @property
    def id(self) -> TransactionId:
        """The id of the call that is to be answered."""
        return self._call.id

    def send(self, value: Any) -> bool:
        """Answer with a value; False when the call had ended already (it was cancelled, or answered).

        Raises
        ------
        CodecError
            The value cannot be pickled; the caller gets this error too.
        """
        return bool(self._call.dispatcher.answer(self._call, value))

    def fail(self, error: BaseException) -> bool:
        """Answer with an exception; False when the call had ended already."""
        return bool(self._call.dispatcher.fail(self._call, error))


def current_call() -> CurrentCall:
    """Return the call that this thread, or this task, is answering.

    Raises
    ------
    ApiError
        It is answering none.
    """
    call: CurrentCall | None = current.get()
    if call is None:
        raise ApiError(
            "no call is being answered here; current_call() works inside a handler, on the handler's own thread"
        )
    return call


def deadlock_error(queued: CurrentCall, waiting: list[CurrentCall]) -> DeadlockError:
    """Return the error for a call that waits for handlers that wait for it."""
    names = [(call.path, str(call.id), call.waiting_on.path, str(call.waiting_on.id)) for call in waiting]
    return DeadlockError(
        deadlock_text(queued.path, str(queued.id), names),
        calls=(str(queued.id), *(str(call.id) for call in waiting)),
    )


def deadlock_text(path: str, identifier: str, waiting: list[tuple[str, str, str, str]]) -> str:
    """Return what is said of a queued call and of those that are in its way.

    Of these, path and id, and path and id of what each waits for.
    """
    names = ", ".join(f"{p} ({i}), which waits for {awaited} ({its_id})" for p, i, awaited, its_id in waiting)
    return (
        f"{path} ({identifier}) can never run: every handler worker is busy with {names}. "
        "Spawn with more workers, or answer without calling back."
    )


__all__ = ["CallCancelled", "CurrentCall", "DelayedReply", "FollowingEvent", "SentEvent", "WatchedCall", "current_call"]
