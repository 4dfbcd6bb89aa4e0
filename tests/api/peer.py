"""One end of a connection as a bare link, for tests that say byte by byte what comes over it."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

from epyrpc import ApiArb, ApiBase, QueueTransportDetails, codec
from epyrpc.messages import CALL, EVENT, NOTE, REPLY, pack
from epyrpc.testing import queue_pair
from tests.api.ends import LIMIT


class Peer:
    """The other end as a bare link, whose thread answers each call as it is told to, and keeps all other frames."""

    def __init__(self, workers: int = 1) -> None:
        details = QueueTransportDetails()
        self.ipc, _ = queue_pair(details, connect=False)
        self.link: Any = details.invert().open()
        self.ipc.connect()
        self.head = ApiBase("t", ipc=ApiArb(self.ipc), workers=workers)
        self.gone = False
        self.heard: list[int] = []
        self.came: list[Any] = []
        self.head.set_handler("tell", self.heard.append)
        self._answers: list[Callable[[int], Iterator[bytes] | None]] = []
        self._thread = threading.Thread(target=self._serve)

    def _serve(self) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                for frame in self.link.receive(LIMIT, None):
                    if frame.kind == CALL:
                        for data in self._answers.pop(0)(frame.transaction_id) or ():
                            self.write(data)
                    else:
                        self.came.append(frame)

    def write(self, data: bytes) -> None:
        assert os.write(self.link.write_fd, data) == len(data)

    def hang_up(self) -> None:
        if not self.gone:
            self.gone = True
            self.link.close()

    def answer(self, *answers: Callable[[int], Any]) -> None:
        self._answers += answers

    def __enter__(self) -> Peer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.head.teardown()
        self.ipc.close(linger=0)
        self._thread.join(LIMIT)
        self.hang_up()


def reply(tid: int, value: Any = "mine") -> bytes:
    return b"".join(pack(REPLY, tid, "", codec.dump_plain(value)))


def note(tid: int, text: str) -> bytes:
    return b"".join(pack(NOTE, tid, "output", codec.dump_plain(("stdout", text))))


def event(value: int, path: str = "t.tell") -> bytes:
    return b"".join(pack(EVENT, 0, path, codec.dump_plain(((value,), {}))))


def events(values: Any, path: str = "t.tell") -> bytes:
    return b"".join(event(value, path) for value in values)


def call(tid: int, value: int, path: str = "t.tell") -> bytes:
    return b"".join(pack(CALL, tid, path, codec.dump_plain(((value,), {}))))
