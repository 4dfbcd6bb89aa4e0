"""One end's reading and writing: `transports.wire` over real pipes."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import deque
from contextlib import contextmanager, suppress

import pytest

from epyrpc import ApiArb, ApiBase, current_call, messages
from epyrpc.codec import dump_plain
from epyrpc.errors import TransactionTimeout, TransportClosed, TransportDisconnected
from epyrpc.messages import pack
from epyrpc.testing import memory_pair, queue_pair
from epyrpc.transports.queues import QueueTransportDetails
from epyrpc.transports.wire import OUTBOX_FRAMES, my_parker

LIMIT = 20


@contextmanager
def ends(make=queue_pair, workers=2, **options):
    """Both ends with an api each, closed at last; `gate` opens what handlers wait for."""
    head_ipc, neck_ipc = make(**options)
    head = ApiBase("t", ipc=ApiArb(head_ipc), workers=workers)
    neck = ApiBase("t", ipc=ApiArb(neck_ipc), workers=workers)
    gate = threading.Event()
    for api in (head, neck):
        api.set_handler("echo", lambda value: value)
        api.set_handler("wait", lambda: gate.wait(LIMIT))
    try:
        yield head, neck, gate
    finally:
        gate.set()
        for api in (head, neck):
            api.teardown()
        for ipc in (head_ipc, neck_ipc):
            ipc.close()


def eventually(truth, what, limit=LIMIT):
    end = time.monotonic() + limit
    while not truth():
        assert time.monotonic() < end, what
        time.sleep(0.001)


def run_all(*jobs, limit=LIMIT):
    """Run the jobs at once, each in a thread; raise what one of them raised; fail when one does not end."""
    failed = []

    def run(job):
        try:
            job()
        except BaseException as exc:
            failed.append(exc)

    threads = [threading.Thread(target=run, args=(job,), name="job", daemon=True) for job in jobs]
    for thread in threads:
        thread.start()
    end = time.monotonic() + limit
    for thread in threads:
        thread.join(max(0, end - time.monotonic()))
    if failed:
        raise failed[0]
    assert not any(thread.is_alive() for thread in threads), "a thread is stuck"


def watch_readers(ipc, wrong):
    """Note it when two threads are about to read at once, or when one is that does not lead."""
    wire, inside = ipc.wire, threading.Lock()

    def watched(real):
        def read(*args):
            alone = inside.acquire(False)
            if not alone:
                wrong.append("two readers at once")
            if wire.lead.state != "reading" and not wire.over:
                wrong.append(f"reading while the lead is {wire.lead.state}")
            try:
                return real(*args)
            finally:
                if alone:
                    inside.release()

        return read

    link = wire.link
    if link.is_pipe:  # `receive` and `api.straight` both go through these
        link.wait_readable = watched(link.wait_readable)
        link.looker._poll = watched(link.looker._poll)
    else:
        link.receive = watched(link.receive)


# ---- reading -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [queue_pair, memory_pair])
@pytest.mark.parametrize("workers", [1, 4])
def test_never_two_readers(make, workers):
    """Everything at once: calls, calls that call back, callbacks, deadlines, cancels, streams, events; both ways."""
    wrong = []
    with ends(make, workers=workers) as (head, neck, _gate):
        for api in (head, neck):
            watch_readers(api.transporter, wrong)
        deep = workers > 1
        counted = {head: [], neck: []}
        for api in (head, neck):
            api.set_handler("slow", lambda: time.sleep(0.003))
            api.set_handler("parts", lambda n: (i for i in range(n)))
            api.set_handler("note", counted[api].append)
            if deep:
                api.set_handler("back", lambda n, api=api: api.call("echo", n))
        over = time.monotonic() + 1.5
        sent = {head: 0, neck: 0}
        called_back = []

        def calls(api, seed):
            chance = random.Random(seed)
            while time.monotonic() < over:
                value = chance.random()
                assert api.call("echo", value) == value
                if deep and chance.random() < 0.3:
                    assert api.call("back", value) == value

        def mixture(api, seed):
            chance = random.Random(seed)
            while time.monotonic() < over:
                kind = chance.randrange(5)
                if kind == 0:
                    api.echo(1)(callback=lambda _id, value: called_back.append(value))
                elif kind == 1:
                    with suppress(TransactionTimeout):
                        api.slow()(timeout=0.003)
                elif kind == 2:
                    api.submit("slow").cancel()
                elif kind == 3:
                    assert list(api.stream("parts", 10)) == list(range(10))
                else:
                    value = bytes(chance.randrange(100_000))
                    assert api.submit("echo", value).result(LIMIT) == value

        def events(api):
            while time.monotonic() < over:
                api.note(sent[api])(solicited=False)
                sent[api] += 1
                if sent[api] % 50 == 0:
                    time.sleep(0.001)

        run_all(
            *(lambda api=api, n=n: calls(api, n) for api in (head, neck) for n in range(2)),
            *(lambda api=api: mixture(api, 7) for api in (head, neck)),
            *(lambda api=api: events(api) for api in (head, neck)),
            limit=60,
        )
        for api, other in ((head, neck), (neck, head)):
            eventually(lambda api=api, other=other: len(counted[other]) == sent[api], "events were lost")
            if workers == 1:
                assert counted[other] == list(range(sent[api]))
            eventually(lambda api=api: not api.transporter.transactions.pending(), "something is left pending")
            api.transporter.wire.lead.validate()
        assert set(called_back) <= {1}
    assert wrong == []


@pytest.mark.parametrize("make", [queue_pair, memory_pair])
def test_ends_work_from_the_first_moment(make):
    """Constructed, published, started, in this order: what comes at once may use the wire at once."""
    for _ in range(30):
        with ends(make, connect=False) as (head, neck, _gate):
            answers = []
            neck.set_handler("up", lambda n, neck=neck: neck.call("echo", n))
            head.transporter.connect()
            results = [head.submit("up", n) for n in range(3)]
            head.ping_seen = head.transporter.peer_seen
            neck.transporter.connect()
            answers = [result.result(LIMIT) for result in results]
            assert answers == [0, 1, 2]


def test_frame_that_cannot_be_delivered_does_not_end_the_wire(caplog):
    with ends() as (head, neck, _gate):
        wire = neck.transporter.wire
        real = wire._sinks[messages.RAW]
        wire._sinks[messages.RAW] = lambda frame: 1 / 0
        head.send_raw("boom")
        assert head.call("echo", 1) == 1
        wire._sinks[messages.RAW] = real
        assert "could not be delivered" in caplog.text


def test_reply_nobody_waits_for_is_noticed_soon():
    with ends() as (head, _neck, _gate):
        for pause in (0, 0.0005, 0.002, 0.05) * 5:
            time.sleep(pause)
            result = head.submit("echo", 1)
            eventually(result.done, "a reply that nobody waits for was not read within a second", limit=1)


def test_slow_handler_that_leads_holds_nobody_up():
    """The worker that read the call still holds the lead while its handler sleeps; others are served all the same."""
    with ends(workers=2) as (head, _neck, gate):
        blocked = head.submit("wait")
        for n in range(20):
            started = time.monotonic()
            assert head.call("echo", n) == n
            assert time.monotonic() - started < 1
        assert head.transporter.ping(LIMIT) < 1
        gate.set()
        assert blocked.result(LIMIT)


# ---- writing -------------------------------------------------------------------------------------------------------


@contextmanager
def raw_peer():
    """One whole end, and the bare link of the other, which reads and writes only when told to."""
    details = QueueTransportDetails()
    head_ipc, _ = queue_pair(details, connect=False)
    peer = details.invert().open()
    head_ipc.connect()
    head = ApiBase("t", ipc=ApiArb(head_ipc))
    try:
        yield head, peer
    finally:
        head.teardown()
        head_ipc.close(linger=0)
        peer.close()


def test_rest_of_a_large_frame_is_written_although_the_standby_looked_while_its_beginning_was():
    with raw_peer() as (head, peer):
        wire = head.transporter.wire
        send, me, begun = wire.link.send, threading.current_thread(), threading.Event()
        caller = my_parker()

        def send_beside_the_standby(outbox):
            if threading.current_thread() is not me:
                return send(outbox) if begun.is_set() else False
            if not begun.is_set():
                pieces = list(outbox)
                outbox.clear()  # as if they were being written
                wire.need_tick()
                eventually(lambda: wire._standby_reads and not wire._poked, "the standby does not read")
                outbox.extend(pieces)
                begun.set()
            return send(outbox)

        got, ended = [], threading.Event()

        def read():
            assert begun.wait(LIMIT)
            lead = wire.lead  # the pipe stays full until the caller waits for the reply, as a follower or as the reader
            eventually(lambda: caller in lead.followers or lead.holder is caller, "the caller does not wait")
            while not ended.is_set():
                for frame in peer.receive(0.05, None):
                    if frame.kind == messages.CALL:
                        got.append(frame)
                        os.write(peer.write_fd, b"".join(pack(messages.REPLY, frame.transaction_id, "", dump_plain(7))))

        wire.link.send = send_beside_the_standby
        call = head.submit("size", bytes(4_000_000))
        reader = threading.Thread(target=read)
        reader.start()
        try:
            assert call.result(LIMIT) == 7
        finally:
            ended.set()
            reader.join(LIMIT)
            wire.link.send = send
        assert len(got) == 1


def fill_pipe(head, peer):
    """Fill the pipe from `head` to the last byte, with whole frames and nothing left over; return their number."""
    wire, count = head.transporter.wire, 0
    frame = pack(messages.EVENT, 0, "x", bytes(4096 - messages.HEADER_SIZE - 1))
    assert len(frame[0]) == 4096  # a page: written whole or not at all
    eventually(lambda: not wire._unwritten, "the greeting did not leave")
    drain(peer)
    while True:
        if not wire.link.send(deque([b""])):
            raise AssertionError("the link holds something back")
        before = len(wire._outbox)
        wire.send(list(frame), may_block=False)
        count += 1
        if wire._outbox or wire.link.has_partial:
            break
        assert before == 0
        assert count < 1000
    return count


def call_in_vain(api):
    with pytest.raises(TransportClosed):
        api.call("never")


def drain(peer, limit=0.2):
    frames = []
    while got := peer.receive(limit, None):
        frames += got
    return frames


def test_what_the_reader_could_not_write_leaves_when_there_is_room():
    """A caller reads, and must answer a ping while the pipe is full: nobody else comes along to write the rest."""
    with raw_peer() as (head, peer):
        waiting = threading.Thread(target=call_in_vain, args=(head,), name="caller")
        waiting.start()
        wire = head.transporter.wire
        eventually(lambda: wire.lead.state == "reading", "nobody reads")
        time.sleep(0.05)
        fill_pipe(head, peer)
        time.sleep(0.05)  # by now the standby has seen that there is nothing to do
        peer.send(deque(pack(messages.PING, 77)))
        eventually(lambda: len(wire._outbox) >= 1, "the ping was not answered")
        frames = []
        end = time.monotonic() + 5
        while not any(f.kind == messages.PONG for f in frames) and time.monotonic() < end:
            frames += peer.receive(0.1, None)
        assert any(f.kind == messages.PONG and f.transaction_id == 77 for f in frames), "the answer never left"
        head.transporter.close(linger=0)
        waiting.join(LIMIT)
        assert not waiting.is_alive()


def test_who_may_not_block_leaves_the_rest_to_the_standby():
    with raw_peer() as (head, peer):
        wire = head.transporter.wire
        fill_pipe(head, peer)
        wire.send(pack(messages.PING, 5), may_block=False)
        frames = []
        end = time.monotonic() + 5
        while not any(f.kind == messages.PING for f in frames) and time.monotonic() < end:
            frames += peer.receive(0.1, None)
        assert frames[-1].transaction_id == 5


def test_senders_wait_for_room_however_many_they_are():
    """A flood is held up, not stored: whoever finds another one writing waits as well."""
    with raw_peer() as (head, _peer):
        wire = head.transporter.wire
        payload = bytes(100_000)
        over = threading.Event()

        def flood():
            with suppress(TransportClosed, TransportDisconnected):
                while not over.is_set():
                    wire.send(pack(messages.EVENT, 0, "x", payload))

        threads = [threading.Thread(target=flood, name="flood") for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.6)
        stored = len(wire._outbox)
        over.set()
        head.transporter.close(linger=0)
        for thread in threads:
            thread.join(LIMIT)
        assert stored < 400, f"{stored} frames wait in memory for a peer that does not read"


def test_sender_waits_for_another_ones_writing_without_spinning(monkeypatch):
    """While the pipe has room there is nothing to ask it for: who asked came back at once, thousands of times."""
    with raw_peer() as (head, peer):
        wire, looks = head.transporter.wire, []
        has_room = wire.link.wait_writable
        monkeypatch.setattr(wire.link, "wait_writable", lambda timeout: looks.append(1) or has_room(timeout))
        wire._write_lock.acquire()  # somebody writes, and goes on when it gets the processor again
        sender = threading.Thread(
            target=lambda: [wire.send(pack(messages.EVENT, 0, "x", b"")) for _ in range(2 * OUTBOX_FRAMES)]
        )
        sender.start()
        eventually(lambda: wire._blocked_writers, "the sender does not wait")
        time.sleep(0.1)
        assert sender.is_alive()
        wire._write_lock.release()
        sender.join(LIMIT)
        assert not sender.is_alive()
        assert looks == []
        eventually(lambda: not wire._outbox, "what was sent has not left")
        frames = []
        while len([f for f in frames if f.kind == messages.EVENT]) < 2 * OUTBOX_FRAMES:
            frames += peer.receive(LIMIT, None)


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="no signal can be sent to one thread here")
def test_interrupt_reaches_a_sender_that_waits_for_another_ones_writing():
    with raw_peer() as (head, _peer):
        wire = head.transporter.wire
        wire._write_lock.acquire()
        main = threading.get_ident()

        def interrupt():
            eventually(lambda: wire._blocked_writers, "the sender does not wait")
            signal.pthread_kill(main, signal.SIGINT)

        interrupter = threading.Thread(target=interrupt)
        interrupter.start()

        def send_on():
            while True:
                wire.send(pack(messages.EVENT, 0, "x", b""))

        with pytest.raises(KeyboardInterrupt):
            send_on()
        interrupter.join(LIMIT)
        wire._write_lock.release()
        assert wire._blocked_writers == 0
        wire.send(pack(messages.PING, 5))
        eventually(lambda: not wire._outbox, "what was sent has not left")


def test_call_with_a_limit_keeps_it_while_the_pipe_is_full():
    with raw_peer() as (head, _peer):
        started = time.monotonic()
        with pytest.raises(TransactionTimeout):
            head.echo(bytes(3_000_000))(timeout=0.2)
        assert time.monotonic() - started < 2


def test_standbys_of_both_ends_never_wait_for_room_at_once():
    """Calls with large arguments both ways, nobody waiting for them: only the standbys read, so they must not block."""
    with ends(workers=2) as (head, neck, _gate):
        for api in (head, neck):
            api.set_handler("slow", lambda value: time.sleep(0.02) or len(value))
        payload = bytes(1_000_000)
        results = {head: [], neck: []}

        def submit(api):
            for _ in range(30):
                results[api].append(api.submit("slow", payload))

        run_all(lambda: submit(head), lambda: submit(neck), limit=30)
        for api in (head, neck):
            for result in results[api]:
                eventually(result.done, "a call is stuck")
                assert result.result() == len(payload)


def test_output_floods_both_ways_do_not_lock_up(monkeypatch):
    monkeypatch.setattr("epyrpc.results.make_output_sink", lambda: lambda stream, text: None)
    with ends(workers=2) as (head, neck, _gate):

        def talk(n):
            for _ in range(n):
                current_call().write("stdout", "x" * 20_000)
            return n

        for api in (head, neck):
            api.set_handler("talk", talk)
        for result in [api.submit("talk", 150) for api in (head, neck) for _ in range(2)]:
            assert result.result(LIMIT) == 150
            kept = len(result.stdout)
            assert 900_000 < kept < 1_100_000, "the newest million characters are kept"


# ---- the end -------------------------------------------------------------------------------------------------------


def test_what_came_before_the_end_is_delivered():
    with raw_peer() as (head, peer):
        results = [head.submit("x") for _ in range(5)]
        drain(peer)
        from epyrpc import codec

        for result in results[:4]:
            payload, _ = codec.encode_value(int(result.id))
            peer.send(deque(pack(messages.REPLY, int(result.id), "", payload)))
        head.transporter.wire.end(TransportDisconnected("the process is dead"))
        assert [result.result(LIMIT) for result in results[:4]] == [int(result.id) for result in results[:4]]
        with pytest.raises(TransportDisconnected):
            results[4].result(LIMIT)


def test_end_from_outside_while_somebody_reads():
    """The reader sleeps in the kernel, and nothing will come: it is woken."""
    with raw_peer() as (head, _peer):
        outcome = []

        def call():
            try:
                head.call("never")
            except TransportDisconnected as exc:
                outcome.append(exc)

        thread = threading.Thread(target=call, name="caller")
        thread.start()
        wire = head.transporter.wire
        eventually(lambda: wire.lead.state == "reading", "nobody reads")
        started = time.monotonic()
        wire.end(EOFError("dead"))
        thread.join(LIMIT)
        assert outcome
        assert time.monotonic() - started < 1
        assert wire.over


@pytest.mark.parametrize("where", ["callback", "handler", "listener"])
@pytest.mark.parametrize("make", [queue_pair, memory_pair])
def test_close_from_anywhere(make, where):
    with ends(make) as (head, neck, _gate):
        closed = threading.Event()

        def close(*_):
            head.transporter.close()
            closed.set()

        if where == "callback":
            head.echo(1)(callback=close)
        elif where == "handler":
            head.set_handler("close", close)
            neck.action("close")(solicited=False)
        else:
            from epyrpc import TransportListener

            class Listener(TransportListener):
                def transport_state_changed(self, state):
                    close()

            head.transporter.add_listener(Listener())
            neck.transporter.disconnect()
        assert closed.wait(LIMIT)
        assert head.transporter.is_finished


def test_close_by_many_threads_at_once():
    with ends() as (head, _neck, _gate):
        run_all(*(head.transporter.close for _ in range(6)))
        assert head.transporter.is_finished


def test_close_ends_threads_that_wait_for_room_and_for_replies():
    with raw_peer() as (head, _peer):
        ended = []

        def use(work):
            try:
                work()
            except (TransportClosed, TransportDisconnected) as exc:
                ended.append(exc)

        jobs = [lambda: head.call("never"), lambda: head.action("x", bytes(5_000_000))(solicited=False)]
        threads = [threading.Thread(target=use, args=(job,), name="user") for job in jobs * 2]
        for thread in threads:
            thread.start()
        time.sleep(0.1)
        head.transporter.close(linger=0)
        for thread in threads:
            thread.join(LIMIT)
        assert not any(thread.is_alive() for thread in threads)
        assert len(ended) >= 2


def test_idle_wire_sleeps():
    """No ticks while nothing moves: neither end's standby looks around."""
    with ends() as (head, neck, _gate):
        assert head.call("echo", 1) == 1
        time.sleep(0.1)
        ticks = []
        for api in (head, neck):
            wire = api.transporter.wire
            real = wire._timers
            wire._timers = lambda now, real=real: ticks.append(now) or real(now)
        time.sleep(0.5)
        assert len(ticks) <= 2
