"""`gather`: many calls as one thing to look at, to wait for and to cancel."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any, overload

from epyrpc.errors import ApiParamError
from epyrpc.results import AsyncResult, CallState, Stream, check_timeout

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable


class Gathered(Sequence[AsyncResult]):
    """Calls in the order in which they were given; made by `gather`.

    It can be awaited, which gives their results.
    """

    def __init__(self, calls: Iterable[AsyncResult | Stream]) -> None:
        found = [call.call if isinstance(call, Stream) else call for call in calls]
        for call in found:
            if not isinstance(call, AsyncResult):
                raise ApiParamError("call to be gathered", call, "what submit returns")
        self._calls = tuple(found)

    @overload
    def __getitem__(self, index: int) -> AsyncResult: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[AsyncResult, ...]: ...
    def __getitem__(self, index: int | slice) -> AsyncResult | tuple[AsyncResult, ...]:
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
    def _wait(call: AsyncResult, seconds: float | None) -> None:
        if not call.done():
            call._wait(seconds)

    def cancel(self) -> int:
        """Cancel those that have not ended; return how many there were."""
        return sum(call.cancel() for call in self._calls)

    def __await__(self) -> Generator[Any, None, list[Any]]:
        import asyncio

        async def all_of_them() -> list[Any]:
            return [await call for call in self._calls]

        return asyncio.ensure_future(all_of_them()).__await__()

    def __repr__(self) -> str:
        states = self.states
        told = " · ".join(f"{states[state]} {state}" for state in CallState if states[state])
        return f"<{len(self)} call{'' if len(self) == 1 else 's'}{f': {told}' if told else ''}>"


def gather(calls: Iterable[AsyncResult | Stream]) -> Gathered:
    """Gather calls, so that they can be looked at, waited for and cancelled together.

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
