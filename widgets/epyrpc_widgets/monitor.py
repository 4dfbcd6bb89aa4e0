"""`TransactionMonitor`: all calls and events of this process."""

from __future__ import annotations

import time
from array import array
from collections import Counter, deque
from typing import TYPE_CHECKING, Any

import traitlets

import epyrpc
from epyrpc_widgets import details
from epyrpc_widgets.live import LiveView, flusher, module, styles
from epyrpc_widgets.waits import WaitWatcher

if TYPE_CHECKING:
    from collections.abc import Iterable

    from epyrpc import AsyncResult, Observer, Record

STATES = tuple(str(state) for state in epyrpc.CallState)
RUNNING = frozenset(("pending", "running", "streaming"))
CODES = {state: code for code, state in enumerate(STATES)}
_DONE = epyrpc.CallState.DONE  # most records; an enum's `value` takes as long as half a row
DONE_CODE = CODES["done"]
COUNT_MASK = (1 << epyrpc.TransactionId.COUNT_BITS) - 1
NUMBERS = 11  # of each row; see `_row`
SECONDS = 60  # of rates and latencies that are kept
SUMMARY_SECONDS = 1.0  # between two summaries for the first paint of a page; who is there has it with the rows
UNASKED_SECONDS = (0.5, 1.5, 4.0)  # after its making
LATENCIES = 5_000  # of one second; of the rest a sample does


class TransactionMonitor(LiveView):
    """Counters, rates and latencies, a timeline, and a table of the last transactions, from its making on.

    A page says `hello` and gets everything (`full`), then what has changed (`delta`), eight times a second at most.
    Rows travel as numbers, their words once each.

    Parameters
    ----------
    limit : int
        How many ended transactions are kept.
    """

    _esm = module("store", "timeline", "spark", "monitor")
    _css = styles("monitor")

    summary = traitlets.Dict().tag(sync=True)  # for the first paint

    def __init__(self, limit: int = 10_000) -> None:
        self.observer: Observer = epyrpc.observe(limit)
        self._since = time.time()
        self._words: dict[str, int] = {}  # {word: its number}
        self._prefixes: dict[int, int] = {}  # {whose id: number of the word in front of it}
        self._told = 0  # words that the pages have
        self._greeted = False  # whether a page has said hello
        self._made_at = time.monotonic()
        self._unasked = list(UNASKED_SECONDS)  # when a page that cannot be heard is told everything
        self._rates: deque[list[float]] = deque(maxlen=SECONDS)  # [calls that ended, p50, p99] of each second
        self._latencies: list[float] = []
        self._told_summary: Any = None
        self._next_summary = 0.0
        self._waits = WaitWatcher()
        self._told_waits: Any = None
        self._ended = 0
        self._second = int(time.monotonic())
        super().__init__(summary=self._summarise())
        flusher.add(self)

    # --- what is shown

    def flush(self, now: float) -> bool:
        """Send what has changed."""
        changed = self.observer.poll()
        self._measure(changed, now)
        summary = self._summarise()
        if self._greeted:
            self._tell_waits(now)
        told = self._tell_unasked(now, summary)
        if not told and (changed or summary != self._told_summary) and self._has_readers:
            self._tell("delta", changed, summary)
        self._told_summary = summary
        if summary != self.summary and now >= self._next_summary:
            self._next_summary = now + SUMMARY_SECONDS
            self.summary = summary
        return True

    @property
    def _has_readers(self) -> bool:
        return self._greeted or len(self._unasked) < len(UNASKED_SECONDS)

    def _tell_unasked(self, now: float, summary: dict[str, Any]) -> bool:
        """Tell everything to pages whose `hello` is not heard, since the cell after the one that shows this blocks."""
        if self._greeted or not self._unasked or now - self._made_at < self._unasked[0]:
            return False
        del self._unasked[0]
        self._tell("full", self.observer.records(), summary)
        return True

    def _tell_waits(self, now: float) -> None:
        self._waits.look(self.observer.under_way(), now)
        found = self._waits.found
        if found != self._told_waits:
            self._told_waits = found
            self.send({"kind": "waits", "waits": found})

    def _measure(self, changed: Iterable[Record], now: float) -> None:
        second = int(now)
        if second != self._second:
            for _ in range(min(SECONDS, second - self._second)):
                self._rates.append([self._ended, *percentiles(self._latencies)])
                self._ended, self._latencies = 0, []
            self._second = second
        for record in changed:
            if record.event or (record.state is not _DONE and record.state.value in RUNNING):
                continue
            self._ended += 1
            if len(self._latencies) < LATENCIES:
                self._latencies.append(record.elapsed)

    def _summarise(self) -> dict[str, Any]:
        counts: Counter[Any] = self.observer.counts
        return {
            "counts": [max(0, counts[state]) for state in epyrpc.CallState],
            "events": self.observer.events,
            "dropped": self.observer.dropped,
            "since": self._since,
            "limit": self.observer.limit,
            "workers": {name: body.workers for name, body in epyrpc.bodies().items()},
            "rates": [list(numbers) for numbers in self._rates],
        }

    def _word(self, word: str) -> int:
        return self._words.setdefault(word, len(self._words))

    def _row(self, record: Record) -> tuple[float, ...]:
        tid, words, waited = record.tid, self._words, record.waited
        end = tid >> epyrpc.TransactionId.COUNT_BITS  # whose id it is, which comes before its number
        prefix = self._prefixes.get(end)
        if prefix is None:
            prefix = self._prefixes[end] = self._word(str(epyrpc.TransactionId(tid)).rstrip("0123456789"))
        path, target, state = words.get(record.path), words.get(record.target), record.state
        code = DONE_CODE if state is _DONE else CODES[state.value]
        if record.incoming or record.event:
            code += 8 * record.incoming + 16 * record.event
        return (
            record.number,
            prefix,
            tid & COUNT_MASK,
            self._word(record.path) if path is None else path,
            self._word(record.target) if target is None else target,
            code,
            record.started,
            -1.0 if waited is None else waited,
            record.elapsed,
            record.worker,
            record.size_bytes,
        )

    def _tell(self, kind: str, records: list[Record], summary: dict[str, Any]) -> None:
        numbers = array("d")
        for record in records:
            numbers.extend(self._row(record))
        words = list(self._words)
        first = 0 if kind == "full" else self._told
        self._told = len(words)
        content = {
            "kind": kind,
            "now": time.time(),
            "first_word": first,
            "words": words[first:],
            "errors": {record.number: record.error for record in records if record.error},
            "summary": summary,
        }
        self.send(content, buffers=[numbers.tobytes()])

    # --- what a page says

    def hear(self, kind: str, content: dict[str, Any]) -> None:
        """Answer a page."""
        if kind == "hello":
            with flusher.between_rounds():
                self._greeted = True
                self._tell("full", self.observer.records(), self._summarise())
                self.send({"kind": "waits", "waits": self._told_waits})
        elif kind == "clear":
            with flusher.between_rounds():
                self.observer.clear()
                self._tell("full", self.observer.records(), self._summarise())
        elif kind == "look":
            self._tell_details(int(content["number"]))
        elif kind == "cancel":
            call = self._call(int(content["number"]))
            if call is not None:
                call.cancel()
        elif kind == "cancel id":
            for record in self.observer.under_way():
                if record.id == content.get("id") and isinstance(record.call, epyrpc.AsyncResult):
                    record.call.cancel()
        elif kind == "retry":
            call = self._call(int(content["number"]))
            if call is not None and call.recall is not None:
                self.apart(call.again, "retry")

    def _call(self, number: int) -> AsyncResult | None:
        record = self.observer.record(number)
        call = None if record is None else record.call
        if isinstance(call, epyrpc.AsyncResult):
            return call
        last = None if record is None else self.observer.last(record.path)
        return last if last is not None and record is not None and str(last.id) == record.id else None

    def _tell_details(self, number: int) -> None:
        call = self._call(number)
        if call is None:
            self.send({"kind": "detail", "number": number, "detail": None, "can_retry": False})
            return
        can_retry = call.recall is not None and call.done()
        self.send({"kind": "detail", "number": number, "detail": details.detail_of(call), "can_retry": can_retry})

    def stop(self) -> None:
        """Observe no more; what is shown stays."""
        self.observer.close()
        flusher.discard(self)

    def close(self) -> None:
        """Observe no more, and disappear."""
        self.stop()
        super().close()


def percentiles(values: list[float]) -> tuple[float, float]:
    """Return the median and the 99th percentile, both -1 where there is nothing.

    Examples
    --------
    >>> percentiles([3.0, 1.0, 2.0])
    (2.0, 3.0)
    """
    if not values:
        return -1.0, -1.0
    in_order = sorted(values)
    last = len(in_order) - 1
    return in_order[last // 2], in_order[min(last, round(0.99 * last))]


__all__ = ["TransactionMonitor", "percentiles"]
