"""Results in pieces: what a handler returns to send them, and what puts them together again.

Pure logic: it starts no thread and takes no lock. Whoever reads the wire owns a `PartialResponse`, or its owner locks.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from epyrpc.errors import ApiParamError, NoDataError, TransactionError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    Combiner = Callable[[list[Any]], Any]


class Chunks:
    """What a handler returns to have its result sent in pieces and combined at the caller.

    Parameters
    ----------
    parts : iterable
        The pieces in order. It is run through when the first is sent, since each tells how many there are.
    combiner : callable, optional
        Called at the caller with the list of all parts; what it returns is the result. It travels by value. Without
        one the result is the list.

    Examples
    --------
    >>> chunks = Chunks([b"ab", b"cd"], combiner=b"".join)
    >>> response = PartialResponse()
    >>> [response.add(index, count, data, chunks.combiner) for index, count, data in chunks]
    [False, True]
    >>> response.result()
    b'abcd'
    """

    __slots__ = ("combiner", "parts")

    def __init__(self, parts: Iterable[Any], combiner: Combiner | None = None) -> None:
        if combiner is not None and not callable(combiner):
            raise ApiParamError("combiner", combiner, "None or a function of the list of parts")
        self.parts = parts
        self.combiner = combiner

    def __iter__(self) -> Iterator[tuple[int, int, Any]]:
        """Yield index, count and data of each part; for no parts at all, once ``(0, 0, None)``, which says so."""
        parts = self.parts if isinstance(self.parts, (list, tuple)) else list(self.parts)
        count = len(parts)
        if not count:
            yield 0, 0, None
        for index, data in enumerate(parts):
            yield index, count, data

    def __repr__(self) -> str:
        return f"Chunks({type(self.parts).__name__}, combiner={self.combiner!r})"


class PartialResponse:
    """Collects the chunks of one result, in whatever order they arrive.

    Attributes
    ----------
    count : int or None
        How many chunks there are; None until the first has arrived.
    duplicates : int
        How many chunks arrived again and were dropped.
    """

    # Invariant: every key of _chunks is in range(count); once count is known it and _combiner stay as they are.

    def __init__(self) -> None:
        self.count: int | None = None
        self.duplicates = 0
        self._chunks: dict[int, Any] = {}  # {index: data}
        self._combiner: Combiner | None = None

    def __len__(self) -> int:
        """Return the number of different chunks that have arrived."""
        return len(self._chunks)

    @property
    def complete(self) -> bool:
        """Whether all chunks have arrived."""
        return len(self._chunks) == self.count

    @property
    def missing(self) -> tuple[int, ...]:
        """The first hundred indices of chunks that have not arrived; none while their count is not known."""
        # Bounded, since the count is whatever the other end said.
        return tuple(itertools.islice((i for i in range(self.count or 0) if i not in self._chunks), 100))

    def add(self, index: int, count: int, data: Any, combiner: Combiner | None = None) -> bool:
        """Take in a chunk; one that is there already is dropped and counted.

        Parameters
        ----------
        index : int
            Which chunk it is, from 0.
        count : int
            How many chunks there are: the same for all of them. Where it is 0, this is no chunk but the news that there
            are none, and `data` is left aside.
        data : object
            The chunk.
        combiner : callable, optional
            What combines them: the same for all of them.

        Returns
        -------
        bool
            True when all have arrived.

        Raises
        ------
        TransactionError
            The index is not below the count, or count or combiner differ from those of the chunks before. What has
            arrived so far is kept.
        """
        if count < 0 or not 0 <= index < max(count, 1):
            raise TransactionError(f"chunk {index} of {count} is out of range: indices go from 0 to count - 1")
        if self.count is None:
            self.count, self._combiner = count, combiner
        elif count != self.count:
            raise TransactionError(
                f"chunk {index} says that there are {count} chunks, the first that arrived said {self.count}: all "
                "chunks of a result must agree"
            )
        elif not same_combiner(combiner, self._combiner):
            raise TransactionError(
                f"chunk {index} is to be combined by {_name(combiner)}, the first that arrived by "
                f"{_name(self._combiner)}: all chunks of a result must agree"
            )
        if index in self._chunks:
            self.duplicates += 1
        elif count:
            self._chunks[index] = data
        return self.complete

    def result(self) -> Any:
        """Return the chunks in order, combined; one chunk is combined, too.

        The combiner is the user's code: call this on the thread that owns the result, not under a lock.

        Raises
        ------
        NoDataError
            Chunks are missing.
        Exception
            What the combiner raises.
        """
        if self.count is None or not self.complete:
            count = "an unknown number of" if self.count is None else self.count
            raise NoDataError(
                f"{len(self._chunks)} of {count} chunks have arrived; wait until the result is complete, or let its "
                "transaction time out"
            )
        parts = [self._chunks[index] for index in range(self.count)]
        return parts if self._combiner is None else self._combiner(parts)


def same_combiner(one: Combiner | None, other: Combiner | None) -> bool:
    """Return whether two combiners are the same function, or copies of it that travelled separately."""
    if one is other:
        return True
    if one is None or other is None:
        return False
    code = getattr(one, "__code__", None)
    if code is None:
        return bool(one == other)
    # Two copies of a closure are different objects with equal code. What they captured was pickled at one moment by one
    # handler; comparing it would run the user's __eq__, which may return an array.
    return bool(code == getattr(other, "__code__", None))


def _name(combiner: Combiner | None) -> str:
    return "none (a list)" if combiner is None else getattr(combiner, "__qualname__", None) or repr(combiner)
