"""Calls and events: every mode, both ways."""

from __future__ import annotations

import functools
import itertools
import threading
import time

import pytest

from epyrpc import (
    ApiAction,
    ApiBase,
    ApiParamError,
    AsyncResult,
    TransactionFailed,
    TransportClosed,
    TransportDisconnected,
    UnsupportedApiError,
    current_call,
)
from tests.api.ends import LIMIT, Ends, Made, eventually, waits

MODES = list(itertools.product(["sync", "async"], ["solicited", "event"], ["head to neck", "neck to head"]))


def both_ways(wire: Ends, workers: int = 1):
    """Return {direction: (calling api, handling api, the caller's transactions)}."""
    head, neck = wire.head(), wire.neck(ApiBase("test", workers=workers))
    return {
        "head to neck": (head, neck, wire.ipc_head.transactions),
        "neck to head": (neck, head, wire.ipc_neck.transactions),
    }


@pytest.mark.capability("S3a")
@pytest.mark.parametrize("direction", ["head to neck", "neck to head"])
def test_blocking_call_gives_up_when_its_time_is_over(wire, direction):
    caller, callee, transactions = both_ways(wire)[direction]
    gate = wire.gate()
    callee.set_handler("sleeps", lambda: gate.wait(5))
    started = time.monotonic()
    with pytest.raises(TransactionFailed) as caught:
        caller.sleeps()(timeout=0.2)
    assert 0.2 <= time.monotonic() - started < 0.7
    assert isinstance(caught.value, TimeoutError)
    assert caught.value.path == "test.sleeps"
    assert caught.value.limit == 0.2
    assert len(transactions) == 0


@pytest.mark.capability("S3a")
def test_blocking_call_without_timeout_waits_as_long_as_it_takes(wire):
    head, neck = wire.pair()
    gate = wire.gate()

    def slow():
        waits(gate)
        return "after all"

    neck.set_handler("slow", slow)
    opener = threading.Timer(0.1, gate.set)
    opener.start()
    assert head.slow()() == "after all"
    opener.join()


@pytest.mark.capability("S3d")
@pytest.mark.parametrize(("mode", "kind", "direction"), MODES, ids=["-".join(mode) for mode in MODES])
def test_every_mode_works_both_ways(wire, mode, kind, direction):
    caller, callee, transactions = both_ways(wire)[direction]
    heard, seen = [], threading.Event()

    def handler(a, *, b):
        heard.append((a, b, current_call().solicited))
        seen.set()
        return a * b

    callee.set_handler("nested.times", handler)
    answer = caller.nested.times(6, b=7)(sync=mode == "sync", solicited=kind == "solicited", timeout=LIMIT)
    if kind == "event":
        assert answer is None
    elif mode == "async":
        assert isinstance(answer, AsyncResult)
        assert answer.result(LIMIT) == 42
    else:
        assert answer == 42
    waits(seen)
    assert heard == [(6, 7, kind == "solicited")]
    assert len(transactions) == 0


@pytest.mark.capability("S3e", "S3d")
@pytest.mark.parametrize("direction", ["head to neck", "neck to head"])
def test_event_makes_no_transaction_and_gets_no_reply(wire, direction):
    caller, callee, transactions = both_ways(wire)[direction]
    told = []
    callee.set_handler("note", lambda text: told.append(text) or "nobody reads this")
    made = Made(transactions)
    for text in ("a", "b", "c"):
        assert caller.note(text)(solicited=False) is None
    eventually(lambda: len(told) == 3)
    wire.flush()
    assert told == ["a", "b", "c"]
    assert made() == 0
    assert (wire.ipc_head.transactions.late, wire.ipc_neck.transactions.late) == (0, 0)


@pytest.mark.capability("S3e")
def test_failing_event_handler_is_logged_at_its_own_end_only(wire, caplog):
    head, neck = wire.pair()
    neck.set_handler("fails", lambda: 1 / 0)
    assert head.fails()(solicited=False) is None
    eventually(lambda: "test.fails" in caplog.text)
    assert "ZeroDivisionError" in caplog.text
    neck.set_handler("works", lambda: 1)
    assert head.works()(timeout=LIMIT) == 1


@pytest.mark.capability("E8", "S8")
def test_solicited_is_a_default_of_the_api_and_an_override_of_the_call(wire):
    head = wire.head(ApiBase("test", solicited=False))
    neck = wire.neck(ApiBase("test", solicited=True))
    asked = []

    def handler():
        asked.append(current_call().solicited)
        return "reply"

    for api in (head, neck):
        api.set_handler("who", handler)
    assert neck.who()(timeout=LIMIT) == "reply"
    assert neck.who()(solicited=False) is None
    assert neck.who()(timeout=LIMIT) == "reply"  # the override was for the one call
    assert head.who()() is None
    assert head.who()(solicited=True, timeout=LIMIT) == "reply"
    assert head.who()() is None
    eventually(lambda: len(asked) == 6)
    assert sorted(asked) == [False, False, False, True, True, True]


# ------------------------------------------------------------------------------------------------- the prepared call


@pytest.mark.capability("E10")
def test_prepared_call_is_not_sent_until_it_is_called(wire):
    head, neck = wire.pair()
    seen, made = [], Made(wire.ipc_head.transactions)
    neck.set_handler("m", lambda *args, **kwargs: seen.append((args, kwargs)))
    action = head.m(1, two=2)
    assert isinstance(action, ApiAction)
    assert (action.path, action.args, action.kwargs) == ("test.m", (1,), {"two": 2})
    assert "test.m(1, two=2)" in repr(action)
    wire.flush()
    assert not seen
    assert made() == 0
    action(timeout=LIMIT)
    assert seen == [((1,), {"two": 2})]


@pytest.mark.capability("E10")
def test_prepared_call_can_be_made_twice_as_two_transactions(wire):
    head, neck = wire.pair()
    neck.set_handler("m", lambda: str(current_call().id))
    action, made = head.m(), Made(wire.ipc_head.transactions)
    first, second = action(sync=False), action(sync=False)
    assert first.id != second.id
    assert [first.result(LIMIT), second.result(LIMIT)] == [str(first.id), str(second.id)]
    assert made() == 2


@pytest.mark.capability("E10", "S8")
def test_each_override_is_observed_and_none_sticks(wire):
    head, neck = wire.pair(workers=3)  # two of them will be stuck
    gate = wire.gate()
    neck.set_handler("m", lambda: "done")
    neck.set_handler("stuck", gate.wait)
    action, stuck = head.m(), head.stuck()

    assert isinstance(action(sync=False), AsyncResult)
    assert action() == "done"
    with pytest.raises(TransactionFailed):
        stuck(timeout=0.05)
    assert stuck(timeout=0.05, ignore_errors=True) is None
    assert action(solicited=False) is None
    assert action() == "done"
    told, called = [], threading.Event()
    held = action(callback=lambda transaction_id, result: (told.append((transaction_id, result)), called.set()))
    waits(called)
    assert told == [(held.id, "done")]
    assert action() == "done"
    assert len(told) == 1
    with pytest.raises(UnsupportedApiError):
        head.nobody()()
    assert head.nobody()(ignore_errors=True) is None
    with pytest.raises(UnsupportedApiError):
        head.nobody()()


@pytest.mark.capability("E10", "S3b")
def test_callback_of_a_blocking_call_is_told_as_well(wire):
    head, neck = wire.pair()
    neck.set_handler("m", lambda: "done")
    told = []
    assert head.m()(sync=True, callback=lambda _, result: told.append(result), timeout=LIMIT) == "done"
    eventually(lambda: told)
    assert told == ["done"]


@pytest.mark.capability("E12")
def test_sync_gives_a_value_async_a_result_and_an_event_none(wire):
    head, neck = wire.pair()
    neck.set_handler("m", lambda: {"a": [1]})
    assert type(head.m()(timeout=LIMIT)) is dict
    held = head.m()(sync=False)
    assert type(held) is AsyncResult
    assert held.result(LIMIT) == {"a": [1]}
    assert head.m()(solicited=False) is None
    assert head.m()(solicited=False, sync=False) is None


@pytest.mark.capability("E12")
def test_path_can_be_given_as_text(wire):
    head, neck = wire.pair()
    neck.set_handler("a.b", lambda x: x + 1)
    neck.set_handler("a.parts", lambda n: (i for i in range(n)))
    assert head.call("a.b", 1) == 2
    held = head.submit("a.b", 2)
    assert isinstance(held, AsyncResult)
    assert held.result(LIMIT) == 3
    assert list(head.stream("a.parts", 3)) == [0, 1, 2]


@pytest.mark.parametrize("path", ["", "a..b", ".a", "a.", "a b", "*", "a.*", 3], ids=repr)
@pytest.mark.parametrize("verb", ["call", "submit", "stream", "action"])
def test_bad_path_is_refused_on_the_spot(queue_wire, verb, path):
    head, _ = queue_wire.pair()
    made = Made(queue_wire.ipc_head.transactions)
    with pytest.raises(ApiParamError):
        getattr(head, verb)(path)
    assert made() == 0


@pytest.mark.capability("E13")
def test_results_are_copies(wire):
    head, neck = wire.pair()
    kept = {"list": [1, 2], "nested": {"a": 1}}
    neck.set_handler("get", lambda: kept)
    neck.set_handler("put", lambda value: value.append("changed there"))
    got = head.get()(timeout=LIMIT)
    assert got == kept
    got["list"].append(3)
    got["nested"]["a"] = 2
    assert kept == {"list": [1, 2], "nested": {"a": 1}}
    assert head.get()(timeout=LIMIT) == kept
    mine = ["mine"]
    head.put(mine)(timeout=LIMIT)
    assert mine == ["mine"]


# ---------------------------------------------------------------------------------------------------- ignore_errors


class Nested(ApiBase):
    """A nested api of the head."""

    def _handler_note(self, text):
        self.root.notes.append(("nested", text))


class Head(ApiBase):
    """A head that takes notes at two levels."""

    nested = Nested

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        object.__setattr__(self, "notes", [])

    def _handler_note(self, text):
        self.notes.append(("root", text))


@pytest.mark.capability("E14")
def test_event_from_the_neck_reaches_the_root_and_the_nested_api_of_the_head(wire):
    head = wire.head(Head("test"))
    neck = wire.neck()
    neck.note("a")(solicited=False, ignore_errors=True)
    neck.nested.note("b")(solicited=False, ignore_errors=True)
    eventually(lambda: len(head.notes) == 2)
    assert head.notes == [("root", "a"), ("nested", "b")]


@pytest.mark.capability("E14", "S5b")
@pytest.mark.parametrize("options", [{"solicited": False}, {"sync": True}, {"sync": False}], ids=str)
def test_ignored_transport_error_gives_none(wire, options):
    _, neck = wire.pair()
    wire.ipc_neck.close()
    with pytest.raises(TransportClosed):
        neck.note("a")(**options)
    assert neck.note("a")(**options, ignore_errors=True) is None


@pytest.mark.capability("E14")
def test_ignored_errors_of_transaction_and_api_give_none(wire):
    head, neck = wire.pair()
    gate = wire.gate()
    neck.set_handler("stuck", gate.wait)
    assert head.stuck()(timeout=0.05, ignore_errors=True) is None
    assert head.nobody()(ignore_errors=True) is None


@pytest.mark.capability("E14", "S5b")
@pytest.mark.parametrize("path", ["nobody", "stuck"])
def test_errors_of_an_asynchronous_call_are_ignored_too(wire, path):
    head, neck = wire.pair()
    gate = wire.gate()
    neck.set_handler("stuck", gate.wait)
    told, called = [], threading.Event()
    held = head.action(path)(
        sync=False, timeout=0.1, ignore_errors=True, callback=lambda _, result: (told.append(result), called.set())
    )
    assert held.result(LIMIT) is None
    waits(called)
    assert told == [None]


@pytest.mark.capability("E14")
def test_mistakes_are_never_ignored(wire):
    head, neck = wire.pair()
    neck.set_handler("fails", lambda: 1 / 0)
    neck.set_handler("one", lambda x: x)
    with pytest.raises(ZeroDivisionError):
        head.fails()(ignore_errors=True)
    with pytest.raises(TypeError):
        head.one()(ignore_errors=True)
    with pytest.raises(ApiParamError):
        head.one(1)(ignore_errors=True, timeout=-1)
    with pytest.raises(ApiParamError):
        head.one(1)(ignore_errors=True, callback="not callable")

    def raises_ours():
        raise TransportDisconnected("the handler's own")

    neck.set_handler("ours", raises_ours)
    with pytest.raises(TransportDisconnected, match="the handler's own"):
        head.ours()(ignore_errors=True)


# ------------------------------------------------------------------------------------- methods written and generated


class Careful(ApiBase):
    """Its methods check or change arguments before they are sent."""

    def scale(self, x, *, unit="m"):
        if x < 0:
            raise ApiParamError("x", x, "0 or more")
        return self.action("scale", x * 1000 if unit == "km" else x, unit="m")


@pytest.mark.capability("E20")
def test_plain_method_checks_and_changes_arguments_before_they_are_sent(wire):
    head = wire.head(Careful("test"))
    neck = wire.neck()
    seen, made = [], Made(wire.ipc_head.transactions)
    neck.set_handler("scale", lambda x, unit: seen.append((x, unit)))
    head.scale(2, unit="km")(timeout=LIMIT)
    head.scale(3)(timeout=LIMIT)
    assert seen == [(2000, "m"), (3, "m")]
    with pytest.raises(ApiParamError):
        head.scale(-1)
    assert made() == 2


def traced(function):
    """Wrap as a decorator that forgets `functools.wraps` does."""

    def wrapper(*args, **kwargs):
        return "traced", function(*args, **kwargs)

    return wrapper


def polite(function):
    """Wrap as a decorator should."""

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
        return "polite", function(*args, **kwargs)

    return wrapper


class Named(ApiBase):
    """Handlers whose functions have other names than their attributes."""

    @traced
    def _handler_first(self):
        return current_call().path

    @polite
    def _handler_second(self):
        return current_call().path

    _handler_third = lambda self: current_call().path  # noqa: E731 - the case in question
    _handler_fourth = _handler_third

    @staticmethod
    def _handler_fifth():
        return current_call().path

    @classmethod
    def _handler_sixth(cls):
        return cls.__name__, current_call().path


@pytest.mark.capability("E21")
def test_path_of_a_method_follows_from_the_name_it_has_in_its_class(wire):
    head = wire.head()
    wire.neck(Named("test"))
    assert head.first()(timeout=LIMIT) == ("traced", "test.first")
    assert head.second()(timeout=LIMIT) == ("polite", "test.second")
    assert head.third()(timeout=LIMIT) == "test.third"
    assert head.fourth()(timeout=LIMIT) == "test.fourth"
    assert head.fifth()(timeout=LIMIT) == "test.fifth"
    assert head.sixth()(timeout=LIMIT) == ("Named", "test.sixth")
    with pytest.raises(UnsupportedApiError):
        head.wrapper()(timeout=LIMIT)


class Adder(ApiBase):
    """A handler is declared here, once."""

    def _handler_add(self, a, b=0):
        """Add."""
        return a + b


@pytest.mark.capability("T2b")
def test_method_of_the_caller_follows_from_the_handler(wire):
    peer = wire.head()
    wire.neck(Adder("test"))
    assert peer.add(1, 2)(timeout=LIMIT) == 3
    assert peer.add(1, b=4)(timeout=LIMIT) == 5
    assert peer.add(1)(timeout=LIMIT) == 1


@pytest.mark.capability("T2b")
@pytest.mark.parametrize(("args", "kwargs"), [((), {}), ((1, 2, 3), {}), ((1,), {"c": 2})], ids=["few", "many", "odd"])
def test_wrong_arguments_fail_at_the_caller(wire, args, kwargs):
    peer = wire.head()
    wire.neck(Adder("test"))
    with pytest.raises(TypeError, match="_handler_add"):
        peer.add(*args, **kwargs)(timeout=LIMIT)


@pytest.mark.capability("T2b")
def test_generated_name_with_an_underscore_is_no_path(wire):
    head, _ = wire.pair()
    for parent in (head, head.a.b):
        with pytest.raises(AttributeError):
            parent._private  # noqa: B018 - looking is what is tested
    assert not hasattr(head, "_repr_html_")
    assert repr(head.a.b) == "<path test.a.b>"
