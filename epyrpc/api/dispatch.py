"""Calls on their way to a handler, and the handlers' workers.

Threads::

    reader (whoever leads the wire) ──Dispatcher.receive──▶ WorkerPool queue ──▶ workers (daemon, epyrpc-<api>-worker-N)
    worker with nothing to do ──leads the wire──▶ reads its next call itself and runs it at once
    event loop (daemon, epyrpc-asyncio, on the first coroutine) ──▶ async handlers
    standby of the wire ──Dispatcher.timers──▶ late starts, cancels that escalate, backlog, deadlocks, gathered output

A call is a `CurrentCall`; its stage goes QUEUED → RUNNING → (DELAYED →) ENDED. Whoever takes a solicited call out of
the table (one `dict.pop`) sends the one reply. A cancel sets `_cancelled`, then looks at the stage; a worker sets the
stage, then looks at `_cancelled`: so one of them sees the other, and a cancelled call that has not started never
does.
"""

from __future__ import annotations

import contextvars
import logging
import threading
import types
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING, Any

from epyrpc import codec, messages
from epyrpc import results as _results
from epyrpc.api.context import (
    DELAYED,
    ENDED,
    OUTPUT_SECONDS,
    QUEUED,
    RUNNING,
    CallCancelled,
    CurrentCall,
    WatchedCall,
    deadlock_error,
)
from epyrpc.errors import BodyError, IpcError, NoResponseRequired, UnsupportedApiError
from epyrpc.following import CausedEvents
from epyrpc.interrupts import HandlerShield, set_handler_shield
from epyrpc.partials import Chunks
from epyrpc.results import current

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Iterator

    from epyrpc.messages import Frame

_log = logging.getLogger("epyrpc.dispatch")
_get_ident = threading.get_ident
ANNOUNCE_SECONDS = 0.01  # a call that runs longer is announced as running
RAISE_SECONDS = 0.1  # a cancelled handler that has not stopped by then is interrupted
GIVE_UP_SECONDS = 2.0  # ... and one that still has not by then is reported as still running
BACKLOG_JOBS_PER_TICK = 20  # fewer than these done in a look, with more waiting: another worker helps
LOOK_SECONDS = 0.001
HEAR_SECONDS = 0.05  # until a worker that waits for the event loop hears that it is interrupted
EVENTS_PER_CREDIT = 1000  # handled ones are told to the sender, so many at a time; it may be 10,000 ahead
on_failure: Callable[[CurrentCall, BaseException], object] | None = None  # hears of what handlers raise
_MOST = 2**32 - 1  # what a frame can tell; only a frame that lies about an event's size comes near it
_SPECIAL = frozenset({types.GeneratorType, types.CoroutineType, types.AsyncGeneratorType, Chunks})


class WorkerPool:
    """The handler workers of one api.

    Parameters
    ----------
    name : str
        For the threads.
    size : int
        How many handlers run at once at most. Threads are started when there is work for them.
    dispatcher : Dispatcher
        Whose calls they run.
    """

    # Guarded by lead.lock: idlers. queue is a deque whose single operations are atomic; one thread at a time appends.
    # Guarded by _lock: _threads, stopped.
    # Guarded by _strands_lock: _strands. A path is in it while an event of that path is queued or runs.

    def __init__(self, name: str, size: int, dispatcher: Dispatcher, api: Any = None) -> None:
        self.name = name
        self.api = api  # whose workers these are
        self.size = size
        self.queue: deque[CurrentCall] = deque()
        self.idlers: list[Any] = []
        self.running: dict[int, CurrentCall] = {}  # {thread id: call}
        self.done = 0
        self.stopped = False
        self.first: Any = None  # the parker of the worker that is preferred, while it has one
        self._reserved = False  # that worker is on its way
        self._first_ident = 0  # of its thread
        self._parkers: set[Any] = set()  # of the workers
        self._seen_done = 0
        self._dispatcher = dispatcher
        self._threads: dict[int, threading.Thread | None] = {}  # {number: thread}
        self._lock = threading.Lock()
        self.members: set[int] = set()  # thread ids of the workers
        self._strands: dict[str, deque[CurrentCall]] = {}  # {path: its events that wait for the one before}
        self._strands_lock = threading.Lock()

    def submit_event(self, call: CurrentCall) -> None:
        """Queue an event; by the reader only.

        Events of one path are handled in the order in which they were sent, one at a time, however many workers there
        are: who appends them to a list finds them there in that order.
        """
        if self.size > 1:  # one worker keeps the order anyway
            with self._strands_lock:
                waiting = self._strands.get(call.path)
                if waiting is not None:
                    waiting.append(call)
                    return
                self._strands[call.path] = deque()
            call.in_strand = True
        self.queue.append(call)
        ident = _get_ident()
        if ident not in self.members or ident in self.running:
            self.hire_or_look()  # else the reader is an idle worker of this pool, and runs it next

    def end_event(self, call: CurrentCall) -> None:
        """Queue the next event of that path, to be run before everything else; by the worker that has run `call`."""
        with self._strands_lock:
            waiting = self._strands[call.path]
            if waiting and not self.stopped:
                following = waiting.popleft()
            else:
                del self._strands[call.path]
                for dropped in waiting:
                    self._dispatcher._end(dropped)
                return
        following.in_strand = True
        self.queue.appendleft(following)

    @property
    def waiting(self) -> int:
        """How many calls and events wait for a worker."""
        with self._strands_lock:
            return len(self.queue) + sum(len(waiting) for waiting in self._strands.values())

    def hire_or_look(self) -> None:
        """Get a worker for what was just queued; when all are busy, have it looked at, for it may be a deadlock."""
        if not self.hire() and len(self.queue) <= 1:
            self._dispatcher.need_tick()  # further ones find the standby looking every millisecond

    def hire(self, at_once: bool = False) -> bool:
        """Get one more worker to work: an idle one, or a new one while there may be more; False when all are busy."""
        wire = self._dispatcher.wire
        if (not at_once and self._is_first_coming()) or wire.lead.hire(self.idlers):
            wire.need_tick()
            return True
        if self._reserved and len(self.queue) <= 1:
            return True  # the reserved worker looks at the queue when it comes
        return self._start_worker()

    def _is_first_coming(self) -> bool:
        """Whether the preferred worker neither runs a call nor sleeps: then it is about to look at the queue.

        Should it have taken another call this very moment, the standby finds this one waiting.
        """
        first = self.first
        return (
            first is not None
            and len(self.queue) <= 1
            and self._first_ident not in self.running
            and first not in self.idlers
            and not self.stopped
        )

    def _start_worker(self) -> bool:
        if self.stopped:
            self._dispatcher.remove_pool(self)  # what the reader has just queued comes too late
            return False
        with self._lock:
            if self.stopped or len(self._threads) >= self.size:
                return False
            number = next(i for i in range(self.size) if i not in self._threads)
            thread = threading.Thread(
                target=self._work, args=(number,), name=f"epyrpc-{self.name}-worker-{number}", daemon=True
            )
            self._threads[number] = thread
            try:
                thread.start()
            except RuntimeError as exc:
                del self._threads[number]
                if "shutdown" not in str(exc):
                    raise
                return False  # from 3.12 on an interpreter that ends starts no more threads; its calls end with it
        self._dispatcher.wire.need_tick()
        return True

    def reserve(self) -> None:
        """Keep the first worker's place for `work_here`; before anything can be received, or another might take it."""
        with self._lock:
            self._threads[0] = None
            self._reserved = True

    def work_here(self) -> None:
        """Be the worker that was reserved, in the calling thread, until the pool stops; for the main thread of a body.

        It is preferred to the others whenever it is idle: only there a handler can be interrupted inside a system call.
        """
        self._first_ident = _get_ident()
        self.first = self._dispatcher.my_parker()
        self._work(0)

    def stop(self, *, wait: float = 5.0) -> None:
        """Let the workers end after what they are running; waits up to `wait` seconds. Callable from a worker."""
        with self._lock:
            self.stopped = True
            threads = [t for t in self._threads.values() if t is not None]
        wire = self._dispatcher.wire
        while wire.lead.hire(self.idlers):
            pass
        wire.link.wake()  # one of them may be reading
        limit = monotonic() + wait
        for thread in threads:
            if thread is not threading.current_thread():
                while thread.is_alive() and monotonic() < limit:
                    if not wire.over:
                        wire.link.wake()
                    thread.join(0.02)

    def _work(self, number: int) -> None:
        shield = HandlerShield()
        set_handler_shield(shield)
        ident = threading.get_ident()
        self.members.add(ident)
        try:
            self._loop(shield)
        finally:
            self.members.discard(ident)
            set_handler_shield(None)
            with self._lock:
                self._threads.pop(number, None)
            if self.stopped and not self._dispatcher.wire.over:
                self._dispatcher.remove_pool(self)  # this worker was to run what it had read itself

    def _loop(self, shield: HandlerShield) -> None:
        wire = self._dispatcher.wire
        lead, queue = wire.lead, self.queue
        me = self._dispatcher.my_parker()
        self._parkers.add(me)
        if me is self.first:
            self._reserved = False
        may_lead = True
        while not self.stopped:
            try:
                call = queue.popleft()
            except IndexError:
                pass  # not worked on in here: what a handler raises would have this for its context
            else:
                self._dispatcher.run(call, self, shield, not queue)
                may_lead = True
                continue
            verdict = lead.idle(me, queue, self.idlers, may_lead and not wire.over, self.first)
            if verdict is False:
                if me is self.first and lead.holder in self._parkers:
                    wire.link.wake()  # another worker reads, and is to give the lead to this one
                if not self.stopped:
                    me.lock.acquire()
                verdict = lead.stir(me, self.idlers)
            if verdict:
                may_lead = self._lead(me, shield)

    def _lead(self, me: Any, shield: HandlerShield) -> bool:
        """Read and run until there is a better reader.

        True when the lead was lost while running, so it may be taken again.
        """
        wire = self._dispatcher.wire
        lead, queue, run = wire.lead, self.queue, self._dispatcher.run
        try:
            while not self.stopped and not wire.over:
                delivered = wire.read(None)
                if queue:
                    lead.run(me)
                    while not self.stopped:
                        try:
                            call = queue.popleft()
                        except IndexError:
                            break
                        run(call, self, shield, not queue)
                    if not lead.resume(me):
                        return True
                    if self.first is not me and self.first is not None and lead.give(me, self.first, self.idlers):
                        return False
                elif delivered or lead.give(me, self.first, self.idlers):
                    return False  # it was for others: who waits for replies reads them with one hand-over less
        finally:
            lead.pass_on(me)
        return False

    def all_waiting(self) -> list[CurrentCall]:
        """Return the running calls if every worker runs one that itself waits for a call, else nothing."""
        calls = list(self.running.values())
        if len(calls) < self.size or any(call.waiting_on is None for call in calls):
            return []
        return calls

    def look(self) -> bool:
        """Hire one more if the queue moves slowly; True while there is a queue."""
        if not self.queue:
            return False
        moved, self._seen_done = self.done - self._seen_done, self.done
        if moved < BACKLOG_JOBS_PER_TICK:
            for _ in range(min(len(self.queue), self.size)):
                if not self.hire(True):  # the preferred worker did not come: it may be reading
                    break
        return True


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

    # Guarded by lock: _stopping. Not guarded: _calls, whose single operations are atomic.

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
        self._handled = 0  # events that the sender has not been told of. Guarded by _handled_lock.
        self._handled_lock = threading.Lock()
        self._stopping: list[CurrentCall] = []
        self._pools: list[WorkerPool] = []
        self._loop: AsyncLoop | None = None

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

    # --- receiving, on the reader

    def receive_call(self, frame: Frame) -> None:
        """Take a CALL; on the reading thread."""
        path = frame[3]
        found = self.receiver.routes.get(path) or self._find(path, False)
        if type(found) is tuple:
            handler, pool = found
            call = CurrentCall(frame, handler, self, pool) if _results.watch is None else self._watched(frame, found)
            self._calls[call._tid] = call
            pool.queue.append(call)
            ident = _get_ident()
            if ident not in pool.members or ident in pool.running:
                pool.hire_or_look()  # else the reader is an idle worker of this pool, and runs it next
        elif found is not None:
            self._refuse(frame, found)

    def receive_event(self, frame: Frame) -> None:
        """Take an EVENT; on the reading thread."""
        path = frame[3]
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
        with self._handled_lock:
            self._handled += weight
            if self._handled < EVENTS_PER_CREDIT:
                return
            count, self._handled = min(self._handled, _MOST), 0
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
            self._try_send(messages.ERROR, frame.transaction_id, codec.encode_error(error), path=messages.REFUSED)
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
        with self.lock:
            self._stopping.append(call)
        if call.stage is ENDED:  # while we looked
            self._drop_stopping(call)
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
            if call.in_strand:
                pool.end_event(call)
            return
        call.stage = RUNNING
        if call._cancelled:
            call.stage = QUEUED
            self._end(call)
            if call.in_strand:
                pool.end_event(call)
            return
        call._started_at = monotonic()
        call._shield = shield
        ident = shield.ident
        pool.running[ident] = call
        token = current.set(call)
        try:
            try:
                shield.enter(call)
                frame: Any
                frame, call._frame = call._frame, None
                payload = frame.payload
                if frame.flags & messages.PACKED:
                    payload = self.transporter.transactions.unpack(payload)
                args, kwargs = codec.decode(payload, frame.buffers)
                handler = call._handler
                value = handler(call.path, args, kwargs) if handler.middleware else handler.function(*args, **kwargs)
                if type(value) in _SPECIAL:
                    value = self._unfold(call, value, frame)
            finally:
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
                    self._event_over(call.weight, call.cause)
        finally:
            current.reset(token)
            del pool.running[ident]
            pool.done += 1
            if call.in_strand:
                pool.end_event(call)

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
            self._try_send(messages.END, call._tid)

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
        self._drop_stopping(call)
        call.flush_output()
        how = "never_started" if stage is QUEUED else "raised" if call._injected else "cooperative"
        self._try_send(messages.STOPPED, call._tid, path=how)

    def _drop_stopping(self, call: CurrentCall) -> None:
        with self.lock:
            if call in self._stopping:
                self._stopping.remove(call)

    def _answer(self, call: CurrentCall, value: Any, urgent: bool) -> None:
        """Answer a solicited call with a value; on a worker or the event loop."""
        try:
            payload, buffers = codec.encode_value(value)
        except BaseException as exc:  # a __reduce__ may even exit: that is its caller's affair, not this worker's
            self._fail(call, exc, refused=True)
            return
        # _end(), for the commonest case.
        if call._cancelled:
            self._end(call)
            return
        if self.before_reply is not None:
            self.before_reply(call)
        call.stage = ENDED
        if self._calls.pop(call._tid, None) is None:
            return
        if call._output:
            call.flush_output()
        transporter = self.transporter
        try:
            if buffers or transporter.chain is not None or len(payload) > 65536:
                pieces = transporter.pack(messages.REPLY, call._tid, payload=payload, buffers=buffers)
            else:
                pieces = messages.pack_plain(messages.REPLY, call._tid, "", payload)
            transporter._wire.write(pieces, urgent)
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
        self._try_send(messages.ERROR, call._tid, codec.encode_error(error), path=path)

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
        self.send(messages.REPLY, call._tid, "", payload, buffers)
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

    def _try_send(
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

    # --- timers, on the standby

    def timers(self, now: float) -> float | None:
        """Look at everything that takes its time; return when to look again, None while nothing runs."""
        due: float | None = None
        for pool in self._pools:
            if pool.look():
                due = now + LOOK_SECONDS
            for call in list(pool.running.values()):
                due = self._look_at(call, now, due)
        for call in list(self._stopping):
            due = self._escalate(call, now, due)
        self._look_for_deadlocks()
        return due

    def _look_at(self, call: CurrentCall, now: float, due: float | None) -> float | None:
        if not call.announced and call.solicited:
            if now - call._started_at >= ANNOUNCE_SECONDS:
                call.announced = True
                since = messages.CallOptions(now - call._started_at, 0, 0)  # how long it has been running
                self._try_send(messages.STARTED, call._tid, options=since)
            else:
                due = _earlier(due, call._started_at + ANNOUNCE_SECONDS)
        if call._output:
            call.flush_lines(now)
        if call._output is not None:
            due = _earlier(due, now + OUTPUT_SECONDS)
        return due

    def _escalate(self, call: CurrentCall, now: float, due: float | None) -> float | None:
        spent = now - call._cancelled_at
        if not call._told and spent >= RAISE_SECONDS:
            call._told = True
            waiting_on = call.waiting_on
            if waiting_on is not None:
                waiting_on.cancel()  # what it waits for ends, so that it comes out of the wire
            # A task is not interrupted: it was cancelled at once, in asyncio's own way, and its thread runs others too.
            if call._shield is not None and call.task is None:
                call._injected = True  # before it can have ended the call
                call._shield.interrupt(CallCancelled, call)
        elif call._told and spent >= GIVE_UP_SECONDS:
            self._drop_stopping(call)
            self._try_send(messages.STOPPED, call._tid, path="still_running")
            return due
        return _earlier(due, call._cancelled_at + (GIVE_UP_SECONDS if call._told else RAISE_SECONDS))

    def _look_for_deadlocks(self) -> None:
        """Fail the queued calls that can never run: every worker of their pool waits, in the end, for such a call."""
        stuck = {pool: calls for pool in self._pools if pool.queue and (calls := pool.all_waiting())}
        if not stuck:
            return
        running = {call.parent: call for call in self.running() if call.parent and call.solicited}
        while stuck:
            queued = {call.parent: call for pool in stuck for call in list(pool.queue) if call.awaited}
            ends = {pool: [_end_of_chain(call, queued, running) for call in calls] for pool, calls in stuck.items()}
            free = [pool for pool, found in ends.items() if not all(found)]
            if not free:
                break
            for pool in free:
                del stuck[pool]
        for pool, calls in stuck.items():
            for call in list(pool.queue):
                if any(call in found for found in ends.values()):
                    self.fail(call, deadlock_error(call, calls), refused=True)

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
        self._stopping.clear()
        for pool in self._pools:
            pool._lock, pool._strands_lock = threading.Lock(), threading.Lock()
            self._handled_lock = threading.Lock()
            pool.stopped = True
            pool.queue.clear()
            pool._strands.clear()


class AsyncLoop:
    """The event loop of one end's async handlers, in a thread of its own; made for the first of them."""

    def __init__(self) -> None:
        import asyncio

        self._asyncio = asyncio
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="epyrpc-asyncio", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self._loop.run_forever()
        pending = self._asyncio.all_tasks(self._loop)
        for task in pending:
            task.cancel()
        if pending:
            self._loop.run_until_complete(self._asyncio.gather(*pending, return_exceptions=True))
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    def start(self, dispatcher: Dispatcher, call: CurrentCall, value: Any, frame: Frame) -> None:
        """Run a coroutine, or an async generator, to its end and answer the call."""
        self._loop.call_soon_threadsafe(self._make_task, dispatcher, call, value, frame)

    def _make_task(self, dispatcher: Dispatcher, call: CurrentCall, value: Any, frame: Frame) -> None:
        if call._cancelled:
            if isinstance(value, types.CoroutineType):
                value.close()  # or Python warns that it was never awaited
            dispatcher._end(call)
            return
        token = current.set(call)  # the task copies the context
        try:
            call.task = self._loop.create_task(self._answer(dispatcher, call, value, frame))
        finally:
            current.reset(token)
        if call._cancelled:
            call.task.cancel()

    def run(self, coroutine: types.CoroutineType[Any, Any, Any]) -> Any:
        """Run a coroutine in the context of the calling thread, which waits for its end."""
        ended = threading.Event()
        task: list[asyncio.Task[None]] = []
        outcome: list[tuple[Any, BaseException | None]] = []

        async def run_to_its_end() -> None:
            try:
                outcome.append((await coroutine, None))
            except BaseException as exc:  # SystemExit too, which would end the loop
                outcome.append((None, exc))
            finally:
                ended.set()

        self._loop.call_soon_threadsafe(
            lambda: task.append(self._loop.create_task(run_to_its_end())), context=contextvars.copy_context()
        )
        try:
            _wait_for(ended)
        except BaseException:
            self._loop.call_soon_threadsafe(lambda: task[0].cancel())
            _wait_for(ended)  # what it has to tidy up comes first
            raise
        value, error = outcome.pop()
        if error is not None:
            try:
                raise error
            finally:
                del error  # no cycle through its traceback
        return value

    def cancel(self, task: asyncio.Task[None]) -> None:
        """Cancel a call's task; from any thread."""
        self._loop.call_soon_threadsafe(task.cancel)

    async def _answer(self, dispatcher: Dispatcher, call: CurrentCall, value: Any, frame: Frame) -> None:
        try:
            if isinstance(value, types.CoroutineType):
                result = await value
            elif frame.flags & messages.STREAM and call.solicited:
                await self._stream(dispatcher, call, value, frame)
                return
            else:
                result = [part async for part in value]
        except NoResponseRequired:
            if not call.delayed:
                dispatcher._end(call)
        except self._asyncio.CancelledError as exc:
            interrupted = call.interrupted
            dispatcher._fail(call, exc if interrupted is None else interrupted())
        except BaseException as exc:
            dispatcher._fail(call, exc)
        else:
            if call.delayed:
                return
            if call.solicited:
                dispatcher._answer(call, result, True)
            else:
                dispatcher._end(call)

    async def _stream(self, dispatcher: Dispatcher, call: CurrentCall, parts: Any, frame: Frame) -> None:
        dispatcher.open_window(call, frame)
        async for part in parts:
            while call._credit <= 0:
                await self._asyncio.sleep(0.002)
            with dispatcher.lock:
                call._credit -= 1
            dispatcher.send_part(call, part)
        dispatcher.end_stream(call)

    def stop(self) -> None:
        """Cancel what runs and end the thread; does not wait for it, unless it may."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._loop.stop)


def _wait_for(event: threading.Event) -> None:
    """Wait, and hear of an interrupt within a moment also where that cannot end the wait itself."""
    while not event.wait(HEAR_SECONDS):
        pass


def _end_of_chain(
    call: CurrentCall, queued: dict[int, CurrentCall], running: dict[int, CurrentCall]
) -> CurrentCall | None:
    """Return the queued call that a waiting handler waits for, over however many hops to the other end and back."""
    for _ in range(len(running) + 1):
        awaited = call.waiting_on
        if awaited is None:
            return None  # it has stopped waiting while we looked
        end = queued.get(awaited._tid)
        if end is not None:
            return end
        following = running.get(awaited._tid)
        if following is None or not following.awaited:
            return None
        call = following
    return None


def _trim_traceback(error: BaseException) -> None:
    """Drop our own frames from the top of a traceback: what a person wants to see begins at their handler."""
    top = error.__traceback__
    while top is not None and str(top.tb_frame.f_globals.get("__name__", "")).startswith("epyrpc."):
        top = top.tb_next
    if top is not None:
        error.with_traceback(top)  # an assignment would fail where the exception's class is frozen


def _earlier(due: float | None, when: float) -> float:
    return when if due is None or when < due else due


__all__ = ["Dispatcher", "WorkerPool"]
