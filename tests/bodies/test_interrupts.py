"""Interrupts at awkward moments: one that does not end the system call which waits, one while a call is being sent."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import epyrpc
from epyrpc import results
from epyrpc.api import straight
from epyrpc.transports.wire import Wire
from tests.bodies.tools import finish, head


@pytest.mark.parametrize("wait", ["worker.call(hold)", "worker.submit(hold).result(60)"], ids=["call", "limited"])
@pytest.mark.parametrize("others", [0, 1], ids=["alone", "beside-another-thread"])
def test_signal_taken_by_another_thread_is_heard_soon(wait: str, others: int) -> None:
    # As one that comes between Python's last look for signals and the system call.
    with head(f"""
        import epyrpc, signal, threading, time
        with epyrpc.spawn("worker") as worker:
            def hold():
                from epyrpc import head
                head.emit.begun()
                import time
                time.sleep(60)
            signalled = []
            def take_signal():
                def late():
                    time.sleep(0.2)  # by now the main thread is inside its wait; if not, there is less to be heard
                    signalled.append(time.monotonic())
                    signal.pthread_kill(threading.get_ident(), signal.SIGINT)
                threading.Thread(target=late).start()
            for _ in range({others}):
                other = worker.submit(time.sleep, 8)
                threading.Thread(target=other.exception, daemon=True).start()
            worker.on("begun", take_signal)
            try:
                {wait}
            except KeyboardInterrupt:
                print(time.monotonic() - signalled[0] < 5)
    """) as process:
        assert finish(process) == "True\n"


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda worker, slow: worker.call.maths.slow(), id="call"),
        pytest.param(lambda worker, slow: worker.call(timeout=60).maths.slow(), id="options"),
        pytest.param(lambda worker, slow: worker.call(slow), id="closure"),
        pytest.param(lambda worker, slow: worker.submit.maths.slow(), id="submit"),
        pytest.param(lambda worker, slow: worker.submit(retry=1).maths.slow(), id="retry"),
        pytest.param(lambda worker, slow: worker.stream.maths.slow(), id="stream"),
    ],
)
def test_call_interrupted_while_it_is_sent_is_stopped_and_told_of(
    worker: epyrpc.Body, monkeypatch: pytest.MonkeyPatch, make: Callable[..., object]
) -> None:
    def slow() -> None:
        epyrpc.head.emit.begun()
        while not epyrpc.current_call().cancelled:
            time.sleep(0.001)
        epyrpc.head.emit.stopped()

    begun, stopped, told = threading.Event(), threading.Event(), []
    worker.set_handler("maths.slow", slow)
    worker.on("begun", begun.set)
    worker.on("stopped", stopped.set)
    monkeypatch.setattr(results, "on_raise", lambda result, exc: told.append((result, exc)))

    with pytest.MonkeyPatch.context() as sends:

        def send_and_be_interrupted(wire: Wire, frame: bytes | list[Any], *args: Any, **kwargs: Any) -> None:
            sends.undo()  # what is sent to stop the call is not interrupted
            wire.send([frame] if isinstance(frame, bytes) else frame)
            assert begun.wait(10)
            raise KeyboardInterrupt

        def write_and_be_interrupted(fd: int, data: bytes) -> int:
            sends.undo()
            assert os.write(fd, data) == len(data)
            assert begun.wait(10)
            raise KeyboardInterrupt

        def cork_and_be_interrupted(wire: Wire) -> bool:
            sends.undo()
            wire.send_outbox()
            assert begun.wait(10)
            raise KeyboardInterrupt

        sends.setattr(Wire, "cork", cork_and_be_interrupted)
        for name in ("send", "send_and_wait"):
            sends.setattr(Wire, name, send_and_be_interrupted)
        sends.setattr(straight, "write", write_and_be_interrupted)
        with pytest.raises(KeyboardInterrupt) as caught:
            make(worker, slow)
    assert stopped.wait(10)
    calls = [result for result, exc in told if result is not None and exc is caught.value]
    assert calls
    assert all(call.cancelled() for call in calls)
    assert told[-1] == (None, caught.value)
