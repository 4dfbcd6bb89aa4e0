"""`Body`, the handle of a spawned process: what a person does with it. How it starts and ends is in `life`."""

from __future__ import annotations

import sys
import types
from time import monotonic
from typing import TYPE_CHECKING, Any

from epyrpc.bodies import bootstrap
from epyrpc.bodies.life import BodyState, Life
from epyrpc.bodies.placing import placed
from epyrpc.bodies.reloading import bind_closure_anew, load_anew, place_of, renewed
from epyrpc.bodies.tree import ApiTree
from epyrpc.bodies.verbs import Verbs
from epyrpc.clock import check_timeout, format_seconds
from epyrpc.errors import ApiParamError, EpyrpcError
from epyrpc.namespaces import check_path, refuse_bare
from epyrpc.tables import escape, table
from epyrpc.transports.base import TransportState

if TYPE_CHECKING:
    from collections.abc import Callable

    from epyrpc.results import AsyncResult

TAB_SECONDS = 0.3  # how long completion waits for a body
CARD_HEADER = ("Body", "State", "Process", "Handler threads", "Transport", "Up")


class Body(Life, Verbs):
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

    def __init__(self, name: str, workers: int, start_method: str, restart: bool | int) -> None:
        super().__init__(name, workers, start_method, restart)
        self._versions: dict[str, tuple[int, str]] = {}  # {path: (how often it was registered, where it was written)}
        self._make_verbs()
        self.api = ApiTree(self)  # no property: Tab looks into attributes only

    # --- what a person asks

    @property
    def pid(self) -> int | None:
        """The process id, None when there is no process."""
        incarnation = self._incarnation
        return incarnation.launch.pid if incarnation is not None and self.alive else None

    @property
    def uptime(self) -> float:
        """Seconds since its process was started."""
        return monotonic() - self._started_at

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


__all__ = ["Body", "BodyState"]
