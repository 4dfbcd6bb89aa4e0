"""What goes wrong at the other end is raised here: as itself, with the remote traceback, the same way in every mode."""

from __future__ import annotations

import asyncio
import builtins
import sys
import threading

import pytest

import epyrpc
from epyrpc import (
    ApiError,
    ApiParamError,
    CodecError,
    EpyrpcError,
    RemoteError,
    TransactionFailed,
    UnknownApiError,
    UnsupportedApiError,
    errors,
)
from tests.api.ends import LIMIT, eventually, waits

MODES = ["sync", "async", "callback", "await", "stream"]


def outcome_of(mode, action):
    """Make the call in a mode; return its value, or the exception that reached the caller."""
    if mode == "callback":
        told, called = [], threading.Event()
        action(callback=lambda _, result: (told.append(result), called.set()))
        waits(called)
        return told[0]
    try:
        if mode == "sync":
            return action(timeout=LIMIT)
        if mode == "async":
            return action(sync=False).result(LIMIT)
        if mode == "await":

            async def main():
                return await asyncio.wait_for(action(sync=False), LIMIT)

            return asyncio.run(main())
        (value,) = action.api.stream(action.path.removeprefix("test."), *action.args)
        return value
    except BaseException as exc:
        return exc


class Checked(ValueError):
    """An exception with attributes of its own."""

    def __init__(self, item, value):
        super().__init__(f"{item} must not be {value}")
        self.item, self.value = item, value


@pytest.mark.capability("E19", "S9a", "S9b", "X28")
@pytest.mark.parametrize("mode", MODES)
def test_results_and_exceptions_reach_the_caller_alike_in_every_mode(wire, mode):
    head, neck = wire.pair()

    def check(x):
        if x < 0:
            raise ApiParamError("x", x, "0 or more")
        return {"twice": 2 * x}

    neck.set_handler("check", check)
    assert outcome_of(mode, head.check(4)) == {"twice": 8}
    error = outcome_of(mode, head.check(-1))
    assert isinstance(error, ApiParamError)
    assert (error.item, error.value, error.allowed) == ("x", -1, "0 or more")
    assert "in check" in str(error.__cause__)
    assert isinstance(outcome_of(mode, head.check("text")), TypeError)
    assert isinstance(outcome_of(mode, head.check()), TypeError)
    assert isinstance(outcome_of(mode, head.nobody()), UnsupportedApiError)


@pytest.mark.capability("S9a")
@pytest.mark.parametrize("direction", ["head to neck", "neck to head"])
def test_exception_arrives_as_itself_with_the_remote_traceback(wire, direction):
    head, neck = wire.pair()
    caller, callee = (head, neck) if direction == "head to neck" else (neck, head)

    def fails(x):
        return deeper(x)

    def deeper(x):
        raise ValueError(f"deep down with {x}")  # the line that the caller sees

    callee.set_handler("fails", fails)
    with pytest.raises(ValueError, match="deep down with 3") as caught:
        caller.fails(3)(timeout=LIMIT)
    text = str(caught.value.__cause__)
    assert "in fails" in text
    assert "in deeper" in text
    assert "the line that the caller sees" in text
    assert __file__ in text


@pytest.mark.capability("S9a")
def test_exception_with_attributes_keeps_them(wire):
    head, neck = wire.pair()

    def fails():
        raise Checked("x", -1)

    neck.set_handler("fails", fails)
    with pytest.raises(Checked) as caught:
        head.fails()(timeout=LIMIT)
    assert (caught.value.item, caught.value.value) == ("x", -1)


CELL = """
class CellError(Exception):
    'Defined in a cell, that is in __main__.'
    def __init__(self, code, *, where):
        super().__init__(code)
        self.code, self.where = code, where

def cell_handler(code):
    raise CellError(code, where="in the cell")
"""


@pytest.mark.capability("S9a")
def test_exception_defined_in_a_cell_arrives(wire):
    head, neck = wire.pair()
    main = sys.modules["__main__"].__dict__
    exec(compile(CELL, "<cell>", "exec"), main)
    try:
        neck.set_handler("fails", main["cell_handler"])
        with pytest.raises(Exception, match="7") as caught:
            head.fails(7)(timeout=LIMIT)
        assert type(caught.value).__name__ == "CellError"
        assert (caught.value.code, caught.value.where) == (7, "in the cell")
        assert "in cell_handler" in str(caught.value.__cause__)
    finally:
        del main["CellError"], main["cell_handler"]


@pytest.mark.capability("S9a")
@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit, AssertionError, OSError, Warning])
def test_exceptions_of_every_family_cross_and_the_worker_lives_on(wire, kind):
    head, neck = wire.pair()

    def fails():
        raise kind("a", "text")

    neck.set_handler("fails", fails)
    neck.set_handler("echo", lambda x: x)
    for _ in range(3):
        error = outcome_of("sync", head.fails())
        assert type(error) is kind
        assert error.args == ("a", "text")
        assert isinstance(outcome_of("callback", head.fails()), kind)
    assert head.echo(1)(timeout=LIMIT) == 1


@pytest.mark.capability("S9a")
def test_exception_that_cannot_be_rebuilt_arrives_as_remote_error(wire):
    head, neck = wire.pair()

    def fails():
        class Local(Exception):
            def __reduce__(self):
                raise TypeError("not me")

        raise Local("the text")

    neck.set_handler("fails", fails)
    with pytest.raises(RemoteError) as caught:
        head.fails()(timeout=LIMIT)
    assert "Local" in caught.value.type_name
    assert caught.value.text == "the text"
    assert "in fails" in caught.value.traceback_text


@pytest.mark.capability("S9a", "D1")
def test_result_that_cannot_be_pickled_is_an_error_at_the_caller(wire):
    head, neck = wire.pair()
    neck.set_handler("lock", lambda: {"a": [threading.Lock()]})
    for mode in MODES:
        assert isinstance(outcome_of(mode, head.lock()), CodecError)


@pytest.mark.capability("S9a")
def test_chained_exceptions_stay_chained_in_the_text(wire):
    head, neck = wire.pair()

    def fails():
        try:
            {}["missing"]
        except KeyError as exc:
            raise RuntimeError("because of that") from exc

    neck.set_handler("fails", fails)
    with pytest.raises(RuntimeError) as caught:
        head.fails()(timeout=LIMIT)
    assert "KeyError: 'missing'" in str(caught.value.__cause__)
    assert "direct cause" in str(caught.value.__cause__)


@pytest.mark.capability("S9a")
def test_error_that_passes_two_ends_tells_of_both(wire):
    head, neck = wire.head(epyrpc.ApiBase("test", workers=2)), wire.neck(epyrpc.ApiBase("test", workers=2))

    def outer():
        return neck.inner()()

    def inner():
        raise LookupError("at the far end of the road")

    neck.set_handler("outer", outer)
    head.set_handler("inner", inner)
    with pytest.raises(LookupError, match="far end") as caught:
        head.outer()(timeout=LIMIT)
    text = str(caught.value.__cause__)
    assert "in outer" in text
    assert "in inner" in text


# -------------------------------------------------------------------------------------------------------- unsupported


@pytest.mark.capability("S5b", "E17")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("direction", ["head to neck", "neck to head"])
def test_unhandled_path_is_an_error_at_the_caller(wire, mode, direction):
    head, neck = wire.pair()
    caller, callee = (head, neck) if direction == "head to neck" else (neck, head)
    callee.set_handler("handled", lambda: 1)
    error = outcome_of(mode, caller.handlde())
    assert isinstance(error, UnsupportedApiError)
    assert isinstance(error, LookupError)
    assert error.path == "test.handlde"
    assert error.who == ("neck" if callee is neck else "head")
    assert error.nearest == ("test.handled",)
    assert "did you mean 'test.handled'" in str(error)


@pytest.mark.capability("S5b")
def test_unhandled_event_is_silent_at_the_sender(wire, caplog):
    head, neck = wire.pair()
    assert head.nobody()(solicited=False, ignore_errors=True) is None
    assert head.nobody()(solicited=False) is None
    eventually(lambda: len(caplog.records) == 2)  # the receiver says it, not the sender
    assert all("neck" in record.getMessage() for record in caplog.records)
    neck.set_handler("somebody", lambda: 1)
    assert head.somebody()(timeout=LIMIT) == 1


# ------------------------------------------------------------------------------------------------------------- family


@pytest.mark.capability("E11")
def test_param_error_is_caught(wire):
    head, _ = wire.pair()
    with pytest.raises(ApiParamError) as caught:
        head.m()(timeout=-1)
    assert isinstance(caught.value, EpyrpcError)
    assert isinstance(caught.value, ValueError)
    assert "timeout" in str(caught.value)


@pytest.mark.capability("E11")
def test_unknown_api_error_is_caught(wire):
    from epyrpc.api.base import require_handled

    _, neck = wire.pair()
    neck.set_handler("known", lambda: 1)
    require_handled(neck, "test.known")
    with pytest.raises(UnknownApiError) as caught:
        require_handled(neck, "test.knwon")
    assert isinstance(caught.value, EpyrpcError)
    assert isinstance(caught.value, LookupError)
    assert caught.value.nearest == ("test.known",)


@pytest.mark.capability("E11")
def test_unsupported_api_error_is_caught(wire):
    head, _ = wire.pair()
    with pytest.raises(UnsupportedApiError) as caught:
        head.m()(timeout=LIMIT)
    assert isinstance(caught.value, EpyrpcError)
    assert isinstance(caught.value, ApiError)


@pytest.mark.capability("E11")
def test_transaction_failed_is_caught(wire):
    head, neck = wire.pair()
    gate = wire.gate()
    neck.set_handler("gated", lambda: gate.wait(LIMIT))
    with pytest.raises(TransactionFailed) as caught:
        head.gated()(timeout=0.05)
    assert isinstance(caught.value, EpyrpcError)
    assert isinstance(caught.value, TimeoutError)


@pytest.mark.capability("E11")
def test_public_errors_share_one_base():
    found = {
        name: getattr(epyrpc, name)
        for name in epyrpc._MODULE_OF
        if epyrpc._MODULE_OF[name] == errors.__name__ and name not in ("NoResponseRequired", "LargeCaptureWarning")
    }
    assert len(found) > 20
    for name, kind in found.items():
        assert issubclass(kind, EpyrpcError), name
        assert not hasattr(builtins, name)
