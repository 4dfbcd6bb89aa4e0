"""``%%body`` in a real kernel: the body as a second kernel."""

from __future__ import annotations

import time

import pytest

from tests.jupyter.kernels import Kernel, Outcome


def test_prints_stream_live_and_in_order(nb: Kernel) -> None:
    outcome = nb.ok("""
        %%body worker
        import sys, time
        for i in range(4):
            print("step", i)
            time.sleep(0.2)
        print("done", file=sys.stderr)
    """)
    assert outcome.stdout == "step 0\nstep 1\nstep 2\nstep 3\n"
    assert outcome.stderr == "done\n"
    assert len([m for m in outcome.messages if m.kind == "stream"]) >= 4
    first, *_, last = outcome.messages
    assert last.when - first.when > 0.4  # they came while it ran


def test_prints_and_displays_keep_their_order(nb: Kernel) -> None:
    outcome = nb.ok("""
        %%body worker
        for i in range(20):
            print("print", i)
            display(f"display {i}")
        print("end")
        "last"
    """)
    said = [word for m in outcome.messages for word in m.text.replace("'", "").split("\n") if word]
    assert said == [f"{kind} {i}" for i in range(20) for kind in ("print", "display")] + ["end", "last"]


def test_last_expression_is_displayed_as_in_a_notebook(nb: Kernel) -> None:
    outcome = nb.ok("""
        %%body worker
        import pandas as pd
        df = pd.DataFrame({"energy": [1.5, 2.5]})
        df
    """)
    (shown,) = outcome.displays
    assert "<th>energy</th>" in shown["text/html"]
    assert "energy" in shown["text/plain"]
    assert nb.ok("%%body worker\ndf.energy.sum()").displays == [{"text/plain": "np.float64(4.0)"}]
    assert nb.ok("%%body worker\ndf.energy.sum();").displays == []
    assert nb.ok("%%body worker\nNone").displays == []
    assert nb.ok("%%body worker\nx = 1").messages == []


def test_figures_are_shown_and_closed(nb: Kernel) -> None:
    outcome = nb.ok("""
        %%body worker
        import matplotlib.pyplot as plt
        fig, ax = plt.subplots()
        ax.plot([1, 2, 3])
        print("drawn");
    """)
    assert outcome.stdout == "drawn\n"
    (shown,) = outcome.displays
    assert len(shown["image/png"]) > 2000
    assert nb.ok("%%body worker\nlen(plt.get_fignums())").displays == [{"text/plain": "0"}]
    assert "image/png" in nb.ok("%%body worker\nfig").displays[0]


def test_displays_can_be_updated_and_cleared(nb: Kernel) -> None:
    outcome = nb.ok("""
        %%body worker
        from IPython.display import clear_output
        handle = display("first", display_id=True)
        handle.update("second")
        clear_output(wait=True)
    """)
    assert [m.kind for m in outcome.messages] == ["display_data", "update_display_data", "clear_output"]
    ids = {m.content["transient"]["display_id"] for m in outcome.messages[:2]}
    assert len(ids) == 1
    assert outcome.messages[2].content == {"wait": True}


def test_variables_are_the_bodys_own(nb: Kernel) -> None:
    nb.ok("where = 'here'")
    nb.ok("%%body worker\nwhere = 'there'\ndef twice(x): return 2 * x")
    assert nb.value("where, worker.pull('where'), worker.execute('twice(21)')") == "('here', 'there', 42)"
    assert nb.value("worker.call(lambda: where)") == "'here'"  # what travels is kept apart
    assert nb.value("worker.pull('where')") == "'there'"


def test_magics_shell_commands_and_await(nb: Kernel) -> None:
    outcome = nb.ok("""
        %%body worker
        import asyncio
        !echo from the shell
        async def slow(x):
            await asyncio.sleep(0.01)
            print("slept")
            return x
        %time await_me = slow(3)
        await await_me
    """)
    assert outcome.stdout.replace("\r", "").startswith("from the shell\nCPU times:")
    assert outcome.stdout.endswith("slept\n")
    assert outcome.displays == [{"text/plain": "3"}]


def test_error_shows_the_lines_of_the_cell(nb: Kernel) -> None:
    outcome = nb.run("""
        %%body worker
        def ratio(a, b):
            return a / b

        ratio(1, 0)
    """)
    assert outcome.status == "error"
    assert outcome.error is not None
    assert outcome.error.content["ename"] == "ZeroDivisionError"
    assert outcome.error.content["evalue"] == "division by zero"
    lines = outcome.traceback.splitlines()
    assert any(line.endswith(", line 5") and line.startswith("Cell In[") for line in lines)
    assert any(line.endswith(", line 3, in ratio(a, b)") for line in lines)
    assert "----> 3     return a / b" in lines
    assert "----> 5 ratio(1, 0)" in lines
    assert "epyrpc" not in outcome.traceback


def test_chained_errors_and_classes_of_the_body(nb: Kernel) -> None:
    outcome = nb.run("""
        %%body worker
        class BadReading(Exception):
            def __init__(self, channel, value):
                super().__init__(f"channel {channel} reads {value}")
        try:
            int("x")
        except ValueError as exc:
            raise BadReading(3, "x") from exc
    """)
    assert outcome.error is not None
    assert outcome.error.content["ename"] == "BadReading"
    assert "invalid literal for int()" in outcome.traceback
    assert "direct cause of the following exception" in outcome.traceback
    assert outcome.traceback.endswith("BadReading: channel 3 reads x")


def test_syntax_error_points_at_the_line(nb: Kernel) -> None:
    outcome = nb.run("%%body worker\nx = 1\ny = = 2")
    assert outcome.error is not None
    assert outcome.error.content["ename"] == "SyntaxError"
    assert "line 3" in outcome.traceback
    assert "y = = 2" in outcome.traceback
    assert "epyrpc" not in outcome.traceback
    assert "name 'x'" in nb.run("%body pull worker x").stderr.replace("is 'x'", "name 'x'")  # nothing of it has run


def test_exit_leaves_the_body_alive(nb: Kernel) -> None:
    outcome = nb.run("%%body worker\nx = 1\nimport sys\nsys.exit(3)")
    assert outcome.traceback == "SystemExit: 3; worker lives on"
    assert outcome.stderr == ""
    assert nb.ok("%%body worker\nx").displays == [{"text/plain": "1"}]


def test_push_and_pull_around_a_cell(nb: Kernel) -> None:
    nb.ok("data = [3, 1, 2]; factor = 10")
    nb.ok("%%body worker --push data,factor --pull scaled\nscaled = [x * factor for x in sorted(data)]")
    assert nb.value("scaled") == "[10, 20, 30]"


def test_timeout_stops_the_cell_and_keeps_the_variables(nb: Kernel) -> None:
    began = time.monotonic()
    outcome = nb.run("%%body worker --timeout 2\nkept = 5\nimport time\ntime.sleep(30)")
    assert time.monotonic() - began < 10
    assert outcome.error is not None
    assert outcome.error.content["ename"] == "TransactionTimeout"
    assert outcome.traceback == (
        "TransactionTimeout: not done within the 2 s of --timeout; the cell was stopped by an interrupt; "
        "worker and its variables live on"
    )
    assert nb.ok("%%body worker\nkept").displays == [{"text/plain": "5"}]


def interrupt(nb: Kernel, source: str) -> Outcome:
    """Run a cell until it has printed "started", then press the interrupt button; return how it ended."""
    cell = nb.send(source)
    nb.watch(cell, until=lambda message: "started" in message.text)
    nb.manager.interrupt_kernel()
    interrupted = time.monotonic()
    outcome = nb.watch(cell)
    assert time.monotonic() - interrupted < 5
    assert outcome.error is not None
    assert outcome.error.content["ename"] == "KeyboardInterrupt"
    return outcome


@pytest.mark.parametrize("work", ["time.sleep(30)", "while True: pass"], ids=["sleeping", "computing"])
def test_interrupt_stops_the_blocking_cell_and_keeps_its_variables(nb: Kernel, work: str) -> None:
    outcome = interrupt(nb, f"%%body worker\nimport time\nkept = 'kept'\nprint('started')\n{work}")
    assert outcome.traceback.startswith("KeyboardInterrupt: the cell ")
    assert outcome.traceback.endswith("; worker and its variables live on")
    assert nb.ok("%%body worker\nkept").displays == [{"text/plain": "'kept'"}]


@pytest.mark.parametrize(
    "work", ["while True: pass", "import asyncio\nawait asyncio.sleep(1000)"], ids=["busy", "awaits"]
)
def test_interrupt_touches_no_other_call(nb: Kernel, work: str) -> None:
    nb.ok("""
        import threading
        go_on = threading.Event()
        worker.on("may_i_end", lambda: go_on.wait(20))
        def other():
            from epyrpc import head
            return head.call.may_i_end()
        bystander = worker.submit(other)
    """)
    outcome = interrupt(nb, f"%%body worker\nprint('started')\n{work}")
    assert outcome.traceback.startswith("KeyboardInterrupt: the cell ")
    assert outcome.traceback.endswith("; worker and its variables live on")
    assert nb.value("go_on.set(), bystander.result(10)") == "(None, True)"


def test_async_returns_at_once_and_streams_into_its_own_cell(nb: Kernel) -> None:
    nb.ok("""
        import threading
        go = threading.Event()
        worker.on("wait_for_go", lambda: go.wait(20))
    """)
    first = nb.ok("""
        %%body worker --async --out job
        from epyrpc import head
        head.call.wait_for_go()
        print("after the wait")
        answer = 42
    """)
    assert first.messages == []
    later = nb.ok("print('later cell'); go.set(); job.result(20)")
    assert later.stdout == "later cell\n"
    late = [m for m in later.others if m.kind == "stream"]
    assert [m.text for m in late] == ["after the wait\n"]
    assert {m.parent for m in late} == {first.id}
    assert nb.value("str(job.state), worker.pull('answer')") == "('done', 42)"


def test_error_of_an_async_cell_is_written_under_it(nb: Kernel) -> None:
    first = nb.ok("%%body worker --async --out failing\n1 / 0")
    later = nb.ok("failing.exception(20); import time; time.sleep(0.3)")
    written = "".join(m.text for m in [*first.messages, *later.others] if m.kind == "stream" and m.parent == first.id)
    assert "ZeroDivisionError" in written
    outcome = nb.run("failing.result()")
    assert "----> 2" in outcome.traceback


def test_death_of_the_body_in_a_cell_is_one_message(nb: Kernel) -> None:
    outcome = nb.run("%%body worker\nimport os\nos.kill(os.getpid(), 9)")
    assert outcome.error is not None
    assert outcome.error.content["ename"] == "BodyDied"
    assert "was killed by SIGKILL while running In[" in outcome.traceback
    again = nb.run("%%body worker\n1")
    assert again.error is not None
    assert again.error.content["ename"] == "BodyDied"


def test_ipython_is_loaded_by_the_first_cell_only(nb: Kernel) -> None:
    loaded = "worker.execute(\"import sys; 'IPython' in sys.modules\")"
    assert nb.value(loaded) == "False"
    nb.ok("%%body worker\n1")
    assert nb.value(loaded) == "True"


def test_a_thread_takes_no_cells(nb: Kernel) -> None:
    nb.ok("%body spawn lodger --start-method thread")
    outcome = nb.run("%%body lodger\n1")
    assert outcome.traceback.startswith("ApiError: %%body needs a process of its own, and lodger is a thread")


def test_cells_run_at_once_on_several_workers(nb: Kernel) -> None:
    nb.ok("""
        import threading
        both = threading.Barrier(2)
        worker.on("meet", lambda: both.wait(20))
    """)
    for name in ("a", "b"):
        nb.ok(f"%%body worker -a -o job_{name}\nfrom epyrpc import head\nmet_{name} = head.call.meet()")
    nb.ok("job_a.result(20), job_b.result(20)")
    assert nb.value("sorted(worker.pull('met_a', 'met_b'))") == "[0, 1]"


def test_cell_goes_by_its_own_number(nb: Kernel) -> None:
    number = int(nb.ok("print(len(In) - 1)").stdout)
    nb.ok("%%body worker --out job\n1")
    assert nb.ok("print(job.path)").stdout.strip() == f"In[{number + 1}]"
    assert f"Cell In[{number + 3}], line 2" in nb.run("%%body worker\n1 / 0").traceback
