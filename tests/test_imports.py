"""`import epyrpc` is light: it loads little, and takes little time."""

from __future__ import annotations

import statistics
import subprocess
import sys

BASE = "import multiprocessing, cloudpickle"
ROUNDS = 11
ALLOWED_EXTRA = 0.060  # seconds


def _fresh(code: str) -> str:
    """Run `code` in a fresh interpreter and return what it printed."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.strip()


def _import_seconds(statement: str) -> float:
    return float(_fresh(f"import time; t = time.perf_counter(); {statement}; print(time.perf_counter() - t)"))


def test_import_loads_no_notebook_no_arrays_no_event_loop() -> None:
    heavy = ("IPython", "ipywidgets", "anywidget", "numpy", "asyncio", "epyrpc_widgets", "epyrpc.jupyter")
    loaded = _fresh(f"import epyrpc, sys; print(*(name for name in {heavy!r} if name in sys.modules))")
    assert loaded == ""


def test_import_takes_little_more_than_multiprocessing_and_cloudpickle() -> None:
    for statement in (BASE, "import epyrpc"):  # the byte code is compiled and the files are in the page cache
        _import_seconds(statement)
    base, ours = [], []
    for _ in range(ROUNDS):  # interleaved, so that whatever else the machine does meets both alike
        base.append(_import_seconds(BASE))
        ours.append(_import_seconds("import epyrpc"))
    extra = statistics.median(ours) - statistics.median(base)
    assert extra <= ALLOWED_EXTRA, f"{extra * 1000:.0f} ms more than `{BASE}` ({statistics.median(base) * 1000:.0f} ms)"
