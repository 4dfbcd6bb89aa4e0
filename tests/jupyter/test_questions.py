"""``input()``, ``getpass()`` and the debugger in a body, typed at in the notebook's cell."""

from __future__ import annotations

import sys
import textwrap
import time
from typing import Any

import pytest

from tests.jupyter.kernels import LIMIT, Kernel, Outcome


def start(nb: Kernel, source: str, **options: Any) -> str:
    """Start a cell of a front end that takes input; return its id."""
    return str(nb.client.execute(textwrap.dedent(source).strip("\n"), **{"allow_stdin": True, **options}))


def prompt_of(nb: Kernel, cell: str) -> dict[str, Any]:
    """Return the next request for input, which must come from `cell`."""
    message = nb.client.get_stdin_msg(timeout=LIMIT)
    assert message["msg_type"] == "input_request"
    assert message["parent_header"]["msg_id"] == cell
    return dict(message["content"])


def converse(nb: Kernel, source: str, *answers: str) -> tuple[Outcome, list[str]]:
    """Run a cell and type the answers as it asks; return how it ended, and its prompts."""
    cell, prompts = start(nb, source), []
    for answer in answers:
        prompts.append(prompt_of(nb, cell)["prompt"])
        nb.client.input(answer)
    return nb.watch(cell), prompts


@pytest.mark.parametrize(
    "source",
    [
        pytest.param("%%body worker\nname = input('name? ')\nprint('hello', name)", id="cell"),
        pytest.param("worker.call(greet)", id="call"),
        pytest.param("worker.call(timeout=60)(greet)", id="call-with-options"),
        pytest.param("ar = worker.submit(greet)\nar.result()", id="result"),
        pytest.param("ar = worker.submit(greet)\nimport time; time.sleep(0.5)\nar.result()", id="result-later"),
        pytest.param("await worker.submit(greet)", id="await"),
        pytest.param("ar = worker.submit(greet)\nimport asyncio; await asyncio.sleep(0.5)\nawait ar", id="await-later"),
        pytest.param("import asyncio\nawait asyncio.gather(asyncio.sleep(0), worker.submit(greet))", id="gather"),
    ],
)
def test_input_asks_in_the_cell_that_waits(nb: Kernel, source: str) -> None:
    nb.ok("def greet():\n    print('hello', input('name? '))")
    outcome, prompts = converse(nb, source, "Ann")
    assert outcome.status == "ok"
    assert prompts == ["name? "]
    assert outcome.stdout == "hello Ann\n"


def test_an_interrupt_ends_a_question_of_a_call_that_is_awaited(nb: Kernel) -> None:
    nb.ok("life = 1\ndef greet():\n    print('hello', input('name? '))")
    cell = start(nb, "ar = worker.submit(greet)\nawait ar")
    assert prompt_of(nb, cell)["prompt"] == "name? "
    nb.manager.interrupt_kernel()
    assert nb.watch(cell).status == "error"
    assert nb.value("str(ar.state), ar.wait_stopped(20) in ('raised', 'cooperative'), life") == "('cancelled', True, 1)"
    outcome, prompts = converse(nb, "await worker.submit(greet)", "Ann")
    assert (outcome.stdout, prompts) == ("hello Ann\n", ["name? "])


def test_what_was_printed_before_is_there_when_it_asks(nb: Kernel) -> None:
    cell = start(nb, "%%body worker\nprint('two choices', end='')\ninput()")
    assert prompt_of(nb, cell)["prompt"] == ""
    nb.watch(cell, until=lambda message: message.text == "two choices")
    nb.client.input("1")
    assert nb.watch(cell).displays == [{"text/plain": "'1'"}]


def test_getpass_asks_for_a_secret(nb: Kernel) -> None:
    cell = start(nb, "%%body worker\nfrom getpass import getpass\nlen(getpass('key: '))")
    assert prompt_of(nb, cell) == {"prompt": "key: ", "password": True}
    nb.client.input("hush")
    assert nb.watch(cell).displays == [{"text/plain": "4"}]


def test_front_end_without_input_gets_a_clear_error(nb: Kernel) -> None:
    outcome = nb.watch(start(nb, "%%body worker\ninput('name? ')", allow_stdin=False))
    assert outcome.traceback.endswith(
        "EOFError: this front end takes no input; pass the value as an argument, or %body push it"
    )
    assert "epyrpc" not in outcome.traceback
    assert "----> 2 input('name? ')" in outcome.traceback


def test_nobody_to_ask_is_a_clear_error(nb: Kernel) -> None:
    first = nb.ok("%%body worker --async --out job\nprint('printed')\ninput('name? ')")
    outcome = nb.ok("import concurrent.futures\nprint(concurrent.futures.wait([job], 20).done == {job})")
    assert outcome.stdout == "True\n"
    assert next(m.text for m in first.messages + outcome.others if m.kind == "stream") == "printed\n"
    assert "EOFError: nobody can answer: a question from a body needs" in nb.run("job.result()").traceback
    in_thread = "%%body worker\nfrom concurrent.futures import ThreadPoolExecutor as T\nT().submit(input).exception()"
    assert "nobody can answer" in nb.ok(in_thread).displays[0]["text/plain"]


def test_interrupt_ends_the_question_and_its_call(nb: Kernel) -> None:
    cell = start(nb, "%%body worker\nkept = 3\ninput('name? ')")
    prompt_of(nb, cell)
    began = time.monotonic()
    nb.manager.interrupt_kernel()
    outcome = nb.watch(cell)
    assert time.monotonic() - began < 5
    assert outcome.traceback.startswith("KeyboardInterrupt: the cell ")
    assert outcome.traceback.endswith("; worker and its variables live on")
    assert nb.ok("%%body worker\nkept").displays == [{"text/plain": "3"}]
    assert converse(nb, "%%body worker\ninput('again? ')", "yes")[0].displays == [{"text/plain": "'yes'"}]


TO_NEXT_LINE = ["n"] if sys.version_info >= (3, 13) else []  # there breakpoint() stops on its own line
FUNCTION = """
    %%body worker
    def twice(a):
        b = a * 2
        breakpoint()
        c = b + 1
        return c
"""


def test_breakpoint_opens_the_debugger_in_the_cell(nb: Kernel) -> None:
    nb.ok(FUNCTION)
    commands = [*TO_NEXT_LINE, "p b", "n", "p c", "where", "c"]
    outcome, prompts = converse(nb, "%%body worker\ntwice(4)", *commands)
    assert prompts == ["(Pdb) "] * len(commands)
    assert outcome.displays == [{"text/plain": "9"}]
    lines = outcome.stdout.splitlines()[2 * len(TO_NEXT_LINE) :]
    assert lines[1] == "-> c = b + 1"
    assert lines[2] == "8"
    assert lines[4] == "-> return c"
    assert lines[5] == "9"
    assert lines[7] == "-> twice(4)"
    assert "epyrpc" not in outcome.stdout  # nothing of ours among the frames


def test_steps_of_the_debugger_end_with_the_call(nb: Kernel) -> None:
    nb.ok(FUNCTION)
    past_the_end = [*TO_NEXT_LINE, "n", "n", "n", "n"]  # of the function, and of the cell
    outcome, _ = converse(nb, "%%body worker\ntwice(4)", *past_the_end)
    assert outcome.status == "ok"
    assert nb.ok("%%body worker\n[x for x in range(3)]").displays == [{"text/plain": "[0, 1, 2]"}]
    assert nb.value("worker.call(lambda: 7)") == "7"


def test_quitting_the_debugger_ends_the_call(nb: Kernel) -> None:
    nb.ok(FUNCTION)
    outcome, _ = converse(nb, "%%body worker\nafter = 1\ntwice(4)\nafter = 2", "q")
    assert outcome.displays == []
    assert nb.ok("%%body worker\nafter").displays == [{"text/plain": "1"}]


def test_breakpoint_where_nobody_can_type_says_so_and_goes_on(nb: Kernel) -> None:
    nb.ok(FUNCTION)
    first = nb.ok("%%body worker --async --out job\nresult = twice(4)")
    outcome = nb.ok("import concurrent.futures\nconcurrent.futures.wait([job], 20)")
    assert nb.value("str(job.state), worker.pull('result')") == "('done', 9)"
    assert "nobody can answer" in "".join(m.text for m in first.messages + outcome.others if m.parent == first.id)


def test_debugging_a_cell_that_has_failed(nb: Kernel) -> None:
    assert "nothing has failed in this body" in nb.run("%body debug worker").traceback
    nb.run("%%body worker\ndef ratio(a):\n    b = a - 1\n    return a / b\nratio(1)")
    for source in ("%body debug worker", "%%body worker\n%debug"):
        outcome, prompts = converse(nb, source, "p a, b", "up", "q")
        assert outcome.status == "ok"
        assert prompts == ["(Pdb) "] * 3
        lines = outcome.stdout.splitlines()
        assert lines[0] == "ZeroDivisionError: division by zero"
        assert lines[2:4] == ["-> return a / b", "(1, 0)"]
        assert lines[-1] == "-> ratio(1)"


def test_debugging_a_call_that_has_failed_shows_the_notebooks_source(nb: Kernel) -> None:
    nb.ok("def inverse(x):\n    y = x * 2\n    return 1 / y\nar = worker.submit(inverse, 0)\nar.exception()")
    outcome, _ = converse(nb, "ar.debug()", "p x, y", "list", "q")
    assert outcome.stdout.splitlines()[2:4] == ["-> return 1 / y", "(0, 0)"]
    assert "  1  \tdef inverse(x):\n" in outcome.stdout
    assert "cannot be debugged: it has not failed" in nb.run("worker.submit(abs, -1).debug()").traceback
    nb.ok("worker.submit(inverse, 0).exception()")
    assert "a body keeps its last failure only" in nb.run("ar.debug()").traceback


def test_interrupt_in_the_debugger_ends_it(nb: Kernel) -> None:
    nb.run("%%body worker\n1 / 0")
    cell = start(nb, "%body debug worker")
    prompt_of(nb, cell)
    nb.manager.interrupt_kernel()
    assert nb.watch(cell).status == "error"
    assert converse(nb, "%body debug worker", "q")[0].status == "ok"
