"""A map over many items: who gives them out in chunks, and who takes the results in.

Threads::

    caller ──map()──▶ MapWork ◀──take / deliver── members of the pool, holding the engine's lock / the map's condition
    caller ──next()─▶ MapResults ◀─ pieces ─┘
    feeder (daemon, epyrpc-pool-feed; only with max_in_flight) pulls items out of the caller's iterable
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from concurrent.futures import CancelledError
from time import monotonic
from typing import TYPE_CHECKING, Any

from epyrpc import codec
from epyrpc.bodies import pool_progress, sharing
from epyrpc.bodies.map_run import MapRun
from epyrpc.bodies.pool_inside import MANY, STAR
from epyrpc.bodies.pool_jobs import (
    AHEAD_SECONDS,
    FIRST_CHUNK_ITEMS,
    FIRST_TIME_SLICE,
    SHARE_SECONDS,
    TIME_SLICE,
    Batch,
    Cost,
    Function,
    Work,
    chunk_size,
    first_chunk_size,
    is_small,
)
from epyrpc.bodies.pool_progress import Bar
from epyrpc.errors import BodyError, TimeoutBase
from epyrpc.interrupts import SIGNAL_SECONDS
from epyrpc.results import CallState

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Iterator, Sequence

    from epyrpc.bodies.pool_engine import Engine

REDRAW_SECONDS = 0.2
LIGHT_BYTES = 64 * 1024


class MapWork(Work):
    """The items of one map.

    Parameters
    ----------
    items : iterable
        Arguments; tuples of them with `star`.
    options : dict
        ``chunksize``, ``retry``, ``task_timeout``, ``return_exceptions``, ``max_in_flight``, ``timeout``.
    """

    # Guarded by the engine's lock: _arriving, _again, _waiting, _taken, _longest, _dry.
    # Guarded by condition: _pieces, _ready, _delivered, ended, error. Taken after the engine's lock, never before.
    # Invariant: every item is in exactly one of _items from _taken on, _again, a batch of a member, or _pieces.

    def __init__(
        self,
        engine: Engine,
        function: Function,
        items: Iterable[Any],
        sink: Any,
        *,
        star: bool,
        ordered: bool,
        options: dict[str, Any],
    ) -> None:
        self._engine = engine
        self.function = function
        self.cost = Cost()  # of this map's items: others may take longer, or less
        self.label = function.name
        self.sink = sink
        self.how = STAR if star else MANY
        self.retry = options["retry"]
        self.timeout = options["task_timeout"]
        self.chunksize: int | None = options["chunksize"]
        self.total: int | None = None
        self._return_exceptions = options["return_exceptions"]
        self._ordered = ordered
        self._window: int | None = options["max_in_flight"]
        self.started = monotonic()
        self.ended_at = 0.0
        self.failed = 0  # items, of those that are done
        self.done_by: dict[str, int] = {}  # {name of a body: items}; each by its member's thread
        self.chunk = 0  # items in the last chunk that was given out
        self.reruns: dict[str, int] = {}  # {name of a body that died: items that ran again}
        self.timed_out = self.stopped_by_hand = False
        self._deadline = None if options["timeout"] is None else monotonic() + options["timeout"]
        self._limit = options["timeout"]
        self._again: deque[Batch] = deque()  # what has come back
        self._waiting = 0  # items in _again
        self._taken = 0  # items given out, or waiting in _again
        self._longest = 0
        self._bytes_per_item = 0.0
        self._first_size = 1
        self._dry = False  # the source has no more
        self.is_light = False  # its first chunks take so little that they may be sent on the caller's thread
        self.condition = threading.Condition()
        self._pieces: deque[Piece] = deque()  # unordered
        self._ready: dict[int, Piece] = {}  # {index of the first item: its piece}
        self._cursor = 0  # the next index to be handed out
        self._delivered = 0
        self.error: BaseException | None = None  # of the iterable, or of the pool: comes after everything before it
        self.ended = False  # nobody wants more results
        self._feeder: Feeder | None = None
        self._items: Sequence[Any] = ()  # all of them, where there is no feeder
        self._arriving: Iterator[Any] = iter(())
        if self._window is None:
            kept = items if type(items) is range else list(items)
            self._items = kept
            self.total = len(kept)
            if kept:
                self._first_size = first_chunk_size(kept[0], self.total, engine.size)
                self.is_light = is_small(kept[0]) and function.size_bytes <= LIGHT_BYTES
            self._dry = not kept
        else:
            self._feeder = Feeder(self, engine, items, self._window)
            self._arriving = self._feeder.take()

    # --- giving out; holding the engine's lock

    def take(self, ahead: int, members: int, at_most: int | None) -> Batch | None:
        """Return the next chunk for a body that has `ahead` of them already; None when there is none for it now."""
        if self.cancelled:
            return None
        if ahead and not self._may_send_ahead(ahead, members):
            return None
        size = self._next_size(members)
        if at_most is not None:
            size = min(size, at_most)
        if self._again:
            batch = self._again.popleft()
            if len(batch.items) > size:
                self._again.extendleft(batch.rest(size, len(batch.items)))
                batch.items = batch.items[:size]
            self._waiting -= len(batch.items)
            self.chunk = len(batch.items)
            return batch
        if self._feeder is not None:
            size = min(size, max(1, (self._window or 1) // (2 * members)))
        items = self._next_items(size)
        if not items:
            return None
        batch = Batch(self, self._taken, items)
        self.chunk = len(items)
        self._taken += len(items)
        if self._feeder is None and self._taken == self.total:
            self._dry = True
            self._items = ()  # they are kept no longer than they are needed
        return batch

    def _next_items(self, size: int) -> Sequence[Any]:
        if self._feeder is not None:
            return list(itertools.islice(self._arriving, size))
        return self._items[self._taken : self._taken + size]

    def _may_send_ahead(self, ahead: int, members: int) -> bool:
        cost = self.cost.seconds
        if ahead >= 2:
            return False
        if cost is None:
            # A smaller chunk than that was a whole share: the other bodies want theirs.
            return self._first_size == FIRST_CHUNK_ITEMS and self.chunksize is None and self.timeout is None
        cost *= self.chunksize or 1
        left = self._left()
        # The last ones go to whoever has nothing to do, unless they are so short that the way there counts for more.
        return cost < SHARE_SECONDS or (
            cost < AHEAD_SECONDS and (left is None or left > members * (self.chunksize or 1))
        )

    def _left(self) -> int | None:
        """Return how many items nobody has, where that is known."""
        return None if self.total is None else self.total - self._taken + self._waiting

    def _next_size(self, members: int) -> int:
        if self.timeout is not None:
            return 1
        if self.chunksize is not None:
            return self.chunksize
        if self.cost.seconds is None or not self._longest:
            return self._first_size
        return chunk_size(self.cost, self._longest, self._bytes_per_item, self._left(), members)

    def time_slice(self) -> float | None:
        """See `Work.time_slice`; a chunk of a size that was asked for stays whole."""
        if self.chunksize is not None:
            return None
        return FIRST_TIME_SLICE if self.cost.seconds is None else TIME_SLICE

    def has_more(self) -> bool:
        """Whether `take` may give something now."""
        if self.cancelled:
            return False
        return bool(self._again) or (not self._dry if self._feeder is None else bool(self._feeder.buffer))

    def is_given_out(self) -> bool:
        """Whether `take` will never give anything, unless something comes back."""
        return self.cancelled or (not self._again and (self._dry if self._feeder is None else self._feeder.is_dry()))

    def put_back(self, batches: list[Batch]) -> None:
        """See `Work.put_back`."""
        if not self.cancelled:
            self._again.extendleft(reversed(batches))
            self._waiting += sum(len(batch.items) for batch in batches)

    def begin(self) -> bool:
        """Whether its items are still wanted."""
        return not self.cancelled

    def encode(self, batch: Batch) -> tuple[Any, list[Any]]:
        """See `Work.encode`."""
        items = batch.items
        plain = codec.dump_plain(items) if type(items) is range else codec.dump_if_plain(items)
        if plain is not None:
            self._bytes_per_item = len(plain) / len(batch.items)
            return plain, []
        with sharing.collected() as batch.kept:
            payload, buffers = codec.encode(batch.items, what="item")
        size = len(payload) + sharing.total_bytes(buffers)
        self._bytes_per_item = size / len(batch.items)
        return payload, buffers

    # --- taking in

    def deliver(self, batch: Batch, values: Sequence[Any], errors: dict[int, BaseException]) -> None:
        """See `Work.deliver`."""
        if not values:
            return
        low = batch.told
        start = batch.start + low
        self._longest = max(self._longest, len(values))
        shifted = {}
        for index, error in errors.items():
            _name_item(error, batch.start + index, batch.items[index])
            shifted[index - low] = error
        outcomes: Any = values if batch.light and not errors else deque(values)
        if shifted and self._return_exceptions:
            for index, error in shifted.items():
                outcomes[index] = error
            shifted = {}
        piece = Piece(outcomes, shifted)
        self.done_by[batch.body] = self.done_by.get(batch.body, 0) + len(outcomes)
        with self.condition:
            self._delivered += len(outcomes)
            self.failed += len(errors)
            if self._delivered == self.total:
                self.ended_at = monotonic()
            if self.ended:
                return
            if self._ordered:
                self._ready[start] = piece
                if start == self._cursor:
                    self.condition.notify_all()
            else:
                self._pieces.append(piece)
                self.condition.notify_all()

    def note_rerun(self, body: str, items: int) -> None:
        """See `Work.note_rerun`."""
        self.reruns[body] = self.reruns.get(body, 0) + items

    def fail(self, error: BaseException) -> None:
        """End the map with an error, once what has been delivered was taken."""
        self.cancelled = True
        with self.condition:
            self.error = self.error or error
            self.ended_at = self.ended_at or monotonic()
            self.condition.notify_all()
        if self._feeder is not None:
            self._feeder.stop()

    def end_of_source(self, error: BaseException | None) -> None:
        """Hear from the feeder that there are no more items; holding the engine's lock."""
        with self.condition:
            if error is not None and self.error is None:
                self.error = error
            self.total = self._taken + (len(self._feeder.buffer) if self._feeder is not None else 0)
            self.condition.notify_all()

    def close(self, *, stop: bool = False) -> None:
        """Want no more results; with `stop` stop also what runs."""
        with self.condition:
            if self.ended:
                return
            self.ended = True
            self.ended_at = self.ended_at or monotonic()
            over = self.total is not None and self._delivered >= self.total
            self._ready.clear()
            self._pieces.clear()
        if self._feeder is not None:
            self._feeder.stop()
        if not over:
            self.cancelled = True
            self._engine.drop(self, stop=stop)

    def cancel(self) -> bool:
        """Stop what runs, and begin nothing more; False when it is over already."""
        with self.condition:
            if self._is_over():
                return False
            self.stopped_by_hand = True
        self.fail(CancelledError(f"the map of {self.label} was cancelled"))
        self._engine.drop(self, stop=True)
        return True

    @property
    def done(self) -> int:
        """How many items have an outcome."""
        return self._delivered

    @property
    def handed_out(self) -> int:
        """How many results are ready to be taken, or taken, in order; of a map without order, 0."""
        return self._cursor

    @property
    def ordered(self) -> bool:
        """Whether results come in the order of the items."""
        return self._ordered

    @property
    def state(self) -> CallState:
        """What has become of it."""
        complete = self.total is not None and self._delivered >= self.total
        if self.stopped_by_hand:
            return CallState.CANCELLED
        if self.timed_out:
            return CallState.TIMED_OUT
        if not self._is_over():
            return CallState.RUNNING if self._delivered or self.chunk else CallState.PENDING
        if self.error is not None or (self.failed and not self._return_exceptions):
            return CallState.FAILED
        return CallState.DONE if complete else CallState.CANCELLED

    # --- handing out, on the caller's thread

    def next_piece(self, bar: Bar | None) -> Piece | None:
        """Wait for the next results; None at the end.

        Raises
        ------
        TimeoutError
            The map's own limit has passed.
        """
        with self.condition:
            while True:
                piece = self._find_piece()
                if piece is not None:
                    break
                if self._is_over():
                    if self.error is not None:
                        raise self.error
                    return None
                self._wait(bar)
        if self._feeder is not None:
            self._feeder.note_handed_out(len(piece.outcomes))
        return piece

    def _find_piece(self) -> Piece | None:
        if not self._ordered:
            return self._pieces.popleft() if self._pieces else None
        piece = self._ready.pop(self._cursor, None)
        if piece is not None:
            self._cursor += len(piece.outcomes)
        return piece

    def _is_over(self) -> bool:
        return self.cancelled or self.ended or (self.total is not None and self._delivered >= self.total)

    def _wait(self, bar: Bar | None) -> None:
        left = None if self._deadline is None else self._deadline - monotonic()
        if left is not None and left <= 0:
            self.timed_out = True
            raise TimeoutBase(
                f"the results of {self.label} were not all there within {self._limit} s; what runs of it is stopped. "
                "Give map() a larger timeout=, or task_timeout= for each item"
            )
        if bar is not None:
            bar.show(self._delivered)
            left = REDRAW_SECONDS if left is None else min(left, REDRAW_SECONDS)
        # With a limit, so that an interrupt is heard that came just before, or that another thread was given.
        self.condition.wait(SIGNAL_SECONDS if left is None else min(left, SIGNAL_SECONDS))


class Piece:
    """Outcomes of items that follow each other."""

    __slots__ = ("errors", "outcomes")

    def __init__(self, outcomes: deque[Any] | list[Any], errors: dict[int, BaseException]) -> None:
        self.outcomes = outcomes  # a list, without errors, where it may keep them all
        self.errors = errors  # {index in outcomes: what to raise there}

    def until_error(self) -> tuple[Iterator[Any], BaseException | None]:
        """Return an iterator that keeps no result it has given, and what to raise after it."""
        outcomes = self.outcomes
        if not isinstance(outcomes, deque):
            return iter(outcomes), None
        first = min(self.errors, default=None)
        count = len(outcomes) if first is None else first
        # Several times as fast as a generator with the same loop.
        values = map(deque.popleft, itertools.repeat(outcomes, count))
        return values, None if first is None else self.errors[first]


class MapResults(itertools.chain):  # type: ignore[type-arg]
    """The results of a map: an iterator, over at the first exception as those of executors are."""

    work: MapWork
    run: MapRun

    def cancel(self) -> bool:
        """Stop the map, what runs included: the next result raises CancelledError; False when it is over already."""
        return self.work.cancel()

    def close(self) -> None:
        """Want no more of them: what has not begun never will."""
        self.work.close()

    def __repr__(self) -> str:
        work = self.work
        return f"<results of {work.label}: {work.done} of {'?' if work.total is None else work.total} there>"


def make_results(work: MapWork, *, progress: bool) -> MapResults:
    """Return the iterator over a map's results; with `progress`, show how far it has come."""
    import weakref

    run = MapRun(work, work._engine)
    bar = Bar(work.label, work.total) if progress and not pool_progress.show_live(run) else None
    results: MapResults = MapResults.from_iterable(_parts(work, bar))  # type: ignore[assignment]
    results.work, results.run = work, run
    if work._feeder is not None:
        # Nobody can take what is still to come, and the feeder would wait for that.
        weakref.finalize(results, work._feeder.stop).atexit = False
    return results


def _parts(work: MapWork, bar: Bar | None) -> Generator[Iterator[Any], None, None]:
    stop = True
    try:
        while (piece := work.next_piece(bar)) is not None:
            values, error = piece.until_error()
            del piece
            if bar is not None:
                bar.show(work.done)
            yield values
            if error is not None:
                stop = False
                try:
                    raise error
                finally:
                    error = None  # no cycle through the traceback
        stop = False
    except GeneratorExit:  # dropped: what runs may end, as with executors
        stop = False
        raise
    finally:
        work.close(stop=stop)
        if bar is not None:
            bar.close(work.done)


class Feeder:
    """Pulls items out of a caller's iterable, never more than a window ahead of the results that were taken."""

    # Guarded by _condition: buffer for appending, _room, _over. Everything else reads single values.

    def __init__(self, work: MapWork, engine: Engine, items: Iterable[Any], window: int) -> None:
        self._work = work
        self._engine = engine
        self._items = items
        self._condition = threading.Condition()
        self._room = window
        self._over = False
        self._stopped = False
        self.buffer: deque[Any] = deque()

    def start(self) -> None:
        """Begin to pull."""
        threading.Thread(target=self._run, name="epyrpc-pool-feed", daemon=True).start()

    def take(self) -> Iterator[Any]:
        """Return an iterator over what is there; it goes on when more has come."""

        class Source:
            def __iter__(self) -> Source:
                return self

            def __next__(self) -> Any:
                try:
                    return buffer.popleft()
                except IndexError:
                    raise StopIteration from None

        buffer = self.buffer
        return Source()

    def is_dry(self) -> bool:
        """Whether nothing more will come."""
        return self._over and not self.buffer

    def note_handed_out(self, count: int) -> None:
        """Make room: the caller has taken so many results."""
        with self._condition:
            self._room += count
            self._condition.notify_all()

    def stop(self) -> None:
        """Pull no more."""
        with self._condition:
            self._stopped = True
            self._condition.notify_all()

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            iterator = iter(self._items)
            while self._wait_for_room():
                item = next(iterator)
                with self._engine.lock:
                    self.buffer.append(item)
                    self._engine.wake_one()
                del item
        except StopIteration:
            pass
        except BaseException as exc:  # the iterable is the user's: what it raises is the map's outcome
            error = exc
        if error is None and self._stopped and not self._work.ended:
            error = CancelledError("the pool was shut down before all items of the map were begun")
        self._items = ()
        with self._engine.lock:
            self._over = True
            self._work.end_of_source(error)
            self._engine.wake_all()

    def _wait_for_room(self) -> bool:
        with self._condition:
            while not self._stopped and self._room <= 0:
                self._condition.wait()
            self._room -= 1
            return not self._stopped


def _name_item(error: BaseException, index: int, item: Any) -> None:
    """Say on an exception which item caused it."""
    if isinstance(error, BodyError):
        return  # its message does
    try:
        text = repr(item)
        text = text if len(text) <= 80 else f"{text[:77]}..."
    except Exception:  # a label is wanted, and any will do
        text = f"a {type(item).__name__}"
    try:
        error.item, error.item_index = item, index  # type: ignore[attr-defined]
        if hasattr(error, "add_note"):  # from Python 3.11 on
            error.add_note(f"raised for item {index} of the map: {text}")
    except Exception:  # an exception of a frozen class has no room for it
        return


__all__ = ["MapResults", "MapWork", "make_results"]
