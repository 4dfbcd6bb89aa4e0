"""The card of a body: its state is the body's state, and its buttons do what they say."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import epyrpc
from epyrpc_widgets import BodyCard, view_of
from tests.widgets.conftest import ManualFlusher, Page, page_of

pytestmark = pytest.mark.capability("M3")


def wait_for(flusher: ManualFlusher, condition: Callable[[], Any], seconds: float = 30) -> None:
    """Make rounds until something is so."""
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "it did not come"
        flusher.flush()
        time.sleep(0.02)


def card_of(page: Page) -> dict[str, Any]:
    """Return the card as the page has it."""
    return dict(page.state["card"])


def test_a_card_follows_its_body_from_running_to_died_and_back(flusher: ManualFlusher) -> None:
    with epyrpc.spawn("worker", workers=2) as worker:
        worker.set_handler("a.b", len)
        page = page_of(view_of(worker))
        card = card_of(page)
        assert (card["name"], card["state"], card["pid"]) == ("worker", "running", worker.pid)
        assert (card["busy"], card["workers"], card["waiting"]) == (0, 2, 0)
        assert card["paths"] == ["a.b"]
        for _ in range(3):
            worker.submit(time.sleep, 60)
        wait_for(flusher, lambda: (card_of(page)["busy"], card_of(page)["waiting"]) == (2, 1))
        old = worker.pid
        assert old is not None
        os.kill(old, signal.SIGKILL)
        wait_for(flusher, lambda: card_of(page)["state"] == "died")
        assert "SIGKILL" in card_of(page)["why"]
        assert card_of(page)["pid"] is None
        page.say({"kind": "restart"})
        wait_for(flusher, lambda: card_of(page)["state"] == "running")
        assert card_of(page)["pid"] not in (None, old)
        wait_for(flusher, lambda: any(message["kind"] == "did" for message in page.messages))
    flusher.flush()
    assert card_of(page)["state"] == "stopped"


def test_figures_come_once_a_second_and_nothing_is_sent_between(flusher: ManualFlusher) -> None:
    with epyrpc.spawn("worker") as worker:
        card = BodyCard(worker)
        start = time.monotonic() + 10
        for step in range(41):
            flusher.flush(start + step / 10)
        assert page_of(card).sent <= 5
        assert len(card_of(page_of(card))["rss"]) >= 4
        assert card_of(page_of(card))["rss"][-1] > 1_000_000


def test_interrupt_says_what_it_did(flusher: ManualFlusher) -> None:
    with epyrpc.spawn("worker", start_method="thread") as worker:
        page = page_of(BodyCard.of(worker))
        page.say({"kind": "interrupt"})
        wait_for(flusher, lambda: page.messages)
        assert page.last("did") == {"kind": "did", "what": "interrupt", "text": "runs nothing now"}
        assert card_of(page)["thread"]


def test_stop_stops_and_a_button_that_fails_says_why(flusher: ManualFlusher) -> None:
    worker = epyrpc.spawn("worker", start_method="thread")
    page = page_of(BodyCard.of(worker))
    page.say({"kind": "stop"})
    wait_for(flusher, lambda: card_of(page)["state"] == "stopped")
    wait_for(flusher, lambda: page.messages)
    page.say({"kind": "interrupt"})
    wait_for(flusher, lambda: len(page.messages) == 2)
    assert "BodyLost" in page.last("did")["text"]
    for thread in threading.enumerate():
        if thread.name.startswith("epyrpc-interrupt"):
            thread.join(5)


def test_one_body_has_one_card(flusher: ManualFlusher) -> None:
    with epyrpc.spawn("worker", start_method="thread") as worker:
        assert view_of(worker) is view_of(worker)
