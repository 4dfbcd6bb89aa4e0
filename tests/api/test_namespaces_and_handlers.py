"""Who answers a path: specific handlers, catch-alls per level, those registered and removed while the wire lives."""

from __future__ import annotations

import threading

import pytest

from epyrpc import ApiBase, ApiParamError, UnsupportedApiError, current_call
from tests.api.ends import LIMIT, eventually, waits


def named(name):
    """Return a handler that tells its name and the path that was called."""
    return lambda *args: (name, current_call().path, *args)


class Inner(ApiBase):
    """A nested api with one handler."""

    def _handler_own(self):
        return "nested method"


class Outer(ApiBase):
    """A tree with one nested api."""

    nested = Inner

    def _handler_own(self):
        return "root method"


@pytest.mark.capability("S5a")
def test_receiver_chooses_what_it_handles(wire):
    head, neck = wire.pair()
    neck.set_handler("handled", lambda: "yes")
    assert head.handled()(timeout=LIMIT) == "yes"
    with pytest.raises(UnsupportedApiError):
        head.ignored()(timeout=LIMIT)
    assert head.handled()(timeout=LIMIT) == "yes"


@pytest.mark.capability("S4b", "X5", "D11")
def test_nearer_catch_all_wins_and_specific_beats_generic(wire):
    head, neck = wire.head(), wire.neck(Outer("test"))
    with pytest.raises(UnsupportedApiError):
        head.other()(timeout=LIMIT)
    neck.set_handler("*", named("root *"))
    assert head.other(1)(timeout=LIMIT) == ("root *", "test.other", 1)
    assert head.nested.other()(timeout=LIMIT) == ("root *", "test.nested.other")
    assert head.nested.deep.er()(timeout=LIMIT) == ("root *", "test.nested.deep.er")
    assert head.own()(timeout=LIMIT) == "root method"
    assert head.nested.own()(timeout=LIMIT) == "nested method"
    neck.nested.set_handler("*", named("nested *"))
    assert head.other()(timeout=LIMIT) == ("root *", "test.other")
    assert head.nested.other()(timeout=LIMIT) == ("nested *", "test.nested.other")
    assert head.nested.deep.er()(timeout=LIMIT) == ("nested *", "test.nested.deep.er")
    assert head.nested.own()(timeout=LIMIT) == "nested method"
    neck.set_handler("nested.special", named("special"))
    assert head.nested.special()(timeout=LIMIT) == ("special", "test.nested.special")
    neck.set_handler("nested.*", None)
    assert head.nested.other()(timeout=LIMIT) == ("root *", "test.nested.other")
    neck.set_handler("*", None)
    with pytest.raises(UnsupportedApiError):
        head.nested.other()(timeout=LIMIT)


@pytest.mark.capability("S4b")
def test_catch_all_of_a_path_where_no_api_is_mounted(wire):
    head, neck = wire.pair()
    neck.set_handler("bare.deep.*", named("deep *"))
    assert head.bare.deep.x()(timeout=LIMIT) == ("deep *", "test.bare.deep.x")
    for path in ("bare.x", "bare.deeper.x", "bare.deep"):
        with pytest.raises(UnsupportedApiError):
            head.call(path)


@pytest.mark.capability("S6b")
def test_handler_is_registered_after_a_first_call_has_failed(wire):
    head, neck = wire.pair()
    with pytest.raises(UnsupportedApiError):
        head.late.method()(timeout=LIMIT)
    neck.set_handler("late.method", lambda: "here now")
    assert head.late.method()(timeout=LIMIT) == "here now"


@pytest.mark.capability("M6", "X10", "S6b")
def test_lambda_is_replaced_by_registering_again_and_removed_with_none(wire):
    head, neck = wire.pair()
    for expected in ("first", "second", "third"):
        neck.set_handler("m", lambda expected=expected: expected)
        assert head.m()(timeout=LIMIT) == expected
    assert list(neck.api_map()) == ["test.m"]
    neck.set_handler("m", None)
    with pytest.raises(UnsupportedApiError):
        head.m()(timeout=LIMIT)
    neck.set_handler("m", None)  # removing what is not there is harmless
    neck.set_handler("m", lambda: "again")
    assert head.m()(timeout=LIMIT) == "again"


@pytest.mark.capability("M6")
def test_call_under_way_finishes_on_the_handler_that_it_started_with(wire):
    head = wire.head()
    neck = wire.neck(ApiBase("test", workers=2))
    gate, started = wire.gate(), threading.Event()

    def old():
        started.set()
        waits(gate)
        return "old"

    neck.set_handler("m", old)
    under_way = head.m()(sync=False)
    waits(started)
    neck.set_handler("m", lambda: "new")
    assert head.m()(timeout=LIMIT) == "new"
    neck.set_handler("m", None)
    gate.set()
    assert under_way.result(LIMIT) == "old"


@pytest.mark.capability("M6", "S6a")
def test_registered_handler_covers_a_method_and_uncovers_it_when_removed(wire):
    head, neck = wire.head(), wire.neck(Outer("test"))
    neck.set_handler("own", lambda: "registered")
    assert head.own()(timeout=LIMIT) == "registered"
    neck.set_handler("own", None)
    assert head.own()(timeout=LIMIT) == "root method"


@pytest.mark.capability("E15")
def test_registering_at_the_root_or_at_the_nested_api_is_the_same(wire):
    head, neck = wire.head(), wire.neck(Outer("test"))
    neck.set_handler("nested.m", lambda: "at the root")
    assert head.nested.m()(timeout=LIMIT) == "at the root"
    neck.nested.set_handler("m", lambda: "at the nested api")
    assert head.nested.m()(timeout=LIMIT) == "at the nested api"
    assert [path for path in neck.api_map() if path.endswith(".m")] == ["test.nested.m"]
    assert len([handler for node in neck.walk() for _, handler in node._table if handler.path == "test.nested.m"]) == 1
    neck.set_handler("nested.m", lambda: "at the root again")
    assert head.nested.m()(timeout=LIMIT) == "at the root again"
    neck.nested.set_handler("m", None)
    with pytest.raises(UnsupportedApiError):
        head.nested.m()(timeout=LIMIT)


@pytest.mark.capability("E15")
def test_handler_registered_before_its_api_is_mounted_is_the_same_one(wire):
    head, neck = wire.pair()
    neck.set_handler("nested.m", lambda: "before")
    neck.set_handler("nested.own", lambda: "before")
    neck.set_handler("nested.*", named("before *"))
    neck.nested = Inner()
    assert head.nested.m()(timeout=LIMIT) == "before"
    assert head.nested.own()(timeout=LIMIT) == "before"
    assert head.nested.other()(timeout=LIMIT) == ("before *", "test.nested.other")
    neck.nested.set_handler("m", lambda: "after")
    assert head.nested.m()(timeout=LIMIT) == "after"
    neck.set_handler("nested.m", lambda: "after that")
    assert head.nested.m()(timeout=LIMIT) == "after that"
    neck.set_handler("nested.m", None)
    neck.nested.set_handler("*", None)
    with pytest.raises(UnsupportedApiError):
        head.nested.m()(timeout=LIMIT)
    neck.nested.set_handler("own", None)
    assert head.nested.own()(timeout=LIMIT) == "nested method"


@pytest.mark.capability("E17")
def test_method_without_handler_is_an_error_at_the_caller_or_goes_to_the_global_handler(wire):
    head, neck = wire.pair()
    for caller in (head.method_d, head.nested.method_d):
        with pytest.raises(UnsupportedApiError, match="method_d"):
            caller(1)(timeout=LIMIT)
    caught = []
    neck.set_handler("*", lambda *args, **kwargs: caught.append((current_call().path, args, kwargs)) or "global")
    assert head.method_d(1)(timeout=LIMIT) == "global"
    assert head.nested.method_d(2, three=3)(timeout=LIMIT) == "global"
    head.nested.event()(solicited=False)
    eventually(lambda: len(caught) == 3)
    assert caught == [
        ("test.method_d", (1,), {}),
        ("test.nested.method_d", (2,), {"three": 3}),
        ("test.nested.event", (), {}),
    ]


@pytest.mark.capability("E18", "S6a")
def test_unsupported_path_names_the_nearest_that_are_handled(wire):
    head, neck = wire.head(), wire.neck(Outer("test"))
    neck.set_handler("maths.scale", lambda x: x)
    with pytest.raises(UnsupportedApiError) as caught:
        head.maths.scael(1)(timeout=LIMIT)
    assert caught.value.who == "neck"
    assert caught.value.path == "test.maths.scael"
    assert "test.maths.scale" in caught.value.nearest
    assert "did you mean 'test.maths.scale'" in str(caught.value)


@pytest.mark.parametrize(
    "path", ["", "a..b", ".a", "a.", "a b", "a.*.b", "**", "_private", "a._b", "_epyrpc.x", 3], ids=repr
)
def test_bad_path_is_refused_and_nothing_is_registered(path):
    api = ApiBase("test")
    with pytest.raises(ApiParamError):
        api.set_handler(path, print)
    with pytest.raises(ApiParamError):
        api.handler(path)(print)
    assert api.api_map() == {}


@pytest.mark.parametrize("handler", [3, "print", [print], object()], ids=["int", "str", "list", "object"])
def test_handler_that_is_not_callable_is_refused(handler):
    api = ApiBase("test")
    with pytest.raises(ApiParamError, match="callable"):
        api.set_handler("m", handler)
    assert api.api_map() == {}


def test_decorator_registers_and_gives_the_function_back(wire):
    head, neck = wire.pair()

    @neck.handler("maths.double")
    def double(x):
        """Twice."""
        return 2 * x

    assert double(2) == 4
    assert head.maths.double(4)(timeout=LIMIT) == 8
    assert neck.api_map() == {"test.maths.double": "(x)"}
    assert neck.handlers()["test.maths.double"].doc == "Twice."
