"""The line that a cell shows when it waits long for a body."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.jupyter.kernels import LIMIT, Kernel, Message, Outcome

SHOWN = ("display_data", "update_display_data")


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Path]:
    """Give a file that cells wait for; there at the end of the test, whatever happens."""
    file = tmp_path / "gate"
    yield file
    file.touch()


def wait_for(gate: Path, seconds: float = LIMIT) -> str:
    """Return source that waits until the file is there, or some seconds."""
    return f"""
import os, time
limit = time.monotonic() + {seconds}
while not os.path.exists({str(gate)!r}) and time.monotonic() < limit: time.sleep(0.01)
"""


def displays(outcome: Outcome) -> list[Message]:
    """Return the displays of a cell, and what has become of them."""
    return [m for m in outcome.messages if m.kind in SHOWN]


def last_word(nb: Kernel, cell: str, shown: Message) -> Message:
    """Return the last update of a display, which may come when its cell has ended."""
    later = nb.run("import time; time.sleep(0.3)")
    updates = [m for m in later.others if m.parent == cell and m.kind == "update_display_data"]
    updates = [m for m in updates if m.content["transient"] == shown.content["transient"]]
    return updates[-1] if updates else shown


def test_a_cell_is_looked_at_twice_a_second_and_no_more(nb: Kernel) -> None:
    nb.ok("""
        from epyrpc.jupyter.patience import Patience
        looks, look = [], Patience._look
        Patience._look = lambda self: (looks.append(1), look(self))
    """)
    try:
        for _ in range(3):  # a cell that begins soon after another used to have it look all the time
            nb.ok("looks.clear()")
        nb.ok("import time; time.sleep(0.6)")
        assert 1 <= int(nb.value("len(looks)")) <= 6
    finally:
        nb.ok("Patience._look = look")


def test_long_wait_shows_one_line_that_goes_in_the_end(nb: Kernel, gate: Path) -> None:
    cell = nb.send(f"%%body worker --progress-after 0.3\nprint('before')\n{wait_for(gate)}\nprint('after')")
    seen = nb.watch(cell, until=lambda message: message.kind == "display_data")
    shown = seen.messages[-1]
    assert shown.text.startswith("waiting for worker: In[")
    assert shown.text.endswith(" s; ■ stops it")
    assert "running" in shown.text
    update = nb.watch(cell, until=lambda message: message.kind == "update_display_data").messages[-1]
    assert update.content["transient"] == shown.content["transient"]
    assert update.text != shown.text  # kept up to date
    gate.touch()
    outcome = nb.watch(cell)
    assert outcome.stdout == "after\n"
    last = displays(outcome)[-1] if displays(outcome) else last_word(nb, cell, update)
    assert last.content["data"] == {}
    assert not [m for m in displays(outcome) if m.kind == "display_data"]


def test_call_and_result_show_it_too_and_say_what_they_are_queued_behind(nb: Kernel, gate: Path) -> None:
    nb.ok("import epyrpc.jupyter.patience as patience; patience.PROGRESS_AFTER = 0.3")
    nb.ok(f"held = [worker.submit(exec, {wait_for(gate)!r}, {{}}) for _ in range(4)]")
    cell = nb.send("worker.call(abs, -1)")
    shown = nb.watch(cell, until=lambda message: message.kind == "display_data").messages[-1]
    assert shown.text.startswith("waiting for worker: abs, ")
    assert "queued behind" in shown.text
    gate.touch()
    assert nb.watch(cell).status == "ok"
    nb.ok("[h.result(20) for h in held]; patience.PROGRESS_AFTER = 5.0")


def test_interrupt_takes_it_away(nb: Kernel, gate: Path) -> None:
    cell = nb.send(f"%%body worker --progress-after 0.3\n{wait_for(gate)}")
    shown = nb.watch(cell, until=lambda message: message.kind == "display_data").messages[-1]
    nb.manager.interrupt_kernel()
    outcome = nb.watch(cell)
    assert outcome.status == "error"
    last = displays(outcome)[-1] if displays(outcome) else last_word(nb, cell, shown)
    assert last.content["data"] == {}


def test_short_wait_shows_nothing(nb: Kernel, gate: Path) -> None:
    assert displays(nb.ok(f"%%body worker\n{wait_for(gate, 1.5)}")) == []


def test_where_nobody_watches_nothing_is_shown(nb: Kernel, gate: Path) -> None:
    source = f"%%body worker --progress-after 0.2\n{wait_for(gate, 1.5)}"
    outcome = nb.watch(str(nb.client.execute(source, allow_stdin=False)))
    assert outcome.status == "ok"
    assert displays(outcome) == []


def test_a_question_is_not_waiting(nb: Kernel) -> None:
    cell = nb.send("%%body worker --progress-after 1\nprint(input('name? '))")
    nb.client.get_stdin_msg(timeout=LIMIT)
    with pytest.raises(AssertionError, match="silent"):
        watch_briefly(nb, cell)
    nb.client.input("Ann")
    outcome = nb.watch(cell)
    assert outcome.stdout == "Ann\n"
    assert displays(outcome) == []


def watch_briefly(nb: Kernel, cell: str) -> None:
    """Watch a cell for 2 s, in which a line would come."""
    import tests.jupyter.kernels as module

    before, module.LIMIT = module.LIMIT, 2.0
    try:
        nb.watch(cell, until=lambda message: message.kind in SHOWN)
    finally:
        module.LIMIT = before
