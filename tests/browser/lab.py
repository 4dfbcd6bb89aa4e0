"""A JupyterLab server and a page in headless Chromium, for tests of what a person sees."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CHROMIUM_FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]
START_SECONDS = 60.0

# The execution indicator says idle before the kernel is connected: what is run at that moment does not run at all.
IS_KERNEL_READY = """async (limit) => {
  const start = Date.now(), timeout = new Promise(resolve => setTimeout(resolve, limit));
  for (;;) {
    const panel = window.jupyterapp && window.jupyterapp.shell.currentWidget;
    const session = panel && panel.sessionContext && panel.sessionContext.session;
    const kernel = session && session.kernel;
    if (kernel && kernel.connectionStatus === "connected") {
      await Promise.race([timeout, Promise.all([panel.context.ready, panel.sessionContext.ready, kernel.info])]);
      if (kernel.status === "idle") return "";
    }
    if (Date.now() - start > limit) return kernel ? `kernel ${kernel.connectionStatus}, ${kernel.status}` : "no kernel";
    await new Promise(resolve => setTimeout(resolve, 50));
  }
}"""
# The command's promise is fulfilled at the first cell that raises, also where the cell's tags allow that.
RUN_ALL = """async (limit) => {
  const start = Date.now(), panel = window.jupyterapp.shell.currentWidget;
  await window.jupyterapp.commands.execute('notebook:run-all-cells');
  const waiting = () => panel.content.widgets.filter(
    ({model}) => model.type === "code" && (model.executionState === "running" || model.executionCount === null));
  while (waiting().length || panel.sessionContext.session.kernel.status !== "idle") {
    if (Date.now() - start > limit) throw new Error("still running: " + waiting().map(c => c.model.sharedModel.source));
    await new Promise(resolve => setTimeout(resolve, 50));
  }
}"""
# Each cell's outputs as the notebook's model has them.
OUTPUTS = """() => window.jupyterapp.shell.currentWidget.content.widgets.map(
  cell => cell.model.type === "code" ? cell.model.outputs.toJSON() : null)"""
# The promise of `notebook:run-cell` is fulfilled when the cell has ended, `start` does not wait for it.
START = """([index, wait]) => {
  const notebook = window.jupyterapp.shell.currentWidget.content;
  notebook.activeCellIndex = index;
  notebook.deselectAll();
  const ended = window.jupyterapp.commands.execute('notebook:run-cell');
  return wait ? ended : undefined;
}"""
WAIT_FOR_TEXT = """async ([index, text, limit]) => {
  const start = Date.now(), cell = window.jupyterapp.shell.currentWidget.content.widgets[index];
  while (!JSON.stringify(cell.model.outputs.toJSON()).includes(text)) {
    if (Date.now() - start > limit)
      throw new Error("no such output: " + text + " in " + JSON.stringify(cell.model.outputs.toJSON()));
    await new Promise(resolve => setTimeout(resolve, 20));
  }
}"""
WAIT_UNTIL_IDLE = """async (limit) => {
  const start = Date.now(), panel = window.jupyterapp.shell.currentWidget;
  const running = () => panel.content.widgets.some(({model}) => model.executionState === "running");
  while (running() || panel.sessionContext.session.kernel.status !== "idle") {
    if (Date.now() - start > limit) throw new Error("still running");
    await new Promise(resolve => setTimeout(resolve, 20));
  }
}"""
SHUT_DOWN = "async () => await window.jupyterapp.shell.currentWidget.sessionContext.shutdown()"


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def server(root: Path, private: Path, theme: str = "JupyterLab Light") -> Iterator[str]:
    """Run JupyterLab on the notebooks in `root`, with settings of its own in `private`; yield its address."""
    settings = private / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text('{"fetchNews": "false", "checkForUpdates": false}')
    (settings / "themes.jupyterlab-settings").write_text(json.dumps({"theme": theme}))
    folders = {
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "run",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "IPYTHONDIR": "ipython",
    }
    environment = {**os.environ, **{name: str(private / folder) for name, folder in folders.items()}}
    port = free_port()
    log = private / "lab.log"
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.port={port}", "--ServerApp.port_retries=0", "--IdentityProvider.token=", "--ServerApp.password=",
        "--ServerApp.disable_check_xsrf=True", f"--ServerApp.root_dir={root}", "--LabApp.expose_app_in_browser=True",
        "--JupyterNotebookApp.expose_app_in_browser=True",
        "--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]  # fmt: skip
    with log.open("w") as file:
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=file, start_new_session=True)
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_for(url, process, log)
            yield url
        finally:
            _end(process)


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    limit = time.monotonic() + START_SECONDS
    while True:
        with (
            contextlib.suppress(OSError, urllib.error.URLError),
            urllib.request.urlopen(f"{url}/api/status", timeout=1),
        ):
            return
        if process.poll() is not None or time.monotonic() > limit:
            raise RuntimeError(f"JupyterLab does not start:\n{log.read_text()}")
        time.sleep(0.1)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@dataclass
class Page:
    """A page with a notebook."""

    page: Any
    url: str
    complaints: list[str] = field(default_factory=list)  # errors of the page's console

    def open(self, name: str) -> None:
        """Open a notebook of the server and wait until its kernel is ready."""
        self._open(f"{self.url}/lab/workspaces/{name}/tree/{name}.ipynb?reset")

    def open_in_notebook(self, name: str) -> None:
        """Open a notebook in Notebook 7, and wait until its kernel is ready."""
        self._open(f"{self.url}/notebooks/{name}.ipynb")

    def _open(self, url: str) -> None:
        """Load a page, again if need be: on 3.10 one kernel in a dozen stays *connected, unknown*, epyrpc or not.

        The server has lost its first answer then, for which JupyterLab waits without end.
        """
        why = []
        for _ in range(3):
            self.page.goto(url)
            self.page.wait_for_selector(".jp-NotebookPanel .jp-Cell", timeout=60_000)
            why.append(self.page.evaluate(IS_KERNEL_READY, 20_000))
            if not why[-1]:
                return
        raise AssertionError(f"no kernel gets ready: {'; '.join(why)}")

    def clear(self) -> None:
        """Remove all outputs."""
        self.page.evaluate("async () => await window.jupyterapp.commands.execute('notebook:clear-all-cell-outputs')")

    def run_all(self) -> None:
        """Run every cell; returns when all have ended."""
        self.page.evaluate(RUN_ALL, 60_000)

    def run(self, index: int) -> None:
        """Run a cell; returns when it has ended."""
        self.page.evaluate(START, [index, True])

    def start(self, index: int) -> None:
        """Run a cell; returns at once."""
        self.page.evaluate(START, [index, False])

    def stop(self) -> None:
        """Press the stop button of the toolbar."""
        self.page.locator('[data-command="notebook:interrupt-kernel"]').first.click()

    def wait_for_text(self, index: int, text: str, seconds: float = 30) -> None:
        """Wait until the outputs of a cell contain a text."""
        self.page.evaluate(WAIT_FOR_TEXT, [index, text, seconds * 1000])

    def wait_until_idle(self, seconds: float = 30) -> None:
        """Wait until no cell runs."""
        self.page.evaluate(WAIT_UNTIL_IDLE, seconds * 1000)

    def outputs(self) -> list[list[dict[str, Any]] | None]:
        """Return the outputs of each cell, None for a text."""
        return list(self.page.evaluate(OUTPUTS))

    def shut_down(self) -> None:
        """End the kernel."""
        self.page.evaluate(SHUT_DOWN)


@contextlib.contextmanager
def browser(executable: str, url: str, profile: Path, *, width: int = 1280, height: int = 2400) -> Iterator[Page]:
    """Open a browser; `height` is large, since Lab draws the cells in view only."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            str(profile), executable_path=executable, args=CHROMIUM_FLAGS, headless=True,
            viewport={"width": width, "height": height},
        )  # fmt: skip
        try:
            page = Page(context.pages[0], url)
            page.page.on("pageerror", lambda error: page.complaints.append(str(error)))
            page.page.on(
                "console", lambda message: page.complaints.append(message.text) if message.type == "error" else None
            )
            yield page
        finally:
            context.close()
