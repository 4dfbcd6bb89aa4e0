"""One kernel for the tests of a module, with a body of its own for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.jupyter.kernels import Kernel, kernel


@pytest.fixture(scope="module")
def empty_kernel() -> Iterator[Kernel]:
    """Start a kernel in which nothing has run."""
    with kernel() as started:
        yield started


@pytest.fixture
def nb(empty_kernel: Kernel) -> Iterator[Kernel]:
    """Give the kernel with the extension loaded and the body `worker`; no body outlives the test."""
    empty_kernel.ok("%load_ext epyrpc\n%body spawn worker")
    yield empty_kernel
    empty_kernel.ok("%load_ext epyrpc\n%body stop --all")
