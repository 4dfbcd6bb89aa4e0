"""Pools in a real kernel: ``--processes``, ``%%body`` on each body, ``%body scale``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.bodies.tools import eventually
from tests.jupyter.kernels import Kernel, kernel


@pytest.fixture(scope="module")
def empty_kernel() -> Iterator[Kernel]:
    """Start a kernel in which one pool has lived, so that the fork server is there from now on."""
    with kernel("%load_ext epyrpc", "%body spawn first --processes 1", "%body stop first") as started:
        yield started


@pytest.fixture
def crunch(nb: Kernel) -> Iterator[Kernel]:
    """Give the kernel with a pool of two bodies."""
    nb.ok("%body spawn crunch --processes 2")
    yield nb
    nb.ok("%body stop --all")


def test_spawn_binds_a_pool_and_shows_its_bodies(nb: Kernel) -> None:
    outcome = nb.ok("%body spawn crunch --processes 2")
    assert outcome.displays[0]["text/plain"].startswith("<Pool crunch · running · 2 bodies")
    assert outcome.displays[0]["text/html"].count("<tr>") == 3
    assert nb.value("sorted(crunch.map(lambda x: x * x, range(5)))") == "[0, 1, 4, 9, 16]"
    again = nb.ok("%body spawn crunch --processes 3")
    assert again.stdout.startswith("crunch lives already, 2 bodies, and is kept; %body scale crunch N")
    scaled = nb.ok("%body scale crunch 3")
    assert "3 bodies" in scaled.displays[0]["text/plain"]
    assert nb.value("len(crunch)") == "3"
    pids = nb.value("[body.pid for body in crunch]")
    nb.ok("%body restart crunch")
    assert nb.value("len(crunch)") == "3"
    assert nb.value("[body.pid for body in crunch]") != pids
    assert nb.ok("%body stop crunch").stdout == "crunch is stopped\n"
    assert nb.value("crunch.alive, len(crunch)") == "(False, 0)"


def test_a_cell_runs_on_every_body_with_its_outputs_grouped(crunch: Kernel) -> None:
    outcome = crunch.ok("""
        %%body crunch
        import epyrpc, os, time
        name = epyrpc.current_call().dispatcher.transporter.local_name
        for step in range(3):
            print(name, "step", step, flush=True)
            time.sleep(0.01)
        40 + int(name[-1])
    """)
    lines = [line for line in outcome.stdout.splitlines() if line]
    assert lines[:4] == ["[crunch_1]", *(f"crunch_1 step {n}" for n in range(3))]
    assert lines[4:] == ["[crunch_2]", *(f"crunch_2 step {n}" for n in range(3))]
    assert [d["text/plain"] for d in outcome.displays] == ["41", "42"]
    where = [m.text for m in outcome.messages if m.text.strip()]
    assert where.index("41") < next(i for i, text in enumerate(where) if "[crunch_2]" in text)


def test_push_pull_and_out(crunch: Kernel) -> None:
    crunch.ok("x = 5")
    crunch.ok("%%body crunch --push x --pull y --out calls\ny = x + 1")
    assert crunch.value("y") == "{'crunch_1': 6, 'crunch_2': 6}"
    assert crunch.value("sorted(calls)") == "['crunch_1', 'crunch_2']"
    crunch.ok("x = 7\n%body push crunch x")
    assert crunch.value("set(crunch.each.pull('x').values())") == "{7}"


def test_a_failure_names_its_bodies(crunch: Kernel) -> None:
    outcome = crunch.run("""
        %%body crunch
        import epyrpc
        if epyrpc.current_call().dispatcher.transporter.local_name == "crunch_2":
            raise ValueError("only here")
    """)
    assert outcome.status == "error"
    assert outcome.error is not None
    assert "failed in 1 of 2 bodies of crunch: crunch_2" in outcome.traceback
    assert "[crunch_2]" in outcome.stdout
    assert "only here" in outcome.stderr


def test_output_of_a_map_lands_in_its_cell_while_another_runs(crunch: Kernel) -> None:
    first = crunch.send("""
        def work(n):
            import time
            time.sleep(0.2)
            print("item", n)
            return n
        futures = [crunch.submit(work, n) for n in range(4)]
    """)
    started = crunch.watch(first)
    second = crunch.ok("print('here'); print([f.result() for f in futures])")
    assert second.stdout == "here\n[0, 1, 2, 3]\n"
    mine = "".join(m.text for m in [*started.messages, *second.others] if m.parent == first)
    assert sorted(mine.split()) == sorted(["item", "0", "item", "1", "item", "2", "item", "3"])


def test_mistakes_are_told_in_one_line(crunch: Kernel) -> None:
    for source, text in {
        "%body scale crunch none": "%body scale: 'none' must be one whole number, 1 or more",
        "%body scale worker 2": "%body scale: worker is no pool; %body spawn worker --processes N starts one",
        "%body spawn more --processes 2 --workers 3": "run one task at a time",
        "%body pull crunch x": "crunch is 2 bodies; name one of them: crunch_1, crunch_2",
    }.items():
        outcome = crunch.run(source)
        assert outcome.status == "error"
        assert text in outcome.stderr


def test_an_interrupted_map_stops_what_runs_and_the_bodies_live_on(crunch: Kernel) -> None:
    crunch.ok("import time\npids = [body.pid for body in crunch]\ncrunch.each.push(kept=1)")
    cell = crunch.send("""
        print("now", flush=True)
        list(crunch.map(time.sleep, [60] * 4))
    """)
    crunch.watch(cell, until=lambda message: message.kind == "stream" and "now" in message.text)
    crunch.manager.interrupt_kernel()
    outcome = crunch.watch(cell)
    assert outcome.status == "error"
    assert outcome.error is not None
    assert outcome.error.content["ename"] == "KeyboardInterrupt"
    assert crunch.value("sorted(crunch.map(abs, [-1, 2]))") == "[1, 2]"
    assert crunch.value("[body.pid for body in crunch] == pids, crunch[0].pull('kept')") == "(True, 1)"


def test_an_interrupted_cell_stops_on_every_body(crunch: Kernel) -> None:
    cell = crunch.send("""
        %%body crunch
        import time
        began = True
        print("now", flush=True)
        time.sleep(60)
    """)
    crunch.watch(cell, until=lambda message: message.kind == "stream" and "now" in message.text)
    crunch.manager.interrupt_kernel()
    outcome = crunch.watch(cell)
    assert outcome.status == "error"
    assert "their variables live on" in outcome.traceback
    assert crunch.value("crunch[0].pull('began')") == "True"


@pytest.mark.parametrize("now", [True, False], ids=["killed", "asked"])
def test_a_kernel_that_ends_leaves_no_body_of_a_pool(now: bool) -> None:
    """Nor does it wait for what the pool still has to do."""
    import time

    import psutil

    with kernel("%load_ext epyrpc", "%body spawn crunch --processes 2") as nb:
        nb.ok("import time\nfutures = [crunch.submit(time.sleep, 60) for _ in range(6)]")
        pids = [int(pid) for pid in nb.value("[body.pid for body in crunch]").strip("[]").split(",")]
        assert all(psutil.pid_exists(pid) for pid in pids)
        started = time.monotonic()
        nb.manager.shutdown_kernel(now=now)
        assert time.monotonic() - started < 4.5, "the kernel had to be killed"
        eventually(lambda: not any(psutil.pid_exists(pid) for pid in pids))


def test_progress_of_a_map_is_shown_live(nb: Kernel) -> None:
    shown = nb.ok("crunch = epyrpc.Pool(1)\nassert list(crunch.map(abs, range(30), progress=True)) == list(range(30))")
    (display,) = shown.displays
    assert "application/vnd.jupyter.widget-view+json" in display
    assert display["text/plain"] == f"map of abs on {nb.value('crunch.name')[1:-1]}: 30 items"
    assert "<td>30</td>" in display["text/html"]
    assert (shown.stdout, shown.stderr) == ("", "")
    nb.ok("crunch.shutdown()")


def test_without_widgets_progress_is_text_and_no_error_to_look_at(nb: Kernel) -> None:
    nb.ok("import epyrpc.jupyter.display as looks\nwidgets, looks._widgets = looks._widgets, lambda: None")
    shown = nb.ok("crunch = epyrpc.Pool(1)\nassert list(crunch.map(abs, range(30), progress=True)) == list(range(30))")
    assert "30/30" in shown.stdout
    assert shown.stderr == ""
    nb.ok("looks._widgets = widgets\ncrunch.shutdown()")


def test_the_results_of_a_map_are_shown_as_what_became_of_it(nb: Kernel) -> None:
    shown = nb.ok(
        "crunch = epyrpc.Pool(1)\nresults = crunch.map(abs, range(3))\nassert list(results) == [0, 1, 2]\nresults"
    )
    bundle = shown.displays[0]
    assert "<td>✓ done</td>" in bundle["text/html"]
    assert "<td>3/3</td>" in bundle["text/html"]
    nb.ok("crunch.shutdown()")
