"""One kernel for the tests of a module, with a body of its own for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from jupyter_client.utils import run_sync

from tests.jupyter.kernels import Kernel, kernel


async def _nothing() -> None:
    """Do nothing."""


@pytest.fixture(scope="session", autouse=True)
def loop_of_jupyter_client() -> None:
    """Have the event loop made that jupyter_client keeps for the process, so that no test seems to leave it behind."""
    run_sync(_nothing)()


@pytest.fixture(scope="module")
def empty_kernel() -> Iterator[Kernel]:
    """Start a kernel in which one body has lived, so that multiprocessing's resource tracker is there from now on."""
    with kernel("%load_ext epyrpc", "%body spawn first", "%body stop first") as started:
        yield started


@pytest.fixture
def nb(empty_kernel: Kernel) -> Iterator[Kernel]:
    """Give the kernel with the extension loaded and the body `worker`; no body outlives the test."""
    empty_kernel.ok("%load_ext epyrpc\n%body spawn worker")
    yield empty_kernel
    empty_kernel.ok("%load_ext epyrpc\n%body stop --all")


@pytest.fixture
def named(nb: Kernel) -> Kernel:
    """Give the notebook a name of its own, and the body some."""
    nb.ok('''
        def fit(rows, *, rate=0.1):
            """Fit a model."""
            return rows
        worker.push(fit=fit, lonely_text="abc", lots=3)
        notebooks_own = 2
    ''')
    return nb


@pytest.fixture(params=["before the first cell", "with a shell"])
def names(named: Kernel, request: pytest.FixtureRequest) -> Kernel:
    """Do that with a body that has an IPython shell, or not yet."""
    if request.param == "with a shell":
        named.ok("%%body worker\ntable = {'key one': 1}")
    return named
