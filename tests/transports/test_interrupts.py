"""Ctrl-C at any moment: the shields, and real interrupts in a process of its own."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time

import pytest

from epyrpc import interrupts
from epyrpc.interrupts import HandlerShield, raise_shield, set_handler_shield
from epyrpc.testing import queue_pair

LIMIT = 10


class Stopped(BaseException):
    """What is raised in a handler here."""


# ---- the main thread's shield --------------------------------------------------------------------------------------


def interrupt():
    signal.raise_signal(signal.SIGINT)


def test_interrupt_waits_until_the_shield_is_lowered():
    shield = raise_shield()
    assert shield is not None
    passed = False
    try:
        interrupt()
        passed = True
    finally:
        with pytest.raises(KeyboardInterrupt):
            shield.lower()
    assert passed
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_many_interrupts_are_one():
    shield = raise_shield()
    for _ in range(5):
        interrupt()
    with pytest.raises(KeyboardInterrupt):
        shield.lower()
    raise_shield().lower()


def test_interrupt_is_raised_at_once_while_the_shield_is_open():
    shield = raise_shield()
    try:
        shield.open = True
        with pytest.raises(KeyboardInterrupt):
            interrupt()
        assert not shield.open, "it is closed again, so that what cleans up is not interrupted"
    finally:
        shield.lower()


def test_serve_raises_what_was_deferred_and_lower_then_does_not():
    shield = raise_shield()
    try:
        shield.serve()
        interrupt()
        with pytest.raises(KeyboardInterrupt):
            shield.serve()
        shield.serve()
    finally:
        shield.lower()


def test_shield_gives_back_whatever_handler_there_was():
    seen = []
    before = signal.signal(signal.SIGINT, lambda *args: seen.append(args))
    try:
        mine = signal.getsignal(signal.SIGINT)
        shield = raise_shield()
        interrupt()
        assert seen == []
        shield.lower()
        assert len(seen) == 1
        assert seen[0][0] == signal.SIGINT
        assert signal.getsignal(signal.SIGINT) is mine
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("handler", [signal.SIG_IGN, signal.SIG_DFL])
def test_nothing_is_deferred_where_nothing_can_be_raised(handler):
    before = signal.signal(signal.SIGINT, handler)
    try:
        assert raise_shield() is None
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_shield_does_not_nest():
    """A signal handler that calls, while the thread below it calls: the outer one stays in charge."""
    shield = raise_shield()
    try:
        assert raise_shield() is None
    finally:
        shield.lower()


def test_other_threads_need_no_shield():
    seen = []
    thread = threading.Thread(target=lambda: seen.append(raise_shield()))
    thread.start()
    thread.join()
    assert seen == [None]


def test_handler_that_returns_is_called_for_every_interrupt_while_waiting():
    """A handler of the user's that only counts: the second Ctrl-C must not wait for the end of the call."""
    seen = []
    before = signal.signal(signal.SIGINT, lambda *_: seen.append(time.monotonic()))
    try:
        shield = raise_shield()
        try:
            shield.open = True
            interrupt()
            interrupt()
            assert len(seen) == 2
        finally:
            shield.open = False
            shield.lower()
        assert len(seen) == 2
    finally:
        signal.signal(signal.SIGINT, before)


# ---- a handler's shield --------------------------------------------------------------------------------------------


class Handler:
    """A thread that runs a handler with a shield, until told to end."""

    def __init__(self, body):
        self.ready, self.over, self.outcome = threading.Event(), threading.Event(), []
        self.thread = threading.Thread(target=self._run, args=(body,), name="handler")
        self.thread.start()
        assert self.ready.wait(LIMIT)

    def _run(self, body):
        self.shield = HandlerShield()
        set_handler_shield(self.shield)
        try:
            self.shield.enter()
            self.ready.set()
            self.outcome.append(body(self))
        except BaseException as exc:
            self.outcome.append(exc)
        finally:
            self.shield.leave()
            set_handler_shield(None)

    def end(self):
        self.over.set()
        self.thread.join(LIMIT)
        assert not self.thread.is_alive()
        return self.outcome[0]


def spin(handler):
    while not handler.over.is_set():
        time.sleep(0.001)
    return "went on"


def test_handler_is_interrupted_while_it_computes():
    handler = Handler(spin)
    assert handler.shield.interrupt(Stopped)
    handler.thread.join(LIMIT)
    assert isinstance(handler.end(), Stopped)


def test_handler_is_not_interrupted_inside_the_wire():
    came_out = []

    def body(handler):
        shield = raise_shield()
        assert shield is handler.shield
        handler.in_wire = True
        spin(handler)
        came_out.append(True)
        shield.lower()
        return "not raised"

    handler = Handler(body)
    while not getattr(handler, "in_wire", False):
        time.sleep(0.001)
    assert handler.shield.interrupt(Stopped)
    assert isinstance(handler.end(), Stopped)
    assert came_out == [True]


def test_nothing_is_raised_after_the_handler_has_ended():
    shields = []

    def body(handler):
        shields.append(handler.shield)
        return "ended"

    handler = Handler(body)
    assert handler.end() == "ended"
    assert not shields[0].interrupt(Stopped)


def test_exception_on_its_way_at_the_end_does_not_hit_the_next_handler():
    """The race of an interrupt with the end of its handler, many times."""
    wrong = []

    def run(rounds):
        shield = HandlerShield()
        set_handler_shield(shield)
        shields.append(shield)
        ready.set()
        for _ in range(rounds):
            try:
                try:
                    shield.enter()
                    for _ in range(50):
                        pass
                finally:
                    shield.leave()
            except Stopped:
                shield.leave()
            try:
                for _ in range(50):  # between two handlers: nothing may be raised here
                    pass
            except Stopped:
                wrong.append("raised between two handlers")
        set_handler_shield(None)

    shields, ready = [], threading.Event()
    thread = threading.Thread(target=run, args=(20_000,))
    thread.start()
    assert ready.wait(LIMIT)
    while thread.is_alive():
        shields[0].interrupt(Stopped)
        time.sleep(0.00005)
    thread.join()
    assert wrong == []


def test_exception_that_comes_while_the_wire_is_entered_leaves_the_shield_whole():
    """It is raised inside `raise_shield`, so that nobody lowers: the next handler there is protected all the same."""
    seen = []

    def body(handler):
        try:
            handler.started = True
            raise_shield()  # waits for the lock, which the test holds
            for _ in range(1000):
                pass
            return "not raised"
        except Stopped:
            pass
        handler.shield.leave()
        handler.shield.enter()
        shield = raise_shield()
        seen.append(shield)
        if shield is not None:
            shield.lower()
        return "raised"

    def delayed(handler):
        handler.over.wait(LIMIT)
        return body(handler)

    handler = Handler(delayed)
    with handler.shield._lock:
        handler.over.set()
        while not getattr(handler, "started", False):
            time.sleep(0.001)
        time.sleep(0.05)
        handler.shield._injected = handler.shield._requested = True
        interrupts._set_async_exception(handler.thread.ident, Stopped)
    assert handler.end() == "raised"
    assert seen == [handler.shield]


# ---- real interrupts, in a process of its own ----------------------------------------------------------------------


def run_program(repository, *args):
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-W", "error", "-m", "tests.transports.ctrl_c", *map(str, args)],
        cwd=repository,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("kind", ["queue", "memory"])
def test_interrupts_at_random_moments_lose_nothing(repository, kind, seed):
    """Thousands of real SIGINTs into a main thread that calls: no wrong reply, a living wire, nothing pending."""
    seen = run_program(repository, "random", kind, 1500 if kind == "queue" else 150, seed)
    assert seen["problems"] == []
    assert seen["interrupts"] == (1500 if kind == "queue" else 150)
    assert seen["calls"] > 100
    assert seen["threads"] == 1


@pytest.mark.parametrize(
    "work", ["blocking", "blocking_with_limit", "asynchronous", "large", "nested", "events", "given_up"]
)
def test_interrupt_at_every_point_loses_nothing(repository, work):
    """One SIGINT at each point at which CPython looks for signals, from the first line of the call to its last."""
    seen = run_program(repository, "every-point", "queue", work, 1, 1500)
    assert seen["problems"] == []
    assert seen["interrupts"] > 40
    assert seen["interrupts"] < 1490, "the work has more points than were tried"


@pytest.mark.parametrize("work", ["blocking", "large"])
def test_interrupt_at_every_point_loses_nothing_in_memory(repository, work):
    seen = run_program(repository, "every-point", "memory", work, 1, 1500)
    assert seen["problems"] == []
    assert seen["interrupts"] > 40


def test_interrupt_ends_a_wait_at_once():
    """Not only at the next frame: the main thread sleeps in the kernel."""
    from epyrpc import ApiBase

    head_ipc, neck_ipc = queue_pair()
    head, neck = ApiBase("t", ipc=head_ipc), ApiBase("t", ipc=neck_ipc)
    release = threading.Event()
    neck.set_handler("wait", lambda: release.wait(LIMIT))
    main = threading.main_thread().ident
    killer = threading.Timer(0.1, lambda: signal.pthread_kill(main, signal.SIGINT))
    try:
        killer.start()
        started = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            head.call("wait")
        assert time.monotonic() - started < 2
        assert not head_ipc.transactions.pending()
    finally:
        killer.join()
        release.set()
        for api in (head, neck):
            api.teardown()
        for ipc in (head_ipc, neck_ipc):
            ipc.close()
