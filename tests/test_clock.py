from __future__ import annotations

import random
import time

import pytest

from epyrpc.clock import SYSTEM_CLOCK, DeadlineHeap
from epyrpc.errors import ApiParamError
from epyrpc.testing import ManualClock


@pytest.fixture
def clock():
    return ManualClock(start=100.0)


@pytest.fixture
def heap(clock):
    heap = DeadlineHeap(clock)
    yield heap
    heap.validate()


def test_system_clock_is_the_monotonic_one():
    before = time.monotonic()
    assert before <= SYSTEM_CLOCK.monotonic() <= time.monotonic()


def test_manual_clock_stands_still_until_advanced(clock):
    assert clock.monotonic() == clock.monotonic() == 100.0
    clock.advance(2.5)
    assert clock.monotonic() == 102.5


@pytest.mark.parametrize("seconds", [-1, float("nan")])
def test_manual_clock_does_not_go_back(clock, seconds):
    with pytest.raises(ApiParamError):
        clock.advance(seconds)


def test_manual_clock_tells_its_listeners_until_they_are_forgotten(clock):
    seen = []
    forget = clock.on_advance(lambda: seen.append(clock.monotonic()))
    clock.advance(1)
    forget()
    forget()
    clock.advance(1)
    assert seen == [101.0]


def test_push_tells_whether_the_key_became_the_earliest(heap):
    assert heap.push(105, "a") is True
    assert heap.push(110, "b") is False
    assert heap.push(104, "c") is True
    assert heap.push(104, "d") is False  # an equal time comes after
    assert heap.next() == 104


def test_keys_become_due_in_order_and_once(heap, clock):
    for when, key in [(103, "c"), (101, "a"), (102, "b"), (200, "z")]:
        heap.push(when, key)
    assert heap.pop_due() == []
    clock.advance(3)
    assert heap.pop_due() == ["a", "b", "c"]
    assert heap.pop_due() == []
    assert heap.next() == 200


def test_keys_that_cannot_be_compared_may_be_due_at_the_same_time(heap, clock):
    first, second = object(), object()
    heap.push(101, first)
    heap.push(101, second)
    clock.advance(1)
    assert heap.pop_due() == [first, second]


def test_discarded_key_never_becomes_due(heap, clock):
    heap.push(101, "a")
    heap.push(102, "b")
    heap.discard("a")
    heap.discard("a")
    heap.discard("never there")
    assert heap.next() == 102
    assert len(heap) == 1
    assert "a" not in heap
    assert "b" in heap
    clock.advance(10)
    assert heap.pop_due() == ["b"]
    assert heap.next() is None


def test_push_moves_a_key_that_is_there(heap, clock):
    heap.push(101, "a")
    assert heap.push(150, "a") is True
    assert heap.next() == 150
    clock.advance(10)
    assert heap.pop_due() == []
    assert heap.push(105, "a") is True
    assert heap.pop_due() == ["a"]


def test_key_may_be_pushed_again_after_it_was_discarded(heap, clock):
    heap.push(101, "a")
    heap.discard("a")
    heap.push(103, "a")
    clock.advance(2)
    assert heap.pop_due() == []
    clock.advance(1)
    assert heap.pop_due() == ["a"]


@pytest.mark.parametrize("when", [float("inf"), float("-inf"), float("nan")])
def test_time_that_never_comes_is_refused(heap, when):
    with pytest.raises(ApiParamError):
        heap.push(when, "a")
    assert len(heap) == 0


def test_clear_forgets_everything(heap):
    heap.push(101, "a")
    heap.clear()
    assert heap.next() is None
    assert len(heap) == 0


def test_memory_stays_proportional_to_the_live_keys(heap):
    heap.push(1e6, "long")
    for number in range(10_000):
        heap.push(2e6 + number, number)
        heap.discard(number)
    heap.validate()
    assert len(heap._heap) < 200


def test_moving_one_key_many_times_keeps_memory_bounded(heap):
    heap.push(200, "first")  # keeps the stale entries from coming up
    for number in range(10_000):
        heap.push(1e6 + number, "a")
    assert len(heap._heap) < 200


def test_discarding_alone_frees_memory(heap):
    for number in range(10_000):
        heap.push(200 + number, number)
    for number in range(1, 10_000):
        heap.discard(number)
    assert len(heap._heap) < 200


def test_it_agrees_with_a_sorted_list_whatever_is_done(clock):
    rng = random.Random(7)
    heap, model = DeadlineHeap(clock), {}
    for step in range(3000):
        key = rng.randrange(200)
        action = rng.random()
        if action < 0.6:
            when = clock.monotonic() + rng.randrange(1, 50) + step / 10_000
            earliest = all(when < other for name, other in model.items() if name != key)
            assert heap.push(when, key) is earliest
            model[key] = when
        elif action < 0.9:
            heap.discard(key)
            model.pop(key, None)
        else:
            clock.advance(rng.random() * 3)
            due = sorted((when, name) for name, when in model.items() if when <= clock.monotonic())
            assert heap.pop_due() == [name for _, name in due]
            for _, name in due:
                del model[name]
        assert heap.next() == min(model.values(), default=None)
        heap.validate()
