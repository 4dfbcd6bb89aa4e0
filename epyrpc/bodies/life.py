"""How a body starts, ends and comes back.

One life has many processes, one after the other; each is an `Incarnation`. Threads::

    any thread: spawn, restart, stop (under _life) ──starts──▶ a process, or thread "epyrpc-body-<name>"
    supervisor ──Incarnation.process_ended──▶ Life._process_ended: says of what it died, fails what is pending
       └──starts──▶ thread "epyrpc-restart-<name>", if it is to be restarted by itself; ends when that is done
    whoever reads the wire ──Life._link_ended──▶ tells the supervisor, who finds out why

States: STARTING → RUNNING → STOPPING → STOPPED, because we asked; from the first two also → DIED. From STOPPED and
DIED a restart leads to STARTING again.
"""

from __future__ import annotations

import builtins
import enum
import itertools
import logging
import os
import re
import sys
import threading
import types
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar

from epyrpc import codec
from epyrpc.api.arbiter import ApiArb
from epyrpc.api.context import CallCancelled
from epyrpc.api.factory import TransportDetailsFactory, TransportFactory
from epyrpc.bodies import bootstrap
from epyrpc.bodies.capture import Pipes
from epyrpc.bodies.incarnation import HeadApi, Incarnation, ThreadLaunch
from epyrpc.bodies.spawn import launch, occupy_standard_descriptors
from epyrpc.bodies.supervisor import supervisor
from epyrpc.clock import check_timeout, format_seconds
from epyrpc.doctor import LARGE_BYTES, warn_of_large
from epyrpc.errors import ApiParamError, BodyDied, BodyError, BodyLost, BodyStartError, CodecError, EpyrpcError
from epyrpc.results import CallState
from epyrpc.transactions import HeadTransactionIdGenerator, NeckTransactionIdGenerator, TransactionManager

if TYPE_CHECKING:
    from collections.abc import Callable

    from epyrpc.results import AsyncResult
    from epyrpc.transports.base import Transporter

_log = logging.getLogger("epyrpc.body")
LOG_BYTES = 262_144
STDERR_LINES = 20  # of the log, in errors
STDERR_CHARACTERS = 4_000
LAST_WORDS = 5  # ... of these, before what faulthandler says
_STACK_LINE = re.compile(r"Fatal Python|Thread 0x|Current thread|Stack \(most|Extension modules|  (File|\.\.\.|<)|\s*$")
BURIAL_SECONDS = 2.0  # how long the supervisor may take to say why a connection has ended
KILL_GRACE_SECONDS = 1.0
_numbers = itertools.count(1)
# What every new body calls when it begins, in a head that is a notebook; set by the notebook's part.
prepare_for_notebook: Callable[[Any], object] | None = None
by_name: dict[str, Any] = {}  # {name: Body}, of those that have not been stopped. Guarded by names_lock.
names_lock = threading.RLock()


class BodyState(enum.Enum):
    """Where a body is in its life."""

    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    STOPPED = "stopped"  # because we asked
    DIED = "died"  # by itself, or somebody else's doing

    def __str__(self) -> str:
        return self.value


LIVING = (BodyState.STARTING, BodyState.RUNNING, BodyState.STOPPING)
LifeT = TypeVar("LifeT", bound="Life")


class Life:
    """The life of a body: what starts its processes, sees them end, and says what has become of it."""

    # Guarded by _life: starting, restarting and retiring, one at a time; never taken by the supervisor. Taken before
    # _lock. Guarded by _lock: state, _incarnation, _transporter, exitcode. {path: function}, in the order of
    # registration; what a restart registers again.

    _straight: Any  # see `Verbs`

    if TYPE_CHECKING:

        def debug(self, call: AsyncResult | None = None) -> None:
            """See `Body`, which has it."""

    def __init__(self, name: str, workers: int, start_method: str, restart: bool | int) -> None:
        self.name = name
        self.workers = workers
        self.start_method = start_method
        self.exitcode: int | None = None
        self.state = BodyState.STARTING
        self.restarts = 0
        self._restarts_left = sys.maxsize if restart is True else int(restart)
        self._life = threading.RLock()
        self._lock = threading.RLock()
        self._wanted = True  # until somebody stops it; who is not wanted is not restarted by itself
        self._ready = threading.Event()
        self._handlers: dict[str, Callable[..., Any]] = {}
        self._on: dict[str, Callable[..., Any]] = {}
        self._middleware: list[tuple[Callable[..., Any], str]] = []
        self._log_lock = threading.Lock()
        self._log_pieces: deque[bytes] = deque()
        self._log_size = 0
        self._started_at = monotonic()
        self._ended_at: float | None = None  # its last process
        self._transporter: Any = None
        self._incarnation: Incarnation | None = None
        self._pending_error: BaseException | None = None
        self._heirloom: tuple[Any, ...] = ()  # what can be handed down only when a process is started: locks, queues
        self._on_death: Callable[[], object] | None = None  # told when a process has ended, on the supervisor's thread
        self._owner_pid = os.getpid()
        self._api: HeadApi = None  # type: ignore[assignment]  # set by _start, before anybody sees this object

    # --- starting

    def _start(self, timeout: float) -> None:
        """Start a process and wait until it answers.

        Raises
        ------
        BodyStartError
            It ended, or did not answer in time; its stderr is in the message.
        """
        with self._life:
            incarnation = self._start_incarnation()
            try:
                if not self._ready.wait(timeout) or self.state is not BodyState.STARTING:
                    raise self._start_error(incarnation, timeout)
                with self._lock:
                    self.state = BodyState.RUNNING
                for path, function in list(self._handlers.items()):
                    self._send_handler(path, function)
            except BaseException:
                self._give_up_starting(incarnation)
                raise

    def _start_incarnation(self) -> Incarnation:
        """Start a process and connect to it; does not wait for its answer."""
        self._ready.clear()
        self._log_pieces.clear()
        self._log_size = 0
        api = HeadApi(self)
        for path, function in self._on.items():
            api.set_handler(path, function)
        for layer, around in self._middleware:
            api.add_middleware(layer, around=around)
        transactions = TransactionManager(HeadTransactionIdGenerator())
        if self.start_method != "thread":  # which cannot be killed
            transactions.killer = self._kill_for
            transactions.debugger = self.debug
        number = next(_numbers)
        start = self._start_thread if self.start_method == "thread" else self._start_process
        with self._lock:
            self.state = BodyState.STARTING
            self.exitcode = self._ended_at = None
            self._started_at = monotonic()
            incarnation = start(number, transactions)
            self._incarnation = incarnation
            self._transporter = incarnation.transporter
            self._api = api
            api._outgoing_changed()
        incarnation.transporter.local_name = f"the head of {self.name}"
        incarnation.transporter.explain = self._explain
        incarnation.transporter.on_end = self._link_ended
        api.ipc = ApiArb(incarnation.transporter)
        if self.start_method != "thread":
            supervisor().watch(incarnation)
        try:
            incarnation.transporter.connect()
        except EpyrpcError as exc:  # it has ended already, and the supervisor finds out why
            _log.debug("body %s: cannot connect: %s", self.name, exc)
        return incarnation

    def _start_process(self, number: int, transactions: TransactionManager) -> Incarnation:
        occupy_standard_descriptors()
        details = TransportDetailsFactory.get("queue")
        peer = details.invert()
        settings: dict[str, Any] = {
            "name": self.name,
            "number": number,
            "workers": self.workers,
            "keep_failures": hasattr(builtins, "__IPYTHON__"),  # there a person may want to look at them
        }
        if self._heirloom:
            settings["heirloom"] = self._heirloom
        pipes = None
        try:
            if prepare_for_notebook is not None:
                pipes = Pipes()
                settings["notebook"] = (pipes, prepare_for_notebook)
            launched = launch(
                self.name,
                bootstrap.body_main,
                (peer, settings),
                start_method=self.start_method,
                close_after_start=[_Releasing(peer)] if pipes is None else [_Releasing(peer), pipes],
            )
            if pipes is not None:
                launched.leftovers = pipes.reads
        except OSError as exc:
            details.release()
            if pipes is not None:
                pipes.abandon()
            self.state = BodyState.DIED
            raise BodyStartError(f"body {self.name!r} could not be started: {exc}", self.name) from exc
        except BaseException:
            details.release()
            if pipes is not None:
                pipes.abandon()
            self.state = BodyState.DIED
            raise
        return Incarnation(self, launched, TransportFactory.get_no_arb(details, transactions, name=self.name))

    def _start_thread(self, number: int, transactions: TransactionManager) -> Incarnation:
        details = TransportDetailsFactory.get("memory")
        neck_transactions = TransactionManager(NeckTransactionIdGenerator(number))
        peer = TransportFactory.get_no_arb(details.invert(), neck_transactions, name=f"head of {self.name}")
        stop = threading.Event()
        bootstrap.share_home_namespace()
        neck = bootstrap.start_neck(peer, self.workers, types.ModuleType("__main__").__dict__, stop.set)

        def run() -> None:
            peer.connect()
            stop.wait()
            dispatcher = neck.ipc.dispatcher
            peer.close()
            dispatcher.interrupt_running(CallCancelled)  # nobody could end them from outside, as a process is ended
            neck.teardown(1.0)

        thread = threading.Thread(target=run, name=f"epyrpc-body-{self.name}", daemon=True)
        thread.start()
        transporter = TransportFactory.get_no_arb(details, transactions, name=self.name)
        return Incarnation(self, ThreadLaunch(thread, stop.set), transporter)

    def _send_handler(self, path: str, handler: Callable[..., Any] | None) -> None:
        if handler is not None:
            # An error then names the handler, not an argument of ours.
            payload, buffers = codec.encode(handler, what="handler")
            size = len(payload) + sum(buffer.raw().nbytes for buffer in buffers)
            if size >= LARGE_BYTES:
                warn_of_large(handler, size)
        self._control("set_handler", path, handler)

    def _control(self, name: str, *args: Any, timeout: float | None = None) -> Any:
        action = self._api.action(f"{bootstrap.CONTROL}.{name}", *args)
        return action(sync=True, timeout=timeout, solicited=True)

    def _start_error(self, incarnation: Incarnation, timeout: float) -> BodyStartError:
        launched = incarnation.launch
        if not self._wanted:
            why = "it was stopped meanwhile"
        elif self.start_method != "thread" and launched.poll() is not None:
            incarnation.over.wait(BURIAL_SECONDS)  # then its last words have been read
            why = f"its process ended with exit code {launched.poll()} while starting"
        else:
            why = f"it did not answer within {timeout:g} s"
        message = f"body {self.name!r} could not be started: {why}; see what it says below, or in log()"
        return BodyStartError(message, self.name, launched.pid, self.exitcode, self._last_lines())

    def _give_up_starting(self, incarnation: Incarnation) -> None:
        """Leave nothing of a process that did not start."""
        incarnation.launch.kill()
        if self.start_method != "thread":
            incarnation.over.wait(5)
        with self._lock:
            self.state = BodyState.DIED if self._wanted else BodyState.STOPPED
        self._release(incarnation)

    # --- its end

    def _link_ended(self, transporter: Transporter, exc: BaseException) -> None:
        """The connection has ended by itself; on whichever thread read it. Why, the supervisor finds out."""
        incarnation = self._incarnation
        if incarnation is None or incarnation.transporter is not transporter:
            return
        if self.start_method == "thread":
            transporter.finish(self._stopped_error(incarnation))
        elif isinstance(exc, CodecError):
            # Nothing that comes after garbage can be read, so nobody can reach the process any more.
            error = BodyLost(
                f"body {self.name!r} was ended: {exc} restart() brings it back", self.name, incarnation.launch.pid
            )
            error.__cause__ = exc
            incarnation.verdict = self._pending_error = error
            transporter.finish(error)
            incarnation.launch.kill()
        elif not incarnation.over.is_set():
            supervisor().suspect(incarnation.launch.pid)

    def _process_ended(self, incarnation: Incarnation, exitcode: int | None) -> None:
        transporter = incarnation.transporter
        with self._lock:
            stopping = self.state in (BodyState.STOPPING, BodyState.STOPPED)
            starting = self.state is BodyState.STARTING
        pid, killed_for = incarnation.launch.pid, incarnation.killed_for
        error: BodyError
        if stopping:
            error = self._stopped_error(incarnation)
        else:
            to_end = f"{killed_for[0].path} ({killed_for[0].id})" if killed_for else ""
            error = incarnation.verdict or BodyDied(
                self.name, pid, exitcode, self._what_ran(incarnation), self._last_lines(), to_end
            )
        with self._lock:  # all at once: who finds it dead is told of this death
            current = self._incarnation is incarnation
            if current:
                self._pending_error, self.exitcode, self._ended_at = error, exitcode, monotonic()
                stopping = stopping or self.state in (BodyState.STOPPING, BodyState.STOPPED)
                self.state = BodyState.STOPPED if stopping else BodyState.DIED
        transporter.finish(error)
        if not current:
            return
        self._ready.set()
        if self._on_death is not None:
            self._on_death()
        if not stopping and not starting and (killed_for or self._restarts_left > 0):
            if not killed_for:
                self._restarts_left -= 1
            threading.Thread(
                target=self._restart_by_itself, args=(killed_for,), name=f"epyrpc-restart-{self.name}", daemon=True
            ).start()
        else:
            _set_revived(killed_for)

    def _stopped_error(self, incarnation: Incarnation) -> BodyLost:
        return bootstrap.stopped_error(self.name, incarnation.launch.pid)

    def _restart_by_itself(self, killed_for: list[AsyncResult]) -> None:
        try:
            with self._life:
                if self._wanted and self.state is BodyState.DIED:  # else stopped, or restarted, meanwhile
                    self.restart()
        except EpyrpcError as exc:
            _log.error("body %s could not be restarted: %s", self.name, exc)
        finally:
            _set_revived(killed_for)

    def _wait_for_restart(self) -> None:
        """See to it that a dead body lives again, for calls that are to be made again; who comes first restarts it.

        Raises
        ------
        BodyError
            It was stopped, or does not start.
        """
        self._wait_for_verdict()
        with self._life:
            if self.state is BodyState.RUNNING:
                return
            if not self._wanted:
                raise self._explain()
            self.restart()

    def _wait_for_verdict(self) -> None:
        """If the connection has ended by itself, wait until the supervisor has found out why."""
        incarnation = self._incarnation
        if incarnation is None or self.start_method == "thread" or self.state is not BodyState.RUNNING:
            return
        wire = incarnation.transporter._wire
        if wire is not None and wire.over and os.getpid() == self._owner_pid:
            incarnation.over.wait(BURIAL_SECONDS)

    def _what_ran(self, incarnation: Incarnation) -> tuple[str, ...]:
        """Return the calls that were running, as far as is known here: those announced, else the oldest ones."""
        pending = [
            r for r in incarnation.transporter.transactions.pending() if not r.path.startswith(bootstrap.CONTROL + ".")
        ]
        running = [r for r in pending if r.state is not CallState.PENDING] or pending[: self.workers]
        return tuple(f"{r.path} ({r.id}), for {format_seconds(r.elapsed)}" for r in running)

    def _explain(self) -> Exception:
        """Return the error for whoever uses a body that cannot be used."""
        if os.getpid() != self._owner_pid:
            return BodyLost(
                f"body {self.name!r} belongs to process {self._owner_pid}, which spawned it; a forked child cannot use "
                "it: spawn another here",
                self.name,
            )
        self._wait_for_verdict()
        old = self._pending_error
        if self.state is BodyState.DIED and isinstance(old, BodyDied):
            return BodyDied(self.name, old.pid, old.exitcode, (), old.stderr)
        if self.state is BodyState.DIED and old is not None:
            return BodyLost(str(old), self.name)
        return BodyLost(f"body {self.name!r} is {self.state}; {self.name}.restart() starts it again", self.name)

    def _kill_for(self, result: AsyncResult) -> None:
        """End the process if a call that was cancelled with ``kill`` has not stopped after a grace of 1 s.

        A body that is killed so is started again, with its handlers.
        """
        incarnation = self._incarnation
        if incarnation is None:
            return

        def kill() -> None:
            if not result._stop_known and not incarnation.over.is_set():
                result._revival = threading.Event()
                incarnation.killed_for.append(result)
                incarnation.launch.kill()

        supervisor().after(KILL_GRACE_SECONDS, kill)

    # --- what it says outside of calls

    def _take_log(self, data: bytes) -> None:
        with self._log_lock:
            self._log_pieces.append(data)
            self._log_size += len(data)
            while self._log_size > LOG_BYTES and len(self._log_pieces) > 1:
                self._log_size -= len(self._log_pieces.popleft())

    def log(self) -> str:
        """Return the tail of what the process wrote outside of calls: warnings, C code's output, crash messages."""
        with self._log_lock:
            return b"".join(self._log_pieces).decode("utf-8", "replace")

    def _last_lines(self) -> str:
        """Return the end of the log, short enough for an error's message."""
        log = self.log()
        crash = log.rfind("Fatal Python error")
        if crash >= 0:  # its first line says more than the long tail of its stacks
            # Which of the two pipes was read first is no matter: what C code said before it aborted comes first here.
            others = [line for line in log[:crash].splitlines(keepends=True) if line.strip()]
            others += [line for line in log[crash:].splitlines(keepends=True) if not _STACK_LINE.match(line)]
            lines = log[crash : crash + STDERR_CHARACTERS].splitlines(keepends=True)
            return "".join(others[-LAST_WORDS:] + lines[: STDERR_LINES - LAST_WORDS])
        lines = log[-STDERR_CHARACTERS:].splitlines(keepends=True)
        return "".join(lines[-STDERR_LINES:])

    # --- stopping and restarting

    @property
    def alive(self) -> bool:
        """Whether its process runs (a stopped, SIGSTOP, one does)."""
        return self.state in LIVING

    def stop(self, timeout: float = 5.0) -> None:
        """Stop the body: calls that run may finish within `timeout` seconds, then it is stopped by force. Idempotent.

        What is pending then fails with `BodyLost`. A body that does not answer, or is stopped by SIGSTOP, is killed.
        """
        check_timeout(timeout)
        if os.getpid() != self._owner_pid:
            return  # a forked child has nothing to stop: the body is its parent's
        while True:
            incarnation, before = self._begin_stopping()
            if incarnation is not None and before in LIVING:
                self._stop_process(incarnation, 0.0 if before is BodyState.STARTING else timeout)
            with self._life:
                if self._incarnation is incarnation:  # else it was being restarted meanwhile
                    self._retire(incarnation)
                    return

    def _begin_stopping(self) -> tuple[Incarnation | None, BodyState]:
        """Note that the body is to be stopped; return its process of now, if any, and its state until now."""
        self._wanted = False
        with self._lock:
            before = self.state
            if self._incarnation is not None and self.alive:
                self.state = BodyState.STOPPING
            return self._incarnation, before

    def _retire(self, incarnation: Incarnation | None, seconds: float = 1.0) -> None:
        """Release what a stopped or dead body still holds here, and its name; waits for `seconds` at most."""
        with self._lock:
            if self.state is not BodyState.DIED:
                self.state = BodyState.STOPPED
        if incarnation is not None:
            self._release(incarnation, seconds)
        with names_lock:
            if by_name.get(self.name) is self:
                del by_name[self.name]

    def _release(self, incarnation: Incarnation, seconds: float = 1.0) -> None:
        """Close this end of the connection, and wait a moment for its threads."""
        limit = monotonic() + 2 * seconds
        incarnation.transporter.finish(self._stopped_error(incarnation))  # unless its end has been noticed before
        self._api.teardown(seconds)
        incarnation.transporter.close(linger=min(0.2, seconds))
        wire = incarnation.transporter._wire
        if wire is not None:
            wire.run_later.join(max(0.0, min(seconds, limit - monotonic())))

    def _stop_process(self, incarnation: Incarnation, timeout: float) -> None:
        limit = monotonic() + timeout
        launched, transactions = incarnation.launch, incarnation.transporter.transactions
        done = threading.Event()
        # What a suspended process runs does not end, and it does not hear us.
        while launched.poll() is None and len(transactions) and monotonic() < limit and not launched.is_suspended():
            for result in transactions.pending()[:1]:
                result.add_done_callback(lambda _: done.set())
            done.wait(min(0.05, max(0.0, limit - monotonic())))
            done.clear()
        graceful = not len(transactions)
        if graceful:
            try:
                self._api.action(f"{bootstrap.CONTROL}.stop")(solicited=False, sync=True)
                limit = max(limit, monotonic() + (1.0 if timeout else 0.5))
                while not launched.is_suspended() and monotonic() < limit:
                    if launched.wait(min(0.2, max(0.0, limit - monotonic()))) is not None:
                        break
            except EpyrpcError as exc:
                _log.debug("body %s: cannot ask it to stop: %s", self.name, exc)
        if launched.poll() is None:
            if self.start_method == "thread":
                launched.terminate()
                launched.wait(1.0)
                return
            launched.kill()
        if self.start_method != "thread" and not incarnation.over.wait(5):
            _log.warning("body %s: process %d could not be reaped", self.name, launched.pid)

    def restart(self: LifeT, timeout: float = 30.0) -> LifeT:
        """Stop the process by force if it lives, start another, and register its handlers again. Variables are lost.

        Raises
        ------
        BodyStartError
            The new process does not start.
        """
        if os.getpid() != self._owner_pid:
            raise self._explain()
        with self._life:
            with names_lock:
                other = by_name.get(self.name)
                if other is not None and other is not self:
                    raise ApiParamError(
                        "name", self.name, "a name that no living body has", "Another body has taken it meanwhile."
                    )
                by_name[self.name] = self
            self._wanted = True
            incarnation = self._incarnation
            if incarnation is not None:
                self._end_for_restart(incarnation)
            self._start(timeout)
            self.restarts += 1
        return self

    def _end_for_restart(self, incarnation: Incarnation) -> None:
        with self._lock:
            if self.alive:
                self.state = BodyState.STOPPING
        if self.start_method == "thread":
            self._stop_process(incarnation, 1.0)
        else:
            incarnation.launch.kill()
            incarnation.over.wait(5)
        with self._lock:
            if self.state is BodyState.STOPPING:
                self.state = BodyState.STOPPED
        self._release(incarnation)


def _set_revived(killed_for: list[AsyncResult]) -> None:
    """Let those go on that wait until a body is back which was killed for them."""
    for result in killed_for:
        if result._revival is not None:
            result._revival.set()


class _Releasing:
    """Closes this process's copies of the other end's connections, once the other process has its own."""

    def __init__(self, details: Any) -> None:
        self._details = details

    def close(self) -> None:
        self._details.release()
