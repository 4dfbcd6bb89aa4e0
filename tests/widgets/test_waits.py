"""The banner of calls that wait for one another."""

from __future__ import annotations

import threading

import epyrpc
from epyrpc_widgets import TransactionMonitor
from epyrpc_widgets.waits import chain_of
from tests.widgets.conftest import ManualFlusher, page_of
from tests.widgets.test_bodies import wait_for


def ask_back(go: str) -> object:
    return epyrpc.head.call.ask.rate()


def test_a_chain_is_shown_while_it_lasts_and_cancel_ends_it(flusher: ManualFlusher) -> None:
    go = threading.Event()
    monitor = TransactionMonitor()
    page = page_of(monitor)
    page.say({"kind": "hello"})
    with epyrpc.spawn("worker", workers=1) as worker:
        worker.set_handler("model.fit", ask_back)
        worker.on("ask.rate", go.wait)
        fit = worker.submit.model.fit("x")
        wait_for(flusher, lambda: any(message["waits"] for message in page.messages))
        waits = page.messages[-1]["waits"]
        assert waits["title"] == "2 calls wait for one another"
        assert waits["chain"].startswith(f"{fit.id} model.fit on worker → ")
        assert waits["chain"].endswith("ask.rate here")
        assert waits["deadlock"] == ""
        page.say({"kind": "cancel id", "id": waits["cancel"]})
        assert fit.cancelled()
        go.set()
        wait_for(flusher, lambda: page.last("delta")["waits"] is None)
    monitor.close()
    for thread in threading.enumerate():
        if thread.name == "epyrpc-waits":
            thread.join(5)


def test_nothing_waits_where_nothing_is_pending() -> None:
    assert chain_of(epyrpc.waiting()) is None
