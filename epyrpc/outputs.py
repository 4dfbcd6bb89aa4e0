"""What a call has put out, as its caller keeps it: text and displays in their order, bounded in size.

The list that comes of it is in the notebook's own format, so that it can be looked at, replayed and saved.
"""

from __future__ import annotations

import heapq
from collections import deque
from itertools import groupby
from typing import Any

OUTPUT_LIMIT = 1_000_000  # characters kept of each stream of a call; the oldest go first
DISPLAY_BYTES = 32_000_000  # what the kept displays of a call may come to, roughly; the oldest go first
DISPLAY = "display"  # the name of the note that carries a rich display


class _Tail:
    """The end of what a call has written to one stream."""

    def __init__(self) -> None:
        self.pieces: deque[tuple[int, str]] = deque()  # each with its place among all outputs
        self._size = 0  # characters in pieces
        self._dropped = 0

    def add(self, place: int, text: str) -> None:
        """Keep `text`, and drop pieces from the other end that are not needed any more."""
        self.pieces.append((place, text))
        self._size += len(text)
        while self._size - len(self.pieces[0][1]) >= OUTPUT_LIMIT:
            size = len(self.pieces.popleft()[1])
            self._size -= size
            self._dropped += size

    def text(self) -> str:
        """Return what is kept, and in front of it how much is not."""
        kept = "".join([text for _, text in tuple(self.pieces)])
        dropped = self._dropped + max(0, len(kept) - OUTPUT_LIMIT)
        return f"[{dropped:,} characters dropped]\n{kept[-OUTPUT_LIMIT:]}" if dropped else kept


class CallOutput:
    """The output of one call; filled by one thread at a time."""

    def __init__(self) -> None:
        self._streams = {"stdout": _Tail(), "stderr": _Tail()}
        self._displays: deque[tuple[int, dict[str, Any]]] = deque()
        self._display_bytes = 0
        self._dropped = 0  # displays
        self._count = 0
        self._first = 0  # what came before it was cleared away
        self._clear_next = False

    def add_text(self, stream: str, text: str) -> None:
        """Keep text."""
        self._begin()
        self._streams[stream].add(self._count, text)

    def add_display(self, data: dict[str, Any], metadata: dict[str, Any], transient: dict[str, Any], kind: str) -> None:
        """Keep a display, or do what it says to the earlier ones, as a notebook does."""
        if kind.startswith("clear"):
            if kind == "clear later":
                self._clear_next = True
            else:
                self._clear()
            return
        shown = {"output_type": "display_data", "data": data, "metadata": metadata, "transient": transient}
        if kind == "update":
            identifier = transient.get("display_id")
            for _, earlier in self._displays:
                if identifier is not None and earlier["transient"].get("display_id") == identifier:
                    self._display_bytes += _size(data) - _size(earlier["data"])
                    earlier.update(shown)
            return
        self._begin()
        self._displays.append((self._count, shown))
        self._display_bytes += _size(data)
        while self._display_bytes > DISPLAY_BYTES and len(self._displays) > 1:
            self._display_bytes -= _size(self._displays.popleft()[1]["data"])
            self._dropped += 1

    def _begin(self) -> None:
        if self._clear_next:
            self._clear()
        self._count += 1

    def _clear(self) -> None:
        self._clear_next = False
        self._first = self._count + 1
        self._displays.clear()
        self._display_bytes = self._dropped = 0

    def text(self, stream: str) -> str:
        """Return what was written to a stream."""
        return self._streams[stream].text()

    def as_list(self) -> list[dict[str, Any]]:
        """Return what is kept, in order, as the outputs of a notebook's cell."""
        texts: list[list[tuple[int, str, Any]]] = [
            [(place, name, text) for place, text in tuple(tail.pieces) if place >= self._first]
            for name, tail in self._streams.items()
        ]
        displays: list[tuple[int, str, Any]] = [(place, DISPLAY, shown) for place, shown in tuple(self._displays)]
        found: list[dict[str, Any]] = []
        if self._dropped:
            found.append(_stream("stderr", f"[{self._dropped:,} earlier displays dropped]\n"))
        in_order = heapq.merge(*texts, displays, key=lambda entry: entry[0])
        for name, entries in groupby(in_order, key=lambda entry: entry[1]):
            if name == DISPLAY:
                for _, _, shown in entries:
                    found.append({key: value for key, value in shown.items() if key != "transient"})
            else:
                found.append(_stream(name, "".join([text for _, _, text in entries])))
        return found


def _stream(name: str, text: str) -> dict[str, Any]:
    return {"output_type": "stream", "name": name, "text": text}


def _size(data: dict[str, Any]) -> int:
    return sum(len(value) if isinstance(value, (str, bytes)) else 1000 for value in data.values())


__all__ = ["DISPLAY", "OUTPUT_LIMIT", "CallOutput"]
