from __future__ import annotations

import random

import pytest

from epyrpc.errors import ApiParamError, NoDataError, TransactionError
from epyrpc.partials import Chunks, PartialResponse


def make_join():
    return lambda parts: "-".join(map(str, parts))


class Joiner:
    """A combiner that is an object."""

    def __init__(self, by):
        self.by = by

    def __call__(self, parts):
        return self.by.join(map(str, parts))

    def __eq__(self, other):
        return isinstance(other, Joiner) and self.by == other.by

    __hash__ = None


@pytest.mark.capability("X3", "D6")
@pytest.mark.parametrize("count", [1, 2, 3, 100])
@pytest.mark.parametrize("combiner", [None, sum, make_join(), Joiner("+")], ids=["list", "sum", "closure", "object"])
@pytest.mark.parametrize("order", ["in order", "reversed", "shuffled"])
def test_chunks_are_combined_whatever_their_order(count, combiner, order):
    chunks = list(Chunks(range(count), combiner))
    if order == "reversed":
        chunks.reverse()
    elif order == "shuffled":
        random.Random(count).shuffle(chunks)
    response = PartialResponse()
    assert [response.add(*chunk, combiner) for chunk in chunks] == [False] * (count - 1) + [True]
    assert response.result() == (combiner or list)(list(range(count)))
    assert response.duplicates == 0


@pytest.mark.capability("D6")
def test_single_chunk_is_combined_too():
    response = PartialResponse()
    assert response.add(0, 1, "only", make_join()) is True
    assert response.result() == "only"
    response = PartialResponse()
    response.add(0, 1, "only")
    assert response.result() == ["only"]


def test_no_chunks_at_all_are_a_result_too():
    (chunk,) = Chunks([], sum)
    assert chunk == (0, 0, None)
    response = PartialResponse()
    assert not response.complete
    assert response.add(*chunk, sum) is True
    assert response.result() == 0
    assert response.missing == ()


@pytest.mark.capability("X3")
def test_duplicates_are_dropped_and_counted():
    response = PartialResponse()
    assert response.add(1, 2, "b") is False
    assert response.add(1, 2, "other b") is False
    assert response.add(0, 2, "a") is True
    assert response.add(0, 2, "other a") is True
    assert response.duplicates == 2
    assert response.result() == ["a", "b"]


@pytest.mark.capability("X3")
@pytest.mark.parametrize(("index", "count"), [(2, 2), (-1, 2), (0, -1), (1, 0), (100, 2)])
def test_index_out_of_range_is_refused(index, count):
    with pytest.raises(TransactionError, match="out of range"):
        PartialResponse().add(index, count, "x")


@pytest.mark.capability("X3")
def test_other_count_is_refused_and_what_arrived_is_kept():
    response = PartialResponse()
    response.add(0, 2, "a")
    for count in (3, 0):
        with pytest.raises(TransactionError, match="must agree"):
            response.add(0, count, "b")
    assert response.add(1, 2, "b") is True
    assert response.result() == ["a", "b"]


@pytest.mark.capability("X3")
@pytest.mark.parametrize(
    ("first", "second"),
    [(sum, max), (sum, None), (None, sum), (make_join(), lambda parts: parts), (Joiner("a"), Joiner("b"))],
)
def test_other_combiner_is_refused(first, second):
    response = PartialResponse()
    response.add(0, 2, "a", first)
    with pytest.raises(TransactionError, match="is to be combined by"):
        response.add(1, 2, "b", second)


@pytest.mark.parametrize(("first", "second"), [(make_join(), make_join()), (Joiner("a"), Joiner("a"))])
def test_copies_of_one_combiner_agree(first, second):
    response = PartialResponse()
    response.add(0, 2, 1, first)
    assert response.add(1, 2, 2, second) is True


@pytest.mark.capability("X4")
def test_incomplete_result_cannot_be_had():
    response = PartialResponse()
    with pytest.raises(NoDataError, match="0 of an unknown number of chunks"):
        response.result()
    response.add(2, 3, "c")
    with pytest.raises(NoDataError, match="1 of 3 chunks"):
        response.result()
    assert (len(response), response.count, response.missing, response.complete) == (1, 3, (0, 1), False)


def test_missing_chunks_are_listed_within_bounds():
    response = PartialResponse()
    response.add(0, 10**12, "a")
    assert response.missing == tuple(range(1, 101))


def test_error_of_the_combiner_is_the_results():
    response = PartialResponse()
    response.add(0, 1, "text", sum)
    with pytest.raises(TypeError):
        response.result()


def test_combiner_must_be_callable():
    with pytest.raises(ApiParamError, match="combiner"):
        Chunks([1], combiner="join")


def test_chunks_take_an_iterator_once():
    assert list(Chunks(iter("ab"))) == [(0, 2, "a"), (1, 2, "b")]
    assert "combiner=None" in repr(Chunks([]))
