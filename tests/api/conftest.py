"""Fixtures of the tests of the object API: wires within this process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.api.ends import KINDS, Ends


@pytest.fixture(params=list(KINDS))
def ends(request: pytest.FixtureRequest) -> Iterator[Ends]:
    """Both ends of a wire, not connected yet; over every transport."""
    both = Ends(request.param)
    yield both
    both.close()


@pytest.fixture
def wire(ends: Ends) -> Ends:
    """Both ends of a wire, connected; over every transport."""
    return ends.connect()


@pytest.fixture
def queue_wire() -> Iterator[Ends]:
    """Both ends of a wire of queues, connected; for what does not depend on the transport."""
    both = Ends("queue").connect()
    yield both
    both.close()
