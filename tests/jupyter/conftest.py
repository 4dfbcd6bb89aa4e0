"""One kernel with one body, for the tests of a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.jupyter.kernels import Kernel, kernel


@pytest.fixture(scope="module")
def nb() -> Iterator[Kernel]:
    """A kernel in which the extension is loaded and the body `worker` lives."""
    with kernel("%load_ext epyrpc", "%body spawn worker") as started:
        yield started
