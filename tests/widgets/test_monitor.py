"""The monitor: what a page has put together from its messages is what happened."""

from __future__ import annotations

import itertools
import random
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import epyrpc
from epyrpc import results
from epyrpc.results import AsyncResult, CallState
from epyrpc.transactions import HeadTransactionIdGenerator, TransactionManager
from epyrpc_widgets import TransactionMonitor
from epyrpc_widgets.monitor import NUMBERS, STATES
from tests.bodies.tools import eventually
from tests.test_observing import ENDS, move
from tests.widgets.conftest import ManualFlusher, Page, page_of

pytestmark = pytest.mark.capability("M7")


@pytest.fixture
def monitor(flusher: ManualFlusher) -> Iterator[TransactionMonitor]:
    monitor = TransactionMonitor()
    yield monitor
    monitor.close()
    assert results.watch is None


class Reader:
    """Puts together what a page knows, as the view's module does."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.words: list[str] = []
        self.rows: dict[int, dict[str, Any]] = {}
        self.errors: dict[str, str] = {}
        self.summary: dict[str, Any] = {}
        self.read = 0
        self.greeted = False

    def take(self) -> Reader:
        """Read the messages that have come."""
        for message, buffers in zip(self.page.messages[self.read :], self.page.buffers[self.read :], strict=True):
            self.read += 1
            if message["kind"] == "full":
                self.words, self.rows, self.errors, self.greeted = [], {}, {}, True
            if message["kind"] not in ("full", "delta") or not self.greeted:
                continue
            self.words[message["first_word"] :] = message["words"]
            self.errors.update(message["errors"])
            for number in message["gone"]:
                self.rows.pop(number, None)
            self.summary = message["summary"]
            numbers = array("d", buffers[0])
            for at in range(0, len(numbers), NUMBERS):
                number, prefix, count, path, target, code, started, waited, elapsed, worker, size = numbers[
                    at : at + NUMBERS
                ]
                self.rows[int(number)] = {
                    "id": f"{self.words[int(prefix)]}{int(count)}",
                    "path": self.words[int(path)],
                    "target": self.words[int(target)],
                    "state": STATES[int(code) & 7],
                    "started": started,
                    "waited": waited,
                    "elapsed": elapsed,
                    "worker": int(worker),
                    "size": int(size),
                }
        return self

    def states(self) -> dict[str, str]:
        """Return the states by id."""
        return {row["id"]: row["state"] for row in self.rows.values()}


def test_ten_thousand_random_transitions_show_as_they_happened(
    flusher: ManualFlusher, monitor: TransactionMonitor
) -> None:
    dice = random.Random(11)
    calls = TransactionManager(HeadTransactionIdGenerator())
    page = page_of(monitor)
    early, late = Reader(page), Reader(page)
    page.say({"kind": "hello"})
    expected: dict[str, str] = {}
    living: list[AsyncResult] = []
    for step in range(10_000):
        if not living or dice.random() < 0.4:
            result = calls.new(f"path{dice.randrange(5)}")
            result.target = dice.choice(("worker", "crunch"))
            living.append(result)
            expected[str(result.id)] = "pending"
        else:
            result = dice.choice(living)
            how = dice.choice(("start", *ENDS))
            expected[str(result.id)] = str(move(calls, result, how))
            if how != "start":
                living.remove(result)
        if step % 150 == 0:
            flusher.flush()
        if step == 7000:
            flusher.flush()
            late.read = len(page.messages)
            page.say({"kind": "hello"})  # a second view, or the page loaded again
    late_enough = int(time.monotonic()) + 4
    for moment in (0.1, 0.2):  # within one second: the summary for the next page's first paint, then the rows
        flusher.flush(late_enough + moment)
    assert early.take().states() == expected
    assert late.take().states() == expected
    counts = {state: list(expected.values()).count(state) for state in STATES}
    assert dict(zip(STATES, early.summary["counts"], strict=True)) == counts
    assert page.state["summary"] == early.summary == late.summary


def test_nothing_is_sent_when_nothing_happens(flusher: ManualFlusher, monitor: TransactionMonitor) -> None:
    page = page_of(monitor)
    page.say({"kind": "hello"})
    start = monitor._second + 0.2  # within one second, for which there are no rates yet
    flusher.flush(start)
    before = page.sent
    flusher.flush(start + 0.1)
    flusher.flush(start + 0.2)
    assert page.sent == before


def test_a_round_is_one_message_however_many_calls_it_tells_of(
    flusher: ManualFlusher, monitor: TransactionMonitor
) -> None:
    calls = TransactionManager(HeadTransactionIdGenerator())
    page = page_of(monitor)
    page.say({"kind": "hello"})
    for number in range(80):  # ten seconds; the summary for the next page's first paint and the waits are in there too
        for _ in range(625):
            calls.release(calls.new("a.b").id, None)
        monitor._waits.found = {"title": "calls wait"} if number % 10 == 5 else None
        before = page.sent
        flusher.flush(monitor._made_at + number * flusher.period)
        assert page.sent - before <= 1
    assert {message["kind"] for message in page.messages} == {"full", "delta"}
    assert len(Reader(page).take().rows) == 50_000
    assert 1 / flusher.period <= 9


def test_what_comes_too_fast_is_counted_and_the_last_of_it_told(
    flusher: ManualFlusher, monitor: TransactionMonitor
) -> None:
    calls = TransactionManager(HeadTransactionIdGenerator())
    page = page_of(monitor)
    page.say({"kind": "hello"})
    waiting = [calls.new("slow") for _ in range(3)]
    now = monitor._made_at
    flusher.flush(now)
    calls.release(waiting[0].id, None)
    for number in range(10):
        for _ in range(2_500):
            calls.release(calls.new("a.b").id, None)
        now += 0.1
        flusher.flush(now)
        assert page.messages[-1]["summary"]["counts"][3] == 1 + 2_500 * (number + 1)  # counters are never behind
    flusher.flush(now + 1)
    reader = Reader(page).take()
    assert [number for number, row in reader.rows.items() if row["state"] == "pending"] == [2, 3]
    kept = {record.number: str(record.state) for record in monitor.observer}
    assert len(kept) == 10_002
    assert {number: row["state"] for number, row in reader.rows.items() if number in kept} == kept


def test_a_page_that_is_not_heard_is_told_everything_unasked(
    flusher: ManualFlusher, monitor: TransactionMonitor
) -> None:
    calls = TransactionManager(HeadTransactionIdGenerator())
    page = page_of(monitor)
    calls.new("before")
    flusher.flush(monitor._made_at + 0.1)
    calls.new("later")
    flusher.flush(monitor._made_at + 0.6)
    calls.new("last")
    flusher.flush(monitor._made_at + 0.7)
    assert [row["path"] for row in Reader(page).take().rows.values()] == ["before", "later", "last"]


def test_ten_thousand_calls_a_second_cost_little_and_few_messages(
    flusher: ManualFlusher, monitor: TransactionMonitor, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = TransactionManager(HeadTransactionIdGenerator())
    page = page_of(monitor)
    page.say({"kind": "hello"})
    seconds = (monitor._second + number for number in range(1, 1000))
    messages, alone, watched = 0, [], []
    for _ in range(5):  # in turns, and the best of each: whatever else the machine does meanwhile only adds
        monitor.observer.close()
        alone.append(cost_of_calls(calls, lambda: None))
        monitor.observer.reopen()
        before, times = page.sent, itertools.count(next(seconds), flusher.period)
        watched.append(cost_of_calls(calls, lambda times=times: flusher.flush(next(times))))
        messages = max(messages, page.sent - before)
    extra = min(watched) - min(alone)
    with capsys.disabled():
        print(f"\nwatching: {1e6 * extra:.1f} µs a call; {messages} messages a second")  # noqa: T201
    assert messages <= 9
    assert extra < 3 * min(alone)  # making and ending a bare transaction: a tenth of what a whole call costs


def cost_of_calls(calls: TransactionManager, do: Callable[[], object]) -> float:
    """Return the processor time of one call, of 10,000 of them in the eight rounds of a second."""
    start = time.process_time()
    for number in range(10_000):
        calls.release(calls.new("maths.half").id, None)
        if number % 1250 == 0:
            do()
    return (time.process_time() - start) / 10_000


def test_errors_go_with_their_rows(flusher: ManualFlusher, monitor: TransactionMonitor) -> None:
    calls = TransactionManager(HeadTransactionIdGenerator())
    page = page_of(monitor)
    page.say({"kind": "hello"})
    move(calls, calls.new("a"), "fail")
    flusher.flush(monitor._second + 0.2)
    assert Reader(page).take().errors == {"1": "ValueError: no"}


def test_details_cancel_and_clear(flusher: ManualFlusher, monitor: TransactionMonitor) -> None:
    calls = TransactionManager(HeadTransactionIdGenerator())
    page = page_of(monitor)
    page.say({"kind": "hello"})
    gone, kept = calls.new("a"), calls.new("b")
    calls.release(gone.id, 3)
    gone_number, kept_number = 1, 2
    flusher.flush(monitor._second + 0.2)
    page.say({"kind": "look", "number": gone_number})
    assert page.last("detail")["detail"]["result"]["data"]["text/plain"] == "3"
    page.say({"kind": "cancel", "number": kept_number})
    assert kept.state is CallState.CANCELLED
    page.say({"kind": "look", "number": 99})
    assert page.last("detail")["detail"] is None
    flusher.flush(monitor._second + 0.2)
    page.say({"kind": "clear"})
    assert Reader(page).take().rows == {}


def test_arguments_are_searched_when_a_page_asks(flusher: ManualFlusher, monitor: TransactionMonitor) -> None:
    page = page_of(monitor)
    page.say({"kind": "hello"})

    def found(text: str) -> list[int]:
        flusher.flush()
        page.say({"kind": "find", "text": text})
        reply: list[int] = page.last("found")["numbers"]
        return reply

    with epyrpc.spawn("worker") as worker:
        worker.set_handler("fit", lambda data, *, name="": name)
        calls = [worker.submit.fit([1, 2], name=name) for name in ("Decay", "growth")]
        assert [call.result() for call in calls] == ["Decay", "growth"]
        flusher.flush()
        rows = Reader(page).take().rows
        numbers = {row["id"]: number for number, row in rows.items()}
        decay, growth = (numbers[str(call.id)] for call in calls)
        assert found("name='decay'") == [decay]
        assert found("[1, 2]") == [growth, decay]
        assert found("no such thing") == []
        del calls[0]
        assert found("decay") == []  # nobody holds the call, so its arguments have gone too


def test_rates_and_latencies_are_told_once_a_second(flusher: ManualFlusher, monitor: TransactionMonitor) -> None:
    calls = TransactionManager(HeadTransactionIdGenerator())
    page = page_of(monitor)
    page.say({"kind": "hello"})
    second = float(monitor._second)
    for _ in range(50):
        calls.release(calls.new("a").id, None)
    flusher.flush(second + 0.5)
    assert page.last("delta")["summary"]["rates"] == []
    flusher.flush(second + 1.6)
    ((ended, p50, p99),) = page.last("delta")["summary"]["rates"]
    assert ended == 50
    assert 0 < p50 <= p99


def test_a_row_says_which_worker_runs_it_and_what_it_takes(flusher: ManualFlusher, monitor: TransactionMonitor) -> None:
    page = page_of(monitor)
    page.say({"kind": "hello"})
    with epyrpc.spawn("worker", workers=3) as worker:
        worker.set_handler("hold", lambda n, data: epyrpc.head.call.gate(n))
        gate = threading.Event()
        worker.on("gate", lambda n: gate.wait(30))
        calls = [worker.submit.hold(n, bytes(1000 * n)) for n in range(3)]
        reader = Reader(page)

        def workers() -> dict[str, int]:
            flusher.flush()
            return {row["id"]: row["worker"] for row in reader.take().rows.values() if row["path"] == "hold"}

        eventually(lambda: sorted(workers().values()) == [1, 2, 3])
        assert reader.summary["workers"] == {"worker": 3}
        gate.set()
        assert [call.result() for call in calls] == [True] * 3
        assert sorted(workers().values()) == [1, 2, 3]
        sizes = {row["id"]: row["size"] for row in reader.rows.values()}
        for n, call in enumerate(calls):
            seen = epyrpc.snapshot(call)
            assert 1000 * n < seen.sent < 1000 * n + 200
            assert sizes[str(call.id)] == seen.sent + seen.received
