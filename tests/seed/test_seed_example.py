"""The seed document's own example runs as it stands."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).with_name("seed_example.py")
ROWS = ("S13", "S16a", "S16b", "E1", "E2", "E4", "E7", "E8", "E10", "E12", "E15", "E20")


@pytest.mark.capability(*ROWS)
def test_example_runs_as_a_program(tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLE)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=tmp_path,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "seed example: ok\n", "")


@pytest.mark.capability(*ROWS)
def test_example_runs_in_this_process_twice(capsys):
    for _ in range(2):
        runpy.run_path(str(EXAMPLE), run_name="seed_example")
        assert capsys.readouterr().out == "seed example: ok\n"
