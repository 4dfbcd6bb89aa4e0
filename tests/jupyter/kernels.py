"""A real kernel and what it sends, for the tests of the notebook's part."""

from __future__ import annotations

import os
import signal
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty
from typing import Any

import pytest
from jupyter_client.manager import KernelManager, start_new_kernel

LIMIT = 30.0  # seconds that anything may take


@dataclass
class Message:
    """One message of the kernel about a cell: output, a display, an error."""

    kind: str
    content: dict[str, Any]
    parent: str  # the id of the request that it belongs to
    when: float  # seconds since the cell was sent

    @property
    def text(self) -> str:
        """What it says, as text."""
        data = self.content.get("data", {})
        return str(self.content.get("text", data.get("text/plain", "")))


@dataclass
class Outcome:
    """What came back for one cell."""

    id: str
    messages: list[Message] = field(default_factory=list)  # its own, in order
    others: list[Message] = field(default_factory=list)  # of other cells, that came meanwhile
    status: str = ""

    def stream(self, name: str) -> str:
        """Return what was written to one stream."""
        return "".join(m.text for m in self.messages if m.kind == "stream" and m.content["name"] == name)

    @property
    def stdout(self) -> str:
        """Return standard output."""
        return self.stream("stdout")

    @property
    def stderr(self) -> str:
        """Return standard error."""
        return self.stream("stderr")

    @property
    def displays(self) -> list[dict[str, Any]]:
        """Return the MIME bundles of displays and of the cell's own result."""
        return [m.content["data"] for m in self.messages if m.kind in ("display_data", "execute_result")]

    @property
    def error(self) -> Message | None:
        """Return the error, or None."""
        return next((m for m in self.messages if m.kind == "error"), None)

    @property
    def traceback(self) -> str:
        """Return the error's traceback without colours."""
        assert self.error is not None, self.messages
        return plain("\n".join(self.error.content["traceback"]))


class Kernel:
    """A kernel that cells are run in, one after the other."""

    def __init__(self, manager: KernelManager, client: Any) -> None:
        self.manager = manager
        self.client = client
        self._stacks: Path | None = None

    def watch_stacks(self) -> None:
        """Have the kernel write the stacks of its threads when it gets SIGUSR2."""
        self._stacks = Path(f"{self.manager.connection_file}.stacks")
        source = f"import faulthandler as f; f.register({signal.SIGUSR2:d}, open({str(self._stacks)!r}, 'w')); del f"
        self.client._recv_reply(self.client.execute(source, silent=True), timeout=LIMIT)

    def stacks(self) -> str:
        """Return the stacks of all threads of a kernel that does not answer."""
        if self._stacks is None or not self.manager.is_alive():
            return "" if self._stacks is None else "it is not alive"
        os.kill(self.manager.provisioner.pid, signal.SIGUSR2)
        end = time.monotonic() + 5
        while not (text := self._stacks.read_text()) and time.monotonic() < end:
            time.sleep(0.05)
        return text

    def send(self, source: str) -> str:
        """Start a cell; return its id."""
        return str(self.client.execute(textwrap.dedent(source).strip("\n")))

    def watch(self, cell: str, until: Any = None) -> Outcome:
        """Collect what comes until the cell has ended, or until ``until(message)`` is true of a message of any cell."""
        outcome, started = Outcome(cell), time.monotonic()
        while True:
            left = started + LIMIT - time.monotonic()
            try:
                raw = self.client.get_iopub_msg(timeout=max(0.01, left))
            except Empty:
                raise AssertionError(f"the kernel has been silent; so far: {outcome}\n{self.stacks()}") from None
            parent, kind = raw["parent_header"].get("msg_id", ""), raw["msg_type"]
            if kind == "status":
                if parent == cell and raw["content"]["execution_state"] == "idle":
                    break
                continue
            if kind == "execute_input" or kind.startswith(
                "comm_"
            ):  # live cards and rows tell their news when they like
                continue
            message = Message(kind, raw["content"], parent, time.monotonic() - started)
            (outcome.messages if parent == cell else outcome.others).append(message)
            if until is not None and until(message):
                return outcome
        reply = self.client._recv_reply(cell, timeout=LIMIT)
        outcome.status = reply["content"]["status"]
        return outcome

    def run(self, source: str) -> Outcome:
        """Run a cell to its end."""
        return self.watch(self.send(source))

    def ok(self, source: str) -> Outcome:
        """Run a cell that must not fail."""
        outcome = self.run(source)
        assert outcome.status == "ok", (outcome.error and outcome.traceback) or outcome.stderr
        return outcome

    def value(self, expression: str) -> str:
        """Return the repr of an expression's value."""
        return str(self.ok(f"print(repr(({expression})), flush=True)").stdout.strip())

    def complete(self, source: str) -> list[str]:
        """Return what Tab makes of `source`, at its end."""
        identifier = self.client.complete(source, len(source))
        found = self.client._recv_reply(identifier, timeout=LIMIT)["content"]
        return [source[: found["cursor_start"]] + match for match in found["matches"]]

    def inspect(self, source: str, detail_level: int = 0) -> str | None:
        """Return what Shift-Tab shows at the end of `source`, without colours; None when it shows nothing."""
        identifier = self.client.inspect(source, len(source), detail_level)
        reply = self.client._recv_reply(identifier, timeout=LIMIT)["content"]
        return plain(reply["data"]["text/plain"]) if reply["found"] else None


KERNELS = Path(sys.prefix, "kernels")  # `make kernels` puts other releases of ipykernel here
VERSIONS = ("installed", "7.0", "6.29")


def settings_for(version: str) -> dict[str, str] | None:
    """Return the environment of a kernel of some ipykernel; None for the one that is installed.

    Skips the test where that release is not there.
    """
    if version == "installed":
        return None
    folder = KERNELS / f"ipykernel-{version}"
    if not folder.is_dir():
        pytest.skip(f"no ipykernel {version} here: `make kernels` fetches it")
    return {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}


@contextmanager
def kernel(*cells: str, version: str = "installed") -> Iterator[Kernel]:
    """Start a kernel, run some cells, stop it at the end."""
    settings = settings_for(version)
    options = {} if settings is None else {"env": settings}
    manager, client = start_new_kernel(startup_timeout=60, **options)
    try:
        started = Kernel(manager, client)
        started.watch_stacks()
        for cell in cells:
            started.ok(cell)
        yield started
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=not manager.is_alive())
        manager.cleanup_resources()


def text_of(cell: str, *outcomes: Outcome, stream: str = "stdout") -> str:
    """Return what one cell has been sent of a stream, whichever cell was watched when it came."""
    return "".join(
        m.text
        for outcome in outcomes
        for m in [*outcome.messages, *outcome.others]
        if m.parent == cell and m.kind == "stream" and m.content["name"] == stream
    )


def plain(text: str) -> str:
    """Return text without its colours."""
    import re

    return re.sub(r"\x1b\[[0-9;]*m", "", text)
