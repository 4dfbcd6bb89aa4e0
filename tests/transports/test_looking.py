"""When a reader looks before it sleeps: only where that has been found to pay."""

from __future__ import annotations

import pytest

from epyrpc.transports import looking
from epyrpc.transports.looking import DOUBTS, EPOCH, LONG_REST, LONGEST_REST, LOOKS, REST, TRIAL, Looker

READY = [(7, 1)]


class World:
    """A wire whose waits take so long: `asleep` without looking, `awake` with it; what comes, comes at look `after`."""

    def __init__(self, asleep: float, awake: float, after: int = 3) -> None:
        self.asleep, self.awake, self.after = asleep, awake, after
        self.now = 0.0
        self.looks = 0
        self.looker = Looker(self.poll, lambda: self.now)

    def poll(self, timeout: float) -> list[tuple[int, int]]:
        assert timeout == 0
        self.looks += 1
        return READY if self.looks >= self.after else []

    def wait(self, times: int) -> int:
        """Let so many waits go by; return in how many of them it looked."""
        looked = 0
        for _ in range(times):
            self.looks = 0
            self.looker.left -= 1
            found = self.looker.look() if self.looker.looking or not self.looker.left else []
            looked += self.looks > 0
            assert found == (READY if 0 < self.after <= self.looks else [])
            self.now += self.awake if self.looks else self.asleep
        return looked


def test_it_looks_once_a_trial_has_shown_that_this_is_faster() -> None:
    world = World(asleep=60, awake=25)
    assert world.wait(REST * EPOCH) == 0
    assert world.wait(200 * EPOCH) >= 199 * EPOCH  # from the trial on, for ever


@pytest.mark.parametrize("awake", [56, 60, 90])
def test_it_gives_up_when_looking_does_not_pay_and_tries_ever_more_seldom(awake: float) -> None:
    world = World(asleep=60, awake=awake)
    assert world.wait((REST + 1) * EPOCH + TRIAL * EPOCH) == TRIAL * EPOCH
    assert world.wait((LONG_REST - 1) * EPOCH) == 0
    share = world.wait(50 * LONGEST_REST * EPOCH) / (50 * LONGEST_REST * EPOCH)
    assert 0 < share < 1.5 * TRIAL / LONGEST_REST


def test_a_slow_wait_or_two_in_a_trial_does_not_decide_it() -> None:
    world = World(asleep=60, awake=25)
    world.wait((REST + 1) * EPOCH)
    world.now += 1e9  # another process had the core for a while
    world.wait(EPOCH)
    assert world.looker.looking
    assert world.wait(100 * EPOCH) == 100 * EPOCH


def test_it_stops_when_the_other_end_begins_to_take_its_time_and_begins_again_when_it_does_not() -> None:
    world = World(asleep=60, awake=25)
    world.wait(20 * EPOCH)
    world.asleep = world.awake = 1000.0
    world.wait((DOUBTS + 1) * EPOCH)
    assert not world.looker.looking
    world.asleep, world.awake = 60, 25
    world.wait((LONG_REST + TRIAL) * EPOCH)
    assert world.looker.looking


def test_it_looks_only_so_often_and_then_leaves_the_wait_to_the_system() -> None:
    world = World(asleep=60, awake=25, after=LOOKS + 1)
    world.wait((REST + 1) * EPOCH + 1)
    assert world.looks == LOOKS


def test_what_is_there_at_once_costs_one_look() -> None:
    world = World(asleep=60, awake=25, after=1)
    world.wait((REST + 1) * EPOCH + 1)
    assert world.looks == 1
    assert looking.GAIN < 1
