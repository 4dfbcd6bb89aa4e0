"""One line of text that says how far a map has come."""

from __future__ import annotations

import sys
from time import monotonic
from typing import TYPE_CHECKING, Any

from epyrpc.clock import format_seconds

if TYPE_CHECKING:
    from collections.abc import Callable

WIDTH = 24
SHOW_SECONDS = 0.1

# Shows a map in a richer way than a line, where that can be done; returns whether it is shown.
show_live: Callable[[Any], bool] = lambda run: False  # noqa: E731 - a variable, as the one below
# Where a bar is written to. A notebook shows standard error on red, and asks for the other one.
default_stream: Callable[[], Any] = lambda: sys.stderr  # noqa: E731 - a variable, not a function


class Bar:
    """A line that is written over itself; only as often as eyes can follow.

    Parameters
    ----------
    label : str
        What is under way.
    total : int or None
        Of how many steps.
    stream : text stream, optional
        Where; standard error by default, in a notebook standard output.
    """

    def __init__(self, label: str, total: int | None, stream: Any = None) -> None:
        self._label = label
        self.total = total
        self._stream = stream if stream is not None else default_stream()
        self._started = monotonic()
        self._shown_at = 0.0
        self._width = 0

    def show(self, done: int) -> None:
        """Write the line if it is time to."""
        now = monotonic()
        if now - self._shown_at >= SHOW_SECONDS:
            self._shown_at = now
            self._write(self.text(done, now - self._started))

    def text(self, done: int, spent: float) -> str:
        """Return the line for so many steps in so many seconds."""
        if self.total is None:
            return f"{self._label}: {done:,} done, {format_seconds(spent)}"
        share = done / self.total if self.total else 1.0
        filled = int(share * WIDTH)
        bar = "█" * filled + "░" * (WIDTH - filled)
        line = f"{self._label}: {bar} {done:,}/{self.total:,}  {format_seconds(spent)}"
        if 0 < done < self.total:
            line += f", {format_seconds(spent / done * (self.total - done))} left"
        return line

    def close(self, done: int) -> None:
        """Write the last line, and end it."""
        self._write(self.text(done, monotonic() - self._started) + "\n")

    def _write(self, line: str) -> None:
        if self._stream is None:
            return
        width = len(line)
        self._stream.write("\r" + line.rstrip("\n").ljust(self._width) + ("\n" if line.endswith("\n") else ""))
        self._width = width
        self._stream.flush()


__all__ = ["Bar"]
