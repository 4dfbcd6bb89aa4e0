"""The tutorials in a real JupyterLab: run top to bottom, every output under its own cell."""

from __future__ import annotations

import configparser
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest

from tests.browser import lab


def text_of(outputs: list[dict[str, Any]]) -> str:
    """Return what outputs say, as text."""
    parts = []
    for output in outputs:
        text = output.get("text") or output.get("data", {}).get("text/plain") or output.get("evalue") or ""
        parts.append("".join(text))
    return "\n".join(parts)


def kinds(outputs: list[dict[str, Any]]) -> list[str]:
    """Return the kinds of a cell's outputs; a stream counts once, in however many pieces it came."""
    found: list[str] = []
    for output in outputs:
        kind = output["output_type"] + output.get("name", "")
        if not found or found[-1] != kind:
            found.append(kind)
    return found


@pytest.mark.browser
@pytest.mark.timeout(400)
def test_tutorials_run_from_top_to_bottom(chromium: str, repository: Path, tmp_path: Path) -> None:
    root = tmp_path / "notebooks"
    root.mkdir()
    files = sorted((repository / "notebooks").glob("*.ipynb"))
    for file in files:
        shutil.copy(file, root)
    (tmp_path / "private").mkdir()
    with (
        lab.server(root, tmp_path / "private") as url,
        lab.browser(chromium, url, tmp_path / "profile", height=6000) as page,
    ):
        for file in files:
            page.open(file.stem)
            page.clear()
            assert not any(page.outputs())
            page.run_all()
            compare(nbformat.read(file, as_version=4).cells, page.outputs(), sanitizer(repository))
            if file.stem == "01-first-body":
                look_at_first(page)
            page.shut_down()
            assert page.complaints == [], file.stem


def sanitizer(repository: Path) -> Callable[[str], str]:
    """Return what takes out of a text what differs from run to run, as nbval does."""
    rules = configparser.ConfigParser(interpolation=None)
    rules.read(repository / "tests" / "sanitize.cfg", encoding="utf-8")

    def clean(text: str) -> str:
        for name in rules.sections():
            text = re.sub(rules[name]["regex"], rules[name]["replace"], text)
        return text

    return clean


def compare(saved: list[Any], shown: list[list[dict[str, Any]] | None], clean: Callable[[str], str]) -> None:
    """Compare what is shown with what was saved: the kinds of outputs of every cell, and their numbers."""
    assert len(shown) == len(saved)
    for cell, outputs in zip(saved, shown, strict=True):
        goes_on = "--async" in cell.source or ".submit." in cell.source
        if cell.cell_type != "code" or (goes_on and not cell.outputs):  # what comes after the cell's end is not saved
            continue
        assert kinds(outputs or []) == kinds(cell.outputs), cell.source
        numbers = [word for word in clean(text_of(cell.outputs)).split() if word[:1].isdigit() and "." in word[1:-1]]
        assert [word for word in numbers if word not in clean(text_of(outputs or []))] == [], cell.source


def look_at_first(page: lab.Page) -> None:
    """Look at what one sees: the card under the first cell, the handler's lines under the cell that called it."""
    from playwright.sync_api import expect

    cells = page.page.locator(".jp-Notebook .jp-Cell")
    card = cells.nth(1).locator(".epy-body")
    expect(card).to_contain_text("worker")
    expect(card).to_contain_text("stopped", timeout=30_000)  # as the last cell left it; told some times a second
    shown = page.outputs()
    printing = next(i for i, outputs in enumerate(shown) if outputs and "resamples:" in text_of(outputs))
    assert "4000 resamples:" in cells.nth(printing).locator(".jp-OutputArea").inner_text()
