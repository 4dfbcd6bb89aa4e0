"""`PoolCard`: a pool and its processes, a line each."""

from __future__ import annotations

import time
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, ClassVar

import traitlets

import epyrpc
from epyrpc_widgets.live import LiveView, flusher, module, styles

if TYPE_CHECKING:
    from epyrpc import Pool, PoolVitals

SAMPLE_SECONDS = 1.0
SAMPLES = 60
STOP_SECONDS = 5.0


class PoolCard(LiveView):
    """A pool: processes at work, tasks that wait and that are done, CPU, memory; Interrupt all, Restart, Stop.

    Parameters
    ----------
    pool : Pool
        Which one.
    """

    _esm = module("spark", "pool")
    _css = styles("body", "pool")

    card = traitlets.Dict().tag(sync=True)

    cards: ClassVar[weakref.WeakValueDictionary[int, PoolCard]] = weakref.WeakValueDictionary()  # {id of pool: card}

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._cpu: deque[float] = deque(maxlen=SAMPLES)  # cores
        self._rss: deque[int] = deque(maxlen=SAMPLES)  # bytes
        self._shares: dict[int, int] = {}  # {process: per cent of one core}
        self._memory: dict[int, int] = {}  # {process: bytes}
        self._used: dict[int, float] = {}  # {process: CPU seconds at the last sample}
        self._sampled_at = 0.0
        self._rate = 0.0
        self._done = 0
        first = min((member.vitals.started for member in epyrpc.pool_vitals(pool).members), default=time.time())
        self._started = first  # its first process's start is its own
        super().__init__(card=self._look(time.monotonic()))
        PoolCard.cards[id(pool)] = self
        flusher.add(self)

    @classmethod
    def of(cls, pool: Pool) -> PoolCard:
        """Return the card of a pool; there is one, wherever and however often it is displayed."""
        card = cls.cards.get(id(pool))
        return card if card is not None and card._pool is pool else cls(pool)

    def flush(self, now: float) -> bool:
        """Send the card if it has changed; figures once a second."""
        card = self._look(now)
        if card != self.card:
            self.card = card
        return bool(card["state"] == "running")

    def _look(self, now: float) -> dict[str, Any]:
        seen = epyrpc.pool_vitals(self._pool)
        if now >= self._sampled_at + SAMPLE_SECONDS:
            self._sample(seen, now)
        return {
            "name": self._pool.name,
            "state": seen.state,
            "processes": seen.processes,
            "transport": next((member.vitals.transport for member in seen.members if member.vitals.transport), ""),
            "started": self._started,
            "busy": sum(member.busy for member in seen.members),
            "queued": seen.queued,
            "done": self._done,
            "rate": self._rate,
            "cpu": list(self._cpu),
            "rss": list(self._rss),
            "members": [
                {
                    "name": member.name,
                    "state": member.vitals.state,
                    "pid": member.vitals.pid,
                    "busy": member.busy,
                    "done": member.done,
                    "cpu": self._shares.get(member.vitals.pid or 0),
                    "rss": self._memory.get(member.vitals.pid or 0),
                    "now": member.now,
                    "items": None if member.items is None else list(member.items),
                    "since": 0.0 if member.since is None else round(member.since, 1),
                    "replaces": member.replaces if not member.done else "",
                }
                for member in seen.members
            ],
        }

    def _sample(self, seen: PoolVitals, now: float) -> None:
        spent, self._sampled_at = max(0.001, now - self._sampled_at), now
        used: dict[int, float] = {}
        self._memory = {}
        for member in seen.members:
            pid, cpu, rss = member.vitals.pid, member.vitals.cpu_seconds, member.vitals.rss_bytes
            if pid is not None and cpu is not None and rss is not None:
                used[pid] = cpu
                self._memory[pid] = round(rss, -5)
        self._shares = {pid: round(100 * (cpu - self._used.get(pid, cpu)) / spent) for pid, cpu in used.items()}
        self._used = used
        if used:
            self._cpu.append(round(sum(self._shares.values()) / 100, 2))
            self._rss.append(sum(self._memory.values()))
        done = sum(member.done for member in seen.members)
        self._rate = round(max(0, done - self._done) / spent, 1) if self._done else 0.0
        self._done = done

    def hear(self, kind: str, content: dict[str, Any]) -> None:
        """Do what a button says, on a thread of its own: each may wait for the bodies."""
        does = {
            "interrupt": self._interrupt,
            "restart": self._pool.restart,
            "stop": lambda: self._pool.stop(STOP_SECONDS),
        }.get(kind)
        if does is not None:
            flusher.add(self)
            self.apart(lambda: self._do(kind, does), kind)

    def _do(self, kind: str, does: Any) -> None:
        try:
            said = does()
        except Exception as exc:  # said on the card: nobody else would hear of it
            said = f"{type(exc).__name__}: {exc}".partition("\n")[0]
        self.send({"kind": "did", "what": kind, "text": said if isinstance(said, str) else ""})

    def _interrupt(self) -> str:
        count = sum(body.interrupt() for body in self._pool.bodies if body.alive)
        return f"{count} task{'s' if count > 1 else ''} interrupted" if count else "runs nothing now"


__all__ = ["PoolCard"]
