"""Defaults of an api, overrides of a call, and that no override sticks."""

from __future__ import annotations

import threading
import time

import pytest

from epyrpc import ApiBase, ApiParamError, AsyncResult, TransactionTimeout, current_call
from tests.api.ends import LIMIT, Made, eventually, waits


@pytest.mark.capability("S8")
def test_timeout_of_the_api_applies_is_overridden_and_applies_again(wire):
    head = wire.head(ApiBase("test", timeout=0.2))
    neck = wire.neck(ApiBase("test", workers=4))
    gate = wire.gate()
    neck.set_handler("slow", lambda seconds: gate.wait(seconds))
    for _ in range(2):
        started = time.monotonic()
        with pytest.raises(TransactionTimeout) as caught:
            head.slow(5)()
        assert 0.2 <= time.monotonic() - started < 0.7
        assert caught.value.limit == 0.2
        assert head.slow(0.4)(timeout=LIMIT) is False  # longer than the default allows
        assert head.slow(0.4)(timeout=None) is False


@pytest.mark.capability("S8")
def test_sync_is_a_default_too(wire):
    head = wire.head(ApiBase("test", sync=False))
    neck = wire.neck()
    neck.set_handler("echo", lambda x: x)
    for _ in range(2):
        action = head.echo(1)
        held = action()
        assert isinstance(held, AsyncResult)
        assert held.action is action
        assert head.echo(1)(sync=True, timeout=LIMIT) == 1


@pytest.mark.capability("S8")
def test_callback_is_a_default_too(wire):
    told = []
    head = wire.head(ApiBase("test", callback=lambda transaction_id, result: told.append(result)))
    neck = wire.neck()
    neck.set_handler("echo", lambda x: x)
    assert isinstance(head.echo(1)(), AsyncResult)
    eventually(lambda: told == [1])
    other, called = [], threading.Event()
    head.echo(2)(callback=lambda _, result: (other.append(result), called.set()))
    waits(called)
    assert (told, other) == ([1], [2])
    head.echo(3)()
    eventually(lambda: told == [1, 3])


@pytest.mark.capability("S8")
def test_ignore_errors_is_a_default_too(wire):
    head = wire.head(ApiBase("test", ignore_errors=True))
    wire.neck()
    assert head.nobody()() is None
    with pytest.raises(LookupError):
        head.nobody()(ignore_errors=False)
    assert head.nobody()() is None


class Inner(ApiBase):
    """Inherits what it is not given."""


class Quick(ApiBase):
    """Has a timeout of its own."""

    def __init__(self):
        super().__init__(timeout=0.5)


class Outer(ApiBase):
    """A tree of defaults."""

    inner = Inner
    quick = Quick


@pytest.mark.capability("S8")
def test_nested_apis_inherit_defaults_that_they_are_not_given(wire):
    head = wire.head(Outer("test", timeout=3.0, solicited=False))
    assert head.settings.timeout == head.inner.settings.timeout == 3.0
    assert head.quick.settings.timeout == 0.5
    assert not head.quick.settings.solicited
    head.configure(timeout=4.0)
    assert head.inner.settings.timeout == 4.0
    assert head.quick.settings.timeout == 0.5
    head.inner.configure(timeout=1.0, sync=False)
    assert (head.settings.timeout, head.inner.settings.timeout) == (4.0, 1.0)
    assert head.settings.sync
    late = ApiBase(sync=False)
    assert late.settings.timeout is None
    head.inner.late = late
    assert late.settings.timeout == 1.0
    assert not late.settings.sync


@pytest.mark.capability("S8")
def test_default_timeout_travels_with_every_way_of_calling(wire):
    head = wire.head(ApiBase("test", timeout=7.0))
    neck = wire.neck()
    neck.set_handler("left", lambda: current_call().remaining)
    neck.set_handler("parts", lambda: (current_call().remaining for _ in range(1)))
    for left in (head.left()(), head.call("left"), head.submit("left").result(LIMIT), next(head.stream("parts"))):
        assert 6 < left <= 7


BAD = {
    "timeout": [-1, "3", True, float("nan"), [1]],
    "sync": [1, None, "yes"],
    "solicited": [0, None],
    "ignore_errors": ["", 1],
    "callback": [3, "print"],
}


@pytest.mark.capability("S8", "E11")
@pytest.mark.parametrize(("option", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_bad_option_is_refused_naming_it_everywhere(queue_wire, option, value):
    head, neck = queue_wire.pair()
    made = Made(queue_wire.ipc_head.transactions)
    neck.set_handler("echo", lambda x: x)
    for use in (
        lambda: head.echo(1)(**{option: value}),
        lambda: ApiBase("x", **{option: value}),
        lambda: head.configure(**{option: value}),
    ):
        with pytest.raises(ApiParamError, match=option):
            use()
    assert head.echo(1)(timeout=LIMIT) == 1
    assert made() == 1


def test_unknown_option_is_refused_naming_those_that_there_are(queue_wire):
    head, _ = queue_wire.pair()
    with pytest.raises(ApiParamError, match=r"tiemout.*timeout"):
        head.configure(tiemout=3)
    with pytest.raises(TypeError, match="tiemout"):
        head.echo(1)(tiemout=3)


@pytest.mark.parametrize("workers", [0, -1, 1.5, "2", True, 100_000])
def test_bad_number_of_workers_is_refused(workers):
    with pytest.raises(ApiParamError, match="workers"):
        ApiBase("test", workers=workers)
