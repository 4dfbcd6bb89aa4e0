"""The row of a call: what a page shows is the call's state, always."""

from __future__ import annotations

import random
import threading
from typing import Any

import pytest

import epyrpc
from epyrpc.errors import ApiError
from epyrpc.results import AsyncResult
from epyrpc.transactions import HeadTransactionIdGenerator, TransactionManager
from epyrpc_widgets import CallView, view_of
from tests.bodies.tools import eventually
from tests.test_observing import ENDS, move
from tests.widgets.conftest import ManualFlusher, page_of

pytestmark = pytest.mark.capability("M3")


def call(path: str = "fit.decay", target: str = "worker") -> tuple[TransactionManager, AsyncResult]:
    calls = TransactionManager(HeadTransactionIdGenerator())
    result = calls.new(path)
    result.target = target
    return calls, result


def test_ten_thousand_random_transitions_show_as_they_happened(flusher: ManualFlusher) -> None:
    dice = random.Random(3)
    calls = TransactionManager(HeadTransactionIdGenerator())
    expected: dict[str, str] = {}
    living: list[AsyncResult] = []
    shown: list[CallView] = []
    for step in range(10_000):
        if not living or (len(shown) < 300 and dice.random() < 0.3):
            result = calls.new(f"path{dice.randrange(5)}")
            living.append(result)
            shown.append(CallView(result))
            expected[str(result.id)] = "pending"
        elif dice.random() < 0.9:
            result = dice.choice(living)
            done = dice.randrange(50)
            result._apply_note("progress", (done, 50, 10.0, 1.0))
        else:
            result = dice.choice(living)
            how = dice.choice(("start", "start", *ENDS))
            expected[str(result.id)] = str(move(calls, result, how))
            if how != "start":
                living.remove(result)
        if step % 200 == 0:
            flusher.flush()
    flusher.flush()
    pages = [page_of(view).state["row"] for view in shown]
    assert {row["id"]: row["state"] for row in pages} == expected
    for view, row in zip(shown, pages, strict=True):
        progress = view._call.progress
        assert row["progress"] == (None if row["ended"] or progress is None else list(progress))
        assert row["button"] == ("" if row["ended"] else "cancel")


def test_nothing_is_sent_when_nothing_changes(flusher: ManualFlusher) -> None:
    calls, result = call()
    page = page_of(CallView.of(result))
    for _ in range(10):
        flusher.flush()
    assert page.sent == 0
    move(calls, result, "start")
    for _ in range(10):
        flusher.flush()
    assert page.sent == 1
    assert page.state["row"]["state"] == "running"


def test_many_steps_between_two_rounds_are_one_message(flusher: ManualFlusher) -> None:
    _, result = call()
    page = page_of(CallView.of(result))
    for step in range(1000):
        result._apply_note("progress", (step, 1000, None, None))
    flusher.flush()
    assert page.sent == 1
    assert page.state["row"]["progress"][0] == 999


def test_a_call_that_has_ended_is_looked_after_no_more(flusher: ManualFlusher) -> None:
    calls, result = call()
    view = CallView.of(result)
    move(calls, result, "release")
    flusher.flush()
    assert page_of(view).state["row"]["state"] == "done"
    assert flusher.views == []


def test_how_a_cancelled_call_was_stopped_is_shown_when_it_is_known(flusher: ManualFlusher) -> None:
    _, result = call()
    view = CallView.of(result)
    result.cancel()
    flusher.flush(now=100.0)
    assert page_of(view).state["row"]["text"] == "by you"
    result.stopped = "raised"
    flusher.flush(now=101.0)
    assert page_of(view).state["row"]["text"] == "by you · handler interrupted"
    assert flusher.views == []


def test_one_call_has_one_view_wherever_it_is_displayed(flusher: ManualFlusher) -> None:
    _, result = call()
    assert view_of(result) is view_of(result)
    assert view_of(3) is None
    assert repr(view_of(result)) == "CallView()"


def test_cancel_cancels(flusher: ManualFlusher) -> None:
    _, result = call()
    page = page_of(CallView.of(result))
    page.say({"kind": "cancel"})
    assert result.cancelled()
    flusher.flush()
    assert page.state["row"]["state"] == "cancelled"


def test_an_opened_row_tells_output_as_it_comes_and_a_closed_one_does_not(flusher: ManualFlusher) -> None:
    _, result = call()
    page = page_of(CallView.of(result))
    result._apply_note("output", ("stdout", "one\n"))
    page.say({"kind": "open", "view": "a"})
    assert text_of(page.last("full")["detail"]["outputs"]) == "one\n"
    result._apply_note("output", ("stderr", "two\n"))
    flusher.flush()
    assert [o["name"] for o in page.last("delta")["outputs"]] == ["stdout", "stderr"]
    page.say({"kind": "close", "view": "a"})
    before = len(page.messages)
    result._apply_note("output", ("stdout", "three\n"))
    flusher.flush()
    assert len(page.messages) == before
    page.say({"kind": "open", "view": "b"})
    assert text_of(page.last("full")["detail"]["outputs"]) == "one\ntwo\nthree\n"


def text_of(outputs: list[dict[str, Any]]) -> str:
    return "".join(output["text"] for output in outputs)


def test_long_output_is_cut_at_its_beginning(flusher: ManualFlusher) -> None:
    _, result = call()
    page = page_of(CallView.of(result))
    for number in range(40_000):
        result._apply_note("output", ("stdout", f"line {number}\n"))
    page.say({"kind": "open", "view": "a"})
    text = text_of(page.last("full")["detail"]["outputs"])
    assert text.startswith("[")
    assert text.endswith("line 39999\n")
    assert len(text) < 110_000


def test_an_opened_failure_shows_message_and_frames(flusher: ManualFlusher) -> None:
    calls, result = call()

    def fails() -> None:
        raise ValueError("no convergence")

    try:
        fails()
    except ValueError as exc:
        frame = calls.encode_error(exc)
    from epyrpc.messages import ERROR, Frame

    calls.deliver(Frame(ERROR, 0, result._tid, "", None, frame, []))
    page = page_of(CallView.of(result))
    page.say({"kind": "open", "view": "a"})
    error = page.last("full")["detail"]["error"]
    assert error["message"] == "ValueError: no convergence"
    assert error["where"] == "raised in body worker"
    last = error["frames"][-1]
    assert last["function"] == "fails"
    assert dict(last["source"])[last["line"]].strip() == 'raise ValueError("no convergence")'


def test_a_result_is_shown_in_its_richest_form_that_fits(flusher: ManualFlusher) -> None:
    calls, result = call()
    calls.release(result.id, {"a": [1, 2]})
    page = page_of(CallView.of(result))
    page.say({"kind": "open", "view": "a"})
    assert page.last("full")["detail"]["result"]["data"]["text/plain"] == "{'a': [1, 2]}"


def test_retry_that_is_not_possible_is_said(flusher: ManualFlusher) -> None:
    calls, result = call()
    move(calls, result, "fail")
    view = CallView.of(result)
    assert page_of(view).state["row"]["button"] == ""  # its arguments are not kept
    with pytest.raises(ApiError, match="not kept"):
        result.again()
    view._retry()
    assert "not kept" in page_of(view).last("retried")["error"]


def test_a_view_that_fails_does_not_stop_the_others(flusher: ManualFlusher, monkeypatch: pytest.MonkeyPatch) -> None:
    _, first = call()
    calls, second = call()
    broken, view = CallView.of(first), CallView.of(second)
    monkeypatch.setattr(broken, "_look", lambda: 1 / 0)
    move(calls, second, "start")
    flusher.flush()
    assert flusher.views == [view]
    assert page_of(view).state["row"]["state"] == "running"


def test_a_call_that_waits_says_its_place_in_line(flusher: ManualFlusher) -> None:
    gate = threading.Event()
    with epyrpc.spawn("worker", workers=1) as worker:
        worker.on("gate", lambda: gate.wait(30))
        worker.set_handler("hold", lambda: epyrpc.head.call.gate())
        calls = [worker.submit.hold() for _ in range(3)]
        pages = [page_of(view_of(call)) for call in calls]

        def said() -> list[tuple[str, str]]:
            flusher.flush()
            return [(page.state["row"]["state"], page.state["row"]["text"]) for page in pages]

        eventually(lambda: said() == [("running", ""), ("pending", "next in line"), ("pending", "2nd in line")])
        gate.set()
        assert [call.result() for call in calls] == [True] * 3
        assert [state for state, _ in said()] == ["done"] * 3
