"""What callbacks of a result put out lands in the cell that registered them, on every kernel that is supported."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.jupyter.kernels import VERSIONS, Kernel, Outcome, kernel, text_of


@pytest.fixture(scope="module", params=VERSIONS)
def empty_kernel(request: pytest.FixtureRequest) -> Iterator[Kernel]:
    with kernel("%load_ext epyrpc", "%body spawn first", "%body stop first", version=request.param) as started:
        yield started


GATE = """
import threading
from IPython.display import HTML
gate = threading.Event()
worker.on("gate", lambda: gate.wait(30))
def through_the_gate():
    from epyrpc import head
    head.call.gate()
    return "value"
"""


def displays_of(cell: str, outcomes: list[Outcome]) -> list[str]:
    found = [m for outcome in outcomes for m in [*outcome.messages, *outcome.others]]
    return [m.content["data"]["text/html"] for m in found if m.kind == "display_data" and m.parent == cell]


@pytest.mark.capability("M4")
def test_then_puts_out_into_the_cell_that_called_it_after_ten_more(nb: Kernel) -> None:
    nb.ok(GATE)
    made = nb.ok("call = worker.submit(through_the_gate)")
    asked = nb.ok("""
        told = call.then(lambda value: (print("finished:", value), display(HTML(f"<b>{value}</b>"))))
        def done(future):
            import sys
            print("done", future.result(), file=sys.stderr)
        call.add_done_callback(done)
    """)
    later = [nb.ok(f"print('cell {i}')") for i in range(10)]
    last = nb.ok("gate.set(); print('released'); told.result(30)")
    after = nb.ok("""
        import time
        time.sleep(0.2)  # what follows the other callback's end
    """)
    everything = [made, asked, *later, last, after]
    assert text_of(asked.id, *everything) == "finished: value\n"
    assert text_of(asked.id, *everything, stream="stderr") == "done value\n"
    assert displays_of(asked.id, everything) == ["<b>value</b>"]
    assert [outcome.stdout for outcome in later] == [f"cell {i}\n" for i in range(10)]
    assert last.stdout == "released\n"
    assert text_of(made.id, *everything) == ""


def test_callback_of_the_verb_puts_out_into_the_cell_that_made_the_call(nb: Kernel) -> None:
    nb.ok(GATE)
    nb.ok("seen = threading.Event()\ndef tell(id, value): print('heard', value); seen.set()")
    made = nb.ok("call = worker.submit(callback=tell)(through_the_gate)")
    last = nb.ok("gate.set(); seen.wait(30); print('here')")
    after = nb.ok("call.add_done_callback(print) or None")
    assert text_of(made.id, made, last, after) == "heard value\n"
    assert last.stdout == "here\n"


def test_prints_come_before_what_the_callback_says(nb: Kernel) -> None:
    nb.ok("def say():\n    for i in range(200): print(i)\n    return 'end'")
    outcome = nb.ok("worker.submit(say).then(print).result(30)")
    rest = nb.ok("print('next')")
    assert text_of(outcome.id, outcome, rest) == "".join(f"{i}\n" for i in range(200)) + "end\n"


def test_capture_takes_the_output_of_its_own_cell_only(nb: Kernel) -> None:
    nb.ok(GATE)
    nb.ok("def say(word):\n    print('said', word)\n    display(word)\n    return word")
    late = nb.ok("def slowly(): through_the_gate(); say('late')\ncall = worker.submit(slowly)")
    captured = nb.ok("""
        %%capture taken
        gate.set()
        worker.call(say, "own")
        call.result(30)
    """)
    after = nb.ok("print(repr(taken.stdout), [output.data for output in taken.outputs])")
    assert text_of(late.id, late, captured, after) == "said late\n"
    shown = [m for outcome in (late, captured, after) for m in [*outcome.messages, *outcome.others]]
    assert [(m.parent, m.text) for m in shown if m.kind == "display_data"] == [(late.id, "'late'")]
    assert "said own" in after.stdout
    assert "late" not in after.stdout
    assert captured.messages == []


def test_output_of_a_running_call_goes_on_after_reloading(nb: Kernel) -> None:
    nb.ok(GATE)
    made = nb.ok("def work(): print(through_the_gate())\ncall = worker.submit(work)")
    reloaded = nb.ok("%reload_ext epyrpc")
    last = nb.ok("gate.set()\nimport time\nwhile not call.stdout: time.sleep(0.02)\ntime.sleep(0.2)  # not waited for")
    assert text_of(made.id, made, reloaded, last, nb.ok("call.result(30)")) == "value\n"


def test_twenty_calls_of_five_cells_put_out_into_their_own(nb: Kernel) -> None:
    nb.ok("""
        import threading
        calls, started = [], threading.Semaphore(0)
        worker.on("started", started.release)
        def talk(cell, number):
            import sys
            from epyrpc import head
            head.call.started()
            for line in range(5):
                sys.stdout.write(f"{cell}.{number}.{line}\\n")  # in one piece: calls of a cell may mix otherwise
                sys.stderr.write(f"{cell}.{number}.{line}\\n")
            return cell
    """)
    cells = [nb.ok(f"calls += [worker.submit(talk, {i}, n) for n in range(20)]") for i in range(5)]
    last = nb.ok("print('waiting'); [call.result(60) for call in calls]; None")
    for number, cell in enumerate(cells):
        for stream in ("stdout", "stderr"):
            said = text_of(cell.id, *cells, last, stream=stream).split()
            assert sorted(said) == sorted(f"{number}.{n}.{line}" for n in range(20) for line in range(5))
            for n in range(20):  # and each call's in order
                own = [line for line in said if line.startswith(f"{number}.{n}.")]
                assert own == sorted(own)
    assert text_of(last.id, *cells, last) == "waiting\n"


def test_cell_that_ends_with_then_shows_what_follows_and_nothing_else(nb: Kernel) -> None:
    nb.ok("slow = worker.submit(lambda: __import__('time').sleep(0.3) or 5)")
    asked = nb.ok("slow.then(lambda value: print('got', value))")
    assert [m for m in asked.messages if m.kind in ("execute_result", "display_data")] == []
    later = nb.ok("slow.then(lambda value: None).result(20)")
    both = [m for m in [*asked.messages, *later.messages, *later.others] if "got 5" in m.text]
    assert [m.parent for m in both] == [asked.id]


def test_error_in_what_follows_is_shown_in_its_cell(nb: Kernel) -> None:
    nb.ok("quick = worker.submit(int)")
    asked = nb.ok("after = quick.then(lambda value: 1 / value)")
    later = nb.ok("import concurrent.futures as cf; cf.wait([after], 20); print(after)")
    assert "failed with ZeroDivisionError" in later.stdout
    said = [m for m in [*asked.messages, *later.others] if m.kind == "stream" and "ZeroDivisionError" in m.text]
    assert said
    assert {m.parent for m in said} == {asked.id}
    assert "epyrpc" not in said[0].text


def test_registering_shows_nothing(nb: Kernel) -> None:
    assert nb.ok("worker.on('some.path', lambda: 1)").messages == []
