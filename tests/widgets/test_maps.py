"""The view of a map: what it shows is what the map says of itself."""

from __future__ import annotations

import os
import signal
import threading
import time
from concurrent.futures import CancelledError
from typing import Any

import pytest

import epyrpc
from epyrpc_widgets import view_of
from epyrpc_widgets.maps import note_of
from tests.widgets.conftest import ManualFlusher, Page, page_of
from tests.widgets.test_bodies import wait_for


def summary(page: Page) -> dict[str, Any]:
    return dict(page.state["summary"])


def shares(page: Page) -> dict[str, dict[str, Any]]:
    return {line["body"]: line for line in page.state["bodies"]}


def test_a_map_is_shown_from_its_first_item_to_its_last(flusher: ManualFlusher) -> None:
    gate = threading.Event()
    with epyrpc.Pool(1, name="crunch") as pool:
        pool.on("gate.wait", lambda: gate.wait(30))

        def hold(n: int) -> int:
            if n >= 3:
                epyrpc.head.call.gate.wait()
            return -n

        results = pool.map(hold, range(8), chunksize=4)
        page = page_of(view_of(results))
        assert view_of(results) is view_of(results.run)  # type: ignore[attr-defined]
        wait_for(flusher, lambda: shares(page)["crunch_1"]["at"] == 3)
        seen = summary(page)
        assert (seen["state"], seen["total"], seen["path"], seen["pool"]) == ("running", 8, "hold", "crunch")
        assert seen["counts"] == {"done": 0, "failed": 0, "running": 4}
        assert shares(page)["crunch_1"]["items"] == [0, 3]
        assert "chunks of 4" in seen["note"]
        gate.set()
        assert list(results) == [0, -1, -2, -3, -4, -5, -6, -7]
        wait_for(flusher, lambda: summary(page)["over"])
        assert summary(page)["counts"] == {"done": 8, "failed": 0, "running": 0}
        assert summary(page)["state"] == "done"
        assert shares(page)["crunch_1"]["done"] == 8
        assert flusher.views == []  # it will not change any more
        before = page.sent
        flusher.flush()
        assert page.sent == before


def test_cancel_stops_a_map_and_says_so(flusher: ManualFlusher) -> None:
    with epyrpc.Pool(2, name="crunch") as pool:
        results = pool.map(time.sleep, [60.0] * 50, chunksize=1)
        page = page_of(view_of(results))
        wait_for(flusher, lambda: summary(page)["counts"]["running"] == 2)
        page.say({"kind": "cancel all"})
        wait_for(flusher, lambda: summary(page)["state"] == "cancelled")
        with pytest.raises(CancelledError, match="the map of sleep was cancelled"):
            list(results)
        assert results.cancel() is False  # type: ignore[attr-defined]
        assert list(pool.map(abs, [-1])) == [1]


@pytest.mark.parametrize(
    ("keep", "state"), [pytest.param(True, "done", id="kept"), pytest.param(False, "failed", id="raised")]
)
def test_items_that_fail_are_counted(flusher: ManualFlusher, keep: bool, state: str) -> None:
    with epyrpc.Pool(1, name="crunch") as pool:
        results = pool.map(int, ["1", "x", "3"], chunksize=3, return_exceptions=keep)
        page = page_of(view_of(results))
        if keep:
            assert [type(r) for r in results] == [int, ValueError, int]
        else:
            with pytest.raises(ValueError, match="x"):
                list(results)
        wait_for(flusher, lambda: summary(page)["over"])
        assert (summary(page)["state"], summary(page)["counts"]["failed"]) == (state, 1)


def test_what_ran_again_is_said(flusher: ManualFlusher) -> None:
    with epyrpc.Pool(1, name="crunch") as pool:
        first: list[int] = []
        pool.on("once", lambda pid: first.append(pid) or len(first))

        def die_once(n: int) -> int:
            if n == 1 and epyrpc.head.call.once(os.getpid()) == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            return n

        results = pool.map(die_once, range(3), chunksize=1, retry=1)
        view = view_of(results)
        assert list(results) == [0, 1, 2]
        flusher.flush()
        assert "1 item ran again after `crunch_1` died" in page_of(view).state["summary"]["note"]
        (member,) = epyrpc.pool_vitals(pool).members
        assert member.replaces == f"replaces pid {first[0]}, which was killed by SIGKILL"


def test_a_map_of_unknown_length_has_no_total(flusher: ManualFlusher) -> None:
    with epyrpc.Pool(1, name="crunch") as pool:
        results = pool.imap_unordered(abs, iter(range(5)), max_in_flight=2)
        seen = results.run.look()  # type: ignore[attr-defined]
        assert seen.total is None or seen.total == 5
        assert "in the order in which they come" in note_of(seen)
        assert sorted(results) == [0, 1, 2, 3, 4]
        assert results.run.look().total == 5  # type: ignore[attr-defined]
