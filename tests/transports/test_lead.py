"""The state machine of `transports.lead`, walked through every order of moves.

The model: two or three threads, each a generator that makes one locked move of `Lead` at a time exactly as `Wire` and
`WorkerPool` make them, and stops between two moves. What a thread does when it goes on is decided by what it has seen,
so the walk is over all interleavings; states already seen are not walked again. After each move `validate()` runs, and:

- at most one thread is between "may read" and "has read" at any time;
- when no thread can move any more, nobody is asleep who has something to do (no lost wake-up).
"""

from __future__ import annotations

import functools

import pytest

from epyrpc.transports.lead import ENDED, READING, RUNNING, VACANT, Lead, Parker


class Reply:
    """What a caller waits for."""

    def __init__(self):
        self.settled = False
        self.has_news = False
        self.parkers = None


def asleep(parker):
    """Whether a thread that acquires its parker now would sleep."""
    return parker.lock.locked()


class Model:
    """One wire with scripted frames: the whole state that the threads share."""

    def __init__(self, threads, frames):
        self.lead = Lead()
        self.frames = list(frames)  # what the link will give, in order: a Reply to settle, or "call" for a worker
        self.queue = []
        self.idlers = []
        self.reading = None
        self.woken_link = False
        self.over = False
        self.stop_idlers = False
        self.ran = 0
        self.parkers = [Parker() for _ in threads]
        self.steps = [thread(self, parker) for thread, parker in zip(threads, self.parkers, strict=True)]
        self.waits = [None] * len(threads)  # what a thread is blocked on: a function that says whether it may go on
        self.done = [False] * len(threads)

    def enabled(self):
        return [i for i, done in enumerate(self.done) if not done and (self.waits[i] is None or self.waits[i]())]

    def step(self, i):
        self.waits[i] = None
        try:
            self.waits[i] = next(self.steps[i])
        except StopIteration:
            self.done[i] = True
        self.lead.validate()

    # The link, for whoever leads. Two moves, so that another thread can come between.

    def read(self, parker, hires=True):
        assert self.reading is None, "two readers at once"
        assert self.lead.holder is parker
        assert self.lead.state is READING
        self.reading = parker
        yield lambda: bool(self.frames) or self.woken_link
        assert self.reading is parker
        self.woken_link = False
        got = self.frames.pop(0) if self.frames else None
        self.reading = None
        if isinstance(got, Reply):
            got.settled = True
            yield None  # between "settled" and the look at who waits
            if got.parkers:
                self.lead.wake(got)
        elif got is not None:
            self.queue.append(got)
            if hires:  # a worker that reads runs the call itself
                self.lead.hire(self.idlers)
        yield None


def caller(reply):
    """A thread that waits for a reply: `Wire._wait`."""

    def run(model, me):
        while True:
            leads = model.lead.take_or_follow(me, reply)
            yield None
            if leads is None:
                return
            if not leads:
                yield lambda: not asleep(me)
                leads = model.lead.leave(me, reply)
                yield None
            if leads:
                while not reply.settled and not model.over:
                    yield from model.read(me)
                model.lead.pass_on(me)
                yield None
            if reply.settled:
                return

    return run


def hasty_caller(reply):
    """A thread that takes the lead at once if it can, and waits as the others do if not: `call_straight`."""

    def run(model, me):
        leads = model.lead.take_vacant(me)
        yield None
        if leads:
            while not reply.settled and not model.over:
                yield from model.read(me)
            model.lead.pass_on(me)
            yield None
        else:
            yield from caller(reply)(model, me)

    return run


def impatient_caller(reply):
    """A caller that gives up at any moment while it follows, as at a time limit or at Ctrl-C."""

    def run(model, me):
        leads = model.lead.take_or_follow(me, reply)
        yield None
        if leads is None:
            return
        if not leads:
            # Woken or not: it leaves when the walk says so.
            leads = model.lead.leave(me, reply)
            yield None
        if leads:
            model.lead.pass_on(me)
            yield None

    return run


def canceller(reply):
    """A thread that settles a reply without reading, as a cancel or a deadline does."""

    def run(model, me):
        yield None
        reply.settled = True
        yield None
        if model.lead.wake(reply):
            model.woken_link = True

    return run


def standby(model, me):
    """The standby: `Wire._stand_by`; its tick is a free move."""
    while not model.over:
        serial = model.lead.serial
        yield None  # the tick
        if model.lead.rescue(me, serial):
            yield None
            yield from model.read(me)
            model.lead.pass_on(me)
            yield None
        elif model.lead.sleep(me, serial):
            yield lambda: not asleep(me)
            model.lead.woken(me)
            yield None


def worker(calls, handler=None):
    """A handler worker: `WorkerPool._loop` and `_lead`; it ends after so many calls have been run by anybody."""

    def run(model, me):
        lead = model.lead
        while model.ran < calls:
            if model.queue:
                model.queue.pop(0)
                yield None
                model.ran += 1
                if model.ran == calls:
                    model.stop_idlers = True
                    while lead.hire(model.idlers):
                        pass
                    model.woken_link = True
                continue
            verdict = lead.idle(me, model.queue, model.idlers, True)
            yield None
            if verdict is True:
                yield from lead_as_worker(model, me, calls, handler)
            elif verdict is False:
                yield lambda: not asleep(me)
                lead.stir(me, model.idlers)
                yield None

    return run


def lead_as_worker(model, me, calls, handler):
    lead = model.lead
    while model.ran < calls:
        yield from model.read(me, hires=False)
        if not model.queue:
            break
        kept = lead.run(me)
        yield None
        while model.queue:
            model.queue.pop(0)
            if handler is not None:
                yield from handler(model, me)
            else:
                yield None
            model.ran += 1
            if model.ran == calls:
                model.stop_idlers = True
                while lead.hire(model.idlers):
                    pass
                model.woken_link = True
        if not lead.resume(me):
            return
        yield None
        assert kept or lead.holder is me
    lead.pass_on(me)
    yield None


def walk(make, limit=200_000):
    """Walk every interleaving; return how many schedules ended, and the longest one.

    `make()` builds a fresh model. A schedule is the list of the threads that moved. The walk is depth first;
    a prefix is replayed on a fresh model, since generators cannot be copied.
    """
    ended, longest, stack, seen = 0, 0, [()], set()
    while stack:
        schedule = stack.pop()
        model = make()
        for i in schedule:
            model.step(i)
        while True:
            choices = model.enabled()
            if not choices:
                check_end(model, schedule)
                ended, longest = ended + 1, max(longest, len(schedule))
                break
            key = fingerprint(model)
            if key in seen:
                break
            seen.add(key)
            assert len(seen) < limit, "the walk does not end: the model is too large"
            stack += [(*schedule, i) for i in choices[1:]]
            schedule = (*schedule, choices[0])
            model.step(choices[0])
    return ended, longest


def fingerprint(model):
    """What decides how a model goes on: where each thread stands, with its variables, and everything shared."""
    lead, names = model.lead, {parker: i for i, parker in enumerate(model.parkers)}

    def value(thing):
        if isinstance(thing, Parker):
            return names[thing]
        if isinstance(thing, Reply):
            return thing.settled, thing.has_news, thing.parkers and tuple(names[p] for p in thing.parkers)
        return thing if isinstance(thing, (bool, int, str, type(None))) else 0

    def stack(generator):
        frames = []
        while generator is not None and generator.gi_frame is not None:
            # `serial` only matters by whether it is still the present one.
            local = {
                k: (v == lead.serial if k == "serial" else value(v))
                for k, v in generator.gi_frame.f_locals.items()
                if k not in ("model", "self", "lead")
            }
            frames.append((generator.gi_frame.f_lasti, tuple(sorted((k, repr(v)) for k, v in local.items()))))
            generator = generator.gi_yieldfrom if hasattr(generator.gi_yieldfrom, "gi_frame") else None
        return tuple(frames)

    return (
        tuple(stack(step) for step in model.steps),
        tuple(model.done),
        tuple((p.parked, p.leads, asleep(p)) for p in model.parkers),
        lead.state,
        lead.holder and names[lead.holder],
        tuple(names[p] for p in lead.followers),
        lead.sleeper and names[lead.sleeper],
        tuple(names[p] for p in model.idlers),
        len(model.frames),
        len(model.queue),
        model.reading and names[model.reading],
        model.woken_link,
        model.ran,
    )


def check_end(model, schedule):
    """Nobody can move: whoever is not done must have nothing to do."""
    for i, done in enumerate(model.done):
        if not done:
            name = model.steps[i].__qualname__
            assert name == "standby", f"{name} sleeps for ever: {model.lead.state}, after {schedule}"
    assert not model.frames or model.lead.state is not VACANT, f"frames are left and nobody reads, after {schedule}"


def replies(count):
    return [Reply() for _ in range(count)]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["in-order", "crossed"])
def test_two_callers_each_get_their_reply_whoever_reads(order):
    def make():
        own = replies(2)
        return Model([caller(own[0]), caller(own[1])], [own[i] for i in order])

    ended, longest = walk(make)
    assert ended > 1
    assert longest > 8


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)], ids=str)
def test_three_callers_each_get_their_reply_whoever_reads(order):
    def make():
        own = replies(3)
        return Model([caller(reply) for reply in own], [own[i] for i in order])

    assert walk(make)[0] > 1


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["in-order", "crossed"])
def test_hasty_callers_beside_others(order):
    def make(first, *others):
        own = replies(2)
        return Model([first(own[0]), hasty_caller(own[1]), *others], [own[i] for i in order])

    for first in (caller, hasty_caller):
        assert walk(functools.partial(make, first))[0] > 1
        assert walk(functools.partial(make, first, standby))[0] >= 1

    def with_canceller():
        own = replies(2)
        return Model([hasty_caller(own[0]), hasty_caller(own[1]), canceller(own[0])], [own[1]])

    assert walk(with_canceller)[0] > 1


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["in-order", "crossed"])
def test_callers_beside_the_standby(order):
    def make():
        own = replies(2)
        return Model([caller(own[0]), caller(own[1]), standby], [own[i] for i in order])

    assert walk(make)[0] >= 1


def test_a_follower_that_leaves_takes_no_wake_up_with_it():
    """It was promoted, or woken, at the moment it gave up: the lead goes on to the next."""

    def make():
        own = replies(2)
        return Model([caller(own[0]), impatient_caller(own[1])], [own[0]])

    assert walk(make)[0] > 1

    def with_three():
        own = replies(3)
        return Model([caller(own[0]), impatient_caller(own[1]), caller(own[2])], [own[0], own[2]])

    assert walk(with_three)[0] > 1


def test_one_call_awaited_by_two_threads():
    def make():
        own = Reply()
        return Model([caller(own), caller(own)], [own])

    assert walk(make)[0] > 1


def test_a_cancel_wakes_a_follower_and_a_leader():
    def make():
        own = replies(2)
        return Model([caller(own[0]), caller(own[1]), canceller(own[0])], [own[1]])

    assert walk(make)[0] > 1

    def alone():
        own = Reply()
        return Model([caller(own), canceller(own)], [])

    assert walk(alone)[0] > 1


def test_worker_and_caller_share_the_wire():
    def make():
        own = Reply()
        return Model([worker(1), caller(own)], ["call", own])

    assert walk(make)[0] > 1

    def crossed():
        own = Reply()
        return Model([worker(1), caller(own), standby], [own, "call"])

    assert walk(crossed)[0] > 1


def test_two_workers_and_the_standby_run_every_call():
    def make():
        return Model([worker(2), worker(2), standby], ["call", "call"])

    assert walk(make)[0] >= 1


def nested_wait(reply):
    """A handler that makes a call of its own and waits for it while its worker still holds the lead."""

    def handler(model, me):
        yield None
        yield from caller(reply)(model, me)

    return handler


def test_handler_that_calls_back_reads_its_own_reply():
    def make():
        own = Reply()
        return Model([worker(1, nested_wait(own))], ["call", own])

    assert walk(make)[0] == 1


def test_handler_that_calls_back_beside_the_standby_and_a_caller():
    """The prototype's trap: the standby lent the lead of a thread that was reading, since a stale flag said it ran."""

    def make():
        own = Reply()
        return Model([worker(1, nested_wait(own)), standby], ["call", own])

    assert walk(make)[0] >= 1

    def with_caller():
        own = replies(2)
        return Model([worker(1, nested_wait(own[0])), standby, caller(own[1])], ["call", own[0], own[1]])

    assert walk(with_caller)[0] >= 1


def test_the_walk_finds_two_readers():
    """The control: a lead that may be lent while its holder reads is caught."""

    class Careless(Lead):
        def rescue(self, me, serial):
            with self.lock:
                self._move(READING, me)
                return True

    def make():
        own = Reply()
        model = Model([caller(own), standby], [own])
        model.lead = Careless()
        return model

    with pytest.raises(AssertionError, match="two readers"):
        walk(make)


def test_the_walk_finds_a_lost_wake_up():
    """The control: a lead that is given to nobody although somebody follows is caught."""

    class Forgetful(Lead):
        def pass_on(self, me):
            with self.lock:
                if self.holder is me:
                    self._move(VACANT, None)

    def make():
        own = replies(2)
        model = Model([caller(own[0]), caller(own[1])], [own[0], own[1]])
        model.lead = Forgetful()
        return model

    with pytest.raises(AssertionError, match="sleeps for ever"):
        walk(make)


# ---- moves one by one -----------------------------------------------------------------------------------------------


def test_moves_that_are_not_allowed_are_refused():
    lead, one, other = Lead(), Parker(), Parker()
    assert lead.take_vacant(one)
    assert not lead.take_vacant(other)
    assert not lead.run(other)
    assert not lead.resume(other)
    lead.pass_on(other)
    assert lead.holder is one
    assert not lead.rescue(other, lead.serial), "a reader's lead is never lent"
    assert lead.run(one)
    assert lead.state is RUNNING
    assert not lead.rescue(other, lead.serial - 1), "something has moved"
    assert lead.rescue(other, lead.serial)
    assert not lead.resume(one), "the lead was lent meanwhile"
    lead.pass_on(one)
    assert lead.holder is other
    lead.validate()


def test_after_the_end_nobody_leads():
    lead, one, reply = Lead(), Parker(), Reply()
    assert lead.take_vacant(one)
    lead.end()
    lead.validate()
    assert lead.state is ENDED
    assert not lead.take_vacant(one)
    assert not lead.rescue(one, lead.serial)
    assert not lead.run(one)
    assert lead.take_or_follow(one, reply) is False
    reply.settled = True
    lead.wake(reply)
    assert not asleep(one)
    assert not lead.leave(one, reply)
    assert lead.take_or_follow(one, reply) is None
    lead.end()
    lead.validate()


def test_the_newest_follower_is_promoted():
    lead, leader, first, second = Lead(), Parker(), Parker(), Parker()
    assert lead.take_vacant(leader)
    replies_ = replies(2)
    assert lead.take_or_follow(first, replies_[0]) is False
    assert lead.take_or_follow(second, replies_[1]) is False
    lead.pass_on(leader)
    assert lead.holder is second
    assert lead.leave(second, replies_[1])
    lead.validate()


def test_a_release_that_came_while_nobody_slept_is_taken_back():
    """Else the next park would not sleep, and its thread would believe that it leads."""
    lead, leader, follower, reply = Lead(), Parker(), Parker(), Reply()
    assert lead.take_vacant(leader)
    assert lead.take_or_follow(follower, reply) is False
    lead.pass_on(leader)
    assert lead.leave(follower, reply)  # promoted, without ever having slept
    assert asleep(follower)
    lead.pass_on(follower)
    assert lead.state is VACANT


def test_validate_sees_what_is_wrong():
    lead, one = Lead(), Parker()
    lead.holder = one
    with pytest.raises(AssertionError):
        lead.validate()
    lead.state = READING
    lead.validate()
    lead.followers[one] = None
    with pytest.raises(AssertionError):
        lead.validate()
    other = Parker()
    lead.followers.clear()
    lead.followers[other] = None
    with pytest.raises(AssertionError):
        lead.validate()
