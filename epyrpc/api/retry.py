"""A call that is made again when the body died or the link was lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from epyrpc.api.action import CallSettings, send_call
from epyrpc.errors import BodyDied, BodyLost, EpyrpcError, TransportDisconnected
from epyrpc.results import AsyncResult, CallState

if TYPE_CHECKING:
    from concurrent.futures import Future

LOST = (BodyDied, BodyLost, TransportDisconnected)


class RetriedResult(AsyncResult):
    """The outcome of the last of several attempts, each a transaction of its own.

    Threads: the next attempt is made on a callback thread of the connection that was lost.
    """

    def __init__(self, api: Any, path: str, args: tuple[Any, ...], kwargs: dict[str, Any], settings: CallSettings) -> None:
        self._api, self._args, self._kwargs, self._settings = api, args, kwargs, settings
        self._left = settings.retry
        manager = api.transporter.transactions
        super().__init__(manager.ids(), path, self, api.transporter.wire)
        self._callback = settings.callback
        self.target = api.transporter.name
        self._attempt: AsyncResult = self._try()

    def _try(self) -> AsyncResult:
        attempt = send_call(self._api, self.path, self._args, self._kwargs, timeout=self._settings.timeout)
        self._attempt = attempt
        self.retry_of = str(self.id)
        attempt.add_done_callback(self._attempt_over)
        return attempt

    def _attempt_over(self, attempt: Future[Any]) -> None:
        if not isinstance(attempt, AsyncResult) or self.settled:
            return
        error = None if attempt.cancelled() else attempt.exception()
        if isinstance(error, LOST) and self._left > 0:
            self._left -= 1
            try:
                self._api.recover()
                self._pump = self._api.transporter.wire
                self._try()
            except EpyrpcError as exc:
                exc.__cause__ = error
                self._settle(CallState.LOST, error=exc)
            return
        if error is None and attempt.state is CallState.DONE:
            self._result = attempt.result()
        self._settle(attempt.state, error=error)

    # As the owner of itself:

    def cancel_attempt(self, *, kill: bool) -> bool:
        """Cancel the attempt under way, and make no other."""
        self._left = 0
        return self._attempt.cancel(kill=kill)

    def cancel(self, *, kill: bool = False) -> bool:
        """Cancel the attempt under way, and make no other."""
        return self.cancel_attempt(kill=kill)

    def _wait_quietly(self, timeout: float | None) -> bool:
        # The attempts' wires come and go: wait as for any Future, whoever reads them.
        with self._condition:
            self._condition.wait_for(lambda: self.settled, timeout)
        return self.settled
