"""`Body`, the handle of a spawned process, and `spawn`."""

from __future__ import annotations

import atexit
import builtins
import enum
import itertools
import keyword
import logging
import os
import re
import sys
import threading
import types
from collections import deque
from time import monotonic
from typing import TYPE_CHECKING, Any

from epyrpc import codec
from epyrpc.api.arbiter import ApiArb
from epyrpc.api.base import ApiBase
from epyrpc.api.context import CallCancelled
from epyrpc.api.factory import TransportDetailsFactory, TransportFactory
from epyrpc.bodies import bootstrap, questions
from epyrpc.bodies.capture import Pipes
from epyrpc.bodies.leaving import stop_together
from epyrpc.bodies.placing import placed
from epyrpc.bodies.reloading import bind_closure_anew, load_anew, place_of, renewed
from epyrpc.bodies.spawn import START_METHODS, launch, occupy_standard_descriptors
from epyrpc.bodies.supervisor import supervisor
from epyrpc.bodies.tree import ApiTree
from epyrpc.bodies.verbs import Verbs
from epyrpc.clock import check_timeout, format_seconds
from epyrpc.doctor import LARGE_BYTES, warn_of_large
from epyrpc.errors import (
    ApiParamError,
    BodyDied,
    BodyError,
    BodyLost,
    BodyStartError,
    CodecError,
    EpyrpcError,
)
from epyrpc.namespaces import check_path, refuse_bare
from epyrpc.results import CallState
from epyrpc.tables import escape, table
from epyrpc.transactions import HeadTransactionIdGenerator, NeckTransactionIdGenerator, TransactionManager
from epyrpc.transports.base import TransportState

if TYPE_CHECKING:
    from collections.abc import Callable

    from epyrpc.bodies.spawn import Launch
    from epyrpc.results import AsyncResult
    from epyrpc.transports.base import Transporter

_log = logging.getLogger("epyrpc.body")
LOG_BYTES = 262_144
STDERR_LINES = 20  # of the log, in errors
STDERR_CHARACTERS = 4_000
LAST_WORDS = 5  # ... of these, before what faulthandler says
_STACK_LINE = re.compile(r"Fatal Python|Thread 0x|Current thread|Extension modules|  (File|\.\.\.|<)|\s*$")
BURIAL_SECONDS = 2.0  # how long the supervisor may take to say why a connection has ended
KILL_GRACE_SECONDS = 1.0
TAB_SECONDS = 0.3  # how long completion waits for a body
HEAD_WORKERS = 4
CARD_HEADER = ("Body", "State", "Process", "Handler threads", "Transport", "Up")
_numbers = itertools.count(1)


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


class HeadApi(ApiBase):
    """The head's end of one body: calls go out through it, ``body.on`` handlers are registered with it."""

    def __init__(self, body: Body) -> None:
        super().__init__(workers=HEAD_WORKERS)
        self._body = body
        self._register(f"{bootstrap.CONTROL}.describe", self._describe)
        self._register(questions.ASK_PATH, self._ask)
        self._register(questions.SOURCE_PATH, questions.source_of)

    def _describe(self) -> dict[str, tuple[str, str]]:
        return {
            path: (h.signature, h.doc) for path, h in self.handlers().items() if not path.startswith(bootstrap.CONTROL)
        }

    def _ask(self, tid: int, prompt: str, secret: bool) -> None:
        questions.receive(self.transporter, tid, prompt, secret)

    def _outgoing_changed(self) -> None:
        """Let the verbs take the straight road, or not."""
        body = self._body
        if body._api is self:
            body._straight = body._transporter if self._is_plain else None

    def recover(self) -> None:
        """Wait until the body has been restarted, for a call that is to be made again."""
        self._body._wait_for_restart()

    @property
    def transporter(self) -> Any:
        """The transport to the body's process of now."""
        return self._body._transporter

    def transport_state_changed(self, state: TransportState) -> None:
        """Hear of the body's end."""
        if state is TransportState.OPEN:
            self._body._ready.set()


class Incarnation:
    """One process of a body, as the supervisor sees it."""

    def __init__(self, body: Body, launched: Launch | ThreadLaunch, transporter: Transporter) -> None:
        self.body = body
        self.launch: Any = launched
        self.transporter = transporter
        self.over = threading.Event()

        self.verdict: BodyError | None = None  # why we ended it, where it is not simply its death
        self.killed_for: list[AsyncResult] = []  # calls that were to be ended so; the first is why it was killed

    def process_ended(self, exitcode: int | None) -> None:
        """The process has ended; on the supervisor's thread."""
        try:
            wire = self.transporter._wire
            if wire is not None and not wire.over:
                wire.end(EOFError("its process has ended"))  # delivers what it had still sent
            self.body._process_ended(self, exitcode)
        finally:
            self.launch.close()
            self.over.set()

    def take_log(self, data: bytes) -> None:
        """Keep the tail of what the process writes outside of calls."""
        self.body._take_log(data)


class ThreadLaunch:
    """Stands in for a process where a body is a thread of this one."""

    death_fd = None

    def __init__(self, thread: threading.Thread, stop: Callable[[], None]) -> None:
        self.thread = thread
        self._stop = stop
        self.pid = os.getpid()

    def poll(self) -> int | None:
        """Return 0 when the thread has ended."""
        return None if self.thread.is_alive() else 0

    def wait(self, timeout: float | None) -> int | None:
        """Wait for the thread."""
        if self.thread is not threading.current_thread():
            self.thread.join(timeout)
        return self.poll()

    def is_suspended(self) -> bool:
        """Return False: a thread has no SIGSTOP."""
        return False

    def terminate(self) -> None:
        """Ask the thread to end after what it runs; a thread cannot be forced."""
        self._stop()

    kill = interrupt = terminate

    def close(self) -> None:
        """Nothing is held."""


class Body(Verbs):
    """A supervised process, and everything one does with it.

    Made by `spawn`. Its verbs, ``call``, ``submit``, ``emit`` and ``stream``, take a dotted path or a callable::

        worker.call.maths.scale(4)        worker.call(lambda a: a.sum(), array)

    Leaving its ``with`` block stops it.

    Attributes
    ----------
    name : str
        The name it was spawned with.
    workers : int
        How many handlers it runs at once.
    start_method : str
        ``"spawn"``, ``"forkserver"`` or ``"thread"``.
    api : ApiTree
        What the body handles, as a tree to be looked at; else it is the `ApiBase` that the body's calls go through.
    exitcode : int or None
        How its last process ended: a negative number is a signal.
    """

    # Guarded by _life: starting, restarting and retiring, one at a time; never taken by the supervisor. Taken before
    # _lock. Guarded by _lock: state, _incarnation, _transporter, exitcode. {path: function}, in the order of
    # registration; what a restart registers again.

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
        self._versions: dict[str, tuple[int, str]] = {}  # {path: (how often it was registered, where it was written)}
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
        self._make_verbs()
        self.api = ApiTree(self)  # no property: Tab looks into attributes only
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

    def _take_log(self, data: bytes) -> None:
        with self._log_lock:
            self._log_pieces.append(data)
            self._log_size += len(data)
            while self._log_size > LOG_BYTES and len(self._log_pieces) > 1:
                self._log_size -= len(self._log_pieces.popleft())

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

    # --- what a person asks

    @property
    def pid(self) -> int | None:
        """The process id, None when there is no process."""
        incarnation = self._incarnation
        return incarnation.launch.pid if incarnation is not None and self.alive else None

    @property
    def alive(self) -> bool:
        """Whether its process runs (a stopped, SIGSTOP, one does)."""
        return self.state in LIVING

    @property
    def uptime(self) -> float:
        """Seconds since its process was started."""
        return monotonic() - self._started_at

    def log(self) -> str:
        """Return the tail of what the process wrote outside of calls: warnings, C code's output, crash messages."""
        with self._log_lock:
            return b"".join(self._log_pieces).decode("utf-8", "replace")

    @property
    def transporter(self) -> Any:
        """The transport to the body's process."""
        return self._transporter

    def paths(self) -> list[str]:
        """Return the paths that the body handles."""
        return sorted(self.describe())

    def _paths_soon(self) -> list[str]:
        """Return the paths for Tab: at once, also where the body is stuck."""
        try:
            return sorted(self._control("describe", timeout=TAB_SECONDS))
        except EpyrpcError:  # it does not answer, but what was registered from here is known here; or it is gone
            return sorted(self._handlers) if self.alive else []

    def describe(self) -> dict[str, tuple[str, str]]:
        """Return ``{path: (signature, first line of the docstring)}`` of what the body handles."""
        described: dict[str, tuple[str, str]] = self._control("describe")
        return described

    def _control(self, name: str, *args: Any, timeout: float | None = None) -> Any:
        action = self._api.action(f"{bootstrap.CONTROL}.{name}", *args)
        return action(sync=True, timeout=timeout, solicited=True)

    # --- handlers

    def set_handler(self, path: str, handler: Callable[..., Any] | None) -> None:
        """Handle `path` in the body with `handler`, which travels there by value; None removes it.

        A handler of the same path is replaced; calls in flight finish on the old one. A restart registers it again.

        Raises
        ------
        ApiParamError
            The path or the handler is not allowed.
        CodecError
            The handler cannot be pickled; the message names what in it.
        """
        check_path(path, wildcard=True)
        if handler is not None and not callable(handler):
            raise ApiParamError(f"handler of {path}", handler, "a callable, or None to remove it")
        self._send_handler(path, handler)
        if handler is None:
            self._handlers.pop(path, None)
        else:
            self._handlers[path] = handler
            self._versions[path] = self._versions.get(path, (0, ""))[0] + 1, place_of(handler)

    def reload(self, *modules: types.ModuleType | str) -> list[str]:
        """Load edited modules anew, here and in the body, and send the body's handlers again.

        What notebooks, scripts and handlers have imported from them with ``from … import`` is bound to the new objects
        too. Calls in flight finish on the old code, and existing instances of a class keep it.

        Returns
        -------
        list of str
            The modules that the body had loaded; the others it loads when it needs them.

        Raises
        ------
        ApiParamError
            There is no such module, or something is neither a module nor the name of one.
        Exception
            What a module raises while it is loaded; then nothing was sent.
        """
        for module in modules:
            if not isinstance(module, (str, types.ModuleType)):
                raise ApiParamError("module", module, "a module, or the name of one")
        names = [module if isinstance(module, str) else module.__name__ for module in modules]
        load_anew(names, [sys.modules["__main__"].__dict__])
        loaded: list[str] = [] if self.start_method == "thread" else self._control("reload", names)
        for path, function in list(self._handlers.items()):
            bind_closure_anew(function, names)
            self.set_handler(path, renewed(function, names))
        for path, function in list(self._on.items()):
            bind_closure_anew(function, names)
            self.on(path, renewed(function, names))
        return loaded

    def _send_handler(self, path: str, handler: Callable[..., Any] | None) -> None:
        if handler is not None:
            # An error then names the handler, not an argument of ours.
            payload, buffers = codec.encode(handler, what="handler")
            size = len(payload) + sum(buffer.raw().nbytes for buffer in buffers)
            if size >= LARGE_BYTES:
                warn_of_large(handler, size)
        self._control("set_handler", path, handler)

    def handler(self, path: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Register the decorated function as the body's handler of `path`."""
        refuse_bare(path, "handler")

        def register(function: Callable[..., Any]) -> Callable[..., Any]:
            self.set_handler(path, function)
            return function

        return register

    def on(self, path: str, handler: Callable[..., Any] | type | None = object) -> Any:
        """Handle, here in the head, events and calls of the body to `path`.

        ``worker.on(path, function)``, or ``@worker.on(path)`` above a function; None removes it. Handlers run on
        threads of their own, also while a cell is running. Events of one path are handled one at a time, in the order
        in which they were sent; calls side by side.

        In a notebook, what the handler prints or displays lands in the cell that made the call in whose handler the
        body called back; for an event or a call from elsewhere in the body, such as a thread of your own there, in the
        cell that registered the handler.
        """
        refuse_bare(path, "on")
        check_path(path, wildcard=True)
        if handler is object:

            def register(function: Callable[..., Any]) -> Callable[..., Any]:
                self.on(path, function)
                return function

            return register
        answering = placed(handler) if callable(handler) else handler
        self._api.set_handler(path, answering)
        if answering is None:
            self._on.pop(path, None)
        else:
            self._on[path] = answering
        return None

    # --- its namespace

    def push(self, **values: Any) -> None:
        """Set variables in the body's own namespace: ``worker.push(x=1, df=frame)``."""
        for name in values:
            if name.startswith("__"):
                raise ApiParamError("name to push", name, "a variable's name that does not start with two underscores")
        self._control("push", values)

    def pull(self, *names: str) -> Any:
        """Return the value of a variable of the body, or a tuple of several.

        Raises
        ------
        ApiParamError
            The body has no such variable.
        """
        if not names or not all(isinstance(name, str) and name.isidentifier() for name in names):
            raise ApiParamError("names to pull", names, "one or more variable names, as text")
        values = self._control("pull", names)
        return values[0] if len(names) == 1 else values

    def execute(self, source: str, *, timeout: float | None = None) -> Any:
        """Run source code in the body's own namespace; return the value of its last expression, or None."""
        if not isinstance(source, str):
            raise ApiParamError("source", source, "source code, as text")
        action = self._api.action(f"{bootstrap.CONTROL}.execute", source)
        return action(sync=True, timeout=check_timeout(timeout), solicited=True)

    # --- its life

    def ping(self, timeout: float | None = 5.0) -> float:
        """Return the seconds until the body's reader answered; works while all its handlers are busy.

        Raises
        ------
        ConnectionTimeout
            No answer within `timeout` seconds.
        BodyError
            There is no process.
        """
        if self._transporter.state is not TransportState.OPEN:
            raise self._explain()
        return float(self._transporter.ping(timeout))

    def interrupt(self) -> int:
        """Raise KeyboardInterrupt in every handler that runs in the body now.

        Its variables stay. Return how many there were.
        """
        return int(self._control("interrupt", timeout=5.0))

    def stacks(self, timeout: float = 5.0) -> str:
        """Return the stacks of all threads of the body, also while its handlers are busy."""
        return str(self._control("stacks", timeout=timeout))

    def debug(self, call: AsyncResult | None = None) -> None:
        """Open `pdb` on the frames of what a handler in the body raised last; it is typed at here.

        Parameters
        ----------
        call : AsyncResult, optional
            The call that failed; by default whichever failed last.

        Raises
        ------
        ApiError
            Nothing has failed, or not that call, or nothing was kept: only bodies of a notebook keep the last one.
        """
        self._control("debug", None if call is None else int(call.id))

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
        with _registry_lock:
            if _registry.get(self.name) is self:
                del _registry[self.name]

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

    def restart(self, timeout: float = 30.0) -> Body:
        """Stop the process by force if it lives, start another, and register its handlers again. Variables are lost.

        Raises
        ------
        BodyStartError
            The new process does not start.
        """
        if os.getpid() != self._owner_pid:
            raise self._explain()
        with self._life:
            with _registry_lock:
                other = _registry.get(self.name)
                if other is not None and other is not self:
                    raise ApiParamError(
                        "name", self.name, "a name that no living body has", "Another body has taken it meanwhile."
                    )
                _registry[self.name] = self
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

    def __enter__(self) -> Body:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def __reduce__(self) -> Any:
        raise TypeError(
            f"the handle of body {self.name!r} cannot travel to another process; inside a body, "
            "epyrpc.head reaches the notebook"
        )

    # --- how it looks

    def _facts(self) -> list[str]:
        facts = [str(self.state)]
        if self.pid is not None:
            facts.append(f"pid {self.pid}" if self.start_method != "thread" else "a thread")
            facts.append(f"{self.workers} handler thread{'s' if self.workers != 1 else ''}")
            facts.append(f"{self._transporter.kind} transport")
        elif self.exitcode is not None:
            facts.append(f"exit code {self.exitcode}")
        return facts

    def __repr__(self) -> str:
        return f"<Body {self.name} · {' · '.join(self._facts())}>"

    def _card(self) -> tuple[object, ...]:
        """Return the row of a static table, under `CARD_HEADER`."""
        if self.pid is None:
            process = "" if self.exitcode is None else f"exit code {self.exitcode}"
        else:
            process = f"pid {self.pid}" if self.start_method != "thread" else "a thread of this process"
        transport = self._transporter.kind if self.pid is not None else ""
        return (
            self.name,
            self.state,
            process,
            self.workers,
            transport,
            format_seconds(self.uptime) if self.alive else "",
        )

    def _repr_html_(self) -> str:
        html = table(CARD_HEADER, [self._card()], code=(0,))
        if self.state is BodyState.DIED and self.log():
            html += f"<pre>{escape(self.log()[-2000:])}</pre>"
        return html


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


# --- all bodies of this process

# What every new body calls when it begins, in a head that is a notebook; set by the notebook's part.
prepare_for_notebook: Callable[[Any], object] | None = None
_registry: dict[str, Body] = {}
_registry_lock = threading.RLock()


def bodies() -> dict[str, Body]:
    """Return the bodies of this process that have not been stopped, by name."""
    with _registry_lock:
        return dict(_registry)


def spawn(
    name: str,
    *,
    workers: int = 4,
    start_method: str = "spawn",
    restart: bool | int = False,
    existing: str = "error",
    timeout: float = 30.0,
) -> Body:
    """Start a body and wait until it answers.

    Needs no ``if __name__ == "__main__"`` guard, and never imports the main module again.

    Parameters
    ----------
    name : str
        A Python identifier; no living body of this process may have it.
    workers : int
        How many handlers run at once in the body.
    start_method : {"spawn", "forkserver", "thread"}
        A fresh interpreter; a fork of a clean server process, faster from the second one on; a thread of this
        process, for debugging, which cannot be killed.
    restart : bool or int
        Start it again when it dies: always, or so many times.
    existing : {"error", "keep", "restart"}
        What to do when a living body has that name.
    timeout : float
        Seconds to wait for its first answer.

    Returns
    -------
    Body
        Its handle; a context manager.

    Raises
    ------
    ApiParamError
        A parameter is not allowed, or the name is taken.
    BodyStartError
        The process ended, or did not answer in time; its stderr is in the message.
    """
    _check_spawn(name, workers, start_method, restart, existing)
    check_timeout(timeout)
    with _registry_lock:
        other = _registry.get(name)
        taken = other is not None and other.alive
        if other is not None and taken and existing == "error":
            raise ApiParamError(
                "name",
                name,
                "a name that no living body has",
                f"Stop that body first, or pass existing='keep' or 'restart'. Living: {', '.join(sorted(_registry))}.",
            )
        if other is None or not taken:
            body = _registry[name] = Body(name, workers, start_method, restart)
    if other is not None and taken:
        return _use_existing(other, (workers, start_method, restart), existing, timeout)
    if other is not None:
        other.stop(0)  # it is dead: its name was all that was left of it, and what it still holds here
    try:
        body._start(timeout)
    except BaseException:
        body.stop(0)
        raise
    return body


def make_body(name: str, start_method: str) -> Body:
    """Return a body with one worker that has its name, but no process yet; for who starts many at once.

    Raises
    ------
    ApiParamError
        The name is not allowed, or a living body has it.
    """
    _check_spawn(name, 1, start_method, False, "error")
    with _registry_lock:
        other = _registry.get(name)
        if other is not None and other.alive:
            raise ApiParamError("name", name, "a name that no living body has", "Stop that body first.")
        body = _registry[name] = Body(name, 1, start_method, False)
    return body


def _use_existing(body: Body, options: tuple[int, str, bool | int], existing: str, timeout: float) -> Body:
    """Keep a living body, or restart it with new options."""
    if existing == "keep":
        with body._life:  # somebody else may still be starting it
            return body
    with body._life:
        if body._incarnation is not None:
            body._end_for_restart(body._incarnation)
        body.workers, body.start_method, restart = options
        body._restarts_left = sys.maxsize if restart is True else int(restart)
        return body.restart(timeout)


def _check_spawn(name: Any, workers: Any, start_method: Any, restart: Any, existing: Any) -> None:
    if not isinstance(name, str) or not name.isidentifier() or name.startswith("_") or keyword.iskeyword(name):
        raise ApiParamError(
            "name", name, "a Python identifier that does not start with an underscore, such as 'worker'"
        )
    if isinstance(workers, bool) or not isinstance(workers, int) or not 1 <= workers <= 1024:
        raise ApiParamError("workers", workers, "a whole number from 1 to 1024")
    if start_method not in (*START_METHODS, "thread"):
        raise ApiParamError("start_method", start_method, (*START_METHODS, "thread"))
    if not isinstance(restart, int) or restart < 0:
        raise ApiParamError("restart", restart, "True, False, or how often, as a whole number")
    if existing not in ("error", "keep", "restart"):
        raise ApiParamError("existing", existing, ("error", "keep", "restart"))


def _stop_all() -> None:
    """Stop what is left when the interpreter ends; a courtesy, since bodies die with their head anyway."""
    stop_together([body for body in bodies().values() if body._owner_pid == os.getpid()])


def _forget_after_fork() -> None:
    """In a forked child the bodies are the parent's: say so when they are used, and let go of what leads to them.

    Their transports have been abandoned already (see `transports.base`).
    """
    global _registry_lock
    _registry_lock = threading.RLock()
    for body in _registry.values():
        body._life, body._lock, body._log_lock = threading.RLock(), threading.RLock(), threading.Lock()
        if body._incarnation is not None:
            body._incarnation.launch.close()
    _registry.clear()


atexit.register(_stop_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)

__all__ = ["Body", "BodyState", "bodies", "spawn"]
