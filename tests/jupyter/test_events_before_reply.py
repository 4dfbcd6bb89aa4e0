"""What a call's handler has told the notebook is handled when the call returns."""

from __future__ import annotations

import pytest

from tests.jupyter.kernels import Kernel

TELL = """
import time
heard = []

@worker.on("step")
def step(n):
    time.sleep(0.002)
    heard.append(n)

@worker.handler("tell")
def tell(count):
    from epyrpc import head
    for n in range(count):
        head.emit.step(n)
"""


@pytest.mark.parametrize("how", ["worker.call.tell(100)", "worker.submit.tell(100).result()"])
def test_events_of_a_call_are_handled_before_it_returns(nb: Kernel, how: str) -> None:
    nb.ok(TELL)
    assert nb.ok(f"{how}; print(heard == list(range(100)))").stdout == "True\n"


def test_a_cell_of_a_body_too(nb: Kernel) -> None:
    nb.ok(TELL)
    nb.ok("%%body worker\nfrom epyrpc import head\nfor n in range(100):\n    head.emit.step(n)")
    assert nb.ok("print(heard == list(range(100)))").stdout == "True\n"


def test_event_handler_that_is_stuck_is_not_waited_for(nb: Kernel) -> None:
    nb.ok("""
        import threading, time
        gate = threading.Event()
        worker.on("stuck", lambda: gate.wait(60))
    """)
    shown = nb.ok("""
        def tell():
            from epyrpc import head
            head.emit.stuck()
        start = time.monotonic()
        worker.call(tell)
        took = time.monotonic() - start
        gate.set()
        print(took < 5, took)
    """)
    assert shown.stdout.startswith("True"), shown.stdout
