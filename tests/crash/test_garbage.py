"""What is no frame, on the wire: the connection ends cleanly, at once, and memory stays bounded."""

from __future__ import annotations

import operator
import os
import random
import struct
import time

import psutil
import pytest

from epyrpc import Body, BodyError, BodyLost, CodecError, messages
from tests.bodies.tools import LIMIT, Busy, eventually

HEADER = messages.pack(messages.REPLY, 1, payload=b"")[0]


def garbage(kind: str) -> bytes:
    if kind == "text":
        return b"Traceback (most recent call last):\n" * 10
    if kind == "zeros":
        return bytes(1000)
    if kind == "random":
        return random.Random(1).randbytes(100_000)
    if kind == "huge":  # a header like ours that promises more than a frame may hold
        size = struct.pack("<Q", 1 << 62)
        return HEADER[:8] + size + HEADER[16:] + bytes(1000)
    raise ValueError(kind)


def write_to_the_wire(data: bytes) -> None:
    from epyrpc import head

    fd = head.api.transporter.details.outbound._writer.fileno()
    while data:
        try:
            data = data[os.write(fd, data) :]
        except BlockingIOError:
            time.sleep(0.001)


@pytest.mark.parametrize("kind", ["text", "zeros", "random", "huge"])
def test_garbage_from_a_body_ends_its_connection_cleanly(process: Body, kind: str) -> None:
    write = write_to_the_wire
    write.__module__ = "__main__"
    pending = Busy(process).start()
    before = psutil.Process().memory_info().rss
    pid = process.pid
    started = time.monotonic()
    with pytest.raises(BodyLost) as caught:
        process.call(write, garbage(kind))
    with pytest.raises(BodyLost):
        pending.result(LIMIT)
    assert time.monotonic() - started < 1
    assert isinstance(caught.value.__cause__, CodecError)
    assert "body 'worker' was ended: garbage on the wire: " in str(caught.value)
    assert "restart() brings it back" in str(caught.value)
    assert psutil.Process().memory_info().rss - before < 50_000_000
    eventually(lambda: not process.alive)
    assert pid is not None
    with pytest.raises(BodyLost, match="garbage on the wire"):
        process.call(operator.add, 1, 2)
    process.restart()
    assert process.call(operator.add, 1, 2) == 3


@pytest.mark.parametrize("kind", ["text", "zeros", "random", "huge"])
def test_garbage_from_the_head_ends_the_body_cleanly(process: Body, kind: str) -> None:
    pending = Busy(process).start()
    fd = process.transporter.details.outbound._writer.fileno()
    started = time.monotonic()
    assert os.write(fd, garbage(kind))
    with pytest.raises(BodyError):
        pending.result(LIMIT)
    with pytest.raises(BodyError):
        process.call(operator.add, 1, 2)
    eventually(lambda: not process.alive)
    assert time.monotonic() - started < 3
    process.restart()
    assert process.call(operator.add, 1, 2) == 3


@pytest.mark.parametrize("close", ["wire", "everything"])
def test_body_that_closes_its_descriptors_is_ended(process: Body, close: str) -> None:
    def close_all(close: str) -> None:
        from epyrpc import head

        details = head.api.transporter.details
        if close == "wire":
            os.close(details.outbound._writer.fileno())
            os.close(details.inbound._reader.fileno())
        else:
            os.closerange(3, 1000)

    started = time.monotonic()
    with pytest.raises(BodyError):
        process.call(close_all, close)
    assert time.monotonic() - started < 5
    eventually(lambda: not process.alive)
    process.restart()
    assert process.call(operator.add, 1, 2) == 3


def test_part_of_a_frame_and_death(process: Body) -> None:
    def begin_and_die(data: bytes) -> None:
        from epyrpc import head

        os.write(head.api.transporter.details.outbound._writer.fileno(), data)
        os._exit(4)

    frame = messages.pack(messages.REPLY, 12345, payload=bytes(500_000))
    whole = b"".join(bytes(piece) for piece in frame)
    for size in (1, 23, 24, 25, 1000, 300_000):
        with pytest.raises(BodyError) as caught:
            process.call(begin_and_die, whole[:size])
        # It is garbage if the body has said, between its two lines, that the call is running.
        assert isinstance(caught.value, BodyLost) or process.exitcode == 4
        process.restart()


def test_flood_of_frames_nobody_asked_for(process: Body) -> None:
    def flood(frame: bytes) -> None:
        from epyrpc import head

        for _ in range(20_000):
            head.api.transporter.wire.send([frame])

    before = psutil.Process().memory_info().rss
    process.call(flood, messages.pack(messages.REPLY, 999_999_999, payload=bytes(100))[0])
    transactions = process.transporter.transactions
    assert transactions.late == 20_000
    assert len(transactions) == 0
    assert psutil.Process().memory_info().rss - before < 50_000_000
    assert process.call(operator.add, 1, 2) == 3
