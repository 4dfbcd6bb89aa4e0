"""What a handler can ask about its call."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from epyrpc import ApiBase, ApiError, Progress, current_call
from tests.api.ends import LIMIT, eventually, waits


@pytest.mark.capability("E16")
@pytest.mark.parametrize("direction", ["head to neck", "neck to head"])
@pytest.mark.parametrize("kind", ["plain", "async", "generator", "async generator"])
def test_handler_asks_about_its_call(wire, direction, kind):
    head, neck = wire.pair()
    caller, callee = (head, neck) if direction == "head to neck" else (neck, head)

    def look():
        call = current_call()
        return str(call.id), call.path, call.solicited, call.caller, call.cancelled

    async def look_async():
        await asyncio.sleep(0)
        return look()

    def look_generator():
        yield look()

    async def look_async_generator():
        yield look()

    handlers = {
        "plain": look,
        "async": look_async,
        "generator": look_generator,
        "async generator": look_async_generator,
    }
    callee.set_handler("deep.look", handlers[kind])
    held = caller.deep.look()(sync=False)
    answer = held.result(LIMIT)
    if "generator" in kind:
        (answer,) = answer
    callee_name = "neck" if direction == "head to neck" else "head"
    assert answer == (str(held.id), "test.deep.look", True, callee_name, False)
    assert answer[0][0] == ("H" if direction == "head to neck" else "N")


@pytest.mark.capability("E16")
def test_event_says_that_no_reply_is_owed_and_has_no_id(wire):
    head, neck = wire.pair()
    seen = []
    neck.set_handler(
        "event", lambda *args, **kwargs: seen.append((current_call().solicited, int(current_call().id), args, kwargs))
    )
    head.event(1, b=2)(solicited=False)
    eventually(lambda: seen)
    assert seen == [(False, 0, (1,), {"b": 2})]


@pytest.mark.capability("E16")
def test_plain_lambda_is_a_handler(wire):
    head, neck = wire.pair()
    neck.set_handler("double", lambda x: 2 * x)
    assert head.double(4)(timeout=LIMIT) == 8


@pytest.mark.capability("E16")
def test_handler_knows_its_deadline(wire):
    head, neck = wire.pair()
    neck.set_handler("left", lambda: current_call().remaining)
    assert head.left()() is None
    left = head.left()(timeout=7)
    assert 6 < left <= 7

    def falling():
        call = current_call()
        first = call.remaining
        time.sleep(0.01)
        return call.deadline is not None and call.remaining < first

    neck.set_handler("falling", falling)
    assert head.falling()(timeout=LIMIT) is True


@pytest.mark.capability("E16")
def test_there_is_no_current_call_outside_a_handler(wire):
    head, neck = wire.pair()
    with pytest.raises(ApiError, match="inside a handler"):
        current_call()
    errors = []

    def in_another_thread():
        try:
            current_call()
        except ApiError as exc:
            errors.append(exc)

    def handler():
        thread = threading.Thread(target=in_another_thread)
        thread.start()
        thread.join()

    neck.set_handler("m", handler)
    head.m()(timeout=LIMIT)
    assert len(errors) == 1


@pytest.mark.capability("E16")
def test_calls_that_run_at_once_do_not_see_each_other(wire):
    head = wire.head()
    neck = wire.neck(ApiBase("test", workers=4))
    together = threading.Barrier(4)

    def handler():
        before = str(current_call().id)
        together.wait(LIMIT)
        return before, str(current_call().id)

    neck.set_handler("m", handler)
    held = [head.m()(sync=False) for _ in range(4)]
    assert [one.result(LIMIT) for one in held] == [(str(one.id), str(one.id)) for one in held]


@pytest.mark.capability("E16")
def test_call_inside_a_handler_is_not_the_handlers_own_call(wire):
    head, neck = wire.pair()
    head.set_handler("inner", lambda: str(current_call().id))

    def outer():
        mine = str(current_call().id)
        inner = neck.inner()()
        return mine, inner, str(current_call().id)

    neck.set_handler("outer", outer)
    held = head.outer()(sync=False)
    mine, inner, after = held.result(LIMIT)
    assert mine == after == str(held.id)
    assert inner.startswith("N")


def test_progress_of_a_call_is_seen_by_its_caller(wire):
    head, neck = wire.pair()
    gate, halfway = wire.gate(), threading.Event()

    def handler():
        call = current_call()
        call.progress(1, 2)
        halfway.set()
        gate.wait(LIMIT)
        call.progress(2, 2)

    neck.set_handler("m", handler)
    held = head.m()(sync=False)
    assert held.progress is None or held.progress.done == 1
    waits(halfway)
    progress = eventually(lambda: held.progress)
    assert isinstance(progress, Progress)
    assert (progress.done, progress.total) == (1, 2)
    gate.set()
    held.result(LIMIT)
    assert (held.progress.done, held.progress.total) == (2, 2)


def test_output_of_a_call_is_kept_with_its_result_and_shown(wire, capsys):
    head, neck = wire.pair()

    def handler():
        current_call().write("stdout", "to out\n")
        current_call().write("stderr", "to err\n")
        current_call().write("stdout", "more\n")

    neck.set_handler("m", handler)
    held = head.m()(sync=False)
    held.result(LIMIT)
    assert (held.stdout, held.stderr) == ("to out\nmore\n", "to err\n")
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("to out\nmore\n", "to err\n")
