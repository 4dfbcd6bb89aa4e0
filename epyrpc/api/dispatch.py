"""Calls on their way to a handler, and their answers on the way back.

Threads; for the workers see `workers`::

    reader (whoever leads the wire) ──Dispatcher.receive──▶ WorkerPool queue ──▶ workers ──Dispatcher.run──▶ handlers
    event loop (daemon, epyrpc-asyncio, on the first coroutine) ──▶ async handlers
    standby of the wire ──Dispatcher.timers──▶ `overdue`

A call is a `CurrentCall`; its stage goes QUEUED → RUNNING → (DELAYED →) ENDED. Whoever takes a solicited call out of
the table (one `dict.pop`) sends the one reply. A cancel sets `_cancelled`, then looks at the stage; a worker sets the
stage, then looks at `_cancelled`: so one of them sees the other, and a cancelled call that has not started never
does.
"""

from __future__ import annotations

import itertools
import logging
import threading
import types
from os import write
from time import monotonic
from typing import TYPE_CHECKING, Any

from epyrpc import codec, messages
from epyrpc import results as _results
from epyrpc.api.async_loop import AsyncLoop
from epyrpc.api.context import (
    DELAYED,
    ENDED,
    QUEUED,
    RUNNING,
    CallCancelled,
    CurrentCall,
    FollowingEvent,
    WatchedCall,
)
from epyrpc.api.overdue import Overdue
from epyrpc.codec import ATOMS, PROTOCOL, dumps, encode_value, loads, unreadable
from epyrpc.errors import BodyError, IpcError, NoResponseRequired, UnsupportedApiError
from epyrpc.following import CausedEvents
from epyrpc.messages import PACKED, PLAIN_REPLY, SMALL_BYTES, Frame, pack_words
from epyrpc.partials import Chunks
from epyrpc.results import current

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from epyrpc.api.workers import WorkerPool
    from epyrpc.interrupts import HandlerShield

_log = logging.getLogger("epyrpc.dispatch")
set_current, reset_current = current.set, current.reset
_new = object.__new__
EVENTS_PER_CREDIT = 1000  # handled ones are told to the sender, so many at a time; it may be 10,000 ahead
on_failure: Callable[[CurrentCall, BaseException], object] | None = None  # hears of what handlers raise
_MOST = 2**32 - 1  # what a frame can tell; only a frame that lies about an event's size comes near it
_SPECIAL = frozenset({types.GeneratorType, types.CoroutineType, types.AsyncGeneratorType, Chunks})


class Dispatcher:
    """Takes a transporter's calls and events to the handlers of the apis on it; one per transporter.

    Parameters
    ----------
    transporter : Transporter
        Where calls come from, and replies go to.
    receiver : ApiReceiver
        Has ``routes``, a cache of what `find` returned.
    find : callable
        ``find(path)`` returns ``(handler, pool)``, or an exception for the caller, or None to drop the frame.
    """

    # Guarded by lock: _loop, and the credit of streams. Not guarded: _calls, whose single operations are atomic.

    def __init__(self, transporter: Any, receiver: Any, find: Callable[[str, bool], Any]) -> None:
        self.transporter = transporter
        self.receiver = receiver
        self.name: str = transporter.name  # of the other end
        self.lock = threading.Lock()
        self.on_raw: Callable[[Frame], None] | None = None
        # Returns the error for calls that come when their workers are gone; they may belong to more than an api.
        self.why_gone: Callable[[], Exception] | None = None
        # Called with a call whose handler has ended, before it is answered: puts out what is still to be put out.
        self.before_reply: Callable[[CurrentCall], object] | None = None
        self._find = find
        self._calls: dict[int, CurrentCall] = {}  # solicited calls that have not ended
        # Events that the sender has not been told of: those that count for one, and what the others count for.
        self._handled_small = itertools.count(1)
        self._handled = 0  # Guarded by _handled_lock.
        self._handled_lock = threading.Lock()
        self._overdue = Overdue(self)
        self._pools: list[WorkerPool] = []
        self._loop: AsyncLoop | None = None

    @property
    def pools(self) -> list[WorkerPool]:
        """The pools that are looked after."""
        return self._pools

    @property
    def wire(self) -> Any:
        """The transporter's wire, whatever its state."""
        return self.transporter._wire

    def my_parker(self) -> Any:
        """Return the calling thread's parker."""
        return self.transporter.my_parker()

    def need_tick(self) -> None:
        """Have `timers` called soon."""
        self.wire.need_tick()

    def add_pool(self, pool: WorkerPool) -> None:
        """Look after a pool."""
        self._pools.append(pool)

    def remove_pool(self, pool: WorkerPool) -> None:
        """Look after it no more; what is queued there fails."""
        if pool in self._pools:
            self._pools.remove(pool)
        while pool.queue:
            call = pool.queue.popleft()
            error = UnsupportedApiError(self.name, call.path, ()) if self.why_gone is None else self.why_gone()
            self.fail(call, error, refused=True)
            self._drop_rest(call)

    # --- receiving, on the reader

    def receive_call(self, frame: Frame) -> None:
        """Take a CALL; on the reading thread."""
        path = frame[3]
        found = self.receiver.routes.get(path) or self._find(path, False)
        if type(found) is tuple:
            handler, pool = found
            call = CurrentCall(frame, handler, self, pool) if _results.watch is None else self._watched(frame, found)
            self._calls[frame[2]] = call
            pool.queue.append(call)
            if self.transporter._wire.reads_for is not pool:
                pool.hire_or_look()  # else the reader is an idle worker of this pool, and runs it next
        elif found is not None:
            self._refuse(frame, found)

    def receive_event(self, frame: Frame) -> None:
        """Take an EVENT; on the reading thread."""
        path = frame[3]
        if frame[1] & messages.SEVERAL:
            for args in loads(frame[5]):  # numbers and texts: none of a user's code runs here
                self.receive_event(Frame(messages.EVENT, 0, 0, path, None, codec.dump_plain((args, {})), ()))
            return
        found = self.receiver.routes.get(path)
        if type(found) is not tuple:
            found = self._find(path, True)
        if type(found) is tuple:
            handler, pool = found
            event = CurrentCall(frame, handler, self, pool) if _results.watch is None else self._watched(frame, found)
            if event.cause is not None:
                if event.cause.caused is None:
                    event.cause.caused = CausedEvents()
                event.cause.caused.note()
            pool.submit_event(event)
        else:
            self._event_over(1 if frame.options is None else max(1, frame.options.window))
            if found is not None:
                self._refuse(frame, found)

    def _event_over(self, weight: int, cause: Any = None) -> None:
        """Count an event that will not be heard of again, and tell its sender from time to time; never waits."""
        if cause is not None:
            cause.caused.end()
        if weight == 1:
            if not next(self._handled_small) % EVENTS_PER_CREDIT:
                self._give_credit(EVENTS_PER_CREDIT)
            return
        with self._handled_lock:
            self._handled += weight
            if self._handled < EVENTS_PER_CREDIT:
                return
            count, self._handled = min(self._handled, _MOST), 0
        self._give_credit(count)

    def drop_event(self, event: CurrentCall) -> None:
        """End an event and its `rest` that nobody will run."""
        self._end(event)
        self._drop_rest(event)

    def _drop_rest(self, event: CurrentCall) -> None:
        while event.rest:
            event.rest.popleft()
            self._event_over(1)

    def _give_credit(self, count: int) -> None:
        pieces = messages.pack(messages.CREDIT, 0, options=messages.CallOptions(0.0, 0, count))
        try:
            self.wire.send(pieces, urgent=False, may_block=False)
        except (IpcError, BodyError) as exc:
            _log.debug("%s: nobody sends events any more: %s", self.name, exc)

    def _watched(self, frame: Frame, found: tuple[Any, Any]) -> CurrentCall:
        """Make a call that is observed, and tell who observes."""
        call = WatchedCall(frame, found[0], self, found[1])
        watch = _results.watch
        if watch is not None:  # nobody has stopped observing meanwhile
            watch(call)
        return call

    def receive(self, frame: Frame) -> None:
        """Take any other frame; on the reading thread."""
        kind = frame.kind
        if kind == messages.CANCEL:
            self._cancel(frame.transaction_id)
        elif kind == messages.CREDIT:
            self._credit(frame)
        elif kind == messages.RAW and self.on_raw is not None:
            self.on_raw(frame)

    def _refuse(self, frame: Frame, error: BaseException) -> None:
        if frame.kind == messages.CALL:
            self.try_send(messages.ERROR, frame.transaction_id, codec.encode_error(error), path=messages.REFUSED)
        else:
            self.transporter.logger.warning("%s: an event is dropped: %s", self.name, error)

    def _cancel(self, tid: int) -> None:
        call = self._calls.get(tid)
        if call is None:
            return
        call._cancelled_at = monotonic()
        call._cancelled = True
        if call.stage is QUEUED or (call.delayed and call.task is None):
            self._end(call)
            return
        self._overdue.add(call)
        if call.stage is ENDED:  # while we looked
            self._overdue.drop(call)
            return
        if call._wake is not None:
            with call._wake:
                call._wake.notify_all()
        if call.task is not None and self._loop is not None:
            self._loop.cancel(call.task)
        self.need_tick()

    def _credit(self, frame: Frame) -> None:
        if frame.transaction_id == 0 and frame.options is not None:
            self.wire.events.add(frame.options.window)
            return
        call = self._calls.get(frame.transaction_id)
        if call is None or frame.options is None:
            return
        if not frame.options.window:
            call.awaited = True
            self.need_tick()
        elif call._wake is not None:
            with call._wake:
                call._credit += frame.options.window
                call._wake.notify_all()

    # --- running, on a worker

    def run(self, call: CurrentCall, pool: WorkerPool, shield: HandlerShield, last: bool) -> None:
        """Run one call's handler and answer it.

        On a worker. `last` says that nothing else is queued, so replies must leave.
        """
        if call.stage is not QUEUED:
            return
        call.stage = RUNNING
        if call._cancelled:
            call.stage = QUEUED
            self._end(call)
            return
        call._started_at = monotonic()
        call._shield = shield
        ident = shield.ident
        pool.running[ident] = call
        token = set_current(call)
        try:
            try:
                # shield.enter(call)
                shield._waiting = None
                shield._in_wire = False
                shield._job = call
                shield._active = True
                frame: Any
                frame, call._frame = call._frame, None
                payload = frame[5]
                if frame[1] & PACKED:
                    payload = self.transporter.transactions.unpack(payload)
                try:
                    args, kwargs = loads(payload, buffers=frame[6]) if frame[6] else loads(payload)
                except Exception as exc:
                    raise unreadable(exc) from exc
                handler = call._handler
                value = handler(call.path, args, kwargs) if handler.middleware else handler.function(*args, **kwargs)
                if type(value) in _SPECIAL:
                    value = self._unfold(call, value, Frame._make(frame))
            finally:
                # shield.leave()
                shield._active = False
                if shield._requested:
                    shield.leave()
        except NoResponseRequired:
            if not call.delayed:
                self._end(call)
        except BaseException as exc:
            shield.leave()  # in case that the interrupt came between the handler's end and the first leave()
            self._fail(call, exc)
        else:
            if call.stage is RUNNING:
                if call.solicited:
                    self._answer(call, value, last)
                else:
                    call.stage = ENDED
                    if frame[4] is not None:
                        self._event_over(call.weight, call.cause)
                    elif not next(self._handled_small) % EVENTS_PER_CREDIT:
                        self._give_credit(EVENTS_PER_CREDIT)
        finally:
            reset_current(token)
            del pool.running[ident]
            pool.done += 1

    def run_following(self, first: CurrentCall, pool: WorkerPool, shield: HandlerShield) -> None:
        """Run the `rest` of an event; on the same worker, as `run` does, but what is the same for all is done once.

        There is nothing to be answered and nothing to be unpacked.
        """
        rest = first.rest
        if rest is None:
            return
        path, handler = first.path, first._handler
        function, has_middleware = handler.function, bool(handler.middleware)
        ident, running, small = shield.ident, pool.running, self._handled_small
        token = set_current(first)
        try:
            while rest and not pool.stopped:
                item = rest.popleft()
                event = _new(FollowingEvent)
                event.path = path
                event._handler = handler
                event.dispatcher = self
                event.pool = pool
                event.stage = RUNNING
                event._started_at = monotonic()
                event._shield = shield
                running[ident] = event
                set_current(event)
                try:
                    try:
                        # shield.enter(event)
                        shield._waiting = None
                        shield._in_wire = False
                        shield._job = event
                        shield._active = True
                        if type(item) is tuple:
                            args, kwargs = item, {}
                        else:
                            try:
                                args, kwargs = loads(item)
                            except Exception as exc:
                                raise unreadable(exc) from exc
                        value = handler(path, args, kwargs) if has_middleware else function(*args, **kwargs)
                        if type(value) in _SPECIAL:
                            self._unfold(event, value, Frame(messages.EVENT, 0, 0, path, None, b"", ()))
                    finally:
                        # shield.leave()
                        shield._active = False
                        if shield._requested:
                            shield.leave()
                except NoResponseRequired:
                    self._end(event)
                except BaseException as exc:
                    shield.leave()  # in case that the interrupt came between the handler's end and the first leave()
                    self._fail(event, exc)
                else:
                    if event.stage is RUNNING:
                        event.stage = ENDED
                        if not next(small) % EVENTS_PER_CREDIT:
                            self._give_credit(EVENTS_PER_CREDIT)
                pool.done += 1
        finally:
            reset_current(token)
            running.pop(ident, None)
        self._drop_rest(first)

    def _unfold(self, call: CurrentCall, value: Any, frame: Frame) -> Any:
        """Deal with what a generator, coroutine or chunking handler returned.

        The call's stage says whether it is answered.
        """
        if isinstance(value, types.GeneratorType):
            if not frame.flags & messages.STREAM or not call.solicited:
                return list(value)
            return self._stream(call, value, frame)
        if isinstance(value, Chunks):
            return self._send_chunks(call, value) if call.solicited else None
        call.stage = DELAYED
        self._get_loop().start(self, call, value, frame)
        return None

    def _get_loop(self) -> AsyncLoop:
        with self.lock:
            if self._loop is None:
                self._loop = AsyncLoop()
            return self._loop

    def run_on_loop(self, coroutine: types.CoroutineType[Any, Any, Any]) -> Any:
        """Run a coroutine to its end on the event loop of the async handlers; the calling worker waits for it.

        What is raised in the worker meanwhile, since its call is cancelled or interrupted, cancels the coroutine.
        """
        loop = self._get_loop()
        self.wire.lead.pass_on(self.my_parker())  # who sleeps does not lead
        return loop.run(coroutine)

    def _stream(self, call: CurrentCall, parts: Iterator[Any], frame: Frame) -> None:
        self.open_window(call, frame)
        try:
            for part in parts:
                self._wait_for_credit(call)
                self.send_part(call, part)
        finally:
            parts.close()  # type: ignore[attr-defined]
        self.end_stream(call)

    def open_window(self, call: CurrentCall, frame: Frame) -> None:
        """Note how many parts may be sent before the first credit."""
        with self.lock:
            call._wake = threading.Condition()
            call._credit += frame.options.window if frame.options is not None else 1

    def _wait_for_credit(self, call: CurrentCall) -> None:
        if call._credit <= 0 and not call._cancelled and call._wake is not None:
            self.wire.lead.pass_on(self.my_parker())  # who sleeps does not lead: the credit has to be read
            with call._wake:
                while call._credit <= 0 and not call._cancelled:
                    call._wake.wait()
        call.check()
        with self.lock:
            call._credit -= 1

    def send_part(self, call: CurrentCall, part: Any) -> None:
        """Send one part of a stream."""
        payload, buffers = codec.encode_value(part, "part of the stream")
        call.flush_output()
        # A reader may be waiting for this very part; while the wire is busy it may wait for company all the same.
        self.send(messages.PART, call._tid, "", payload, buffers, urgent=False)

    def end_stream(self, call: CurrentCall) -> None:
        """Say that a stream has ended well."""
        if self._end(call):
            call.flush_output()
            self.try_send(messages.END, call._tid, options=_how_long(call))

    def _send_chunks(self, call: CurrentCall, chunks: Chunks) -> Any:
        parts = list(chunks.parts)
        if not parts:
            return [] if chunks.combiner is None else chunks.combiner([])
        encoded = [codec.encode_value((part, chunks.combiner), "piece of the result") for part in parts]
        if self._end(call):
            call.flush_output()
            for index, (payload, buffers) in enumerate(encoded):
                options = messages.CallOptions(0.0, index, len(parts))
                self.send(messages.CHUNK, call._tid, "", payload, buffers, options=options)
        return None

    # --- answering, on any thread

    def _end(self, call: CurrentCall) -> bool:
        """End a call; False when it had ended, or when nobody wants its reply. Who gets True sends the reply."""
        if self.before_reply is not None and call.stage not in (QUEUED, ENDED):
            self.before_reply(call)
        stage, call.stage = call.stage, ENDED
        if not call.solicited:
            if stage is not ENDED:
                self._event_over(call.weight, call.cause)
            return False
        if self._calls.pop(call._tid, None) is None:
            return False
        if call._cancelled:
            self._report_stopped(call, stage)
            return False
        return True

    def _report_stopped(self, call: CurrentCall, stage: str) -> None:
        self._overdue.drop(call)
        call.flush_output()
        how = "never_started" if stage is QUEUED else "raised" if call._injected else "cooperative"
        self.try_send(messages.STOPPED, call._tid, path=how)

    def _answer(self, call: CurrentCall, value: Any, urgent: bool) -> None:
        """Answer a solicited call with a value; on a worker or the event loop.

        For the commonest answer, `encode_value`, `_end` and `Wire.write_now` are unrolled; see `straight`.
        """
        if type(value) in ATOMS:
            payload = dumps(value, PROTOCOL)
            buffers: Sequence[Any] = ()
        else:
            try:
                payload, buffers = encode_value(value)
            except BaseException as exc:  # a __reduce__ may even exit: that is its caller's affair, not this worker's
                self._fail(call, exc, refused=True)
                return
        if call._cancelled:
            self._end(call)
            return
        if self.before_reply is not None:
            self.before_reply(call)
        call.stage = ENDED
        tid = call._tid
        if self._calls.pop(tid, None) is None:
            return
        if call._output:
            call.flush_output()
        transporter = self.transporter
        wire = transporter._wire
        size = len(payload)
        try:
            if buffers or transporter.chain is not None or size > SMALL_BYTES or call.announced:
                options = _how_long(call)
                pieces = transporter.pack(messages.REPLY, tid, payload=payload, buffers=buffers, options=options)
                wire.write(pieces, urgent)
                return
            frame = pack_words(PLAIN_REPLY, size, tid) + payload
            if not urgent:
                wire.write([frame], False)
                return
            outbox, link, lock = wire._outbox, wire.link, wire._write_lock
            if outbox or link.has_partial or not lock.acquire(False):
                full = wire.write_now(frame)
            else:
                full = wire._full = False
                try:
                    if wire._over:
                        raise wire.over_error()
                    if link.is_pipe:
                        written = write(link.write_fd, frame)
                        if written != len(frame):
                            full = wire._full = link.keep(frame, written)
                    else:
                        full = wire._full = not link.send_one(frame, outbox)
                except BlockingIOError:
                    full = wire._full = link.keep(frame, 0)
                except OSError as exc:
                    wire._write_failed(exc)
                finally:
                    lock.release()
                if outbox and not full:
                    full = wire._flush()
            if full:
                wire.wait_for_room()
        except (IpcError, BodyError) as exc:
            _log.debug("%s: nobody takes the answer to a call any more: %s", self.name, exc)

    def _fail(self, call: CurrentCall, error: BaseException, *, refused: bool = False) -> None:
        solicited = call.solicited
        call.note_failure(error)
        if not self._end(call):
            if not solicited and not (call._cancelled and isinstance(error, CallCancelled)):
                self.transporter.logger.error(
                    "%s: the handler of the event %s raised", self.name, call.path, exc_info=error
                )
            return
        call.flush_output()
        _trim_traceback(error)
        if on_failure is not None:
            on_failure(call, error)
        path = messages.REFUSED if refused else ""
        self.try_send(messages.ERROR, call._tid, codec.encode_error(error), path=path, options=_how_long(call))

    def answer(self, call: CurrentCall, value: Any) -> bool:
        """Give a delayed reply."""
        if call.stage is ENDED:
            return False
        try:
            payload, buffers = codec.encode_value(value)
        except BaseException as exc:  # a __reduce__ may even exit: that is its caller's affair, not this worker's
            self._fail(call, exc, refused=True)
            raise
        if not self._end(call):
            return False
        call.flush_output()
        self.send(messages.REPLY, call._tid, "", payload, buffers, options=_how_long(call))
        return True

    def fail(self, call: CurrentCall, error: BaseException, *, refused: bool = False) -> bool:
        """Answer with an error; False when the call had ended already."""
        if call.stage is ENDED:
            return False
        self._fail(call, error, refused=refused)
        return True

    def send(
        self,
        kind: int,
        tid: int,
        path: str = "",
        payload: Any = b"",
        buffers: Any = (),
        *,
        options: messages.CallOptions | None = None,
        urgent: bool = True,
    ) -> None:
        """Send a frame about a call.

        Raises
        ------
        IpcError
            The connection is gone.
        """
        pieces = self.transporter.pack(kind, tid, path, payload, options=options, buffers=buffers)
        self.wire.send(pieces, urgent=urgent)

    def try_send(
        self,
        kind: int,
        tid: int,
        payload: Any = b"",
        *,
        path: str = "",
        buffers: Any = (),
        options: messages.CallOptions | None = None,
        urgent: bool = True,
    ) -> None:
        """Send an answer if there still is somebody to take it."""
        try:
            self.send(kind, tid, path, payload, buffers, options=options, urgent=urgent)
        except (IpcError, BodyError) as exc:
            _log.debug("%s: nobody takes the answer to a call any more: %s", self.name, exc)

    def timers(self, now: float) -> float | None:
        """Look at everything that takes its time; return when to look again, None while nothing runs.

        On the standby.
        """
        return self._overdue.look(now)

    # --- the end

    def interrupt_running(
        self, exception: type[BaseException] = KeyboardInterrupt, *, only: WorkerPool | None = None
    ) -> int:
        """Raise in every handler that runs now, or in those of `only` one pool; return how many were told."""
        count = 0
        for pool in self._pools if only is None else [only]:
            for call in list(pool.running.values()):
                if call._shield is not None and call._shield.interrupt(exception, call):
                    count += 1
                if call.waiting_on is not None:
                    call.waiting_on.cancel()
        for call in list(self._calls.values()):
            if call.task is not None and self._loop is not None and (only is None or call.pool is only):
                call.interrupted = exception  # what its cancelling is to be called
                self._loop.cancel(call.task)
                count += 1
        return count

    def running(self) -> list[CurrentCall]:
        """Return the calls that run now."""
        return [call for pool in self._pools for call in list(pool.running.values())]

    def ended(self) -> None:
        """The connection is over: what runs is told, what is queued is dropped, the workers end.

        Does not wait for them.
        """
        now = monotonic()
        for call in self.running():
            call._cancelled_at = now
            call._cancelled = True
            if call._wake is not None:
                with call._wake:
                    call._wake.notify_all()
        for pool in self._pools:
            pool.queue.clear()
            pool.stop(wait=0)
        if self._loop is not None:
            self._loop.stop()
        self._calls.clear()

    def abandon(self) -> None:
        """In a forked child: the calls are the parent's, whose workers answer them.

        Prints go where they go without a call.
        """
        current.set(None)
        self.lock = threading.Lock()
        self._loop = None
        self._calls.clear()
        self._overdue.abandon()
        self._handled_lock = threading.Lock()
        for pool in self._pools:
            pool._lock, pool._strands_lock = threading.Lock(), threading.Lock()
            pool.stopped = True
            pool.queue.clear()
            pool._strands.clear()
            pool.following.clear()


def _how_long(call: CurrentCall) -> messages.CallOptions | None:
    """Return how long a call has run, to be told with its answer; only who has run for a while tells it."""
    return messages.CallOptions(monotonic() - call._started_at, 0, 0) if call.announced else None


def _trim_traceback(error: BaseException) -> None:
    """Drop our own frames from the top of a traceback: what a person wants to see begins at their handler."""
    top = error.__traceback__
    while top is not None and str(top.tb_frame.f_globals.get("__name__", "")).startswith("epyrpc."):
        top = top.tb_next
    if top is not None:
        error.with_traceback(top)  # an assignment would fail where the exception's class is frozen


__all__ = ["Dispatcher"]
