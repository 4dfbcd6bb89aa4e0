"""Items that end a body by being unpickled there: they fail, the others do not, and nobody tries for ever."""

from __future__ import annotations

import os

import pytest

import epyrpc
from tests.bodies.tools import LIMIT


def _end_this_process() -> None:
    os._exit(9)


class Poison:
    """Ends the process that unpickles it."""

    def __reduce__(self) -> object:
        return _end_this_process, ()


def test_task_that_ends_every_body_before_it_begins_fails(pool: epyrpc.Pool) -> None:
    with pytest.raises(epyrpc.BodyDied):
        pool.submit(id, Poison()).result(LIMIT)
    assert pool.submit(pow, 2, 5).result(LIMIT) == 32


@pytest.mark.parametrize("chunksize", [None, 1, 10])
def test_item_that_ends_every_body_before_it_begins_fails_alone(pool: epyrpc.Pool, chunksize: int | None) -> None:
    items = [Poison() if n == 17 else n for n in range(40)]
    outcomes = list(pool.map(type, items, chunksize=chunksize, return_exceptions=True, timeout=LIMIT * 3))
    failed = [n for n, outcome in enumerate(outcomes) if outcome is not int]
    assert failed == [17]
    assert isinstance(outcomes[17], epyrpc.BodyDied)
