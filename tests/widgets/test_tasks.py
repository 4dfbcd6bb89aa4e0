"""A pool's tasks as rows and lists, as calls are."""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

import pytest

import epyrpc
from epyrpc_widgets import view_of
from tests.widgets.conftest import ManualFlusher, page_of
from tests.widgets.test_bodies import wait_for


def test_a_task_is_a_row(flusher: ManualFlusher) -> None:
    gate = threading.Event()
    with epyrpc.Pool(1, name="crunch") as pool:
        pool.on("gate", lambda: gate.wait(30))

        def work(x: int) -> int:
            for _ in epyrpc.track(range(3)):
                sys.stdout.write("working\n")
            epyrpc.head.call.gate()
            return x + 1

        task = pool.submit(work, 1)
        page = page_of(view_of(task))
        assert view_of(task) is view_of(task)

        def row() -> dict[str, Any]:
            return dict(page.state["row"])

        wait_for(flusher, lambda: row()["progress"] is not None and row()["progress"][0] == 3)
        assert (row()["state"], row()["path"], row()["target"], row()["button"]) == (
            "running",
            "work",
            "crunch_1",
            "cancel",
        )
        gate.set()
        assert task.result(30) == 2
        wait_for(flusher, lambda: row()["state"] == "done")
        assert (row()["text"], row()["button"]) == ("2", "")
        page.say({"kind": "open", "view": "v"})
        detail = page.last("full")["detail"]
        assert detail["outputs"][0]["text"] == "working\n" * 3
        assert detail["result"]["data"]["text/plain"] == "2"


def test_a_button_cancels_a_task_that_runs(flusher: ManualFlusher) -> None:
    with epyrpc.Pool(1, name="crunch") as pool:
        task = pool.submit(time.sleep, 60)
        page = page_of(view_of(task))
        wait_for(flusher, lambda: page.state["row"]["state"] == "running")
        page.say({"kind": "cancel"})
        wait_for(flusher, lambda: page.state["row"]["state"] == "cancelled")
        assert task.cancelled()


def test_tasks_are_gathered(flusher: ManualFlusher) -> None:
    with epyrpc.Pool(2, name="crunch") as pool:
        tasks = epyrpc.gather([pool.submit(abs, -1), pool.submit(int, "x"), pool.submit(time.sleep, 60)])
        page = page_of(view_of(tasks))
        wait_for(flusher, lambda: page.state["summary"]["counts"] == {"done": 1, "failed": 1, "running": 1})
        with pytest.raises(TimeoutError):
            tasks.results(0.01, return_exceptions=True)
        page.say({"kind": "cancel all"})
        wait_for(flusher, lambda: page.state["summary"]["over"])
        assert page.state["summary"]["counts"] == {"done": 1, "failed": 1, "cancelled": 1}
        found = tasks.results(return_exceptions=True)
        assert [type(value).__name__ for value in found] == ["int", "ValueError", "CancelledError"]
