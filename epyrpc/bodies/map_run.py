"""`MapRun`: a map as it goes, looked at without asking anybody."""

from __future__ import annotations

import time
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple

from epyrpc.bodies.vitals import usage

if TYPE_CHECKING:
    from epyrpc.bodies.pool_engine import Engine
    from epyrpc.bodies.pool_map import MapWork
    from epyrpc.bodies.pool_member import Member
    from epyrpc.results import CallState


class MapShare(NamedTuple):
    """What one body has of a map.

    Attributes
    ----------
    body : str
        Its name.
    pid : int or None
        Of its process.
    items : tuple of int or None
        The first and the last item of the chunk that it has in hand.
    at : int
        How many items of that chunk have begun before the one that runs.
    done : int
        Items of the map that it has done.
    cpu_seconds : float or None
        Used by its process so far; None where that cannot be known.
    """

    body: str
    pid: int | None
    items: tuple[int, int] | None
    at: int
    done: int
    cpu_seconds: float | None


class MapVitals(NamedTuple):
    """How a map was doing when it was looked at.

    Attributes
    ----------
    state : CallState
        ``pending`` before the first chunk was taken, ``running``, and then ``done``, ``failed``, ``timed out`` or
        ``cancelled``, also when nobody wanted the rest.
    total : int or None
        Items; None while the iterable has not come to its end.
    done, failed, running : int
        Items with an outcome, those of them that raised, and those that bodies have in hand.
    ordered : bool
        Whether results are handed over in the order of the items.
    handed_out : int
        The results that are there in order.
    started, elapsed : float
        When it began, in seconds since 1970; seconds until it ended, or until now.
    chunk : int
        Items in the last chunk.
    chosen : bool
        The pool has chosen how large chunks are.
    item_seconds : float or None
        What an item takes, as far as is known.
    reruns : dict of str to int
        Items that ran again, by the name of the body that died.
    processes : int
        How many bodies the pool has, or may have.
    shares : tuple of MapShare
        What each body has of it.
    """

    state: CallState
    total: int | None
    done: int
    failed: int
    running: int
    ordered: bool
    handed_out: int
    started: float
    elapsed: float
    chunk: int
    chosen: bool
    item_seconds: float | None
    reruns: dict[str, int]
    processes: int
    shares: tuple[MapShare, ...]


class MapRun:
    """A map that was begun: ``pool.map(...).run``. It keeps no result, and does not keep the map from ending.

    Attributes
    ----------
    path : str
        The name of the function.
    pool : str
        The name of the pool.
    """

    def __init__(self, work: MapWork, engine: Engine) -> None:
        self._work = work
        self._engine = engine
        self.path = work.label
        self.pool = engine.name

    def look(self) -> MapVitals:
        """Look at it, and at what each body has of it; any thread."""
        work, engine = self._work, self._engine
        with engine.lock:
            shares = tuple(self._share(member) for member in engine.members if not member.retired)
            processes = engine.size
        shares = tuple(share._replace(cpu_seconds=usage(share.pid)[0] if share.pid else None) for share in shares)
        ended_at = work.ended_at
        elapsed = (ended_at or monotonic()) - work.started
        return MapVitals(
            state=work.state,
            total=work.total,
            done=work.done,
            failed=work.failed,
            running=sum(share.items[1] - share.items[0] + 1 for share in shares if share.items is not None),
            ordered=work.ordered,
            handed_out=work.handed_out,
            started=time.time() - (monotonic() - work.started),
            elapsed=elapsed,
            chunk=work.chunk,
            chosen=work.chunksize is None and work.timeout is None,
            item_seconds=work.cost.seconds,
            reruns=dict(work.reruns),
            processes=processes,
            shares=shares,
        )

    def _share(self, member: Member) -> MapShare:
        """Return what a body has in hand; holding the engine's lock."""
        items, at = None, 0
        batch = next(iter(member.inflight), None)
        if batch is not None and batch.work is self._work and batch.items:
            items = (batch.start, batch.start + len(batch.items) - 1)
            at = min(len(batch.items), max(batch.told, member.running_at(batch)))
        body = member.body
        return MapShare(body.name, body.pid, items, at, self._work.done_by.get(body.name, 0), None)

    def cancel(self) -> bool:
        """See `MapResults.cancel`."""
        return self._work.cancel()

    def done(self) -> bool:
        """Whether it is over."""
        return self._work.state.ended

    def __repr__(self) -> str:
        work = self._work
        total = "?" if work.total is None else f"{work.total:,}"
        return f"<map of {self.path} on {self.pool}: {work.state}, {work.done:,} of {total}>"


__all__ = ["MapRun", "MapShare", "MapVitals"]
