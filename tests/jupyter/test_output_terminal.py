"""In a terminal's IPython there are no cells: what a call puts out is printed, as text, before its result."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap

from tests.bodies.tools import REPOSITORY

SESSION = """
%load_ext epyrpc
%body spawn worker
def work():
    import ctypes, subprocess, sys
    print("from python")
    ctypes.CDLL(None).puts(b"from C")
    subprocess.run(["echo", "from a program"])
    display({"a": 1})
    print("to stderr", file=sys.stderr)
    return "result"

worker.call(work)
print("=== then")
call = worker.submit(work); _ = call.then(lambda value: print("then", value)).result(20)
print("=== replayed")
call.show()
print("=== asked")
worker.on("ask", lambda: print("asked here") or 7);
worker.call(lambda: __import__("epyrpc").head.call.ask())
print("=== figure")
def draw():
    import matplotlib.pyplot as plt
    plt.plot([1, 2])

worker.call(draw)
%body stop worker
exit
"""


def test_a_session_in_a_terminal_prints_everything_in_order() -> None:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "MPLBACKEND": "agg"}
    command = [sys.executable, "-m", "IPython", "--simple-prompt", "--no-banner", "--no-confirm-exit"]
    done = subprocess.run(
        command,
        input=textwrap.dedent(SESSION).lstrip(),
        capture_output=True,
        text=True,
        timeout=100,
        env=environment,
        check=True,
    )
    calls, replayed, asked, figure = (
        done.stdout.split(f"=== {word}")[1] for word in ("then", "replayed", "asked", "figure")
    )
    work = ["from python", "from C", "from a program", "{'a': 1}"]
    blocking = done.stdout.split("=== then")[0]

    def places(text: str, words: list[str]) -> list[int]:
        return [text.index(word) for word in words]

    for text, words in ((blocking, [*work, "'result'"]), (calls, [*work, "then result"]), (replayed, work)):
        assert places(text, words) == sorted(places(text, words))
    assert done.stderr.count("to stderr") == 3
    assert places(asked, ["asked here", "7"]) == sorted(places(asked, ["asked here", "7"]))
    assert "worker is stopped" in figure
    assert "Traceback" not in done.stdout + done.stderr
