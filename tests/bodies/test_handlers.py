"""Closures as handlers of a body: what travels with them, what is looked up there, what cannot travel."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import epyrpc
from epyrpc import ApiError, ApiParamError, Body, CodecError, DeadlockError, RemoteError, UnsupportedApiError
from epyrpc.bodies.registry import bodies
from tests.bodies.tools import LIMIT, Busy, waits

SCALE = 3


def triple(x: int) -> int:
    return x * SCALE


# ---- registering ----------------------------------------------------------------------------------------------------


@pytest.mark.capability("M1")
def test_closure_captures_by_value(process: Body) -> None:
    k = 3

    def helper(x: int) -> int:
        return x * k

    process.set_handler("math.scale", lambda x: helper(x) + len(sys.argv) * 0)
    k = 100
    assert process.call.math.scale(2) == 6
    process.set_handler("math.by_reference", triple)
    assert process.call.math.by_reference(2) == 6


def test_a_decorator_without_its_path_is_refused(body: Body) -> None:
    with pytest.raises(ApiParamError, match=r"Write \.handler\('triple'\) above the function"):
        body.handler(triple)  # type: ignore[arg-type]
    with pytest.raises(ApiParamError, match=r"Write \.on\('triple'\) above the function"):
        body.on(triple)  # type: ignore[arg-type]


@pytest.mark.capability("M1")
@pytest.mark.parametrize("way", ["set_handler", "call"])
def test_unpicklable_capture_is_named_and_nothing_is_registered(body: Body, way: str) -> None:
    class Account:
        def __init__(self) -> None:
            self._lock = threading.Lock()

        def closure(self) -> Any:
            return lambda: self._lock

    function = Account().closure()
    started = time.monotonic()
    with pytest.raises(CodecError) as caught:
        body.set_handler("account.lock", function) if way == "set_handler" else body.call(function)
    assert time.monotonic() - started < 1
    start = "handler" if way == "set_handler" else "the function"
    assert f"{start} → closure 'self' → _lock (_thread.lock)" in str(caught.value)
    assert len(body.transporter.transactions) == 0
    assert body.paths() == []
    with pytest.raises(UnsupportedApiError):
        body.call.account.lock()


def test_capturing_a_body_says_what_to_do(body: Body) -> None:
    for way in (lambda f: body.set_handler("x", f), body.call, body.submit, body.emit):
        with pytest.raises(CodecError) as caught:
            way(lambda: body.call.other())
        assert "closure 'body' (epyrpc.bodies.body.Body)" in str(caught.value)
        assert "the handle of body 'worker' cannot travel to another process" in str(caught.value)
        assert "inside a body, epyrpc.head reaches the notebook" in str(caught.value)
    result = body.submit(abs, -1)
    with pytest.raises(CodecError, match=r"cannot travel: a result belongs to the process that made the call"):
        body.call(lambda: result)
    assert body.paths() == []


@pytest.mark.capability("M6")
def test_handler_is_replaced_and_removed(body: Body) -> None:
    body.set_handler("say", lambda: "first")
    busy = Busy(body)
    released = threading.Event()
    body.on("released", lambda: released.wait(LIMIT))

    def old() -> str:
        from epyrpc import head

        head.emit.busy.here()
        head.call.released()
        return "old"

    assert body.call.say() == "first"
    body.set_handler("say", old)
    running = body.submit.say()
    assert busy._here.acquire(timeout=LIMIT)
    body.set_handler("say", lambda: "new")
    assert body.call.say() == "new"
    released.set()
    assert running.result(LIMIT) == "old"  # a call in flight finishes on the handler it started with
    body.set_handler("say", None)
    with pytest.raises(UnsupportedApiError):
        body.call.say()
    body.set_handler("say", None)  # twice is harmless


def test_decorator_registers_and_returns_the_function(body: Body) -> None:
    @body.handler("maths.half")
    def half(x: float) -> float:
        """Halve it."""
        return x / 2

    assert half(4) == 2
    assert body.call.maths.half(4) == 2
    assert body.describe() == {"maths.half": ("(x: 'float') -> 'float'", "Halve it.")}


def test_catch_all_of_a_body(body: Body) -> None:
    def any_of(*args: Any) -> str:
        return f"{epyrpc.current_call().path}{args}"

    body.set_handler("files.*", any_of)
    body.set_handler("files.size", lambda: 7)
    assert body.call.files.anything(1) == "files.anything(1,)"
    assert body.call.files.size() == 7
    body.set_handler("*", any_of)
    assert body.call.elsewhere() == "elsewhere()"
    assert body.stacks()  # what is the package's own is not caught


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("a..b", "path is 'a..b', but must be names with dots between them. A part of it is empty."),
        ("", "path is '', but must be one or more names with dots between them. Write it as 'maths.scale'."),
        ("a b", "path is 'a b', but must be "),
        ("a.1b", "path is 'a.1b', but must be "),
        (".a", "path is '.a', but must be "),
        ("a.*.b", "path is 'a.*.b', but must be "),
        (
            "_epyrpc.run",
            "path is '_epyrpc.run', but must be names without a leading underscore, which are kept for the package",
        ),
        ("a._b", "path is 'a._b', but must be names without a leading underscore"),
        (3, "path is 3, but must be "),
    ],
)
def test_bad_paths_are_refused(worker: Body, path: Any, text: str) -> None:
    before = worker.transporter.transactions.ids()
    for register in (worker.set_handler, worker.on):
        with pytest.raises(ApiParamError) as caught:
            register(path, abs)
        assert str(caught.value).startswith(text)
    for decorate in (worker.handler, worker.on):
        with pytest.raises(ApiParamError):
            decorate(path)(abs)
    assert worker.transporter.transactions.ids() == before + 1
    assert worker._handlers == worker._on == {}


@pytest.mark.parametrize("thing", [3, "text", [], object()], ids=["int", "str", "list", "object"])
def test_handler_that_is_not_callable_is_refused(worker: Body, thing: Any) -> None:
    for register in (worker.set_handler, worker.on):
        with pytest.raises(ApiParamError, match=r"^handler of a.b is .* but must be a callable, or None to remove it$"):
            register("a.b", thing)
    assert worker._handlers == worker._on == {}
    assert worker.paths() == []


# ---- names ----------------------------------------------------------------------------------------------------------


def test_push_pull_execute(body: Body) -> None:
    body.push(x=1, y=[2])
    assert body.pull("x") == 1
    assert body.pull("x", "y") == (1, [2])
    assert body.execute("z = x + 1\nz * 10") == 20
    assert body.execute("z += 1") is None
    assert body.pull("z") == 3
    assert body.execute("def f():\n    return z\nf()") == 3


@pytest.mark.capability("E13")
def test_results_are_copies(process: Body) -> None:
    process.push(table={"a": [1]})
    got = process.pull("table")
    got["a"].append(2)
    assert process.pull("table") == {"a": [1]}
    process.set_handler("table", lambda: table)  # noqa: F821 - the body's own
    got = process.call.table()
    got["b"] = 1
    assert process.call.table() == {"a": [1]}


def test_missing_names_resolve_in_the_body_when_they_are_read(body: Body) -> None:
    body.set_handler("late", lambda: level + 1)  # noqa: F821 - the body's own
    with pytest.raises(NameError, match="name 'level' is not defined"):
        body.call.late()
    body.push(level=1)
    assert body.call.late() == 2
    body.execute("level = 41")
    assert body.call.late() == 42
    assert body.call(lambda: [level for _ in range(2)]) == [41, 41]  # noqa: F821
    assert body.call(lambda: (lambda: level)()) == 41  # noqa: F821


def test_names_that_travel_never_overwrite_the_body(body: Body) -> None:
    body.push(SCALE=1000, captured=1000)
    captured = 5
    body.set_handler("mine", lambda x: (x * SCALE, x * captured))
    assert body.call.mine(2) == (6, 10)
    assert body.pull("SCALE", "captured") == (1000, 1000)

    def writes() -> None:
        global SCALE
        SCALE = 7

    body.call(writes)
    assert body.pull("SCALE") == 1000
    assert SCALE == 3


def test_pulling_what_is_not_there_names_the_nearest(body: Body) -> None:
    body.push(reading=1)
    with pytest.raises(ApiParamError) as caught:
        body.pull("readin")
    assert str(caught.value) == ("name to pull is 'readin', but must be a variable of the body. Did you mean reading?")
    for names in ((), (3,), ("a b",)):
        with pytest.raises(ApiParamError, match=r"^names to pull is .* must be one or more variable names, as text$"):
            body.pull(*names)
    with pytest.raises(ApiParamError, match=r"^name to push is '__name__', but must be a variable's name"):
        body.push(__name__="x")
    with pytest.raises(ApiParamError, match=r"^source is 3, but must be source code, as text$"):
        body.execute(3)  # type: ignore[arg-type]


def test_errors_of_executed_code(body: Body) -> None:
    with pytest.raises(SyntaxError):
        body.execute("a b")
    with pytest.raises(ZeroDivisionError) as caught:
        body.execute("before = 1\n1 / 0")
    assert "1 / 0" in str(caught.value.__cause__)
    assert body.pull("before") == 1
    with pytest.raises(CodecError, match=r"cannot send .*lock"):
        body.execute("import threading\nthreading.Lock()")


# ---- how handlers end -----------------------------------------------------------------------------------------------


def test_exception_arrives_as_itself_with_its_traceback(process: Body) -> None:
    def fails() -> None:
        raise LookupError("not there")

    with pytest.raises(LookupError, match="not there") as caught:
        process.call(fails)
    trace = str(caught.value.__cause__)
    assert 'raise LookupError("not there")' in trace
    assert "in fails" in trace
    assert "IndexError" not in trace  # nothing of how the call came to the handler
    assert "/epyrpc/" not in trace


def test_exception_of_a_class_that_the_head_lacks(process: Body, tmp_path: Path) -> None:
    (tmp_path / "only_in_the_body.py").write_text("class Odd(Exception): pass")
    process.execute(f"import sys; sys.path.append({str(tmp_path)!r})")

    def fails() -> None:
        import only_in_the_body  # type: ignore[import-not-found]

        raise only_in_the_body.Odd("strange")

    with pytest.raises(RemoteError) as caught:
        process.call(fails)
    assert caught.value.type_name == "only_in_the_body.Odd"
    assert caught.value.text == "strange"
    assert "in fails" in caught.value.traceback_text


@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt, GeneratorExit])
def test_exit_in_a_handler_reaches_the_caller_and_the_body_lives(body: Body, kind: type[BaseException]) -> None:
    def leave() -> None:
        raise kind("bye")

    body.push(kept=1)
    with pytest.raises(kind, match="bye"):
        body.call(leave)
    with pytest.raises(kind, match="bye"):
        body.submit(leave).result(LIMIT)
    assert body.pull("kept") == 1
    for _ in range(8):  # every worker is still there
        assert body.call(lambda: 1) == 1


def test_sys_exit_in_a_handler(process: Body) -> None:
    pid = process.pid
    with pytest.raises(SystemExit) as caught:
        process.call(sys.exit, 4)
    assert caught.value.code == 4
    assert process.call(lambda: 1) == 1
    assert process.pid == pid


# ---- bodies talk back -----------------------------------------------------------------------------------------------


def test_body_calls_the_head_back(body: Body) -> None:
    losses: list[float] = []
    seen = threading.Event()

    @body.on("training.epoch")
    def epoch(n: int, loss: float) -> None:
        losses.append(loss)
        seen.set()

    body.on("ask.rate", lambda: 0.5)

    def train() -> float:
        from epyrpc import head

        head.emit.training.epoch(1, 0.31)
        return head.call.ask.rate() * 2

    assert body.call(train) == 1.0
    waits(seen)
    assert losses == [0.31]

    def fails() -> None:
        from epyrpc import head

        head.call.ask.nothing()

    with pytest.raises(UnsupportedApiError, match=r"the head of worker does not handle 'ask\.nothing'"):
        body.call(fails)
    body.on("ask.rate", None)
    with pytest.raises(UnsupportedApiError):
        body.call(train)


def test_head_works_on_a_thread_of_the_body_outside_of_calls(process: Body) -> None:
    got = threading.Event()
    process.on("tick", got.set)

    def start() -> None:
        import threading

        from epyrpc import head

        threading.Thread(target=lambda: head.call.tick()).start()

    process.call(start)
    waits(got)


def test_head_outside_of_a_body_says_so() -> None:
    with pytest.raises(ApiError, match=r"epyrpc.head exists only inside a body; here, in the head, use the Body"):
        epyrpc.head.call.ask.rate()


@pytest.mark.capability("S14c")
def test_reentrant_call_needs_a_free_worker(body: Body) -> None:
    body.set_handler("inner", lambda: "inner")

    def on_head() -> str:
        return f"head of {body.call.inner()}"

    def outer() -> str:
        from epyrpc import head

        return f"outer of {head.call.on_head()}"

    body.on("on_head", on_head)
    body.set_handler("outer", outer)
    assert body.call(timeout=LIMIT).outer() == "outer of head of inner"  # two workers


@pytest.mark.capability("S14c")
@pytest.mark.parametrize("method", ["spawn", "thread"])
def test_reentrant_call_to_a_busy_body_is_diagnosed(method: str, cleanup: None) -> None:
    body = epyrpc.spawn("narrow", workers=1, start_method=method)
    body.set_handler("inner", lambda: "inner")
    body.on("on_head", lambda: body.call.inner())

    def outer() -> Any:
        from epyrpc import head

        return head.call.on_head()

    body.set_handler("outer", outer)
    result = body.submit.outer()
    started = time.monotonic()
    with pytest.raises(DeadlockError) as caught:
        result.result(LIMIT)
    assert time.monotonic() - started < 2
    assert "inner (" in str(caught.value)
    assert f"outer ({result.id}), which waits for on_head (" in str(caught.value)
    assert "Spawn with more workers, or answer without calling back." in str(caught.value)
    assert str(result.id) in caught.value.calls
    assert body.call.inner() == "inner"
    assert list(bodies()) == ["narrow"]
