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


def test_calls_that_print_in_a_loop_send_few_messages(nb: Kernel) -> None:
    outcome = nb.ok("""
        def say(i): print("call", i)
        for i in range(300):
            worker.call(say, i)
            print("head", i)
    """)
    assert outcome.stdout == "".join(f"call {i}\nhead {i}\n" for i in range(300))
    check_pace(outcome)


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

    def publish_text(self, stream: str, text: str, now: bool) -> None:
        self.got.append((stream, text))

    def publish_display(self, display: Any) -> None:
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
        def publish_text(self, stream: str, text: str, now: bool) -> None:
            if len(self.got) == 1:
                self.got.append("interrupt")
                raise KeyboardInterrupt
            super().publish_text(stream, text, now)

    cell = Interrupted()
    for stream in ("stdout", "stderr", "stdout"):
        closed.put(cell, stream, stream)
    with pytest.raises(KeyboardInterrupt):
        closed.flush(cell)
    closed.flush(cell)
    assert cell.got == [("stdout", "stdout"), "interrupt", ("stderr", "stderr"), ("stdout", "stdout")]


def test_a_cell_that_cannot_be_written_to_does_not_stop_the_others() -> None:
    class Broken(Cell):
        def publish_text(self, stream: str, text: str, now: bool) -> None:
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
