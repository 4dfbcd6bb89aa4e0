"""What a pool is asked to do: single tasks, each with a future, and maps, which give chunks away.

Both are *work*. A member of the pool takes a `Batch` of it, and gives back what became of the items: outcomes, or the
items themselves when the body was lost before it began them. An item is delivered once.
"""

from __future__ import annotations

import functools
import itertools
import math
import threading
from concurrent.futures import BrokenExecutor, Future, InvalidStateError
from concurrent.futures import TimeoutError as FuturesTimeoutError
from time import monotonic
from typing import TYPE_CHECKING, Any

from epyrpc import codec, results
from epyrpc.bodies import sharing
from epyrpc.bodies.pool_inside import BLOCK_ITEMS, BLOCK_SECONDS, ONE
from epyrpc.clock import check_timeout, format_seconds
from epyrpc.errors import TimeoutBase
from epyrpc.news import Progress
from epyrpc.results import AsyncResult, CallState

if TYPE_CHECKING:
    import concurrent.futures
    from collections.abc import Callable, Generator, Sequence

    from epyrpc.bodies.pool_engine import Engine

CHUNK_SECONDS = 0.040  # of work in a chunk; its way there and back takes a hundredth of that
LAST_SECONDS = 0.0015  # of work in the last chunks: so much later one body may be done than another
SHARE_SECONDS = 0.001  # less than this is not worth being spread over the bodies
CHUNK_ITEMS = 32_768
CHUNK_BYTES = 4 << 20
FIRST_CHUNK_ITEMS = 512
SMALL_TYPES = frozenset({int, float, bool, str, type(None)})
CHUNK_GROWTH = 16  # a chunk is so many times longer at most than the longest so far: costs are not all alike
AHEAD_SECONDS = 0.100  # what takes longer is not sent ahead: the gap that this would close is a hundredth of it
BURST_SECONDS = 0.002  # single tasks are sent ahead until a body has so much to do
BURST_TASKS = 64
TIME_SLICE = 0.080  # after so much, a chunk that was thought to be shorter leaves its rest to others
FIRST_TIME_SLICE = 0.010  # the same, while nothing is known of the cost of an item

_tokens = itertools.count(1)
_ids = itertools.count(1)


class Cost:
    """What an item takes, as far as that is known.

    Attributes
    ----------
    seconds : float or None
        For one item; what was seen last counts most. None before anything was seen.
    """

    __slots__ = ("seconds",)

    def __init__(self) -> None:
        self.seconds: float | None = None

    def note(self, seconds: float, count: int) -> None:
        """Learn what `count` items took."""
        cost = seconds / count
        # Rises faster than it falls: a chunk that is too long costs more than one that is too short.
        known = self.seconds
        self.seconds = cost if known is None else known + (cost - known) * (0.5 if cost > known else 0.25)


class Function:
    """A function as it travels, and what single calls of it cost."""

    def __init__(self, function: Callable[..., Any]) -> None:
        with sharing.collected() as self.shared:  # they live as long as this may still travel
            self.payload, self.buffers = codec.encode(function, what="function")
        self._segment: sharing.Segment | None = None
        self._ref: tuple[Any, ...] = ()
        self._lock = threading.Lock()
        self.token = next(_tokens)
        self.name = name_of(function)
        self.cost = Cost()
        self.size_bytes = len(self.payload) + sum(buffer.raw().nbytes for buffer in self.buffers)

    def carried(self, by_memory: bool) -> tuple[bytes, Any]:
        """Return what is sent to a body that does not have it; what it captures is copied once for all of them."""
        if not by_memory or sharing.total_bytes(self.buffers) < sharing.MIN_SHARED_BYTES:
            return self.payload, self.buffers
        with self._lock:
            if self._segment is None:
                segment = sharing.Segment(sharing.total_bytes(self.buffers, aligned=True))
                self._ref = tuple(segment.fill(self.buffers))
                self._segment = segment
        return self.payload, self._ref


class Batch:
    """Some items of one work, on their way through one body.

    Attributes
    ----------
    number : int
        Grows from batch to batch of a member.
    told : int
        How many of the items, from the left, have been delivered already.
    """

    __slots__ = (
        "attempts",
        "began",
        "body",
        "call",
        "items",
        "kept",
        "light",
        "number",
        "single",
        "start",
        "told",
        "work",
    )

    def __init__(self, work: Any, start: int, items: Sequence[Any], attempts: int = 0, single: bool = False) -> None:
        self.work = work
        self.start = start
        self.items = items
        self.attempts = attempts  # how often its one item has been lost with a body
        self.single = single  # to be tried alone: one of these items ends bodies, or cannot travel
        self.number = 0
        self.body = ""  # of the member that has it, or had it last
        self.told = 0
        self.began = 0.0
        self.light = False  # its results are plain values, and take little memory
        self.kept: list[sharing.Shared] = []  # values that must live until it has run
        self.call: AsyncResult = None  # type: ignore[assignment]  # set when it is sent

    def split(self, low: int, high: int) -> list[Batch]:
        """Return some of the items one by one."""
        batches = [
            Batch(self.work, self.start + i, self.items[i : i + 1], self.attempts, single=True)
            for i in range(low, high)
        ]
        for batch in batches:
            batch.body = self.body
        return batches

    def rest(self, low: int, high: int) -> list[Batch]:
        """Return some of the items as a batch, if there are any."""
        return [Batch(self.work, self.start + low, self.items[low:high], self.attempts, self.single)] * (low < high)


class Work:
    """What tasks and maps have in common."""

    function: Function
    label: str  # what a person sees
    sink: Any  # where the output of its items goes
    how: int
    cost: Cost
    timeout: float | None = None  # seconds for an item
    retry: int = 0
    cancelled = False
    _doubts: dict[int, int] | None = None  # {index of an item: how often its body died just before it began}

    def note_rerun(self, body: str, items: int) -> None:
        """Hear that items run again that had begun in a body that died; on the thread of a member."""

    def doubt(self, index: int) -> int:
        """Count, and return, how often a body died just before it began with an item; on the thread of a member."""
        if self._doubts is None:
            self._doubts = {}
        self._doubts[index] = count = self._doubts.get(index, 0) + 1
        return count

    def deliver(self, batch: Batch, values: Sequence[Any], errors: dict[int, BaseException]) -> None:
        """Take the outcomes of the next ``len(values)`` items of a batch; `errors` by index in the batch."""
        raise NotImplementedError

    def time_slice(self) -> float | None:
        """Return after how many seconds a batch leaves what it has not begun to others; None for never."""
        return None

    def put_back(self, batches: list[Batch]) -> None:
        """Take items back that did not run; holding the engine's lock."""
        raise NotImplementedError

    def encode(self, batch: Batch) -> tuple[Any, list[Any]]:
        """Encode the items of a batch.

        Raises
        ------
        CodecError
            One of them cannot be pickled.
        """
        raise NotImplementedError


class PoolResult(Future):  # type: ignore[type-arg]
    """One task given to a `Pool`: a `concurrent.futures.Future` as executors give it, that can also be awaited.

    ``cancel()`` is that of executors: it takes back what has not begun. ``cancel(kill=True)`` also stops a task that
    runs, by force after a second.

    Attributes
    ----------
    path : str
        The name of the function.
    id : str
        Tells it from other tasks, such as ``P7``.
    """

    retry_of: str | None = None
    recall = arguments = None  # what it was given is not kept
    deadline: float | None = None

    def __init__(self, path: str) -> None:
        super().__init__()
        self.id = f"P{next(_ids)}"
        self.path = path
        self._started = monotonic()
        self._ended = 0.0
        self._call: AsyncResult | None = None  # of its last attempt
        self._lost = self._timed_out = False
        self._stop: Callable[[], None] | None = None

    @property
    def state(self) -> CallState:
        """What has become of it."""
        if not self.done():
            return CallState.RUNNING if self.running() else CallState.PENDING
        if self.cancelled():
            return CallState.CANCELLED
        if self._timed_out:
            return CallState.TIMED_OUT
        if self._lost:
            return CallState.LOST
        return CallState.FAILED if self._exception is not None else CallState.DONE

    @property
    def elapsed(self) -> float:
        """Seconds since it was submitted, until it ended."""
        return (self._ended or monotonic()) - self._started

    @property
    def target(self) -> str:
        """The body that runs it, or ran it last; empty before."""
        return self._call.target if self._call is not None else ""

    @property
    def stopped(self) -> str | None:
        """How it was stopped in its body, see `AsyncResult.stopped`."""
        if self._call is None:
            return "never started" if self.cancelled() else None
        return self._call.stopped

    @property
    def timings(self) -> dict[str, float]:
        """Seconds by name, of its last attempt; see `AsyncResult.timings`."""
        return {"total": self.elapsed} if self._call is None else self._call.timings

    @property
    def _output(self) -> Any:
        return self._call._output if self._call is not None else None

    @property
    def _wire_facts(self) -> tuple[int, int, int]:
        """What was sent and received for it, in bytes, and which handler worker ran it."""
        call = self._call
        return (0, 0, 0) if call is None else (call._sent, call._received, call._worker)

    @property
    def progress(self) -> Progress | None:
        """How far it says it has come (`epyrpc.track`), or None."""
        return self._call.progress if self._call is not None else None

    @property
    def stdout(self) -> str:
        """What it has printed so far, in its last attempt."""
        return self._call.stdout if self._call is not None else ""

    @property
    def stderr(self) -> str:
        """What it has written to its standard error so far, in its last attempt."""
        return self._call.stderr if self._call is not None else ""

    @property
    def outputs(self) -> list[dict[str, Any]]:
        """What it has put out so far, in its last attempt; see `AsyncResult.outputs`."""
        return self._call.outputs if self._call is not None else []

    def show(self) -> None:
        """Put out here, in the cell that asks, what it has put out so far, in its last attempt."""
        if self._call is not None:
            self._call.show()

    def add_done_callback(self, fn: Callable[[Future[Any]], object]) -> None:
        """Call `fn(self)` when it has ended; in a notebook, what that prints lands in the cell that called this."""
        run = getattr(results.make_output_sink(), "run", None)
        super().add_done_callback(fn if run is None else functools.partial(run, fn))

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the result and return it, or raise what the task raised; an interrupt of the wait stops the task."""
        try:
            return _wait_by(super().result, self, timeout)
        finally:
            self = None  # type: ignore[assignment]  # as Future does: an exception refers to this frame

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the end and return what the task raised, or None; an interrupt of the wait stops the task."""
        error: BaseException | None = _wait_by(super().exception, self, timeout)
        return error

    def _check_ended(self, timeout: float | None) -> None:
        """Say that it has not ended; else the exception is the task's own."""
        if not self.done():
            # Until 3.10 the futures have a TimeoutError of their own: this is both.
            raise TimeoutBase(
                f"{self!r} has not ended within {timeout} s; it goes on: wait again, or cancel() it"
            ) from None

    def _stop_interrupted(self) -> None:
        if not self.done():  # else it is the outcome of the task itself
            self.cancel(kill=True)

    def acquire(self, timeout: float | None = None) -> Any:
        """Wait for the result and return it; the same as `result`."""
        return self.result(check_timeout(timeout))

    def cancel(self, *, kill: bool = False) -> bool:
        """Take the task back if it has not begun; with `kill`, stop it also when it runs.

        Returns
        -------
        bool
            False when it runs (without `kill`), or has ended.
        """
        if super().cancel():
            self._ended = self._ended or monotonic()
            self._stop = None
            return True
        if not kill or not self._cancel_running():
            return False
        stop, self._stop = self._stop, None
        if stop is not None:  # else it has just ended
            stop()
        return True

    def _cancel_running(self) -> bool:
        with self._condition:
            if self._state != "RUNNING":
                return False
            self._state = "CANCELLED_AND_NOTIFIED"
            self._ended = monotonic()
            for waiter in self._waiters:
                waiter.add_cancelled(self)
            self._condition.notify_all()
        self._invoke_callbacks()  # type: ignore[attr-defined]
        return True

    def then(
        self, fn: Callable[[Any], Any], on_error: Callable[[BaseException], Any] | None = None
    ) -> concurrent.futures.Future[Any]:
        """Call `fn(value)` when the task ends well, `on_error(exception)` otherwise; see `AsyncResult.then`."""
        return AsyncResult.then(self, fn, on_error)  # type: ignore[arg-type]  # all it needs is a Future

    def __await__(self) -> Generator[Any, None, Any]:
        import asyncio

        return asyncio.wrap_future(self).__await__()

    def __reduce__(self) -> Any:
        raise TypeError(f"{self!r} cannot travel; send its value instead: result.result()")

    def __repr__(self) -> str:
        where = f" on {self.target}" if self.target else ""
        text = f"<PoolResult {self.id} {self.path}{where}: {self.state}, {format_seconds(self.elapsed)}"
        if self.state is CallState.FAILED:
            error = self._exception
            text += f", {type(error).__name__}: {str(error)[:80]}"
        return text + ">"


class Task(Work):
    """A single call."""

    how = ONE

    def __init__(
        self, engine: Engine, function: Function, encoded: tuple[Any, list[Any]], sink: Any, options: dict[str, Any]
    ) -> None:
        self._engine = engine
        self.function = function
        self.cost = function.cost
        self.label = function.name
        self.sink = sink
        self.timeout = options.get("timeout")
        self.retry = options.get("retry", 0)
        self._encoded = encoded
        self.shared: list[sharing.Shared] = []  # values that must live until it has run
        self._begun = False
        self.batch: Batch | None = None
        self.future = PoolResult(function.name)
        self.future.deadline = self.timeout
        self.future._stop = self._stop_running

    def _stop_running(self) -> None:
        self.cancelled = True
        batch, self.batch = self.batch, None
        if batch is not None and batch.call is not None:
            batch.call.cancel()

    def begin(self) -> bool:
        """Let it run; False when it was cancelled."""
        if self.cancelled:
            return False
        if not self._begun:
            self._begun = True
            return self.future.set_running_or_notify_cancel()
        return True

    def encode(self, batch: Batch) -> tuple[Any, list[Any]]:
        """See `Work.encode`; was done when it was submitted."""
        return self._encoded

    def deliver(self, batch: Batch, values: Sequence[Any], errors: dict[int, BaseException]) -> None:
        """See `Work.deliver`."""
        error = errors.get(0)
        if error is not None:
            self.fail(error)
            return
        future = self.future
        future._ended = monotonic()
        try:
            future.set_result(values[0])
        except InvalidStateError:  # cancelled while it ran
            pass
        finally:
            self._drop()

    def fail(self, error: BaseException) -> None:
        """End it with an error."""
        future = self.future
        future._ended = monotonic()
        if isinstance(error, BrokenExecutor):
            future._lost = True
        elif isinstance(error, TimeoutError) and self.timeout is not None:
            future._timed_out = True
        if not self._begun and not future.set_running_or_notify_cancel():
            return
        try:
            future.set_exception(error)
        except InvalidStateError:  # cancelled while it ran
            pass
        finally:
            self._drop()

    def _drop(self) -> None:
        self._encoded = (b"", [])
        self.shared = []
        self.batch = self.future._stop = None  # else the result would live until the next collection of cycles

    def put_back(self, batches: list[Batch]) -> None:
        """See `Work.put_back`."""
        for batch in batches:
            if not self.cancelled:
                self._engine.tasks.appendleft((self, batch.attempts))


def _wait_by(wait: Callable[[float | None], Any], task: PoolResult, timeout: float | None) -> Any:
    """Return ``wait(timeout)`` of a task; where that ends before the task does, say so, or stop it."""
    try:
        return wait(timeout)
    except FuturesTimeoutError:
        task._check_ended(timeout)
        raise
    except KeyboardInterrupt:
        task._stop_interrupted()
        raise
    finally:
        del wait, task  # an exception refers to this frame


def name_of(function: Any) -> str:
    """Return what to call a function."""
    name = getattr(function, "__qualname__", None) or getattr(getattr(function, "func", None), "__qualname__", None)
    return str(name or type(function).__qualname__).rpartition("<locals>.")[2]


def first_chunk_size(item: Any, left: int | None, members: int) -> int:
    """Return how many items a chunk should have while nothing is known of their cost.

    Where they are small it is each body's whole share: should they turn out to be long, the chunk soon gives its rest
    back, which costs next to nothing.
    """
    if left is None or not is_small(item):
        return 1
    return max(1, min(FIRST_CHUNK_ITEMS, math.ceil(left / members)))


def is_small(item: Any) -> bool:
    """Return whether an item takes next to nothing to be sent."""
    kind = type(item)
    if kind is tuple:
        return len(item) <= 8 and all(type(part) is not tuple and is_small(part) for part in item)
    return kind in SMALL_TYPES and (kind is not str or len(item) <= 100)


def chunk_size(cost: Cost, longest: int, bytes_per_item: float, left: int | None, members: int) -> int:
    """Return how many items the next chunk of a map should have.

    Parameters
    ----------
    cost : Cost
        What an item takes.
    longest : int
        The length of the longest chunk so far.
    bytes_per_item : float
        What an item has taken on the wire.
    left : int or None
        How many items are left, where that is known: the last ones are spread over all bodies.
    members : int
        How many bodies there are.
    """
    if cost.seconds is None or not longest:
        return 1
    seconds = max(cost.seconds, 1e-8)
    size: float = math.ceil(CHUNK_SECONDS / seconds)  # two of 30 ms: one each would be a message an item
    size = min(size, CHUNK_ITEMS, longest * CHUNK_GROWTH, CHUNK_BYTES / max(bytes_per_item, 1.0))
    if left is not None:
        share = math.ceil(left / (2 * members))
        size = min(size, max(share, LAST_SECONDS / seconds))
    return max(1, int(size))


def block_size(cost: Cost) -> int:
    """Return how many items a body runs between two looks at what it is told."""
    return BLOCK_ITEMS if cost.seconds is not None and cost.seconds < BLOCK_SECONDS else 1


__all__ = ["Batch", "Cost", "Function", "PoolResult", "Task", "Work", "block_size", "chunk_size", "is_small", "name_of"]
