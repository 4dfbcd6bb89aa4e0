"""Shift-Tab below the first line of a ``%%body`` cell tells what a name is in the body."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.jupyter.kernels import VERSIONS, Kernel, kernel


@pytest.fixture(scope="module", params=VERSIONS)
def empty_kernel(request: pytest.FixtureRequest) -> Iterator[Kernel]:
    with kernel("%load_ext epyrpc", "%body spawn first", "%body stop first", version=request.param) as started:
        yield started


def test_names_are_described_by_the_body(names: Kernel) -> None:
    shown = names.inspect("%%body worker\nx = 1\nfit(")
    assert shown is not None
    assert "fit(rows, *, rate=0.1)" in shown
    assert "Fit a model." in shown
    assert "int" in str(names.inspect("%%body worker --async\nlots"))
    assert "bit_length" in str(names.inspect("%%body worker\nlots.bit_length"))
    assert "len(obj, /)" in str(names.inspect("%%body worker\nlen("))


def test_a_name_that_the_body_does_not_know_is_not_described(names: Kernel) -> None:
    assert names.inspect("%%body worker\nnotebooks_own") is None
    assert names.inspect("%%body worker\n") is None
    assert names.inspect("%%body worker\nlots.nothing") is None


def test_a_second_shift_tab_shows_the_source(nb: Kernel) -> None:
    nb.ok("%%body worker\ndef double(x):\n    return 2 * x\n")
    assert "return 2 * x" in str(nb.inspect("%%body worker\ndouble", 1))


def test_other_cells_are_described_by_the_notebook(named: Kernel) -> None:
    assert "Body" in str(named.inspect("%%body worker"))
    assert "int" in str(named.inspect("%%body nobody\nnotebooks_own"))
    assert "int" in str(named.inspect("x = 1\nnotebooks_own"))


def test_unloading_gives_inspection_back(named: Kernel) -> None:
    named.ok("%unload_ext epyrpc")
    assert "int" in str(named.inspect("%%body worker\nnotebooks_own"))
