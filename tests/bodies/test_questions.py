"""What a body asks of a script: its standard input, from the main thread while it waits for the call."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from epyrpc import spawn
from tests.bodies.tools import finish, head

GREETING = """
    import epyrpc
    with epyrpc.spawn("worker") as worker:
        def greet():
            return "hello " + input("name? ")
        {}
"""


def test_input_reads_the_scripts_standard_input() -> None:
    with head(GREETING.format("print(worker.call(greet)); print(worker.submit(greet).result(20))")) as process:
        out = finish(process, "Ann\nBob\n")
    assert out == "name? hello Ann\nname? hello Bob\n"


def test_breakpoint_reads_its_commands_from_there_too() -> None:
    with head("""
        import epyrpc
        with epyrpc.spawn("worker") as worker:
            def twice(a):
                b = 2 * a
                breakpoint()
                return b
            print("=", worker.call(twice, 21))
    """) as process:
        out = finish(process, "p b\nc\n")
    assert "(Pdb) 42\n" in out
    assert out.endswith("= 42\n")


def test_end_of_standard_input_is_an_error_of_the_handler() -> None:
    with head(GREETING.format("print(type(worker.submit(greet).exception(20)))")) as process:
        out = finish(process, "")
    assert out == "name? <class 'EOFError'>\n"


def test_only_the_main_thread_is_asked() -> None:
    with spawn("worker") as worker:
        result = worker.submit(lambda: input("name? "))
        with ThreadPoolExecutor(1) as threads:
            error = threads.submit(result.exception, 20).result(20)
    assert isinstance(error, EOFError)
    assert "nobody can answer" in str(error)


def test_an_event_has_nobody_to_ask() -> None:
    with spawn("worker", workers=1) as worker:

        def ask(refusals: list[str] = []) -> list[str]:  # noqa: B006 - what the body remembers from event to call
            from epyrpc import current_call

            if current_call().solicited:
                return refusals
            try:
                input("name? ")
            except EOFError as exc:
                refusals.append(str(exc))
            return refusals

        worker.set_handler("ask", ask)
        worker.emit.ask()
        (refusal,) = worker.call.ask()
        assert refusal.startswith("nobody can answer")


def test_a_script_keeps_no_frames_of_failures() -> None:
    with spawn("worker") as worker:
        failed = worker.submit(lambda: 1 / 0)
        assert isinstance(failed.exception(20), ZeroDivisionError)
        with pytest.raises(Exception, match="bodies of a notebook keep the last failure"):
            failed.debug()
        with pytest.raises(Exception, match="cannot be debugged: it has not failed"):
            worker.submit(abs, -1).debug()
