"""The parts of a call, as they come: the result that keeps them, and the iterator that a person gets.

Threads: the one that reads the wire puts a part into its result, the one that iterates takes it out, decodes it and
gives credit for more. Nothing here starts a thread.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Any

from epyrpc import codec, messages
from epyrpc.results import AsyncResult, CallState, current, size_of, stop_interrupted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from epyrpc.ids import TransactionId
    from epyrpc.messages import Frame


class PartsResult(AsyncResult):
    """The call behind a `Stream`: keeps the parts until they are taken, and gives credit for more."""

    # Invariant: _credit is the number of parts taken since the last CREDIT frame.

    plain = False  # the handler was no generator, and answered with one value
    parts = 0  # that have come

    def __init__(self, *call: Any, window: int) -> None:
        super().__init__(*call)
        self._parts: deque[Frame] = deque()
        self._window = window
        self._credit = 0
        self._part_lock = threading.Lock()

    def _add_part(self, frame: Frame) -> None:
        """Keep a part; runs on the reader."""
        self._call_state = CallState.STREAMING
        self.parts += 1
        self._received += size_of(frame)
        self._parts.append(frame)
        self.has_news = True
        if self.parkers:
            self._pump.wake_followers(self)

    def _take_part(self) -> Frame | None:
        """Wait for the next part and take it; None when the stream has ended."""
        try:
            return self._next_part()
        except KeyboardInterrupt as exc:
            stop_interrupted(self, exc)
            raise

    def _next_part(self) -> Frame | None:
        while True:
            settled = self.settled  # before the look at the parts: all of them came before the end
            try:
                frame = self._parts.popleft()
            except IndexError:
                if settled:
                    return None
            else:
                self._give_credit()
                return frame
            self._wait_for_news()
            self.has_news = False
            self._take_news()

    def _wait_for_news(self) -> None:
        self._waiting += 1
        job = current.get()
        if job is not None:
            outer, job.waiting_on = job.waiting_on, self  # for whoever asks why nothing moves, or cancels the job
        try:
            if job is not None:
                self._say_awaited()
            self._pump.wait(self, None)
        finally:
            self._waiting -= 1
            if job is not None:
                job.waiting_on = outer

    def _give_credit(self) -> None:
        with self._part_lock:
            self._credit += 1
            if self._credit < max(1, self._window // 2) or self.settled:
                return
            credit, self._credit = self._credit, 0
        self._owner.give_credit(self, credit)


class Stream:
    """The parts of a generator handler, as they come: an iterator, and an asynchronous one.

    The handler may run ahead of its reader by a number of parts (the ``window`` of the verb, 64), then it waits.
    Closing the stream, leaving its ``with`` block or dropping it stops the handler.

    Attributes
    ----------
    call : AsyncResult
        The call itself: its id, state, output, progress.
    """

    def __init__(self, call: PartsResult) -> None:
        self.call = call
        self._over = False

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        """Return the next part; waits for it, at most until the call's own deadline.

        Raises
        ------
        Exception
            What the handler raised, after the parts that came before it.
        """
        if self._over:
            raise StopIteration
        frame = self.call._take_part()
        if frame is not None:
            payload = frame.payload if not frame.flags & messages.PACKED else self.call._owner.unpack(frame.payload)
            return codec.decode(payload, frame.buffers)
        self._over = True
        value = self.call.result()
        if self.call.plain:
            return value  # a plain handler was streamed: its value is the one part
        raise StopIteration

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Any:
        import asyncio

        def step() -> tuple[bool, Any]:
            try:
                return True, next(self)
            except StopIteration:  # cannot cross into a coroutine
                return False, None

        more, value = await asyncio.to_thread(step)
        if not more:
            raise StopAsyncIteration
        return value

    @property
    def id(self) -> TransactionId:
        """The transaction's id."""
        return self.call.id

    @property
    def state(self) -> CallState:
        """What has become of the call."""
        return self.call.state

    def cancel(self) -> bool:
        """Stop the handler; False when it had ended."""
        return self.call.cancel()

    def close(self) -> None:
        """Stop the handler; parts that have come are dropped. Idempotent."""
        self._over = True
        self.call.cancel()
        self.call._parts.clear()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __del__(self) -> None:
        if not self.call.settled:
            # The collector may run this where the thread holds a lock that cancelling needs: so on another thread.
            self.call._pump.run_detached(self.call.cancel)

    def __repr__(self) -> str:
        return repr(self.call).replace("<AsyncResult", "<Stream", 1)
