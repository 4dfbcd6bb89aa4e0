"""`epyrpc.waiting()`: what pending calls wait for, over both directions."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Any

import pytest

import epyrpc
from epyrpc import Body, DeadlockError, Waiting, waiting
from tests.bodies.tools import LIMIT, Busy, eventually, waits


def until(check: Callable[[Waiting], Any]) -> Waiting:
    """Look until `check` is true of what is seen; return that."""
    seen: list[Waiting] = []

    def look() -> Any:
        seen[:] = [waiting(timeout=LIMIT)]
        return check(seen[0])

    eventually(look)
    return seen[0]


def test_nothing_waits(worker: Body) -> None:
    assert repr(waiting()) == "nothing waits: no call is pending"
    assert waiting()._repr_html_() == "<p>nothing waits: no call is pending</p>"
    assert len(waiting("worker")) == 0
    with pytest.raises(epyrpc.ApiParamError, match="name is 'wroker', but must be 'worker'"):
        waiting("wroker")


def test_running_and_queued_calls(body: Body) -> None:
    def slow_step() -> None:
        while True:
            time.sleep(0.01)

    def slow() -> None:
        slow_step()

    running = [Busy(body).start(slow) for _ in range(2)]
    body.set_handler("fit.line", lambda x: x)
    queued = body.submit.fit.line(1)
    seen = until(lambda seen: "slow_step" in str(seen[0].stack) and "slow_step" in str(seen[1].stack))
    assert [call.id for call in seen] == [str(result.id) for result in (*running, queued)]
    assert [call.state for call in seen] == ["running", "running", "queued"]
    assert {call.where for call in seen} == {"worker"}
    assert all(call.seconds is not None and call.seconds >= 0 for call in seen)
    assert seen[2].behind == (seen[0].id, seen[1].id)
    assert not seen.cycle
    text = repr(seen)
    first, second = running
    assert f"{first.id} announced on worker, " in text
    assert "    test_waiting.py:" in text
    assert "in slow: slow_step()" in text
    assert "epyrpc" not in text
    assert (
        f"queued behind {first.id} announced, {second.id} announced; all 2 workers are busy" in text
        or f"queued behind {second.id} announced, {first.id} announced; all 2 workers are busy" in text
    )
    html = seen._repr_html_()
    assert html.count("<tr>") == 4
    assert "<td><code>fit.line</code></td><td>worker</td>" in html


def test_wait_over_both_directions(worker: Body) -> None:
    here, gate = threading.Event(), threading.Event()

    def rate() -> int:
        here.set()
        gate.wait(LIMIT * 3)
        return 1

    def outer() -> Any:
        from epyrpc import head

        return head.call.ask.rate()

    worker.on("ask.rate", rate)
    worker.set_handler("outer", outer)
    result = worker.submit.outer()
    waits(here)
    try:
        seen = until(lambda seen: len(seen) == 2 and seen[0].state == "waits")
    finally:
        gate.set()
    ours, theirs = seen
    assert (ours.id, ours.waits_for) == (str(result.id), theirs.id)
    assert (theirs.path, theirs.where, theirs.state) == ("ask.rate", "here", "running")
    assert "in outer: return head.call.ask.rate()" in ours.stack[-1]
    assert "in rate: gate.wait(LIMIT * 3)" in str(theirs.stack)
    lines = repr(seen).splitlines()
    assert lines[0].startswith(f"{ours.id} outer on worker, ")
    assert lines[0].endswith(f"waits for {theirs.id} ask.rate of this process")
    assert any(line.startswith(f"  └ {theirs.id} ask.rate here, ") for line in lines)
    assert result.result(LIMIT) == 1


def test_async_handler_and_delayed_reply(worker: Body) -> None:
    async def awaits() -> None:
        await asyncio.sleep(LIMIT * 3)

    def delays() -> None:
        epyrpc.current_call().delay_reply()

    worker.set_handler("awaits", awaits)
    worker.set_handler("delays", delays)
    results = [worker.submit.awaits(), worker.submit.delays()]
    seen = until(lambda seen: [c.state for c in seen] == ["running", "delayed"] and "in awaits" in str(seen[0].stack))
    assert seen[0].stack[0].endswith("in awaits: await asyncio.sleep(LIMIT * 3)")
    assert seen[1].why == "its reply is to be given later"
    for result in results:
        result.cancel()


def test_asked_by_another_thread_while_the_main_thread_blocks(worker: Body) -> None:
    seen: list[Waiting] = []
    result = Busy(worker).start()

    def ask() -> None:
        seen.append(until(lambda seen: seen and seen[0].state == "running"))
        result.cancel()

    thread = threading.Thread(target=ask)
    thread.start()
    with pytest.raises(CancelledError):
        result.result(LIMIT * 2)
    thread.join(LIMIT)
    assert seen[0][0].id == str(result.id)


def test_body_that_does_not_answer_is_said_not_to(process: Body) -> None:
    pid = process.pid
    assert pid is not None
    result = Busy(process).start()
    eventually(lambda: result.running())
    os.kill(pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        seen = waiting()
        assert time.monotonic() - began < 3
        assert seen[0].state == "unknown"
        assert seen[0].why == (
            f"does not answer: its process ({pid}) is suspended; kill -CONT {pid} lets it go on; last known: running"
        )
        result.cancel()
        assert repr(waiting()).startswith("nothing waits: no call is pending\nworker does not answer: its process")
    finally:
        os.kill(pid, signal.SIGCONT)
    until(lambda seen: not len(seen) and "does not answer" not in repr(seen))


def test_deadlock_over_three_hops_is_named_as_the_error_names_one(cleanup: None) -> None:
    # The error's own detection follows the calls of one wire; here they go over two.
    first, second = (epyrpc.spawn(name, workers=1, start_method="forkserver") for name in ("first", "second"))

    def calls_back(path: str) -> Any:
        def handler() -> Any:
            from epyrpc import head

            return getattr(head.call, path)()

        return handler

    first.set_handler("begin", calls_back("go_on"))
    first.set_handler("end", lambda: "never")
    second.set_handler("middle", calls_back("go_back"))
    first.on("go_on", lambda: second.call.middle())
    second.on("go_back", lambda: first.call.end())
    result = first.submit.begin()
    try:
        seen = until(lambda seen: seen.cycle)
        by_path = {call.path: call for call in seen}
        assert set(by_path) == {"begin", "go_on", "middle", "go_back", "end"}
        assert set(seen.cycle) == {call.id for call in seen}
        assert by_path["end"].behind == (str(result.id),)
        expected = (
            f"end ({by_path['end'].id}) can never run: every handler worker is busy with begin ({result.id}), which "
            f"waits for go_on ({by_path['go_on'].id}). Spawn with more workers, or answer without calling back."
        )
        assert seen.deadlock == expected
        assert repr(seen).endswith(f"deadlock: {expected}")
        assert "deadlock: " in seen._repr_html_()
    finally:
        for body in (first, second):
            body.stop(0)


def test_error_of_a_deadlock_says_the_same(worker: Body) -> None:
    def outer() -> Any:
        from epyrpc import head

        return head.call.again()

    worker.set_handler("outer", outer)
    worker.on("again", lambda: worker.call.outer())
    results = [worker.submit.outer() for _ in range(3)]
    for result in results:
        with pytest.raises(DeadlockError, match=r"can never run: every handler worker is busy with .* Spawn with more"):
            result.result(LIMIT)
