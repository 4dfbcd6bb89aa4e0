"""The traps into which the prototype of the wire fell, each shown to be absent.

Two readers at once: `test_wire.test_never_two_readers`, and every order of moves in `test_lead`. Ctrl-C: at random
moments and at every point in `test_interrupts`. The rest is here.
"""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import random
import signal
import threading
import time
from collections import deque
from concurrent.futures import CancelledError
from contextlib import contextmanager

import pytest

from epyrpc import ApiArb, ApiBase, HeadTransactionIdGenerator, QueueTransporter, TransactionManager, codec, messages
from epyrpc.errors import BodyDied, CodecError, TransactionError, TransportClosed, TransportDisconnected
from epyrpc.messages import pack
from epyrpc.testing import queue_pair
from epyrpc.transports.base import TransportState
from epyrpc.transports.queues import QueueTransportDetails
from tests.transports.peer_process import serve
from tests.transports.test_wire import LIMIT, ends, eventually, raw_peer

# ---- the end of the file -------------------------------------------------------------------------------------------


@contextmanager
def other_process(method="spawn"):
    """A head here, and a peer in another process."""
    details = QueueTransportDetails()
    ipc = QueueTransporter(details, TransactionManager(HeadTransactionIdGenerator()), name="head")
    head = ApiBase("t", ipc=ApiArb(ipc))
    inverted = details.invert()
    process = multiprocessing.get_context(method).Process(target=serve, args=(inverted,))
    process.start()
    inverted.release()
    try:
        ipc.connect(timeout=LIMIT)
        yield head, process
    finally:
        head.teardown()
        ipc.close()
        process.join(LIMIT)
        if process.is_alive():
            process.kill()
            process.join()
        process.close()


@contextmanager
def sleeper_forked_by(head, *, behind_our_back):
    pid = head.call("fork_a_sleeper", behind_our_back)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: not os.path.exists(f"/proc/{pid}") or _is_zombie(pid), "the sleeper lives")


def test_grandchild_forked_by_python_does_not_hide_the_death():
    """It closes our descriptors as it starts, so that the end of the file comes."""
    with other_process() as (head, _process), sleeper_forked_by(head, behind_our_back=False):
        started = time.monotonic()
        with pytest.raises(TransportDisconnected):
            head.call("kill_me")
        assert time.monotonic() - started < 2


def test_grandchild_forked_behind_our_back_does_not_hide_the_death():
    """It holds the pipe open, so that no end of file comes; whoever learns of the death ends the wire."""
    with other_process() as (head, process), sleeper_forked_by(head, behind_our_back=True):
        error = BodyDied("peer", process.pid, -signal.SIGKILL)
        outcome = []

        def call():
            try:
                head.call("kill_me")
            except BaseException as exc:
                outcome.append(exc)

        thread = threading.Thread(target=call, name="caller")
        thread.start()
        # Not join(): it waits for the end of a pipe that the sleeper holds open, too.
        eventually(lambda: process.exitcode == -signal.SIGKILL, "the peer lives")
        time.sleep(0.05)
        assert not outcome, "the end of the file was seen: this is not the trap"
        assert head.transporter.is_connected
        head.transporter.on_end = lambda transporter, exc: transporter.finish(error)
        started = time.monotonic()
        head.transporter.wire.end(EOFError("dead"))
        thread.join(LIMIT)
        assert time.monotonic() - started < 1
        assert outcome == [error]


def _is_zombie(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_killed_peer_is_seen_by_the_end_of_the_file():
    with other_process() as (head, _process):
        started = time.monotonic()
        with pytest.raises(TransportDisconnected):
            head.call("kill_me")
        assert time.monotonic() - started < 2
        assert head.transporter.state is TransportState.DISCONNECTED


def test_fork_in_a_handler_is_harmless():
    with other_process() as (head, _process):
        for n in range(10):
            assert head.call("fork_and_wait") == 7
            assert head.call("echo", n) == n


# ---- garbage -------------------------------------------------------------------------------------------------------


def garbage():
    chance = random.Random(5)
    yield "text", b'Traceback (most recent call last):\n  File "<stdin>", line 1\n'
    yield "zeros", bytes(100_000)
    yield "noise", chance.randbytes(300_000)
    yield "bad kind", messages._HEADER.pack(0xE9C2, 99, 0, 0, 0, 0, 0)
    yield "too long", messages._HEADER.pack(0xE9C2, 1, 0, 0, 0, 1 << 60, 0)
    yield "bad path", messages._HEADER.pack(0xE9C2, 2, 0, 2, 0, 2, 0) + b"\xff\xff"
    yield "noise after frames", pack(messages.PING, 1)[0] + chance.randbytes(5000)


@pytest.mark.parametrize("data", [pytest.param(data, id=what) for what, data in garbage()])
def test_garbage_ends_the_connection_cleanly(data):
    with raw_peer() as (head, peer):
        pending = head.submit("never")
        drained = threading.Event()

        def write():
            rest = memoryview(data)
            while rest and not drained.is_set():
                try:
                    rest = rest[os.write(peer.write_fd, rest) :]
                except BlockingIOError:
                    time.sleep(0.001)
                except BrokenPipeError:
                    return

        writer = threading.Thread(target=write, name="writer")
        writer.start()
        with pytest.raises(TransportDisconnected, match="garbage on the wire") as caught:
            pending.result(LIMIT)
        drained.set()
        writer.join(LIMIT)
        assert isinstance(caught.value.__cause__, CodecError)
        assert head.transporter.state is TransportState.DISCONNECTED
        assert not head.transporter.transactions.pending()
        with pytest.raises(TransportDisconnected):
            head.call("anything")


@pytest.mark.parametrize("kind", range(1, messages.LAST_KIND + 1), ids=lambda kind: messages.KIND_NAMES[kind])
def test_frames_that_make_no_sense_harm_nobody(kind, caplog):
    """Well-formed frames of every kind, with ids that nobody knows and payloads that are no pickle."""
    caplog.set_level(logging.CRITICAL)
    with ends() as (head, neck, _gate):
        link = neck.transporter.wire
        options = messages.CallOptions(-1.0, 2**63, 2**32 - 1)
        for tid in (0, 2**39, 2**64 - 1):
            for path in ("", "nobody", "t.echo", "_epyrpc.x", "..", "refused"):
                for flags in (0, messages.STREAM, messages.REPLY_OWED):
                    if kind in (messages.GOODBYE, messages.DISCONNECT):
                        continue  # they mean something
                    link.send(pack(kind, tid, path, b"no pickle", flags=flags))
                    link.send(pack(kind, tid, path, b"", options=options, flags=flags))
                    link.send(pack(kind, tid, path, b"x", buffers=[b"y"], flags=flags))
        assert head.call("echo", 1) == 1
        assert neck.call("echo", 2) == 2
        assert head.transporter.ping(LIMIT) < LIMIT


def test_frames_that_lie_about_a_call_fail_that_call_only(caplog):
    caplog.set_level(logging.CRITICAL)
    with ends() as (head, neck, gate):
        other = head.submit("wait")
        for kind in (messages.REPLY, messages.ERROR, messages.PART, messages.CHUNK, messages.NOTE, messages.PACKED):
            pending = head.submit("wait")
            flags = messages.PACKED if kind == messages.PACKED else 0
            kind = messages.REPLY if flags else kind
            neck.transporter.wire.send(pack(kind, int(pending.id), "output", b"no pickle", flags=flags))
            head.transporter.ping(LIMIT)
            if kind in (messages.REPLY, messages.ERROR, messages.CHUNK):
                assert pending.exception(LIMIT) is not None
            else:
                assert not pending.done()
                pending.cancel()
        assert not other.done()
        gate.set()
        assert other.result(LIMIT)


# ---- a peer that dies in the middle of a frame ---------------------------------------------------------------------


def test_frame_cut_off_at_every_byte():
    """What was whole is delivered, what was not fails its call, at each of its bytes."""
    payload, buffers = codec.encode_value(list(range(10)))
    for cut in range(0, messages.HEADER_SIZE + len(payload), 1):
        with raw_peer() as (head, peer):
            whole, broken = head.submit("x"), head.submit("x")
            first = pack(messages.REPLY, int(whole.id), "", payload, buffers=buffers)[0]
            second = pack(messages.REPLY, int(broken.id), "", payload, buffers=buffers)[0]
            os.write(peer.write_fd, first + second[:cut])
            peer._writer.close()
            assert whole.result(LIMIT) == list(range(10))
            with pytest.raises(TransportDisconnected):
                broken.result(LIMIT)


def test_large_frame_cut_off():
    value = os.urandom(2_000_000)
    payload, buffers = codec.encode_value(value)
    data = b"".join(bytes(piece) for piece in pack(messages.REPLY, 0, "", payload, buffers=buffers))
    for cut in (messages.HEADER_SIZE - 1, messages.HEADER_SIZE, 300_000, len(data) - 1):
        with raw_peer() as (head, peer):
            pending = head.submit("x")
            pieces = pack(messages.REPLY, int(pending.id), "", payload, buffers=buffers)
            frame = b"".join(bytes(piece) for piece in pieces)[:cut]
            outbox = deque([frame])
            while not peer.send(outbox):
                peer.wait_writable(0.1)
            peer._writer.close()
            with pytest.raises(TransportDisconnected):
                pending.result(LIMIT)


# ---- interrupts ----------------------------------------------------------------------------------------------------


def test_frame_half_written_at_an_interrupt_is_finished():
    """The main thread waits for room, and is interrupted: the rest leaves when there is room, then the next."""
    head_ipc, neck_ipc = queue_pair(connect=False)
    head, neck = ApiBase("t", ipc=ApiArb(head_ipc)), ApiBase("t", ipc=ApiArb(neck_ipc))
    seen = []
    neck.set_handler("take", lambda value: seen.append(len(value)))
    main = threading.main_thread().ident
    killer = threading.Timer(0.1, lambda: signal.pthread_kill(main, signal.SIGINT))
    try:
        head_ipc.connect()
        time.sleep(0.01)  # an event that follows another frame closely would wait for company, and not be written here
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012 - whatever comes, it is raised in here
            killer.start()
            head.take(bytes(5_000_000))(solicited=False)
            killer.join()
        assert head_ipc.wire.link.has_partial
        neck_ipc.connect()
        head.take(b"")(solicited=False)
        eventually(lambda: len(seen) == 2, "the frame was never finished")
        assert seen == [5_000_000, 0]
    finally:
        killer.join()
        for api in (head, neck):
            api.teardown()
        for ipc in (head_ipc, neck_ipc):
            ipc.close()


def test_call_in_a_signal_handler_below_which_the_thread_reads():
    """The main thread sleeps as the reader, and a signal handler of the user's makes a call: it is told so."""
    with ends() as (head, _neck, gate):
        refused = []

        def on_signal(signum, frame):
            try:
                head.call("echo", "from the handler")
            except TransactionError as exc:
                refused.append(str(exc))
            gate.set()

        before = signal.signal(signal.SIGINT, on_signal)
        main = threading.main_thread().ident
        killer = threading.Timer(0.1, lambda: signal.pthread_kill(main, signal.SIGINT))
        try:
            for n in range(100):  # so that this thread is the reader when it waits
                assert head.call("echo", n) == n
            killer.start()
            assert head.call("wait")
        finally:
            signal.signal(signal.SIGINT, before)
            killer.join()
        assert len(refused) == 1
        assert "signal handler" in refused[0]
        assert head.call("echo", 1) == 1
        assert not head.transporter.transactions.pending()


def test_close_in_a_signal_handler_below_which_the_thread_reads():
    """As a SIGTERM handler does that stops everything: it must not wait for the very thread that it runs in."""
    with ends() as (head, _neck, _gate):
        before = signal.signal(signal.SIGTERM, lambda *_: head.transporter.close())
        main = threading.main_thread().ident
        killer = threading.Timer(0.1, lambda: signal.pthread_kill(main, signal.SIGTERM))
        try:
            killer.start()
            with pytest.raises(TransportClosed):
                head.call("wait")
            assert head.transporter.is_finished
        finally:
            signal.signal(signal.SIGTERM, before)
            killer.join()


# ---- finalizers ----------------------------------------------------------------------------------------------------


def test_stream_that_the_garbage_collector_drops_at_any_moment():
    """Its finalizer runs on any thread, between any two lines, also while that thread holds a lock of ours."""
    with ends() as (head, neck, _gate):
        neck.set_handler("parts", lambda: iter_for_ever())

        def iter_for_ever():
            n = 0
            while True:
                yield n
                n += 1

        def drop():
            stream = head.stream("parts")
            next(stream)
            knot = [stream]
            knot.append(knot)  # only the collector will find it

        threshold = gc.get_threshold()
        over = time.monotonic() + 1.0

        def work():
            gc.collect()
            gc.set_threshold(5, 2, 2)
            while time.monotonic() < over:
                drop()
                for n in range(5):
                    assert head.echo(n)(timeout=LIMIT) == n
                head.submit("echo", 1).cancel()

        thread = threading.Thread(target=work, name="worker", daemon=True)
        try:
            thread.start()
            thread.join(LIMIT)
        finally:
            gc.set_threshold(*threshold)
        assert not thread.is_alive(), "a finalizer waits for a lock that its own thread holds"
        gc.collect()
        eventually(lambda: not head.transporter.transactions.pending(), "streams are left")


def test_cancel_of_a_stream_from_a_finalizer_under_the_locks():
    """The same without chance: the finalizer's work is done by a thread that holds the lock of the lead."""
    with ends() as (head, neck, gate):
        neck.set_handler("parts", lambda: (gate.wait(LIMIT) for _ in range(3)))
        stream = head.stream("parts")
        call = stream.call
        done = threading.Event()

        def finalize():
            with head.transporter.wire.lead.lock, head.transporter.transactions._deadline_lock:
                stream.__del__()
            done.set()

        thread = threading.Thread(target=finalize, name="finalizer", daemon=True)
        thread.start()
        finished = done.wait(2)
        assert finished, "a finalizer waits for a lock that its own thread holds"
        with pytest.raises(CancelledError):
            call.result(LIMIT)
