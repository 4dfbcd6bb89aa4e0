"""Which thread has started which, however the system gives their numbers again."""

from __future__ import annotations

import random
from types import SimpleNamespace

from epyrpc.jupyter.ancestry import Ancestry, straighten


def ancestors(known: dict[int, int], thread: int) -> list[int]:
    """Go as the kernel's streams do, but not for ever."""
    found = []
    while thread in known:
        thread = known[thread]
        found.append(thread)
        assert len(found) <= len(known), f"it leads in a circle: {known}"
    return found


def test_a_number_that_is_given_again_makes_no_circle() -> None:
    known = Ancestry()
    known[2] = 1
    known[3] = 2
    known[2] = 3  # the second thread has ended, and its number is a child of the third's now
    assert ancestors(known, 2) == [3]


def test_a_thread_is_not_its_own_ancestor() -> None:
    known = Ancestry({4: 3})
    known[3] = 3  # started by a thread whose number it has been given
    assert ancestors(known, 4) == [3]


def test_any_threads_in_any_order_make_no_circle() -> None:
    dice = random.Random(1)
    for _ in range(200):
        known = Ancestry()
        for _ in range(40):
            known[dice.randrange(8)] = dice.randrange(8)
            for thread in range(8):
                ancestors(known, thread)


def test_streams_that_note_nothing_are_left_alone() -> None:
    notes, plain = SimpleNamespace(_thread_to_parent={2: 1, 1: 2}), SimpleNamespace()
    straighten(notes, plain, None)
    ancestors(notes._thread_to_parent, 1)
    ancestors(notes._thread_to_parent, 2)
    assert vars(plain) == {}
