"""One body of a pool, and the thread that looks after it.

The thread does everything in turn: it starts the body, sends it batches, waits for the replies, and acts when one is
late. So a member needs no lock of its own, and what it decides cannot cross with what it hears.
"""

from __future__ import annotations

import itertools
import logging
import math
import mmap
import os
import signal
import threading
import time
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING, Any

from epyrpc import codec
from epyrpc.api.action import prepare_call
from epyrpc.bodies import pool_inside, sharing
from epyrpc.bodies.body import BodyState
from epyrpc.bodies.pool_inside import FORGET, GIVE_BACK, ONE, RUN_CHUNK, SHARE_NOT
from epyrpc.bodies.pool_jobs import block_size
from epyrpc.bodies.registry import make_body
from epyrpc.errors import (
    BodyDied,
    BodyError,
    EpyrpcError,
    IpcError,
    PoolBroken,
    TransactionTimeout,
    describe_exit,
)
from epyrpc.results import CallState

if TYPE_CHECKING:
    from collections.abc import Sequence

    from epyrpc.bodies.pool_engine import Engine
    from epyrpc.bodies.pool_jobs import Batch

_log = logging.getLogger("epyrpc.pool")
START_SECONDS = 60.0
START_ATTEMPTS = 3  # so many starts in a row may fail before the pool is broken
KILLED_WEIGHT = 0.2
MISTAKES = 5  # so many failures of our own break the pool
OVERDUE_SECONDS = 0.100  # after so much, a body is asked for what it has, and for what it has not begun
CONTROL_SECONDS = 5.0
LIGHT_BYTES = 1 << 20
GRACE_SECONDS = 1.0  # how long a task may take to stop before its process is killed
LOST_SECONDS = 2.0  # how long it may take to hear why a connection has ended
STOP_SECONDS = 1.0
FORGOTTEN = 16  # functions that a busy body is told to forget at once; an idle one is told of each
UNBEGUN_DEATHS = 1  # so many times items may lose their body before they begin, and are not to blame
_serials = itertools.count(1)


class Member:
    """A body and its thread.

    Attributes
    ----------
    launched : bool
        The body runs, and all threads on this side that it needs.
    ready : bool
        It has been set up, too.
    retired : bool
        To end when it has done what it has; set with the engine's lock.
    lent : bool
        Another thread acts for this one, which waits meanwhile; set with the engine's lock.
    stirred : bool
        This thread was woken while it was lent, and is to be woken again after that; set with the engine's lock.
    inflight : deque of Batch
        What the body has been sent, in order. Changed by this thread, or who acts for it, with the engine's lock.
    """

    def __init__(self, engine: Engine, name: str) -> None:
        self.engine = engine
        self.serial = next(_serials)
        self.name = name
        self.body = make_body(name, engine.settings.start_method)
        self.condition = threading.Condition(engine.lock)
        self.inflight: deque[Batch] = deque()
        self.launched = self.ready = False
        self.retired = False
        self.lent = False
        self.stirred = False
        self.done = 0  # items, by the process of now
        self.replaces = ""  # in words, whom the process of now replaces, and why
        self._sent = 0  # items, to the process of now
        self._known: set[int] = set()  # tokens of functions that it has
        self._forget: deque[int] = deque()  # tokens, appended to by any thread
        self._numbers = itertools.count(1)
        self._asked = 0  # the number of the batch that was given back as far as possible
        self._started = False
        self._store: sharing.Store | None = None  # for large arguments; None where there is no shared memory
        self._reader = sharing.Reader()
        self._mark_fd, self._mark = _make_mark()
        self.body._on_death = self._wake
        if engine.settings.inherited:
            self.body._heirloom = engine.settings.initargs
        self.thread = threading.Thread(target=self._run, name=f"epyrpc-pool-{name}", daemon=True)

    # --- for the engine, holding its lock

    def tasks_left(self) -> int | None:
        """Return how many more items this process may get; None for any number."""
        limit = self.engine.settings.max_tasks_per_child
        return None if limit is None else max(0, limit - self._sent)

    def has_business(self) -> bool:
        """Whether its own thread has something to do."""
        return bool(self.inflight) or self.retired or self.tasks_left() == 0 or not self.has_body()

    def note(self, batch: Batch) -> None:
        """Note a batch that was given to this member."""
        batch.number = next(self._numbers)
        batch.body = self.name
        self._sent += len(batch.items)
        self.inflight.append(batch)

    def running_at(self, batch: Batch) -> int:
        """Return the index in a batch of the item that the body runs, as far as it tells."""
        mark = self._mark
        return int(mark[1]) if mark is not None and mark[0] == batch.number else 0

    def forget(self, token: int) -> None:
        """Note that a function will not be needed any more; without the lock."""
        self._forget.append(token)

    def seconds_left(self) -> float:
        """Return for how long this body has to do, as far as that is known and others could do some of it."""
        inflight = self.inflight
        first = inflight[0] if inflight else None
        if first is None or self._asked == first.number or not (self._is_divisible(first) or len(inflight) > 1):
            return 0.0
        seconds = 0.0
        for batch in inflight:
            cost = batch.work.cost.seconds
            seconds += math.inf if cost is None else cost * len(batch.items)
        return seconds

    def ask_for_relief(self) -> None:
        """Have this member's thread take back what its body has not begun."""
        first = self.inflight[0]
        if first.call is not None:
            first.call._send_errand(lambda: self._relieve(first))

    def _relieve(self, first: Batch) -> None:
        """Do as is done when a batch is overdue; on this member's thread, which waits for that batch."""
        if self.ready and self.inflight and self.inflight[0] is first and self._asked != first.number:
            self._asked = first.number
            self._ask_back(first)

    def _wake(self) -> None:
        """Hear of the process's end, on the supervisor's thread; where somebody waits for a reply, that tells him."""
        with self.engine.lock:
            self.condition.notify_all()

    # --- for any thread

    def kill(self) -> None:
        """End the process by force."""
        incarnation = self.body._incarnation
        if incarnation is not None:
            incarnation.launch.kill()

    def stop_starting(self) -> None:
        """Give up on a body that is being started."""
        self.body.stop(0)

    # --- the thread

    def _run(self) -> None:
        try:
            while True:
                if not self.has_body() and not self._start():
                    break
                if self._asked == 0 or not self.inflight or self.inflight[0].number != self._asked:
                    self._feed()
                if self.inflight:
                    self._await_first()
                elif self.tasks_left() == 0:
                    self._replace()
                else:
                    self._send_forgotten()
                    if self.has_body() and not self.engine.rest(self):
                        break
        except Exception as exc:
            _log.exception("%s: the thread that looks after it failed; another takes its place", self.name)
            self.kill()
            self._bury(None)
            self._count_mistake(exc)
        finally:
            self._end()

    def _count_mistake(self, exc: Exception) -> None:
        """End the pool when its own mistakes repeat, rather than start bodies for ever; whoever waits hears why."""
        engine = self.engine
        with engine.lock:
            engine.mistakes += 1
            many = engine.mistakes >= MISTAKES
        if many:
            error = PoolBroken(f"pool {engine.name!r} has failed by itself: {type(exc).__name__}: {exc}", engine.name)
            error.__cause__ = exc
            engine.break_down(error)

    def _end(self) -> None:
        self.ready = False
        self.body._on_death = None
        self._fail_all_if_broken()
        try:
            self.body.stop(STOP_SECONDS)
        except EpyrpcError:
            _log.exception("%s: cannot be stopped", self.name)
        self.discard()
        self.engine.gone(self)

    def discard(self) -> None:
        """Give back what was made for the body; nothing needs it any more."""
        if self._store is not None:
            self._store.close()
        if self._mark is not None:
            self._mark.release()
            self._mark = None
        if self._mark_fd >= 0:
            os.close(self._mark_fd)
            self._mark_fd = -1

    def has_body(self) -> bool:
        """Whether its body runs and has been set up."""
        return self.ready and self.body.state is BodyState.RUNNING

    # --- starting

    def _start(self) -> bool:
        """Start the process, or another; False when there is to be none."""
        engine = self.engine
        self.ready = self.launched = False
        if self.inflight:
            self._bury(None)
        with engine.lock:
            unneeded = engine.closing and engine._is_all_given_out()
            if engine.broken is not None or self.retired or unneeded:
                return False
        self._known.clear()
        self._sent = self.done = 0
        try:
            if self._started:
                self.replaces = self._obituary()
                self.body.restart(START_SECONDS)
            else:
                self._started = True
                self.body._start(START_SECONDS)
            with engine.lock:
                self.launched = True
                engine.changed.notify_all()
            self._set_up()
            if not self._initialize():
                return False
        except Exception as exc:  # a handler of the pool's may fail to be rebuilt there: as bad as no process
            return self._may_start_again(exc)
        with engine.lock:
            engine.failed_starts = 0
            self.ready = True
            engine.changed.notify_all()
        return True

    def _obituary(self) -> str:
        """Say whom the next process replaces, and how that ended."""
        incarnation, exitcode = self.body._incarnation, self.body.exitcode
        if incarnation is None:
            return ""
        who = f"replaces pid {incarnation.launch.pid}"
        if exitcode is None or exitcode == 0:
            return who
        return f"{who}, which {describe_exit(exitcode)}"

    def _set_up(self) -> None:
        body, engine = self.body, self.engine
        for path, listener in engine.listeners.items():
            body.on(path, listener)
        path = "" if self._mark is None else f"/proc/{os.getpid()}/fd/{self._mark_fd}"
        if self._mark is not None:
            self._mark[0] = self._mark[1] = self._mark[2] = 0
        self._reader = sharing.Reader()
        probe = body.call(pool_inside.set_up, path, engine.settings.threads)
        if self._store is not None:
            self._store.reset()
        if probe is not None and self._can_open(probe):
            self._store = self._store or sharing.Store()
        else:
            self._store = None
            body._api.action(SHARE_NOT)(sync=True, solicited=True)
        for path, handler in engine.handlers.items():
            if body._handlers.get(path) is not handler:
                body.set_handler(path, handler)

    def _can_open(self, fd: int) -> bool:
        """Return whether what the body shares can be opened here."""
        try:
            os.close(os.open(f"/proc/{self.body.pid}/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC))
        except OSError:
            return False  # the system hides it: then large results come through the pipe
        return True

    def _initialize(self) -> bool:
        """Run the user's initializer; False when it failed, and the pool is broken.

        Raises
        ------
        BodyError
            The process died while it ran.
        """
        settings = self.engine.settings
        if settings.initializer is None:
            return True
        try:
            if settings.inherited:
                self.body.submit(pool_inside.initialize, settings.initializer).result()
            else:
                self.body.submit(settings.initializer, *settings.initargs).result()
        except BaseException as exc:  # also SystemExit: whatever it raises, no body can be made ready
            if not self.body._wanted:
                return False  # the pool was shut down before this body was needed
            if isinstance(exc, BodyError) and exc.name == self.body.name:
                raise  # its process died in it, perhaps killed from outside: a start that failed, not the initializer
            _log.critical("%s: the initializer failed", self.name, exc_info=exc)
            error = PoolBroken(
                f"the initializer of pool {self.engine.name!r} failed in {self.name}, so it has no body to run "
                f"anything: {type(exc).__name__}: {exc}. Make another pool when it is mended",
                self.engine.name,
            )
            error.__cause__ = exc
            self.engine.break_down(error)
            return False
        return True

    def _may_start_again(self, exc: Exception) -> bool:
        """Decide what to do about a body that did not start; the loop tries again on True."""
        engine = self.engine
        with engine.lock:
            if engine.closing and engine._is_all_given_out():
                return False
            # Who is killed from outside would perhaps have started well: that alone breaks a pool late.
            killed = getattr(exc, "exitcode", None) in (-signal.SIGKILL, -signal.SIGTERM)
            engine.failed_starts += KILLED_WEIGHT if killed else 1.0
            failed = engine.failed_starts
        if failed < START_ATTEMPTS:
            _log.warning("%s did not start, and is started again: %s", self.name, exc)
            return True
        error = PoolBroken(f"the bodies of pool {engine.name!r} do not start: {exc}", engine.name)
        error.__cause__ = exc
        engine.break_down(error)
        return False

    def _replace(self) -> None:
        """End a process that has done as many tasks as it may; the loop starts another."""
        self.ready = False
        self.body.stop(STOP_SECONDS)

    # --- sending

    def _feed(self) -> None:
        if len(self._forget) >= FORGOTTEN:
            self._send_forgotten()
        while self.has_body():
            batch = self.engine.take(self)
            if batch is None:
                return
            self._send(batch)

    def _send(self, batch: Batch) -> None:
        work = batch.work
        try:
            payload, buffers = work.encode(batch)
        except BaseException as exc:  # a __reduce__ of the user's may do anything; it is the outcome of its item
            self._unlist(batch)
            if len(batch.items) > 1:
                self.engine.put_back(work, batch.split(0, len(batch.items)))
            else:
                work.deliver(batch, [None], {0: exc})
            return
        try:
            self._transmit(batch, payload, buffers)
        except (BodyError, IpcError):
            self._bury(None)

    def send_for(self, batch: Batch) -> bool:
        """Send a batch on another thread than this member's, which waits; False when that failed, and nothing is done.

        What the failure means is for the member's own thread to find out.
        """
        try:
            self._transmit(batch, *batch.work.encode(batch))
        except BaseException as exc:  # also an interrupt: whoever it is meant for has not got so far
            _log.debug("%s: a chunk cannot be sent at once: %r", self.name, exc)
            self._unlist(batch)
            self._sent -= len(batch.items)
            self.engine.put_back(batch.work, [batch])
            return False
        return True

    def finish_for(self, batch: Batch, limit: float) -> bool:
        """Take the outcome of the first batch on another thread; False when it has none until `limit`, or no good one.

        What follows from that is for the member's own thread to decide.
        """
        call = batch.call
        call._wait_quietly(max(0.0, limit - monotonic()))
        if not call.settled or call.state is not CallState.DONE:
            return False
        self._finish(batch)
        if self._forget:
            self._send_forgotten()
        return True

    def _transmit(self, batch: Batch, payload: Any, buffers: Any) -> None:
        """Send an encoded batch.

        Raises
        ------
        BodyError, IpcError
            The body is gone, and nothing of it was sent.
        """
        work = batch.work
        function = work.function
        carried = None if function.token in self._known else function.carried(self._store is not None)
        if self._store is not None and buffers and sharing.total_bytes(buffers) >= sharing.MIN_SHARED_BYTES:
            buffers = tuple(self._store.put(buffers))
        news = self._reader.news()
        returned = news if news[0] or news[1] else None
        time_slice = work.time_slice()
        block = block_size(work.cost)
        args = (batch.number, function.token, carried, payload, buffers, work.how, block, time_slice, returned)
        try:
            call, pieces = prepare_call(self.body._transporter, RUN_CHUNK, args, {}, None, None, 0)
            call.path = work.label
            call._sink = work.sink
            batch.call = call
            if work.how == ONE:
                work.future._call = call
            call._owner.admit(call)
            try:
                call._pump.send(pieces)
            except BaseException:
                call._owner.forget(call)
                raise
        except BaseException:
            batch.call = None  # type: ignore[assignment]
            raise
        self._known.add(function.token)
        if work.cancelled:
            call.cancel()  # whoever cancelled it may not have seen the call

    def _send_forgotten(self) -> None:
        forgotten = [self._forget.popleft() for _ in range(len(self._forget))]
        forgotten = [token for token in forgotten if token in self._known]
        if forgotten and self.has_body():
            self._known.difference_update(forgotten)
            try:
                self.body._api.action(FORGET, tuple(forgotten))(sync=True, solicited=False)
            except (BodyError, IpcError) as exc:
                _log.debug("%s: cannot be told what to forget: %s", self.name, exc)

    def _unlist(self, batch: Batch) -> None:
        with self.engine.lock:
            if batch in self.inflight:
                self.inflight.remove(batch)

    # --- waiting

    def _await_first(self) -> None:
        batch = self.inflight[0]
        if not batch.began:
            batch.began = monotonic()
        if not batch.call._wait_quietly(self._patience(batch)):
            self._overdue(batch)
            return
        del batch  # what it holds may be large
        while self.inflight and self.inflight[0].call.settled:
            if not self._finish(self.inflight[0]):
                return

    def _patience(self, batch: Batch) -> float | None:
        """Return how long to wait for a batch before something is done about it."""
        limits = []
        if batch.work.timeout is not None:
            limits.append(batch.began + batch.work.timeout)
        if self._asked != batch.number and (self._is_divisible(batch) or len(self.inflight) > 1):
            limits.append(batch.began + OVERDUE_SECONDS)
        return max(0.0, min(limits) - monotonic()) if limits else None

    @staticmethod
    def _is_divisible(batch: Batch) -> bool:
        return len(batch.items) > 1 and batch.work.chunksize is None

    def _has_begun(self, batch: Batch) -> bool:
        """Whether the body runs it; True where that cannot be seen."""
        return self._mark is None or self._mark[0] == batch.number

    def _overdue(self, batch: Batch) -> None:
        if self._asked != batch.number:
            if not self._has_begun(batch) and not self.engine.idle:
                batch.began = monotonic()  # an import keeps the body busy, or a call of its own; nobody is free to help
                return
            self._asked = batch.number
            self._ask_back(batch)
        timeout = batch.work.timeout
        if timeout is None or monotonic() < batch.began + timeout or batch.call.settled:
            return
        if not self._has_begun(batch):
            batch.began = monotonic()
            return
        error = TransactionTimeout(batch.work.label, None, timeout)
        batch.call.cancel()
        self._unlist(batch)
        batch.work.deliver(batch, [None], {0: error})
        self._see_it_stopped(batch, error)

    def _ask_back(self, batch: Batch) -> None:
        """Have everything given back that the body has not begun, for others to take."""
        for other in [*list(self.inflight)[:0:-1], *([batch] if self._is_divisible(batch) else ())]:
            action = self.body._api.action(GIVE_BACK, other.number)
            try:
                reply = action(sync=True, timeout=CONTROL_SECONDS, solicited=True)
            except (BodyError, IpcError, TransactionTimeout):
                return  # it is dead, which the batch tells too, or it does not answer, as when it is suspended
            if reply == -1:
                self._unlist(other)
                self._sent -= len(other.items)
                self.engine.put_back(other.work, other.rest(0, len(other.items)), its_turn=True)
            elif reply is not None:
                self._take_part(other, *reply)

    def _take_part(
        self, batch: Batch, given: int, count: int, payload: Any, buffers: Any, errors: dict[int, bytes]
    ) -> None:
        end = len(batch.items) - given
        rest = batch.rest(end, len(batch.items))
        batch.items = batch.items[:end]
        self._sent -= given
        self.engine.put_back(batch.work, rest)
        self._deliver(batch, count, payload, buffers, errors)

    # --- what has come

    def _finish(self, batch: Batch) -> bool:
        """Take the outcome of the first batch; False when the body is gone."""
        call = batch.call
        if call.state is CallState.CANCELLED:
            self._known.discard(batch.work.function.token)  # it may have been about to bring it
            self._unlist(batch)
            self._see_it_stopped(batch, None)
            return self.has_body()
        try:
            reply = call.result()
        except (BodyError, IpcError) as exc:
            if getattr(exc, "refused", False):
                self._unlist(batch)
                self._fail(batch, exc)
                return True
            self._bury(exc)
            return False
        except BaseException as exc:  # it was stopped from outside, say by interrupt(); or is garbage
            self._unlist(batch)
            self._fail(batch, exc)
            return True
        self._unlist(batch)
        self._take_reply(batch, reply)
        return True

    def _take_reply(self, batch: Batch, reply: Any) -> None:
        if reply is None:
            self._known.discard(batch.work.function.token)
            self.engine.put_back(batch.work, batch.rest(0, len(batch.items)))
        elif isinstance(reply, bytes):
            seconds, payload, returned = codec.decode(reply)
            values = codec.decode(payload)
            batch.light = len(reply) <= LIGHT_BYTES
            self._note_reply(batch, seconds, len(values), returned)
            self._hand_over(batch, values, {})
            self._put_back_rest(batch)
        elif len(reply) == 1:
            if len(batch.items) > 1:
                self.engine.put_back(batch.work, batch.split(0, len(batch.items)))
            else:
                self._fail(batch, codec.decode_error(reply[0]))
        else:
            seconds, count, payload, buffers, errors, returned = reply
            self._note_reply(batch, seconds, count, returned)
            self._deliver(batch, count, payload, buffers, errors)
            self._put_back_rest(batch)

    def _note_reply(self, batch: Batch, seconds: float, count: int, returned: Any) -> None:
        if self._store is not None and (returned[0] or returned[1]):
            self._store.take_back(*returned)
        if batch.told + count:
            batch.work.cost.note(seconds, batch.told + count)

    def _put_back_rest(self, batch: Batch) -> None:
        left = len(batch.items) - batch.told
        if left:
            self._sent -= left
            self.engine.put_back(batch.work, batch.rest(batch.told, len(batch.items)))

    def _deliver(self, batch: Batch, count: int, payload: Any, buffers: Any, errors: dict[int, bytes]) -> None:
        if not count:
            return
        try:
            values = codec.decode(payload, self._reader.open(buffers) if type(buffers) is tuple else buffers)
        except BaseException as exc:  # a result's __setstate__ may do anything
            if count == 1:
                values, errors = [None], {}
                decoded = {batch.told: exc}
            else:  # which of them it is can only be found out one by one
                self.engine.put_back(batch.work, batch.split(batch.told, batch.told + count))
                batch.told += count
                return
        else:
            decoded = {index: codec.decode_error(error) for index, error in errors.items()}
        self._hand_over(batch, values, decoded)

    def _hand_over(self, batch: Batch, values: Sequence[Any], errors: dict[int, BaseException]) -> None:
        if not values:
            return
        self.done += len(values)
        batch.work.deliver(batch, values, errors)
        batch.told += len(values)

    def _fail(self, batch: Batch, error: BaseException) -> None:
        """Give all items of a batch that have no outcome an error."""
        for one in batch.split(batch.told, len(batch.items)):
            one.work.deliver(one, [None], {0: error})
        batch.told = len(batch.items)

    # --- stopping and dying

    def _see_it_stopped(self, batch: Batch, error: TransactionTimeout | None) -> None:
        """Wait until a cancelled batch has been stopped in the body; after the grace, end the process."""
        limit = monotonic() + GRACE_SECONDS
        call = batch.call
        while call.stopped is None and monotonic() < limit and self.has_body():
            time.sleep(0.002)
        if call.stopped in (None, "still running"):
            call.stopped = "killed"
            self.kill()
            self._bury(None)
        if error is not None:
            error.stopped = call.stopped

    def _bury(self, error: BaseException | None) -> None:
        """Sort out what a body that is gone had: what it ran has failed, the rest goes to others."""
        self.ready = False
        self.kill()  # it may only have lost its connection
        number, low, high = (0, 0, 0) if self._mark is None else (self._mark[0], self._mark[1], self._mark[2])
        first = True
        while self.inflight:
            batch = self.inflight[0]
            call = batch.call
            if call is not None:
                call._wait_quietly(LOST_SECONDS)
                if call.settled and call.state is CallState.DONE:
                    self._finish(batch)
                    continue
            self._unlist(batch)
            if batch.work.cancelled or (call is not None and call.state is CallState.CANCELLED):
                continue
            why = self._why(call, error)
            if self.engine.broken is not None:
                self._fail(batch, self.engine.broken)
            elif call is None:
                self.engine.put_back(batch.work, batch.rest(0, len(batch.items)))
            elif self._mark is None and first:
                self._judge(batch, batch.told, len(batch.items), why)
            elif batch.number == number:
                self._judge(batch, max(low, batch.told), min(high, len(batch.items)), why)
            elif first and batch.work.doubt(batch.start + batch.told) > UNBEGUN_DEATHS:
                # Bodies die before they can begin it: it ends them by being unpickled.
                self._judge(batch, batch.told, len(batch.items), why)
            else:
                self.engine.put_back(batch.work, batch.rest(batch.told, len(batch.items)))
            first = False

    @staticmethod
    def _why(call: Any, error: BaseException | None) -> BaseException:
        if call is not None and call.settled:
            error = call.exception() or error
        return error or BodyError("the body is gone")

    def _judge(self, batch: Batch, low: int, high: int, error: BaseException) -> None:
        """Decide about the batch that was running: the items from `low` to `high` were under way."""
        self.engine.put_back(batch.work, [*batch.rest(batch.told, low), *batch.rest(high, len(batch.items))])
        suspects = batch.split(low, high)
        if len(suspects) > 1:  # one of them may have done it: it will do it again, alone
            batch.work.note_rerun(self.name, len(suspects))
            self.engine.put_back(batch.work, suspects)
            return
        for suspect in suspects:
            if suspect.attempts < batch.work.retry:
                suspect.attempts += 1
                batch.work.note_rerun(self.name, 1)
                self.engine.put_back(batch.work, [suspect])
            else:
                batch.work.deliver(suspect, [None], {0: self._name_running(suspect, error)})

    def _name_running(self, suspect: Batch, error: BaseException) -> BaseException:
        work = suspect.work
        if not isinstance(error, BodyDied):
            return error
        what = work.label if work.how == ONE else f"{work.label} for item {suspect.start}"
        named = BodyDied(self.name, error.pid, error.exitcode, (what,), error.stderr)
        named.args = (
            str(named).replace("restart() brings it back", "the pool replaces it; retry= runs such items again"),
        )
        return named

    def _fail_all_if_broken(self) -> None:
        broken = self.engine.broken
        batches: Sequence[Batch] = list(self.inflight)
        for batch in batches:
            self._unlist(batch)
            if broken is not None:
                self._fail(batch, broken)
            else:
                self.engine.put_back(batch.work, batch.rest(batch.told, len(batch.items)))


def _make_mark() -> tuple[int, Any]:
    """Return the descriptor and the memory of a mark, see `pool_inside`; -1 and None where there is no such thing."""
    create = getattr(os, "memfd_create", None)
    if create is None or not os.path.isdir("/proc/self/fd"):
        return -1, None
    fd = create("epyrpc-pool-mark", getattr(os, "MFD_CLOEXEC", 0))
    os.ftruncate(fd, pool_inside.MARK_BYTES)
    return fd, memoryview(mmap.mmap(fd, pool_inside.MARK_BYTES)).cast("Q")


__all__ = ["Member"]
