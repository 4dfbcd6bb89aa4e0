"""Gathered calls: the list shows every call's state, and a tally that agrees."""

from __future__ import annotations

import random
from typing import Any

from epyrpc import gather
from epyrpc.results import AsyncResult
from epyrpc.transactions import HeadTransactionIdGenerator, TransactionManager
from epyrpc_widgets import view_of
from tests.test_observing import ENDS, move
from tests.widgets.conftest import ManualFlusher, Page, page_of


def rows_of(page: Page) -> dict[str, str]:
    """Return the states by id, as a page puts them together."""
    rows: dict[str, dict[str, Any]] = {}
    for message in page.messages:
        if message["kind"] == "full":
            rows = {}
        if message["kind"] in ("full", "delta"):
            rows.update(message["rows"])
    return {row["id"]: row["state"] for row in rows.values()}


def test_ten_thousand_random_transitions_show_as_they_happened(flusher: ManualFlusher) -> None:
    dice = random.Random(5)
    for _ in range(50):
        calls = TransactionManager(HeadTransactionIdGenerator())
        gathered = gather(calls.new("a.b") for _ in range(60))
        page = page_of(view_of(gathered))
        page.say({"kind": "hello"})
        living: list[AsyncResult] = list(gathered)
        for step in range(200):
            if not living:
                break
            result = dice.choice(living)
            how = dice.choice(("start", *ENDS))
            move(calls, result, how)
            if how != "start":
                living.remove(result)
            if step % 20 == 0:
                flusher.flush()
        flusher.flush()
        assert rows_of(page) == {str(call.id): str(call.state) for call in gathered}
        assert page.state["summary"]["counts"] == {str(state): n for state, n in gathered.states.items()}


def test_cancel_all_and_one(flusher: ManualFlusher) -> None:
    calls = TransactionManager(HeadTransactionIdGenerator())
    gathered = gather(calls.new("a.b") for _ in range(3))
    page = page_of(view_of(gathered))
    page.say({"kind": "cancel", "index": 1})
    assert [call.cancelled() for call in gathered] == [False, True, False]
    page.say({"kind": "cancel all"})
    assert all(call.cancelled() for call in gathered)
    flusher.flush()
    assert page.state["summary"]["over"]


def test_a_row_that_is_opened_is_the_calls_own_view(flusher: ManualFlusher) -> None:
    calls = TransactionManager(HeadTransactionIdGenerator())
    gathered = gather([calls.new("a.b")])
    page = page_of(view_of(gathered))
    page.say({"kind": "open", "index": 0})
    view = view_of(gathered[0])
    assert view is not None
    assert page.last("opened")["model"] == view.model_id


def test_nothing_is_sent_when_nothing_changes(flusher: ManualFlusher) -> None:
    calls = TransactionManager(HeadTransactionIdGenerator())
    page = page_of(view_of(gather(calls.new("a.b") for _ in range(30))))
    page.say({"kind": "hello"})
    before = page.sent
    flusher.flush()
    flusher.flush()
    assert page.sent == before
