"""The four verbs: a path or a callable, with or without options."""

from __future__ import annotations

import asyncio
import concurrent.futures
import operator
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import epyrpc
from epyrpc import (
    ApiArb,
    ApiParamError,
    Body,
    BodyDied,
    BodyLost,
    CallState,
    QueueTransporter,
    TransactionTimeout,
    UnsupportedApiError,
)
from tests.bodies.tools import LIMIT, Busy, eventually, waits


@pytest.mark.capability("S1")
def test_call_crosses_processes(process: Body) -> None:
    process.set_handler("who", os.getpid)
    assert process.call.who() == process.pid != os.getpid()


@pytest.mark.capability("M5")
def test_both_ends_are_queue_pairs_with_an_arbiter(process: Body) -> None:
    import multiprocessing.queues

    def look() -> tuple[str, bool, list[bool]]:
        from epyrpc import ApiArb, head

        transporter = head.api.transporter
        details = transporter.details
        queues = (details.inbound, details.outbound)
        kinds = [isinstance(queue, multiprocessing.queues.Queue) for queue in queues]
        return type(transporter).__name__, isinstance(transporter.receiver, ApiArb), kinds

    assert process.call(look) == ("QueueTransporter", True, [True, True])
    assert isinstance(process.transporter, QueueTransporter)
    assert isinstance(process.transporter.receiver, ApiArb)
    details = process.transporter.details
    assert all(isinstance(queue, multiprocessing.queues.Queue) for queue in (details.inbound, details.outbound))


def test_call_by_path_and_by_callable(body: Body) -> None:
    body.set_handler("maths.scale", lambda x, factor=10: x * factor)
    assert body.call.maths.scale(4) == 40
    assert body.call.maths.scale(4, factor=2) == 8
    assert body.call(lambda a: sum(a), [1, 2, 3]) == 6
    assert body.call(operator.mul, 6, 7) == 42
    assert body.call(dict, a=1) == {"a": 1}
    assert body.call(timeout=LIMIT)(operator.mul, 2, 3) == 6
    assert body.call(timeout=LIMIT).maths.scale(1) == 10


def test_submit_gives_a_future(body: Body) -> None:
    body.set_handler("maths.square", lambda x: x * x)
    results = [body.submit.maths.square(n) for n in range(20)]
    done, pending = concurrent.futures.wait(results, LIMIT)
    assert not pending
    assert len(done) == 20
    assert [result.result() for result in results] == [n * n for n in range(20)]
    assert body.submit(timeout=9)(operator.add, 1, 2).acquire(timeout=LIMIT) == 3
    assert {result.path for result in results} == {"maths.square"}
    assert body.submit(operator.add, 1, 2).path == "add"


def test_result_is_awaitable(body: Body) -> None:
    body.set_handler("maths.square", lambda x: x * x)

    async def main() -> list[int]:
        return [
            await body.submit.maths.square(3),
            *await asyncio.gather(*(body.submit.maths.square(n) for n in (4, 5))),
        ]

    assert asyncio.run(main()) == [9, 16, 25]


def test_emit_sends_an_event_and_returns_nothing(body: Body) -> None:
    heard, seen = [], threading.Event()
    body.on("heard", lambda text: heard.append(text) or (len(heard) == 2 and seen.set()))

    def note(text: str) -> None:
        from epyrpc import head

        head.emit.heard(text)

    body.set_handler("log.note", note)
    created = body.transporter.transactions.ids()
    assert body.emit.log.note("one") is None
    assert body.emit(note, "two") is None
    waits(seen)
    assert sorted(heard) == ["one", "two"]
    assert body.transporter.transactions.ids() == created + 1  # no transaction came in between


def test_stream_yields_the_parts_as_they_come(body: Body) -> None:
    gate = threading.Event()
    body.on("go_on", lambda: gate.wait(LIMIT))

    def rows(n: int) -> Any:
        from epyrpc import head

        for i in range(n):
            if i == 2:
                head.call.go_on()
            yield i

    body.set_handler("rows", rows)
    stream = body.stream.rows(4)
    assert [next(stream), next(stream)] == [0, 1]
    assert stream.state is CallState.STREAMING
    gate.set()
    assert list(stream) == [2, 3]
    assert list(body.stream(rows, 2)) == [0, 1]
    assert list(body.stream(window=1).rows(6)) == list(range(6))


@pytest.mark.capability("M1")
def test_generator_and_coroutine_handlers(body: Body) -> None:
    async def later(x: int) -> int:
        await asyncio.sleep(0)
        return x

    async def count(n: int) -> Any:
        for i in range(n):
            yield i

    body.set_handler("squares", lambda n: (i * i for i in range(n)))
    body.set_handler("later", later)
    body.set_handler("count", count)
    assert body.call.squares(4) == body.submit.squares(4).result(LIMIT) == [0, 1, 4, 9]
    assert body.call.later(5) == 5
    assert body.call.count(3) == [0, 1, 2]
    assert list(body.stream.count(3)) == [0, 1, 2]
    assert list(body.stream.later(5)) == [5]
    assert list(body.stream(lambda: "plain")) == ["plain"]


def test_closing_a_stream_stops_its_handler(body: Body) -> None:
    ended = threading.Event()
    body.on("ended", ended.set)

    def endless() -> Any:
        from epyrpc import head

        try:
            while True:
                yield 1
        finally:
            head.emit.ended()

    with body.stream(endless) as stream:
        assert next(stream) == 1
    waits(ended)
    assert list(stream) == []


# ---- options --------------------------------------------------------------------------------------------------------


def test_options_belong_to_the_verb_and_do_not_stick(worker: Body) -> None:
    worker.set_handler("nap", time.sleep)
    quick = worker.call(timeout=0.05)
    for _ in range(2):
        with pytest.raises(TransactionTimeout, match=r"'nap' \(call H\d+\) gave no answer within 0.05 s"):
            quick.nap(LIMIT)
    assert worker.call.nap(0.1) is None
    assert quick(timeout=LIMIT).nap(0.1) is None


@pytest.mark.parametrize(
    ("use", "text"),
    [
        pytest.param(
            lambda w: w.call(timeot=3),
            "option of call is 'timeot', but must be one of 'timeout', 'callback', 'ignore_errors', 'retry', "
            "'on_timeout'",
            id="unknown option",
        ),
        pytest.param(
            lambda w: w.emit(timeout=3), "option of emit is 'timeout', but must be 'ignore_errors'", id="emit"
        ),
        pytest.param(
            lambda w: w.stream(retry=3),
            "option of stream is 'retry', but must be one of 'timeout', 'window'",
            id="stream",
        ),
        pytest.param(
            lambda w: w.call(timeout=-1), "timeout is -1, but must be None (for ever) or a number", id="timeout"
        ),
        pytest.param(lambda w: w.submit(retry=1.5), "retry is 1.5, but must be a whole number, 0 or more", id="retry"),
        pytest.param(
            lambda w: w.submit(callback=3), "callback is 3, but must be a callable taking (id, result)", id="callback"
        ),
        pytest.param(
            lambda w: w.call(ignore_errors=1), "ignore_errors is 1, but must be one of True, False", id="ignore"
        ),
        pytest.param(
            lambda w: w.call(on_timeout="explode"),
            "on_timeout is 'explode', but must be one of 'cancel', 'kill'",
            id="on_timeout",
        ),
        pytest.param(
            lambda w: w.stream(window=0), "window is 0, but must be a whole number of parts, 1 or more", id="window"
        ),
        pytest.param(lambda w: w.call(3), "first argument of call is 3, but must be a callable", id="not callable"),
        pytest.param(
            lambda w: w.submit("maths.scale", 4),
            "first argument of submit is 'maths.scale', but must be a callable. Write a path as attributes: "
            ".submit.maths.scale(4).",
            id="path as text",
        ),
    ],
)
def test_mistakes_with_verbs_are_named_and_send_nothing(shared: Body, use: Any, text: str) -> None:
    before = shared.transporter.transactions.ids()
    with pytest.raises(ApiParamError) as caught:
        use(shared)
    assert str(caught.value).startswith(text)
    assert shared.transporter.transactions.ids() == before + 1
    assert len(shared.transporter.transactions) == 0


@pytest.mark.parametrize(
    ("use", "text"),
    [
        pytest.param(lambda w: w.cal.maths.scale(4), "'Body' object has no attribute 'cal'", id="verb"),
        pytest.param(
            lambda w: w.call._secret(4), "'_secret' is no path: names that start with an underscore", id="underscore"
        ),
        pytest.param(lambda w: w.call.maths._secret(4), "'_secret' is no path", id="underscore below"),
    ],
)
def test_unknown_verb_and_private_path(shared: Body, use: Any, text: str) -> None:
    with pytest.raises(AttributeError) as caught:
        use(shared)
    assert str(caught.value).startswith(text)


@pytest.fixture
def shared(worker: Body) -> Body:
    """Give a body that a test does not change."""
    return worker


def test_unhandled_path_names_the_nearest(body: Body) -> None:
    body.set_handler("maths.scale", abs)
    with pytest.raises(UnsupportedApiError) as caught:
        body.call.maths.scael(4)
    assert caught.value.nearest == ("maths.scale",)
    assert str(caught.value).endswith(
        " does not handle 'maths.scael'; did you mean 'maths.scale'? set_handler('maths.scael', ...) adds a handler"
    )


def test_callback_gets_id_and_result_or_exception(body: Body) -> None:
    told: list[tuple[Any, Any]] = []
    result = body.submit(callback=lambda *args: told.append(args))(operator.add, 1, 2)
    eventually(lambda: told)
    assert told == [(result.id, 3)]
    assert result.result(LIMIT) == 3
    failed = body.submit(callback=lambda *args: told.append(args))(operator.truediv, 1, 0)
    eventually(lambda: len(told) == 2)
    assert told[1][0] == failed.id
    assert isinstance(told[1][1], ZeroDivisionError)
    busy = Busy(body).start(timeout=0.2, callback=lambda *args: told.append(args))
    eventually(lambda: len(told) == 3)
    assert told[2][0] == busy.id
    assert isinstance(told[2][1], TransactionTimeout)


def test_then_gives_a_future_of_what_its_function_returns(worker: Body) -> None:
    assert worker.submit(operator.add, 1, 2).then(lambda x: x * 10).result(LIMIT) == 30
    failing = worker.submit(operator.truediv, 1, 0)
    assert failing.then(str, on_error=lambda exc: type(exc).__name__).result(LIMIT) == "ZeroDivisionError"


@pytest.mark.parametrize("verb", ["call", "submit"])
def test_ignored_errors_give_none(worker: Body, verb: str) -> None:
    def use(function: Any, **options: Any) -> Any:
        value = getattr(worker, verb)(ignore_errors=True, **options)(function)
        return value if verb == "call" else value.result(LIMIT)

    def by_path() -> Any:
        value = getattr(worker, verb)(ignore_errors=True).not_there()
        return value if verb == "call" else value.result(LIMIT)

    assert use(lambda: 5) == 5
    assert by_path() is None
    assert use(lambda: time.sleep(LIMIT), timeout=0.05) is None
    with pytest.raises(ZeroDivisionError):
        use(lambda: 1 / 0)

    def fails() -> None:
        raise epyrpc.ApiError("a handler's own")

    with pytest.raises(epyrpc.ApiError, match="a handler's own"):
        use(fails)
    assert use(lambda: os._exit(1)) is None
    assert use(lambda: 5) is None  # dead by now
    assert by_path() is None
    assert worker.emit(ignore_errors=True).not_there() is None


# ---- retry ----------------------------------------------------------------------------------------------------------


def dies_at_first(path: str) -> str:
    import os

    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return "at the second attempt"
    os._exit(3)


@pytest.mark.parametrize("by", ["path", "callable"])
def test_retry_runs_again_when_the_body_died(process: Body, tmp_path: Path, by: str) -> None:
    function = lambda path: dies_at_first(path)  # noqa: E731
    process.set_handler("once", function)
    first = process.pid
    verb = process.submit(retry=1)
    result = verb.once(str(tmp_path / "mark")) if by == "path" else verb(function, str(tmp_path / "mark"))
    assert result.result(LIMIT) == "at the second attempt"
    assert process.pid != first
    assert process.restarts == 1
    assert process.call(retry=1)(operator.add, 1, 2) == 3


def test_retry_gives_up_after_so_many_times(worker: Body) -> None:
    with pytest.raises(BodyDied) as caught:
        worker.call(retry=2)(lambda: os._exit(7))
    assert caught.value.exitcode == 7
    assert worker.restarts == 2
    assert not worker.alive
    assert worker.call(retry=1)(operator.add, 1, 2) == 3  # the body was dead already: that was the first attempt


def test_retry_does_not_repeat_what_the_handler_raised(worker: Body) -> None:
    worker.push(runs=[])

    def fails() -> None:
        runs.append(1)  # noqa: F821 - the body's own
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        worker.call(retry=3)(fails)
    assert worker.pull("runs") == [1]


def test_many_retried_calls_share_one_restart(worker: Body, tmp_path: Path) -> None:
    busy = Busy(worker)
    mark = str(tmp_path / "mark")

    def waits_for_death(mark: str) -> str:
        import os
        import time

        while not os.path.exists(mark):
            time.sleep(0.01)
        return "again"

    results = [busy.start(waits_for_death, mark, retry=1) for _ in range(2)]
    results += [worker.submit(retry=1)(operator.add, n, 1) for n in range(10)]
    pid = worker.pid
    assert pid is not None
    os.kill(pid, 9)
    os.close(os.open(mark, os.O_CREAT))
    assert [result.result(LIMIT) for result in results] == ["again", "again", *range(1, 11)]
    assert worker.restarts == 1


def test_retry_does_not_bring_a_stopped_body_back(worker: Body) -> None:
    result = Busy(worker).start(retry=3)
    worker.stop(0)
    with pytest.raises(BodyLost):
        result.result(LIMIT)
    assert not worker.alive
    assert worker.restarts == 0


def test_cancel_of_a_retried_call_is_final(worker: Body) -> None:
    result = Busy(worker).start(retry=3)
    assert result.cancel()
    assert result.cancelled()
    with pytest.raises(concurrent.futures.CancelledError):
        result.result(LIMIT)
    eventually(lambda: result.stopped == "raised")
    assert worker.restarts == 0


# ---- how they look --------------------------------------------------------------------------------------------------


def test_paths_complete(worker: Body) -> None:
    for path in ("maths.scale", "maths.deep.root", "log.note"):
        worker.set_handler(path, abs)
    assert dir(worker.call) == ["log", "maths"]
    assert dir(worker.submit.maths) == ["deep", "scale"]
    assert dir(worker.stream.maths.deep) == ["root"]
    worker.stop(0)
    assert dir(worker.call) == dir(worker.call.maths) == []


def test_reprs_say_what_they_are(worker: Body) -> None:
    assert repr(worker) == f"<Body worker · running · pid {worker.pid} · 2 handler threads · queue transport>"
    assert repr(worker.call).startswith("<call of <Body worker")
    assert repr(worker.call(timeout=3)).startswith("<call(timeout=3) of <Body worker")
    assert repr(worker.submit.maths.scale).startswith("<submit maths.scale of <Body worker")
    result = worker.submit(operator.add, 1, 2)
    result.result(LIMIT)
    assert repr(result).startswith(f"<AsyncResult {result.id} add on worker: done, ")


def test_function_of_a_list_is_called_by_its_own_name(worker: Body) -> None:
    results = [worker.submit(lambda n: n, n) for n in range(2)]
    assert [result.path for result in results] == ["<lambda>", "<lambda>"]
    assert [result.result(LIMIT) for result in results] == [0, 1]
