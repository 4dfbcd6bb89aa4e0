"""The verbs of a pool: on its least busy body, or on each of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from epyrpc.bodies.verbs import Verb
from epyrpc.errors import ApiParamError
from epyrpc.results import wait_for_all

if TYPE_CHECKING:
    from collections.abc import Callable

    from epyrpc.bodies.body import Body
    from epyrpc.bodies.pool import Pool
    from epyrpc.bodies.pool_engine import Engine

TASK_OPTIONS = ("timeout", "retry")


class LeastBusy:
    """Stands for the body with the least to do, chosen anew for each call."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def body(self) -> Body:
        """Return it; waits for the first one to be there."""
        return min(self._engine.ready(), key=lambda m: (len(m.body._transporter.transactions), m.serial)).body

    @property
    def _api(self) -> Any:
        return self.body()._api

    @property
    def _straight(self) -> Any:
        return self.body()._straight

    def paths(self) -> list[str]:
        """Return what the bodies handle."""
        return self.body().paths()

    def _paths_soon(self) -> list[str]:
        return self.body()._paths_soon()

    def __repr__(self) -> str:
        return f"the least busy body of {self._engine.name}"


class Submit:
    """``pool.submit``: a method as executors have it, a verb with a path, or with options.

    ``pool.submit(f, x)`` queues a task and returns its `PoolResult`; ``pool.submit(timeout=2, retry=1)(f, x)`` does
    with a limit on its time, after which it is stopped; ``pool.submit.maths.scale(4)`` calls a handler of the least
    busy body and returns an `AsyncResult`.
    """

    __slots__ = ("_options", "_pool")

    def __init__(self, pool: Pool, options: dict[str, Any] | None = None) -> None:
        self._pool = pool
        self._options = options or {}

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        """Queue a task, or bind options where no function is given."""
        if args:
            function, *rest = args
            return self._pool._submit(function, tuple(rest), kwargs, self._options)
        if not kwargs or any(name not in TASK_OPTIONS for name in kwargs):
            raise TypeError("submit() needs a function: pool.submit(f, x), or options: pool.submit(timeout=2)(f, x)")
        return Submit(self._pool, {**self._options, **check_task_options(kwargs)})

    def __getattr__(self, name: str) -> Any:
        verb = Verb(LeastBusy(self._pool._engine), "submit", self._options)
        return getattr(verb, name)

    def __repr__(self) -> str:
        return f"<submit of {self._pool!r}>"


class EachVerb:
    """A verb that does the same on every body of a pool, and returns what each said, by its name."""

    def __init__(self, bodies: Callable[[], list[Body]], kind: str, path: tuple[str, ...] = ()) -> None:
        self._bodies = bodies
        self._kind = kind
        self._path = path
        self._options: dict[str, Any] = {}

    def __getattr__(self, name: str) -> EachVerb:
        if name.startswith("_"):
            raise AttributeError(f"{name!r} is no path: names that start with an underscore cannot be called")
        below = EachVerb(self._bodies, self._kind, (*self._path, name))
        below._options = self._options
        return below

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the path, or a callable, in every body.

        Raises
        ------
        Exception
            What the first body that failed has raised, once all have ended.
        """
        if not self._path and not args and kwargs:
            bound = EachVerb(self._bodies, self._kind)
            bound._options = {**self._options, **kwargs}
            return bound
        sent = {body.name: self._send(body, args, kwargs) for body in self._bodies()}
        if self._kind != "call":
            return sent if self._kind == "submit" else None
        try:
            wait_for_all(sent.values())
        except KeyboardInterrupt:
            for result in sent.values():
                result.cancel()
            raise
        return {name: result.result() for name, result in sent.items()}

    def _send(self, body: Body, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        verb: Any = body.emit if self._kind == "emit" else body.submit
        if self._options:
            verb = verb(**self._options)
        for name in self._path:
            verb = getattr(verb, name)
        return verb(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<{self._kind} {'.'.join(self._path)} on each body: write a path behind it, then call it>"


class Each:
    """Every body of a pool: ``pool.each.call.setup.load("model.pt")`` gives ``{body name: result}``."""

    def __init__(self, bodies: Callable[[], list[Body]]) -> None:
        self._bodies = bodies
        self.call = EachVerb(bodies, "call")
        self.submit = EachVerb(bodies, "submit")
        self.emit = EachVerb(bodies, "emit")

    def push(self, **values: Any) -> None:
        """Set variables in the namespace of every body there is now."""
        for body in self._bodies():
            body.push(**values)

    def pull(self, *names: str) -> dict[str, Any]:
        """Return variables of every body, by its name."""
        return {body.name: body.pull(*names) for body in self._bodies()}

    def execute(self, source: str) -> dict[str, Any]:
        """Run source code in every body; return the values of its last expression, by name."""
        return {body.name: body.execute(source) for body in self._bodies()}


def check_task_options(options: dict[str, Any]) -> dict[str, Any]:
    """Return options of a task, checked.

    Raises
    ------
    ApiParamError
        A value is not allowed.
    """
    from epyrpc.clock import check_timeout

    retry = options.get("retry", 0)
    if isinstance(retry, bool) or not isinstance(retry, int) or retry < 0:
        raise ApiParamError("retry", retry, "a whole number, 0 or more")
    if "timeout" in options:
        options["timeout"] = check_timeout(options["timeout"])
    return options


__all__ = ["Each", "LeastBusy", "Submit", "check_task_options"]
