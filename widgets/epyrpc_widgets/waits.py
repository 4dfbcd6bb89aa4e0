"""Chains of calls that wait for one another, for the monitor's banner."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import epyrpc

if TYPE_CHECKING:
    from epyrpc import Observer, Record, Waiting

LASTING_SECONDS = 1.0  # a chain that lasts shorter is nobody's concern
GLANCE_SECONDS = 0.5  # between two looks at what is under way
LOOK_SECONDS = 2.0  # between two looks at chains, for which the bodies are asked


class WaitWatcher:
    """Looks for chains on a thread of its own, while there may be one.

    Attributes
    ----------
    found : dict or None
        What the banner says of the chain that was found last; None while there is none.
    """

    def __init__(self) -> None:
        self.found: dict[str, Any] | None = None
        self._next_look = 0.0
        self._looking = threading.Lock()

    def look(self, observer: Observer, now: float) -> None:
        """Start a look if something has been waiting for long, and the last look is some time ago."""
        if now < self._next_look:
            return
        if not any(self._may_wait(record) for record in observer.under_way(LASTING_SECONDS)):
            self.found = None
            self._next_look = now + GLANCE_SECONDS
            return
        self._next_look = now + LOOK_SECONDS
        threading.Thread(target=self._look, name="epyrpc-waits", daemon=True).start()

    @staticmethod
    def _may_wait(record: Record) -> bool:
        """Whether it may be part of a chain: a call that came back here, or one that no handler has taken up."""
        waits = record.incoming or record.waited is None
        return waits and not record.event

    def _look(self) -> None:
        if self._looking.acquire(blocking=False):
            try:
                self.found = chain_of(epyrpc.waiting())
            finally:
                self._looking.release()


def chain_of(waiting: Waiting) -> dict[str, Any] | None:
    """Return the longest chain in words, with the call to be cancelled that ends it; None when nothing waits.

    A chain begins with a handler that waits for another call.
    """
    by_id = {call.id: call for call in waiting}
    best: list[str] = []
    for call in waiting:
        chain: list[str] = []
        following: str | None = call.id
        while following in by_id and following not in chain:
            chain.append(following)
            one = by_id[following]
            following = one.waits_for or next(iter(one.behind), None)
        if call.waits_for and len(chain) > max(1, len(best)):
            best = chain
    if not best:
        return None
    seconds = max(by_id[i].seconds or 0.0 for i in best)
    ours = [i for i in best if i.startswith("H")]
    return {
        "title": f"{len(best)} calls wait for one another",
        "seconds": int(seconds),
        "chain": " → ".join(f"{i} {by_id[i].path} {_where(by_id[i].where)}" for i in best),
        "cancel": ours[-1] if ours else "",
        "show": best[0],
        "deadlock": waiting.deadlock,
    }


def _where(where: str) -> str:
    return "here" if where == "here" else f"on {where}"


__all__ = ["WaitWatcher", "chain_of"]
