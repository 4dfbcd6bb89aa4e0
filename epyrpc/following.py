"""What follows a call: the events that its handler sent, and the functions that `AsyncResult.then` was given."""

from __future__ import annotations

import concurrent.futures
import threading
import time
import traceback
from time import monotonic
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from epyrpc.results import AsyncResult


STUCK_SECONDS = 0.1
MOST_SECONDS = 1.0


class CausedEvents:
    """The events that the handler of one call has sent: they are handled before the caller goes on.

    So a list that they are appended to is complete when the call returns. An event handler that takes long, or waits
    for the caller, is not waited for.
    """

    def __init__(self) -> None:
        self._came = 0  # counted by the reader alone
        self._over = 0  # Guarded by _lock.
        self._lock = threading.Lock()

    def note(self) -> None:
        """Count one that came; by the reader."""
        self._came += 1

    def end(self) -> None:
        """Count one that has been handled, or dropped; any thread."""
        with self._lock:
            self._over += 1

    def wait(self) -> None:
        """Wait until those that have come are handled; not while they make no progress, and not for long."""
        wanted, seen, since = self._came, self._over, monotonic()
        end = since + MOST_SECONDS
        while self._over < wanted:
            time.sleep(0.001)
            now = monotonic()
            if self._over != seen:
                seen, since = self._over, now
            if now - since > STUCK_SECONDS or now > end:
                return


class FollowUp(concurrent.futures.Future):  # type: ignore[type-arg]
    """The future of what a function given to `AsyncResult.then` returns.

    Parameters
    ----------
    call : AsyncResult
        The call that it follows.
    """

    def __init__(self, call: AsyncResult) -> None:
        super().__init__()
        identifier = getattr(call, "id", None)  # a pool's task, which may be tried more than once, has none
        self._what = call.path if identifier is None else f"{call.path} ({identifier})"

    def __repr__(self) -> str:
        if not self.done():
            how = "waits for the call"
        elif self.cancelled():
            how = "cancelled"
        else:
            how = "done" if self.exception() is None else f"failed with {type(self.exception()).__name__}"
        return f"<what follows {self._what}: {how}>"


def follow(
    call: AsyncResult,
    fn: Callable[[Any], Any],
    on_error: Callable[[BaseException], Any] | None,
    report: Callable[[str], object] | None,
) -> FollowUp:
    """Run `fn`, or `on_error`, when `call` has ended; see `AsyncResult.then`.

    Parameters
    ----------
    report : callable, optional
        Gets the traceback when one of the functions raises: in a notebook nobody may ever look at the future.
    """
    outcome = FollowUp(call)

    def settle(_: concurrent.futures.Future[Any]) -> None:
        if not outcome.set_running_or_notify_cancel():
            return
        try:
            value: Any = call.result()
            follower: Callable[[Any], Any] = fn
        except BaseException as exc:  # SystemExit from the handler: its outcome like any other
            if on_error is None:
                outcome.set_exception(exc)
                return
            value, follower = exc, on_error
        try:
            result = follower(value)
        except BaseException as exc:  # whatever it is, the future is where it goes
            if report is not None:
                report("".join(traceback.format_exception(type(exc), exc, exc.__traceback__.tb_next)))  # type: ignore[union-attr]
            outcome.set_exception(exc)
        else:
            outcome.set_result(result)

    call.add_done_callback(settle)
    return outcome


__all__ = ["CausedEvents", "FollowUp", "follow"]
