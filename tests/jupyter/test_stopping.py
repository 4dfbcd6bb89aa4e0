"""The interrupt button on a cell that waits for a body: what is stopped, what is said, what lives on."""

from __future__ import annotations

import time

import pytest

from tests.jupyter.kernels import Kernel, Outcome

SLOW = """
    import time
    def slow():
        print("started", flush=True)
        while True:
            time.sleep(0.01)  # on whichever thread it runs, it can be interrupted
    worker.set_handler("maths.slow", slow)
"""


def interrupt(nb: Kernel, source: str) -> Outcome:
    """Run a cell until it has printed "started", then press the interrupt button; return how it ended."""
    cell = nb.send(source)
    nb.watch(cell, until=lambda message: "started" in message.text)
    nb.manager.interrupt_kernel()
    interrupted = time.monotonic()
    outcome = nb.watch(cell)
    assert time.monotonic() - interrupted < 20
    assert outcome.error is not None
    assert outcome.error.content["ename"] == "KeyboardInterrupt"
    return outcome


@pytest.mark.parametrize(
    "source",
    [
        pytest.param("worker.call.maths.slow()", id="plain"),
        pytest.param("worker.call(timeout=60).maths.slow()", id="options"),
        pytest.param("worker.call(slow)", id="closure"),
        pytest.param("worker.submit.maths.slow().result()", id="result"),
        pytest.param("worker.submit(retry=1).maths.slow().result()", id="retry"),
        pytest.param("for part in worker.stream.maths.slow(): pass", id="stream"),
    ],
)
def test_interrupted_call_says_how_it_was_stopped_and_shows_no_frame_of_ours(nb: Kernel, source: str) -> None:
    nb.ok(SLOW)
    nb.ok("worker.push(kept=3)")
    outcome = interrupt(nb, source)
    lines = outcome.traceback.splitlines()
    assert lines[3] == f"----> 1 {source}"
    assert len(lines) == 6
    assert lines[5].startswith("KeyboardInterrupt: ")
    assert "slow (H" in lines[5]
    assert lines[5].endswith("was stopped by an interrupt; worker and its variables live on")
    assert nb.value("worker.pull('kept')") == "3"


def test_interrupt_of_a_list_of_results_stops_the_one_that_it_waits_for(nb: Kernel) -> None:
    nb.ok(SLOW)
    outcome = interrupt(nb, "ars = [worker.submit.maths.slow() for _ in range(3)]\n[ar.result() for ar in ars]")
    assert "epyrpc" not in outcome.traceback
    assert nb.value("[ar.done() for ar in ars], ars[0].cancelled(), ars[0].stopped") == (
        "([True, False, False], True, 'raised')"
    )
    nb.ok("for ar in ars: ar.cancel()")


def test_cell_that_stops_when_asked_says_so(nb: Kernel) -> None:
    outcome = interrupt(
        nb,
        """
        %%body worker
        import epyrpc
        print("started")
        while not epyrpc.current_call().cancelled:
            pass
        """,
    )
    assert outcome.traceback == "KeyboardInterrupt: the cell stopped when asked to; worker and its variables live on"


STUBBORN = """
    %%body worker{}
    import time
    kept = 1
    print("started")
    limit = time.monotonic() + {}
    while time.monotonic() < limit:
        try:
            time.sleep(60)
        except BaseException:
            pass
"""


def test_cell_that_does_not_stop_is_said_to_run_on(nb: Kernel) -> None:
    outcome = interrupt(nb, STUBBORN.format("", 6))
    assert outcome.traceback == (
        "KeyboardInterrupt: worker was told to stop the cell, which still runs; %body restart worker ends it by force"
    )
    nb.ok("%body restart worker")


def test_kill_ends_the_body_of_a_cell_that_does_not_stop_and_brings_it_back(nb: Kernel) -> None:
    nb.ok("worker.set_handler('double', lambda x: 2 * x); pid = worker.pid")
    outcome = interrupt(nb, STUBBORN.format(" --kill", 600))
    assert outcome.traceback == (
        "KeyboardInterrupt: worker was killed to stop the cell, and started again; its variables are lost"
    )
    assert nb.value("worker.call.double(4), worker.pid != pid") == "(8, True)"
    outcome = nb.run(STUBBORN.format(" --kill --timeout 1", 600))
    assert outcome.traceback == (
        "TransactionTimeout: not done within the 1 s of --timeout; worker was killed to stop the cell, and started "
        "again; its variables are lost"
    )


def test_kill_leaves_alone_the_body_of_a_cell_that_stops(nb: Kernel) -> None:
    pid = nb.value("worker.pid")
    outcome = interrupt(nb, "%%body worker --kill\nimport time\nprint('started')\ntime.sleep(60)")
    assert outcome.traceback.endswith("worker and its variables live on")
    assert nb.value("worker.pid") == pid


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("ar = worker.submit.maths.slow()\nar.cancel()\nar.result()", "CancelledError"),
        ("ar = worker.submit.maths.slow()\nar.result(timeout=0.1)", "TimeoutError"),
        ("worker.call(timeout=0.1).maths.slow()", "TransactionTimeout"),
        ("worker.call.maths.slwo()", "UnsupportedApiError"),
        ("worker.call(len)", "TypeError"),
    ],
)
def test_errors_of_a_call_show_the_users_line_and_no_frame_of_ours(nb: Kernel, source: str, error: str) -> None:
    nb.ok(SLOW)
    outcome = nb.run(source)
    assert outcome.error is not None
    assert outcome.error.content["ename"] == error
    assert "epyrpc" not in outcome.traceback
    last = source.splitlines()[-1]
    assert f" {last}" in outcome.traceback
