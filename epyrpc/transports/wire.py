"""One end's reading and writing, with no thread between the wire and whoever waits for it.

Threads::

    any thread ──send()──▶ outbox ──flush()──▶ link            written by the sender itself, if the pipe has room
    caller     ──wait()──▶ Lead ──reads──▶ sinks               a caller reads its own reply, and everybody's on the way
    worker     ──read()──▶ Lead ──reads──▶ sinks               a handler worker with nothing to do reads its next call
    standby    (one per wire, daemon, named epyrpc-wire-…)     reads when nobody else does

The standby is started by `start` and ends with `stop` or at the end of the link. While calls follow each other it
only looks once a tick (1 ms): it writes what has been corked, fires timers, and takes the lead when nobody has it or
when a handler has held it for a whole tick. When all is quiet it is itself the reader, asleep in the kernel: an idle
process does not wake up.

The idea of leading callers and lending standby is measured in the project's wire notes; the pattern is leader/followers
(Schmidt, O'Ryan, Kircher, Pyarali, Buschmann 2000).
"""

from __future__ import annotations

import _thread
import contextlib
import logging
import threading
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING, Any

from epyrpc.errors import CodecError, TransactionError, TransportClosed, TransportDisconnected
from epyrpc.interrupts import SIGNAL_SECONDS, Shield, raise_shield
from epyrpc.transports.callbacks import Runner
from epyrpc.transports.lead import ENDED, READING, Awaited, Lead, Parker
from epyrpc.transports.window import EventWindow

if TYPE_CHECKING:
    from collections.abc import Callable

    from epyrpc.messages import Frame
    from epyrpc.transports.base import Link

TICK = 0.001
BUSY_TICK = 0.004
BUSY_MOVES = 10
# An unurgent frame is written at once when nothing has been for this long, else within two ticks.
CORK_SECONDS = 0.0005
CORK_FRAMES = 64
OUTBOX_FRAMES = 256
_log = logging.getLogger("epyrpc.wire")
local = threading.local()


def my_parker() -> Parker:
    """Return the calling thread's own parker."""
    try:
        parker: Parker = local.parker
    except AttributeError:
        parker = local.parker = Parker()
    return parker


class Wire:
    """Reads and writes one link for all the threads of one end.

    Parameters
    ----------
    link : Link
        Where the bytes go; owned from now on.
    sinks : list of callables
        Who gets each frame, by its kind; in order, on the thread that read it, which must not block.
    ended : callable
        Gets the reason, once, when the link ends; not when `stop` was called.
    timers : callable
        Called on the standby with the time (`time.monotonic`), returns when it wants to be called next, or None.
    name : str
        For the standby thread and the log.
    """

    def __init__(
        self,
        link: Link,
        sinks: list[Callable[[Frame], None]],
        ended: Callable[[BaseException], None],
        timers: Callable[[float], float | None],
        name: str,
    ) -> None:
        self.lead = Lead()
        self.link = link
        self._sinks = sinks
        self._ended = ended
        self._timers = timers
        self._name = name
        # Byte strings in order, and for a pipe events to be laid out; whoever holds _write_lock takes from the left.
        self._outbox: deque[Any] = deque()
        self._write_lock = threading.Lock()
        self._last_write = 0.0  # when something other than a single urgent frame was written
        # The link took no more when it was last written to, and nobody is trying again. Guarded by _write_lock.
        self._full = False
        self._stopped = False
        self._over = False  # the link has ended, or stop() was called: nothing is read or written any more
        self._reading = False  # somebody is inside link.receive()
        self._close_after_reading = False  # stop() was called below the reader, in a signal handler
        self._delivering = False  # the reader delivers what it has read
        self._reader_left = threading.Event()
        self._blocked_writers = 0  # Guarded by lead.lock
        self._standby_reads = False
        self.roused = False  # what the standby has just read has woken a caller or a handler worker
        self.handlers_run = False  # as `timers` has last seen it
        self._poked = False  # something changed that the standby must look at before it sleeps
        # The handler workers of whom an idle one reads now, and will run itself what it reads for them; set by it.
        self.reads_for: object = None
        # Delivers the plain frames with which what was read from a pipe begins, and returns how many bytes they were.
        self.take_plain: Callable[[bytes], int] | None = None
        self._dying: BaseException | None = None  # the other process is dead: read what is left, then end
        self._standby: threading.Thread | None = None
        self._standby_parker = Parker()
        self.explain: Callable[[], Exception] | None = None  # says why a wire that is over cannot be used
        self.events = EventWindow()  # of what this end sends
        self.run_later = Runner(name, self.need_tick)

    def start(self) -> None:
        """Start the standby; frames may be delivered from here on."""
        self._standby = threading.Thread(target=self._stand_by, name=f"epyrpc-wire-{self._name}", daemon=True)
        self._standby.start()

    # --- sending

    def send(self, pieces: list[Any], *, urgent: bool = True, may_block: bool = True) -> None:
        """Send the byte strings of one frame.

        Parameters
        ----------
        pieces : list of bytes-like
            The frame. It is never interleaved with another.
        urgent : bool
            Write now. Otherwise the frame may wait for company, for two ticks at most or until somebody waits for a
            reply.
        may_block : bool
            Wait while the pipe is full. What the reader sends while it delivers never waits: what does not fit is
            left to others.

        Raises
        ------
        TransportClosed, TransportDisconnected
            The wire is stopped, or the link has ended.
        """
        if self._over:
            raise self.over_error()
        outbox = self._outbox
        outbox.extend(pieces)  # one step, so that frames of several threads do not mix
        if urgent or not self.cork():
            self.send_outbox(may_block)

    def cork(self) -> bool:
        """Leave what is in the outbox to the standby, for it may find company until then; False when it has to go now.

        What somebody else has left there waits for as long as that; the time is looked at for the first only.
        """
        waiting = len(self._outbox)
        if waiting >= CORK_FRAMES or (waiting < 2 and monotonic() - self._last_write >= CORK_SECONDS):
            return False
        self._poked = True
        if self._standby_reads or self.lead.sleeper is not None:
            self.need_tick()
        return True

    def send_outbox(self, may_block: bool = True) -> None:
        """Write what is in the outbox; see `send`."""
        shield = raise_shield()
        try:
            if self._flush():
                self._wait_for_room(shield, None if may_block else 0.0)
        finally:
            if shield is not None:
                shield.lower()

    def send_and_wait(self, pieces: list[Any], awaited: Awaited, timeout: float | None = None) -> None:
        """Do `send`, urgently, then `wait`."""
        if self._over:
            raise self.over_error()
        if self._reading:
            self._check_not_below()
        shield = raise_shield()
        try:
            self._outbox.extend(pieces)
            if self._flush():
                deadline = None if timeout is None else monotonic() + timeout
                self._wait_for_room(shield, timeout)
                timeout = None if deadline is None else max(0.0, deadline - monotonic())
            self._wait(awaited, timeout, shield)
        finally:
            if shield is not None:
                shield.lower()

    def write_now(self, frame: bytes) -> bool:
        """Do `write` for a small urgent frame, as most replies are; True when `wait_for_room` should follow.

        Raises
        ------
        TransportClosed, TransportDisconnected
            The wire is stopped, or the link has ended.
        """
        if self._over:
            raise self.over_error()
        outbox, lock, link = self._outbox, self._write_lock, self.link
        if outbox or link.has_partial or not lock.acquire(False):
            outbox.append(frame)
            return self._flush()
        full = False
        try:
            if not self._over:
                full = self._full = not link.send_one(frame, outbox)
        except OSError as exc:
            self._write_failed(exc)
        finally:
            lock.release()
        if full or not outbox:
            return full
        return self._flush()  # others have put something there while this thread had the lock

    def _write_failed(self, exc: OSError) -> None:
        # The reader will see the end of the link, drain what the other end had still sent, and say so to all.
        _log.debug("%s: cannot write: %s", self._name, exc)
        self._outbox.clear()
        self.link.has_partial = False

    def write(self, pieces: list[Any], urgent: bool) -> None:
        """Do `send` on a thread that cannot be interrupted: a handler worker, between two handlers.

        Raises
        ------
        TransportClosed, TransportDisconnected
            The wire is stopped, or the link has ended.
        """
        if self._over:
            raise self.over_error()
        self._outbox.extend(pieces)
        if urgent or len(self._outbox) >= CORK_FRAMES or monotonic() - self._last_write >= CORK_SECONDS:
            if self._flush():
                self._wait_for_room(None, None)
        else:
            self.need_tick()

    def over_error(self) -> Exception:
        """Return the error for whoever uses a wire that has ended."""
        if self.explain is not None:
            return self.explain()
        if self._stopped:
            return TransportClosed("this transport has been closed; make a new one from new details")
        return TransportDisconnected("the other end is gone; make a new connection")

    def _flush(self) -> bool:
        """Write what is in the outbox as far as the link takes it; True when the link is full."""
        outbox, lock = self._outbox, self._write_lock
        while outbox or self.link.has_partial:
            if not lock.acquire(False):
                # The holder looks at the outbox again after its release, unless the link is full; it may need the GIL
                # that a flood of senders holds, so those wait too once much is waiting.
                return self._full or len(outbox) > OUTBOX_FRAMES
            full = self._full = False  # those who wait for room wait for this lock instead
            try:
                if not self._over:
                    full = self._full = not self.link.send(outbox)
                    self._last_write = monotonic()
                else:
                    outbox.clear()
                    self.link.has_partial = False
            except OSError as exc:
                self._write_failed(exc)
            finally:
                lock.release()
            if full:
                return True
        return False

    def wait_for_room(self) -> None:
        """Wait until what was written has left, on a thread that cannot be interrupted."""
        self._wait_for_room(None, None)

    def _wait_for_room(self, shield: Shield | None, timeout: float | None) -> None:
        """Write the rest as there is room; what is not written within `timeout` seconds is left to the standby."""
        if (self._delivering and self.lead.holder is my_parker()) or threading.current_thread() is self._standby:
            timeout = 0.0  # whoever must go on reading never waits: the other end may be waiting for that
        if timeout == 0.0:
            self.need_tick()
            return
        deadline = None if timeout is None else monotonic() + timeout
        # Nobody blocked in a write is leader: the other end may be blocked too, until somebody reads here.
        self.lead.pass_on(my_parker())
        with self.lead.lock:
            self._blocked_writers += 1
        try:
            while not self._over and self._flush():
                if deadline is not None and monotonic() >= deadline:
                    self.need_tick()
                    return
                if not self._full:
                    # Somebody else writes, or would if it had the GIL. The link has room: to wait for that is to spin.
                    if self._write_lock.acquire(timeout=0.02):
                        self._write_lock.release()
                    if shield is not None and shield.pending:
                        shield.serve()
                    continue
                if shield is not None:
                    shield.open = True
                    if shield.pending:
                        shield.reopen()
                self.link.wait_writable(0.02)
                if shield is not None:
                    shield.open = False
        finally:
            with self.lead.lock:
                self._blocked_writers -= 1

    # --- waiting

    def wait(self, awaited: Awaited, timeout: float | None = None) -> None:
        """Return when `awaited` is settled or has news, or after `timeout` seconds.

        Read the wire meanwhile if nobody does.

        Raises
        ------
        KeyboardInterrupt
            In the main thread, as anywhere; the wire's state is whole then, and somebody else goes on reading.
        """
        if self._reading:
            self._check_not_below()
        shield = raise_shield()
        try:
            if self._unwritten and self._flush():
                self.need_tick()  # the standby may have looked while this thread wrote, and found nothing left to write
            self._wait(awaited, timeout, shield)
        finally:
            if shield is not None:
                shield.lower()

    def _check_not_below(self) -> None:
        """Refuse to wait in a signal handler that interrupted this thread's own reading: nobody could read for it."""
        if self.lead.holder is my_parker():
            raise TransactionError(
                f"{self._name}: a signal handler cannot wait for a reply here: it interrupted the very thread that "
                "reads the wire. Use submit() or emit() in it, or set a flag and make the call outside"
            )

    def _wait(self, awaited: Awaited, timeout: float | None, shield: Shield | None) -> None:
        deadline = None if timeout is None else monotonic() + timeout
        me = my_parker()
        while True:
            leads = self.lead.take_or_follow(me, awaited)
            if leads is None:
                return
            if not leads:
                leads = self._follow(me, awaited, deadline, shield)
            if leads:
                self._lead_until(me, awaited, deadline, shield)
            if awaited.settled or awaited.has_news or (deadline is not None and monotonic() >= deadline):
                return

    def _follow(self, me: Parker, awaited: Awaited, deadline: float | None, shield: Shield | None) -> bool:
        """Sleep until woken; True when promoted."""
        try:
            if shield is not None:
                shield.open = True
                if shield.pending:
                    shield.reopen()
            left = SIGNAL_SECONDS if deadline is None else max(0.0, min(SIGNAL_SECONDS, deadline - monotonic()))
            me.lock.acquire(timeout=left)
            if shield is not None:
                shield.open = False
        except BaseException:
            if self.lead.leave(me, awaited):
                self.lead.pass_on(me)
            raise
        return self.lead.leave(me, awaited)

    def _lead_until(self, me: Parker, awaited: Awaited, deadline: float | None, shield: Shield | None) -> None:
        try:
            while not (awaited.settled or awaited.has_news or self._over):
                left = None
                if deadline is not None:
                    left = deadline - monotonic()
                    if left <= 0:
                        return
                self.read(left, shield)
        finally:
            self.lead.pass_on(me)

    @staticmethod
    def run_detached(work: Callable[[], object]) -> None:
        """Run `work` in a thread of its own; takes no lock, since a finalizer may run while its thread holds one."""
        with contextlib.suppress(RuntimeError):  # the interpreter is ending, and every connection with it
            _thread.start_new_thread(work, ())

    def wake(self, awaited: Awaited) -> None:
        """Wake whoever waits for `awaited`, which another thread than the reader has settled or given news."""
        self.roused = True
        if self.lead.wake(awaited):
            self.link.wake()

    def wake_followers(self, awaited: Awaited) -> None:
        """Wake whoever waits for `awaited`, which the reader has settled or given news; called by the reader."""
        self.roused = True
        self.lead.wake(awaited)

    # --- reading; only for who leads

    def read(self, timeout: float | None, shield: Shield | None = None) -> bool:
        """Read once and deliver.

        False when nothing came within `timeout` or the link has ended. Only for the leader.
        """
        dying = self._dying
        self._reading = True
        try:
            if self._over:  # stop() may have come since the caller looked, and closes the link while nobody reads
                return False
            link: Any = self.link
            receive = link.receive_bytes if link.is_pipe else link.receive
            received = receive(timeout if dying is None else 0.0, shield)
        except (EOFError, OSError, CodecError) as exc:
            self._end(dying or exc)
            return False
        finally:
            self._reading = False
            if self._over:
                self._say_reader_left()
        if not link.is_pipe:
            self._deliver(received)
        elif received:
            received = self.digest(received)
        if not received:
            if dying is not None:
                self._end(dying)
            return False
        return True

    def digest(self, data: bytes) -> bool:
        """Deliver what is in bytes that were read from a pipe; False when that is no whole frame. For the leader."""
        link: Any = self.link
        parser = link.parser
        taken = 0
        if self.take_plain is not None and not parser.missing:
            if parser.begun:
                data = parser.take_rest() + data
            self._delivering = True
            taken = self.take_plain(data)
            self._delivering = False
            if taken == len(data):
                return True
            data = data[taken:]
        try:
            frames = parser.feed(data)
        except CodecError as exc:
            self._end(self._dying or exc)
            return False
        self._deliver(frames)
        return bool(frames) or taken > 0

    def _say_reader_left(self) -> None:
        """Let `stop` go on, which has come while this thread was reading."""
        self._reader_left.set()
        if self._close_after_reading:
            self.link.close()

    def _deliver(self, frames: list[Frame]) -> None:
        self._delivering = True
        sinks = self._sinks
        for frame in frames:
            try:
                sinks[frame[0]](frame)
            except Exception:
                # A frame that cannot be delivered is lost, the wire lives on; what a user sent never raises here.
                _log.exception("%s: a frame could not be delivered: %r", self._name, frame[:4])
        self._delivering = False

    def _end(self, exc: BaseException) -> None:
        with self.lead.lock:
            if self._over:
                return
            self._over = True
        self.lead.end()
        self._ended(exc)

    # --- the standby

    def need_tick(self) -> None:
        """Make sure that the standby looks within two ticks: something was corked, or has a time limit."""
        self._poked = True
        if self._standby_reads:
            if not self._delivering:  # else it is the standby that asks, or it looks as soon as it has delivered
                self._standby_reads = False
                self.link.wake()
        elif self.lead.sleeper is not None:
            self.lead.rouse()

    def _stand_by(self) -> None:
        lead, me = self.lead, self._standby_parker
        tick = TICK
        while not self._over:
            serial = lead.serial
            me.lock.acquire(timeout=tick)
            # Many moves in a tick are many short calls: looking less often then costs them less, and delays nobody by
            # much.
            tick = TICK if lead.serial - serial < BUSY_MOVES else BUSY_TICK
            self._poked = False
            due = self._tick()
            if self._over:
                return
            if lead.rescue(me, serial):
                self._read_as_standby(me, due)
            elif not self._unwritten and lead.sleep(me, serial):
                if self._unwritten or self._poked:
                    lead.rouse()  # corked, or poked, between the look and the sleep
                me.lock.acquire(timeout=-1 if due is None else max(0.0, due - monotonic()))
                lead.woken(me)

    @property
    def _unwritten(self) -> bool:
        return bool(self._outbox) or self.link.has_partial

    def _tick(self) -> float | None:
        if self._outbox or self.link.has_partial:
            self._flush()
        now = monotonic()
        due = self.run_later.tick(now)
        try:
            other = self._timers(now)
        except Exception:
            _log.exception("%s: a timer failed", self._name)
            return due
        return other if due is None or (other is not None and other < due) else due

    def _read_as_standby(self, me: Parker, due: float | None) -> None:
        try:
            while True:
                self.roused = False
                self._standby_reads = True
                if self._unwritten or self._poked:  # corked, or poked, before the flag was set: nobody would wake us
                    limit: float | None = TICK
                else:
                    limit = None if due is None else max(0.0, due - monotonic())
                more = self.read(limit)
                self._standby_reads = False
                while more and not self.lead.followers:
                    more = self.read(0.0)
                if self._over or self.roused or self.lead.followers:
                    return  # somebody is awake who reads with one hand-over less
                if self._poked and limit is None:
                    self.read(TICK)  # what is corked may find company
                self._poked = False
                due = self._tick()
                if not self.handlers_run:
                    return
                # Handlers that run for long: to give the lead away and to take it back after a tick would wake this
                # thread twice, each time at their cost.
        finally:
            self._standby_reads = False
            self.lead.pass_on(me)

    # --- the end

    @property
    def over(self) -> bool:
        """Whether the wire is stopped or its link has ended."""
        return self._over

    def end(self, exc: BaseException) -> None:
        """End the link from outside, as when the other process is known to be dead.

        What it had still sent is delivered.

        The end of the file cannot be waited for: a process that the other one forked may hold its end of the pipe open.
        """
        self._dying = exc
        me = my_parker()
        while not self._over:
            if self.lead.rescue(me, self.lead.serial):
                try:
                    while self.read(0.0):
                        pass
                finally:
                    self.lead.pass_on(me)
            else:
                self.link.wake()
                self._reader_left.wait(0.001)

    def stop(self, linger: float = 1.0) -> None:
        """Stop reading and writing and close the link; what is in the outbox is written within `linger` seconds.

        Idempotent; callable from any thread, the standby and handler workers included.
        """
        limit = monotonic() + linger
        while not self._over and monotonic() < limit:
            if self._flush():
                self.link.wait_writable(0.02)
            elif self._write_lock.acquire(timeout=0.02):
                # Nobody is about to write now: what has left the outbox has been written.
                left = self._unwritten
                self._write_lock.release()
                if not left:
                    break
        with self.lead.lock:
            first, self._stopped = not self._stopped, True
            # In a signal handler that interrupted this thread's own reading the reader cannot be waited for: it closes.
            below = self._reading and self.lead.holder is my_parker()
            self._close_after_reading = below
            self._over = True
        if not first:
            return
        self.lead.end()
        while self._reading and not below:
            self._reader_left.clear()
            self.link.wake()
            self._reader_left.wait(0.02)
        patience = monotonic() + 5
        while self._blocked_writers and monotonic() < patience:  # one of them may be this thread, likewise interrupted
            self._reader_left.wait(0.02)
        if self._standby is not None and self._standby is not threading.current_thread():
            self._standby.join(5)
        if below:
            self.link.wake()
        else:
            with self._write_lock:
                self.link.close()
        self.run_later.stop()

    def still(self) -> None:
        """End the reading and the standby, but close nothing: for the interpreter's end."""
        with self.lead.lock:
            self._stopped = self._over = True
        self.lead.end()
        self.link.wake()
        if self._standby is not None and self._standby is not threading.current_thread():
            self._standby.join(1)

    def abandon(self) -> None:
        """In a forked child: nothing is read or written here any more, and no other thread is there."""
        self._stopped = self._over = True
        self.lead.abandon()
        self._write_lock = threading.Lock()
        self._outbox.clear()
        self.events = EventWindow()  # of what this end sends
        self.run_later = Runner(self._name, self.need_tick)
        self.run_later.stop()
        self.link.abandon()


__all__ = ["ENDED", "READING", "TICK", "Parker", "Wire", "my_parker"]
