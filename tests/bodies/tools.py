"""What the tests of bodies share: waiting without sleeping for luck, and heads in processes of their own."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from epyrpc import Body
from tests.api.ends import LIMIT, eventually, waits

REPOSITORY = Path(__file__).resolve().parents[2]
PROCESSES = ("spawn", "forkserver")
KINDS = (*PROCESSES, "thread")


class Busy:
    """Calls that run in a body until they are let go; known to be running when `start` returns."""

    # Its handlers are made where they are used, so that they travel by value.

    def __init__(self, body: Body) -> None:
        self.body = body
        self._here = threading.Semaphore(0)
        body.on("busy.here", self._here.release)

    def start(self, function: Callable[..., Any] | None = None, *args: Any, **options: Any) -> Any:
        """Submit a call of `function`, by default one that sleeps for ever, and return its AsyncResult when it runs."""
        if function is None:

            def function() -> None:
                import time

                while True:
                    time.sleep(0.01)

        def announced(function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
            from epyrpc import head

            head.emit.busy.here()
            return function(*args)

        verb = self.body.submit(**options) if options else self.body.submit
        result = verb(announced, function, args)
        assert self._here.acquire(timeout=LIMIT), f"{result} has not begun to run"
        return result


def is_alive(pid: int) -> bool:
    """Whether a process is there; a zombie is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] != b"Z"
    except OSError:
        return False


def links_of(pid: int | str = "self") -> set[str]:
    """Return what the descriptors of a process lead to, pipes and sockets only."""
    links = set()
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):  # closed meanwhile
            links.add(os.readlink(f"/proc/{pid}/fd/{name}"))
    return {link for link in links if link.startswith(("pipe:", "socket:"))}


@contextlib.contextmanager
def head(code: str, *options: str, cwd: Path | None = None) -> Iterator[subprocess.Popen[str]]:
    """Run `code` as a head of its own, in its own process group, by ``python -W error -c`` unless told otherwise."""
    command = [sys.executable, *(options or ("-W", "error", "-c", textwrap.dedent(code)))]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=cwd,
        start_new_session=True,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def finish(process: subprocess.Popen[str], word: str | None = None, limit: float = 30) -> str:
    """Let a head come to its end, check that it was content, and return what it printed."""
    out, err = process.communicate(word, timeout=limit)
    if (process.returncode, err) != (0, ""):
        raise AssertionError(f"the head ended with {process.returncode}, printed {out!r} and wrote\n{err}")
    return out


def read_line(process: subprocess.Popen[str]) -> str:
    """Return the next line that a head prints."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise AssertionError(f"the head has ended: {process.communicate()[1]}")
    return line.rstrip("\n")


__all__ = [
    "KINDS",
    "LIMIT",
    "PROCESSES",
    "Busy",
    "eventually",
    "finish",
    "head",
    "is_alive",
    "links_of",
    "read_line",
    "waits",
]
