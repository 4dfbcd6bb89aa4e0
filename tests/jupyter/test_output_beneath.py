"""What does not come through Python's streams: C code, programs, crashes. It lands in the call's cell, in order."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from tests.jupyter.kernels import VERSIONS, Kernel, kernel, text_of


@pytest.fixture(scope="module", params=VERSIONS)
def empty_kernel(request: pytest.FixtureRequest) -> Iterator[Kernel]:
    processes_that_stay = ("%body spawn first", "%body spawn second --start-method forkserver", "%body stop --all")
    with kernel("%load_ext epyrpc", *processes_that_stay, version=request.param) as started:
        yield started


def test_c_code_and_programs_keep_their_place_among_prints(nb: Kernel) -> None:
    outcome = nb.ok("""
        def work():
            import ctypes, os, subprocess, sys
            c = ctypes.CDLL(None)
            print("python 1")
            c.puts(b"C 1")
            print("python 2")
            c.printf(b"part of a line, ")
            print("and its end")
            os.system("echo by os.system")
            print("python 3")
            subprocess.run(["echo", "a program"])
            subprocess.run("echo another; echo its error >&2", shell=True)
            print("python 4")
            sys.stdout.buffer.write("bytes ü\\n".encode())
            sys.stdout.flush()
            os.write(1, b"descriptor 1\\n")
            display("a display")
            sys.__stdout__.write("the first stdout\\n")
            subprocess.check_call(["echo", "to our stdout"], stdout=sys.stdout)
            c.printf(b"the last")
            return "value"
        worker.call(work)
    """)
    assert outcome.stdout.splitlines() == [
        "python 1", "C 1", "python 2", "part of a line, and its end", "by os.system", "python 3", "a program",
        "another", "python 4", "bytes ü", "descriptor 1", "the first stdout", "to our stdout", "the last",
    ]  # fmt: skip
    assert outcome.stderr == "its error\n"
    kinds = [m.kind for m in outcome.messages]
    before = "".join(
        m.text for m in outcome.messages[: kinds.index("display_data")] if m.content.get("name") == "stdout"
    )
    assert before.endswith("descriptor 1\n")
    assert kinds[-1] == "execute_result"


def test_a_program_is_seen_live(nb: Kernel) -> None:
    nb.ok("import threading; go = threading.Event(); worker.on('go', lambda: go.wait(30))")
    cell = nb.ok("""
        def work():
            import subprocess
            from epyrpc import head
            program = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
            program.stdin.write(b"early\\n"); program.stdin.flush()
            head.call.go()
            program.communicate(b"late\\n")
        call = worker.submit(work)
    """)
    early = nb.watch(nb.send("import time\nwhile not call.stdout: time.sleep(0.05)\nprint('seen', repr(call.stdout))"))
    assert early.stdout == "seen 'early\\n'\n"
    late = nb.ok("go.set(); call.result(30)")
    assert text_of(cell.id, cell, early, late) == "early\nlate\n"


def test_programs_of_concurrent_calls_of_five_cells_find_their_own(nb: Kernel) -> None:
    nb.ok("""
        calls = []
        def run(cell, number):
            import subprocess, sys
            word = f"{cell}.{number}"
            sys.stdout.write(f"{word} python\\n")
            subprocess.run(["sh", "-c", f"echo {word}.program; echo {word}.error >&2"])
            display(word)
    """)
    cells = [nb.ok(f"calls += [worker.submit(run, {i}, n) for n in range(4)]") for i in range(5)]
    last = nb.ok("for call in calls: call.result(60)")
    for number, cell in enumerate(cells):
        words = [f"{number}.{n}" for n in range(4)]
        said = text_of(cell.id, *cells, last).split()
        assert sorted(said) == sorted([f"{word}{kind}" for word in words for kind in ("", ".program")] + ["python"] * 4)
        errors = text_of(cell.id, *cells, last, stream="stderr")
        assert sorted(errors.splitlines()) == [f"{word}.error" for word in words]
        everything = [m for outcome in (*cells, last) for m in [*outcome.messages, *outcome.others]]
        shown = [m.text for m in everything if m.parent == cell.id and m.kind == "display_data"]
        assert sorted(shown) == [repr(word) for word in words]
    assert last.messages == []


def test_c_code_of_calls_at_once_goes_to_the_log(nb: Kernel) -> None:
    nb.ok("""
        import threading
        both = threading.Barrier(2)
        worker.on("meet", lambda: both.wait(30) and None)
        def put(word):
            import os
            from epyrpc import head
            head.call.meet()
            os.write(1, word.encode() + b"\\n")
            head.call.meet()
    """)
    outcome = nb.ok(
        "calls = [worker.submit(put, word) for word in ('one', 'two')]; [c.result(30) for c in calls]; None"
    )
    assert outcome.stdout == ""
    log = nb.ok("import time\nwhile worker.log().count('\\n') < 2: time.sleep(0.05)\n%body log worker").stdout
    assert sorted(log.splitlines()) == ["one", "two"]


def test_what_threads_and_late_programs_say_goes_to_the_log(nb: Kernel) -> None:
    nb.ok("import threading; seen = threading.Event(); worker.on('seen', lambda: seen.wait(30) and None)")
    outcome = nb.ok("""
        %%body worker --async --out call
        import subprocess, threading
        from epyrpc import head
        thread = threading.Thread(target=print, args=("from a thread",))
        thread.start(); thread.join()
        late = subprocess.Popen(["cat"], stdin=subprocess.PIPE)
        late.stdin.write(b"in time\\n"); late.stdin.flush()
        head.call.seen()
    """)
    waiting = nb.ok("import time\nwhile not call.stdout: time.sleep(0.05)\nseen.set(); call.result(30)")
    assert text_of(outcome.id, outcome, waiting) == "in time\n"
    ending = nb.ok("%%body worker\nlate.communicate(b'too late\\n');")
    assert ending.messages == []
    log = nb.ok("import time\nwhile 'too late' not in worker.log(): time.sleep(0.05)\n%body log worker").stdout
    assert log == "from a thread\ntoo late\n"


def test_logging_and_warnings_go_to_the_cells_stderr(nb: Kernel) -> None:
    nb.ok("""
        %%body worker
        import logging
        logging.basicConfig(format="%(levelname)s %(message)s")
        kept = logging.getLogger("kept")
    """)
    outcome = nb.ok("""
        def work():
            import logging, sys, warnings
            kept.warning("by basicConfig in another cell")
            print("between", file=sys.stderr)
            warnings.warn("mind the step")
            lone = logging.Logger("lone")
            lone.warning("by the last resort")
        worker.call(work)
    """)
    lines = outcome.stderr.splitlines()
    assert lines[:2] == ["WARNING by basicConfig in another cell", "between"]
    assert any(line.endswith("UserWarning: mind the step") for line in lines)
    assert lines[-1] == "by the last resort"
    assert outcome.stdout == ""


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_last_words_of_a_crash_are_in_the_error_and_the_log(nb: Kernel, method: str) -> None:
    nb.ok(f"%body spawn doomed --start-method {method}")
    outcome = nb.run("""
        def crash():
            import ctypes, os
            c = ctypes.CDLL(None)
            os.write(2, b"terminate called after throwing an instance of 'std::bad_alloc'\\n")
            c.abort()
        doomed.call(crash)
    """)
    said = outcome.traceback
    assert "was killed by SIGABRT while running crash" in said
    assert said.index("terminate called after throwing") < said.index("Fatal Python error: Aborted")
    log = nb.ok("%body log doomed").stdout
    assert "terminate called after throwing" in log
    assert "Fatal Python error: Aborted" in log


def test_forked_and_spawned_children_of_a_handler_take_nothing_away(nb: Kernel) -> None:
    outcome = nb.ok("""
        def work():
            import os
            pid = os.fork()
            if not pid:
                os.write(1, b"child\\n")
                os._exit(0)
            os.waitpid(pid, 0)
            print("parent")
        worker.call(work)
    """)
    assert outcome.stdout == "child\nparent\n"


@pytest.mark.skipif(shutil.which("yes") is None, reason="no `yes` here")
def test_a_program_that_never_stops_talking_can_be_stopped(nb: Kernel) -> None:
    outcome = nb.ok("""
        def work():
            import subprocess
            program = subprocess.Popen(["yes"])
            try:
                program.wait()
            finally:
                program.kill(); program.wait()
        call = worker.submit(work)
        import time
        while len(call.stdout) < 100_000: time.sleep(0.05)
        call.cancel()
        while call.stopped is None: time.sleep(0.05)
        print(call.stopped)
    """)
    assert outcome.stdout.endswith("raised\n")
    assert nb.value("worker.call(lambda: 'alive')") == "'alive'"


def test_scripts_pay_nothing(nb: Kernel) -> None:
    assert (
        nb.value("worker.call(lambda: __import__('epyrpc.bodies.capture').bodies.capture.active() is None)") == "False"
    )
    nb.ok("%unload_ext epyrpc")
    nb.ok("import epyrpc; plain = epyrpc.spawn('plain')")
    try:
        said = nb.value("plain.call(lambda: __import__('epyrpc.bodies.capture').bodies.capture.active() is None)")
        assert said == "True"
    finally:
        nb.ok("plain.stop()\n%load_ext epyrpc")
