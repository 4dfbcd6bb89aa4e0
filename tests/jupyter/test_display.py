"""Text and static tables of calls."""

from __future__ import annotations

import pytest

from epyrpc.errors import BodyDied
from epyrpc.jupyter.display import BodyList, call_html, call_line, call_text, describe_value
from epyrpc.news import Progress
from epyrpc.results import AsyncResult, CallState
from epyrpc.transactions import HeadTransactionIdGenerator, TransactionManager


def call(
    state: CallState = CallState.PENDING, *, error: BaseException | None = None, path: str = "fit.decay"
) -> AsyncResult:
    """Return a call in some state."""
    manager = TransactionManager(HeadTransactionIdGenerator())
    result = manager.new(path)
    result.target = "worker"
    if state is CallState.DONE:
        manager.release(result.id, [1, 2])
    elif state.ended:
        result._settle(state, error=error)
    else:
        result._call_state = state
    return result


def cells(html: str) -> list[str]:
    """Return the text of a table's cells."""
    import re

    return [re.sub("<[^>]+>", "", cell) for cell in re.findall("<td>(.*?)</td>", html)]


@pytest.mark.parametrize(
    ("state", "error", "shown", "detail"),
    [
        (CallState.PENDING, None, "○ pending", ""),
        (CallState.RUNNING, None, "◐ running", "3/50"),
        (CallState.DONE, None, "✓ done", "[1, 2]"),
        (CallState.FAILED, ValueError("no <convergence>"), "× failed", "ValueError: no &lt;convergence&gt;"),
        (CallState.TIMED_OUT, TimeoutError("late"), "◷ timed out", "limit 2.00 s · handler interrupted"),
        (CallState.CANCELLED, None, "⊘ cancelled", "by you · handler interrupted"),
        (CallState.LOST, BodyDied("worker", 1, -9), "△ lost", "was killed by SIGKILL"),
    ],
)
def test_static_table_of_a_call(state: CallState, error: BaseException | None, shown: str, detail: str) -> None:
    result = call(state, error=error)
    result.deadline, result.stopped = 2.0, "raised"
    result._progress = Progress(3, 50, None, None)
    html = call_html(result)
    first, path, body, identifier, elapsed, last = cells(html)
    assert (first, path, body) == (shown, "fit.decay", "worker")
    assert identifier == str(result.id)
    assert elapsed.endswith("s")
    assert detail in last
    assert ("Last known state" in html) == (not state.ended)
    assert "style" not in html
    assert "class" not in html


def test_saved_text_of_a_call_does_not_change() -> None:
    assert {call_text(call(state)) for state in (CallState.PENDING, CallState.RUNNING, CallState.DONE)} == {
        "AsyncResult(fit.decay on worker)"
    }


def test_line_of_a_call_in_a_terminal() -> None:
    assert call_line(call(CallState.DONE)).startswith("done · fit.decay · worker · H")
    assert call_line(call(CallState.DONE)).endswith(" · [1, 2]")


def test_last_printed_line_stands_for_a_running_call() -> None:
    result = call(CallState.RUNNING)
    result._apply_note("output", ("stdout", "first\nsecond line\n"))
    assert cells(call_html(result))[-1].endswith("second line")


def test_values_are_described_in_a_few_words() -> None:
    class Table:
        shape = (1000, 3)

    class Broken:
        def __repr__(self) -> str:
            raise RuntimeError

    assert describe_value(Table()) == "Table 1,000 × 3"
    assert describe_value(Broken()) == "Broken whose repr raises RuntimeError"
    assert describe_value(None) == ""
    assert describe_value(1.5) == "1.5"


def test_list_without_bodies_says_how_to_get_one() -> None:
    assert repr(BodyList([])) == "no bodies: %body spawn NAME starts one"
    assert "<p>no bodies" in BodyList([])._repr_html_()
