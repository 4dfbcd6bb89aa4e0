"""The verbs of ``%body`` in a real kernel."""

from __future__ import annotations

import psutil
import pytest

from epyrpc.jupyter.commands import VERBS
from tests.jupyter.kernels import Kernel


def usage_error(nb: Kernel, source: str) -> str:
    """Run a cell that must fail with a UsageError; return its text."""
    outcome = nb.run(source)
    assert outcome.status == "error"
    assert outcome.error is None, outcome.traceback  # no traceback
    assert outcome.stderr.startswith("UsageError: ")
    assert outcome.stderr.count("\n") == 1
    return outcome.stderr.removeprefix("UsageError: ").rstrip("\n")


@pytest.mark.capability("M2")
def test_spawn_starts_processes_and_stop_ends_them(nb: Kernel) -> None:
    kernel = psutil.Process(nb.manager.provisioner.pid)
    before = {p.pid for p in kernel.children(recursive=True)}
    outcome = nb.ok("%body spawn a\n%body spawn b")
    assert len(outcome.displays) == 2
    new = {p.pid for p in kernel.children(recursive=True)} - before
    assert nb.value("sorted([a.pid, b.pid])") == str(sorted(new))
    assert len(new) == 2
    assert nb.ok("%body stop a b").stdout == "a is stopped\nb is stopped\n"
    assert not any(psutil.pid_exists(pid) for pid in new)
    assert {p.pid for p in kernel.children(recursive=True)} == before


def test_spawn_binds_the_name_and_shows_the_body(nb: Kernel) -> None:
    outcome = nb.ok("%body spawn fresh --workers 2 --start-method thread")
    assert outcome.displays[0]["text/plain"].startswith("<Body fresh · running · a thread · 2 handler threads")
    assert "<th>Body</th>" in outcome.displays[0]["text/html"]
    assert nb.value("fresh.name, fresh.workers, fresh.start_method") == "('fresh', 2, 'thread')"


def test_spawn_again_keeps_a_living_body_and_says_so(nb: Kernel) -> None:
    pid = nb.value("worker.pid")
    outcome = nb.ok("%body spawn worker")
    assert outcome.stdout.startswith("worker lives already and is kept; --restart starts it again")
    assert len(outcome.displays) == 1
    assert nb.value("worker.pid") == pid


@pytest.mark.parametrize(
    "end", ["os.kill(worker.pid, 9)", "worker.stop()", "None"], ids=["killed", "stopped", "living"]
)
def test_spawn_restart_brings_back_a_body_with_its_handlers(nb: Kernel, end: str) -> None:
    nb.ok(
        "import os, epyrpc; worker.set_handler('maths.double', lambda x: 2 * x); worker.push(kept=1); pid = worker.pid"
    )
    nb.ok(f"""
        {end}
        if {end!r}.startswith("os"):
            try: worker.call(len, "abc")
            except epyrpc.BodyDied: pass
    """)
    outcome = nb.ok("%body spawn worker --restart")
    assert outcome.stdout == "worker was started again with its 1 handler; its variables are new\n"
    assert nb.value("worker.call.maths.double(21), worker.pid != pid, worker.alive") == "(42, True, True)"
    assert "name to pull is 'kept'" in usage_error(nb, "%body pull worker kept")


def test_spawn_of_a_dead_name_makes_a_new_body_and_tells_what_is_lost(nb: Kernel) -> None:
    nb.ok("""
        %body spawn gone
        gone.set_handler("a.b", abs)
        import os, time
        os.kill(gone.pid, 9)
        while gone.alive: time.sleep(0.01)
    """)
    outcome = nb.ok("%body spawn gone")
    assert outcome.stdout == ("gone had died; this is a new one. --restart would have brought back its 1 handler too\n")
    assert nb.value("gone.paths()") == "[]"


def test_list_shows_every_body(nb: Kernel) -> None:
    nb.ok("%body spawn second --workers 1")
    for line in ("%body list", "%body"):
        shown = nb.ok(line).displays[0]
        lines = shown["text/plain"].splitlines()
        assert [line.split(" · ")[:2] for line in lines] == [["second", "running"], ["worker", "running"]]
        assert shown["text/html"].count("<tr>") == 3


def test_restart_loses_variables_and_keeps_handlers(nb: Kernel) -> None:
    nb.ok("worker.set_handler('h', lambda: 7); worker.push(x=1)")
    outcome = nb.ok("%body restart worker")
    assert outcome.stdout == "worker was started again with its 1 handler; its variables are new\n"
    assert nb.value("worker.call.h()") == "7"


def test_interrupt_ends_what_runs_and_says_how_much(nb: Kernel) -> None:
    assert nb.ok("%body interrupt worker").stdout == "worker runs nothing now\n"
    nb.ok("""
        import time, threading
        began = threading.Event()
        worker.on("began", began.set)
        def wait_long():
            from epyrpc import head
            head.emit.began()
            time.sleep(30)
        running = worker.submit(wait_long)
        assert began.wait(10)
    """)
    assert nb.ok("%body interrupt worker").stdout == "worker: 1 call interrupted\n"
    assert nb.value("type(running.exception(10)).__name__") == "'KeyboardInterrupt'"


def test_push_and_pull_copy_variables(nb: Kernel) -> None:
    nb.ok("xs = [1, 2]; factor = 3")
    nb.ok("%body push worker xs factor")
    nb.ok("worker.execute('ys = [x * factor for x in xs]; n = len(ys)')")
    nb.ok("%body pull worker ys n")
    assert nb.value("ys, n") == "([3, 6], 2)"
    nb.ok("%body pull worker ys")
    assert nb.value("ys") == "[3, 6]"


def test_log_prints_what_no_call_wrote(nb: Kernel) -> None:
    nb.ok("""
        import os, time
        worker.call(lambda: os.write(2, b"from the depths\\n"))
        limit = time.monotonic() + 10
        while "depths" not in worker.log() and time.monotonic() < limit: time.sleep(0.01)
    """)
    assert "from the depths\n" in nb.ok("%body log worker").stdout


def test_stop_all(nb: Kernel) -> None:
    nb.ok("%body spawn second")
    assert nb.ok("%body stop --all").stdout == "worker is stopped\nsecond is stopped\n"
    assert nb.ok("%body stop --all").stdout == "there is no body to be stopped\n"
    assert nb.ok("%body list").displays[0]["text/plain"] == "no bodies: %body spawn NAME starts one"


def test_help_is_one_line(nb: Kernel) -> None:
    whole = nb.ok("%body --help").stdout
    assert whole.count("\n") == 1
    assert whole.startswith("%body " + "|".join(VERBS) + " …")
    assert nb.ok("%body push --help").stdout.startswith("%body push NAME x y…   copy variables")
    assert nb.ok("%%body --help\n1").stdout.startswith("%%body NAME [--timeout S]")


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("%body swapn worker", "%body: there is no verb 'swapn'; did you mean spawn?"),
        ("%body spawn", "%body spawn: NAME is missing."),
        ("%body spawn 3x", "name is '3x', but must be a Python identifier"),
        ("%body spawn class", "name is 'class', but must be a Python identifier"),
        (
            "%%body worker\n%body list",
            "%body belongs to the notebook: give it a cell of its own, without %%body on top",
        ),
        ("%body spawn a --workers 5000", "workers is 5000, but must be a whole number from 1 to 1024"),
        ("%body stop wroker", "there is no body 'wroker'; did you mean worker?"),
        ("%body log worker2", "there is no body 'worker2'; did you mean worker?"),
        ("%body push worker no_such_variable", "the notebook has no variable 'no_such_variable'"),
        (
            "%body pull worker no_such_variable",
            "name to pull is 'no_such_variable', but must be a variable of the body",
        ),
        ("import threading; locked = threading.Lock()\n%body push worker locked", "cannot send"),
        ("%%body wroker\n1", "there is no body 'wroker'; did you mean worker?"),
        ("%%body\n1", "%%body: NAME is missing."),
        ("%%body worker --out 1x\n1", "%%body: --out is '1x', but must be a variable's name"),
        ("%%body worker --async --pull x\n1", "%%body: --async does not wait, so there is nothing to --pull yet"),
        ("%%body worker --push nothing_here\n1", "the notebook has no variable 'nothing_here'"),
    ],
)
def test_a_mistake_is_one_line_without_a_traceback(nb: Kernel, source: str, text: str) -> None:
    assert text in usage_error(nb, source)


def test_a_mistake_starts_no_process(nb: Kernel) -> None:
    kernel = psutil.Process(nb.manager.provisioner.pid)
    before = {p.pid for p in kernel.children(recursive=True)}
    for line in ("%body spawn x --qqq", "%body spawn x y", "%body spawn x --workers none", "%body spawn x.y"):
        usage_error(nb, line)
    assert {p.pid for p in kernel.children(recursive=True)} == before


def test_verbs_with_a_stopped_body_say_so(nb: Kernel) -> None:
    nb.ok("%body spawn other\nother.stop()\nx = 1")
    outcome = nb.run("%body push other x")
    assert outcome.traceback == "BodyLost: body 'other' is stopped; other.restart() starts it again"
    nb.ok("%body stop other")  # harmless


def test_tab_completes(nb: Kernel) -> None:
    nb.ok("worker.push(lonely_variable=1); my_variable = 2")
    for typed, whole in [
        ("%bod", "%body"),
        ("%body sp", "%body spawn"),
        ("%body stop wo", "%body stop worker"),
        ("%body spawn w --work", "%body spawn w --workers"),
        ("%body push worker my_v", "%body push worker my_variable"),
        ("%body pull worker lone", "%body pull worker lonely_variable"),
        ("%%body wo", "%%body worker"),
        ("%%body worker --ti", "%%body worker --timeout"),
        ("%%body worker\nimpor", "%%body worker\nimport"),
    ]:
        assert whole in nb.complete(typed), typed


def test_tab_completes_paths_of_handlers(nb: Kernel) -> None:
    nb.ok("worker.set_handler('maths.scale', abs); worker.set_handler('maths.shift', abs)")
    assert nb.complete("worker.call.ma") == ["worker.call.maths"]
    assert nb.complete("worker.call.maths.s") == ["worker.call.maths.scale", "worker.call.maths.shift"]
    assert nb.complete("worker.api.ma") == ["worker.api.maths"]


def test_api_shows_the_tree(nb: Kernel) -> None:
    assert nb.ok("worker.api").displays[0]["text/plain"].startswith("worker handles nothing yet")
    nb.ok("""
        @worker.handler("maths.scale")
        def scale(x, factor=2):
            "Scale a number."
            return x * factor
        worker.set_handler("log", abs)
    """)
    origin = f"v1 · In[{nb.value('len(In) - 2')}]"
    assert nb.ok("worker.api").displays[0]["text/plain"].splitlines() == [
        "worker",
        f"├─ log(x, /)               {'v1':<{len(origin)}}   Return the absolute value of the argument.",
        "└─ maths",
        f"   └─ scale(x, factor=2)   {origin}   Scale a number.",
    ]


def test_loading_twice_reloading_and_unloading(nb: Kernel) -> None:
    pid = nb.value("worker.pid")
    assert "already loaded" in nb.ok("%load_ext epyrpc").stdout
    nb.ok("%reload_ext epyrpc")
    assert nb.value("worker.pid, worker.call(abs, -1)") == f"({pid}, 1)"
    assert nb.complete("%body sp") == ["%body spawn"]
    nb.ok("%unload_ext epyrpc")
    assert "Line magic function `%body` not found" in nb.run("%body list").stderr
    assert nb.value("worker.pid, worker.call(abs, -2)") == f"({pid}, 2)"
    assert "AsyncResult" in nb.ok("worker.submit(abs, -1)").displays[0]["text/plain"]
    nb.ok("%load_ext epyrpc")
    assert nb.ok("%body spawn worker").stdout.startswith("worker lives already")


def test_a_body_says_which_variable_it_takes(nb: Kernel) -> None:
    nb.ok("table = [1, 2]")
    outcome = nb.ok("%body spawn table")
    assert outcome.stdout == "the variable table held a list; it is the body from now on\n"
    assert nb.ok("%body spawn sum").stdout.startswith(
        "the variable sum hides Python's own sum in this notebook; del sum"
    )
    nb.ok("%body stop table sum\ndel sum")
    assert nb.ok("%body spawn fresh").stdout == ""


def test_help_is_a_word_too(nb: Kernel) -> None:
    assert nb.ok("%body help").stdout == nb.ok("%body --help").stdout
    assert nb.ok("%body help push").stdout == nb.ok("%body push --help").stdout
    assert "%%body NAME" in nb.ok("%%body help\nx").stdout


def test_a_result_that_cannot_travel_is_shown_without_the_machinery(nb: Kernel) -> None:
    outcome = nb.run("import threading\nworker.call(lambda: threading.Lock())")
    assert "CodecError: cannot send result" in outcome.traceback
    assert "in the body:" not in outcome.traceback
    assert "/epyrpc/" not in outcome.traceback


def test_an_error_of_the_notebook_is_shown_in_the_body_without_the_machinery(nb: Kernel) -> None:
    nb.ok("def rate(): return 1 / 0\nworker.on('ask.rate', rate)")
    outcome = nb.run("%%body worker\nfrom epyrpc import head\nhead.call.ask.rate(3)")
    assert "----> 3 head.call.ask.rate(3)" in outcome.traceback
    assert "/epyrpc/" not in outcome.traceback
    assert outcome.traceback.count("Traceback (most recent call last)") == 1
    outcome = nb.run("%%body worker\nhead.call.ask.rate()")
    assert "in the notebook:" in outcome.traceback
    assert "1 / 0" in outcome.traceback
    assert "/epyrpc/" not in outcome.traceback
