"""A program that interrupts itself while it calls: ``python -m tests.transports.ctrl_c random|every-point …``.

It runs in a process of its own, since Ctrl-C is raised in its main thread for real. Both ends of the wire are in it:
signals reach the main thread only, so the neck's threads are as undisturbed as another process would be. It prints what
it has seen as JSON; `test_interrupts.py` judges.
"""

from __future__ import annotations

import dis
import faulthandler
import json
import os
import random
import signal
import sys
import threading
import time
from concurrent.futures import CancelledError
from functools import partial

from epyrpc import ApiArb, ApiBase, current_call
from epyrpc.testing import memory_pair, queue_pair


class Interrupter:
    """The SIGINT handler: raises once each time that it was armed, so that the program's own lines are left alone."""

    def __init__(self):
        self.armed = False
        self.raised = 0
        signal.signal(signal.SIGINT, self)

    def __call__(self, signum, frame):
        if self.armed:
            self.armed = False
            self.raised += 1
            raise KeyboardInterrupt


class Ends:
    def __init__(self, kind):
        self.ipc_head, self.ipc_neck = {"queue": queue_pair, "memory": memory_pair}[kind]()
        self.head = ApiBase("t", ipc=ApiArb(self.ipc_head), workers=2)
        self.neck = ApiBase("t", ipc=ApiArb(self.ipc_neck), workers=3)
        self.given_up = []
        self.neck.set_handler("echo", lambda value: value)
        self.neck.set_handler("back", lambda value: self.neck.call("up", value))
        self.neck.set_handler("ignore", lambda value: None)
        self.neck.set_handler("wait", self._wait)
        self.head.set_handler("up", lambda value: value)

    def _wait(self):
        # Ends by itself soon: an interrupt between a submit and its cancel leaves a call that nobody holds.
        call, end = current_call(), time.monotonic() + 0.05
        while not (call.cancelled or time.monotonic() > end):
            time.sleep(0.001)

    def judge(self):
        """Return what is not as if nothing had happened."""
        problems = []
        wire = self.ipc_head.wire
        calls = [self.head.submit("echo", n) for n in range(50)]
        for n, call in enumerate(calls):
            if call.result(timeout=20) != n:
                problems.append("a wrong reply after the interrupts")
        if self.head.call("back", "x") != "x":
            problems.append("a wrong reply of a call that calls back")
        self.ipc_head.ping(timeout=20)
        end = time.monotonic() + 5
        manager = self.ipc_head.transactions
        while len(manager) and time.monotonic() < end:
            time.sleep(0.01)
        if len(manager):
            problems.append(f"{len(manager)} transactions are left pending, such as {manager.pending()[0]!r}")
        if any(not (call.settled or manager.is_valid(call.id)) for call in self.given_up):
            problems.append("a call is neither pending nor settled: whoever waits for it waits for ever")
        self.given_up.clear()
        manager.validate()
        wire.lead.validate()
        if wire.lead.followers:
            problems.append("somebody still follows, and waits for nothing")
        if wire._outbox or wire.link.has_partial:
            problems.append("a frame is left half written")
        return problems

    def close(self):
        for api in (self.head, self.neck):
            api.teardown()
        for ipc in (self.ipc_head, self.ipc_neck):
            ipc.close()


# ---- what is interrupted -------------------------------------------------------------------------------------------


def blocking(ends, n):
    assert ends.head.call("echo", n) == n


def blocking_with_limit(ends, n):
    assert ends.head.echo(n)(timeout=20) == n


def asynchronous(ends, n):
    first, second = ends.head.submit("echo", n), ends.head.submit("echo", -n)
    assert first.result() == n
    assert second.acquire(timeout=20) == -n


def large(ends, n):
    value = bytes([n % 256]) * 300_000
    assert ends.head.call("echo", value) == value


def nested(ends, n):
    assert ends.head.call("back", n) == n


def events(ends, n):
    for _ in range(5):
        ends.head.echo(n)(solicited=False)
    blocking(ends, n)


def flood(ends, n):
    for _ in range(1500):  # more than a memory link takes at once: the sender waits for room
        ends.head.ignore(n)(solicited=False)


def given_up(ends, n):
    call = ends.head.submit("wait")
    ends.given_up.append(call)
    assert call.cancel()
    try:
        call.result()
    except CancelledError:
        pass
    else:
        raise AssertionError("a cancelled call has a value")


WHAT = {f.__name__: f for f in (blocking, blocking_with_limit, asynchronous, large, nested, events, flood, given_up)}


# ---- at random moments ---------------------------------------------------------------------------------------------


def until_interrupted(interrupter, go, work):
    """Do the work again and again until it has been interrupted; return how often it was done."""
    before, count = interrupter.raised, 0
    try:
        interrupter.armed = True
        go.release()
        while interrupter.raised == before:
            work()
            count += 1
    except KeyboardInterrupt:
        pass
    return count


def at_random(kind, count, seed):
    """Interrupt `count` times, each after a random time of up to 0.6 ms of calls of all sorts."""
    chance, ends, interrupter = random.Random(seed), Ends(kind), Interrupter()
    go, over = threading.Semaphore(0), threading.Event()

    def kill():
        pause = random.Random(seed + 1)
        while True:
            go.acquire()
            if over.is_set():
                return
            until = time.perf_counter() + pause.random() * 0.0006
            while time.perf_counter() < until:
                pass
            os.kill(os.getpid(), signal.SIGINT)

    killer = threading.Thread(target=kill, name="killer")
    killer.start()
    wrong, n, survived = [], 0, 0
    names = list(WHAT)
    end = time.monotonic() + 60
    while interrupter.raised < count and time.monotonic() < end:
        n += 1
        work = WHAT[chance.choice(names)]
        try:
            # The loop is a function of its own: CPython 3.13 does not count a loop's jump back to the `try` around it.
            survived += until_interrupted(interrupter, go, partial(work, ends, n))
        except KeyboardInterrupt:
            pass
        except BaseException as exc:
            wrong.append(f"{work.__name__}: {exc!r}")
            break
        finally:
            interrupter.armed = False
    over.set()
    go.release()
    killer.join()
    problems = wrong + ends.judge()
    ends.close()
    return {
        "interrupts": interrupter.raised,
        "calls": survived,
        "problems": problems,
        "threads": threading.active_count(),
    }


# ---- at every point ------------------------------------------------------------------------------------------------

# Where CPython looks for signals: when a function starts, after a call of a C function, and at a backward jump.
_LOOKS = ("CALL", "JUMP_BACKWARD", "JUMP_ABSOLUTE", "RESUME")
_NEVER = ("CALL_INTRINSIC",)


class Injector:
    """Counts the points at which CPython looks for signals, in this package, and raises SIGINT at number `at`."""

    def __init__(self, at):
        self.at = at
        self.count = 0
        self.where = ""

    def trace(self, frame, event, arg):
        name = frame.f_code.co_filename
        if f"{os.sep}epyrpc{os.sep}" not in name and "threading.py" not in name:
            return None
        last = None

        def step(frame, event, arg):
            nonlocal last
            if event == "opcode":
                code = frame.f_code.co_code
                if last is not None:
                    op = dis.opname[code[last]]
                    if op.startswith(_LOOKS) and not op.startswith(_NEVER):
                        self.count += 1
                        if self.count == self.at:
                            self.where = f"{frame.f_code.co_name}:{frame.f_lineno}"
                            sys.settrace(None)
                            signal.raise_signal(signal.SIGINT)
                last = frame.f_lasti
            return step

        frame.f_trace = step  # before the next line: from 3.13 on it has no effect on a frame that is not traced yet
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return step

    def __call__(self, work):
        sys.settrace(self.trace)
        try:
            work()
        finally:
            sys.settrace(None)


def at_every_point(kind, name, start, stop):
    """Do the work again and again, interrupted at one point further each time; judge after each."""
    ends, interrupter, work = Ends(kind), Interrupter(), WHAT[name]
    work(ends, 0)
    problems, at, beyond = [], start, 0
    while beyond < 3 and at < stop and not problems:
        injector = Injector(at)
        before = interrupter.raised
        try:
            interrupter.armed = True
            injector(partial(work, ends, at))
        except KeyboardInterrupt:
            pass
        except BaseException as exc:
            problems.append(f"at point {at}, {injector.where}: {exc!r}")
        finally:
            interrupter.armed = False
        if interrupter.raised == before:
            beyond += 1  # the work was done before point number `at` came
        else:
            beyond = 0
        problems += [f"at point {at}, {injector.where}: {problem}" for problem in ends.judge()]
        at += 1
    ends.close()
    return {"interrupts": interrupter.raised, "points": at, "problems": problems, "threads": threading.active_count()}


def main():
    faulthandler.dump_traceback_later(50, exit=True)  # whoever runs this waits longer, and shows it
    how, kind, *rest = sys.argv[1:]
    if how == "random":
        seen = at_random(kind, int(rest[0]), int(rest[1]))
    else:
        seen = at_every_point(kind, rest[0], int(rest[1]), int(rest[2]))
    sys.stdout.write(json.dumps(seen))


if __name__ == "__main__":
    main()
