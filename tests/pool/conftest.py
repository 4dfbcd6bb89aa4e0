"""Fixtures of the tests of pools."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import epyrpc
from epyrpc.bodies import helpers


@pytest.fixture(scope="session", autouse=True)
def _no_server_outlives_the_tests() -> Iterator[None]:
    yield
    helpers.stop_fork_server()


@pytest.fixture
def pool() -> Iterator[epyrpc.Pool]:
    """Make a pool of two bodies."""
    with epyrpc.Pool(2, name="crunch") as made:
        yield made
        made.shutdown(wait=False, cancel_futures=True)
