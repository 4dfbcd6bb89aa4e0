"""`snapshot`: what one call is doing, in words and figures; looked at when asked, told nothing.

Threads: any.
"""

from __future__ import annotations

import itertools
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from epyrpc.clock import format_seconds
from epyrpc.news import Progress
from epyrpc.results import AsyncResult, CallState
from epyrpc.streams import PartsResult, Stream

if TYPE_CHECKING:
    from collections.abc import Iterable

    from epyrpc.bodies.pool_jobs import PoolResult

DETAIL_LIMIT = 120
ITEMS_SHOWN = 30
SETTLING_SECONDS = 0.05  # a younger call is on its way rather than waiting
STOPPED = {
    "never started": "never started",
    "cooperative": "handler stopped itself",
    "raised": "handler interrupted",
    "killed": "body ended",
    "still running": "handler still runs",
}
_PENDING = CallState.PENDING  # reading a member off its class takes ten times as long
_CONTROL = "_epyrpc."


class Snapshot(NamedTuple):
    """What a call was doing when it was looked at.

    Attributes
    ----------
    state : CallState
        What had become of it.
    id, path, target : str
        Its id, what was called, and the name of the end that was called.
    started : float
        When it was made, in seconds since 1970.
    elapsed : float
        Seconds from then to its end, or until now.
    detail : str
        What the state leaves to be said, in one bounded line: the error, the value, how it was stopped, the last line
        printed.
    progress : Progress or None
        How far it said it had come.
    parts : int
        Parts of a stream that have come.
    unread : int
        Of these, those that wait to be read.
    output : int
        Grows with everything that it prints or displays.
    stopped : str or None
        As `AsyncResult.stopped`.
    retry_of : str or None
        As `AsyncResult.retry_of`.
    sent, received : int
        Bytes of its arguments, and of what has come back, on the wire.
    worker : int
        Which handler worker of the other end runs it, or ran it, counted from 1; 0 where that was not told, as of calls
        that run for less than 10 ms.
    ahead : int or None
        Of a call that waits for a handler: how many calls from here to the same end have been waiting for longer. None
        for others, and for a call that is just on its way.
    """

    state: CallState
    id: str
    path: str
    target: str
    started: float
    elapsed: float
    detail: str
    progress: Progress | None
    parts: int
    unread: int
    output: int
    stopped: str | None
    retry_of: str | None
    sent: int
    received: int
    worker: int
    ahead: int | None


def snapshot(call: AsyncResult | Stream | PoolResult) -> Snapshot:
    """Look at a call, or at a task of a pool; one that has ended well is decoded, if that has not been done.

    Examples
    --------
    >>> from epyrpc import HeadTransactionIdGenerator, TransactionManager
    >>> snapshot(TransactionManager(HeadTransactionIdGenerator()).new("maths.scale")).state
    <CallState.PENDING: 'pending'>
    """
    result = call.call if isinstance(call, Stream) else call
    what = detail(result)  # first: it may find that the reply cannot be decoded, which is a failure
    sent, received, worker = result._wire_facts
    output = result._output
    return Snapshot(
        state=result.state,
        id=str(result.id),
        path=result.path,
        target=result.target,
        started=_epoch(result._started),
        elapsed=result.elapsed,
        detail=what,
        progress=result.progress,
        parts=result.parts if isinstance(result, PartsResult) else 0,
        unread=len(result._parts) if isinstance(result, PartsResult) else 0,
        output=0 if output is None else output._count,
        stopped=result.stopped,
        retry_of=result.retry_of,
        sent=sent,
        received=received,
        worker=worker,
        ahead=_ahead(result),
    )


def _ahead(result: AsyncResult | PoolResult) -> int | None:
    """Return how many calls wait in front of one that waits."""
    if not isinstance(result, AsyncResult) or result._call_state is not _PENDING or result.elapsed < SETTLING_SECONDS:
        return None
    ahead: int = sum(
        other._call_state is _PENDING and other._started < result._started and not other.path.startswith(_CONTROL)
        for other in result._owner.pending()
    )
    return ahead


def _epoch(moment: float) -> float:
    """Return the time since 1970 of a moment on the monotonic clock."""
    return time.time() - (time.monotonic() - moment)


def detail(result: AsyncResult | PoolResult) -> str:
    """Return what a call's state leaves to be said, bounded in length."""
    error = None if not result.done() or result.cancelled() else result.exception()
    state = result.state  # asked second: a reply that cannot be decoded has only now become a failure
    if state is CallState.DONE:
        return bounded(describe_value(result.result()))
    if state in (CallState.FAILED, CallState.LOST):
        return bounded(f"{type(error).__name__}: {error}" if state is CallState.FAILED else str(error))
    if state.ended:
        first = "by you" if state is CallState.CANCELLED else f"limit {format_seconds(result.deadline or 0.0)}"
        how = STOPPED.get(result.stopped or "")
        return f"{first} · {how}" if how else first
    progress = result.progress
    if progress is not None and progress.total is not None:
        return f"{progress.done:,g}/{progress.total:,g}"
    lines = result.stdout[-2000:].rstrip().splitlines()
    return bounded(f"› {lines[-1]}") if lines else ""  # noqa: RUF001 - as terminals mark output


def describe_value(value: Any) -> str:
    """Return a value in a few words: its shape if it has one, else its repr, of which the end may be left out."""
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple) and shape and all(isinstance(n, int) for n in shape):
        return f"{type(value).__name__} {' × '.join(f'{n:,}' for n in shape)}"
    if value is None:
        return ""
    try:
        return repr(_beginning(value))
    except Exception as exc:  # a repr of the user's; the call itself went well
        return f"{type(value).__name__} whose repr raises {type(exc).__name__}"


def _beginning(value: Any) -> Any:
    """Return what is left of a large builtin when its end is left out, since nobody reads a repr of megabytes."""
    kind = type(value)
    if kind in (str, bytes, list, tuple) and len(value) > ITEMS_SHOWN * 100:
        return value[: ITEMS_SHOWN * 100]
    if kind in (set, frozenset, dict) and len(value) > ITEMS_SHOWN * 100:
        items: Iterable[Any] = value.items() if kind is dict else value
        return kind(itertools.islice(items, ITEMS_SHOWN * 100))
    return value


def bounded(text: str) -> str:
    """Return a text as one line, cut where it is longer than a row of a table holds."""
    line = " ".join(text[: 20 * DETAIL_LIMIT].split())
    return line if len(line) <= DETAIL_LIMIT else f"{line[: DETAIL_LIMIT - 1]}…"


__all__ = ["Snapshot", "bounded", "describe_value", "detail", "snapshot"]
