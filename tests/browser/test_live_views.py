"""Live views in a real JupyterLab, in its dark theme: rows change by themselves, buttons do what they say."""

from __future__ import annotations

from pathlib import Path

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
        expect(rows.nth(4)).to_contain_text("the notebook is busy: press ■ to interrupt the cell")
        page.stop()
        page.wait_until_idle()
        wait_for_states(page, "done", "cancelled", "cancelled", "done", "cancelled")

        page.run(7)
        wait_for_states(page, "done", "cancelled", "cancelled", "done", "cancelled", "failed")
        rows.nth(5).locator(".epy-head").press("Enter")  # by keyboard
        expect(rows.nth(5).locator(".epy-marked")).to_contain_text("1 / 0")
        keep_picture(page, repository, "calls-ended-dark")
        page_colour, ink = page.page.evaluate(
            "() => { const s = getComputedStyle(document.querySelector('.epy')); return [s.backgroundColor, s.color]; }"
        )
        page.shut_down()
        complaints = page.complaints
    assert complaints == []
    assert _lightness(page_colour) < 0.2 < 0.7 < _lightness(ink)


def _lightness(colour: str) -> float:
    """Return how light a CSS colour is, roughly, from 0 to 1."""
    numbers = [float(word) for word in colour.partition("(")[2].rstrip(")").replace(",", " ").split()[:3]]
    return sum(numbers) / 3 / 255
