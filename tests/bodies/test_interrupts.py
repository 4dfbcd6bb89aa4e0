"""An interrupt that does not end the system call which the main thread waits in."""

from __future__ import annotations

import pytest

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
