"""What every test runs under: a user's settings kept out, the leak guard, the checklist's rows, browsers found.

Unraisable exceptions and exceptions that end a thread are errors as well: pytest turns both into warnings, and here
every warning is an error (pyproject.toml).
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest

from tests.plugins import checklist, leaks

REPOSITORY = Path(__file__).resolve().parent.parent

# Where Jupyter and IPython look for a person's own settings, start-up files and history.
_PERSONAL_FOLDERS = ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR")

# ipykernel warns, once a kernel, that it speaks TCP: the line would come after pytest's closing one.
_KERNEL_SETTINGS = '{"IPKernelApp": {"log_level": "ERROR"}}'

_settings = pytest.StashKey[tuple[str, "dict[str, str | None]"]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    checklist.add_options(parser)


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell starts its background jobs like that, and the scripts that tests interrupt would inherit it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    folder = tempfile.mkdtemp(prefix="epyrpc-tests-")
    names = {name: str(Path(folder, name.lower())) for name in _PERSONAL_FOLDERS}
    names["JUPYTER_PLATFORM_DIRS"] = "1"  # jupyter_core warns until it is told where settings live
    config.stash[_settings] = (folder, {name: os.environ.get(name) for name in names})
    os.environ.update(names)
    profile = Path(names["IPYTHONDIR"], "profile_default")
    profile.mkdir(parents=True)
    (profile / "ipython_kernel_config.json").write_text(_KERNEL_SETTINGS, encoding="utf-8")
    # Registered here rather than found in this file, so that they also hold for notebooks and for doctests in epyrpc/.
    config.pluginmanager.register(leaks.LeakGuard(), "epyrpc-leaks")
    config.pluginmanager.register(checklist.Checklist(config), "epyrpc-checklist")


def pytest_unconfigure(config: pytest.Config) -> None:
    folder, before = config.stash[_settings]
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    shutil.rmtree(folder, ignore_errors=True)


def find_browser() -> str | None:
    """Return the path of a Chromium here, or None."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("browser") is not None and find_browser() is None:
        pytest.skip("no chromium on this machine (apt-get install chromium)")


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of the Chromium that browser tests drive; a test that uses it is marked `browser`."""
    path = find_browser()
    if path is None:
        pytest.skip("no chromium on this machine (apt-get install chromium)")
    return path


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root folder of the repository."""
    return REPOSITORY
