"""What a transport promises, as checks that any transport can be put to; `epyrpc.testing` gives them to everybody.

It needs no test framework; each check makes a pair of ends of its own, and says in its `AssertionError` what was
promised and what was found.
"""

from __future__ import annotations

import gc
import os
import threading
from concurrent.futures import CancelledError
from contextlib import contextmanager
from functools import partial
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

from epyrpc import messages
from epyrpc.api.base import ApiBase
from epyrpc.errors import (
    ApiParamError,
    ConnectionTimeout,
    EpyrpcError,
    IpcError,
    TransactionTimeout,
    TransportClosed,
    TransportDisconnected,
)
from epyrpc.transports.base import TransportListener, TransportState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from epyrpc.messages import Frame
    from epyrpc.transports.base import Transporter

    MakePair = Callable[[], tuple[Any, ...]]

__all__ = ["TRANSPORT_CHECKS", "check_transport"]

PATIENCE = 30.0  # seconds that a check waits for something that must come


def check_transport(make_pair: MakePair, *, only: str | None = None) -> None:
    """Check that a transport keeps every promise that the rest of the package builds on.

    Takes some seconds. Run it with no other test at the same time in the process: it also looks for leaked threads and
    descriptors.

    Parameters
    ----------
    make_pair : callable
        Called without arguments for each check; returns the two ends of a new connection, not connected yet, and
        optionally a function to be called when both have been closed. `queue_pair` with ``connect=False`` is one.
    only : str, optional
        The name of one check; `TRANSPORT_CHECKS` holds them all.

    Raises
    ------
    AssertionError
        A promise is not kept; the text says which, and what was seen.
    ApiParamError
        There is no check named `only`.
    """
    if only is not None and only not in TRANSPORT_CHECKS:
        raise ApiParamError("only", only, tuple(TRANSPORT_CHECKS))
    for name, check in TRANSPORT_CHECKS.items():
        if only is None or name == only:
            try:
                _run_check(make_pair, check)
            except AssertionError as exc:
                raise AssertionError(f"transport check {name!r}: {exc}") from exc


def _run_check(make_pair: MakePair, check: Callable[[_Ends], None]) -> None:
    before = _held()
    ends = _Ends(make_pair())
    try:
        check(ends)
    finally:
        ends.close()
    del ends
    gc.collect()
    _eventually(lambda: not _more(before, _held()), lambda: f"left behind after close: {_more(before, _held())}", 5.0)


class _Recorder(TransportListener):
    """Receives the frames of one end, listens to it, and notes whatever must not be."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.frames: list[Frame] = []
        self.heard: list[TransportState] = []  # as listener
        self.ended_at: int | None = None  # how many frames had come when the end of the transport was told
        self.wrong: list[str] = []
        self.came = threading.Condition()
        self._delivering = threading.Lock()

    def receive(self, frame: Frame) -> None:
        """Take a frame."""
        if not self._delivering.acquire(False):
            self.wrong.append(f"{self.name}: two threads delivered frames at the same time")
            return
        try:
            with self.came:
                if self.ended_at is not None:
                    self.wrong.append(f"{self.name}: a frame came after the end of the transport had been told")
                self.frames.append(frame)
                self.came.notify_all()
        finally:
            self._delivering.release()

    receive_call = receive_event = receive

    def timers(self, now: float) -> float | None:
        """Have nothing due."""
        return None

    def transport_ended(self, exc: BaseException) -> None:
        """Hear of the end."""
        with self.came:
            if self.ended_at is not None:
                self.wrong.append(f"{self.name}: the end of the transport was told twice")
            self.ended_at = len(self.frames)
            self.came.notify_all()

    def transport_state_changed(self, state: TransportState) -> None:
        """Do nothing: as the receiver it must not block; `_Ear` listens."""

    def wait_for(self, count: int, what: str) -> None:
        with self.came:
            self.came.wait_for(lambda: len(self.frames) >= count or bool(self.wrong), PATIENCE)
        _require(not self.wrong, "; ".join(self.wrong))
        _require(len(self.frames) >= count, f"{self.name}: {len(self.frames)} of {count} {what} came in {PATIENCE:g} s")


class _Ear(TransportListener):
    """Notes the states that it hears of."""

    def __init__(self) -> None:
        self.states: list[TransportState] = []

    def transport_state_changed(self, state: TransportState) -> None:
        """Note it."""
        self.states.append(state)


class _Ends:
    """The two ends that one check works with."""

    def __init__(self, made: tuple[Any, ...]) -> None:
        self.head: Transporter = made[0]
        self.neck: Transporter = made[1]
        self._release: Callable[[], object] | None = made[2] if len(made) > 2 else None
        self.ears = _Ear(), _Ear()
        self.apis: list[ApiBase] = []
        for end, ear in zip(self.both, self.ears, strict=True):
            _require(
                end.state is TransportState.NEW, f"make_pair() must return ends that are not connected yet, not {end!r}"
            )
            end.add_listener(ear)

    @property
    def both(self) -> tuple[Transporter, Transporter]:
        return self.head, self.neck

    def connect(self) -> None:
        for end in self.both:
            end.connect()
        for end in self.both:
            end.connect(timeout=PATIENCE)

    def record(self) -> tuple[_Recorder, _Recorder]:
        """Let recorders receive at both ends."""
        recorders = _Recorder("head"), _Recorder("neck")
        for end, recorder in zip(self.both, recorders, strict=True):
            end.set_receiver(recorder)
        return recorders

    def serve(self, workers: int = 2) -> tuple[ApiBase, ApiBase]:
        """Bind an api to both ends, with handlers ``echo`` and ``wait``."""
        self.release_handlers = threading.Event()
        self.handler_runs = threading.Semaphore(0)
        for end in self.both:
            api = ApiBase("check", ipc=end, workers=workers)
            api.set_handler("echo", lambda value: value)
            api.set_handler("wait", self._wait)
            self.apis.append(api)
        head, neck = self.apis
        return head, neck

    def _wait(self) -> str:
        self.handler_runs.release()
        self.release_handlers.wait(PATIENCE)
        return "waited"

    def close(self) -> None:
        if self.apis:
            self.release_handlers.set()
        for api in self.apis:
            api.teardown()
        for end in self.both:
            end.close()
        if self._release is not None:
            self._release()


def _require(truth: object, text: str) -> None:
    if not truth:
        raise AssertionError(text)


def _eventually(truth: Callable[[], object], text: str | Callable[[], str], limit: float = PATIENCE) -> None:
    """Look until it is so; what is looked at is told by no event."""
    end, pause = monotonic() + limit, 0.001
    while not truth():
        if monotonic() > end:
            raise AssertionError(text if isinstance(text, str) else text())
        sleep(pause)
        pause = min(0.05, pause * 1.5)


@contextmanager
def _raises(kind: type[BaseException], what: str) -> Iterator[None]:
    try:
        yield
    except kind as exc:
        _require(type(exc) is kind, f"{what} must raise {kind.__name__} itself, not {type(exc).__name__}")
    except EpyrpcError as exc:
        raise AssertionError(f"{what} must raise {kind.__name__}, not {exc!r}") from exc
    else:
        raise AssertionError(f"{what} must raise {kind.__name__}; it raised nothing")


@contextmanager
def _within(seconds: float, what: str) -> Iterator[None]:
    started = monotonic()
    yield
    spent = monotonic() - started
    _require(spent <= seconds, f"{what} took {spent:.2f} s, where {seconds:g} s is the limit")


def _together(*jobs: Callable[[], object], what: str) -> None:
    """Run the jobs at the same time, each in a thread, and wait for all of them."""
    failed: list[BaseException] = []

    def run(job: Callable[[], object]) -> None:
        try:
            job()
        except BaseException as exc:  # raised again below, in the thread that checks
            failed.append(exc)

    threads = [threading.Thread(target=run, args=(job,), name="epyrpc-check", daemon=True) for job in jobs]
    for thread in threads:
        thread.start()
    end = monotonic() + PATIENCE
    for thread in threads:
        thread.join(max(0.0, end - monotonic()))
    if failed:
        raise AssertionError(f"{what}: {failed[0]!r}") from failed[0]
    stuck = sum(thread.is_alive() for thread in threads)
    _require(not stuck, f"{what}: {stuck} of {len(threads)} threads are stuck after {PATIENCE:g} s: a deadlock")


def _send(
    end: Transporter, sender: int, number: int, payload: Any = b"", *, urgent: bool = True, buffers: Any = ()
) -> None:
    """Send an event that says who sent it, and which of his it is."""
    frame = messages.pack(messages.EVENT, sender << 32 | number, "check", payload, buffers=buffers)
    end.wire.send(frame, urgent=urgent)


def _pending(end: Any) -> int:
    return len(end.transactions)


def _held() -> dict[str, set[Any]]:
    folder = "/proc/self/fd" if os.path.isdir("/proc/self/fd") else "/dev/fd"
    descriptors = set()
    for name in os.listdir(folder):
        try:
            descriptors.add((int(name), os.readlink(f"{folder}/{name}")))
        except OSError:  # the one that lists the folder, or no link on this system
            continue
    return {"threads": {thread for thread in threading.enumerate() if thread.is_alive()}, "descriptors": descriptors}


def _more(before: dict[str, set[Any]], now: dict[str, set[Any]]) -> dict[str, Any]:
    found = {what: now[what] - before[what] for what in now}
    return {what: sorted(map(str, new)) for what, new in found.items() if new}


# --- the checks


def _check_order(ends: _Ends) -> None:
    """Frames of each sender arrive in order, each once, both ways at once, delivered by one thread at a time."""
    recorders = ends.record()
    ends.connect()
    senders, count = 3, 700

    def sender(end: Transporter, number: int) -> Callable[[], None]:
        def send() -> None:
            for index in range(count):
                _send(end, number, index, b"x" * (index % 50), urgent=index % 3 == 0)

        return send

    _together(*(sender(end, i) for end in ends.both for i in range(senders)), what="six threads that send events")
    for recorder in recorders:
        recorder.wait_for(senders * count, "small frames")
        _require_in_order(recorder, senders, count)
    _pause_and_look(ends, recorders, senders * count)


def _require_in_order(recorder: _Recorder, senders: int, count: int) -> None:
    numbers: dict[int, list[int]] = {}
    for frame in recorder.frames:
        numbers.setdefault(frame.transaction_id >> 32, []).append(frame.transaction_id & 0xFFFFFFFF)
        size = len(frame.payload)
        _require(
            size == (frame.transaction_id & 0xFFFFFFFF) % 50
            and frame.path == "check"
            and bytes(frame.payload) == b"x" * size,
            f"{recorder.name}: a frame was changed on its way: {frame!r}",
        )
    for number in range(senders):
        came = numbers.get(number, [])
        if came == list(range(count)):
            continue
        _require(
            len(set(came)) == len(came), f"{recorder.name}: {len(came) - len(set(came))} frames were delivered twice"
        )
        _require(len(came) == count, f"{recorder.name}: {count - len(came)} of {count} frames were lost")
        first = next(i for i, n in enumerate(came) if n != i)
        raise AssertionError(f"{recorder.name}: frames are out of order: number {came[first]} came as number {first}")


def _pause_and_look(ends: _Ends, recorders: tuple[_Recorder, _Recorder], count: int) -> None:
    """Send one more, so that whatever would come twice has had its chance to come before it."""
    for end, recorder in zip(ends.both, (recorders[1], recorders[0]), strict=True):
        _send(end, 99, 0)
        recorder.wait_for(count + 1, "frames")
        extra = len(recorder.frames) - count - 1
        _require(not extra, f"{recorder.name}: {extra} frames more than were sent")


def _check_sizes(ends: _Ends) -> None:
    """Frames from 0 bytes to several MB arrive unchanged, buffers that travel out of band too."""
    recorders = ends.record()
    ends.connect()
    edges = (24, 4096, 65536, 131072, 262144, 1 << 20)
    sizes = [0, 1, *(edge + more for edge in edges for more in (-25, -24, -1, 0, 1)), 5_000_000]
    # A prime period: no shifted or repeated part of it looks right.
    pattern = bytes(range(251)) * (max(sizes) // 251 + 1)

    def send_all(end: Transporter) -> None:
        for index, size in enumerate(sizes):
            _send(end, 1, index, pattern[:size])
            _send(end, 2, index, pattern[:7], buffers=[pattern[:size], b"", pattern[: size // 2]])

    _together(*(partial(send_all, end) for end in ends.both), what="frames of all sizes")
    for recorder in recorders:
        recorder.wait_for(2 * len(sizes), "frames of all sizes")
        for index, size in enumerate(sizes):
            plain, buffered = recorder.frames[2 * index : 2 * index + 2]
            _require(plain.payload == pattern[:size], f"{recorder.name}: a payload of {size} bytes came changed")
            _require(
                buffered.payload == pattern[:7]
                and [bytes(b) for b in buffered.buffers] == [pattern[:size], b"", pattern[: size // 2]],
                f"{recorder.name}: out-of-band buffers of {size} bytes came changed",
            )


def _check_large_both_ways(ends: _Ends) -> None:
    """Large frames both ways at once, from several threads, do not lock up."""
    recorders = ends.record()
    ends.connect()
    payload = os.urandom(1 << 20) * 3

    def send(end: Transporter, number: int) -> None:
        for index in range(3):
            _send(end, number, index, payload)

    jobs = [partial(send, end, number) for end in ends.both for number in range(3)]
    _together(*jobs, what="frames of 3 MB both ways")
    for recorder in recorders:
        recorder.wait_for(9, "frames of 3 MB")
        _require(
            all(frame.payload == payload for frame in recorder.frames), f"{recorder.name}: a large frame came changed"
        )


def _check_large_calls(ends: _Ends) -> None:
    """Calls with large arguments and results both ways at once, while events go by, do not lock up."""
    head, neck = ends.serve()
    ends.connect()
    payload = os.urandom(1 << 20) * 4

    def call(api: ApiBase) -> None:
        for _ in range(3):
            _require(api.call("echo", payload) == payload, "a large argument came back changed")

    jobs = [partial(call, api) for api in (head, neck) for _ in range(2)]
    _together(*jobs, what="calls with 4 MB both ways")


def _check_calls_both_ways(ends: _Ends) -> None:
    """Many threads call both ways at once, and calls call back; each gets its own answer."""
    head, neck = ends.serve(workers=4)
    head.set_handler("down", lambda n: n if n == 0 else head.call("down", n - 1) + 1)
    neck.set_handler("down", lambda n: n if n == 0 else neck.call("down", n - 1) + 1)
    ends.connect()

    def call(api: ApiBase, number: int) -> None:
        for index in range(150):
            value = (number, index)
            answer = api.call("echo", value)
            _require(answer == value, f"a call with {value} was answered with {answer}")

    jobs = [partial(call, api, n) for api in (head, neck) for n in range(3)]
    _together(*jobs, what="six threads that call both ways")
    _require(head.call("down", 4) == 4, "a call that calls back came to a wrong result")
    for end in ends.both:
        _require(not _pending(end), f"{end.name}: {_pending(end)} transactions are pending after all calls")


def _check_before_connect(ends: _Ends) -> None:
    """Before connect() nothing can be sent, and closing is fine."""
    (head, _) = ends.serve()
    for what, use in _uses(ends.head, head).items():
        with _raises(TransportDisconnected, f"{what} before connect()"):
            use()
    _require(not _pending(ends.head), "a call before connect() has left a transaction")


def _uses(end: Transporter, api: ApiBase) -> dict[str, Callable[[], object]]:
    return {
        "a call": lambda: api.call("echo", 1),
        "an asynchronous call": lambda: api.submit("echo", 1),
        "an event": lambda: api.action("echo", 1)(solicited=False),
        "send_raw()": lambda: end.send_raw(b""),
        "ping()": lambda: end.ping(1.0),
        "disconnect()": lambda: end.disconnect(1.0),
        "wire": lambda: end.wire,
    }


def _check_connect_order(ends: _Ends) -> None:
    """The ends connect in either order; what was sent before the other one connected is not lost."""
    recorders = ends.record()
    ends.head.connect()
    with _raises(ConnectionTimeout, "connect(timeout=0.05) to an end that does not connect"):
        ends.head.connect(timeout=0.05)
    _require(ends.head.is_connected, "an end whose peer is late must stay open")
    for index in range(10):
        _send(ends.head, 0, index)
    ends.neck.connect(timeout=PATIENCE)
    ends.head.connect(timeout=PATIENCE)
    recorders[1].wait_for(10, "frames sent before the other end connected")
    _require(
        [f.transaction_id for f in recorders[1].frames] == list(range(10)),
        "frames sent before the other end connected came in the wrong order",
    )


def _check_close_is_heard(ends: _Ends) -> None:
    """close(): what was sent arrives, then the other end hears DISCONNECTED; this end's own listener hears nothing."""
    recorders = ends.record()
    ends.connect()
    _eventually(lambda: TransportState.OPEN in ends.ears[0].states, "the head's listener did not hear OPEN")
    heard_before = list(ends.ears[0].states)
    for index in range(200):
        _send(ends.head, 0, index, b"x" * 1000, urgent=False)
    ends.head.close(linger=PATIENCE)
    recorder, ear = recorders[1], ends.ears[1]
    recorder.wait_for(200, "frames sent before close()")
    with recorder.came:
        told = recorder.came.wait_for(lambda: recorder.ended_at is not None, PATIENCE)
    _require(told, "the other end's receiver was not told that the transport ended")
    _eventually(lambda: TransportState.DISCONNECTED in ear.states, f"the other end's listener heard only {ear.states}")
    _require(ends.neck.state is TransportState.DISCONNECTED, f"the other end is {ends.neck.state} after close()")
    _require(recorder.ended_at == 200, f"only {recorder.ended_at} of 200 frames were delivered before the end was told")
    _require(not recorder.wrong, "; ".join(recorder.wrong))
    _require(ear.states.count(TransportState.DISCONNECTED) == 1, "DISCONNECTED was told more than once")
    _require(ends.ears[0].states == heard_before, f"the end that closed told its own listener: {ends.ears[0].states}")


def _check_close_ends_calls(ends: _Ends) -> None:
    """close(): pending calls of both ends end at once, each with the error of its end."""
    head, neck = ends.serve(workers=2)
    ends.connect()
    ours = [head.submit("wait") for _ in range(2)]
    theirs = [neck.submit("wait") for _ in range(2)]
    for _ in range(4):
        _require(ends.handler_runs.acquire(timeout=PATIENCE), "the handlers did not start")
    with _within(2.0, "close() with calls in flight"):
        ends.head.close()
    for results, error in ((ours, TransportClosed), (theirs, TransportDisconnected)):
        for result in results:
            with _raises(error, "a call that is pending while the head closes"):
                result.result(timeout=5.0)
    _require(not _pending(ends.head), "transactions are pending after close()")


def _check_after_close(ends: _Ends) -> None:
    """After close() everything says so; close() again does nothing; the other end says that it is disconnected."""
    head, neck = ends.serve()
    ends.connect()
    ends.head.close()
    ends.head.close()
    _require(ends.head.is_finished and not ends.head.is_connected, f"after close() the end is {ends.head.state}")
    for what, use in {**_uses(ends.head, head), "connect()": ends.head.connect}.items():
        with _raises(TransportClosed, f"{what} after close()"):
            use()
    _eventually(lambda: ends.neck.state is TransportState.DISCONNECTED, f"the other end is {ends.neck.state}")
    for what, use in {**_uses(ends.neck, neck), "connect()": ends.neck.connect}.items():
        with _raises(TransportDisconnected, f"{what} after the other end closed"):
            use()


def _check_reconnect(ends: _Ends) -> None:
    """disconnect(): both ends are disconnected and say so, pending calls fail; connect() resumes."""
    head, neck = ends.serve()
    ends.connect()
    for _ in range(2):
        pending = head.submit("wait")
        _require(ends.handler_runs.acquire(timeout=PATIENCE), "the handler did not start")
        _require(ends.head.disconnect(PATIENCE), "disconnect() was not confirmed by the other end")
        with _raises(TransportDisconnected, "a call that is pending at disconnect()"):
            pending.result(timeout=5.0)
        _eventually(lambda: ends.neck.state is TransportState.DISCONNECTED, "the other end did not notice disconnect()")
        for end, api in zip(ends.both, (head, neck), strict=True):
            for what, use in _uses(end, api).items():
                with _raises(TransportDisconnected, f"{what} after disconnect()"):
                    use()
        ends.release_handlers.set()
        ends.neck.connect()
        ends.head.connect()
        ends.neck.connect(timeout=PATIENCE)
        ends.head.connect(timeout=PATIENCE)
        _require(head.call("echo", 1) == 1 and neck.call("echo", 2) == 2, "a call after connect() failed")
        ends.release_handlers.clear()
    states = ends.ears[1].states
    _eventually(
        lambda: states.count(TransportState.DISCONNECTED) == 2, lambda: f"the other end's listener heard {states}"
    )
    heard = ends.ears[0].states
    _require(TransportState.DISCONNECTED not in heard, "the end that disconnected told its own listener")


def _check_ping(ends: _Ends) -> None:
    """ping() is answered while every handler of the other end is busy, and from many threads."""
    head, _ = ends.serve(workers=1)
    ends.connect()
    busy = [head.submit("wait") for _ in range(3)]
    _require(ends.handler_runs.acquire(timeout=PATIENCE), "the handler did not start")

    def ping() -> None:
        for _ in range(20):
            seconds = ends.head.ping(timeout=PATIENCE)
            _require(0 < seconds < 5.0, f"ping() returned {seconds} s")

    _together(ping, ping, ping, what="pings from three threads while all handlers are busy")
    _require(not any(result.done() for result in busy), "a call ended that was to wait")
    ends.release_handlers.set()
    for result in busy:
        result.result(timeout=PATIENCE)


def _check_silent_peer(ends: _Ends) -> None:
    """An end that does not answer, with the way to it full, holds nobody up for longer than asked."""
    head, _ = ends.serve()
    ends.head.connect()  # the neck never does
    blocked: list[BaseException] = []

    def send() -> None:
        try:
            while True:
                head.action("echo", bytes(1 << 20))(solicited=False)
        except IpcError as exc:
            blocked.append(exc)

    sender = threading.Thread(target=send, name="epyrpc-check", daemon=True)
    sender.start()
    with (
        _within(3.0, "ping(0.2) of an end that does not answer"),
        _raises(ConnectionTimeout, "ping() without an answer"),
    ):
        ends.head.ping(0.2)
    with _within(3.0, "a call with timeout=0.2 to an end that does not answer"):
        try:
            head.echo(1)(timeout=0.2)
        except TransactionTimeout:
            pass
        else:
            raise AssertionError("a call with timeout=0.2 to an end that does not answer must raise TransactionTimeout")
    with _within(3.0, "disconnect(0.2) from an end that does not answer"):
        confirmed = ends.head.disconnect(0.2)
    _require(not confirmed, "disconnect() says that an end confirmed that never connected")
    ends.head.connect()
    with _within(5.0, "close() with the way out full"):
        ends.head.close(linger=0.2)
    sender.join(PATIENCE)
    _require(not sender.is_alive(), "a thread that waits for room is still waiting after close()")


def _check_wake_ups(ends: _Ends) -> None:
    """Who waits is woken by a cancel in another thread, by its time limit, and by an answer; nobody else need read."""
    head, _ = ends.serve(workers=4)
    ends.connect()
    with _within(2.0, "a wait with a limit of 0.2 s"), _raises(TransactionTimeout, "a call with timeout=0.2"):
        head.wait()(timeout=0.2)
    waiting = head.submit("wait")
    canceller = threading.Timer(0.1, waiting.cancel)
    canceller.start()
    with _within(3.0, "waiting for a call that another thread cancels after 0.1 s"):
        _together(lambda: _require_cancelled(waiting), what="waiting for a call that is cancelled")
    canceller.join()
    expired = head.wait()(sync=False, timeout=0.1)
    told = threading.Event()
    expired.add_done_callback(lambda _: told.set())
    _require(told.wait(3.0), "a deadline passed with nobody waiting, and nothing happened for 3 s")
    answered = threading.Event()
    head.echo(1)(callback=lambda _id, _value: answered.set())
    _require(answered.wait(3.0), "a reply came with nobody waiting, and nothing happened for 3 s")


def _require_cancelled(result: Any) -> None:
    try:
        result.result(timeout=PATIENCE)
    except CancelledError:
        return
    raise AssertionError("a call that was cancelled has returned a value")


def _check_corked(ends: _Ends) -> None:
    """A frame that may wait for company does not wait long when none comes."""
    recorders = ends.record()
    ends.connect()
    for index in range(20):
        with _within(1.0, "a frame that may wait for company"):
            _send(ends.head, 0, 2 * index, urgent=False)
            _send(ends.head, 0, 2 * index + 1, urgent=False)
            recorders[1].wait_for(2 * index + 2, "frames that may wait for company")


TRANSPORT_CHECKS: dict[str, Callable[[_Ends], None]] = {
    "order": _check_order,
    "sizes": _check_sizes,
    "large frames both ways": _check_large_both_ways,
    "large calls both ways": _check_large_calls,
    "calls both ways": _check_calls_both_ways,
    "before connect": _check_before_connect,
    "connect order": _check_connect_order,
    "close is heard": _check_close_is_heard,
    "close ends calls": _check_close_ends_calls,
    "after close": _check_after_close,
    "reconnect": _check_reconnect,
    "ping": _check_ping,
    "silent peer": _check_silent_peer,
    "wake-ups": _check_wake_ups,
    "corked frames": _check_corked,
}
