# ruff: noqa: T201 - handlers that print are what is tested
"""Watching calls and stopping them: output, progress, stacks, pings, cancels, interrupts, kills."""

from __future__ import annotations

import concurrent.futures
import operator
import os
import re
import sys
import threading
import time
from typing import Any

import pytest

import epyrpc
from epyrpc import Body, BodyDied, CallState, TransactionTimeout, news, outputs, results
from tests.bodies.tools import LIMIT, PROCESSES, Busy, eventually, waits


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Return what is shown of the calls' output, in order."""
    pieces: list[tuple[str, str]] = []
    monkeypatch.setattr(results, "make_output_sink", lambda: lambda stream, text: pieces.append((stream, text)))
    return pieces


# ---- output ---------------------------------------------------------------------------------------------------------


def test_prints_are_tagged_with_their_call(process: Body, shown: list[tuple[str, str]]) -> None:
    both = threading.Barrier(2)
    process.on("meet", lambda: both.wait(LIMIT))

    def talk(name: str) -> str:
        import sys

        from epyrpc import head

        for n in range(100):
            if n % 25 == 0:
                head.call.meet()
            print(name, n)
            print(name, -n, file=sys.stderr)
        return name

    calls = {name: process.submit(talk, name) for name in ("a", "b")}
    for name, call in calls.items():
        assert call.result(LIMIT) == name
        assert call.stdout == "".join(f"{name} {n}\n" for n in range(100))
        assert call.stderr == "".join(f"{name} {-n}\n" for n in range(100))
    assert len("".join(text for _, text in shown)) == sum(len(c.stdout + c.stderr) for c in calls.values())
    assert process.log() == ""


def test_last_line_is_there_before_the_result(process: Body, shown: list[tuple[str, str]]) -> None:
    def talk(n: int) -> None:
        print("last", n)

    for n in range(100):
        result = process.submit(talk, n)
        result.result(LIMIT)
        assert result.stdout == f"last {n}\n"
        process.call(talk, n)
        assert shown[-1] == ("stdout", f"last {n}\n")
    with pytest.raises(ZeroDivisionError):
        process.call(lambda: print("before the error") or 1 / 0)
    assert shown[-1] == ("stdout", "before the error\n")


def test_output_comes_while_the_call_runs(process: Body, shown: list[tuple[str, str]]) -> None:
    gate = threading.Event()
    process.on("gate", lambda: gate.wait(LIMIT))

    def talk() -> None:
        from epyrpc import head

        print("early")
        head.call.gate()

    result = process.submit(talk)
    eventually(lambda: result.stdout == "early\n")
    assert "".join(text for _, text in shown) == "early\n"
    gate.set()
    result.result(LIMIT)


def test_output_of_calls_goes_to_the_standard_streams_by_default(
    process: Body, capsys: pytest.CaptureFixture[str]
) -> None:
    def talk() -> None:
        import sys

        print("out")
        print("err", file=sys.stderr)

    process.call(talk)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("out\n", "err\n")


def test_output_outside_of_calls_goes_to_the_log(process: Body, shown: list[tuple[str, str]]) -> None:
    def start() -> None:
        import os
        import threading

        thread = threading.Thread(target=lambda: print("from a thread"))
        thread.start()
        thread.join()
        os.write(1, b"from C\n")
        os.write(2, b"from C, too\n")

    process.call(start)
    process.emit(lambda: print("from an event"))
    eventually(lambda: process.log().count("\n") == 4)
    assert set(process.log().splitlines()) == {"from a thread", "from C", "from C, too", "from an event"}
    assert shown == []


def test_flood_of_prints_is_bounded_and_delays_nobody(process: Body, shown: list[tuple[str, str]]) -> None:
    line = "x" * 99

    def flood() -> int:
        for _ in range(100_000):
            print(line)
        return 7

    result = process.submit(flood)
    while not result.done():
        started = time.monotonic()
        assert process.call(operator.add, 1, 2) == 3
        assert process.ping() < 2
        assert time.monotonic() - started < 2
    assert result.result(LIMIT) == 7
    first, _, rest = result.stdout.partition("\n")
    assert first == f"[{10_000_000 - outputs.OUTPUT_LIMIT:,} characters dropped]"
    assert rest == (line + "\n") * (outputs.OUTPUT_LIMIT // 100)


def test_flood_that_nobody_shows_is_dropped_and_counted(process: Body, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(news, "UNSHOWN_LIMIT", 100_000)
    gate, shown = threading.Event(), []

    def blocked(stream: str, text: str) -> None:
        gate.wait(LIMIT)
        shown.append((stream, text))

    monkeypatch.setattr(results, "make_output_sink", lambda: blocked)

    def flood() -> None:
        for _ in range(20_000):
            print("x" * 99)

    result = process.submit(flood)
    assert process.call(operator.add, 1, 2) == 3
    eventually(lambda: result.done())  # although not a line was shown
    gate.set()
    result.result(LIMIT)
    said = [text for stream, text in shown if stream == "stderr"]
    assert len(said) == 1
    match = re.fullmatch(r"\n\[([\d,]+) bytes of output came too fast to be shown, and are dropped\]\n", said[0])
    assert match is not None
    dropped = int(match[1].replace(",", ""))
    kept = sum(len(text) for stream, text in shown if stream == "stdout")
    assert kept <= 200_000
    assert 2_000_000 <= kept + dropped < 2_100_000


def test_standard_streams_of_a_body_behave_as_streams(process: Body) -> None:
    def look() -> list[Any]:
        import sys

        with pytest_raises_type_error():
            sys.stdout.write(b"bytes")  # type: ignore[arg-type]
        written = sys.stdout.write("abc\n")
        sys.stdout.flush()
        sys.stdout.writelines(["d\n", "e\n"])
        print("no newline", end="", flush=True)
        return [
            written,
            sys.stdout.name,
            sys.stdout.encoding,
            sys.stdout.isatty(),
            sys.stdout.writable(),
            sys.stderr.fileno(),
        ]

    class pytest_raises_type_error:
        def __enter__(self) -> None:
            pass

        def __exit__(self, kind: Any, *_: object) -> bool:
            return kind is TypeError

    result = process.submit(look)
    assert result.result(LIMIT) == [4, "<stdout>", "utf-8", False, True, 2]
    assert result.stdout == "abc\nd\ne\nno newline"


def test_logging_and_warnings_of_a_handler_are_its_output(process: Body) -> None:
    def warn() -> None:
        import logging
        import warnings

        logging.warning("logged")
        warnings.warn("warned", stacklevel=1)

    result = process.submit(warn)
    result.result(LIMIT)
    assert "WARNING:root:logged\n" in result.stderr
    assert "UserWarning: warned" in result.stderr


# ---- progress -------------------------------------------------------------------------------------------------------


def test_track_tells_how_far_a_call_has_come(body: Body) -> None:
    gate = threading.Event()
    body.on("gate", lambda: gate.wait(LIMIT))

    def slow(n: int) -> int:
        import time

        from epyrpc import head

        for i in epyrpc.track(range(n)):
            time.sleep(0.06)  # more than the least time between two reports
            if i == 2:
                head.call.gate()
        return n

    result = body.submit(slow, 5)
    assert result.progress is None or result.progress.done == 0
    eventually(lambda: result.progress is not None and result.progress.done == 2)
    progress = result.progress
    assert progress is not None
    assert progress.total == 5
    assert progress.rate is not None
    assert 0 < progress.rate < 17
    assert progress.eta == pytest.approx(3 / progress.rate)
    gate.set()
    assert result.result(LIMIT) == 5
    assert result.progress is not None
    assert result.progress[:2] == (5, 5)
    assert result.progress.eta == 0


def test_track_of_what_has_no_length(body: Body) -> None:
    result = body.submit(lambda: sum(epyrpc.track(n for n in range(10))))
    assert result.result(LIMIT) == 45
    assert result.progress is not None
    assert result.progress[:2] == (10, 10)
    result = body.submit(lambda: sum(epyrpc.track((n for n in range(5)), total=20)))
    assert result.result(LIMIT) == 10


def test_track_outside_of_a_call_only_iterates() -> None:
    assert list(epyrpc.track([1, 2])) == [1, 2]


def test_cancelled_call_ends_at_the_next_step_of_track(body: Body) -> None:
    gate, ended = threading.Event(), threading.Event()
    body.on("gate", lambda: gate.wait(LIMIT))
    body.on("ended", ended.set)

    def slow() -> None:
        from epyrpc import head

        head.emit.busy.here()
        try:
            for i in epyrpc.track(range(10**9)):
                if i == 0:
                    while not epyrpc.current_call().cancelled:
                        pass
        finally:
            head.emit.ended()

    result = Busy(body).start(slow)
    assert result.cancel()
    waits(ended)
    eventually(lambda: result.stopped == "cooperative")


# ---- looking in -----------------------------------------------------------------------------------------------------


@pytest.mark.capability("X37")
def test_stacks_of_a_busy_body(process: Body) -> None:
    def busy_as_a_bee() -> None:
        import time

        while True:
            time.sleep(0.01)

    results = [Busy(process).start(busy_as_a_bee) for _ in range(2)]
    started = time.monotonic()
    stacks = process.stacks()
    assert time.monotonic() - started < 1
    eventually(lambda: process.stacks().count("in busy_as_a_bee") == 2)  # one may still be on its way there
    assert "Thread MainThread" in stacks
    assert re.search(r"Thread epyrpc-\S*worker-1", stacks)
    assert not any(result.done() for result in results)


def test_ping_and_the_package_s_own_while_all_handlers_are_busy(body: Body) -> None:
    for _ in range(2):
        Busy(body).start()
    waiting = body.submit(operator.add, 1, 2)
    for use in (
        body.ping,
        body.stacks,
        lambda: body.push(x=1),
        lambda: body.pull("x"),
        lambda: body.set_handler("a", abs),
        body.describe,
    ):
        started = time.monotonic()
        use()
        assert time.monotonic() - started < 1
    assert not waiting.done()
    assert waiting.cancel()
    eventually(lambda: waiting.stopped == "never started")


def test_busy_body_answers_a_ping_while_it_computes(process: Body) -> None:
    def compute() -> None:
        while True:
            pass

    for _ in range(2):
        Busy(process).start(compute)
    assert process.ping() < 1


# ---- cancelling -----------------------------------------------------------------------------------------------------


def test_cancelled_call_is_over_here_and_stopped_there(body: Body) -> None:
    result = Busy(body).start()
    assert result.cancel()
    assert (result.state, result.cancelled(), result.done()) == (CallState.CANCELLED, True, True)
    with pytest.raises(concurrent.futures.CancelledError, match=rf"announced \({result.id}\) was cancelled"):
        result.result(0)
    assert not result.cancel()
    eventually(lambda: result.stopped == "raised")
    assert body.call(lambda: 1) == 1


def test_cancel_is_first_asked_for(body: Body) -> None:
    def polite() -> None:
        call = epyrpc.current_call()
        while not call.cancelled:
            pass

    result = Busy(body).start(polite)
    result.cancel()
    eventually(lambda: result.stopped == "cooperative")


def test_queued_call_never_starts(body: Body) -> None:
    for _ in range(2):
        Busy(body).start()
    started = threading.Event()
    body.on("started", started.set)

    def tell() -> None:
        from epyrpc import head

        head.emit.started()

    results = [body.submit(tell) for _ in range(5)]
    for result in results:
        result.cancel()
    eventually(lambda: all(result.stopped == "never started" for result in results))
    assert not started.is_set()


def test_handler_that_does_not_stop_is_said_to_run_on(process: Body) -> None:
    def stubborn() -> None:
        import time

        until = time.monotonic() + LIMIT
        while time.monotonic() < until:
            try:
                while time.monotonic() < until:
                    time.sleep(0.01)
            except BaseException:
                pass

    result = Busy(process).start(stubborn)
    result.cancel()
    eventually(lambda: result.stopped == "still running")
    assert process.call(operator.add, 1, 2) == 3


@pytest.mark.parametrize("kind", PROCESSES)
def test_cancelled_sleep_in_the_main_thread_ends_at_once(kind: str, cleanup: None) -> None:
    result = Busy(epyrpc.spawn("narrow", workers=1, start_method=kind)).start(time.sleep, LIMIT * 3)
    result.cancel()
    eventually(lambda: result.stopped == "raised", limit=1)


@pytest.mark.parametrize("how", ["cancel", "on_timeout"])
def test_killing_only_when_asked(process: Body, how: str) -> None:
    def stubborn() -> None:
        while True:
            try:
                while True:
                    time.sleep(0.01)
            except BaseException:
                pass

    other = Busy(process).start()
    result = Busy(process).start(stubborn, **({"timeout": 0.1, "on_timeout": "kill"} if how == "on_timeout" else {}))
    if how == "cancel":
        assert result.cancel(kill=True)
        with pytest.raises(concurrent.futures.CancelledError):
            result.result(0)
    else:
        with pytest.raises(TransactionTimeout):
            result.result(LIMIT)
    with pytest.raises(BodyDied) as caught:
        other.result(5)
    assert caught.value.signal == "SIGKILL"
    assert result.stopped == "killed"


def test_kill_is_not_needed_for_what_stops(process: Body) -> None:
    pid = process.pid
    result = Busy(process).start()
    assert result.cancel(kill=True)
    eventually(lambda: result.stopped == "raised")
    with pytest.raises(TransactionTimeout):
        process.call(timeout=0.05, on_timeout="kill")(time.sleep, LIMIT)
    time.sleep(1.2)  # past the grace, within which it had stopped
    assert process.pid == pid
    assert process.call(operator.add, 1, 2) == 3


def test_timed_out_call_is_stopped_in_the_body(body: Body) -> None:
    result = Busy(body).start(timeout=0.1)
    with pytest.raises(TransactionTimeout) as caught:
        result.result(LIMIT)
    assert (caught.value.path, caught.value.limit) == ("announced", 0.1)
    assert result.state is CallState.TIMED_OUT
    eventually(lambda: result.stopped == "raised")
    assert body.call(lambda: 1) == 1


@pytest.mark.capability("D8")
def test_late_reply_is_counted_and_dropped(process: Body) -> None:
    gate = threading.Event()
    process.on("gate", lambda: gate.wait(LIMIT))

    def slow() -> str:
        from epyrpc import head

        head.emit.busy.here()
        head.call.gate()
        return "late"

    result = Busy(process).start(slow)
    transactions = process.transporter.transactions
    assert transactions.late == 0
    assert transactions.release(result.id, "early")  # retired here; the body does not know, and will answer
    gate.set()
    eventually(lambda: transactions.late == 1)
    assert result.result(0) == "early"
    assert process.call(operator.add, 1, 2) == 3
    assert (transactions.late, len(transactions)) == (1, 0)


# ---- interrupting ---------------------------------------------------------------------------------------------------


def test_interrupt_stops_what_runs_and_keeps_the_variables(body: Body) -> None:
    body.push(kept=1)
    assert body.interrupt() == 0
    results = [Busy(body).start() for _ in range(2)]
    assert body.interrupt() == 2
    for result in results:
        with pytest.raises(KeyboardInterrupt):
            result.result(LIMIT)
        assert result.state is CallState.FAILED
    assert body.pull("kept") == 1
    assert body.call(lambda: kept) == 1  # noqa: F821 - the body's own


@pytest.mark.parametrize("kind", PROCESSES)
def test_interrupt_ends_a_system_call_in_the_main_thread(kind: str, cleanup: None) -> None:
    body = epyrpc.spawn("narrow", workers=1, start_method=kind)
    result = Busy(body).start(time.sleep, LIMIT * 3)
    started = time.monotonic()
    body.interrupt()
    with pytest.raises(KeyboardInterrupt):
        result.result(LIMIT)
    assert time.monotonic() - started < 1


def test_signal_to_an_idle_body_does_nothing(process: Body) -> None:
    assert process.pid is not None
    for _ in range(20):
        os.kill(process.pid, 2)
        assert process.call(operator.add, 1, 2) == 3


@pytest.mark.capability("X27")
def test_body_in_a_thread_and_in_a_process(body: Body) -> None:
    pids = {body.call(os.getpid), body.pid}
    assert (pids == {os.getpid()}) == (body.start_method == "thread")
    assert body.transporter.kind == ("memory" if body.start_method == "thread" else "queue")
    assert body.alive
    running, limit = [], threading.Event()
    body.on("limit", lambda: limit.wait(LIMIT))

    def occupy() -> None:
        from epyrpc import head

        head.emit.busy.here()
        head.call.limit()

    busy = Busy(body)
    running = [body.submit(occupy) for _ in range(3)]
    for _ in range(2):
        assert busy._here.acquire(timeout=LIMIT)
    assert not busy._here.acquire(timeout=0.1)  # two workers run two calls at once
    limit.set()
    for result in running:
        result.result(LIMIT)
    assert sys.modules["__main__"] is not None


def test_prints_of_calls_at_once_do_not_fall_into_each_others_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    pieces: list[str] = []
    monkeypatch.setattr(results, "make_output_sink", lambda: lambda stream, text: pieces.append(text))

    def talk(name: str) -> None:
        import sys
        import time

        for _ in range(5):
            sys.stdout.write(f"[{name}")
            time.sleep(0.01)  # as between the pieces of a print on a busy machine
            sys.stdout.write("]\n")

    def be_patient() -> None:
        from epyrpc.api import context

        context.PARTIAL_SECONDS = LIMIT  # however slow this machine is now

    with epyrpc.spawn("talkers") as body:
        body.call(be_patient)
        for result in [body.submit(talk, f"call {i}") for i in range(4)]:
            result.result(LIMIT)
    assert sorted("".join(pieces).splitlines()) == sorted(f"[call {i}]" for i in range(4) for _ in range(5))


def test_text_without_an_end_of_line_is_shown_while_the_call_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    pieces: list[str] = []
    monkeypatch.setattr(results, "make_output_sink", lambda: lambda stream, text: pieces.append(text))

    def ask() -> None:
        import sys

        from epyrpc import head

        sys.stdout.write("done: 10 %")
        head.call.wait()

    seen = threading.Event()
    with epyrpc.spawn("asker") as body:
        body.on("wait", lambda: seen.wait(LIMIT) and None)
        result = body.submit(ask)
        eventually(lambda: "".join(pieces) == "done: 10 %")
        seen.set()
        result.result(LIMIT)
