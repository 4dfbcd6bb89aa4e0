"""`waiting`: what the calls of this process wait for, over both directions.

Each call is a node; a queued one waits for *one* of those that its workers run, a handler that has called
back waits for that call. What leads round in a circle can never end.
"""

from __future__ import annotations

import linecache
from concurrent.futures import CancelledError
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

from epyrpc.api.context import deadlock_text
from epyrpc.api.looking import Line, Seen, look
from epyrpc.bodies import bootstrap
from epyrpc.bodies.body import Body
from epyrpc.bodies.registry import bodies
from epyrpc.clock import format_seconds
from epyrpc.errors import ApiParamError, EpyrpcError
from epyrpc.ids import TransactionId
from epyrpc.places import place
from epyrpc.tables import escape, table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from epyrpc.results import AsyncResult

ASK_SECONDS = 0.5
HERE = "here"
HEADER = ("Id", "Call", "On", "Since", "Why it waits", "Where it is")


class WaitingCall(NamedTuple):
    """One call that has not ended.

    Attributes
    ----------
    id : str
        Its transaction, such as ``H12``; ``N…`` for one that a body has made.
    path : str
        What was called.
    where : str
        The body that answers it; ``"here"`` for this process.
    seconds : float or None
        Since it was made, by this end; since it began to run, by a body.
    state : str
        ``"queued"``, ``"running"``, ``"waits"`` (its handler waits for another call), ``"delayed"`` (its reply is given
        later), ``"on its way"``, or ``"unknown"`` (the body does not answer).
    why : str
        The same in words.
    waits_for : str or None
        The id of the call that its handler waits for.
    behind : tuple of str
        The ids of the calls that it is queued behind; it needs one of them to end.
    stack : tuple of str
        The lines that its handler is at, outermost first.
    """

    id: str
    path: str
    where: str
    seconds: float | None
    state: str
    why: str
    waits_for: str | None = None
    behind: tuple[str, ...] = ()
    stack: tuple[str, ...] = ()


class Waiting:
    """What waits, and for what: has a good text and a static table; a sequence of `WaitingCall`, oldest first.

    Attributes
    ----------
    calls : tuple of WaitingCall
        All of them.
    cycle : tuple of str
        The ids of calls that wait for each other and so never end; empty when there are none.
    """

    def __init__(self, calls: Sequence[WaitingCall], notes: Sequence[str] = ()) -> None:
        self.calls = tuple(calls)
        self._by_id = {call.id: call for call in self.calls}
        self._notes = tuple(notes)
        self.cycle = tuple(_stuck(self._by_id))

    def __iter__(self) -> Iterator[WaitingCall]:
        return iter(self.calls)

    def __len__(self) -> int:
        return len(self.calls)

    def __getitem__(self, key: str | int) -> WaitingCall:
        """Return a call by its id, or by its number."""
        return self._by_id[key] if isinstance(key, str) else self.calls[key]

    @property
    def deadlock(self) -> str:
        """What the `DeadlockError` of such a cycle says; empty when there is none."""
        queued = next((self._by_id[i] for i in self.cycle if self._by_id[i].behind), None)
        if queued is None:
            return ""
        waiting = []
        for identifier in queued.behind:
            call = self._by_id[identifier]
            awaited = self._by_id.get(call.waits_for or "", call)
            waiting.append((call.path, call.id, awaited.path, awaited.id))
        return deadlock_text(queued.path, queued.id, waiting)

    def __repr__(self) -> str:
        if not self.calls:
            return "\n".join(["nothing waits: no call is pending", *self._notes])
        lines: list[str] = []
        shown: set[str] = set()
        awaited = {call.waits_for for call in self.calls}
        for call in [*(c for c in self.calls if c.id not in awaited), *self.calls]:
            self._add_lines(call, "", "", lines, shown)
        if self.cycle:
            lines.append(f"deadlock: {self.deadlock}")
        return "\n".join([*lines, *self._notes])

    def _add_lines(self, call: WaitingCall, mark: str, margin: str, lines: list[str], shown: set[str]) -> None:
        """Add the lines of a call, and below it those of what it waits for."""
        if call.id in shown:
            return
        shown.add(call.id)
        since = "" if call.seconds is None else f", {format_seconds(call.seconds)}"
        lines.append(f"{margin}{mark}{call.id} {call.path} {_on(call.where)}{since}: {call.why}")
        lines += [f"{margin}{' ' * len(mark)}    {line}" for line in call.stack]
        if call.waits_for in self._by_id:
            self._add_lines(self._by_id[call.waits_for], "└ ", margin + "  ", lines, shown)

    def _repr_html_(self) -> str:
        if not self.calls:
            return f"<p>{escape(self)}</p>"
        rows = [
            (
                call.id,
                call.path,
                call.where,
                "" if call.seconds is None else format_seconds(call.seconds),
                call.why,
                " · ".join(call.stack),
            )
            for call in self.calls
        ]
        notes = [f"deadlock: {self.deadlock}"] if self.cycle else []
        return table(HEADER, rows, code=(1,)) + "".join(f"<p>{escape(note)}</p>" for note in [*notes, *self._notes])


def _on(where: str) -> str:
    return where if where == HERE else f"on {where}"


def _stuck(calls: dict[str, WaitingCall]) -> list[str]:
    """Return the ids of the calls that can never end: the largest set whose members wait for nothing outside of it."""
    stuck = {i for i, call in calls.items() if call.waits_for is not None or call.behind}
    while True:
        free = {
            i
            for i in stuck
            if (
                not all(other in stuck for other in calls[i].behind)
                if calls[i].behind
                else calls[i].waits_for not in stuck
            )
        }
        if not free:
            return [i for i in calls if i in stuck]
        stuck -= free


def waiting(*names: str, timeout: float = ASK_SECONDS) -> Waiting:
    """Tell what the pending calls of this process wait for.

    Works from any thread, also while others block. Each body is asked, at once, what it runs; one that does not answer
    in time, since it was stopped by a signal or runs C code that lets nothing else run, is said not to.

    Parameters
    ----------
    *names : str
        The bodies to look at; all by default.
    timeout : float
        Seconds that the bodies have to answer.

    Returns
    -------
    Waiting
        To be looked at: what it prints tells, call by call, why it waits, with the lines that its handler is at.

    Raises
    ------
    ApiParamError
        There is no body of a name.
    """
    living = bodies()
    for name in names:
        if name not in living:
            raise ApiParamError("name", name, tuple(sorted(living)) or "the name of a body; there is none")
    chosen = [living[name] for name in names] if names else list(living.values())
    return _Asking([body for body in chosen if body.alive], timeout).collect()


class _Asking:
    """One look at some bodies."""

    def __init__(self, asked: list[Body], timeout: float) -> None:
        self._bodies = asked
        limit = monotonic() + timeout
        # What is pending is taken first: what has ended by the time that the body looks is then seen as on its way.
        self._pending = {body.name: _pending_of(body) for body in asked}
        answers = [(body, _ask(body, timeout)) for body in asked]
        self._here = {body.name: _look_here(body) for body in asked}
        self._there = {body.name: _hear(answer, limit) for body, answer in answers}
        # {id: path} as this end calls them: what was sent as a closure has a name only here.
        self._paths = {r._tid: r.path for pending in self._pending.values() for r in pending}
        for seen in [*self._here.values(), *(there or [] for there in self._there.values())]:
            for one in seen:
                self._paths.setdefault(one.tid, one.path)

    def collect(self) -> Waiting:
        """Return what was found."""
        calls: list[WaitingCall] = []
        notes: list[str] = []
        for body in self._bodies:
            there = self._there[body.name]
            seen = {one.tid: one for one in there or []}
            known = None if there is None else seen
            calls += [self._of_ours(body, result, known) for result in self._pending[body.name]]
            calls += [self._of_theirs(body, one) for one in self._here[body.name] if one.tid]
            if there is None and not self._pending[body.name]:
                notes.append(f"{body.name} {self._silence(body)}")
        return Waiting(calls, notes)

    def _of_ours(self, body: Body, result: AsyncResult, seen: dict[int, Seen] | None) -> WaitingCall:
        """Describe a call that this end has made."""
        one = None if seen is None else seen.get(result._tid)
        if one is not None:
            return self._describe(one, body.name, result.elapsed)
        if seen is None:
            progress = result.progress
            known = f"last known: {result.state}" + (f", {progress.done:g} done" if progress is not None else "")
            why, state = f"{self._silence(body)}; {known}", "unknown"
        else:
            why, state = f"on its way to {body.name} or back", "on its way"
        return WaitingCall(str(result.id), result.path, body.name, result.elapsed, state, why)

    def _of_theirs(self, body: Body, one: Seen) -> WaitingCall:
        """Describe a call that a body has made, and that this end answers."""
        return self._describe(one, HERE, one.seconds or None, maker=body.name)

    @staticmethod
    def _silence(body: Body) -> str:
        incarnation = body._incarnation
        if incarnation is not None and incarnation.launch.is_suspended():
            return f"does not answer: its process ({body.pid}) is suspended; kill -CONT {body.pid} lets it go on"
        return "does not answer: it runs code that lets nothing else run, or its machine is busy"

    def _describe(self, one: Seen, where: str, seconds: float | None, maker: str = "") -> WaitingCall:
        identifier = str(TransactionId(one.tid))
        by = f", called by {maker}" if maker else ""
        stack = tuple(map(_line_text, one.lines))
        name = self._paths.get(one.tid, one.path)
        if one.stage == "queued":
            behind = tuple(str(TransactionId(tid)) for tid in one.behind)
            full = len(behind) >= one.workers
            names = ", ".join(f"{TransactionId(tid)} {self._paths.get(tid, '')}".strip() for tid in one.behind if tid)
            workers = "the worker is busy" if one.workers == 1 else f"all {one.workers} workers are busy"
            why = f"queued behind {names or 'events'}; {workers}" if full else "queued, about to start"
            return WaitingCall(identifier, name, where, seconds, "queued", why + by, None, behind if full else ())
        if one.waits_for is not None:
            tid, path, target = one.waits_for
            awaited = str(TransactionId(tid))
            to = f" on {target}" if where == HERE and target else " of this process"
            why = f"waits for {awaited} {self._paths.get(tid, path)}{to}{by}"
            return WaitingCall(identifier, name, where, seconds, "waits", why, awaited, (), stack)
        if one.stage == "delayed" and not stack:
            return WaitingCall(identifier, name, where, seconds, "delayed", f"its reply is to be given later{by}")
        return WaitingCall(identifier, name, where, seconds, "running", f"running{by}", None, (), stack)


def _pending_of(body: Body) -> list[AsyncResult]:
    own = bootstrap.CONTROL + "."
    return [r for r in body.transporter.transactions.pending() if not r.path.startswith(own)]


def _ask(body: Body, timeout: float) -> Any:
    try:
        return body._api.action(f"{bootstrap.CONTROL}.look")(sync=False, timeout=timeout)
    except EpyrpcError:  # it has just died; its calls say so themselves
        return None


def _hear(answer: Any, limit: float) -> list[Seen] | None:
    if answer is None:
        return None
    try:
        found: list[Seen] = answer.result(max(0.0, limit - monotonic()) + 0.1)
    except (EpyrpcError, TimeoutError, CancelledError):  # no answer is an answer
        return None
    return [one for one in found if _is_users(one)]


def _look_here(body: Body) -> list[Seen]:
    arb = body._api.ipc
    return [one for one in look(arb.dispatcher) if _is_users(one)] if arb is not None else []


def _is_users(one: Seen) -> bool:
    return not one.path.startswith(bootstrap.CONTROL + ".") or one.path in bootstrap.USERS_CODE


def _line_text(line: Line) -> str:
    source = line.source or linecache.getline(line.filename, line.number).strip()
    where = f"{place(line.filename, line.number)}, in {line.function}"
    return f"{where}: {source}" if source else where


__all__ = ["Waiting", "WaitingCall", "waiting"]
