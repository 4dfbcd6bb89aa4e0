"""The card of a pool."""

from __future__ import annotations

import time
from typing import Any

import epyrpc
from epyrpc_widgets import view_of
from tests.widgets.conftest import ManualFlusher, page_of
from tests.widgets.test_bodies import wait_for


def test_a_card_follows_its_pool(flusher: ManualFlusher) -> None:
    with epyrpc.Pool(2, name="crunch") as pool:
        page = page_of(view_of(pool))
        assert view_of(pool) is view_of(pool)

        def card() -> dict[str, Any]:
            return dict(page.state["card"])

        tasks = [pool.submit(time.sleep, 60) for _ in range(12)]
        wait_for(flusher, lambda: (card()["busy"], card()["processes"]) == (2, 2) and card()["queued"] >= 1)
        assert {member["state"] for member in card()["members"]} == {"running"}
        page.say({"kind": "stop"})
        wait_for(flusher, lambda: card()["state"] == "shut down")
        wait_for(flusher, lambda: page.messages)
        assert page.last("did")["what"] == "stop"
        assert all(task.done() or task.cancelled() for task in tasks)
    assert flusher.views == []


def test_what_is_done_is_counted(flusher: ManualFlusher) -> None:
    with epyrpc.Pool(2, name="crunch") as pool:
        page = page_of(view_of(pool))
        assert list(pool.map(abs, [-1, -2, -3], chunksize=1)) == [1, 2, 3]
        card = view_of(pool)
        assert card is not None
        card.flush(time.monotonic() + 5)
        assert page.state["card"]["done"] >= 1
        assert page.state["card"]["members"][0]["rss"] > 1_000_000
