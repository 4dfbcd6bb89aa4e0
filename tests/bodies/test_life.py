"""The life of a body: names, starting, stopping, dying, coming back, and the forked children of either side."""

from __future__ import annotations

import operator
import os
import signal
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import epyrpc
from epyrpc import ApiParamError, Body, BodyDied, BodyError, BodyLost, BodyStartError, CallState, ConnectionTimeout
from epyrpc.bodies import spawn as launching
from epyrpc.bodies.body import BodyState
from epyrpc.bodies.registry import bodies
from tests.bodies.tools import KINDS, LIMIT, PROCESSES, Busy, eventually, finish, head, is_alive, links_of, waits

pytestmark = pytest.mark.usefixtures("cleanup")


# ---- names and options ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        pytest.param(
            {"name": "a b"}, "name is 'a b', but must be a Python identifier that does not start with an underscore"
        ),
        pytest.param({"name": "_a"}, "name is '_a', but must be a Python identifier"),
        pytest.param({"name": 3}, "name is 3, but must be a Python identifier"),
        pytest.param({"workers": 0}, "workers is 0, but must be a whole number from 1 to 1024"),
        pytest.param({"workers": True}, "workers is True, but must be a whole number from 1 to 1024"),
        pytest.param(
            {"start_method": "fork"}, "start_method is 'fork', but must be one of 'spawn', 'forkserver', 'thread'"
        ),
        pytest.param({"restart": -1}, "restart is -1, but must be True, False, or how often, as a whole number"),
        pytest.param({"existing": "maybe"}, "existing is 'maybe', but must be one of 'error', 'keep', 'restart'"),
        pytest.param({"timeout": -1}, "timeout is -1, but must be None (for ever) or a number of seconds, 0 or more"),
    ],
)
def test_mistakes_with_spawn_start_nothing(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(ApiParamError) as caught:
        epyrpc.spawn(**{"name": "worker", **arguments})
    assert str(caught.value).startswith(text)
    assert bodies() == {}


def test_unknown_option_of_spawn_is_named() -> None:
    with pytest.raises(TypeError, match=r"spawn\(\) got an unexpected keyword argument 'worker'"):
        epyrpc.spawn("worker", worker=3)  # type: ignore[call-arg]
    assert bodies() == {}


@pytest.mark.parametrize("kind", KINDS)
def test_name_of_a_living_body_is_taken(kind: str) -> None:
    body = epyrpc.spawn("worker", start_method=kind)
    body.set_handler("kept", lambda: "kept")
    with pytest.raises(ApiParamError) as caught:
        epyrpc.spawn("worker")
    assert str(caught.value) == (
        "name is 'worker', but must be a name that no living body has. Stop that body first, or pass existing='keep' "
        "or 'restart'. Living: worker."
    )
    assert epyrpc.spawn("worker", existing="keep") is body
    pid = body.pid
    again = epyrpc.spawn("worker", existing="restart", workers=3, start_method=kind)
    assert again is body
    assert again.workers == 3
    assert (again.pid == pid) == (kind == "thread")
    assert again.call.kept() == "kept"
    assert bodies() == {"worker": body}
    body.stop()
    with epyrpc.spawn("worker", start_method=kind) as other:  # free again
        assert other is not body
        with pytest.raises(ApiParamError, match="Another body has taken it meanwhile"):
            body.restart()
        assert other.call(operator.add, 1, 2) == 3


def test_name_of_a_dead_body_is_free(worker: Body) -> None:
    with pytest.raises(BodyDied):
        worker.call(lambda: os._exit(1))
    with epyrpc.spawn("worker", start_method="forkserver") as other:
        assert bodies() == {"worker": other}
        assert other.call(operator.add, 1, 2) == 3


def test_several_bodies_do_not_notice_each_other() -> None:
    first, second = (epyrpc.spawn(name, start_method="forkserver") for name in ("first", "second"))
    first.push(x=1)
    second.push(x=2)
    assert set(bodies()) == {"first", "second"}
    pid = first.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert second.pull("x") == 2
    eventually(lambda: first.state is BodyState.DIED)
    assert second.alive


# ---- what fails to start --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PROCESSES)
def test_body_that_fails_to_start(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.joinpath("broken_start.py").write_text(
        "import os, sys\nsys.stderr.write('no such licence\\n')\nsys.stderr.flush()\nos._exit(3)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("epyrpc.bodies.bootstrap.body_main", _Broken())
    with pytest.raises(BodyStartError) as caught:  # that nothing else is left, the leak guard sees to
        epyrpc.spawn("broken", start_method=kind)
    assert caught.value.exitcode == 3
    assert caught.value.name == "broken"
    assert caught.value.stderr == "no such licence\n"
    assert "body 'broken' could not be started: its process ended with exit code 3 while starting" in str(caught.value)
    assert str(caught.value).endswith("The last lines of its stderr:\nno such licence")
    assert bodies() == {}
    assert caught.value.pid is not None
    assert not is_alive(caught.value.pid)


class _Broken:
    """Stands in for what a body runs; unpickling it there fails as the module does."""

    __module__ = "nowhere"

    def __reduce__(self) -> Any:
        return __import__, ("broken_start",)

    def __call__(self, *args: object) -> None:
        raise AssertionError("not here")


def test_body_that_does_not_answer_in_time() -> None:
    started = time.monotonic()
    with pytest.raises(
        BodyStartError, match=r"body 'slow' could not be started: it did not answer within 0 s"
    ) as caught:
        epyrpc.spawn("slow", timeout=0)
    assert time.monotonic() - started < 3
    assert bodies() == {}
    assert caught.value.pid is not None
    assert not is_alive(caught.value.pid)


def test_system_that_gives_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("epyrpc.bodies.life.launch", refuse)
    before = links_of()
    with pytest.raises(BodyStartError, match=r"body 'worker' could not be started: .*Too many open files"):
        epyrpc.spawn("worker")
    assert bodies() == {}
    eventually(lambda: links_of() <= before)


def test_restart_that_fails_leaves_a_dead_body(worker: Body, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BodyStartError):
        worker.restart(timeout=0)
    assert worker.state is BodyState.DIED
    with pytest.raises(BodyError):
        worker.call(operator.add, 1, 2)
    worker.restart()
    assert worker.call(operator.add, 1, 2) == 3


# ---- stopping -------------------------------------------------------------------------------------------------------


def test_stop_ends_the_process_and_is_harmless_twice(body: Body) -> None:
    body.set_handler("say", lambda: 1)
    pid = body.pid
    assert pid is not None
    started = time.monotonic()
    body.stop()
    assert time.monotonic() - started < 1
    assert body.state is BodyState.STOPPED
    assert (body.alive, body.pid) == (False, None)
    if body.start_method != "thread":
        assert body.exitcode == 0
        assert not is_alive(pid)
    body.stop()
    body.stop(0)
    assert repr(body) in ("<Body worker · stopped · exit code 0>", "<Body worker · stopped>")
    assert bodies() == {}


def test_calls_on_a_stopped_body(body: Body) -> None:
    body.set_handler("say", lambda: 1)
    body.stop()
    text = r"^body 'worker' is stopped; worker\.restart\(\) starts it again$"
    for use in (
        lambda: body.call.say(),
        lambda: body.submit.say(),
        lambda: body.emit.say(),
        lambda: list(body.stream.say()),
        lambda: body.call(abs, -1),
        lambda: body.call(timeout=1).say(),
        lambda: body.submit(retry=2).say(),
        lambda: body.set_handler("other", abs),
        lambda: body.push(x=1),
        lambda: body.pull("x"),
        lambda: body.execute("1"),
        lambda: body.ping(),
        lambda: body.stacks(),
        lambda: body.interrupt(),
        lambda: body.describe(),
    ):
        with pytest.raises(BodyLost, match=text):
            use()
    assert "other" not in body._handlers
    assert not body.alive


def test_with_block_stops_also_after_an_error() -> None:
    with pytest.raises(ZeroDivisionError), epyrpc.spawn("worker", start_method="forkserver") as body:
        body.call(operator.truediv, 1, 0)
    assert body.state is BodyState.STOPPED
    assert bodies() == {}


def test_running_call_may_finish_while_stopping(worker: Body) -> None:
    gate = threading.Event()
    worker.on("gate", lambda: gate.wait(LIMIT))

    def waits_for_gate() -> str:
        from epyrpc import head

        head.emit.busy.here()
        head.call.gate()
        return "finished"

    result = Busy(worker).start(waits_for_gate)
    stopper = threading.Thread(target=worker.stop)
    stopper.start()
    eventually(lambda: worker.state is BodyState.STOPPING)
    gate.set()
    assert result.result(LIMIT) == "finished"
    stopper.join(LIMIT)
    assert (worker.state, worker.exitcode) == (BodyState.STOPPED, 0)


@pytest.mark.parametrize("limit", [0, 0.3])
def test_call_that_does_not_finish_is_lost_when_stopping(process: Body, limit: float) -> None:
    result = Busy(process).start()
    started = time.monotonic()
    process.stop(limit)
    assert limit <= time.monotonic() - started < limit + 1
    with pytest.raises(BodyLost, match="body 'worker' was stopped while this call was pending"):
        result.result(LIMIT)
    assert result.state is CallState.LOST
    assert process.exitcode == -signal.SIGKILL


def test_stop_of_a_thread_body_stops_its_handlers() -> None:
    body = epyrpc.spawn("worker", start_method="thread")
    result = Busy(body).start()
    started = time.monotonic()
    body.stop(0.1)
    assert time.monotonic() - started < 2
    with pytest.raises(BodyLost):
        result.result(LIMIT)


def test_stop_while_another_thread_calls(process: Body) -> None:
    failures: list[BaseException] = []
    begun = threading.Barrier(5)

    def hammer() -> None:
        begun.wait(LIMIT)
        try:
            while True:
                process.call(operator.add, 1, 2)
        except BaseException as exc:
            failures.append(exc)

    threads = [threading.Thread(target=hammer) for _ in range(4)]
    for thread in threads:
        thread.start()
    begun.wait(LIMIT)
    process.stop(0)
    for thread in threads:
        thread.join(LIMIT)
    assert [type(exc) for exc in failures] == [BodyLost] * 4


# ---- restarting -----------------------------------------------------------------------------------------------------


def test_restart_registers_handlers_again(body: Body) -> None:
    heard = threading.Event()
    body.set_handler("maths.scale", lambda x: x * 10)
    body.set_handler("gone", abs)
    body.set_handler("gone", None)
    body.on("heard", heard.set)
    body.push(variable=1)
    old = body.pid
    assert body.restart() is body
    assert body.call.maths.scale(4) == 40
    assert body.paths() == ["maths.scale"]
    with pytest.raises(ApiParamError, match="name to pull is 'variable'"):
        body.pull("variable")  # variables are lost

    def tell() -> None:
        from epyrpc import head

        head.emit.heard()

    body.call(tell)
    waits(heard)
    assert (body.pid == old) == (body.start_method == "thread")
    body.stop()
    body.restart()  # a stopped one, too
    assert body.call.maths.scale(5) == 50
    assert bodies() == {"worker": body}


def test_restart_loses_what_is_pending(process: Body) -> None:
    result = Busy(process).start()
    started = time.monotonic()
    process.restart()
    assert time.monotonic() - started < 5
    with pytest.raises(BodyLost):
        result.result(0)
    assert process.call(operator.add, 1, 2) == 3


@pytest.mark.parametrize("restart", [True, 2])
def test_body_restarts_by_itself(restart: bool | int) -> None:
    body = epyrpc.spawn("worker", start_method="forkserver", restart=restart)
    body.set_handler("say", lambda: "here")
    for count in (1, 2):
        with pytest.raises(BodyDied):
            body.call(lambda: os._exit(1))
        eventually(lambda count=count: body.restarts == count and body.alive)
        assert body.call.say() == "here"
    if restart == 2:
        with pytest.raises(BodyDied):
            body.call(lambda: os._exit(1))
        assert body.state is BodyState.DIED
        with pytest.raises(BodyDied):
            body.call.say()


def test_stop_wins_over_a_restart_by_itself() -> None:
    for _ in range(5):
        body = epyrpc.spawn("worker", start_method="forkserver", restart=True)
        with pytest.raises(BodyDied):
            body.call(lambda: os._exit(1))
        body.stop(0)
        assert not body.alive
        assert bodies() == {}
    eventually(lambda: not any(t.name.startswith("epyrpc-restart") for t in threading.enumerate()))
    assert not body.alive


def test_restarts_at_once_are_one_after_the_other(worker: Body) -> None:
    threads = [threading.Thread(target=worker.restart) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    assert worker.restarts == 3
    assert worker.call(operator.add, 1, 2) == 3


# ---- dying ----------------------------------------------------------------------------------------------------------


@pytest.mark.capability("D3")
def test_killed_body_fails_its_calls_at_once(process: Body) -> None:
    process.call(os.write, 2, b"last words\n")
    result = Busy(process).start()
    queued = [process.submit(operator.add, n, 1) for n in range(3)]
    eventually(lambda: result.state is CallState.RUNNING)
    pid = process.pid
    assert pid is not None
    killed = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(BodyDied) as caught:
        result.result(2)
    assert time.monotonic() - killed < 1
    error = caught.value
    assert (error.name, error.pid, error.exitcode, error.signal) == ("worker", pid, -9, "SIGKILL")
    assert error.running == (error.running[0],)
    assert error.running[0].startswith(f"announced ({result.id}), for ")
    assert error.stderr == "last words\n"
    assert f"body 'worker' (pid {pid}) was killed by SIGKILL while running announced ({result.id})" in str(error)
    assert str(error).endswith("The last lines of its stderr:\nlast words")
    assert result.state is CallState.LOST
    assert isinstance(error, BodyError)
    for pending in queued:
        assert pending.done() or pending.exception(1)
    with pytest.raises(BodyDied, match="was killed by SIGKILL"):
        process.call(operator.add, 1, 2)
    assert repr(process) == "<Body worker · died · exit code -9>"
    process.stop()
    assert process.exitcode == -9


@pytest.mark.parametrize(
    ("code", "exitcode", "words"),
    [
        pytest.param("os._exit(7)", 7, "ended with exit code 7", id="os._exit"),
        pytest.param("os.abort()", -6, "was killed by SIGABRT", id="abort"),
        pytest.param("__import__('faulthandler')._sigsegv()", -11, "was killed by SIGSEGV", id="segfault"),
    ],
)
def test_ways_to_die(process: Body, code: str, exitcode: int, words: str) -> None:
    with pytest.raises(BodyDied, match=words) as caught:
        process.execute(f"import os\n{code}")
    assert caught.value.exitcode == process.exitcode == exitcode
    if exitcode == -11:
        assert "Segmentation fault" in caught.value.stderr


def test_crash_among_threads_that_come_and_go_is_the_crash_that_it_was(process: Body) -> None:
    def crash() -> None:
        import ctypes
        import threading

        def deep(n: int) -> int:
            return n and deep(n - 1)

        def churn() -> None:
            while True:
                deep(900)
                thread = threading.Thread(target=deep, args=(300,))
                thread.start()
                thread.join()

        for _ in range(4):
            threading.Thread(target=churn, daemon=True).start()
        ctypes.CDLL(None).abort()

    for _ in range(4):
        with pytest.raises(BodyDied, match="was killed by SIGABRT") as caught:
            process.call(crash)
        assert "Fatal Python error: Aborted" in caught.value.stderr
        assert " in crash\n" in caught.value.stderr
        process.restart()


def test_error_quotes_only_the_end_of_a_long_log(process: Body) -> None:
    def talk() -> None:
        for n in range(2000):
            os.write(2, b"%d\n" % n)
        os._exit(1)

    with pytest.raises(BodyDied) as caught:
        process.call(talk)
    assert caught.value.stderr.splitlines() == [str(n) for n in range(1980, 2000)]
    assert process.log().startswith("0\n1\n")


def test_grandchild_does_not_hide_the_death(process: Body) -> None:
    def fork() -> int:
        import signal

        pid = os.fork()
        if pid == 0:
            signal.pause()
        return pid

    grandchild = process.call(fork)
    result = Busy(process).start()
    pid = process.pid
    assert pid is not None
    try:
        killed = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(BodyDied):
            result.result(2)
        assert time.monotonic() - killed < 1
        assert is_alive(grandchild)
    finally:
        os.kill(grandchild, signal.SIGKILL)
        eventually(lambda: not is_alive(grandchild))


@pytest.mark.parametrize("kind", PROCESSES)
def test_death_is_seen_on_a_system_without_pidfd(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching, "open_pidfd", lambda pid: None)
    body = epyrpc.spawn("worker", start_method=kind)

    def fork() -> int:
        import signal

        pid = os.fork()
        if pid == 0:
            signal.pause()
        return pid

    grandchild = body.call(fork)
    result = Busy(body).start()
    pid = body.pid
    assert pid is not None
    try:
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(BodyDied) as caught:
            result.result(2)
        assert caught.value.exitcode == -9
    finally:
        os.kill(grandchild, signal.SIGKILL)
        eventually(lambda: not is_alive(grandchild))


# ---- suspended ------------------------------------------------------------------------------------------------------


def suspend(body: Body) -> int:
    pid = body.pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    eventually(lambda: body._incarnation is not None and body._incarnation.launch.is_suspended())
    return pid


def test_deadlines_hold_while_a_body_is_suspended(process: Body) -> None:
    pid = suspend(process)
    started = time.monotonic()
    for make in (
        lambda: process.call(timeout=0.2)(abs, -1),
        lambda: process.submit(timeout=0.2)(abs, -1).result(LIMIT),
    ):
        with pytest.raises(epyrpc.TransactionTimeout):
            make()
    assert time.monotonic() - started < 1.5
    with pytest.raises(
        ConnectionTimeout, match=r"worker: no answer to a ping within 0.1 s; the other end may be stopped"
    ):
        process.ping(0.1)
    assert process.alive  # it is not dead
    os.kill(pid, signal.SIGCONT)
    assert process.call(abs, -1) == 1


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
@pytest.mark.parametrize("act", ["stop", "restart"])
def test_suspended_body_can_be_stopped_and_restarted(process: Body, act: str, busy: bool) -> None:
    process.set_handler("say", lambda: "here")
    result = Busy(process).start() if busy else None
    suspend(process)
    started = time.monotonic()
    getattr(process, act)()
    assert time.monotonic() - started < 2
    if result is not None:
        with pytest.raises(BodyLost):
            result.result(0)
    if act == "restart":
        assert process.call.say() == "here"
    else:
        assert process.state is BodyState.STOPPED


# ---- forked children ------------------------------------------------------------------------------------------------

FORKED_HEAD = """
import os, sys, threading, time, traceback
import epyrpc
from epyrpc.bodies import helpers
from epyrpc.bodies.registry import bodies
from tests.bodies.tools import links_of
from multiprocessing import resource_tracker

worker = epyrpc.spawn("worker", start_method=METHOD, workers=2)
worker.set_handler("nap", time.sleep)
running = worker.submit(time.sleep, 0.5)
theirs = links_of(worker.pid) if METHOD != "thread" else {"none"}
assert METHOD == "thread" or links_of() & theirs
told = []
running.add_done_callback(told.append)
stop = threading.Event()
counts = [0]
def hammer():
    while not stop.is_set():
        worker.call.nap(0)
        counts[0] += 1
threads = [threading.Thread(target=hammer) for _ in range(3)]
for thread in threads:
    thread.start()
while counts[0] < 50:
    time.sleep(0.001)
pids = []
for _ in range(5):
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            assert bodies() == {}
            tracker = os.readlink(f"/proc/self/fd/{resource_tracker.getfd()}")  # multiprocessing's own
            shared = links_of() & theirs - {tracker}
            assert not shared, shared
            for use in (
                lambda: worker.call.nap(0),
                lambda: worker.submit.nap(0),
                lambda: worker.emit.nap(0),
                lambda: worker.ping(),
                lambda: worker.push(x=1),
                lambda: worker.restart(),
                lambda: running.result(5),
            ):
                try:
                    use()
                except epyrpc.BodyLost as exc:
                    text = str(exc)
                    assert "belongs to process" in text and "spawn another here" in text, text
                else:
                    raise AssertionError("it went well")
            worker.stop()
            with epyrpc.spawn("worker", start_method=METHOD) as own:
                assert own.call(lambda: 6 * 7) == 42
            helpers.stop_fork_server()
            assert not told
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    pids.append(pid)
codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
before = counts[0]
while counts[0] < before + 50:
    time.sleep(0.001)
stop.set()
for thread in threads:
    thread.join()
assert running.result(5) is None
print(codes, worker.call(lambda: "alive"), worker.ping() < 5)
worker.stop()
"""


@pytest.mark.parametrize("kind", KINDS)
def test_forked_child_of_the_head_cannot_use_its_bodies(kind: str) -> None:
    # Without -W error: newer Pythons warn of a fork beside threads.
    with head("", "-c", f"METHOD = {kind!r}\n{FORKED_HEAD}") as process:
        out, err = process.communicate(timeout=LIMIT * 3)
    assert out == "[0, 0, 0, 0, 0] alive True\n", err
    assert process.returncode == 0


@pytest.mark.parametrize("worker_thread", ["main", "other"])
def test_fork_in_a_handler_is_harmless(process: Body, worker_thread: str) -> None:
    def forks(end: str) -> tuple[int, int]:
        pid = os.fork()
        if pid:
            return os.waitpid(pid, 0)
        print("printed in the child")  # noqa: T201
        if end == "exit":
            os._exit(5)
        if end == "raise":
            raise RuntimeError("in the child")
        return 0, 0  # comes out of the handler a second time, in another process

    busy = Busy(process)
    block = busy.start() if worker_thread == "other" else None  # the main thread is the first worker
    for end in ("exit", "return", "raise"):
        result = process.submit(forks, end)
        pid, status = result.result(LIMIT)
        assert not is_alive(pid)
        assert os.waitstatus_to_exitcode(status) == (5 if end == "exit" else 0)
        assert result.stdout == ""
    assert process.call(operator.add, 1, 2) == 3
    if block is not None:
        block.cancel()
    assert process.transporter.transactions.late == 0


def test_multiprocessing_inside_a_body(process: Body) -> None:
    def pool() -> list[int]:
        import multiprocessing
        import warnings

        warnings.simplefilter("ignore")  # newer Pythons warn of a fork beside threads
        with multiprocessing.get_context("fork").Pool(2) as pool:
            return pool.map(abs, [-1, -2, -3])

    assert process.call(pool) == [1, 2, 3]
    assert process.call(operator.add, 1, 2) == 3


def test_subprocess_of_a_body_inherits_nothing_of_ours(process: Body) -> None:
    def run() -> str:
        import subprocess

        return subprocess.run(["ls", "-l", "/proc/self/fd"], capture_output=True, text=True, close_fds=False).stdout

    listed = process.call(run)
    ours = links_of()
    kept = {word for word in listed.split() if word.startswith(("pipe:", "socket:"))} & ours
    from multiprocessing import resource_tracker

    assert kept <= {os.readlink(f"/proc/self/fd/{resource_tracker.getfd()}")} | {
        os.readlink(f"/proc/self/fd/{process._incarnation.launch.stderr_fd}")  # type: ignore[union-attr]
    }


def test_spawn_in_a_body_makes_a_body_of_its_own(process: Body) -> None:
    def nested() -> tuple[int, int]:
        import epyrpc

        with epyrpc.spawn("inner") as inner:
            return os.getpid(), inner.call(os.getppid)

    assert process.call(nested) == (process.pid, process.pid)


def test_interrupt_while_starting_leaves_nothing() -> None:
    code = textwrap.dedent("""
        import os, signal, threading
        import epyrpc
        from epyrpc.bodies.body import Body
        from epyrpc.bodies.registry import bodies

        original = Body._start_incarnation
        def start(self):
            incarnation = original(self)
            print(incarnation.launch.pid, flush=True)
            os.kill(os.getpid(), signal.SIGINT)
            return incarnation
        Body._start_incarnation = start
        try:
            epyrpc.spawn("worker")
        except KeyboardInterrupt:
            others = ("epyrpc-launcher", "epyrpc-supervisor")
            print(bodies(), [t.name for t in threading.enumerate() if not t.name.startswith(others)])
        """)
    with head(code) as process:
        pid, rest = finish(process).split("\n", 1)
    assert rest == "{} ['MainThread']\n"
    assert not is_alive(int(pid))
    assert sys.platform != "win32"


def test_fresh_body_has_no_more_workers_than_asked_for() -> None:
    def overlap() -> int:
        import threading
        import time

        lock = vars(threading).setdefault("test_lock", threading.Lock())
        if not lock.acquire(blocking=False):
            return 1
        time.sleep(0.02)
        lock.release()
        return 0

    for _ in range(10):  # the first calls may come before the main thread is ready to be a worker
        with epyrpc.spawn("worker", workers=1, start_method="forkserver") as body:
            assert [result.result(LIMIT) for result in [body.submit(overlap) for _ in range(3)]] == [0, 0, 0]
