"""The first tutorial in a real JupyterLab: run top to bottom, every output under its own cell."""

from __future__ import annotations

import shutil
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
def test_first_tutorial_runs_from_top_to_bottom(chromium: str, repository: Path, tmp_path: Path) -> None:
    root = tmp_path / "notebooks"
    root.mkdir()
    saved_file = repository / "notebooks" / "01-first-body.ipynb"
    shutil.copy(saved_file, root)
    (tmp_path / "private").mkdir()
    with (
        lab.server(root, tmp_path / "private") as url,
        lab.browser(chromium, url, tmp_path / "profile", height=6000) as page,
    ):
        page.open("01-first-body")
        page.clear()
        assert not any(page.outputs())
        page.run_all()
        shown = page.outputs()
        # What one sees: the card under the first cell, the handler's lines under the cell that called it.
        cells = page.page.locator(".jp-Notebook .jp-Cell")
        assert "running" in cells.nth(1).locator(".jp-OutputArea table").inner_text()
        printing = next(i for i, outputs in enumerate(shown) if outputs and "resamples:" in text_of(outputs))
        assert "4000 resamples:" in cells.nth(printing).locator(".jp-OutputArea").inner_text()
        page.shut_down()
        complaints = page.complaints
    assert complaints == []
    saved = nbformat.read(saved_file, as_version=4)
    assert len(shown) == len(saved.cells)
    for cell, outputs in zip(saved.cells, shown, strict=True):
        if cell.cell_type == "code":
            assert kinds(outputs or []) == kinds(cell.outputs), cell.source
            numbers = [word for word in text_of(cell.outputs).split() if word[:1].isdigit() and "." in word[1:-1]]
            if "BodyDied" not in str(cell.outputs):
                assert [word for word in numbers if word not in text_of(outputs or "")] == [], cell.source
