"""A person at work in a real JupyterLab: output stays in its cell, and the stop button stops one call."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest

from tests.browser import lab
from tests.browser.test_tutorials import text_of

CELLS = [
    "%load_ext epyrpc\n%body spawn worker",
    # 1: prints for as long as the flag of the body says
    "%%body worker --async --out job\n"
    "import time\n"
    "going = True\n"
    "count = 0\n"
    "while going:\n"
    "    count += 1\n"
    "    print('tick', count)\n"
    "    time.sleep(0.02)\n"
    "print('ended after', count)",
    "print('later one')",
    "print('later two'); worker.push(going=False); job.result(20)",
    "%%body worker\nkept = 'still here'\nprint('begun')\nfor n in range(10**9):\n    time.sleep(0.01)",
    "%%body worker\nkept",
    "worker.set_handler('long.nap', lambda seconds: (print('begun'), time.sleep(seconds)))\nworker.call.long.nap(600)",
    "import epyrpc\nworker.call(lambda: kept), worker.pid == worker.call(__import__('os').getpid)",
]


@pytest.mark.browser
def test_output_stays_in_its_cell_and_the_stop_button_stops_one_call(
    chromium: str, repository: Path, tmp_path: Path
) -> None:
    root = tmp_path / "notebooks"
    root.mkdir()
    notebook = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(source) for source in CELLS],
        metadata=nbformat.read(repository / "notebooks" / "01-first-body.ipynb", as_version=4).metadata,
    )
    nbformat.write(notebook, root / "work.ipynb")
    (tmp_path / "private").mkdir()
    with (
        lab.server(root, tmp_path / "private") as url,
        lab.browser(chromium, url, tmp_path / "profile", height=2400) as page,
    ):
        page.open("work")
        page.run(0)
        page.run(1)
        page.wait_for_text(1, "tick 3")
        page.run(2)
        seen = text_of(page.outputs()[1] or []).count("tick")
        page.wait_for_text(1, f"tick {seen + 5}")  # it goes on while others have run, in its own cell
        page.run(3)
        page.wait_for_text(1, "ended after")
        shown = [text_of(outputs or []) for outputs in page.outputs()]
        assert [shown[2].strip(), shown[3].strip()] == ["later one", "later two"]
        ticks = [line for line in shown[1].splitlines() if line.startswith("tick")]
        assert ticks == [f"tick {n + 1}" for n in range(len(ticks))]

        for blocking, after, value in ((4, 5, "'still here'"), (6, 7, "('still here', True)")):
            page.start(blocking)
            page.wait_for_text(blocking, "begun")
            page.stop()
            page.wait_until_idle()
            begun, error = page.outputs()[blocking] or []
            assert begun["output_type"] == "stream"
            assert error["ename"] == "KeyboardInterrupt"
            page.run(after)
            assert text_of(page.outputs()[after] or "").strip() == value
        page.shut_down()
        complaints = page.complaints
    assert complaints == []
