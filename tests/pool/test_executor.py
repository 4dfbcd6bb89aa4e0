"""`Pool` as a `concurrent.futures.Executor`: its promises, kept."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import gc
import multiprocessing
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import epyrpc
from tests.bodies.tools import LIMIT, eventually, finish, head, is_alive


class Gate:
    """Tasks that run until they are let go, by way of a file: any process can look."""

    def __init__(self, folder: Any) -> None:
        self._path = os.path.join(folder, "open")

    def open(self) -> None:
        """Let them go."""
        with open(self._path, "w", encoding="utf-8"):
            pass

    @property
    def task(self) -> Any:
        """A function that returns its argument once the gate is open."""
        path = self._path

        def wait(value: Any = None) -> Any:
            import os
            import time

            while not os.path.exists(path):
                time.sleep(0.005)
            return value

        return wait


@pytest.fixture
def gate(tmp_path: Any) -> Gate:
    return Gate(tmp_path)


def test_is_an_executor(pool: epyrpc.Pool) -> None:
    assert isinstance(pool, concurrent.futures.Executor)
    future = pool.submit(pow, 2, 10)
    assert isinstance(future, concurrent.futures.Future)
    assert future.result(LIMIT) == 1024
    assert future.done()
    assert not future.running()
    assert str(future.state) == "done"


def test_submit_passes_keywords(pool: epyrpc.Pool) -> None:
    def capture(*args: Any, **kwargs: Any) -> Any:
        return args, kwargs

    assert pool.submit(capture, 1, self=2, fn=3, timeout=4).result(LIMIT) == ((1,), {"self": 2, "fn": 3, "timeout": 4})
    with pytest.raises(TypeError, match="needs a function"):
        pool.submit(fn=capture, arg=1)
    with pytest.raises(TypeError, match="needs a function"):
        pool.submit()


def test_a_closure_is_taken_as_it_is_at_the_call(pool: epyrpc.Pool) -> None:
    base = 1
    first = pool.submit(lambda: base)
    base = 2
    second = pool.submit(lambda: base)
    assert (first.result(LIMIT), second.result(LIMIT)) == (1, 2)


def test_the_exception_of_a_task_is_itself_with_the_remote_traceback(pool: epyrpc.Pool) -> None:
    def fail() -> None:
        raise KeyError("what is missing")

    future = pool.submit(fail)
    with pytest.raises(KeyError, match="what is missing") as caught:
        future.result(LIMIT)
    assert "raise KeyError" in str(caught.value.__cause__)
    assert "raise KeyError" in caught.value.__cause__.tb  # type: ignore[union-attr]  # as executors call it
    assert str(future.state) == "failed"


@pytest.mark.parametrize("exception", [SystemExit, KeyboardInterrupt, StopIteration])
def test_even_these_are_only_the_outcome_of_a_task(pool: epyrpc.Pool, exception: type[BaseException]) -> None:
    def leave() -> None:
        raise exception("gone")

    assert isinstance(pool.submit(leave).exception(LIMIT), exception)
    assert pool.submit(pow, 2, 2).result(LIMIT) == 4


def test_what_cannot_be_pickled_is_carried_by_the_future(pool: epyrpc.Pool) -> None:
    with pytest.raises(epyrpc.CodecError, match="argument 1"):
        pool.submit(id, threading.Lock()).result(LIMIT)
    with pytest.raises(epyrpc.CodecError, match="lock"):
        pool.submit(threading.Lock).result(LIMIT)

    class Poison:
        def __reduce__(self) -> Any:
            return _raise, ("cannot be rebuilt",)

    with pytest.raises(Exception, match="cannot be rebuilt"):
        pool.submit(id, Poison()).result(LIMIT)
    assert pool.submit(pow, 2, 2).result(LIMIT) == 4


def _raise(text: str) -> None:
    raise ValueError(text)


class Leaves:
    """Its pickling calls ``sys.exit()``."""

    def __reduce__(self) -> Any:
        sys.exit("from within")


def test_what_leaves_the_program_while_it_is_pickled_does_not(pool: epyrpc.Pool) -> None:
    with pytest.raises(epyrpc.CodecError, match=r"argument 1.*SystemExit: from within"):
        pool.submit(id, Leaves()).result(LIMIT)
    with pytest.raises(epyrpc.CodecError, match="SystemExit: from within"):
        list(pool.map(id, [Leaves()]))
    with pytest.raises(SystemExit, match="from within"):  # in the body, it is what the task did
        pool.submit(Leaves).result(LIMIT)
    assert pool.submit(pow, 2, 2).result(LIMIT) == 4


def test_a_pending_task_can_be_cancelled_and_a_running_one_not(pool: epyrpc.Pool, gate: Gate) -> None:
    running = [pool.submit(gate.task, i) for i in range(2)]
    eventually(lambda: all(f.running() for f in running))
    waiting = pool.submit(gate.task, 2)
    assert not running[0].cancel()
    assert waiting.cancel()
    gate.open()
    assert [f.result(LIMIT) for f in running] == [0, 1]
    with pytest.raises(concurrent.futures.CancelledError):
        waiting.result(LIMIT)


def test_a_running_task_is_cancelled_when_that_is_asked_for(pool: epyrpc.Pool) -> None:
    def nap() -> None:
        import sys
        import time

        sys.stdout.write("here\n")
        sys.stdout.flush()
        time.sleep(60)

    running = pool.submit(nap)
    eventually(lambda: "here" in running.stdout)
    pids = {body.pid for body in pool.bodies}
    assert running.cancel(kill=True)
    assert running.cancelled()
    eventually(lambda: running._call.stopped)
    assert running._call.stopped == "raised"
    assert pool.submit(pow, 2, 2).result(LIMIT) == 4
    assert {body.pid for body in pool.bodies} == pids


def test_wait_and_as_completed(pool: epyrpc.Pool, gate: Gate) -> None:
    slow, quick = pool.submit(gate.task, "slow"), pool.submit(pow, 2, 3)
    done, pending = concurrent.futures.wait([slow, quick], LIMIT, concurrent.futures.FIRST_COMPLETED)
    assert (done, pending) == ({quick}, {slow})
    gate.open()
    assert {f.result() for f in concurrent.futures.as_completed([slow, quick], LIMIT)} == {"slow", 8}


def test_callbacks_and_then(pool: epyrpc.Pool) -> None:
    told: list[Any] = []
    future = pool.submit(pow, 2, 3)
    future.add_done_callback(lambda f: told.append(f.result()))
    assert future.then(lambda value: value + 1).result(LIMIT) == 9
    eventually(lambda: told == [8])


def test_asyncio_takes_it(pool: epyrpc.Pool) -> None:
    async def main() -> Any:
        loop = asyncio.get_running_loop()
        return await asyncio.gather(loop.run_in_executor(pool, pow, 2, 3), pool.submit(pow, 3, 3))

    assert asyncio.run(main()) == [8, 27]


def test_what_a_task_prints_stays_with_it(pool: epyrpc.Pool, capsys: pytest.CaptureFixture[str]) -> None:
    future = pool.submit(print, "hello")
    future.result(LIMIT)
    assert future.stdout == "hello\n"
    eventually(lambda: "hello" in capsys.readouterr().out)


def test_after_shutdown_nothing_is_taken() -> None:
    pool = epyrpc.Pool(1)
    pool.shutdown()
    pool.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(pow, 2, 3)
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.map(abs, [1])


def test_shutdown_finishes_what_was_submitted() -> None:
    pool = epyrpc.Pool(2)
    futures = [pool.submit(time.sleep, 0.02) for _ in range(20)]
    pool.shutdown()
    assert all(f.done() for f in futures)
    assert [f.result() for f in futures] == [None] * 20


def test_shutdown_may_cancel_what_has_not_begun() -> None:
    pool = epyrpc.Pool(2)
    futures = [pool.submit(time.sleep, 0.1) for _ in range(50)]
    futures[0].result(LIMIT)
    pool.shutdown(cancel_futures=True)
    cancelled = [f for f in futures if f.cancelled()]
    assert len(cancelled) > 20
    assert all(f.exception() is None for f in futures if f not in cancelled)


def test_shutdown_cancels_also_what_came_back_from_a_dead_body(gate: Gate) -> None:
    pool = epyrpc.Pool(1)
    running = pool.submit(gate.task, 5)
    eventually(running.running)
    returned = pool.submit(pow, 2, 2)
    task, _ = pool._engine.tasks[0]
    assert task.begin()  # as it was given to a body, which died before it ran
    pool.shutdown(wait=False, cancel_futures=True)
    assert returned.cancelled()
    gate.open()
    assert running.result(LIMIT) == 5
    pool.shutdown()


def test_shutdown_without_waiting_finishes_later(gate: Gate) -> None:
    pool = epyrpc.Pool(1)
    future = pool.submit(gate.task, 5)
    pool.shutdown(wait=False)
    assert not future.done()
    gate.open()
    assert future.result(LIMIT) == 5
    eventually(lambda: not pool.bodies)


def test_a_pool_shut_down_at_once_leaves_nothing() -> None:
    for _ in range(5):
        epyrpc.Pool(2).shutdown()


def test_a_dropped_pool_ends_by_itself() -> None:
    pool = epyrpc.Pool(2)
    future = pool.submit(os.getpid)
    engine = weakref.ref(pool._engine)
    pids = [body.pid for body in pool.each._bodies()]
    del pool
    gc.collect()
    assert future.result(LIMIT) in pids
    eventually(lambda: not any(is_alive(pid) for pid in pids if pid))
    eventually(lambda: engine() is None or not engine().members)


def test_an_interpreter_ends_after_what_was_submitted() -> None:
    code = """
        import epyrpc, time

        pool = epyrpc.Pool(2)

        def task(n):
            time.sleep(0.2)
            return n

        for n in range(4):
            pool.submit(task, n).add_done_callback(lambda f: print(f"done {f.result()}\\n", end="", flush=True))
        print("the end")
    """
    with head(code) as process:
        lines = finish(process).splitlines()
    assert lines[0] == "the end"
    assert sorted(lines[1:]) == ["done 0", "done 1", "done 2", "done 3"]


def test_the_initializer_runs_in_every_body() -> None:
    def prepare(value: int) -> None:
        import builtins

        builtins.prepared = value  # type: ignore[attr-defined]

    def look() -> int:
        import builtins

        return builtins.prepared  # type: ignore[attr-defined,no-any-return]

    with epyrpc.Pool(2, initializer=prepare, initargs=(7,)) as pool:
        assert set(pool.each.call(look).values()) == {7}
        assert pool.submit(look).result(LIMIT) == 7


def test_a_failing_initializer_breaks_the_pool(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise ValueError("no licence")

    with epyrpc.Pool(2, initializer=fail) as pool:
        future = pool.submit(pow, 2, 3)
        with pytest.raises(epyrpc.PoolBroken, match="no licence") as caught:
            future.result(LIMIT)
        assert isinstance(caught.value, concurrent.futures.BrokenExecutor)
        with pytest.raises(concurrent.futures.BrokenExecutor):
            pool.submit(pow, 2, 3)
        with pytest.raises(concurrent.futures.BrokenExecutor):
            pool.map(abs, [1])
    assert "no licence" in caplog.text


def test_processes_are_replaced_after_so_many_tasks() -> None:
    with epyrpc.Pool(1, max_tasks_per_child=3) as pool:
        pids = [pool.submit(os.getpid).result(LIMIT) for _ in range(7)]
        assert len(set(pids[:3])) == len(set(pids[3:6])) == 1
        assert len(set(pids)) == 3
        assert len(set(pool.map(lambda _: os.getpid(), range(7)))) >= 3


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        pytest.param({"max_workers": 0}, ValueError, "greater than 0", id="none"),
        pytest.param({"max_workers": -1}, ValueError, "greater than 0", id="negative"),
        pytest.param({"max_workers": 1, "initializer": 3}, TypeError, "callable", id="initializer"),
        pytest.param({"max_workers": 1, "max_tasks_per_child": 0}, ValueError, "greater", id="no tasks"),
        pytest.param({"max_workers": 1, "max_tasks_per_child": "a"}, TypeError, "integer", id="tasks"),
        pytest.param({"max_workers": 1, "start_method": "fork"}, epyrpc.ApiParamError, "forkserver", id="start"),
        pytest.param({"max_workers": 1.0}, TypeError, "max_workers must be an integer, not 1.0", id="float"),
        pytest.param({"max_workers": True}, TypeError, "max_workers must be an integer, not True", id="bool"),
        pytest.param({"initializer": abs, "initargs": 5}, TypeError, "initargs must be a tuple", id="initargs"),
        pytest.param({"mp_context": "spawn"}, TypeError, "context of multiprocessing, not 'spawn'", id="context"),
        pytest.param({"max_workers": 1, "threads": -1}, epyrpc.ApiParamError, "threads", id="threads"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        epyrpc.Pool(**arguments)


def test_integers_of_numpy_are_integers() -> None:
    two = np.int64(2)
    with epyrpc.Pool(two, max_tasks_per_child=np.int32(100)) as pool:
        assert list(pool.map(abs, range(10), chunksize=two, max_in_flight=two)) == list(range(10))
        pool.scale(np.int16(1))


@pytest.mark.parametrize("verb", ["map", "imap_unordered", "starmap"])
@pytest.mark.parametrize(
    ("chunksize", "error", "text"),
    [
        (0, ValueError, "chunksize must be >= 1"),
        (-1, ValueError, "chunksize must be >= 1"),
        (1.5, TypeError, "chunksize must be an integer, not 1.5"),
        ("2", TypeError, "chunksize must be an integer, not '2'"),
    ],
)
def test_a_chunksize_is_a_positive_integer(
    pool: epyrpc.Pool, verb: str, chunksize: Any, error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        getattr(pool, verb)(abs, [(1,)], chunksize=chunksize)


def test_a_mistake_of_the_pools_own_that_repeats_breaks_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from epyrpc.bodies.pool_map import MapWork

    def fail(*args: Any) -> None:
        raise RuntimeError("a mistake")

    with epyrpc.Pool(1) as pool:
        assert pool.submit(pow, 2, 2).result(LIMIT) == 4
        monkeypatch.setattr(MapWork, "take", fail)
        with pytest.raises(epyrpc.PoolBroken, match="failed by itself: RuntimeError: a mistake"):
            list(pool.map(abs, [1, 2]))
    assert "the thread that looks after it failed" in caplog.text


def test_a_pool_that_gets_no_thread_says_so_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start

    def start_but_the_second(thread: threading.Thread) -> None:
        if thread.name == "epyrpc-pool-narrow_2":
            raise RuntimeError("can't start new thread")
        start(thread)

    before = os.listdir("/proc/self/fd")
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start_but_the_second)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            epyrpc.Pool(2, name="narrow")
    eventually(lambda: "epyrpc-pool-narrow_1" not in {thread.name for thread in threading.enumerate()})
    eventually(lambda: len(os.listdir("/proc/self/fd")) <= len(before))
    with epyrpc.Pool(2, name="narrow") as pool:  # nothing has its name
        assert pool.submit(pow, 2, 2).result(LIMIT) == 4


def test_arguments_of_a_finished_task_are_let_go(pool: epyrpc.Pool) -> None:
    class Argument:
        pass

    argument = Argument()
    watched = weakref.ref(argument)
    pool.submit(id, argument).result(LIMIT)
    del argument
    eventually(lambda: gc.collect() is not None and watched() is None)


@pytest.mark.parametrize("outcome", ["a result", "an exception", "cancelled", "stopped"])
def test_a_future_that_nobody_holds_is_let_go_at_once(pool: epyrpc.Pool, gate: Gate, outcome: str) -> None:
    class Large:
        pass

    def give() -> Any:
        return Large()

    def fail() -> None:
        raise ValueError(Large())

    running = [pool.submit(gate.task) for _ in range(2)]
    gc.collect()
    gc.disable()  # results may be large, and the collector counts objects, not bytes
    try:
        if outcome == "cancelled":
            future = pool.submit(give)
            assert future.cancel()
            watched: Any = weakref.ref(future)
        elif outcome == "stopped":
            future = running.pop()
            eventually(future.running)
            assert future.cancel(kill=True)
            watched = weakref.ref(future)
        else:
            gate.open()
            future = pool.submit(give if outcome == "a result" else fail)
            concurrent.futures.wait([future], LIMIT)
            watched = weakref.ref(future._result if outcome == "a result" else future._exception.args[0])
        gate.open()
        del future
        concurrent.futures.wait(running, LIMIT)
        eventually(lambda: watched() is None)
    finally:
        gc.enable()


def test_stop_ends_at_once_and_says_so(gate: Gate) -> None:
    pool = epyrpc.Pool(2)
    results = pool.map(gate.task, range(4))
    running, waiting = [pool.submit(gate.task) for _ in range(2)]
    eventually(lambda: all(member.inflight for member in pool._engine.members))
    pids = [body.pid for body in pool.bodies]
    pool.stop()
    assert not any(is_alive(pid) for pid in pids if pid)
    with pytest.raises(concurrent.futures.CancelledError):
        list(results)
    for future in (running, waiting):
        assert future.cancelled()
    pool.stop()


def test_a_callback_may_stop_the_pool(gate: Gate) -> None:
    pool = epyrpc.Pool(2)
    first, second = pool.submit(gate.task), pool.submit(time.sleep, 60)
    stopped: concurrent.futures.Future[Any] = concurrent.futures.Future()

    def stop(_: Any) -> None:
        try:
            stopped.set_result(pool.stop())  # type: ignore[func-returns-value]
        except BaseException as exc:
            stopped.set_exception(exc)

    first.add_done_callback(stop)
    eventually(second.running)
    gate.open()
    assert stopped.result(LIMIT) is None
    assert second.cancelled()
    eventually(lambda: not pool._engine.members)


def test_a_callback_may_restart_the_bodies(gate: Gate) -> None:
    restarted: concurrent.futures.Future[Any] = concurrent.futures.Future()
    with epyrpc.Pool(2) as pool:
        pids = set(pool.each.call(os.getpid).values())

        def restart(_: Any) -> None:
            pool.restart()
            restarted.set_result(None)

        future = pool.submit(gate.task)
        future.add_done_callback(restart)
        gate.open()
        restarted.result(LIMIT)
        assert not pids & set(pool.each.call(os.getpid).values())


def test_a_map_of_a_pool_shut_down_with_cancel_futures_says_so() -> None:
    pool = epyrpc.Pool(1)
    results = pool.map(time.sleep, [0.05] * 50)
    next(results)
    pool.shutdown(cancel_futures=True)
    with pytest.raises(concurrent.futures.CancelledError):
        list(results)


@pytest.mark.parametrize(("asked", "got"), [("spawn", "spawn"), ("forkserver", "forkserver"), ("fork", "forkserver")])
def test_a_context_of_multiprocessing_says_how_to_start(asked: str, got: str) -> None:
    with epyrpc.Pool(1, mp_context=multiprocessing.get_context(asked)) as pool:
        assert pool.submit(pow, 2, 2).result(LIMIT) == 4
        assert pool.bodies[0].start_method == got


def test_many_bodies_on_few_processors_all_work_and_end() -> None:
    with epyrpc.Pool(16) as pool:
        pids = set(pool.each.call(os.getpid).values())
        assert len(pids) == 16
        assert sum(pool.map(abs, range(200_000))) == sum(range(200_000))
        assert set(pool.map(_where, range(200), chunksize=1)) == pids
    assert not any(is_alive(pid) for pid in pids)


def _where(n: int) -> int:
    time.sleep(0.01)
    return os.getpid()


def test_wait_that_is_over_says_so_and_is_told_from_a_task_that_timed_out() -> None:
    def late() -> None:
        raise TimeoutError("mine")

    with epyrpc.Pool(1) as pool:
        slow = pool.submit(time.sleep, 30)
        for wait in (slow.result, slow.exception):
            with pytest.raises(TimeoutError, match=r"has not ended within 0\.01 s; it goes on"):
                wait(0.01)
        assert not slow.done()
        slow.cancel(kill=True)
        with pytest.raises(TimeoutError, match=r"^mine"):
            pool.submit(late).result(30)


def test_signal_taken_by_another_thread_ends_the_wait_for_a_map_soon() -> None:
    with head("""
        import epyrpc, signal, threading, time
        with epyrpc.Pool(1) as pool:
            list(pool.map(abs, [1]))
            signalled = []
            def late():
                time.sleep(0.2)  # by now the main thread is inside its wait; if not, there is less to be heard
                signalled.append(time.monotonic())
                signal.pthread_kill(threading.get_ident(), signal.SIGINT)
            threading.Thread(target=late).start()
            try:
                list(pool.map(time.sleep, [60]))
            except KeyboardInterrupt:
                print(time.monotonic() - signalled[0] < 5)
    """) as process:
        assert finish(process) == "True\n"


@contextlib.contextmanager
def interrupt_elsewhere() -> Iterator[None]:
    """Interrupt this process in a moment, as if the system had chosen another thread than the main one."""
    ended = threading.Event()

    def interrupt() -> None:
        time.sleep(0.3)
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)
        ended.wait(LIMIT)

    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    began = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            yield
    finally:
        ended.set()
        interrupter.join(LIMIT)
    assert time.monotonic() - began < LIMIT


needs_pthread_kill = pytest.mark.skipif(
    not hasattr(signal, "pthread_kill"), reason="no signal can be sent to one thread here"
)


@needs_pthread_kill
def test_interrupt_that_another_thread_is_given_stops_each_call(pool: epyrpc.Pool) -> None:
    with interrupt_elsewhere():
        pool.each.call(time.sleep, LIMIT * 2)


@needs_pthread_kill
def test_interrupt_that_another_thread_is_given_ends_the_wait_for_a_start() -> None:
    with epyrpc.Pool(1, initializer=time.sleep, initargs=(LIMIT * 2,)) as pool:
        with interrupt_elsewhere():
            pool.call(os.getpid)
        pool.shutdown(cancel_futures=True)


def test_pool_that_is_shut_down_keeps_nothing_that_its_initializer_was_given() -> None:
    class Large(list[int]):
        pass

    large = Large([1])
    kept = weakref.ref(large)
    pool = epyrpc.Pool(1, initializer=lambda values: None, initargs=(large,))
    with pool:
        assert pool.submit(abs, -1).result(LIMIT) == 1
    del large
    assert kept() is None
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(abs, -1)
