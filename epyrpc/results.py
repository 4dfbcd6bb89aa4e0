"""`AsyncResult`: the caller's view of one call, and a real `concurrent.futures.Future`.

Threads: the one that reads the wire settles a result (it never decodes, calls back or blocks), the one that asks for
the value decodes it, the wire's callback threads run what the user registered. Nothing here starts a thread.

States of a call, `CallState`; each call reaches one of the five on the right, once::

    PENDING ──STARTED──▶ RUNNING ──first part──▶ STREAMING ──▶ DONE · FAILED · TIMED_OUT · CANCELLED · LOST
"""

from __future__ import annotations

import concurrent.futures
import enum
import functools
import logging
import sys
import threading
from concurrent.futures import CancelledError, Future
from contextvars import ContextVar
from time import monotonic
from typing import TYPE_CHECKING, Any

from epyrpc import codec, messages
from epyrpc.clock import check_timeout, format_seconds
from epyrpc.errors import ApiError, BodyDied, BodyLost, IpcError, TimeoutBase, TransactionError
from epyrpc.following import CausedEvents, follow
from epyrpc.ids import TransactionId
from epyrpc.interrupts import SIGNAL_SECONDS
from epyrpc.messages import PACKED, REPLY
from epyrpc.news import CallNews, OutputSink
from epyrpc.ondemand import DICT_FIRST, MadeOnDemand
from epyrpc.outputs import DISPLAY
from epyrpc.partials import PartialResponse

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Collection, Generator

    from epyrpc.messages import Frame

_log = logging.getLogger("epyrpc.results")
WHY_STILL_RUNNING = "it is in code that cannot be interrupted, such as C code; cancel(kill=True) ends its process"
_PENDING, _FINISHED, _CANCELLED = "PENDING", "FINISHED", "CANCELLED_AND_NOTIFIED"  # concurrent.futures' own words
# The call that this thread or task is answering (an `api.context.CurrentCall`), if any.
current: ContextVar[Any] = ContextVar("epyrpc_current_call", default=None)
RUN_PATH = "_epyrpc.run"  # of a callable that travels with its call
STILL_RUNNING = "still running"  # the one value of `AsyncResult.stopped` that may still change


# Hears of what is raised here rather than by a handler: a wait was interrupted, or took too long, a call was cancelled.
# The notebook part sets it, so that such an exception is shown without our own frames.
# None instead of a result: no call is known that it is about.
on_raise: Callable[[AsyncResult | None, BaseException], object] | None = None


def tell_raised(result: AsyncResult | None, exc: BaseException) -> BaseException:
    """Tell `on_raise` of an exception that is about to leave; return it."""
    if on_raise is not None:
        on_raise(result, exc)
    return exc


def stop_interrupted(result: AsyncResult, exc: BaseException) -> None:
    """Stop a call whose caller was interrupted by `exc`, which is about to leave."""
    result.cancel()
    tell_raised(result, exc)


class CallState(enum.Enum):
    """What has become of a call."""

    PENDING = "pending"
    RUNNING = "running"
    STREAMING = "streaming"
    DONE = "done"
    FAILED = "failed"
    TIMED_OUT = "timed out"
    CANCELLED = "cancelled"
    LOST = "lost"

    def __str__(self) -> str:
        return self.value

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen to the call."""
        return self not in (CallState.PENDING, CallState.RUNNING, CallState.STREAMING)


_PENDING_CALL, _CANCELLED_CALL = CallState.PENDING, CallState.CANCELLED
_DONE = CallState.DONE  # reading a member off its class takes ten times as long


def _write_to_standard_stream(stream: str, text: str) -> None:
    target = sys.stderr if stream == "stderr" else sys.stdout
    if target is not None:  # None under pythonw and in some embeddings
        target.write(text)
        target.flush()


# Makes the sink of a call, on the thread that makes the call; the notebook part replaces it, so that output finds its
# cell.
make_output_sink: Callable[[], OutputSink] = lambda: _write_to_standard_stream  # noqa: E731 - a variable, not a function

# Hears of each call that this process makes (an `AsyncResult`) or answers (an `api.context.WatchedCall`), and of each
# event that it sends (a `SentEvent`), on the thread that does; None while nobody observes.
watch: Callable[[Any], object] | None = None


class AsyncResult(CallNews, Future):  # type: ignore[type-arg]
    """One call under way, or what became of it.

    Made by the verbs (``worker.submit.path(…)``) and by an `ApiAction`, not by users. It is a
    `concurrent.futures.Future`: `concurrent.futures.wait`, `as_completed` and `asyncio.wrap_future` take it; it can
    be awaited.

    Attributes
    ----------
    path : str
        What was called.
    target : str
        The name of the end that was called.
    stopped : str or None
        How a cancelled or timed-out call was stopped at the other end, once that is known: ``"never started"``,
        ``"cooperative"``, ``"raised"``, ``"killed"`` or ``"still running"``. A handler inside C code that cannot be
        interrupted is still running; when it ends at last, this changes once more. See `wait_stopped`.
    retry_of : str or None
        The id of the call that this one repeats.
    """

    # Invariant: _settle is called once, by whoever took the id out of the manager's table.
    # Invariant: `settled` is stored before `has_listeners` is read; who registers stores has_listeners (by asking for
    # _condition), then reads `settled`. So nothing is lost although no lock is made for the many results that nobody
    # registers with.

    # What every call uses lies in slots: no dict is made for it, and it is read quicker than a class default. The
    # rest are such defaults, since most calls use few of them.
    __slots__ = (
        "_call_state",
        "_encoded_at",
        "_ended",
        "_exception",
        "_notes",
        "_owner",
        "_pump",
        "_received",
        "_result",
        "_sent",
        "_sink",
        "_started",
        "_tid",
        "_undecoded",
        "_waiting",
        "caused",
        "deadline",
        "has_listeners",
        "has_news",
        "parkers",
        "path",
        "recall",
        "settled",
        "target",
    )
    _result: Any
    _exception: BaseException | None
    _call_state: CallState
    _encoded_at: float | None  # when its arguments had been encoded
    _undecoded: list[Frame] | None  # holds the reply as it came until somebody has claimed the decoding
    _sent: int  # bytes of the arguments on the wire
    _received: int  # bytes of the reply, once it is decoded; of a stream, of the parts that have come
    caused: CausedEvents | None  # made by the reader; only where the other end says what an event belongs to
    deadline: float | None
    has_listeners: bool  # somebody waits on _condition, or has left a callback
    parkers: Any
    recall: tuple[Any, ...] | None  # a function that makes the same call again, and what it takes

    # What Future.__init__ would have made:
    _condition = MadeOnDemand(threading.Condition)
    _waiters = MadeOnDemand(list)
    _done_callbacks = MadeOnDemand(list)
    _sent_at: float | None = None  # when they had been written, if they are large
    _ran_from: float | None = None  # when its handler began, on this end's clock
    _worker = 0  # which handler worker runs it, counted from 1, once that was told
    _ran: float | None = None  # how long it ran, as the other end has told
    _pieces: PartialResponse | None = None  # of its result, as they came
    _callback: Callable[[TransactionId, Any], object] | None = None
    _awaited = False
    stopped: str | None = None
    _stop_known = False  # nothing more will be heard of how it was stopped
    _revival: threading.Event | None = None  # set when the body that was killed for this call is back
    retry_of: str | None = None
    kill_on_timeout = False
    ignore_errors = False
    progress_after: float | None = None  # seconds until a cell that waits for it says so; None for the usual
    action: Any = None

    def __init__(
        self,
        transaction_id: int,
        path: str,
        owner: Any,
        pump: Any,
        target: str = "",
        sent: int = 0,
        sink: OutputSink | None = None,
    ) -> None:
        # Future.__init__ makes a Condition, seven times the cost of everything here; see _condition.
        if DICT_FIRST:
            self.__dict__  # noqa: B018  # see DICT_FIRST
        self._tid = transaction_id
        self.path = path
        self._owner = owner
        self._pump = pump
        self.target = target
        self._sent = sent
        self._sink = sink
        self._result = self._exception = self._undecoded = self._notes = self.caused = self.deadline = None
        self.parkers = self.recall = self._encoded_at = None
        self._call_state = _PENDING_CALL
        self.settled = self.has_news = self.has_listeners = False
        self._received = self._waiting = 0
        self._ended = 0.0
        self._started = monotonic()

    @property
    def _state(self) -> str:  # type: ignore[override]  # what concurrent.futures' own functions look at
        if not self.settled:
            return _PENDING
        return _CANCELLED if self._call_state is CallState.CANCELLED else _FINISHED

    def __reduce__(self) -> Any:
        raise TypeError(
            f"{self!r} cannot travel: a result belongs to the process that made the call. "
            "Send its value instead: result.result()"
        )

    # --- what a caller asks

    @property
    def id(self) -> TransactionId:
        """The transaction's id; its text, such as ``H128``, says which end made it."""
        return TransactionId(self._tid)

    transaction_id = id

    @property
    def _wire_facts(self) -> tuple[int, int, int]:
        return self._sent, self._received, self._worker

    @property
    def state(self) -> CallState:
        """What has become of the call."""
        return self._call_state

    @property
    def elapsed(self) -> float:
        """Seconds since the call was made, until it ended."""
        return (self._ended if self.settled else monotonic()) - self._started

    def show(self) -> None:
        """Put out here, in the cell that asks, what the call has put out so far."""
        sink = make_output_sink()
        show = getattr(sink, "show", None)
        for output in self.outputs:
            if output["output_type"] == "stream":
                sink(output["name"], output["text"])
            elif show is not None:
                show(DISPLAY, (output["data"], output["metadata"], {}, "display"))
            else:
                sink("stdout", f"{output['data'].get('text/plain', '')}\n")
        flush = getattr(sink, "flush", None)
        if flush is not None:
            flush()

    @property
    def timings(self) -> dict[str, float]:
        """Seconds by name, in order: ``encode``, ``send``, ``queued``, ``ran``, ``reply``, and ``total``.

        ``encode`` is the pickling of the arguments and ``send`` the writing of large ones, both while ``submit`` is at
        it; ``total`` goes from there to the call's end, or to now. A call that runs for 10 ms or more also tells how
        long it was ``queued``, on its way and until a worker had taken it, and how long it ``ran``; when its answer has
        come, also how long that was on its way, ``reply``.
        """
        end = self._ended if self.settled else monotonic()
        stations = {"encode": self._encoded_at, "send": self._sent_at, "queued": self._ran_from}
        if self._ran_from is not None:
            ran_to = self._ran_from + self._ran if self._ran is not None else end
            stations |= {"ran": ran_to, "reply": end if self._ran is not None and self.settled else None}
        found: dict[str, float] = {}
        at = self._started
        for name, reached in stations.items():
            if reached is not None:
                reached = min(max(reached, at), end)  # the clocks are read by several threads
                found[name], at = reached - at, reached
        return {**found, "total": end - self._started}

    def done(self) -> bool:
        """Whether the call has ended."""
        return self.settled

    def running(self) -> bool:
        """Whether the handler is known to be running."""
        return not self.settled and self._call_state is not CallState.PENDING

    def cancelled(self) -> bool:
        """Whether the call was cancelled."""
        return self.settled and self._call_state is CallState.CANCELLED

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the reply and return what the handler returned.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait here; the call itself goes on after them.

        Raises
        ------
        TimeoutError
            Nothing within `timeout`; the transaction stays pending.
        TransactionTimeout
            The call's own deadline has passed; it is retired.
        concurrent.futures.CancelledError
            It was cancelled.
        Exception
            Whatever the handler raised, with the remote traceback as its cause.
        KeyboardInterrupt
            Ctrl-C while waiting; the call is cancelled.
        """
        if not self.settled:
            self._wait(timeout)
        return self._value()

    def _value(self) -> Any:
        if self._notes is not None:
            self._show_all()
        if self.caused is not None and current.get() is None:
            self.caused.wait()
        if self._undecoded is not None:
            self._decode()
        if self._exception is not None:
            if self.ignore_errors and is_ignorable(self._exception):
                _log.info("%s (%s) failed and is ignored, as asked: %s", self.path, self.id, self._exception)
                return None
            try:
                raise self._exception
            finally:
                self = None  # type: ignore[assignment]  # no cycle through the traceback of an exception that we hold
        if self._call_state is _CANCELLED_CALL:
            raise tell_raised(self, CancelledError(f"{self.path} ({self.id}) was cancelled"))
        return self._result

    def acquire(self, timeout: float | None = None) -> Any:
        """Wait for the reply and return what the handler returned; the same as `result`."""
        return self.result(check_timeout(timeout))

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the reply and return what was raised, or None.

        Raises
        ------
        TimeoutError
            Nothing within `timeout` seconds.
        concurrent.futures.CancelledError
            The call was cancelled.
        """
        if not self.settled:
            self._wait(timeout)
        self._show_all()
        self._decode()
        if self._call_state is CallState.CANCELLED:
            raise CancelledError(f"{self.path} ({self.id}) was cancelled")
        if self.ignore_errors and self._exception is not None and is_ignorable(self._exception):
            return None
        return self._exception

    def cancel(self, *, kill: bool = False) -> bool:
        """Cancel the call, also one that is running: it is over at once here, and is stopped at the other end.

        There it is first asked (`current_call().cancelled`), then interrupted by raising in its thread; `stopped`
        says how it went. Only with `kill` is the process ended when that did not help within a second; a body is then
        started again, with its handlers and without its variables. A call that was cancelled without `kill` and still
        runs can be cancelled again with it.

        Returns
        -------
        bool
            False when it had ended before.
        """
        return bool(self._owner.cancel(self, kill=kill))

    def wait_stopped(self, timeout: float | None = None, *, last: bool = False) -> str | None:
        """Wait until it is known how a cancelled or timed-out call was stopped, and return that: see `stopped`.

        When it was killed, wait also until its body is back.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait.
        last : bool
            Wait also while it is ``"still running"``.

        Returns
        -------
        str or None
            None when that is not known within `timeout`, or when there was nothing to be stopped.
        """
        limit = None if timeout is None else monotonic() + timeout
        with self._condition:
            while not self._is_stop_known(last):
                left = None if limit is None else limit - monotonic()
                if left is not None and left <= 0:
                    break
                self._condition.wait(left)
        how, revival = self.stopped, self._revival
        if how == "killed" and revival is not None:
            revival.wait(None if limit is None else max(0.0, limit - monotonic()))
        return how

    def _is_stop_known(self, last: bool) -> bool:
        if self._stop_known:
            return True
        if self.stopped is not None:
            return not last
        return self.settled and self._call_state not in (CallState.CANCELLED, CallState.TIMED_OUT)

    def _set_stopped(self, how: str | None, *, last: bool = False) -> None:
        """Note how the call was stopped at the other end; by any thread, with nothing locked."""
        self.stopped = how
        self._stop_known = last or how != STILL_RUNNING
        if "_condition" in self.__dict__:
            with self._condition:
                self._condition.notify_all()

    def debug(self) -> None:
        """Open the debugger on the frames of what this call's handler raised, in the body where it was raised.

        It is `pdb`, typed at here: in a notebook in the cell that runs this. A body of a notebook keeps the frames of
        its last failed call, until the next one fails.

        Raises
        ------
        ApiError
            The call has not failed, or its frames are not there any more.
        """
        error = self.exception()
        debugger = getattr(self._owner, "debugger", None)
        if error is None or debugger is None:
            why = "it has not failed" if error is None else "it was not made to a body"
            raise ApiError(f"{self.path} ({self.id}) cannot be debugged: {why}")
        debugger(self)

    @property
    def arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        """What the handler got, positional and by name; None where that is not kept, since it is large."""
        if self.recall is None:
            return None
        _, path, args, kwargs, label = self.recall
        return (args[1], args[2]) if label and path.startswith("_") else (args, kwargs)

    def again(self) -> AsyncResult:
        """Make the same call once more, with the same arguments, and return its result; this one stays what it is.

        Its output goes where this one's does.

        Raises
        ------
        ApiError
            The arguments were not kept: they are large, or it is not a call that a body's ``submit`` made.
        """
        if self.recall is None:
            raise ApiError(
                f"{self.path} ({self.id}) cannot be repeated: its arguments are not kept. Make the call again"
            )
        repeat, *what = self.recall
        result: AsyncResult = repeat(*what, self._sink)
        result.retry_of = str(self.id)
        return result

    def then(
        self, fn: Callable[[Any], Any], on_error: Callable[[BaseException], Any] | None = None
    ) -> concurrent.futures.Future[Any]:
        """Call `fn(value)` when the call ends well, `on_error(exception)` otherwise, on a thread where they may block.

        In a notebook, what they print or display lands in the cell that called this, whichever runs by then.

        Returns
        -------
        concurrent.futures.Future
            Of what the function returned; of the call's own exception when it failed and there is no `on_error`. When
            the function raises, a notebook shows that in the cell, too.
        """
        sink = make_output_sink()
        # Only a notebook's sink has a cell to show it in; a script that lets the future go has asked for nothing.
        report = functools.partial(sink, "stderr") if hasattr(sink, "run") else None
        return follow(self, fn, on_error, report)

    def add_done_callback(self, fn: Callable[[Future[Any]], object]) -> None:
        """Call `fn(self)` when the call has ended, on a callback thread; here and now when it has ended already.

        In a notebook, what it prints or displays lands in the cell that called this.
        """
        run = getattr(make_output_sink(), "run", None)
        super().add_done_callback(fn if run is None else functools.partial(run, fn))

    def __await__(self) -> Generator[Any, None, Any]:
        import asyncio

        future: asyncio.Future[Any] = asyncio.wrap_future(self)
        if not self.settled:
            self._run_errands_in(future)
        return future.__await__()

    def set_running_or_notify_cancel(self) -> bool:
        """Refuse: the handler's end decides."""
        raise RuntimeError("an AsyncResult is settled by the other end, not by its holder")

    def set_result(self, result: Any) -> None:
        """Refuse: the handler's end decides."""
        raise RuntimeError("an AsyncResult is settled by the other end, not by its holder")

    def set_exception(self, exception: BaseException | None) -> None:
        """Refuse: the handler's end decides."""
        raise RuntimeError("an AsyncResult is settled by the other end, not by its holder")

    # --- waiting

    def _wait(self, timeout: float | None) -> None:
        if not self._wait_quietly(timeout):
            # Until 3.11 the futures have a TimeoutError of their own: this is both.
            text = f"{self.path} ({self.id}) has not ended within {timeout} s; it goes on: wait again, or cancel() it"
            raise tell_raised(self, TimeoutBase(text))

    def _wait_quietly(self, timeout: float | None, pieces: list[Any] | None = None) -> bool:
        """Wait until settled; False when `timeout` seconds have passed. Shows the call's output as it comes.

        With `pieces`, the frame of the call itself, sends that first.
        """
        limit = None if timeout is None else monotonic() + timeout
        self._waiting += 1
        job = current.get()
        if job is not None:
            outer, job.waiting_on = job.waiting_on, self  # for whoever asks why nothing moves
        try:
            if pieces is not None:
                self._pump.send_and_wait(pieces, self, timeout)
            elif job is not None:
                self._say_awaited()
            while True:
                if not self.settled and not self.has_news:
                    self._pump.wait(self, None if limit is None else max(0.0, limit - monotonic()))
                if self.has_news:
                    self._take_news()
                    if self._errands:
                        self._run_errands()
                if self.settled:
                    return True
                if limit is not None and monotonic() >= limit:
                    return False
        except KeyboardInterrupt as exc:
            stop_interrupted(self, exc)
            raise
        finally:
            self._waiting -= 1
            if job is not None:
                job.waiting_on = outer
            if self.has_news:
                self._take_news()

    def _say_awaited(self) -> None:
        """Tell the other end, once, that a handler waits for this call: it looks for deadlocks."""
        if not self._awaited and not self.settled:
            self._awaited = True
            self._owner.give_credit(self, 0)

    # --- settling, by the TransactionManager

    def _settle(
        self,
        state: CallState,
        *,
        frame: Frame | None = None,
        error: BaseException | None = None,
        by_reader: bool = False,
    ) -> None:
        """End the call; called once. By the reader with its `frame`, by anybody with an `error`."""
        if frame is not None:
            self._undecoded = [frame]
        self._exception = error
        self._ended = monotonic()
        self._call_state = state
        self.settled = True
        if by_reader and self.parkers:
            self._pump.wake_followers(self)
        elif not by_reader:
            self._pump.wake(self)
        if self.has_listeners:
            self._tell_listeners(state)

    def _tell_listeners(self, state: CallState) -> None:
        """Wake who waits on the condition, and have the callbacks run."""
        attributes = self.__dict__
        if "_condition" in attributes:
            self._notify_waiters(state)
        if self._callback is not None or "_done_callbacks" in attributes:
            self._pump.run_later(self._run_callbacks)

    def _call_back(self, callback: Callable[[TransactionId, Any], object] | None) -> None:
        """Have `callback` called when the call has ended; before it is sent."""
        self._callback = callback
        self.has_listeners = True

    def _abandon(self, error: BaseException) -> None:
        """End in a forked child: no callback, no wire, no lock that another thread may have held."""
        for name in ("_condition", "_waiters", "_done_callbacks", "_callback"):
            self.__dict__.pop(name, None)
        self._notes = self.parkers = None
        self._exception, self._ended = error, monotonic()
        self._call_state = CallState.LOST
        self.has_news = self.has_listeners = False
        self.settled = True

    def _notify_waiters(self, state: CallState) -> None:
        with self._condition:
            for waiter in self.__dict__.get("_waiters", ()):
                if state is CallState.CANCELLED:
                    waiter.add_cancelled(self)
                elif state is CallState.DONE:
                    waiter.add_result(self)
                else:
                    waiter.add_exception(self)
            self._condition.notify_all()

    def _run_callbacks(self) -> None:
        self._show_all()
        with self._condition:
            callbacks, self._done_callbacks = self._done_callbacks, []
        callback, self._callback = self._callback, None
        if callback is not None:
            try:
                value = self.result()
            except (Exception, CancelledError) as exc:
                value = exc
            except BaseException as exc:  # SystemExit from the handler: the callback gets it like any other outcome
                value = exc
            try:
                run = getattr(self._sink, "run", None)
                callback(self.id, value) if run is None else run(callback, self.id, value)
            except Exception:
                _log.exception("the callback of %s (%s) raised", self.path, self.id)
        for fn in callbacks:
            try:
                fn(self)
            except Exception:
                _log.exception("a done-callback of %s (%s) raised", self.path, self.id)

    def _decode(self) -> None:
        """Decode the reply on this thread, once; whoever comes second waits for the first."""
        holder = self._undecoded
        if holder is None:
            return
        try:
            frame = holder.pop()
        except IndexError:
            with self._condition:
                while self._undecoded is not None:
                    self._condition.wait()
            return
        self._received += size_of(frame) if frame[6] else len(frame[5])
        try:
            if frame[0] == REPLY and not frame[1] & PACKED:
                self._result = codec.decode(frame[5], frame[6])
            else:
                self._decode_other(frame)
        except BaseException as exc:  # also SystemExit, raised while unpickling: it is this call's outcome
            self._exception = exc
            self._call_state = CallState.FAILED
        finally:
            self._undecoded = None
            if self.has_listeners:
                with self._condition:
                    self._condition.notify_all()

    def _decode_other(self, frame: Frame) -> None:
        """Decode what is no plain reply."""
        if frame.flags & PACKED:
            frame = frame._replace(payload=self._owner.unpack(frame.payload))
        if frame.kind == messages.ERROR:
            self._exception = codec.decode_error(frame.payload)
            if isinstance(self._exception, (StopIteration, StopAsyncIteration)):
                # As out of a generator (PEP 479): it would end the loop of whoever waits, and hang who awaits.
                error = RuntimeError(f"the handler of {self.path} raised {type(self._exception).__name__}")
                error.__cause__ = self._exception
                self._exception = error
            if frame.path == messages.REFUSED:
                self._exception.__dict__["refused"] = True  # by the other end's machinery, not raised by a handler
        elif frame.kind == messages.CHUNK:
            self._result = self._join_chunks()
        elif frame.kind != messages.END:
            self._result = codec.decode(frame.payload, frame.buffers)

    # --- chunks

    def _add_chunk(self, frame: Frame) -> bool:
        """Keep one piece; True when all are there. Runs on the reader, so nothing is decoded.

        Raises
        ------
        TransactionError
            The pieces contradict each other.
        """
        options = frame.options
        if options is None:
            raise TransactionError(f"{self.path} ({self.id}): a piece of its result came without its number")
        if self._pieces is None:
            self._pieces = PartialResponse()
        try:
            return self._pieces.add(options.parent, options.window, frame)
        except TransactionError as exc:
            raise TransactionError(f"{self.path} ({self.id}): a piece does not belong to its result: {exc}") from None

    def _join_chunks(self) -> Any:
        pieces, self._pieces = self._pieces or PartialResponse(), None
        whole = PartialResponse()
        for index, frame in enumerate(pieces.result()):
            payload = frame.payload if not frame.flags & messages.PACKED else self._owner.unpack(frame.payload)
            data, combiner = codec.decode(payload, frame.buffers)
            whole.add(index, len(pieces), data, combiner)
        return whole.result()

    def _owner_holds(self) -> bool:
        """Whether the call is under way; not so for a moment while it is being settled, and when it was never sent."""
        return bool(self._owner.is_valid(self._tid))

    # --- how it looks

    def __repr__(self) -> str:
        where = f" on {self.target}" if self.target else ""
        text = f"<AsyncResult {self.id} {self.path}{where}: {self._call_state}, {format_seconds(self.elapsed)}"
        if self._call_state is CallState.FAILED and self._exception is not None:
            text += f", {type(self._exception).__name__}: {str(self._exception)[:80]}"
        if self.stopped == STILL_RUNNING:
            text += f", still running there: {WHY_STILL_RUNNING}"
        elif self.stopped is not None:
            text += f", stopped there: {self.stopped}"
        return text + ">"


def wait_for_all(calls: Collection[Future[Any]]) -> None:
    """Wait until all have ended; an interrupt is heard within a moment, whichever thread the system gives it to."""
    while concurrent.futures.wait(calls, SIGNAL_SECONDS).not_done:
        pass


def is_ignorable(error: BaseException) -> bool:
    """Whether ``ignore_errors`` covers an error.

    One of the api, the transaction, the transport or the body, of no handler.
    """
    if not isinstance(error, (ApiError, TransactionError, IpcError, BodyDied, BodyLost)):
        return False
    return not isinstance(error.__cause__, codec.RemoteTraceback) or getattr(error, "refused", False)


def size_of(frame: Frame) -> int:
    """Return how many bytes of a frame are its sender's: the payload, and the buffers that travel beside it."""
    size = len(frame.payload)
    return size + sum(view.nbytes for view in frame.buffers) if frame.buffers else size
