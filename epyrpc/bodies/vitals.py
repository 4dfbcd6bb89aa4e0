"""`vitals`: how a body is doing, looked at from here, so that one that is busy, stuck or dead can be asked about."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, NamedTuple

from epyrpc.bodies import bootstrap
from epyrpc.bodies.body import BodyState
from epyrpc.bodies.pool_inside import ONE
from epyrpc.results import CallState

if TYPE_CHECKING:
    from epyrpc.bodies.body import Body
    from epyrpc.bodies.pool import Pool
    from epyrpc.bodies.pool_member import Member

_SETTLING_SECONDS = 0.05  # a younger call is on its way rather than waiting
_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
_TICK = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


class Vitals(NamedTuple):
    """How a body was doing when it was looked at.

    Attributes
    ----------
    state : str
        ``starting``, ``running``, ``stopping``, ``stopped`` or ``died``.
    pid : int or None
        Of its process, while there is one.
    started : float
        When its process was started, in seconds since 1970.
    transport, start_method : str
        How it is reached, and how it was started.
    workers, busy : int
        Handlers that it can run at once, and those that are known to run.
    waiting : int
        Calls that no handler has taken up yet, as far as is known here.
    cpu_seconds : float or None
        Used by its process so far; None where that cannot be known.
    rss_bytes : int or None
        Memory of its process; None where that cannot be known.
    paths : tuple of str
        What has been registered with `set_handler`.
    exitcode : int or None
        How its last process ended.
    why : str
        Why it died.
    calls : int
        How many calls were made to its process so far.
    last_pid : int or None
        Of its last process, when that has died.
    lived : float or None
        Seconds that its last process lived, when that is known.
    """

    state: str
    pid: int | None
    started: float
    transport: str
    start_method: str
    workers: int
    busy: int
    waiting: int
    cpu_seconds: float | None
    rss_bytes: int | None
    paths: tuple[str, ...]
    exitcode: int | None
    why: str
    calls: int
    last_pid: int | None
    lived: float | None


class MemberVitals(NamedTuple):
    """How a process of a pool was doing.

    Attributes
    ----------
    name : str
        The body's.
    vitals : Vitals
        How that was doing.
    busy : bool
        Whether it had work in hand.
    done : int
        Tasks and items that its process has done.
    now : str
        What it had in hand: the name of the function.
    items : tuple of int or None
        Of a map, the first and the last item that it had in hand.
    since : float or None
        Since when, in seconds since 1970.
    replaces : str
        Which process that died this one replaces, in words; empty for the first one.
    """

    name: str
    vitals: Vitals
    busy: bool
    done: int
    now: str
    items: tuple[int, int] | None
    since: float | None
    replaces: str


class PoolVitals(NamedTuple):
    """How a pool was doing when it was looked at.

    Attributes
    ----------
    state : str
        ``running``, ``shut down`` or ``broken``.
    processes : int
        How many it has, or may have.
    queued : int
        Tasks that no process has taken up yet.
    members : tuple of MemberVitals
        Its processes of now.
    """

    state: str
    processes: int
    queued: int
    members: tuple[MemberVitals, ...]


def pool_vitals(pool: Pool) -> PoolVitals:
    """Look at a pool and its processes, without asking them."""
    state, _, queued = pool._facts()
    with pool._engine.lock:
        members = [(m.body, m.done, *_in_hand(m), m.replaces) for m in pool._engine.members if not m.retired]
    looked = tuple(
        MemberVitals(body.name, vitals(body), bool(now), done, now, items, since, replaces)
        for body, done, now, items, since, replaces in members
    )
    return PoolVitals(state, pool.processes, queued, looked)


def _in_hand(member: Member) -> tuple[str, tuple[int, int] | None, float | None]:
    """Return what a member's body has to do now, and since when; holding the engine's lock."""
    batch = next(iter(member.inflight), None)
    if batch is None:
        return "", None, None
    items = None if batch.work.how == ONE else (batch.start, batch.start + len(batch.items) - 1)
    since = time.time() - (time.monotonic() - batch.began) if batch.began else None
    return batch.work.label, items, since


def vitals(body: Body) -> Vitals:
    """Look at a body, without asking it."""
    pid = body.pid
    busy, waiting = _calls(body)
    cpu, rss = usage(pid) if pid is not None else (None, None)
    error = body._pending_error if body.state is BodyState.DIED else None
    return Vitals(
        state=str(body.state),
        pid=pid,
        started=time.time() - body.uptime,
        transport=body.transporter.kind if body.transporter is not None else "",
        start_method=body.start_method,
        workers=body.workers,
        busy=min(busy, body.workers),
        waiting=waiting,
        cpu_seconds=cpu,
        rss_bytes=rss,
        paths=tuple(body._handlers),
        exitcode=body.exitcode,
        why="" if error is None else str(error).partition("\n")[0],
        calls=0 if body.transporter is None else body.transporter.transactions.made,
        last_pid=getattr(error, "pid", None),
        lived=None if body._ended_at is None or pid is not None else body._ended_at - body._started_at,
    )


def _calls(body: Body) -> tuple[int, int]:
    """Return how many calls run in a body, and how many wait there."""
    if body.transporter is None:
        return 0, 0
    busy = waiting = 0
    for result in body.transporter.transactions.pending():
        if result.path.startswith(f"{bootstrap.CONTROL}."):
            continue
        if result.state is not CallState.PENDING:
            busy += 1
        elif result.elapsed > _SETTLING_SECONDS:
            waiting += 1
    return busy, waiting


def usage(pid: int) -> tuple[float | None, int | None]:
    """Return CPU seconds and resident bytes of a process, where the system tells them in /proc."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:  # another system, or it has just ended
        return None, None
    return (int(fields[11]) + int(fields[12])) / _TICK, int(fields[21]) * _PAGE


__all__ = ["MemberVitals", "PoolVitals", "Vitals", "pool_vitals", "vitals"]
