"""The straight roads: all that the commonest calls and events need, in one function for each way.

Where two processes take turns on a core, half of what a call costs is the interpreter finding its way again after the
other process has had the core, so that the price is not how long the code runs but how much different code it touches.
`call_straight` is therefore a number of functions unrolled: `codec.encode_call`, `TransactionManager.admit`,
`Wire.write_now`, `Lead.take_vacant`, `Wire.read`, `PipeLink.receive`, `FrameParser.feed`,
`TransactionManager.deliver_reply`, `Lead.pass_on` and `AsyncResult._value`. It takes the commonest call as it mostly
goes: a small one over a pipe, which nobody observes, whose reply is the next thing that comes. As soon as anything else
shows, it hands over to those functions, at a point where they can go on. `submit_straight` and `send_event` are the
same for what does not wait, `serve_straight` for a handler worker that reads its next call, and `take_plain` for all
else that comes without extras, whoever reads it.

Threads: each runs in the thread that calls it, and starts none.
"""

from __future__ import annotations

import logging
from collections import deque
from os import read, write
from time import monotonic
from typing import TYPE_CHECKING, Any

from epyrpc import messages
from epyrpc import results as _results
from epyrpc.api.context import CurrentCall, SentEvent
from epyrpc.codec import PROTOCOL, are_atoms, are_few_atoms, dumps, encode_call, loads
from epyrpc.interrupts import raise_shield
from epyrpc.messages import (
    BODY,
    CALL,
    EVENT,
    EVENT_BYTES,
    HEADER_SIZE,
    PLAIN_CALL,
    PLAIN_EVENT,
    PLAIN_EVENTS,
    PLAIN_REPLY,
    REPLY,
    SMALL_BYTES,
    pack_plain,
    pack_words,
    path_of,
    unpack_by_word,
    unpack_words,
)
from epyrpc.results import AsyncResult, CallState, current
from epyrpc.streams import PartsResult
from epyrpc.transports.base import TransportState
from epyrpc.transports.lead import READING, RUNNING, VACANT
from epyrpc.transports.queues import READ_BYTES, SIGNAL_MS
from epyrpc.transports.wire import CORK_FRAMES, local, my_parker

if TYPE_CHECKING:
    from collections.abc import Callable

_log = logging.getLogger("epyrpc.wire")
_NAN = float("nan")
_EVENTS = (PLAIN_EVENT, PLAIN_EVENTS)
_JOBS = (*_EVENTS, PLAIN_CALL)
NOTHING, OTHER, RAN, LOST = range(4)  # what `serve_straight` says
_OPEN, _DONE = TransportState.OPEN, CallState.DONE  # reading a member off its class takes ten times as long


def call_straight(transporter: Any, path: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Call and wait for ever; for an api without hooks, middleware or settings of its own, outside of handlers.

    Parameters
    ----------
    transporter : Transporter
        Over which the call goes.
    path : str
        What is called; none of epyrpc's own.
    args, kwargs
        What the handler gets.

    Raises
    ------
    Exception
        As `api.action.ApiAction` says.
    """
    if transporter.state is not _OPEN:
        raise transporter.state_error()
    if not kwargs and are_atoms(map(type, args)):
        payload = dumps((args, kwargs), PROTOCOL)
        buffers: list[Any] = []
    else:
        payload, buffers = encode_call(args, kwargs)
    size = len(payload)
    wire, transactions = transporter._wire, transporter.transactions
    tid = transactions.ids()
    result = AsyncResult(tid, path, transactions, wire, transporter.name, size, _results.make_output_sink())
    result._waiting = 1
    link, lead, lock, pending = wire.link, wire.lead, wire._write_lock, transactions._pending
    try:
        if buffers or size > SMALL_BYTES or not link.is_pipe or transporter.chain is not None:
            transactions.admit(result)
            wire.send_and_wait(lay_out(transporter, result, payload, buffers, None, 0, False), result)
        else:
            name = path.encode()
            frame = pack_words(PLAIN_CALL | len(name) << 32, len(name) + size, tid) + name + payload
            if wire._reading:
                wire._check_not_below()
            shield = raise_shield()
            try:
                pending[tid] = result
                next(transactions._made)
                if _results.watch is not None:
                    _results.watch(result)
                # Wire.write_now
                if wire._outbox or link.has_partial or not lock.acquire(False):
                    full = wire.write_now(frame)
                else:
                    full = wire._full = False
                    try:
                        if wire._over:
                            raise wire.over_error()
                        written = write(link.write_fd, frame)
                        if written != len(frame):
                            full = wire._full = link.keep(frame, written)
                    except BlockingIOError:
                        full = wire._full = link.keep(frame, 0)
                    except OSError as exc:
                        wire._write_failed(exc)
                    finally:
                        lock.release()
                    if wire._outbox and not full:
                        full = wire._flush()
                if full:
                    wire._wait_for_room(shield, None)
                try:
                    me = local.parker
                except AttributeError:
                    me = my_parker()
                # Lead.take_vacant
                with lead.lock:
                    # The standby may have read the reply, or output, and given the lead away since the call was sent.
                    leads = lead.state is VACANT and not (result.settled or result.has_news)
                    if leads:
                        lead.state = READING
                        lead.holder = me
                if leads:
                    try:
                        # Wire.read
                        data = b""
                        wire._reading = True
                        try:
                            # PipeLink.receive
                            if not (wire._over or link.parser.begun or wire._dying is not None):
                                looker = link.looker
                                looker.left -= 1
                                ready = looker.look() if looker.looking or not looker.left else None
                                if not ready:
                                    if shield is None:
                                        ready = link.wait_readable(None)
                                    else:
                                        shield.open = True
                                        if shield.pending:
                                            shield.reopen()
                                        ready = link.wait_readable(SIGNAL_MS)
                                        shield.open = False
                                if ready == link.only_data:
                                    data = read(link.read_fd, READ_BYTES)
                        except OSError:  # it will come again below, where it is the end of the link
                            if shield is not None:
                                shield.open = False
                        finally:
                            wire._reading = False
                            if wire._over:
                                wire._say_reader_left()
                        # FrameParser.feed
                        length = len(data) - HEADER_SIZE
                        if length > 0 and unpack_words(data) == (PLAIN_REPLY, length, tid):
                            # TransactionManager.deliver_reply
                            if pending.pop(tid, None) is None:
                                transactions._note_late(tid)
                            else:
                                reply: Any = (REPLY, 0, tid, "", None, data[BODY], ())
                                result._undecoded = [reply]
                                result._ended = monotonic()
                                result._call_state = _DONE
                                result.settled = True
                                if result.parkers:
                                    wire.wake_followers(result)
                                if result.has_listeners:
                                    result._tell_listeners(_DONE)
                        else:
                            if data:
                                wire.digest(data)
                            while not (result.settled or result.has_news or wire._over):
                                wire.read(None, shield)
                    finally:
                        # Lead.pass_on
                        with lead.lock:
                            if lead.holder is me and not lead.followers:
                                lead.state = VACANT
                                lead.holder = None
                                lead.serial += 1
                                if lead.sleeper is not None:
                                    lead._rouse()
                                leads = False
                        if leads:
                            lead.pass_on(me)
                else:
                    wire._wait(result, None, shield)
            finally:
                if shield is not None:
                    shield.lower()
        if not result.settled or result.has_news:
            result._waiting = 0
            result._wait_quietly(None)
    except BaseException as exc:
        withdraw(result, exc)
        raise
    # AsyncResult._value and _decode
    holder = result._undecoded
    if holder is not None and result._notes is None and result.caused is None:
        try:
            reply = holder.pop()
        except IndexError:  # somebody has asked for the pending calls, and decodes this one's reply
            return result._value()
        if reply[0] == REPLY and not reply[1]:
            try:
                value = result._result = loads(reply[5])
            except BaseException as exc:
                holder.append(reply)
                if not isinstance(exc, Exception):
                    raise
            else:
                result._received = len(reply[5])
                result._undecoded = None
                if not result.has_listeners:
                    return value
        else:
            holder.append(reply)
    return result._value()


def submit_straight(
    transporter: Any, path: str, args: tuple[Any, ...], kwargs: dict[str, Any], again: Callable[..., AsyncResult]
) -> AsyncResult:
    """Send a call and return its result at once; for an api without hooks, middleware or settings of its own.

    `action.prepare_call`, `TransactionManager.admit` and `Wire.send` are unrolled.

    Parameters
    ----------
    transporter, path, args, kwargs
        As in `call_straight`; here in handlers too.
    again : callable
        Makes the same call again, given path, arguments and an empty label.

    Raises
    ------
    CodecError
        An argument cannot be pickled; nothing was sent and no transaction is left.
    TransportClosed, TransportDisconnected
        There is no connection.
    """
    begun = monotonic()
    if transporter.state is not _OPEN:
        raise transporter.state_error()
    if not kwargs and are_atoms(map(type, args)):
        payload = dumps((args, kwargs), PROTOCOL)
        buffers: list[Any] = []
    else:
        payload, buffers = encode_call(args, kwargs)
    size = len(payload)
    wire, transactions = transporter._wire, transporter.transactions
    tid = transactions.ids()
    result = AsyncResult(tid, path, transactions, wire, transporter.name, size, _results.make_output_sink())
    result._encoded_at, result._started = result._started, begun
    small = not buffers and size <= SMALL_BYTES
    if small:  # a result is not to hold the megabytes that were sent
        result.recall = (again, path, args, kwargs, "")
    try:
        if not small or transporter.chain is not None or current.get() is not None:
            pieces = lay_out(transporter, result, payload, buffers, None, 0, False)
            transactions.admit(result)
            wire.send(pieces, urgent=False)
            if len(pieces) > 1:  # small ones take no time worth a look at the clock
                result._sent_at = monotonic()
        else:
            transactions._pending[tid] = result
            next(transactions._made)
            if _results.watch is not None:
                _results.watch(result)
            if wire._over:
                raise wire.over_error()
            name = path.encode()
            wire._outbox.append(pack_words(PLAIN_CALL | len(name) << 32, len(name) + size, tid) + name + payload)
            if not wire.cork():
                wire.send_outbox()
    except BaseException as exc:
        withdraw(result, exc)
        raise
    return result


def send_event(transporter: Any, path: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Encode and send an event: no transaction, no reply; `codec.encode_call` and `Wire.send` are unrolled.

    Raises
    ------
    CodecError
        An argument cannot be pickled; nothing was sent.
    TransportClosed, TransportDisconnected
        There is no connection.
    """
    if transporter.state is not _OPEN:
        raise transporter.state_error()
    wire = transporter._wire
    window, outbox = wire.events, wire._outbox
    payload: bytes | None = None
    buffers: list[Any] = []
    if kwargs or not wire.link.is_pipe or not are_few_atoms(args):
        if not kwargs and are_atoms(map(type, args)):
            payload = dumps((args, kwargs), PROTOCOL)
        else:
            payload, buffers = encode_call(args, kwargs)
    number = next(window.sent)
    if number > window.allowed:
        window.wait(number, wire, transporter.my_parker())
    job = current.get() if transporter.tells_cause else None
    if job is not None or buffers or transporter.chain is not None or (payload and len(payload) > EVENT_BYTES):
        if payload is None:
            payload, buffers = encode_call(args, kwargs)
        weight = window.take(payload, buffers)
        options = messages.CallOptions(_NAN, 0 if job is None else job._tid, weight)
        wire.send(transporter.pack(EVENT, 0, path, payload, options=options, buffers=buffers), urgent=False)
    else:
        if wire._over:
            raise wire.over_error()
        name = path.encode()
        if payload is None:
            outbox.append((name, args))  # nobody can change them: they are pickled when they leave, with others
        else:
            outbox.append(pack_words(PLAIN_EVENT | len(name) << 32, len(name) + len(payload), 0) + name + payload)
        # Wire.cork
        corked = 1 < len(outbox) < CORK_FRAMES and wire._poked and not wire._standby_reads and wire.lead.sleeper is None
        if not corked and not wire.cork():
            wire.send_outbox()
    watch = _results.watch
    if watch is not None:
        watch(SentEvent(path, transporter.name))


def serve_straight(pool: Any, dispatcher: Any, me: Any, shield: Any) -> int:
    """Read once as the leading worker of `pool`, whose queue is empty, and run what has come if that is one plain call.

    `Wire.read`, `PipeLink.receive`, `FrameParser.feed`, `Dispatcher.receive_call`, `Lead.run` and `Lead.resume`.

    Parameters
    ----------
    pool : api.workers.WorkerPool
        Whose worker this thread is.
    dispatcher : api.dispatch.Dispatcher
        Over whose wire it reads; a pipe.
    me, shield
        This thread's parker and `HandlerShield`.

    Returns
    -------
    int
        `NOTHING` or `OTHER` has come, of which the calls and events for the pool are in its queue now; a call has been
        run, `RAN`, after which this thread still leads, or `LOST`, after which it does not.
    """
    wire = dispatcher.transporter._wire
    link, lead = wire.link, wire.lead
    data = b""
    wire._reading = True
    try:
        if not (wire._over or link.parser.begun or wire._dying is not None):
            looker = link.looker
            looker.left -= 1
            ready = looker.look() if looker.looking or not looker.left else None
            if not ready:
                ready = link.wait_readable(None)
            if ready == link.only_data:
                data = read(link.read_fd, READ_BYTES)
    except OSError:
        pass  # it will come again below, where it is the end of the link
    finally:
        wire._reading = False
        if wire._over:
            wire._say_reader_left()
    if len(data) > HEADER_SIZE:
        word, path_size, _, length, tid = unpack_by_word(data)
        if word == PLAIN_CALL and length == len(data) - HEADER_SIZE and path_size <= length:
            start = HEADER_SIZE + path_size
            path = path_of(data[HEADER_SIZE:start])
            found = None if path is None else dispatcher.receiver.routes.get(path)
            if type(found) is tuple and found[1] is pool and _results.watch is None and not pool.stopped:
                frame: Any = (CALL, 0, tid, path, None, data[start:], ())  # a Frame is slower to make
                call = CurrentCall(frame, found[0], dispatcher, pool)
                dispatcher._calls[tid] = call
                with lead.lock:
                    if lead.holder is me:
                        lead.state = RUNNING
                        lead.serial += 1
                        if lead.sleeper is not None:
                            lead._rouse()
                dispatcher.run(call, pool, shield, True)
                with lead.lock:
                    if lead.holder is not me:
                        return LOST
                    lead.state = READING
                    return RAN
    wire.reads_for = pool
    came = OTHER if (wire.digest(data) if data else wire.read(None)) else NOTHING
    wire.reads_for = None
    return came


def take_plain(dispatcher: Any, data: bytes) -> int:
    """Deliver the plain calls, events and replies with which `data` begins; return where the rest begins.

    For whoever reads, on both ends. `FrameParser.feed`, `Dispatcher.receive_call`, `Dispatcher.receive_event` and
    `TransactionManager.deliver_reply`.
    """
    if _results.watch is not None:
        return 0
    transporter = dispatcher.transporter
    transactions, wire = transporter.transactions, transporter._wire
    pending, routes, calls = transactions._pending, dispatcher.receiver.routes, dispatcher._calls
    at, size = 0, len(data)
    now = 0.0
    name, path = b"", ""  # of the frame before
    found: Any = None
    frame: Any
    events: Any = None  # the first CurrentCall of those of one path that follow each other; they are queued together
    while size - at >= HEADER_SIZE:
        word, path_size, _, length, tid = unpack_by_word(data, at)
        begin = at + HEADER_SIZE
        start = begin + path_size
        stop = begin + length
        if stop > size or start > stop:
            break
        if events is not None and (word not in _EVENTS or data[begin:start] != name):
            queued, events = events, None
            _queue_events(queued)
        try:
            if word == PLAIN_REPLY:
                if path_size:
                    break
                at = stop
                result = pending.pop(tid, None)
                if result is None:
                    transactions._note_late(tid)
                    continue
                if result.deadline is not None:
                    transactions._drop_deadline(result)
                if type(result) is PartsResult:
                    result.plain = True
                reply: Any = (REPLY, 0, tid, "", None, data[begin:stop], ())
                result._undecoded = [reply]
                result._ended = now = now or monotonic()
                result._call_state = _DONE
                result.settled = True
                if result.parkers:
                    wire.wake_followers(result)
                if result.has_listeners:
                    result._tell_listeners(_DONE)
            elif word in _JOBS:
                if data[begin:start] != name:
                    name = data[begin:start]
                    path = path_of(name) or ""
                    found = routes.get(path)
                if not path or type(found) is not tuple:
                    break
                at = stop
                if word == PLAIN_CALL:
                    frame = (CALL, 0, tid, path, None, data[start:stop], ())
                    pool = found[1]
                    call = calls[tid] = CurrentCall(frame, found[0], dispatcher, pool)
                    pool.queue.append(call)
                    if wire.reads_for is not pool:
                        pool.hire_or_look()
                    continue
                # Numbers and texts, where they are several: none of a user's code runs here.
                several = loads(data[start:stop]) if word == PLAIN_EVENTS else [data[start:stop]]
                if events is None:
                    begun = several[0] if word == PLAIN_EVENT else dumps((several[0], {}), PROTOCOL)
                    frame = (EVENT, 0, 0, path, None, begun, ())
                    events = CurrentCall(frame, found[0], dispatcher, found[1])
                    events.rest = deque(several[1:])
                else:
                    events.rest += several
            else:
                break
        except Exception:
            at = stop
            _log.exception("%s: a frame could not be delivered: %r", dispatcher.name, name)
    if events is not None:
        _queue_events(events)
    return at


def _queue_events(first: CurrentCall) -> None:
    try:
        first.pool.submit_event(first)
    except Exception:
        _log.exception("%s: events could not be delivered: %r", first.dispatcher.name, first.path)


def withdraw(result: AsyncResult, exc: BaseException) -> None:
    """Forget a call that `exc` kept from being sent; one that was interrupted may have been sent, so it is stopped."""
    try:
        if isinstance(exc, KeyboardInterrupt):
            _results.stop_interrupted(result, exc)
    finally:
        result._owner.forget(result)


def lay_out(
    transporter: Any,
    result: AsyncResult,
    payload: bytes,
    buffers: list[Any],
    timeout: float | None,
    window: int,
    awaited: bool,
) -> list[Any]:
    """Return the byte strings of the frame of a call, whatever it is like."""
    job = current.get()
    if (
        timeout is None
        and job is None
        and not window
        and not buffers
        and transporter.chain is None
        and len(payload) <= SMALL_BYTES
    ):
        return [pack_plain(CALL, result._tid, result.path, payload)]
    if buffers:
        result._sent += sum(memoryview(buffer).nbytes for buffer in buffers)
    options = messages.CallOptions(_NAN if timeout is None else timeout, 0 if job is None else job._tid, window)
    pack = messages.pack if transporter.chain is None else transporter.pack
    flags = messages.STREAM if window else messages.AWAITED if awaited and job is not None else 0
    pieces: list[Any] = pack(CALL, result._tid, result.path, payload, flags=flags, options=options, buffers=buffers)
    return pieces


__all__ = [
    "LOST",
    "NOTHING",
    "OTHER",
    "RAN",
    "call_straight",
    "lay_out",
    "send_event",
    "serve_straight",
    "submit_straight",
    "take_plain",
    "withdraw",
]
