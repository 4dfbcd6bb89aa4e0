"""Brings output to its cells at a pace that a front end bears.

A notebook's server drops whatever comes faster than 1,000 messages a second over three seconds, and says so in the cell
that happens to run. So all output of calls goes through one `Publisher` per kernel: text of one cell and stream is put
together, displays that replace each other are left out, and all messages share one budget.

What comes while the cell's own thread waits for it, that thread writes where the cell's prints go. The kernel gathers
all that and sends it a few times a second: so a loop of thousands of calls that print needs no message for each.

Threads::

    any thread: put() ──▶ a cell's queue ──▶ thread "epyrpc-output" (daemon; started when there is something,
                                              ends when there is nothing for a while)
    the cell's own thread: put() ──▶ the kernel's streams, unless a display waits in the queue
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

    def write(self, stream: str, text: str, budget: Budget) -> None:
        """Write text where the cell's prints go; only where it `is_here`."""

    def hurry(self, stream: str, budget: Budget) -> None:
        """Have what was written sent at once, if that is due and there is a place for it; else it is sent soon."""

    def publish_text(self, stream: str, text: str, budget: Budget) -> None:
        """Send text, which has its place; other messages that this takes are charged to the budget."""

    def publish_display(self, display: Any, budget: Budget) -> None:
        """Send a display, which has its place; other messages that this takes are charged to the budget."""


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
        self._full = False  # it has been said that no more is shown
        self._open_characters = 0  # in the last entry, if that is text

    def add_text(self, stream: str, text: str) -> None:
        """Queue text; what is more than a cell can bear is counted instead."""
        room = CELL_CHARACTERS - self.characters
        if len(text) > room:
            self.dropped_characters += len(text) - max(0, room)
            if self._full:
                return
            self._full = True
            text = text[: max(0, room)] + f"\n[this cell has shown {CELL_CHARACTERS:,} characters, and shows no more]\n"
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

    def charge(self, count: int) -> None:
        """Take places without waiting for them; give some back, if `count` is negative."""
        with self._lock:
            self._left -= count

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
        """Bring text to a cell, soon, from the cell's own thread now; any thread, does not wait."""
        if cell.is_here:
            with cell.queue.publishing:
                with self._lock:
                    cell.queue.add_text(stream, text)
                if not self._write_here(cell):
                    with self._lock:
                        self._note_waiting(cell)
            return
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
        queue = cell.queue
        with self._lock:
            queue.say_dropped()
            count = len(queue.entries)
        here = cell.is_here
        for _ in range(count):
            if here and self._write_here(cell):
                break
            wait = self._budget.reserve()
            if wait:
                time.sleep(wait)
            if not self._publish_next(cell):
                self._budget.charge(-1)
                break
        with queue.publishing:
            return  # and what another thread was bringing has arrived

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
                    more = self._publish_turn(cell) or more
                except Exception:  # of this cell; the others are not to suffer
                    _log.exception("the output of a call cannot be shown")
            if more:
                self._wake.set()
            self._stop.wait(max(PAUSE_SECONDS, texts / TEXTS_PER_SECOND))

    def _publish_turn(self, cell: Cell) -> bool:
        """Bring a turn of what waits to its cell; True while there is more."""
        for _ in range(TURN):
            if not cell.queue.entries:
                break
            if self._stop.wait(self._budget.reserve()):  # nothing is held: who flushes meanwhile is not kept waiting
                return False
            if not self._publish_next(cell):
                self._budget.charge(-1)
                break
        return bool(cell.queue.entries)

    def _write_here(self, cell: Cell) -> bool:
        """Write what waits for the cell, up to the first display, on the cell's own thread; True when nothing waits."""
        queue = cell.queue
        with queue.publishing:
            for _ in range(len(queue.entries)):
                if not queue.entries or not isinstance(queue.entries[0], Text):
                    break
                self._publish_next(cell, here=True)
            return not queue.entries

    def _publish_next(self, cell: Cell, *, here: bool = False) -> bool:
        """Bring what comes next to its cell; False when there is nothing.

        With `here`, this is the cell's own thread, and what comes next is text.
        """
        queue = cell.queue
        with queue.publishing:
            with self._lock:
                entries = queue.take(1)
                if not queue.entries:
                    self._waiting.pop(cell, None)
            if not entries:
                return False
            try:
                self._bring(cell, entries[0], here)
            except KeyboardInterrupt:  # nothing is lost
                with self._lock:
                    queue.put_back(entries)
                    self._note_waiting(cell)
                raise
            if here and isinstance(entries[0], Text):
                cell.hurry(entries[0].stream, self._budget)
        return True

    def _bring(self, cell: Cell, entry: Text | Shown, here: bool) -> None:
        if not isinstance(entry, Text):
            cell.publish_display(entry.display, self._budget)
        elif here:
            cell.write(entry.stream, "".join(entry.pieces), self._budget)
        else:
            cell.publish_text(entry.stream, "".join(entry.pieces), self._budget)


__all__ = ["Budget", "Cell", "Publisher", "Queue", "Shown", "Text"]
