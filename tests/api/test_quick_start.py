"""A few lines are enough."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

QUICK_START = """
import epyrpc as e
details = e.QueueTransportDetails()
ids = e.HeadTransactionIdGenerator()
ends = [e.QueueTransporter(d, e.TransactionManager(ids)) for d in (details, details.invert())]
head, neck = (e.ApiBase("maths", ipc=end) for end in ends)
neck.set_handler("scale", lambda x: x * 10)
for end in ends:
    end.connect()
print(head.scale(4)())
"""


def run(code, folder):
    """Run a script; return what it printed."""
    script = folder / "quick_start.py"
    script.write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.capability("S13")
def test_api_transport_and_channel_take_a_few_lines(tmp_path):
    assert len(QUICK_START.strip().splitlines()) <= 10
    assert run(QUICK_START, tmp_path) == "40\n"


@pytest.mark.capability("S13")
def test_quick_start_of_the_readme_runs(repository, tmp_path):
    text = (repository / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    code = next(block for block in blocks if "import epyrpc\n" in block)
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    assert run(code, tmp_path).endswith("\n3\n")
