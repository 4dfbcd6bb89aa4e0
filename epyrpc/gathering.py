"""`gather`: many calls as one thing to look at, to wait for and to cancel."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import CancelledError, Future
from typing import TYPE_CHECKING, Any, overload

from epyrpc.clock import check_timeout
from epyrpc.errors import ApiParamError
from epyrpc.results import AsyncResult, CallState
from epyrpc.streams import Stream

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from epyrpc.bodies.pool_jobs import PoolResult


class Gathered(Sequence["AsyncResult | PoolResult"]):
    """Calls, and tasks of pools, in the order in which they were given; made by `gather`.

    It can be awaited, which gives their results.
    """

    def __init__(self, calls: Iterable[AsyncResult | Stream | PoolResult]) -> None:
        found = [call.call if isinstance(call, Stream) else call for call in calls]
        for call in found:
            if not isinstance(call, AsyncResult) and not _is_task(call):
                raise ApiParamError("call to be gathered", call, "what submit returns")
        self._calls = tuple(found)

    @overload
    def __getitem__(self, index: int) -> AsyncResult | PoolResult: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[AsyncResult | PoolResult, ...]: ...
    def __getitem__(self, index: int | slice) -> AsyncResult | PoolResult | tuple[AsyncResult | PoolResult, ...]:
        return self._calls[index]

    def __len__(self) -> int:
        return len(self._calls)

    @property
    def states(self) -> Counter[CallState]:
        """How many calls are in each state."""
        return Counter(call.state for call in self._calls)

    def done(self) -> bool:
        """Whether all calls have ended."""
        return all(call.done() for call in self._calls)

    def results(self, timeout: float | None = None, *, return_exceptions: bool = False) -> list[Any]:
        """Wait for all calls and return what they returned, in order.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait for all of them together.
        return_exceptions : bool
            Put what a call raised in the place of its result; otherwise the first one, in order, is raised.

        Raises
        ------
        TimeoutError
            Not all have ended within `timeout`; they go on.
        """
        limit = check_timeout(timeout)
        until = None if limit is None else time.monotonic() + limit
        found: list[Any] = []
        for call in self._calls:
            left = None if until is None else max(0.0, until - time.monotonic())
            if return_exceptions:
                self._wait(call, left)
                try:
                    found.append(call.result())
                except (Exception, CancelledError) as exc:
                    found.append(exc)
            else:
                found.append(call.result(left))
        return found

    @staticmethod
    def _wait(call: AsyncResult | PoolResult, seconds: float | None) -> None:
        if call.done():
            return
        if isinstance(call, AsyncResult):
            call._wait(seconds)
        else:
            with contextlib.suppress(CancelledError):
                call.exception(seconds)

    def cancel(self) -> int:
        """Cancel those that have not ended, tasks that run included; return how many there were."""
        return sum(call.cancel() if isinstance(call, AsyncResult) else call.cancel(kill=True) for call in self._calls)

    def __await__(self) -> Generator[Any, None, list[Any]]:
        import asyncio

        async def all_of_them() -> list[Any]:
            return [await call for call in self._calls]

        return asyncio.ensure_future(all_of_them()).__await__()

    def __repr__(self) -> str:
        states = self.states
        told = " · ".join(f"{states[state]} {state}" for state in CallState if states[state])
        return f"<{len(self)} call{'' if len(self) == 1 else 's'}{f': {told}' if told else ''}>"


def _is_task(call: Any) -> bool:
    """Whether it is a task of a pool: a future that has a call's state."""
    return isinstance(call, Future) and isinstance(getattr(call, "state", None), CallState)


def gather(calls: Iterable[AsyncResult | Stream | PoolResult]) -> Gathered:
    """Gather calls, or a pool's tasks, so that they can be looked at, waited for and cancelled together.

    In a notebook the outcome is one list with a bar for all of them.

    Raises
    ------
    ApiParamError
        One of them is no call.

    Examples
    --------
    >>> gather([])
    <0 calls>
    >>> gather([]).results()
    []
    """
    return Gathered(calls)


__all__ = ["Gathered", "gather"]
