"""`TransactionMonitor`: all calls and events of this process."""

from __future__ import annotations

import time
from collections import deque
from itertools import compress
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import traitlets

import epyrpc
from epyrpc_widgets import details
from epyrpc_widgets.live import LiveView, flusher, module, styles
from epyrpc_widgets.waits import WaitWatcher

if TYPE_CHECKING:
    from epyrpc import AsyncResult, Observer
    from epyrpc.ledger import Rows
    from epyrpc.observing import Changes

STATES = tuple(str(state) for state in epyrpc.CallState)
NUMBERS = 11  # of each row, see `epyrpc.ledger`
EVENT = 16  # in a row's code: what is no call
ENDED = 3  # the place of the first of STATES that is an end
SECONDS = 60  # of rates and latencies that are kept
SUMMARY_SECONDS = 2.0  # between two summaries for the first paint of a page; who is there has it with the rows
FIND_SECONDS = 0.1  # for a search of arguments, which the notebook waits for
TEXT_LIMIT = 200  # characters that are searched for
UNASKED_SECONDS = (0.5, 1.5, 4.0)  # after its making
LATENCIES = 5_000  # of one second; of the rest a sample does
ROWS_A_ROUND = 1_500  # more than 12,000 calls a second are faster than anybody reads: then their rows go to the page
ROWS_SECONDS = 0.5  # less often, and those that newer ones have driven out by then not at all


class TransactionMonitor(LiveView):
    """Counters, rates and latencies, a timeline, and a table of the last transactions, from its making on.

    A page says `hello` and gets everything (`full`), then what has changed (`delta`): one message a round, and eight
    rounds a second. Rows travel as numbers, their words once each.

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
        self._told = 0  # words that the pages have
        self._greeted = False  # whether a page has said hello
        self._made_at = time.monotonic()
        self._unasked = list(UNASKED_SECONDS)  # when a page that cannot be heard is told everything
        self._rates: deque[list[float]] = deque(maxlen=SECONDS)  # [calls that ended, p50, p99] of each second
        self._latencies: list[float] = []
        self._told_summary: Any = None
        self._next_rows = 0.0
        self._next_summary = self._made_at + SUMMARY_SECONDS
        self._waits = WaitWatcher()
        self._told_waits: Any = None
        self._ended = 0
        self._second = int(time.monotonic())
        super().__init__(summary=self._summarise())
        flusher.add(self)

    # --- what is shown

    def flush(self, now: float) -> bool:
        """Send what has changed, in one message."""
        self._count_seconds(now)
        self.observer.look()
        few = self.observer.backlog <= ROWS_A_ROUND
        if self._tell_unasked(now) or self._tell_first_paint(now):
            return True  # what has changed since goes with the next round
        changes = None
        if few or now >= self._next_rows:
            self._next_rows = now + ROWS_SECONDS
            changes = self._take()
        if self._greeted:
            self._waits.look(self.observer, now)
        summary = self._summarise()
        news = summary != self._told_summary or self._waits.found != self._told_waits
        if self._has_readers and (news or (changes is not None and (changes.parts or changes.gone))):
            self._tell("delta", changes, summary)
        self._told_summary = summary
        return True

    @property
    def _has_readers(self) -> bool:
        return self._greeted or len(self._unasked) < len(UNASKED_SECONDS)

    def _tell_unasked(self, now: float) -> bool:
        """Tell everything to pages whose `hello` is not heard, since the cell after the one that shows this blocks."""
        if self._greeted or not self._unasked or now - self._made_at < self._unasked[0]:
            return False
        del self._unasked[0]
        self._tell_everything()
        return True

    def _tell_first_paint(self, now: float) -> bool:
        if now < self._next_summary:
            return False
        summary = self._summarise()
        if summary == self.summary:
            return False
        self._next_summary = now + SUMMARY_SECONDS
        self.summary = summary
        return True

    def _take(self) -> Changes:
        changes = self.observer.take()
        for part in changes.parts:
            room = LATENCIES - len(self._latencies)
            if room > 0:
                self._latencies.extend(latencies_of(part)[:room])
        return changes

    def _count_seconds(self, now: float) -> None:
        second = int(now)
        if second == self._second:
            return
        for _ in range(min(SECONDS, second - self._second)):
            self._rates.append([self.observer.ended - self._ended, *percentiles(self._latencies)])
            self._ended, self._latencies = self.observer.ended, []
        self._second = second

    def _summarise(self) -> dict[str, Any]:
        counts = self.observer.counts
        return {
            "counts": [max(0, counts[state]) for state in epyrpc.CallState],
            "events": self.observer.events,
            "dropped": self.observer.dropped,
            "since": self._since,
            "limit": self.observer.limit,
            "workers": {name: body.workers for name, body in epyrpc.bodies().items()},
            "rates": [list(numbers) for numbers in self._rates],
        }

    def _tell_everything(self) -> None:
        self._take()  # else the next round would tell it again
        self._tell("full", self.observer.everything(), self._summarise())

    def _tell(self, kind: str, changes: Changes | None, summary: dict[str, Any]) -> None:
        rows = [] if changes is None else [part.tobytes() for part in changes.parts]
        first = 0 if kind == "full" else self._told
        words = self.observer.writer.words_after(first)
        self._told, self._told_waits = first + len(words), self._waits.found
        content = {
            "kind": kind,
            "now": time.time(),
            "first_word": first,
            "words": words,
            "gone": [] if changes is None else changes.gone,
            "errors": {} if changes is None else changes.errors,
            "summary": summary,
            "waits": self._told_waits,
        }
        self.send(content, buffers=[b"".join(rows)])

    # --- what a page says

    def hear(self, kind: str, content: dict[str, Any]) -> None:
        """Answer a page."""
        if kind == "hello":
            with flusher.between_rounds():
                self._greeted = True
                self._tell_everything()
        elif kind == "clear":
            with flusher.between_rounds():
                self.observer.clear()
                self._tell_everything()
        elif kind == "look":
            self._tell_details(int(content["number"]))
        elif kind == "find":
            self._find(str(content.get("text", ""))[:TEXT_LIMIT].lower())
        elif kind == "cancel":
            call = self._call(int(content["number"]))
            if call is not None:
                call.cancel()
        elif kind == "cancel id":
            for record in self.observer.under_way():
                call = record.call
                if record.id == content.get("id") and isinstance(call, epyrpc.AsyncResult):
                    call.cancel()
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

    def _find(self, text: str) -> None:
        """Tell which calls have a text in their arguments; of those whose arguments are still known, the newest."""
        until = time.monotonic() + FIND_SECONDS
        calls = sorted(self.observer.held(), key=itemgetter(0), reverse=True)
        found = []
        for number, call in calls:
            if isinstance(call, epyrpc.AsyncResult) and details.has_argument(call, text):
                found.append(number)
            if time.monotonic() > until:
                break
        self.send({"kind": "found", "text": text, "numbers": found})

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


def latencies_of(rows: Rows) -> list[float]:
    """Return how long those of many calls took that have ended."""
    codes, elapsed = rows[5::NUMBERS], rows[8::NUMBERS]
    if min(codes) == max(codes) == ENDED:
        return elapsed.tolist()
    return list(compress(elapsed, [int(code) & 7 >= ENDED and code < EVENT for code in codes]))


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
