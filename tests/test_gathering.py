"""Many calls as one thing."""

from __future__ import annotations

import asyncio

import pytest

from epyrpc import gather
from epyrpc.errors import ApiParamError
from epyrpc.results import CallState
from epyrpc.transactions import HeadTransactionIdGenerator, TransactionManager
from tests.test_observing import move


def test_results_come_in_order_and_the_first_failure_is_raised() -> None:
    calls = TransactionManager(HeadTransactionIdGenerator())
    first, second, third = (calls.new("a") for _ in range(3))
    gathered = gather([first, second, third])
    assert len(gathered) == 3
    assert gathered[1] is second
    calls.release(third.id, 3)
    calls.release(first.id, 1)
    assert not gathered.done()
    with pytest.raises(TimeoutError):
        gathered.results(timeout=0)
    move(calls, second, "fail")
    with pytest.raises(ValueError, match="no"):
        gathered.results()
    one, error, three = gathered.results(return_exceptions=True)
    assert (one, three) == (1, 3)
    assert isinstance(error, ValueError)
    assert gathered.states == {CallState.DONE: 2, CallState.FAILED: 1}
    assert repr(gathered) == "<3 calls: 2 done · 1 failed>"


def test_cancel_cancels_what_has_not_ended() -> None:
    calls = TransactionManager(HeadTransactionIdGenerator())
    gathered = gather(calls.new("a") for _ in range(3))
    calls.release(gathered[0].id, 1)
    assert gathered.cancel() == 2
    assert gathered.cancel() == 0
    assert [call.cancelled() for call in gathered] == [False, True, True]


def test_it_can_be_awaited() -> None:
    calls = TransactionManager(HeadTransactionIdGenerator())
    gathered = gather(calls.new("a") for _ in range(3))

    async def wait() -> list[int]:
        for number, call in enumerate(gathered):
            calls.release(call.id, number)
        return await gathered

    assert asyncio.run(wait()) == [0, 1, 2]


def test_only_calls_can_be_gathered() -> None:
    with pytest.raises(ApiParamError, match="what submit returns"):
        gather([3])  # type: ignore[list-item]
