"""Where a head's handlers put out: `placed` wraps a handler of ``body.on`` so that its prints find their cell.

In a notebook that is the cell that made the call in whose handler the body called back, whichever runs by then; for
what comes from elsewhere in the body, a thread of the user's say, the cell that registered the handler.
"""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any

from epyrpc import results
from epyrpc.results import current

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator


def placed(handler: Callable[..., Any]) -> Callable[..., Any]:
    """Return `handler`, or in a notebook one that puts out where it should."""
    registered: Any = results.make_output_sink()
    if not hasattr(registered, "entered"):
        return handler

    def enter() -> Any:
        cause = getattr(current.get(), "cause", None)
        sink: Any = getattr(cause, "_sink", None)
        return sink.entered() if hasattr(sink, "entered") else registered.entered()

    if inspect.isasyncgenfunction(handler):

        @functools.wraps(handler)
        async def wrapped_async_generator(*args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            with enter():
                async for part in handler(*args, **kwargs):
                    yield part

        return wrapped_async_generator
    if inspect.iscoroutinefunction(handler):

        @functools.wraps(handler)
        async def wrapped_coroutine(*args: Any, **kwargs: Any) -> Any:
            with enter():
                return await handler(*args, **kwargs)

        return wrapped_coroutine
    if inspect.isgeneratorfunction(handler):

        @functools.wraps(handler)
        def wrapped_generator(*args: Any, **kwargs: Any) -> Iterator[Any]:
            with enter():
                yield from handler(*args, **kwargs)

        return wrapped_generator

    @functools.wraps(handler)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with enter():
            return handler(*args, **kwargs)

    return wrapped


__all__ = ["placed"]
