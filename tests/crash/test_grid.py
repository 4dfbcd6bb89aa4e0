"""{error, exit, kill} × {encode call, decode call, run, encode reply, decode reply}: who gets what, what lives on."""

from __future__ import annotations

import operator
import os
import signal
import sys
import threading
import time
from typing import Any

import pytest

from epyrpc import Body, BodyDied, CallState, CodecError
from tests.bodies.tools import LIMIT, eventually, head, is_alive, read_line

IN_THE_BODY = ("decode call", "run", "encode reply")
STAGES = ("encode call", *IN_THE_BODY, "decode reply")


def make_act() -> Any:
    def act(deed: str) -> None:  # local, so that it travels by value
        import os
        import signal

        if deed == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if deed == "exit":
            raise SystemExit(3)
        raise ArithmeticError("what came was bad")

    return act


def make_bomb(deed: str, when: str) -> Any:
    """Return an object that does it when it is encoded, or when it is decoded."""
    act = make_act()

    class Bomb:
        def __reduce__(self) -> Any:
            if when == "encode":
                act(deed)
            return act, (deed,)

    return Bomb()


def prepare(body: Body, deed: str, stage: str) -> Any:
    """Return a function that makes the call, given a verb."""
    if stage == "encode call":
        bomb = make_bomb(deed, "encode")
        return lambda verb: verb(len, [bomb])
    if stage == "decode call":
        bomb = make_bomb(deed, "decode")
        return lambda verb: verb(len, [bomb])
    act = make_act()
    if stage == "run":
        return lambda verb: verb(act, deed)
    make = make_bomb
    when = stage.split()[0]

    def answer() -> Any:
        return make(deed, when)

    make.__module__, answer.__module__ = "__main__", "__main__"  # both by value
    return lambda verb: verb(answer)


def expected_error(deed: str, stage: str) -> type[BaseException]:
    """Return what the caller gets; a call that cannot be encoded is refused, whatever kept it from that."""
    if deed == "exit" and stage != "encode call":
        return SystemExit
    return ArithmeticError if stage == "run" else CodecError


def outcome(make: Any, body: Body, verb: str) -> None:
    """Make a call and wait for it; asked again, its result says the same."""
    if verb == "call":
        make(body.call)
        return
    result = make(body.submit)
    try:
        result.result(LIMIT)
    except BaseException as exc:
        assert result.state is CallState.FAILED
        with pytest.raises(type(exc)):
            result.result(0)
        raise


@pytest.mark.capability("D1", "D2")
@pytest.mark.parametrize("verb", ["call", "submit"])
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("deed", ["error", "exit"])
def test_call_fails_and_the_wire_lives_on(process: Body, deed: str, stage: str, verb: str) -> None:
    make = prepare(process, deed, stage)
    pid = process.pid
    for _ in range(3):
        started = time.monotonic()
        expected = expected_error(deed, stage)
        with pytest.raises(expected) as caught:
            outcome(make, process, verb)
        assert time.monotonic() - started < 2
        if isinstance(caught.value, SystemExit):
            assert caught.value.code == 3
        else:
            assert ("SystemExit: 3" if deed == "exit" else "what came was bad") in str(caught.value)
        assert process.call(operator.add, 1, 2) == 3
    assert process.pid == pid
    assert len(process.transporter.transactions) == 0
    eventually(lambda: process._control("busy") == (0, 0))
    for _ in range(4):
        assert process.call(operator.add, 1, 2) == 3  # by every worker


@pytest.mark.capability("D3")
@pytest.mark.parametrize("stage", IN_THE_BODY)
def test_killed_body_fails_the_call_at_once(process: Body, stage: str) -> None:
    make = prepare(process, "kill", stage)
    other = process.submit(time.sleep, LIMIT)
    started = time.monotonic()
    with pytest.raises(BodyDied) as caught:
        make(process.call)
    with pytest.raises(BodyDied):
        other.result(1)
    assert time.monotonic() - started < 1
    assert caught.value.signal == "SIGKILL"
    assert len(process.transporter.transactions) == 0
    process.restart()
    assert process.call(operator.add, 1, 2) == 3


@pytest.mark.parametrize("stage", ["encode call", "decode reply"])
@pytest.mark.parametrize("kind", ["spawn", "forkserver"])
def test_head_killed_while_it_codes_takes_its_body_along(kind: str, stage: str) -> None:
    code = f"""
        import epyrpc
        from tests.crash.test_grid import prepare

        worker = epyrpc.spawn("worker", start_method={kind!r})
        print(worker.pid, flush=True)
        prepare(worker, "kill", {stage!r})(worker.call)
        """
    with head(code) as process:
        pid = int(read_line(process))
        assert process.wait(LIMIT) == -signal.SIGKILL
        ended = time.monotonic()
        eventually(lambda: not is_alive(pid), limit=1)
        assert time.monotonic() - ended < 1


@pytest.mark.parametrize("deed", ["error", "exit"])
@pytest.mark.parametrize("stage", ["run", "encode reply", "decode reply"])
def test_part_of_a_stream_that_goes_wrong(process: Body, deed: str, stage: str) -> None:
    act, make = make_act(), make_bomb
    make.__module__ = "__main__"

    def rows() -> Any:
        yield 1
        if stage == "run":
            act(deed)
        yield make(deed, stage.split()[0])

    rows.__module__ = "__main__"
    stream = process.stream(rows)
    assert next(stream) == 1
    with pytest.raises(expected_error(deed, stage)):
        next(stream)
    stream.close()
    assert process.call(operator.add, 1, 2) == 3
    eventually(lambda: process._control("busy") == (0, 0))
    assert len(process.transporter.transactions) == 0


@pytest.mark.parametrize("deed", ["error", "exit"])
@pytest.mark.parametrize("stage", ["encode call", "decode call", "run"])
def test_event_that_goes_wrong_hurts_nobody(process: Body, deed: str, stage: str) -> None:
    make = prepare(process, deed, stage)
    if stage == "encode call":
        with pytest.raises(CodecError):
            make(process.emit)
    else:
        for _ in range(5):
            make(process.emit)
    for _ in range(4):
        assert process.call(operator.add, 1, 2) == 3
    if stage != "encode call":
        eventually(lambda: process.log().count("the handler of the event _epyrpc.run raised") == 5)


@pytest.mark.parametrize("deed", ["error", "exit"])
@pytest.mark.parametrize("stage", STAGES)
def test_call_of_the_body_that_goes_wrong(process: Body, deed: str, stage: str) -> None:
    """The same the other way round: a body calls, the head handles."""
    act, make = make_act(), make_bomb
    make.__module__ = "__main__"

    def handle(arg: Any) -> Any:
        if stage == "run":
            act(deed)
        return make(deed, stage.split()[0]) if stage.endswith("reply") else arg

    process.on("handle", handle)

    def calls() -> str:
        from epyrpc import head

        arg = [make(deed, stage.split()[0])] if stage.endswith("call") else 1
        try:
            head.call.handle(arg)
        except BaseException as exc:
            return type(exc).__name__
        return "nothing"

    calls.__module__ = "__main__"
    expected = expected_error(deed, stage).__name__
    for _ in range(5):
        assert process.call(calls) == expected
    assert threading.active_count() < 30
    assert sys.exc_info() == (None, None, None)
    assert os.getpid() != process.pid
