"""Heads of every sort: scripts, standard input, modules, prompts; how they end, and what Ctrl-C does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.bodies.tools import LIMIT, PROCESSES, REPOSITORY, eventually, finish, head, is_alive, read_line

SCRIPT = """
import os
import epyrpc

factor = 10

def scale(x):
    return x * factor

class Reading:
    def __init__(self, value):
        self.value = value

print("main runs as", __name__)
worker = epyrpc.spawn("worker", start_method="METHOD")
worker.set_handler("maths.scale", scale)
worker.set_handler("maths.value", lambda reading: reading.value + 1)
print(worker.call.maths.scale(4), worker.call.maths.value(Reading(1)), type(worker.call(Reading, 3)).__name__)
print(worker.call(os.getpid) == worker.pid != os.getpid())
"""
OUTPUT = "main runs as __main__\n40 2 Reading\nTrue\n"


@pytest.mark.capability("S1")
@pytest.mark.parametrize("ending", ["stopped", "forgotten"])
@pytest.mark.parametrize("kind", PROCESSES)
@pytest.mark.parametrize("way", ["script", "stdin", "-c", "-m", "interactive"])
def test_bodies_need_no_guard(way: str, kind: str, ending: str, tmp_path: Path) -> None:
    code = SCRIPT.replace("METHOD", kind) + ("worker.stop()\n" if ending == "stopped" else "")
    package = tmp_path / "package"
    package.mkdir()
    for name in ("__init__.py", "module.py"):
        package.joinpath(name).write_text(code if name == "module.py" else "")
    options = {
        "script": ("-W", "error", str(package / "module.py")),
        "stdin": ("-W", "error", "-"),
        "-c": ("-W", "error", "-c", code),
        "-m": ("-W", "error", "-m", "package.module"),
        "interactive": ("-W", "error", "-q", "-i", "-c", "import sys; sys.ps1 = sys.ps2 = ''"),
    }[way]
    words = {"stdin": code, "interactive": f"exec({code!r})\n"}
    with head("", *options, cwd=tmp_path) as process:
        out, err = process.communicate(words.get(way, ""), timeout=LIMIT)
    assert (process.returncode, out, err.strip()) == (0, OUTPUT, "")


@pytest.mark.parametrize("kind", PROCESSES)
def test_bodies_in_a_terminal_ipython(kind: str, tmp_path: Path) -> None:
    code = SCRIPT.replace("METHOD", kind)
    lines = "\n".join(["%autoindent", f"exec({code!r}, globals())", "print('pid', worker.pid)", "exit()"])
    command = [sys.executable, "-m", "IPython", "--no-banner", "--no-confirm-exit", "--simple-prompt"]
    command += ["--HistoryManager.enabled=False"]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "IPYTHONDIR": str(tmp_path)}
    done = subprocess.run(
        command, input=lines + "\n", capture_output=True, text=True, timeout=LIMIT * 3, env=environment, cwd=tmp_path
    )
    assert done.stderr == ""
    assert done.returncode == 0
    for line in OUTPUT.splitlines()[1:]:
        assert line in done.stdout
    pid = int(done.stdout.rpartition("pid ")[2].split()[0])
    assert not is_alive(pid)


@pytest.mark.parametrize("kind", [*PROCESSES, "thread"])
@pytest.mark.parametrize("what", ["a call", "a stream", "an async handler", "a call of the head", "events"])
def test_head_ends_at_once_while_a_handler_runs(what: str, kind: str) -> None:
    code = f"""
        import time
        import epyrpc

        worker = epyrpc.spawn("worker", start_method={kind!r})
        worker.on("wait", lambda: time.sleep({LIMIT * 6}))

        def endless():
            from epyrpc import head
            head.emit.here()
            while True:
                time.sleep(0.01)
                yield 1

        def plain():
            for _ in endless():
                pass

        async def on_loop():
            import asyncio
            from epyrpc import head
            head.emit.here()
            await asyncio.sleep({LIMIT * 6})

        def back():
            from epyrpc import head
            head.emit.here()
            head.call.wait()

        import threading
        here = threading.Event()
        worker.on("here", here.set)
        kept = {{
            "a call": lambda: worker.submit(plain),
            "a stream": lambda: worker.stream(endless),
            "an async handler": lambda: worker.submit(on_loop),
            "a call of the head": lambda: worker.submit(back),
            "events": lambda: worker.emit(plain),
        }}[{what!r}]()
        assert here.wait(10)
        print(worker.pid)
        """
    with head(code) as process:
        pid = int(finish(process, limit=LIMIT))
    assert kind == "thread" or not is_alive(pid)


def test_error_that_ends_the_head_is_shown_alone() -> None:
    code = """
        import epyrpc
        worker = epyrpc.spawn("worker")
        worker.call(lambda: 1 / 0)
        """
    with head(code) as process:
        out, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 1
    assert out == ""
    assert err.rstrip().endswith("ZeroDivisionError: division by zero")
    assert err.count("Traceback (most recent call last)") == 2  # the remote one, and ours


def test_sys_exit_of_the_head_keeps_its_code() -> None:
    code = 'import epyrpc, sys\nworker = epyrpc.spawn("worker")\nsys.exit(worker.call(lambda: 5))'
    with head("", "-W", "error", "-c", code) as process:
        _, err = process.communicate(timeout=LIMIT)
    assert (process.returncode, err) == (5, "")


WAITS = {
    "a path": "worker.call.nap(60)",
    "a callable": "worker.call(nap, 60)",
    "with a timeout": "worker.call(timeout=60).nap(60)",
    "with retry": "worker.call(retry=2).nap(60)",
    "a result": "worker.submit.nap(60).result()",
    "a stream": "next(worker.stream.nap(60))",
    "with output": "worker.call.chatter()",
    "execute": "worker.execute('import time\\nhead.emit.here()\\nwhile True: time.sleep(0.01)')",
}


@pytest.mark.parametrize("other_waits", [False, True], ids=["alone", "beside a thread that waits"])
@pytest.mark.parametrize("wait", list(WAITS))
def test_ctrl_c_cancels_the_call_that_waits_and_nothing_else(wait: str, other_waits: bool) -> None:
    code = f"""
        import threading, time
        import epyrpc

        worker = epyrpc.spawn("worker")
        worker.execute("from epyrpc import head")
        here = threading.Semaphore(0)
        worker.on("here", here.release)

        def nap(seconds):
            head.emit.here()
            for _ in range(seconds * 100):  # only the main thread of a body can be interrupted inside a system call
                time.sleep(0.01)
            return "slept"

        def chatter():
            head.emit.here()
            while True:
                print(".", end="")
                time.sleep(0.005)

        worker.set_handler("nap", nap)
        worker.set_handler("chatter", chatter)
        worker.push(kept=41)
        pid = worker.pid
        threading.Thread(target=lambda: (here.acquire(timeout=10), print("\\nwaiting", flush=True))).start()
        answers = []
        if {other_waits}:
            thread = threading.Thread(target=lambda: answers.append(worker.call(lambda: time.sleep(0.5) or "other")))
            thread.start()
        try:
            {WAITS[wait]}
        except KeyboardInterrupt:
            print("interrupted", flush=True)
        assert worker.call(lambda: kept + 1) == 42
        if {other_waits}:
            thread.join(10)
            assert answers == ["other"]
        end = time.monotonic() + 10
        while worker._control("busy") != (0, 0):  # the call is stopped in the body, too
            assert time.monotonic() < end
            time.sleep(0.01)
        assert len(worker.transporter.transactions) == 0
        assert worker.pid == pid
        print("well", flush=True)
        worker.stop()
        """
    with head(code) as process:
        while not read_line(process).startswith("waiting"):  # dots may follow
            pass
        os.killpg(process.pid, signal.SIGINT)
        assert finish(process).replace(".", "").split() == ["interrupted", "well"]


def test_ctrl_c_many_times_under_load() -> None:
    code = """
        import os, signal, threading, time
        import epyrpc

        worker = epyrpc.spawn("worker")
        worker.set_handler("add", lambda a, b: a + b)
        main = threading.main_thread().ident
        wrong = []
        stop = threading.Event()

        def others():
            n = 0
            while not stop.is_set():
                n += 1
                if worker.call.add(n, 1) != n + 1:
                    wrong.append(n)

        thread = threading.Thread(target=others)
        thread.start()
        caught = done = 0

        def strike():
            while not stop.is_set():
                time.sleep(0.002)
                if armed:
                    signal.pthread_kill(main, signal.SIGINT)

        armed = False
        striker = threading.Thread(target=strike)
        striker.start()
        end = time.monotonic() + 3
        while time.monotonic() < end:
            try:
                armed = True
                for n in range(50):
                    if worker.call.add(n, 2) != n + 2:
                        wrong.append(n)
                    done += 1
            except KeyboardInterrupt:
                caught += 1
        while True:
            try:
                armed = False
                stop.set()
                thread.join()
                striker.join()
                break
            except KeyboardInterrupt:
                pass
        try:
            time.sleep(0.05)
        except KeyboardInterrupt:
            pass
        assert not wrong, wrong
        assert caught > 50, caught
        assert done > 100, done
        assert worker.call.add(1, 2) == 3
        worker.stop()
        print("well")
        """
    with head(code) as process:
        assert finish(process) == "well\n"


def test_interrupted_head_without_handler_ends_its_bodies() -> None:
    code = """
        import epyrpc, time
        worker = epyrpc.spawn("worker")
        print(worker.pid, flush=True)
        worker.call(lambda: (print("asleep"), time.sleep(60)))
        """
    with head(textwrap.dedent(code)) as process:
        pid = int(read_line(process))
        # An interrupt that hits a finalizer of the interpreter's own, as while it imports, is lost there.
        assert read_line(process) == "asleep"
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate(timeout=LIMIT)
    assert process.returncode == -signal.SIGINT
    assert err.rstrip().endswith("KeyboardInterrupt")
    eventually(lambda: not is_alive(pid), limit=1)


@pytest.mark.parametrize("kind", PROCESSES)
@pytest.mark.parametrize("closed", ["0", "1 2", "0 1 2"])
def test_a_service_whose_standard_streams_are_closed_has_bodies(kind: str, closed: str, tmp_path: Path) -> None:
    code = f"""
        import os

        for fd in map(int, "{closed}".split()):
            os.close(fd)
        import epyrpc

        with epyrpc.spawn("worker", start_method="{kind}") as worker:
            values = worker.call(lambda: 5), worker.call(os.getpid) == worker.pid
        with open("result", "w") as file:
            file.write(repr(values))
    """
    with head(code, cwd=tmp_path) as process:
        assert process.wait(LIMIT) == 0
    assert (tmp_path / "result").read_text() == "(5, True)"
