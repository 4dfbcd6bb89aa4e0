"""SIGKILL of the head under load: its bodies are gone within a second, and nothing is left of them."""

from __future__ import annotations

import os
import random
import select
import signal
import time

import pytest

from tests.bodies.tools import LIMIT, PROCESSES, head, is_alive, read_line

CODE = """
import threading
import epyrpc
from tests.crash.test_kills import Load, handlers_of

bodies = []
for name in ("first", "second"):
    body = epyrpc.spawn(name, workers=4, start_method={method!r})
    handlers_of(body)
    bodies.append(body)
loads = [Load(body) for body in bodies]
for load in loads:
    for _ in load.threads:
        load.begun.acquire()
print(*[body.pid for body in bodies], flush=True)
threading.Event().wait()
"""


@pytest.mark.parametrize("round_", range(5))
@pytest.mark.parametrize("method", PROCESSES)
def test_bodies_of_a_killed_head_are_gone_within_a_second(method: str, round_: int) -> None:
    before = set(os.listdir("/dev/shm"))
    with head("", "-c", CODE.format(method=method)) as process:
        pids = [int(word) for word in read_line(process).split()]
        watches = [os.pidfd_open(pid) for pid in pids]
        try:
            time.sleep(random.Random(round_).uniform(0, 0.03))
            process.kill()
            assert process.wait(LIMIT) == -signal.SIGKILL
            ended = time.monotonic()
            for watch in watches:
                left = max(0.0, ended + 1 - time.monotonic())
                assert select.select([watch], [], [], left)[0], "a body lives on"
        finally:
            for watch in watches:
                os.close(watch)
    assert not any(is_alive(pid) for pid in pids)
    assert not [name for name in set(os.listdir("/dev/shm")) - before if "epyrpc" in name]
