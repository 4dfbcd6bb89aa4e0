"""What all views have in common: the base of the widgets, and the one thread that sends what they show.

Threads::

    main thread of the kernel ── makes a view, hears its buttons ──▶ answers `hello` and `open`
    thread "epyrpc-widgets" (daemon; started with the first view that may change, ends when there is none)
        ── eight times a second asks each view to `flush` ──▶ sends what has changed, or nothing

Nothing is sent per event: a view looks at what it shows when it is its turn.
"""

from __future__ import annotations

import logging
import pathlib
import threading
import time
import uuid
from typing import TYPE_CHECKING, Any

import anywidget
import traitlets

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

_log = logging.getLogger("epyrpc.widgets")
STATIC = pathlib.Path(__file__).parent / "static"
PERIOD_SECONDS = 0.12


def module(*names: str) -> str:
    """Return a view's ES module, the shared part in front."""
    return "".join((STATIC / f"{part}.js").read_text(encoding="utf-8") for part in ("kit", "gone", *names))


def styles(*names: str) -> str:
    """Return a view's style sheet, the shared part in front."""
    return "".join((STATIC / f"{part}.css").read_text(encoding="utf-8") for part in ("kit", *names))


class Flusher:
    """Asks views eight times a second whether they have something to send.

    Parameters
    ----------
    period : float
        Seconds between two rounds.
    """

    # Guarded by _lock: _views, _thread. A round is made outside it, but within _round, so that `flush` of a view is
    # never called by two threads at once.

    def __init__(self, period: float = PERIOD_SECONDS) -> None:
        self.period = period
        self._views: list[LiveView] = []
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._round = threading.RLock()
        self._stop = threading.Event()

    def add(self, view: LiveView) -> None:
        """Look after a view until its `flush` says that it will not change any more."""
        with self._lock:
            if view not in self._views:
                self._views.append(view)
            if self._thread is None:
                self._stop.clear()
                self._thread = threading.Thread(target=self._run, name="epyrpc-widgets", daemon=True)
                self._thread.start()

    def discard(self, view: LiveView) -> None:
        """Look after a view no more."""
        with self._lock:
            self._views = [v for v in self._views if v is not view]

    def flush(self, now: float | None = None) -> None:
        """Make one round."""
        with self._round:
            moment = time.monotonic() if now is None else now
            with self._lock:
                views = list(self._views)
            for view in views:
                try:
                    goes_on = view.flush(moment)
                except Exception as exc:  # its page is gone, or it is wrong; the others go on
                    _log.debug("%r is not shown any more: %s", view, exc, exc_info=True)
                    goes_on = False
                if not goes_on:
                    self.discard(view)

    def between_rounds(self) -> AbstractContextManager[object]:
        """Keep the rounds out, for an answer that must not cross them."""
        return self._round

    def stop(self) -> None:
        """Look after nothing any more, and wait for the thread."""
        with self._lock:
            self._views = []
            thread = self._thread
        self._stop.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join(5)

    def _run(self) -> None:
        while True:
            self._stop.wait(self.period)
            self.flush()
            with self._lock:
                if not self._views:
                    self._thread = None
                    return


flusher = Flusher()


class LiveView(anywidget.AnyWidget):
    """A view of something that changes.

    What it shows is pulled by `flush`, on the flusher's thread alone; what a page asks for is answered on the kernel's
    main thread, which hears nothing while a cell blocks.
    """

    ident = traitlets.Unicode().tag(sync=True)  # by which a page finds its outputs; not told to modules otherwise

    def __init__(self, **traits: Any) -> None:
        ident = uuid.uuid4().hex
        super().__init__(model_id=ident, ident=ident, **traits)
        self.on_msg(self._heard)

    def flush(self, now: float) -> bool:
        """Send what has changed; return whether more may come. On the flusher's thread."""
        raise NotImplementedError

    def hear(self, kind: str, content: dict[str, Any]) -> None:
        """Take a message of a page; on the kernel's main thread, where nothing may block."""
        raise NotImplementedError

    def _heard(self, _: Any, content: Any, buffers: Any) -> None:
        if isinstance(content, dict):
            self.hear(str(content.get("kind")), content)

    @staticmethod
    def apart(work: Callable[[], object], name: str) -> None:
        """Do what may block on a thread of its own."""
        threading.Thread(target=work, name=f"epyrpc-{name}", daemon=True).start()

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


__all__ = ["Flusher", "LiveView", "flusher", "module", "styles"]
