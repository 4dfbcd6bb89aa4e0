"""One process of a body, as the head holds it: its connection's api, how it was launched, how it ended."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

from epyrpc.api.base import ApiBase
from epyrpc.bodies import bootstrap, questions
from epyrpc.errors import BodyError
from epyrpc.transports.base import TransportState

if TYPE_CHECKING:
    from collections.abc import Callable

    from epyrpc.bodies.life import Life
    from epyrpc.bodies.spawn import Launch
    from epyrpc.results import AsyncResult
    from epyrpc.transports.base import Transporter

HEAD_WORKERS = 4


class HeadApi(ApiBase):
    """The head's end of one body: calls go out through it, ``body.on`` handlers are registered with it."""

    def __init__(self, body: Life) -> None:
        super().__init__(workers=HEAD_WORKERS)
        self._body = body
        self._register(f"{bootstrap.CONTROL}.describe", self._describe)
        self._register(questions.ASK_PATH, self._ask)
        self._register(questions.SOURCE_PATH, questions.source_of)

    def _describe(self) -> dict[str, tuple[str, str]]:
        return {
            path: (h.signature, h.doc) for path, h in self.handlers().items() if not path.startswith(bootstrap.CONTROL)
        }

    def _ask(self, tid: int, prompt: str, secret: bool) -> None:
        questions.receive(self.transporter, tid, prompt, secret)

    def _outgoing_changed(self) -> None:
        """Let the verbs take the straight road, or not."""
        body = self._body
        if body._api is self:
            body._straight = body._transporter if self._is_plain else None

    def recover(self) -> None:
        """Wait until the body has been restarted, for a call that is to be made again."""
        self._body._wait_for_restart()

    @property
    def transporter(self) -> Any:
        """The transport to the body's process of now."""
        return self._body._transporter

    def transport_state_changed(self, state: TransportState) -> None:
        """Hear of the body's end."""
        if state is TransportState.OPEN:
            self._body._ready.set()


class Incarnation:
    """One process of a body, as the supervisor sees it."""

    def __init__(self, body: Life, launched: Launch | ThreadLaunch, transporter: Transporter) -> None:
        self.body = body
        self.launch: Any = launched
        self.transporter = transporter
        self.over = threading.Event()

        self.verdict: BodyError | None = None  # why we ended it, where it is not simply its death
        self.killed_for: list[AsyncResult] = []  # calls that were to be ended so; the first is why it was killed

    def process_ended(self, exitcode: int | None) -> None:
        """The process has ended; on the supervisor's thread."""
        try:
            wire = self.transporter._wire
            if wire is not None and not wire.over:
                wire.end(EOFError("its process has ended"))  # delivers what it had still sent
            self.body._process_ended(self, exitcode)
        finally:
            self.launch.close()
            self.over.set()

    def take_log(self, data: bytes) -> None:
        """Keep the tail of what the process writes outside of calls."""
        self.body._take_log(data)


class ThreadLaunch:
    """Stands in for a process where a body is a thread of this one."""

    death_fd = None

    def __init__(self, thread: threading.Thread, stop: Callable[[], None]) -> None:
        self.thread = thread
        self._stop = stop
        self.pid = os.getpid()

    def poll(self) -> int | None:
        """Return 0 when the thread has ended."""
        return None if self.thread.is_alive() else 0

    def wait(self, timeout: float | None) -> int | None:
        """Wait for the thread."""
        if self.thread is not threading.current_thread():
            self.thread.join(timeout)
        return self.poll()

    def is_suspended(self) -> bool:
        """Return False: a thread has no SIGSTOP."""
        return False

    def terminate(self) -> None:
        """Ask the thread to end after what it runs; a thread cannot be forced."""
        self._stop()

    kill = interrupt = terminate

    def close(self) -> None:
        """Nothing is held."""
