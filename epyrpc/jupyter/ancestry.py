"""Keeps older kernels from looking for ever for the cell that a thread belongs to.

Until 7.0 ipykernel's streams note which thread has started which, by their numbers, and go from a thread to the oldest
one that began it all whenever something is printed. The system gives the number of a thread that has ended to another
one; when that starts a descendant of the first, or is one, the way is a circle, and the thread that prints never comes
back. A note about a number that has been given away is out of date, so it is dropped.
"""

from __future__ import annotations

from typing import Any


class Ancestry(dict[int, int]):
    """Which thread has started which, ``{child: parent}``; it never leads in a circle."""

    def __init__(self, known: dict[int, int] | None = None) -> None:
        super().__init__()
        for child, parent in (known or {}).items():
            self[child] = parent

    def __setitem__(self, child: int, parent: int) -> None:
        """Note that `child` has just begun; what the notes say of the thread that had its number before is dropped."""
        self.pop(child, None)
        thread = parent
        while thread != child:
            above = self.get(thread)
            if above is None:
                super().__setitem__(child, parent)
                return
            if above == child:  # that was another thread: `child` is new, and nobody's ancestor
                self.pop(thread, None)
            else:
                thread = above


def straighten(*streams: Any) -> None:
    """Give streams that note it an ancestry without circles."""
    for stream in streams:
        known = getattr(stream, "_thread_to_parent", None)
        if isinstance(known, dict) and not isinstance(known, Ancestry):
            stream._thread_to_parent = Ancestry(dict(known))


__all__ = ["Ancestry", "straighten"]
