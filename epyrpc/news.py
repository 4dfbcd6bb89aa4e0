"""What a call puts out before it ends: text, displays and progress, kept as they come and shown by whoever has time.

Threads: the one that reads the wire keeps a note (`CallNews._note`) and never shows it; whoever waits for the call, or
else one of the wire's callback threads, decodes and shows what has come, in order, one at a time.
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
import threading
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from epyrpc import codec
from epyrpc.messages import PACKED
from epyrpc.outputs import DISPLAY, CallOutput

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

    from epyrpc.messages import Frame

_log = logging.getLogger("epyrpc.results")
UNSHOWN_LIMIT = 16_000_000  # bytes of a call's output that may wait to be shown; what comes while they do is dropped


class Progress(NamedTuple):
    """How far a call has come; `total`, `rate` (steps per second) and `eta` (seconds) are None while unknown."""

    done: float
    total: float | None
    rate: float | None
    eta: float | None


class OutputSink(Protocol):
    """Where the output of a call goes on the caller's side.

    One that belongs to a notebook's cell also has ``show(name, value)`` for notes that are no text, ``flush()``, after
    which everything given to it is in its cell, and ``run(function, *args)``, which sends what `function` prints there.
    """

    def __call__(self, stream: str, text: str) -> None:
        """Show `text`, which the handler wrote to `stream` ("stdout" or "stderr")."""


class Pump(Protocol):
    """Moves the wire while somebody waits; `transports.wire.Wire` is one."""

    def wait(self, awaited: Any, timeout: float | None = None) -> None:
        """Return when `awaited` is settled or has news, or after `timeout` seconds."""

    def send_and_wait(self, pieces: list[Any], awaited: Any, timeout: float | None = None) -> None:
        """Do `send`, urgently, then `wait`."""

    def wake(self, awaited: Any) -> None:
        """Wake whoever waits for `awaited`; called by any thread but the reader."""

    def wake_followers(self, awaited: Any) -> None:
        """Wake whoever waits for `awaited`; called by the reader."""

    def need_tick(self) -> None:
        """Look at the deadlines soon."""

    def run_later(self, work: Callable[[], object]) -> None:
        """Run `work` where user code may block."""

    def run_detached(self, work: Callable[[], object]) -> None:
        """Run `work` elsewhere; called by finalizers, so without taking a lock."""

    def send(self, pieces: list[Any], *, urgent: bool = True, may_block: bool = True) -> None:
        """Send one frame."""


class CallNews:
    """The half of an `AsyncResult` that has to do with what comes before its reply."""

    # What every call uses is a slot of AsyncResult; the rest are defaults here, since most calls use none of it.
    _notes: deque[Frame] | None
    _sink: OutputSink | None
    _waiting: int  # threads inside _wait, roughly; only decides who shows the news
    _owner: Any
    _pump: Pump
    has_news: bool
    parkers: Any
    _news_lock: Any = None  # a threading.RLock, once there are notes
    _progress: Progress | None = None
    _output: CallOutput | None = None
    _arrived = 0  # bytes of output put into _notes, by the reader
    _taken = 0  # ... and taken out, under _news_lock
    _unshown = 0  # bytes of output dropped by the reader since that was last said
    _errands: deque[Callable[[], object]] | None = None  # what whoever waits for this call is to do meanwhile
    _awaiters: Sequence[Callable[[], object]] = ()  # have it done by an event loop; changed on the loop's thread

    @property
    def progress(self) -> Progress | None:
        """How far the handler says it has come (`epyrpc.track`), or None."""
        self._take_news()
        return self._progress

    @property
    def stdout(self) -> str:
        """What the handler has printed so far."""
        return self._kept("stdout")

    @property
    def stderr(self) -> str:
        """What the handler has written to its standard error so far."""
        return self._kept("stderr")

    @property
    def outputs(self) -> list[dict[str, Any]]:
        """What the call has put out so far, text and rich displays in order, in the format of a notebook's cell.

        Bounded: of each stream the last million characters are kept, of displays the last 32 MB or so.
        """
        self._take_news()
        return self._output.as_list() if self._output is not None else []

    def _note(self, frame: Frame) -> None:
        """Keep a piece of output or progress; runs on the reader."""
        if self._notes is None:
            self._news_lock = threading.RLock()
            self._notes = deque()
        if frame.path != "progress":
            size = len(frame.payload)
            if self._arrived - self._taken + size > UNSHOWN_LIMIT and self._notes:
                self._unshown += size  # whoever shows it cannot keep up, and memory is not without end
                return
            self._arrived += size
        self._notes.append(frame)
        first, self.has_news = not self.has_news, True
        if self._waiting:
            if self.parkers:
                self._pump.wake_followers(self)
        elif first:
            self._pump.run_later(self._take_news)

    def _take_news(self) -> None:
        notes = self._notes
        if notes is None or self._news_lock is None:
            return
        # Whoever comes second waits: when this returns, everything that had come is applied and shown.
        with self._news_lock:
            self.has_news = False
            while notes:
                frame = notes.popleft()
                if frame.path != "progress":
                    self._taken += len(frame.payload)
                try:
                    payload = frame.payload if not frame.flags & PACKED else self._owner.unpack(frame.payload)
                    self._apply_note(frame.path, codec.decode(payload))
                except Exception:
                    _log.exception("%r: its %s cannot be shown", self, frame.path)
            if self._unshown:
                unshown, self._unshown = self._unshown, 0
                self._show("stderr", f"\n[{unshown:,} bytes of output came too fast to be shown, and are dropped]\n")
            if self._errands:
                self.has_news = True  # still, for who waits

    def _apply_note(self, name: str, value: Any) -> None:
        if name == "progress":
            self._progress = Progress(*value)
            return
        if name != "output":
            if name == DISPLAY:
                self._keep().add_display(*value)
            show = getattr(self._sink, "show", None)  # what only a notebook can show
            if show is not None:
                show(name, value)
            return
        self._show(*value)

    def _show(self, stream: str, text: str) -> None:
        self._keep().add_text(stream, text)
        if self._sink is not None:
            self._sink(stream, text)

    def _keep(self) -> CallOutput:
        if self._output is None:
            self._output = CallOutput()
        return self._output

    def _kept(self, stream: str) -> str:
        self._take_news()
        return self._output.text(stream) if self._output is not None else ""

    def _show_all(self) -> None:
        """See to it that everything the call has put out so far is where it belongs, before its result is given."""
        if self._notes:
            self._take_news()
        flush = getattr(self._sink, "flush", None)
        if flush is not None and self._output is not None:
            flush()

    # --- errands: what is to be done on the thread that waits for the call

    def _send_errand(self, work: Callable[[], object]) -> None:
        """Have `work` done by the thread, or the event loop, that waits for this call, or by the next one that does."""
        self.__dict__.setdefault("_errands", deque()).append(work)
        self.has_news = True
        self._pump.wake(self)
        for run_soon in tuple(self._awaiters):
            with contextlib.suppress(RuntimeError):  # its loop has just been closed
                run_soon()

    def _drop_errand(self, work: Callable[[], object]) -> None:
        """Forget an errand that nobody has run, and show what has been waiting behind it."""
        errands = self._errands
        if errands is not None and work in errands:
            errands.remove(work)
        self._take_news()

    def _run_errands(self) -> None:
        errands = self._errands
        while errands:
            try:
                work = errands.popleft()
            except IndexError:  # another thread that waits was quicker
                break
            work()
        self.has_news = False
        if self._notes:
            self.has_news = True

    def _run_errands_in(self, future: asyncio.Future[Any]) -> None:
        """Have errands run by the event loop that awaits the call, in the context of who awaits it."""
        awaiters: list[Callable[[], object]] = self.__dict__.setdefault("_awaiters", [])
        loop, context = future.get_loop(), contextvars.copy_context()

        def run_soon() -> None:
            loop.call_soon_threadsafe(self._run_errands_awaited, context=context)

        awaiters.append(run_soon)
        future.add_done_callback(lambda _: awaiters.remove(run_soon))
        if self._errands:
            run_soon()

    def _run_errands_awaited(self) -> None:
        self._run_errands()
        self._take_news()


__all__ = ["CallNews", "OutputSink", "Progress"]
