"""The leak guard and the checklist's table do what they are trusted with: runs of pytest inside a test."""

from __future__ import annotations

import _thread
import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from tests.plugins import leaks
from tests.plugins.checklist import read_rows

CONFTEST = """
import sys
sys.path.insert(0, {repository!r})
from tests.plugins import checklist, leaks

def pytest_addoption(parser):
    checklist.add_options(parser)

def pytest_configure(config):
    config.addinivalue_line("markers", "capability(row): rows")
    config.addinivalue_line("markers", "leaves_behind(reason): why")
    config.pluginmanager.register(leaks.LeakGuard(grace=0.3))
    config.pluginmanager.register(checklist.Checklist(config))
"""

LEAKS = {
    "a thread": (
        "import threading\nstop = threading.Event()\n"
        "def test_it():\n    threading.Thread(target=stop.wait, name='loose', daemon=True).start()",
        "thread 'loose' (daemon=True)",
    ),
    "a process": (
        "import subprocess\nkept = []\ndef test_it():\n    kept.append(subprocess.Popen(['sleep', '30']))",
        "sleep 30 [sleeping]",
    ),
    "a zombie": (
        "import os, time\ndef test_it():\n    pid = os.posix_spawn('/bin/true', ['true'], {})\n    time.sleep(0.1)",
        "(zombie)",
    ),
    "an orphan": (
        "import pathlib, subprocess, time\n"
        "def test_it():\n"
        "    command = ['sh', '-c', 'setsid sleep 30 >/dev/null 2>&1 & echo $!']\n"
        "    done = subprocess.run(command, check=True, capture_output=True, text=True)\n"
        "    name = pathlib.Path(f'/proc/{done.stdout.strip()}/comm')\n"
        "    while name.read_text() != 'sleep\\n':\n        time.sleep(0.01)",
        "sleep 30 [sleeping]",
    ),
    "a descriptor": ("import os\ndef test_it():\n    os.pipe()", "-> pipe:["),
    "shared memory": (
        "import os, pathlib\nblock = pathlib.Path(f'/dev/shm/epyrpc-guard-{os.getpid()}')\n"
        "def test_it():\n    block.write_bytes(b'x')\n"
        "def teardown_module():\n    block.unlink()",
        "shared memory /dev/shm/epyrpc-guard-",
    ),
    "a second singleton": (
        "import threading\nstop = threading.Event()\n"
        "def test_it():\n    for n in range(2):\n"
        "        threading.Thread(target=stop.wait, name=f'epyrpc-launcher-{n}', daemon=True).start()",
        "thread 'epyrpc-launcher-",
    ),
    "descriptors after a singleton came": (
        "import os, threading\nstop = threading.Event()\n"
        "def test_first():\n    threading.Thread(target=stop.wait, name='epyrpc-launcher', daemon=True).start()\n"
        "def test_it():\n    os.pipe()",
        "-> pipe:[",
    ),
    "an unexplained exemption": (
        "import pytest\n@pytest.mark.leaves_behind()\ndef test_it(): pass",
        "say why",
    ),
}

CLEAN = """
import os, subprocess, threading, time
import pytest

def test_what_ends_in_time():
    threading.Thread(target=time.sleep, args=(0.1,), daemon=True).start()
    threading.Thread(target=lambda: subprocess.run(["sleep", "0.1"], check=True)).start()

def test_a_cycle_is_collected():
    class Holder:
        def __del__(self):
            os.close(self.end)
    a = Holder()
    a.me, a.end = a, os.open(os.devnull, os.O_RDONLY)

def test_a_singleton_and_its_descriptors():
    threading.Thread(target=threading.Event().wait, name="epyrpc-supervisor", daemon=True).start()
    os.pipe()

@pytest.fixture(scope="module")
def pipe():
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)

def test_a_fixture_of_the_module(pipe): pass
def test_a_fixture_of_the_module_again(pipe): pass

@pytest.mark.leaves_behind("shown here")
def test_exempt():
    os.pipe()
"""


def _pytest(repository: Path, folder: Path, text: str, *options: str) -> tuple[int, str]:
    (folder / "conftest.py").write_text(CONFTEST.format(repository=str(repository)), encoding="utf-8")
    (folder / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    (folder / "test_inner.py").write_text(textwrap.dedent(text), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options, "test_inner.py"]
    done = subprocess.run(
        command,
        cwd=folder,
        env={
            **os.environ,
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        },  # half the time of such a run, and none of them needed
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="the guard looks at less without /proc")
@pytest.mark.parametrize("what", LEAKS)
def test_guard_names(repository: Path, tmp_path: Path, what: str) -> None:
    text, said = LEAKS[what]
    status, output = _pytest(repository, tmp_path, text)
    assert status == 1, output
    assert said in output


def test_guard_lets_pass_what_is_clean(repository: Path, tmp_path: Path) -> None:
    status, output = _pytest(repository, tmp_path, CLEAN)
    assert status == 0, output


def test_checklist_has_every_table() -> None:
    rows = read_rows()
    assert {row_id[0] for row_id in rows} == set("MSTEXD")
    assert {row_id for row_id, row in rows.items() if row.deferred} == {"T3"}


def test_checklist_counts_by_mark_and_by_name(repository: Path, tmp_path: Path) -> None:
    text = """
    import pytest
    @pytest.mark.capability("S3a", "E12")
    def test_marked(): pass
    def test_s3b_by_name(): pass
    def test_d1(): assert False
    def test_x1_skipped(): pytest.skip("no")
    def test_other(): raise AssertionError("not selected")
    """
    status, output = _pytest(repository, tmp_path, text, "--checklist", "-m", "capability")
    lines = {words[0]: words[1:] for line in output.splitlines() if (words := line.split())}
    assert status == 1
    assert lines["S3a"][:3] == ["pass", "1", "passed"]
    assert lines["E12"][0] == lines["S3b"][0] == "pass"
    assert lines["D1"][0] == "FAIL"
    assert lines["X1"][:2] == ["no", "test"]
    assert lines["T3"][:3] == ["not", "yet", "built"]
    assert "1 deselected" in output


def test_checklist_fails_a_green_run_with_rows_untested(repository: Path, tmp_path: Path) -> None:
    status, output = _pytest(repository, tmp_path, "def test_s3a_green(): pass", "--checklist")
    assert status == 1
    assert "1 pass" in output


def test_checklist_refuses_an_unknown_row(repository: Path, tmp_path: Path) -> None:
    text = 'import pytest\n@pytest.mark.capability("Q9")\ndef test_it(): pass'
    status, output = _pytest(repository, tmp_path, text)
    assert status == pytest.ExitCode.USAGE_ERROR
    assert "no such row" in output
    assert "'Q9'" in output


def test_shared_memory_named_after_a_process_of_another_run_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        name = f"joblib_folder_{process.pid}_0a1b"
        assert leaks._not_used_elsewhere([name, "plain"]) == [name, "plain"]
        monkeypatch.setattr(leaks, "_is_ours", lambda pid, new, word: False)
        assert leaks._not_used_elsewhere([name, "plain"]) == ["plain"]
        process.communicate(b"\n")
    assert leaks._not_used_elsewhere([name, "plain"]) == [name, "plain"]


def test_stand_in_for_a_thread_that_has_ended_is_no_thread() -> None:
    begun, go_on, idents = threading.Event(), threading.Event(), []

    def work() -> None:
        idents.append(threading.current_thread().ident)  # `threading` did not start it, and makes a stand-in here
        begun.set()
        go_on.wait(10)

    _thread.start_new_thread(work, ())
    assert begun.wait(10)
    assert idents[0] in leaks._threads()
    go_on.set()
    end = time.monotonic() + 10
    while idents[0] in leaks._threads():
        assert time.monotonic() < end
        time.sleep(0.001)
