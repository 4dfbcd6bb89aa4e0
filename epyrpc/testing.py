"""Public helpers for testing code that is built on epyrpc."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from epyrpc.errors import ApiParamError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ManualClock"]


class ManualClock:
    """A clock that stands still until it is told to advance.

    Parameters
    ----------
    start : float, optional
        What it shows at first, in seconds.

    Examples
    --------
    >>> clock = ManualClock()
    >>> before = clock.monotonic()
    >>> clock.advance(5)
    >>> clock.monotonic() - before
    5.0
    """

    def __init__(self, start: float = 1000.0) -> None:
        self._lock = threading.Lock()
        self._now = float(start)  # Guarded by _lock.
        self._listeners: list[Callable[[], object]] = []  # Guarded by _lock.

    def monotonic(self) -> float:
        """Return what the clock shows, in seconds; may be called on any thread."""
        return self._now  # one read of one attribute: a lock would add nothing

    def advance(self, seconds: float) -> None:
        """Move the clock forward, then run the listeners on this thread.

        Parameters
        ----------
        seconds : float
            How far; at least 0.

        Raises
        ------
        ApiParamError
            `seconds` is negative or not a number: a monotonic clock never goes back.
        """
        if not seconds >= 0:
            raise ApiParamError("seconds", seconds, "a number >= 0")
        with self._lock:
            self._now += seconds
            listeners = list(self._listeners)
        for listener in listeners:
            listener()

    def on_advance(self, listener: Callable[[], object]) -> Callable[[], None]:
        """Have a function called after each `advance`, say one that wakes a thread which waits for a deadline.

        Returns
        -------
        callable
            Call it to have the listener forgotten; twice is harmless.
        """
        with self._lock:
            self._listeners.append(listener)

        def forget() -> None:
            with self._lock:
                if listener in self._listeners:
                    self._listeners.remove(listener)

        return forget

    def __repr__(self) -> str:
        """Show the time."""
        return f"<ManualClock at {self._now:g} s>"
