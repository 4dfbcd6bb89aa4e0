"""Brings output to its cells at a pace that a front end bears.

A notebook's server drops whatever comes faster than 1,000 messages a second over three seconds, and says so in the cell
that happens to run. So all output of calls goes through one `Publisher` per kernel: text of one cell and stream is put
together, displays that replace each other are left out, and all messages share one budget.

Threads::

    any thread: put() ──▶ a cell's queue ──▶ thread "epyrpc-output" (daemon; started when there is something,
                                              ends when there is nothing for a while)
    whoever is given a result: flush() ──▶ publishes the rest of that cell's queue itself
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

_log = logging.getLogger("epyrpc.output")
MESSAGES_PER_SECOND = 300.0
BURST = 300.0  # messages at once after a pause
TEXTS_PER_SECOND = 100.0  # of text alone, when many cells are being written to
PAUSE_SECONDS = 0.03  # text that comes meanwhile is put together
IDLE_SECONDS = 2.0  # then the thread ends
TURN = 50  # messages for one cell before the others have their turn
MESSAGE_CHARACTERS = 500_000  # longer text is sent in pieces
CELL_CHARACTERS = 16_000_000  # of text that one cell is sent; the front end keeps them all
CELL_DISPLAYS = 5_000
WAITING_BYTES = 64_000_000  # of displays that wait for their turn, in one cell


class Text(NamedTuple):
    """Text on its way to a cell, in pieces."""

    stream: str
    pieces: list[str]


class Shown(NamedTuple):
    """A display on its way to a cell: what is sent, its size, and which display it replaces, if any.

    `clears` is "now" or "later", at the next output, for what empties the cell.
    """

    display: Any
    size: int
    replaces: str | None = None
    clears: str = ""


class Cell(Protocol):
    """A cell that output is brought to."""

    queue: Queue

    @property
    def is_here(self) -> bool:
        """Whether what the calling thread writes to the standard streams is in its place among the cell's output."""

    def publish_text(self, stream: str, text: str, now: bool) -> None:
        """Write text; with `now`, see to it that it is sent."""

    def publish_display(self, display: Any) -> None:
        """Send a display."""


class Queue:
    """What waits to be brought to one cell."""

    # Guarded by the publisher's lock, but for `publishing`, which whoever publishes holds meanwhile.

    def __init__(self) -> None:
        self.entries: deque[Text | Shown] = deque()
        self.publishing = threading.RLock()
        self.characters = 0  # so far
        self.displays = 0
        self.waiting_bytes = 0
        self.dropped_characters = 0
        self.dropped_displays = 0
        self._open_characters = 0  # in the last entry, if that is text

    def add_text(self, stream: str, text: str) -> None:
        """Queue text; what is more than a cell can bear is counted instead."""
        room = CELL_CHARACTERS - self.characters
        if len(text) > room:
            self.dropped_characters += len(text) - max(0, room)
            if room <= 0:
                return
            text = text[:room] + f"\n[this cell has shown {CELL_CHARACTERS:,} characters, and shows no more]\n"
        self.characters += len(text)
        self._leave_out_cleared()
        last = self.entries[-1] if self.entries else None
        if isinstance(last, Text) and last.stream == stream and self._open_characters < MESSAGE_CHARACTERS:
            last.pieces.append(text)
            self._open_characters += len(text)
        else:
            self.entries.append(Text(stream, [text]))
            self._open_characters = len(text)

    def add_display(self, shown: Shown) -> None:
        """Queue a display; one that waits and would be replaced, or cleared away, is left out."""
        if shown.clears == "now":
            self._leave_out(len(self.entries))
        elif shown.replaces is None and not shown.clears:
            self._leave_out_cleared()
        elif shown.replaces is not None:
            for index, entry in enumerate(self.entries):
                if isinstance(entry, Shown) and entry.replaces == shown.replaces:
                    self.waiting_bytes += shown.size - entry.size
                    self.entries[index] = shown
                    return
        if self.displays >= CELL_DISPLAYS or self.waiting_bytes + shown.size > WAITING_BYTES:
            self.dropped_displays += 1
            return
        self.displays += shown.replaces is None and not shown.clears
        self.waiting_bytes += shown.size
        self.entries.append(shown)

    def _leave_out_cleared(self) -> None:
        """Leave out what the next output would clear away."""
        last = self.entries[-1] if self.entries else None
        if isinstance(last, Shown) and last.clears == "later":
            self._leave_out(len(self.entries) - 1)

    def _leave_out(self, count: int) -> None:
        """Leave out the first entries, but for those that change displays, which may be in other cells."""
        entries = list(self.entries)
        kept = [entry for entry in entries[:count] if isinstance(entry, Shown) and entry.replaces is not None]
        self.entries = deque(kept + entries[count:])
        self.waiting_bytes = sum(entry.size for entry in self.entries if isinstance(entry, Shown))

    def take(self, count: int) -> list[Text | Shown]:
        """Take out the next entries."""
        taken: list[Text | Shown] = []
        while self.entries and len(taken) < count:
            entry = self.entries.popleft()
            if isinstance(entry, Shown):
                self.waiting_bytes -= entry.size
            taken.append(entry)
        return taken

    def put_back(self, entries: list[Text | Shown]) -> None:
        """Undo `take`."""
        self.entries.extendleft(reversed(entries))
        self.waiting_bytes += sum(entry.size for entry in entries if isinstance(entry, Shown))

    def say_dropped(self) -> None:
        """Queue what there is to say about what was dropped since that was last said."""
        parts = []
        if self.dropped_characters:
            parts.append(f"{self.dropped_characters:,} characters")
        if self.dropped_displays:
            parts.append(f"{self.dropped_displays:,} displays")
        if parts:
            self.dropped_characters = self.dropped_displays = 0
            self.entries.append(Text("stderr", [f"[{' and '.join(parts)} came too fast or were too many for one cell, "
                                                "and were not shown here]\n"]))  # fmt: skip
            self._open_characters = 0


class Budget:
    """So many messages a second, and a number of them at once after a pause."""

    def __init__(self, rate: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate, burst, clock
        self._left = burst
        self._seen = clock()
        self._lock = threading.Lock()

    def reserve(self) -> float:
        """Take the next place; return in how many seconds that is."""
        with self._lock:
            self._refill()
            self._left -= 1
            return max(0.0, -self._left / self._rate)

    def take_if_free(self) -> bool:
        """Take a place if there is one now."""
        with self._lock:
            self._refill()
            if self._left < 1:
                return False
            self._left -= 1
            return True

    def _refill(self) -> None:
        now = self._clock()
        self._left = min(self._burst, self._left + (now - self._seen) * self._rate)
        self._seen = now


class Publisher:
    """Brings what is put into cells' queues to the cells."""

    # Guarded by _lock: _waiting, _thread, _closed, and every cell's queue.

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: dict[Cell, None] = {}  # cells with something in their queues, in order
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._budget = Budget(MESSAGES_PER_SECOND, BURST)

    def put(self, cell: Cell, stream: str, text: str) -> None:
        """Bring text to a cell, soon; any thread, does not wait."""
        with self._lock:
            cell.queue.add_text(stream, text)
            self._note_waiting(cell)

    def put_display(self, cell: Cell, shown: Shown) -> None:
        """Bring a display to a cell, soon; any thread, does not wait."""
        with self._lock:
            cell.queue.add_display(shown)
            self._note_waiting(cell)

    def _note_waiting(self, cell: Cell) -> None:
        self._waiting[cell] = None
        if self._stop.is_set():
            return  # whoever is given the result brings it
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="epyrpc-output", daemon=True)
            self._thread.start()
        self._wake.set()

    def flush(self, cell: Cell) -> None:
        """Return when everything put so far is in its cell; what has been dropped is said there too."""
        with cell.queue.publishing:
            with self._lock:
                cell.queue.say_dropped()
            while self._publish(cell, last=True):
                pass

    def close(self) -> None:
        """End the thread; what comes from now on waits for a `flush`."""
        with self._lock:
            self._stop.set()
            thread = self._thread
        self._wake.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join(1.0)

    def _run(self) -> None:
        while not self._stop.is_set():
            if not self._wake.wait(IDLE_SECONDS):
                with self._lock:
                    if not self._wake.is_set():
                        self._thread = None
                        return
            self._wake.clear()
            with self._lock:
                cells = list(self._waiting)
            more = False
            texts = 0
            for cell in cells:
                texts += 1
                try:
                    more = self._publish(cell) or more
                except Exception:  # of this cell; the others are not to suffer
                    _log.exception("the output of a call cannot be shown")
            if more:
                self._wake.set()
            self._stop.wait(max(PAUSE_SECONDS, texts / TEXTS_PER_SECOND))

    def _publish(self, cell: Cell, *, last: bool = False) -> bool:
        """Bring a turn of what waits to its cell; True while there is more.

        With `last`, somebody waits to be given a result: in the running cell, text that is written is in its place, and
        need not be sent at once when there is no message left for it.
        """
        queue = cell.queue
        with queue.publishing:
            with self._lock:
                entries = queue.take(TURN)
                if not queue.entries:
                    self._waiting.pop(cell, None)
            while entries:
                try:
                    self._send(cell, entries[0], last and cell.is_here)
                except Exception:
                    del entries[0]
                    self._take_back(cell, entries)
                    raise
                except BaseException:  # an interrupt while waiting for a place: nothing is lost
                    self._take_back(cell, entries)
                    raise
                del entries[0]
        return bool(queue.entries)

    def _take_back(self, cell: Cell, entries: list[Text | Shown]) -> None:
        with self._lock:
            cell.queue.put_back(entries)
            if cell.queue.entries:
                self._note_waiting(cell)

    def _send(self, cell: Cell, entry: Text | Shown, here: bool) -> None:
        if here and isinstance(entry, Text):
            cell.publish_text(entry.stream, "".join(entry.pieces), self._budget.take_if_free())
            return
        wait = self._budget.reserve()
        if wait:
            time.sleep(wait)
        if isinstance(entry, Text):
            cell.publish_text(entry.stream, "".join(entry.pieces), True)
        else:
            cell.publish_display(entry.display)


__all__ = ["Budget", "Cell", "Publisher", "Queue", "Shown", "Text"]
