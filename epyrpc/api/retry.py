"""A call that is made again when the body died or the link was lost."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from epyrpc import results
from epyrpc.api.action import CallSettings, send_call
from epyrpc.errors import BodyDied, BodyLost, EpyrpcError, TransportDisconnected
from epyrpc.news import Progress
from epyrpc.results import AsyncResult, CallState, stop_interrupted

if TYPE_CHECKING:
    from concurrent.futures import Future

LOST = (BodyDied, BodyLost, TransportDisconnected)


class RetriedResult(AsyncResult):
    """The outcome of the last of several attempts, each a transaction of its own.

    Threads: the next attempt is made on a callback thread of the connection that was lost.
    """

    # Guarded by _attempt_lock: _left, _over.

    def __init__(
        self, api: Any, path: str, args: tuple[Any, ...], kwargs: dict[str, Any], settings: CallSettings
    ) -> None:
        self._api, self._args, self._kwargs, self._settings = api, args, kwargs, settings
        self._called = path  # `path` is what a person sees
        self._left = settings.retry
        self._over = False
        self._attempt_lock = threading.Lock()
        transporter = api.transporter
        super().__init__(transporter.transactions.ids(), path, self, transporter._wire)
        self._call_back(settings.callback)
        self._sink = results.make_output_sink()  # for what the callback puts out
        self.target = transporter.name
        self._attempt: AsyncResult
        try:
            self._attempt = self._try()
        except LOST:  # it was dead before
            if not self._may_try_again():
                raise
            api.recover()
            self._attempt = self._try()

    def _try(self) -> AsyncResult:
        attempt = send_call(self._api, self._called, self._args, self._kwargs, timeout=self._settings.timeout)
        attempt.path = self.path
        attempt.retry_of = str(self.id)
        attempt.kill_on_timeout = self._kill
        attempt.add_done_callback(self._attempt_over)
        return attempt

    def _attempt_over(self, attempt: Future[Any]) -> None:
        if not isinstance(attempt, AsyncResult) or self.settled:
            return
        error = None if attempt.cancelled() else attempt.exception()
        if isinstance(error, LOST) and self._may_try_again():
            try:
                self._api.recover()
                if self.settled:  # cancelled meanwhile
                    return
                self._pump = self._api.transporter.wire
                self._attempt = self._try()
                if self.settled:
                    self._attempt.cancel()
            except EpyrpcError as exc:
                exc.__cause__ = error
                self._end(CallState.LOST, exc)
            return
        self._end(attempt.state, error, attempt)

    def _end(self, state: CallState, error: BaseException | None, attempt: AsyncResult | None = None) -> bool:
        """Settle; False when that has been done."""
        with self._attempt_lock:
            if self._over:
                return False
            self._over = True
        if attempt is not None and state is CallState.DONE and error is None:
            self._result = attempt.result()
        self._settle(state, error=error)
        return True

    def _may_try_again(self) -> bool:
        with self._attempt_lock:
            self._left -= 1
            return self._left >= 0

    # What the handler writes and says of itself is the attempt's.

    @property
    def progress(self) -> Progress | None:
        """See `AsyncResult.progress`; of the last attempt."""
        return self._attempt.progress

    @property
    def stdout(self) -> str:
        """See `AsyncResult.stdout`; of the last attempt."""
        return self._attempt.stdout

    @property
    def stderr(self) -> str:
        """See `AsyncResult.stderr`; of the last attempt."""
        return self._attempt.stderr

    @property
    def outputs(self) -> list[dict[str, Any]]:
        """See `AsyncResult.outputs`; of the last attempt."""
        return self._attempt.outputs

    @property
    def stopped(self) -> str | None:  # type: ignore[override]
        """See `AsyncResult.stopped`; of the last attempt."""
        return self._attempt.stopped

    def wait_stopped(self, timeout: float | None = None, *, last: bool = False) -> str | None:
        """See `AsyncResult.wait_stopped`; of the last attempt."""
        return self._attempt.wait_stopped(timeout, last=last)

    @property
    def kill_on_timeout(self) -> bool:
        """See `AsyncResult.kill_on_timeout`; for this attempt and the next."""
        return self._kill

    @kill_on_timeout.setter
    def kill_on_timeout(self, value: bool) -> None:
        self._kill = self._attempt.kill_on_timeout = value

    _kill = False

    # As the owner of itself:

    def cancel(self, *args: Any, kill: bool = False) -> bool:
        """Cancel the attempt under way, and make no other."""
        with self._attempt_lock:
            self._left = 0
        first = self._end(CallState.CANCELLED, None)
        stopping = self._attempt.cancel(kill=kill)
        return first or (kill and stopping)

    def _wait_quietly(self, timeout: float | None, pieces: list[Any] | None = None) -> bool:
        # The attempts' wires come and go: wait as for any Future, whoever reads them.
        try:
            with self._condition:
                self._condition.wait_for(lambda: self.settled, timeout)
        except KeyboardInterrupt as exc:
            stop_interrupted(self, exc)
            raise
        return self.settled
