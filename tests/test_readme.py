"""The README's programs run as they stand."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
PROGRAMS = [block for block in BLOCKS if block.startswith(("import epyrpc", "from epyrpc"))]


@pytest.mark.capability("S13")
@pytest.mark.parametrize(
    ("program", "printed"),
    list(
        zip(PROGRAMS, ["step 0\nstep 1\nstep 2\n3\n", "[0, 1, 4, 9, 16, 25, 36, 49, 64, 81]\n1024\n", ""], strict=True)
    ),
)
def test_readme_program_runs(program: str, printed: str, tmp_path: Path) -> None:
    script = tmp_path / "readme.py"
    script.write_text(program, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", script], capture_output=True, text=True, timeout=60, cwd=tmp_path, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, printed, "")


@pytest.mark.capability("S13")
def test_quick_start_is_ten_lines_at_most() -> None:
    first = [line for line in PROGRAMS[0].splitlines() if line.strip()]
    assert len(first) <= 10, first
