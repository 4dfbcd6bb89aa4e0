"""Much output: complete where a cell can bear it, bounded and said where not, at a pace that a front end takes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from epyrpc.jupyter import publisher
from epyrpc.jupyter.publisher import Budget, Publisher, Queue, Shown, Text
from tests.jupyter.kernels import VERSIONS, Kernel, Outcome, kernel, text_of


@pytest.fixture(scope="module", params=VERSIONS)
def empty_kernel(request: pytest.FixtureRequest) -> Iterator[Kernel]:
    with kernel("%load_ext epyrpc", "%body spawn first", "%body stop first", version=request.param) as started:
        yield started


def check_pace(outcome: Outcome) -> None:
    """Check that the server's rule is kept, no more than 3,000 messages in three seconds, with room left for others."""
    times = [m.when for m in outcome.messages]
    for start in times:
        assert sum(start <= when < start + 3 for when in times) < 2000


def test_the_kernels_are_what_they_are_called(nb: Kernel, request: pytest.FixtureRequest) -> None:
    version = request.node.callspec.params["empty_kernel"]
    if version != "installed":
        assert nb.ok("import ipykernel; print(ipykernel.__version__)").stdout.startswith(version)


def test_a_hundred_thousand_lines_are_complete_and_in_order(nb: Kernel) -> None:
    began = time.monotonic()
    outcome = nb.ok("""
        def page():
            for i in range(100_000): print("line", i)
        call = worker.submit(page)
        call.result(60)
        print("the end")
    """)
    assert outcome.stdout == "".join(f"line {i}\n" for i in range(100_000)) + "the end\n"
    assert time.monotonic() - began < 25
    streams = [m for m in outcome.messages if m.kind == "stream"]
    assert len(streams) < 1000
    kept = nb.ok("print(len(call.stdout.splitlines()), call.stdout[-11:])").stdout
    assert kept.endswith("line 99999\n\n")


def test_a_thousand_displays_are_complete_and_paced(nb: Kernel) -> None:
    outcome = nb.ok("""
        %%body worker
        for i in range(1000):
            display(i)
        print("shown")
    """)
    assert [m.text for m in outcome.messages if m.kind == "display_data"] == [str(i) for i in range(1000)]
    assert outcome.messages[-1].text == "shown\n"
    check_pace(outcome)


def test_calls_that_print_in_a_loop_keep_their_order_and_wait_for_no_message(nb: Kernel) -> None:
    nb.ok("""
        from epyrpc.jupyter.publisher import Budget
        waits, reserve = [], Budget.reserve
        Budget.reserve = lambda self: waits.append(reserve(self)) or waits[-1]
    """)
    try:
        outcome = nb.ok("""
            def say(i): print("call", i)
            for i in range(1000):
                worker.call(say, i)
                print("head", i)
        """)
    finally:
        waited = nb.ok("Budget.reserve = reserve; print(sum(waits))").stdout
    assert outcome.stdout == "".join(f"call {i}\nhead {i}\n" for i in range(1000))
    assert float(waited) == 0
    check_pace(outcome)


def test_calls_that_warn_in_a_loop_lose_nothing_and_wait_for_no_message(nb: Kernel) -> None:
    outcome = nb.ok("""
        import sys, time
        from epyrpc import results
        budget = results.make_output_sink.publisher._budget
        budget.charge(10_000)  # as if many had just been sent
        def warn(i): print("call", i, file=sys.stderr)
        for i in range(100):
            worker.call(warn, i)
            print("head", i)
        budget.charge(-10_000)
    """)
    assert outcome.stderr == "".join(f"call {i}\n" for i in range(100))
    assert outcome.stdout == "".join(f"head {i}\n" for i in range(100))


def test_the_two_streams_of_a_call_and_of_its_cell_keep_their_order(nb: Kernel) -> None:
    outcome = nb.ok("""
        import sys
        def say(text, stream): print(text, file=getattr(sys, stream))
        print(1)
        worker.call(say, 2, "stderr")
        print(3)
        worker.call(say, 4, "stdout")
        worker.call(say, 5, "stderr")
        print(6, file=sys.stderr)
        worker.call(say, 7, "stdout")
    """)
    assert "".join(m.text for m in outcome.messages) == "1\n2\n3\n4\n5\n6\n7\n"


def test_a_call_shows_what_it_prints_at_once(nb: Kernel) -> None:
    outcome = nb.ok("""
        import time
        def slow(): print("begun"); time.sleep(2)
        worker.call(slow)
    """)
    assert outcome.messages[0].text == "begun\n"
    assert outcome.messages[0].when < 1.5


def test_what_a_cell_cannot_bear_is_dropped_and_said(nb: Kernel) -> None:
    nb.ok("from epyrpc.jupyter import publisher; publisher.CELL_CHARACTERS = 10_000")
    try:
        outcome = nb.ok("""
            def flood():
                for i in range(3_000): print("x" * 99)
                return "over"
            call = worker.submit(flood)
            print(call.result(60), len(call.stdout))
        """)
    finally:
        nb.ok("publisher.CELL_CHARACTERS = 16_000_000")
    assert outcome.stdout.count("x") == 9900
    assert "[this cell has shown 10,000 characters, and shows no more]" in outcome.stdout
    assert "[290,000 characters came too fast or were too many for one cell, and were not shown here]" in outcome.stderr
    assert outcome.stdout.endswith("over 300000\n")


def test_an_endless_loop_of_prints_is_bounded_and_can_be_stopped(nb: Kernel) -> None:
    nb.ok("from epyrpc.jupyter import publisher; publisher.CELL_CHARACTERS = 1_000_000")
    nb.ok("""
        import os, psutil
        me = psutil.Process()
        def endless():
            while True: print("all work and no play " * 5)
    """)
    try:
        cell = nb.ok("call = worker.submit(endless)")
        later = nb.ok("""
            import time
            them = psutil.Process(worker.pid)
            def sizes(): return sum(p.memory_info().rss for p in (me, them))
            limit = time.monotonic() + 60
            # past every bound: what is kept and what may wait
            while len(call.stdout) < 1_000_000 and time.monotonic() < limit: time.sleep(0.1)
            time.sleep(1)
            before = sizes(); time.sleep(3); after = sizes()
            call.cancel()
            print(len(call.stdout) < 1_100_000, after - before < 60_000_000)
        """)
    finally:
        nb.ok("publisher.CELL_CHARACTERS = 16_000_000")
    assert later.stdout == "True True\n"
    assert len(text_of(cell.id, cell, later)) < 1_100_000
    assert nb.value("worker.call(lambda: 1)") == "1"


# --- without a kernel


class Cell:
    """Takes what is published."""

    is_here = False

    def __init__(self) -> None:
        self.queue = Queue()
        self.got: list[Any] = []

    def write(self, stream: str, text: str, budget: Budget) -> None:
        self.got.append(("written", stream, text))

    def hurry(self, stream: str, budget: Budget) -> None:
        pass

    def publish_text(self, stream: str, text: str, budget: Budget) -> None:
        self.got.append((stream, text))

    def publish_display(self, display: Any, budget: Budget) -> None:
        self.got.append(display)


@pytest.fixture
def closed() -> Publisher:
    """Give a publisher without a thread: only `flush` publishes."""
    made = Publisher()
    made.close()
    return made


def test_text_is_put_together_and_keeps_its_place_among_displays(closed: Publisher) -> None:
    cell = Cell()
    closed.put(cell, "stdout", "a")
    closed.put(cell, "stdout", "b")
    closed.put(cell, "stderr", "c")
    closed.put_display(cell, Shown("figure", 10))
    closed.put(cell, "stdout", "d")
    closed.flush(cell)
    assert cell.got == [("stdout", "ab"), ("stderr", "c"), "figure", ("stdout", "d")]


def test_the_cells_own_thread_writes_text_at_once_behind_what_waits(closed: Publisher) -> None:
    cell = Cell()
    closed.put_display(cell, Shown("figure", 10))
    cell.is_here = True
    closed.put(cell, "stdout", "a")
    assert cell.got == []  # behind the display, which takes a message
    closed.flush(cell)
    closed.put(cell, "stdout", "b")
    assert cell.got == ["figure", ("written", "stdout", "a"), ("written", "stdout", "b")]
    assert not closed._waiting


def test_the_cells_own_thread_needs_no_place_for_text(closed: Publisher) -> None:
    closed._budget.charge(10**6)
    cell = Cell()
    closed.put(cell, "stdout", "a")
    cell.is_here = True
    closed.flush(cell)
    closed.put(cell, "stdout", "b")
    assert [text for _, _, text in cell.got] == ["a", "b"]


def test_a_flush_does_not_wait_for_a_thread_that_waits_for_its_place() -> None:
    working = Publisher()
    working._budget.charge(10**6)  # the next place is an hour away
    cell = Cell()
    working.put(cell, "stdout", "a")
    cell.is_here = True
    working.flush(cell)
    working.close()
    assert cell.got == [("written", "stdout", "a")]


def test_only_the_last_of_several_updates_is_sent(closed: Publisher) -> None:
    cell = Cell()
    for i in range(100):
        closed.put_display(cell, Shown(f"at {i}", 10, replaces="bar"))
    closed.put_display(cell, Shown("other", 10, replaces="other"))
    closed.flush(cell)
    assert cell.got == ["at 99", "other"]


def test_what_would_be_cleared_away_is_left_out(closed: Publisher) -> None:
    cell = Cell()
    for i in range(5):
        closed.put(cell, "stdout", f"frame {i}")
        closed.put_display(cell, Shown("clear", 0, clears="later"))
    closed.flush(cell)
    assert cell.got == ["clear", ("stdout", "frame 4"), "clear"]
    closed.put(cell, "stdout", "old")
    closed.put_display(cell, Shown("elsewhere", 10, replaces="in another cell"))
    closed.put_display(cell, Shown("clear", 0, clears="now"))
    closed.flush(cell)
    assert cell.got[3:] == ["elsewhere", "clear"]


def test_displays_that_cannot_wait_are_counted(closed: Publisher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher, "WAITING_BYTES", 35)
    cell = Cell()
    for i in range(5):
        closed.put_display(cell, Shown(i, 10))
    closed.flush(cell)
    assert cell.got[:3] == [0, 1, 2]
    assert "[2 displays came too fast" in cell.got[3][1]
    closed.put_display(cell, Shown("again", 30))
    closed.flush(cell)
    assert cell.got[4:] == ["again"]


def test_an_interrupt_while_publishing_loses_nothing(closed: Publisher) -> None:
    class Interrupted(Cell):
        def publish_text(self, stream: str, text: str, budget: Budget) -> None:
            if len(self.got) == 1:
                self.got.append("interrupt")
                raise KeyboardInterrupt
            super().publish_text(stream, text, budget)

    cell = Interrupted()
    for stream in ("stdout", "stderr", "stdout"):
        closed.put(cell, stream, stream)
    with pytest.raises(KeyboardInterrupt):
        closed.flush(cell)
    closed.flush(cell)
    assert cell.got == [("stdout", "stdout"), "interrupt", ("stderr", "stderr"), ("stdout", "stdout")]


def test_a_cell_that_cannot_be_written_to_does_not_stop_the_others() -> None:
    class Broken(Cell):
        def publish_text(self, stream: str, text: str, budget: Budget) -> None:
            raise OSError("no front end")

    working = Publisher()
    broken, sound = Broken(), Cell()
    working.put(broken, "stdout", "lost")
    working.put(sound, "stdout", "shown")
    limit = time.monotonic() + 10
    while not sound.got and time.monotonic() < limit:
        time.sleep(0.01)
    working.close()
    assert sound.got == [("stdout", "shown")]


def test_budget_gives_a_burst_and_then_a_rate() -> None:
    now = [0.0]
    budget = Budget(10, 3, lambda: now[0])
    assert [budget.reserve() for _ in range(5)] == [0, 0, 0, pytest.approx(0.1), pytest.approx(0.2)]
    assert not budget.take_if_free()
    now[0] = 0.35
    assert budget.take_if_free()
    assert not budget.take_if_free()
    now[0] = 100
    assert [budget.reserve() for _ in range(4)] == [0, 0, 0, pytest.approx(0.1)]


def test_long_text_is_sent_in_pieces(closed: Publisher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher, "MESSAGE_CHARACTERS", 10)
    cell = Cell()
    for i in range(10):
        closed.put(cell, "stdout", f"{i}" * 5)
    assert [type(entry) for entry in cell.queue.entries] == [Text] * 5
    closed.flush(cell)
    assert "".join(text for _, text in cell.got) == "".join(f"{i}" * 5 for i in range(10))


@pytest.mark.parametrize("pieces", [[10], [4, 6], [10, 10], [7, 10]], ids=str)
def test_that_a_cell_is_full_is_said_once_wherever_a_piece_ends(
    pieces: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "CELL_CHARACTERS", 10)
    queue = Queue()
    for size in [*pieces, 1, 5]:
        queue.add_text("stdout", "x" * size)
    text = "".join(piece for entry in queue.entries if isinstance(entry, Text) for piece in entry.pieces)
    assert text == "x" * 10 + "\n[this cell has shown 10 characters, and shows no more]\n"
    assert queue.dropped_characters == sum(pieces) + 6 - 10
