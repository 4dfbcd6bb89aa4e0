"""Fixtures of the tests of bodies."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import epyrpc
from epyrpc.bodies import helpers
from epyrpc.bodies.registry import bodies
from tests.bodies.tools import KINDS, PROCESSES


@pytest.fixture(scope="session", autouse=True)
def _no_server_outlives_the_tests() -> Iterator[None]:
    yield
    helpers.stop_fork_server()


def _stop_all() -> None:
    for body in list(bodies().values()):
        body.stop(0)


@pytest.fixture(params=KINDS)
def body(request: pytest.FixtureRequest) -> Iterator[epyrpc.Body]:
    """Spawn a body with two workers, in each way."""
    yield epyrpc.spawn("worker", workers=2, start_method=request.param)
    _stop_all()


@pytest.fixture(params=PROCESSES)
def process(request: pytest.FixtureRequest) -> Iterator[epyrpc.Body]:
    """Spawn a body with two workers that is a process, in each way."""
    yield epyrpc.spawn("worker", workers=2, start_method=request.param)
    _stop_all()


@pytest.fixture
def worker() -> Iterator[epyrpc.Body]:
    """Spawn a body with two workers, for what does not depend on how it was started."""
    yield epyrpc.spawn("worker", workers=2, start_method="forkserver")
    _stop_all()


@pytest.fixture
def cleanup() -> Iterator[None]:
    """Stop whatever bodies a test has spawned."""
    yield
    _stop_all()
