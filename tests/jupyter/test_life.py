"""Bodies and the life of their kernel; IPython in a terminal; a notebook run by nbclient."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import Any

import nbformat
import psutil
import pytest
from nbclient import NotebookClient

from tests.jupyter.kernels import LIMIT, kernel, plain


def runs(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has waited for does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_gone(pids: list[int], seconds: float) -> list[int]:
    """Return those of the processes that still run after some seconds."""
    limit = time.monotonic() + seconds
    while time.monotonic() < limit and any(map(runs, pids)):
        time.sleep(0.01)
    return [pid for pid in pids if runs(pid)]


TWO_BODIES = (
    "%load_ext epyrpc\n%body spawn idle\n%body spawn busy",
    "import time\nresult = busy.submit(time.sleep, 60)",
)


def test_shutdown_with_a_busy_and_an_idle_body_is_quick() -> None:
    with kernel(*TWO_BODIES) as nb:
        pids = [int(pid) for pid in nb.value("[idle.pid, busy.pid]").strip("[]").split(",")]
        began = time.monotonic()
        nb.manager.shutdown_kernel()
        assert time.monotonic() - began < 1.5
        assert wait_gone(pids, 1.0) == []


MANY_BODIES = (
    "%load_ext epyrpc\nimport time",
    "\n".join(f"%body spawn b{number}" for number in range(6)),
    """
    def tell():
        from epyrpc import head
        head.emit.hold()
    for body in (b0, b1):
        running = body.submit(time.sleep, 60)
    for body in (b2, b3):  # their handlers in the notebook do not end
        body.on("hold", lambda: time.sleep(60))
        body.call(tell)
    """,
)


def test_shutdown_with_many_bodies_does_not_add_up() -> None:
    with kernel(*MANY_BODIES) as nb:
        pids = [int(pid) for pid in nb.value("[b.pid for b in (b0, b1, b2, b3, b4, b5)]").strip("[]").split(",")]
        process = psutil.Process(nb.manager.provisioner.pid)
        began = time.monotonic()
        nb.manager.shutdown_kernel()
        assert time.monotonic() - began < 2.0  # one after the other they need longer
        assert wait_gone([*pids, process.pid], 1.0) == []


def test_two_notebooks_do_not_disturb_each_other() -> None:
    start = "%load_ext epyrpc\n%body spawn worker"
    with kernel(start) as first, kernel(start) as second:
        pid = int(second.value("worker.pid"))
        assert int(first.value("worker.pid")) != pid
        first.ok("worker.push(x=1)")
        first.ok("%body stop --all")
        first.manager.shutdown_kernel()
        assert second.value("worker.pid, worker.call(abs, -2)") == f"({pid}, 2)"
        assert second.value("worker.execute(\"'x' in globals()\")") == "False"


def test_killed_kernel_takes_its_bodies_with_it() -> None:
    with kernel(*TWO_BODIES) as nb:
        pids = [int(pid) for pid in nb.value("[idle.pid, busy.pid]").strip("[]").split(",")]
        os.kill(nb.manager.provisioner.pid, signal.SIGKILL)
        assert wait_gone(pids, 1.0) == []


def test_restarted_kernel_starts_afresh() -> None:
    with kernel("%load_ext epyrpc", "%body spawn worker") as nb:
        pid = int(nb.value("worker.pid"))
        nb.manager.restart_kernel(now=False)
        nb.client.wait_for_ready(timeout=LIMIT)
        assert wait_gone([pid], 1.0) == []
        nb.ok("%load_ext epyrpc\n%body spawn worker")
        assert nb.value("worker.call(abs, -1)") == "1"


def notebook(*cells: str) -> Any:
    """Run cells as nbclient does; return the notebook with its outputs."""
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in cells])
    return NotebookClient(made, timeout=int(LIMIT), allow_errors=True).execute()


@pytest.mark.capability("M1")
def test_closures_of_a_notebook_are_handlers_in_the_body() -> None:
    run = notebook(
        "import epyrpc, threading, math\nbody = epyrpc.spawn('body')",
        "k = 3\ndef helper(x): return x * math.floor(2.9)\nbody.set_handler('math.scale', lambda x: x * k)",
        "body.call.math.scale(2)",
        "k = 100\nbody.call.math.scale(2)",  # captured by value
        "def outer(offset):\n    return lambda x: helper(x) + offset\nbody.set_handler('math.both', outer(1))",
        "body.call.math.both(5)",
        "class Reader:\n    def __init__(self): self._lock = threading.Lock()\n\nreader = Reader()",
        "body.set_handler('reader.read', lambda: reader)",
        "body.paths()",
        "body.stop()",
    )
    values = [
        cell.outputs[0].data["text/plain"] if cell.outputs and "data" in cell.outputs[0] else "" for cell in run.cells
    ]
    assert values[2:4] == ["6", "6"]
    assert values[5] == "11"
    error = run.cells[7].outputs[0]
    assert error.ename == "CodecError"
    assert "handler → global 'reader' → _lock (_thread.lock)" in error.evalue
    assert values[8] == "['math.both', 'math.scale']"  # nothing half-made


def test_terminal_ipython_has_the_same_magics(tmp_path: Any) -> None:
    script = tmp_path / "session.ipy"
    script.write_text(
        "%load_ext epyrpc\n"
        "%body spawn worker\n"
        "def loud(x):\n    print('in the body', x)\n    return x + 1\n\n"
        "print(worker.call(loud, 1))\n"
        "get_ipython().run_cell('ar = worker.submit(abs, -7)\\nar.result()\\nar')\n"
        "get_ipython().run_cell('%%body worker\\nx = 5\\nprint(\"cell\", x)\\nx + 1')\n"
        "get_ipython().run_cell('%%body worker\\nx / 0')\n"
        "get_ipython().run_cell('worker.call(lambda: 1 / 0)')\n"
        "get_ipython().run_cell('%body swapn x')\n"
        "%body stop worker\n"
    )
    environment = {**os.environ, "TERM": "dumb"}
    command = [sys.executable, "-m", "IPython", "--simple-prompt", "--no-banner", "--no-confirm-exit", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, env=environment, check=False)
    out = plain(done.stdout)
    lines = out.splitlines()
    assert any(line.startswith("<Body worker · running · pid ") for line in lines), out + done.stderr
    assert lines[lines.index("in the body 1") + 1] == "2"
    assert any("done · abs · worker · H" in line for line in lines), out
    assert lines[lines.index("cell 5") + 1] == "6"
    assert out.count("ZeroDivisionError: division by zero") == 2
    assert "in the body:" in lines
    assert "UsageError: %body: there is no verb 'swapn'; did you mean spawn?" in done.stderr + out
    assert "worker is stopped" in lines
