"""The event loop of the async handlers of one end.

Threads: it runs in one of its own (daemon, epyrpc-asyncio), made for the first coroutine; the methods without an
underscore are for any other thread.
"""

from __future__ import annotations

import contextvars
import threading
import types
from typing import TYPE_CHECKING, Any

from epyrpc import messages
from epyrpc.errors import NoResponseRequired
from epyrpc.results import current

if TYPE_CHECKING:
    import asyncio

    from epyrpc.api.context import CurrentCall
    from epyrpc.api.dispatch import Dispatcher
    from epyrpc.messages import Frame

HEAR_SECONDS = 0.05  # until a worker that waits for the event loop hears that it is interrupted


class AsyncLoop:
    """The event loop of one end's async handlers, in a thread of its own; made for the first of them."""

    def __init__(self) -> None:
        import asyncio

        self._asyncio = asyncio
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="epyrpc-asyncio", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        self._loop.run_forever()
        pending = self._asyncio.all_tasks(self._loop)
        for task in pending:
            task.cancel()
        if pending:
            self._loop.run_until_complete(self._asyncio.gather(*pending, return_exceptions=True))
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    def start(self, dispatcher: Dispatcher, call: CurrentCall, value: Any, frame: Frame) -> None:
        """Run a coroutine, or an async generator, to its end and answer the call."""
        self._loop.call_soon_threadsafe(self._make_task, dispatcher, call, value, frame)

    def _make_task(self, dispatcher: Dispatcher, call: CurrentCall, value: Any, frame: Frame) -> None:
        if call._cancelled:
            if isinstance(value, types.CoroutineType):
                value.close()  # or Python warns that it was never awaited
            dispatcher._end(call)
            return
        token = current.set(call)  # the task copies the context
        try:
            call.task = self._loop.create_task(self._answer(dispatcher, call, value, frame))
        finally:
            current.reset(token)
        if call._cancelled:
            call.task.cancel()

    def run(self, coroutine: types.CoroutineType[Any, Any, Any]) -> Any:
        """Run a coroutine in the context of the calling thread, which waits for its end."""
        ended = threading.Event()
        task: list[asyncio.Task[None]] = []
        outcome: list[tuple[Any, BaseException | None]] = []

        async def run_to_its_end() -> None:
            try:
                outcome.append((await coroutine, None))
            except BaseException as exc:  # SystemExit too, which would end the loop
                outcome.append((None, exc))
            finally:
                ended.set()

        self._loop.call_soon_threadsafe(
            lambda: task.append(self._loop.create_task(run_to_its_end())), context=contextvars.copy_context()
        )
        try:
            _wait_for(ended)
        except BaseException:
            self._loop.call_soon_threadsafe(lambda: task[0].cancel())
            _wait_for(ended)  # what it has to tidy up comes first
            raise
        value, error = outcome.pop()
        if error is not None:
            try:
                raise error
            finally:
                del error  # no cycle through its traceback
        return value

    def cancel(self, task: asyncio.Task[None]) -> None:
        """Cancel a call's task; from any thread."""
        self._loop.call_soon_threadsafe(task.cancel)

    async def _answer(self, dispatcher: Dispatcher, call: CurrentCall, value: Any, frame: Frame) -> None:
        try:
            if isinstance(value, types.CoroutineType):
                result = await value
            elif frame.flags & messages.STREAM and call.solicited:
                await self._stream(dispatcher, call, value, frame)
                return
            else:
                result = [part async for part in value]
        except NoResponseRequired:
            if not call.delayed:
                dispatcher._end(call)
        except self._asyncio.CancelledError as exc:
            interrupted = call.interrupted
            dispatcher._fail(call, exc if interrupted is None else interrupted())
        except BaseException as exc:
            dispatcher._fail(call, exc)
        else:
            if call.delayed:
                return
            if call.solicited:
                dispatcher._answer(call, result, True)
            else:
                dispatcher._end(call)

    async def _stream(self, dispatcher: Dispatcher, call: CurrentCall, parts: Any, frame: Frame) -> None:
        dispatcher.open_window(call, frame)
        async for part in parts:
            while call._credit <= 0:
                await self._asyncio.sleep(0.002)
            with dispatcher.lock:
                call._credit -= 1
            dispatcher.send_part(call, part)
        dispatcher.end_stream(call)

    def stop(self) -> None:
        """Cancel what runs and end the thread; does not wait for it, unless it may."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._loop.stop)


def _wait_for(event: threading.Event) -> None:
    """Wait, and hear of an interrupt within a moment also where that cannot end the wait itself."""
    while not event.wait(HEAR_SECONDS):
        pass


__all__ = ["AsyncLoop"]
