"""What runs in the bodies of a pool: chunks of a map, one task at a time on the main thread.

Threads::

    main thread ──run_chunk──▶ Chunk: takes items from its left, runs them, keeps their outcomes
    control worker ──give_back──▶ takes what has not begun from its right, and the outcomes so far

A chunk that takes longer than its time slice ends between two items and leaves the rest to the head. Only an item that
itself takes long holds others up; for those the head asks with `give_back`.

The *mark* is a page of memory shared with the head: ``[chunk, low, high]``, the items that are being run now. It
outlives this process, so that the head knows what a killed body was doing.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import sys
import threading
from time import monotonic
from typing import TYPE_CHECKING, Any

from epyrpc import codec
from epyrpc.api.context import CallCancelled
from epyrpc.bodies import bootstrap, inside, sharing
from epyrpc.results import current

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

RUN_CHUNK = f"{bootstrap.CONTROL}.chunk"
GIVE_BACK = f"{bootstrap.CONTROL}.give_back"
FORGET = f"{bootstrap.CONTROL}.forget"
SHARE_NOT = f"{bootstrap.CONTROL}.share_not"
MARK_BYTES = 4096
BLOCK_SECONDS = 10e-6  # items that are shorter are run in blocks
BLOCK_ITEMS = 64
ONE, MANY, STAR = 0, 1, 2  # how an item is called: (args, kwargs), one argument, a tuple of arguments
# What a thread pool of a numeric library reads when it is loaded.
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMBA_NUM_THREADS",
    "POLARS_MAX_THREADS",
    "RAYON_NUM_THREADS",
)
# What OpenBLAS, which NumPy's own packages bring along, looks at among them; and what it can be told by later.
OPENBLAS_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")
OPENBLAS_FUNCTIONS = tuple(
    f"{prefix}openblas_set_num_threads{suffix}" for prefix in ("scipy_", "") for suffix in ("64_", "")
)


class Unloadable:
    """Stands for a function that could not be rebuilt here."""

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Raise why."""
        raise self.error


class Chunk:
    """Items on their way through this process."""

    # Guarded by the agent's lock: everything but outcomes and errors, which the main thread appends to.

    def __init__(self, number: int, items: Sequence[Any]) -> None:
        self.number = number
        self.items = items
        self.next = 0  # the first item that has not begun
        self.end = len(items)  # the first one that is not ours any more
        self.block: Iterator[Any] = iter(())  # what is left of the block that runs; next() of it is one step
        self.outcomes: list[Any] = []
        self.errors: dict[int, bytes] = {}  # {index: encoded exception}
        self.told = 0  # outcomes that the head has

    def part(self, count: int) -> tuple[int, bytes, list[Any], dict[int, bytes]]:
        """Return ``(count, payload, buffers, errors)`` of those up to `count` that the head has not got.

        From then on it has them.
        """
        low, self.told = self.told, count
        # Both are copies: the main thread may be adding to them.
        errors = {index: error for index, error in list(self.errors.items()) if low <= index < count}
        payload, buffers = _encode_outcomes(self.outcomes[low:count], errors, low)
        return count - low, payload, buffers, errors


class Agent:
    """The chunks of one body; there is one in a process."""

    # Guarded by _lock: _current, _last, _revoked, and what Chunk says.

    def __init__(self, mark: Any) -> None:
        self._mark = mark
        self._store: sharing.Store | None = None  # for large results; None where there is no shared memory
        self._reader = sharing.Reader()
        self._functions: dict[int, Any] = {}  # {token: function}
        self._lock = threading.Lock()
        self._current: Chunk | None = None
        self._last = 0  # the number of the chunk that began last; they grow
        self._revoked: set[int] = set()

    def run_chunk(
        self,
        number: int,
        token: int,
        function: tuple[bytes, Any] | None,
        payload: Any,
        buffers: Any,
        how: int,
        block: int,
        time_slice: float | None,
        returned: tuple[tuple[int, ...], tuple[int, ...]] | None = None,
    ) -> Any:
        """Run a chunk on the main thread.

        Returns
        -------
        tuple or bytes or None
            ``(seconds, count, payload, buffers, {index: error}, returned segments)``; the pickle of ``(seconds, pickle
            of the outcomes, returned segments)`` if all outcomes are plain; None if it had been taken back, or its
            function has not come; ``(encoded error,)`` if its items cannot be rebuilt here, and none has begun.
        """
        call = current.get()
        if call is not None:
            call.announced = True  # the head knows from the mark what runs here: it need not be told
        flush_replies()  # whatever this chunk does to the process, what was done before has been told
        if returned is not None and self._store is not None:
            self._store.take_back(*returned)
        if function is not None:
            self._learn(token, function)
        elif token not in self._functions:
            return None  # the call that brought it was cancelled before it began
        try:
            items = codec.decode(payload, self._opened(buffers))
        except BaseException as exc:  # a __setstate__ may do anything; nothing has begun, so the head may try singly
            return (codec.encode_error(exc),)
        chunk = Chunk(number, (items,) if how == ONE else items)
        del items
        with self._lock:
            self._last = number
            if number in self._revoked:
                self._revoked.discard(number)
                return None
            self._current = chunk
        started = monotonic()
        try:
            self._run(chunk, self._functions[token], how, block, None if time_slice is None else started + time_slice)
        finally:
            with self._lock:
                self._current = None
        spent = monotonic() - started
        if not chunk.errors:
            outcomes = chunk.outcomes[chunk.told :]
            plain = codec.dump_if_plain(outcomes)
            if plain is not None:
                return codec.dump_plain((spent, plain, self._reader.news()))
            del outcomes
        part = self._shared(chunk.part(len(chunk.outcomes)))
        del chunk  # with it go the arguments
        return spent, *part, self._reader.news()

    def _opened(self, buffers: Any) -> Sequence[Any]:
        """Return buffers, which may be in shared memory."""
        return self._reader.open(buffers) if type(buffers) is tuple else buffers or ()

    def _shared(self, part: tuple[int, bytes, list[Any], dict[int, bytes]]) -> tuple[Any, ...]:
        """Put large buffers of results into shared memory; on the main thread."""
        count, payload, buffers, errors = part
        if self._store is None or not buffers or sharing.total_bytes(buffers) < sharing.MIN_SHARED_BYTES:
            return part
        return count, payload, tuple(self._store.put(buffers)), errors

    def share(self) -> int:
        """Use shared memory for large results from now on; return a descriptor that the head should be able to open."""
        self._store = sharing.Store()
        return int(self._store.put([b"probe"]).fd)

    def share_not(self) -> None:
        """Send large results through the pipe."""
        self._store = None

    def _learn(self, token: int, function: tuple[bytes, Any]) -> None:
        try:
            payload, buffers = function
            self._functions[token] = codec.decode(
                payload, sharing.attach(sharing.Ref(*buffers)) if type(buffers) is tuple else buffers
            )
        except BaseException as exc:  # each of its calls will say so
            self._functions[token] = Unloadable(exc)

    def _run(self, chunk: Chunk, function: Callable[..., Any], how: int, block: int, limit: float | None) -> None:
        mark, lock, items, number, outcomes = self._mark, self._lock, chunk.items, chunk.number, chunk.outcomes
        now = monotonic()
        while True:
            with lock:
                low = chunk.next
                high = chunk.next = min(low + block, chunk.end)
            if low == high:
                return
            if mark is not None:
                mark[0], mark[1], mark[2] = number, low, high
            if high - low == 1 and how == MANY:  # as _run_one does; most items go this way
                try:
                    value = function(items[low])
                except BaseException as exc:
                    self._note_error(chunk, exc)
                else:
                    outcomes.append(value)
            elif high - low == 1:
                self._run_one(chunk, function, items[low], how)
            else:
                self._run_block(chunk, function, items[low:high], how)
            if limit is not None:
                before, now = now, monotonic()
                if now > limit:
                    with lock:
                        chunk.end = chunk.next
                    return
                if now - before < block * BLOCK_SECONDS:
                    block = min(2 * block, BLOCK_ITEMS)

    def _run_one(self, chunk: Chunk, function: Callable[..., Any], item: Any, how: int) -> None:
        try:
            value = function(*item) if how == STAR else function(*item[0], **item[1])
        except BaseException as exc:
            self._note_error(chunk, exc)
        else:
            chunk.outcomes.append(value)

    @staticmethod
    def _note_error(chunk: Chunk, exc: BaseException) -> None:
        """Make an exception, SystemExit too, the outcome of the item that runs."""
        _check_cancelled(exc)
        chunk.errors[len(chunk.outcomes)] = codec.encode_error(_trimmed(exc))
        chunk.outcomes.append(None)

    def _run_block(self, chunk: Chunk, function: Callable[..., Any], items: Sequence[Any], how: int) -> None:
        """Run several short items with as little as possible around each."""
        outcomes = chunk.outcomes
        left = chunk.block = iter(items)
        while True:
            error: BaseException
            try:
                if how == STAR:
                    outcomes.extend(function(*item) for item in left)
                else:
                    outcomes.extend(map(function, left))
            except BaseException as exc:
                _check_cancelled(exc)
                error = _trimmed(exc)
            else:
                with self._lock:
                    expected = chunk.next  # less by what has been given back
                if len(outcomes) >= expected:
                    return
                error = StopIteration()  # the function raised it, and extend() took it for the end
            chunk.errors[len(outcomes)] = codec.encode_error(error)
            outcomes.append(None)

    def give_back(self, number: int) -> Any:
        """Take back what has not begun of a chunk; on a control worker.

        Returns
        -------
        tuple or None
            ``(given back, count, payload, buffers, {index: error})`` of a chunk that runs, with the outcomes that the
            head has not got; None if it has ended; -1 if it had not begun, and never will.
        """
        with self._lock:
            chunk = self._current
            if chunk is None or chunk.number != number:
                if number <= self._last:
                    return None
                self._revoked.add(number)
                return -1
            chunk.next -= sum(1 for _ in chunk.block)
            given, chunk.end = chunk.end - chunk.next, chunk.next
            return given, *chunk.part(len(chunk.outcomes))

    def forget(self, tokens: tuple[int, ...]) -> None:
        """Drop functions that no more chunk will name."""
        for token in tokens:
            self._functions.pop(token, None)


class SeededCall:
    """Calls a function with a random generator of its own for each item.

    The generator of item ``i`` is that of the ``i``-th child that ``SeedSequence(seed).spawn`` gives, so it does not
    depend on which body runs the item, nor when.
    """

    def __init__(self, function: Callable[..., Any], seed: Any, star: bool) -> None:
        self._function = function
        self._seed = seed
        self._star = star
        self.__qualname__ = getattr(function, "__qualname__", type(function).__qualname__)

    def __call__(self, index: int, item: Any) -> Any:
        """Call the function for one item."""
        import numpy

        rng = numpy.random.default_rng(numpy.random.SeedSequence(self._seed, spawn_key=(index,)))
        return self._function(*item, rng=rng) if self._star else self._function(item, rng=rng)


def _check_cancelled(exc: BaseException) -> None:
    """Let the cancelling of the whole call pass; it is no item's own error."""
    call = current.get()
    if isinstance(exc, CallCancelled) and call is not None and call._cancelled:
        raise exc


def _trimmed(exc: BaseException) -> BaseException:
    """Drop this module's frames from the top of a traceback."""
    top = exc.__traceback__
    while top is not None and top.tb_frame.f_globals.get("__name__") == __name__:
        top = top.tb_next
    return exc.with_traceback(top) if top is not None else exc


def _encode_outcomes(outcomes: list[Any], errors: dict[int, bytes], low: int) -> tuple[bytes, list[Any]]:
    """Encode outcomes; those that cannot be are replaced by errors."""
    try:
        return codec.encode_value(outcomes)
    except BaseException:  # a __reduce__ may even exit: find out whose it is
        outcomes = list(outcomes)
    for index, value in enumerate(outcomes):
        try:
            codec.encode_value(value)
        except BaseException as exc:  # as above: it is that item's outcome
            outcomes[index] = None
            errors[low + index] = codec.encode_error(exc)
    return codec.encode_value(outcomes)


def flush_replies() -> None:
    """Write what this process has still to say to its head."""
    wire = inside._neck[-1].transporter._wire
    if wire is not None and not wire.over:
        wire._flush()


def set_up(mark_path: str, threads: int | None) -> int | None:
    """Make this body one of a pool; the first call that it gets.

    Parameters
    ----------
    mark_path : str
        Where the mark's memory can be opened.
    threads : int or None
        How many threads numeric libraries may use; None leaves them alone. What the user has set stays.

    Returns
    -------
    int or None
        A descriptor here of shared memory, for the head to try; None where there is no such thing.
    """
    neck = inside._neck[-1]
    agent = Agent(_open_mark(mark_path))
    neck._register(RUN_CHUNK, agent.run_chunk)
    control = next(api for api in neck.ipc._apis if isinstance(api, bootstrap.ControlApi))
    control._register("give_back", agent.give_back)
    control._register("forget", agent.forget)
    neck._register(SHARE_NOT, agent.share_not)
    if threads is not None:
        limit_threads(threads)
    return agent.share() if agent._mark is not None and sharing.is_possible() else None


def initialize(initializer: Callable[..., object]) -> None:
    """Call the pool's initializer with what was handed down when this process started."""
    initializer(*inside.heirloom)


def _open_mark(path: str) -> Any:
    """Map the mark, or return None where that cannot be done: the head then has to guess."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:  # a system without /proc, or one that hides it
        return None
    try:
        return memoryview(mmap.mmap(fd, MARK_BYTES)).cast("Q")
    finally:
        os.close(fd)


def limit_threads(threads: int) -> None:
    """Let numeric libraries use so many threads at most, unless the user has decided otherwise."""
    told = any(name in os.environ for name in OPENBLAS_VARIABLES)
    for name in THREAD_VARIABLES:
        os.environ.setdefault(name, str(threads))
    if "numpy" not in sys.modules and "threadpoolctl" not in sys.modules:
        return
    # They are loaded, and do not look at the variables again, so they are told.
    if not told and not _limit_openblas(threads):
        with contextlib.suppress(ImportError):
            from threadpoolctl import threadpool_limits  # type: ignore[import-not-found,import-untyped,unused-ignore]

            threadpool_limits(limits=threads)


def _limit_openblas(threads: int) -> bool:
    """Tell the OpenBLAS that is loaded, under whatever name, how many threads to use; False where there is none."""
    import ctypes

    try:
        with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
            paths = {line.rstrip("\n").split(maxsplit=5)[-1] for line in maps if "openblas" in line}
    except OSError:  # another system than Linux
        return False
    found = False
    for path in paths:
        with contextlib.suppress(OSError):  # the file has been removed since it was loaded
            library = ctypes.CDLL(path)
            for name in OPENBLAS_FUNCTIONS:
                function = getattr(library, name, None)
                if function is not None:
                    function(threads)
                    found = True
    return found


__all__ = [
    "FORGET",
    "GIVE_BACK",
    "MANY",
    "MARK_BYTES",
    "ONE",
    "RUN_CHUNK",
    "SHARE_NOT",
    "STAR",
    "Agent",
    "SeededCall",
    "set_up",
]
