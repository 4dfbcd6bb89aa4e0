"""Live views in a real JupyterLab, in its dark theme: rows change by themselves, buttons do what they say."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest

from tests.browser import lab

HANDLER = """
def hold(name):
    import time, epyrpc
    print('holding', name)
    while name not in released:
        epyrpc.current_call().check()
        time.sleep(0.01)
    return name.upper()
worker.push(released=set())
worker.set_handler('gate.hold', hold)
"""
CELLS = [
    "%load_ext epyrpc\n%body spawn worker --workers 1",
    HANDLER,
    "first = worker.submit.gate.hold('a')\nfirst",
    "second = worker.submit.gate.hold('b')\nsecond",
    "first",
    "worker.push(released={'a'})",
    "third = worker.submit.gate.hold('c')\ndisplay(third)\nthird.result()",
    "worker.submit(lambda: 1 / 0)",
]
# What the kernel's own thread for views spends while 10,000 calls are made, beside what the calls take.
LOOP = """
import threading, time
half = worker.call.maths.half
views = next(t for t in threading.enumerate() if t.name == 'epyrpc-widgets')
spent = lambda: time.clock_gettime(time.pthread_getcpuclockid(views.ident))
before, began = spent(), time.monotonic()
for n in range(10_000): half(n)
took = time.monotonic() - began
print(f'kernel: 10,000 calls in {took:.2f} s, of which the views took {spent() - before:.2f} s of processor time')
"""
MONITOR_CELLS = [
    "%load_ext epyrpc\n%body spawn worker",
    "worker.set_handler('maths.half', lambda x: x / 2)\nworker.set_handler('maths.fail', lambda: 1 / 0)",
    "%transactions",
    "worker.call.maths.half(4)\nworker.submit.maths.fail().exception()",
    LOOP,
    "%transactions",
]
MAP_CELLS = [
    "import epyrpc, time\n%load_ext epyrpc\n%body spawn crunch --processes 2",
    "list(crunch.map(lambda n: time.sleep(0.3), range(20), progress=True))",
    "total = sum(crunch.map(abs, range(1000), progress=True))",
    "crunch.submit(time.sleep, 600)",
]
GATHERED = "import epyrpc\nepyrpc.gather(worker.submit.gate.hold('a') for _ in range(3))"
STATES = ".epy-call > .epy-row .epy-state"


def make_notebook(folder: Path, name: str, cells: list[str]) -> None:
    """Write a notebook."""
    folder.mkdir(exist_ok=True)
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(source) for source in cells], metadata={"kernelspec": kernel}
    )
    nbformat.write(notebook, folder / f"{name}.ipynb")


def wait_for_states(page: lab.Page, *states: str) -> None:
    """Wait until the rows of the page say so."""
    from playwright.sync_api import expect

    expect(page.page.locator(STATES)).to_have_text(list(states), timeout=30_000)


def keep_picture(page: lab.Page, repository: Path, name: str) -> None:
    """Save what one sees, for people to look at."""
    folder = repository / "build" / "screenshots"
    folder.mkdir(parents=True, exist_ok=True)
    page.page.screenshot(path=str(folder / f"{name}.png"))


@pytest.mark.browser
@pytest.mark.timeout(400)
@pytest.mark.capability("M3", "M7")
def test_rows_of_calls(chromium: str, repository: Path, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    make_notebook(tmp_path / "notebooks", "calls", CELLS)
    (tmp_path / "private").mkdir()
    with (
        lab.server(tmp_path / "notebooks", tmp_path / "private", theme="JupyterLab Dark") as url,
        lab.browser(chromium, url, tmp_path / "profile", height=3000) as page,
    ):
        page.open("calls")
        for index in range(5):
            page.run(index)
        wait_for_states(page, "running", "pending", "running")
        page.run(5)  # a cell that shows nothing: the rows change by themselves
        wait_for_states(page, "done", "running", "done")
        rows = page.page.locator(".epy-call")
        expect(rows.nth(0)).to_contain_text("→ 'A'")
        rows.nth(1).locator(".epy-head").click()
        expect(rows.nth(1).locator(".epy-output")).to_have_text("holding b\n")
        keep_picture(page, repository, "calls-dark")

        page.page.evaluate("async () => await window.jupyterapp.commands.execute('docmanager:save')")
        page.open("calls")  # loaded again: the kernel goes on, and so do the rows
        wait_for_states(page, "done", "running", "done")
        rows.nth(1).get_by_role("button", name="Cancel").click()
        wait_for_states(page, "done", "cancelled", "done")
        rows.nth(1).get_by_role("button", name="Retry").click()
        wait_for_states(page, "done", "cancelled", "running", "done")
        rows.nth(2).get_by_role("button", name="Cancel").click()
        wait_for_states(page, "done", "cancelled", "cancelled", "done")

        page.start(6)  # a cell that blocks: the notebook hears no button, and the row says so
        wait_for_states(page, "done", "cancelled", "cancelled", "done", "running")
        rows.nth(4).get_by_role("button", name="Cancel").click()
        # Some kernels hear a button while a cell blocks, beside it.
        expect(rows.nth(4)).to_contain_text(re.compile("notebook is busy: press ■ to interrupt the cell|cancelled"))
        page.stop()
        page.wait_until_idle()
        wait_for_states(page, "done", "cancelled", "cancelled", "done", "cancelled")

        page.run(7)
        wait_for_states(page, "done", "cancelled", "cancelled", "done", "cancelled", "failed")
        rows.nth(5).locator(".epy-head").press("Enter")  # by keyboard
        expect(rows.nth(5).locator(".epy-marked")).to_contain_text("1 / 0")
        keep_picture(page, repository, "calls-ended-dark")
        assert page.complaints == []
        page_colour, ink = page.page.evaluate(
            "() => { const s = getComputedStyle(document.querySelector('.epy')); return [s.backgroundColor, s.color]; }"
        )
        page.page.evaluate(
            "async () => await window.jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()"
        )
        still = page.page.locator(".jp-OutputArea-output table")
        for loaded in (False, True):  # the last state stays, in the saved notebook too, and says as of when it is
            expect(page.page.locator(".epy")).to_have_count(0)
            expect(still).to_have_count(6)
            for place, words in ((1, "✓ done"), (2, "⊘ cancelled"), (5, "ZeroDivisionError: division by zero")):
                expect(still.nth(place)).to_contain_text(words)
                expect(still.nth(place).locator("xpath=following-sibling::p")).to_contain_text(
                    "kernel gone · state as of"
                )
            if not loaded:
                page.page.evaluate("async () => await window.jupyterapp.commands.execute('docmanager:save')")
                keep_picture(page, repository, "calls-kernel-gone-dark")
                page.open("calls")
        assert "model not found" not in page.page.locator(".jp-Notebook").inner_text()
        page.shut_down()
        complaints = [text for text in page.complaints if "debug" not in text]  # Lab's own, at a restart
    assert complaints == []
    assert _lightness(page_colour) < 0.2 < 0.7 < _lightness(ink)


@pytest.mark.browser
@pytest.mark.timeout(400)
@pytest.mark.capability("M7")
def test_a_map_and_a_task_and_a_kernel_that_is_shut_down(chromium: str, repository: Path, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    make_notebook(tmp_path / "notebooks", "maps", MAP_CELLS)
    (tmp_path / "private").mkdir()
    with (
        lab.server(tmp_path / "notebooks", tmp_path / "private") as url,
        lab.browser(chromium, url, tmp_path / "profile", height=2000) as page,
    ):
        page.open("maps")
        page.run(0)
        page.start(1)  # a cell that blocks until the last result: the bar moves all the same
        bar = page.page.locator(".epy-map").first
        expect(bar.locator(".epy-of")).to_have_text(re.compile("^([2-9]|1[0-9])/20$"), timeout=30_000)
        bar.locator(".epy-listhead").click()
        expect(bar.locator(".epy-mapline").nth(1)).to_contain_text("item")
        keep_picture(page, repository, "map-light")
        bar.get_by_role("button", name="Cancel, ").click()
        expect(bar).to_contain_text(re.compile("press ■ to interrupt the cell|cancelled"))  # some kernels hear it
        page.stop()
        page.wait_until_idle()
        expect(bar.locator(".epy-listtop")).to_have_attribute("data-state", "cancelled")

        page.run(2)
        second = page.page.locator(".epy-map").nth(1)
        expect(second.locator(".epy-of")).to_have_text("1,000/1,000")
        expect(second.locator(".epy-listtop")).to_have_attribute("data-state", "done")
        page.run(3)
        wait_for_states(page, "running")
        page.page.locator(".epy-call").get_by_role("button", name="Cancel").click()
        wait_for_states(page, "cancelled")
        assert page.complaints == []
        page.page.evaluate("async () => await jupyterapp.shell.currentWidget.sessionContext.shutdown()")
        expect(page.page.locator(".epy")).to_have_count(0)  # not restarted: gone, which only the session tells
        still = page.page.locator(".jp-OutputArea-output table")
        expect(still.last).to_contain_text("⊘ cancelled")
        expect(page.page.locator(".jp-Notebook")).to_contain_text("1,000/1,000")


@pytest.mark.browser
@pytest.mark.timeout(400)
@pytest.mark.capability("M7")
def test_the_monitor_in_lab_and_rows_in_notebook_7(chromium: str, repository: Path, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    make_notebook(tmp_path / "notebooks", "monitor", MONITOR_CELLS)
    make_notebook(tmp_path / "notebooks", "seven", [*CELLS[:3], "worker.push(released={'a'})", GATHERED])
    (tmp_path / "private").mkdir()
    with (
        lab.server(tmp_path / "notebooks", tmp_path / "private") as url,
        lab.browser(chromium, url, tmp_path / "profile", height=2600) as page,
    ):
        page.open("monitor")
        for index in range(3):
            page.run(index)
        monitor = page.page.locator(".epy-monitor").first
        expect(monitor.locator(".epy-empty")).to_contain_text("No transactions yet")
        page.run(3)
        expect(counter(monitor, "failed")).to_have_text("1failed")
        page.run(4)
        expect(counter(monitor, "done")).to_have_text("10,001done", timeout=30_000)
        (cost,) = [output["text"] for output in page.outputs()[4] or [] if output["output_type"] == "stream"]
        print(cost)  # noqa: T201 - measured, for whoever runs the tests
        expect(monitor).to_have_attribute("data-rows", "10002", timeout=30_000)
        times = sorted(monitor.evaluate("node => node.frameTimes()"))
        median, most = times[len(times) // 2], times[len(times) * 95 // 100]
        said = f"frames: {len(times)}, median {median:.1f} ms, 95 % under {most:.1f} ms, longest {times[-1]:.1f} ms"
        print(said)  # noqa: T201 - measured, for whoever runs the tests
        assert median < 100

        counter(monitor, "failed").click()
        row = monitor.locator(".epy-item:visible")
        expect(row).to_have_count(1)
        expect(row).to_contain_text("maths.fail")
        row.click()
        expect(monitor.locator(".epy-side")).to_contain_text("ZeroDivisionError: division by zero")
        keep_picture(page, repository, "monitor-light")
        with page.page.expect_download() as download:
            monitor.get_by_label("Export").select_option("trace")
        events = json.loads(Path(download.value.path()).read_text())["traceEvents"]
        assert {event["name"] for event in events if event["ph"] == "X"} == {"maths.half", "maths.fail"}
        with page.page.expect_download() as download:
            monitor.get_by_label("Export").select_option("csv")
        assert len(Path(download.value.path()).read_text().splitlines()) == 10_003

        page.run(5)  # a second view, which starts from what the kernel has
        second = page.page.locator(".epy-monitor").nth(1)
        expect(counter(second, "done")).to_have_text("10,001done")
        monitor.get_by_role("button", name="Clear", exact=True).click()
        for view in (monitor, second):
            expect(counter(view, "done")).to_have_text("0done")
            expect(view.locator(".epy-empty")).to_contain_text("No transactions yet")
        page.shut_down()
        assert page.complaints == []

        page.open_in_notebook("seven")  # which complains of its own settings
        for index in range(3):
            page.run(index)
        wait_for_states(page, "running")
        page.run(3)
        wait_for_states(page, "done")
        page.run(4)
        gathered = page.page.locator(".epy-list")
        expect(gathered.locator(".epy-of")).to_have_text("3/3")
        expect(gathered.locator(".epy-state")).to_have_text(["done", "done", "done"])
        page.shut_down()
        complaints = [text for text in page.complaints if "widget" in text.lower() or "epy" in text]
    assert complaints == []


def counter(monitor: Any, state: str) -> Any:
    """Return the counter of a state."""
    return monitor.locator(f'.epy-counter[data-state="{state}"]')


def _lightness(colour: str) -> float:
    """Return how light a CSS colour is, roughly, from 0 to 1."""
    numbers = [float(word) for word in colour.partition("(")[2].rstrip(")").replace(",", " ").split()[:3]]
    return sum(numbers) / 3 / 255
