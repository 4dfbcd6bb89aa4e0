"""A cell on every body of a pool: its outputs, grouped by body."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING, Any

from epyrpc import results as _results
from epyrpc.api.action import prepare_call
from epyrpc.bodies.verbs import RUN_PATH
from epyrpc.errors import BodyError
from epyrpc.jupyter import cells, tracebacks
from epyrpc.results import wait_for_all

if TYPE_CHECKING:
    from collections.abc import Sequence

    from epyrpc.bodies.body import Body
    from epyrpc.results import AsyncResult

SHOWN_SECONDS = 10.0  # how long the last outputs may take to be put out
KEPT_CHARACTERS = 1_000_000  # of one body's text while it waits for its turn


class Group:
    """Puts out what several bodies write, one body after the other.

    The first body that has not ended writes live; what the others write waits until it is their turn.

    Parameters
    ----------
    sink : OutputSink
        Of the cell.
    names : sequence of str
        The bodies, in order.
    """

    # Guarded by _lock: everything.

    def __init__(self, sink: Any, names: Sequence[str]) -> None:
        self._sink = sink
        self._lock = threading.RLock()
        self._waiting = {name: Member(self, name) for name in names}  # those that have not been put out to their end
        self.sinks = dict(self._waiting)
        self.all_out = threading.Event()  # every body has ended, and all it wrote has been put out

    def put(self, member: Member, kind: str, what: tuple[Any, ...]) -> None:
        """Take one output of a body."""
        with self._lock:
            first = next(iter(self._waiting.values()), None)
            if first is member or member.name not in self._waiting:
                self._write(member, kind, what)
            else:
                member.keep(kind, what)

    def finish(self, name: str) -> None:
        """Hear that a body has ended; it may be the next one's turn."""
        with self._lock:
            self.sinks[name].ended = True
            while self._waiting:
                first = next(iter(self._waiting.values()))
                for kind, what in first.take():
                    self._write(first, kind, what)
                if not first.ended:
                    break
                del self._waiting[first.name]
            if not self._waiting:
                self.all_out.set()

    def _write(self, member: Member, kind: str, what: tuple[Any, ...]) -> None:
        if not member.headed:
            member.headed = True
            self._sink("stdout", f"[{member.name}]\n")
        if kind == "text":
            self._sink(*what)
        elif hasattr(self._sink, "show"):
            self._sink.show(*what)

    def flush(self) -> None:
        """Return when what was put out is in the cell."""
        flush = getattr(self._sink, "flush", None)
        if flush is not None:
            flush()

    def entered(self) -> Any:
        """Let what this thread puts out in the block land in the cell."""
        return self._sink.entered() if hasattr(self._sink, "entered") else contextlib.nullcontext()


class Member:
    """The sink of one body's call."""

    def __init__(self, group: Group, name: str) -> None:
        self._group = group
        self.name = name
        self.headed = False
        self.ended = False
        self._kept: list[tuple[str, tuple[Any, ...]]] = []
        self._size = 0
        self._dropped = 0

    def __call__(self, stream: str, text: str) -> None:
        """Write text; any thread."""
        self._group.put(self, "text", (stream, text))

    def show(self, name: str, value: Any) -> None:
        """Show a display; any thread."""
        self._group.put(self, "display", (name, value))

    def flush(self) -> None:
        """See `Group.flush`."""
        self._group.flush()

    def entered(self) -> Any:
        """Let what this thread puts out in the block land in the cell."""
        return self._group.entered()

    def keep(self, kind: str, what: tuple[Any, ...]) -> None:
        """Keep an output until it is this body's turn; holding the group's lock."""
        size = len(what[1]) if kind == "text" else 0
        if self._size + size > KEPT_CHARACTERS:
            self._dropped += size
            return
        self._size += size
        self._kept.append((kind, what))

    def take(self) -> list[tuple[str, tuple[Any, ...]]]:
        """Return what was kept, and say how much was not; holding the group's lock."""
        kept, self._kept = self._kept, []
        if self._dropped:
            kept.append(("text", ("stderr", f"\n[{self._dropped:,} characters dropped]\n")))
            self._dropped = 0
        return kept


def run_on_each(
    bodies: Sequence[Body], cell: cells.Cell, label: str, timeout: float | None
) -> tuple[dict[str, AsyncResult], Group]:
    """Start a cell in every body; return the calls by the bodies' names, and the group that shows their output."""
    group = Group(_results.make_output_sink(), [body.name for body in bodies])
    calls: dict[str, AsyncResult] = {}
    for body in bodies:
        call, pieces = prepare_call(body._transporter, RUN_PATH, (cells.run_cell, (cell,), {}), {}, timeout, None, 0)
        call.path = label
        call._sink = group.sinks[body.name]
        call._owner.admit(call)
        if timeout is not None:
            call._owner.set_deadline(call, timeout)
        call._pump.send(pieces)
        calls[body.name] = call
    for name, call in calls.items():
        call.add_done_callback(lambda done, name=name: _end(group, name, done))  # type: ignore[misc]
    return calls, group


def _end(group: Group, name: str, call: Any) -> None:
    """Write a failed call's traceback into its group, and end it."""
    exc = None if call.cancelled() else call.exception()
    if exc is not None:
        draw = vars(exc).get("_render_traceback_") or tracebacks.Message(exc)
        group.sinks[name]("stderr", "\n".join(draw()) + "\n")
    group.finish(name)


def wait_for_each(calls: dict[str, AsyncResult], group: Group, where: str) -> None:
    """Wait until the cell has ended everywhere, and everything is shown.

    Raises
    ------
    BodyError
        It failed in some of the bodies; their tracebacks are shown already.
    """
    try:
        wait_for_all(calls.values())
    except KeyboardInterrupt:
        for call in calls.values():
            call.cancel()
        raise
    finally:
        group.all_out.wait(SHOWN_SECONDS)
        group.flush()
    failed = [name for name, call in calls.items() if call.cancelled() or call.exception() is not None]
    if failed:
        raise BodyError(f"the cell failed in {len(failed)} of {len(calls)} bodies of {where}: {', '.join(failed)}")


__all__ = ["Group", "run_on_each", "wait_for_each"]
