"""The four verbs, ``call``, ``submit``, ``emit`` and ``stream``: a dotted path or a callable behind each."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any

from epyrpc.api.action import (
    NOT_GIVEN,
    STREAM_WINDOW,
    CallSettings,
    perform,
    prepare_call,
    send_stream,
)
from epyrpc.api.straight import call_straight, send_event, submit_straight, withdraw
from epyrpc.codec import AdHoc
from epyrpc.errors import ApiError, ApiParamError, EpyrpcError
from epyrpc.results import RUN_PATH, AsyncResult, current, is_ignorable, stop_interrupted, tell_raised
from epyrpc.transactions import HeadTransactionIdGenerator, TransactionManager

if TYPE_CHECKING:
    from collections.abc import Callable

LARGE_CAPTURE = 1_000_000  # bytes; a call of an ad-hoc function that sends more is looked into
ARGUMENTS_KEPT = 65_536  # bytes of a call up to which its arguments are kept with its result
_OPTIONS = {
    "call": ("timeout", "callback", "ignore_errors", "retry", "on_timeout"),
    "submit": ("timeout", "callback", "ignore_errors", "retry", "on_timeout"),
    "emit": ("ignore_errors",),
    "stream": ("timeout", "window"),
}


class Verb:
    """One way of calling: ``verb.dotted.path(args)``, ``verb(callable, args)``.

    Or ``verb(option=…)`` which binds options.

    Parameters
    ----------
    owner : object
        Has ``_api``, an `ApiBase` whose root namespace is empty, and ``paths()``, what can be called.
    kind : {"call", "submit", "emit", "stream"}
        What is done with a path.
    options : dict
        Bound options.
    """

    def __init__(self, owner: Any, kind: str, options: dict[str, Any] | None = None) -> None:
        self._owner = owner
        self._kind = kind
        self._options = options or {}
        self._perform: Callable[..., Any] = getattr(self, f"_{kind}")
        self._settings = self._make_settings()

    def _make_settings(self) -> CallSettings:
        given = {name: value for name, value in self._options.items() if name not in ("window", "on_timeout")}
        settings = CallSettings(sync=self._kind == "call", solicited=self._kind != "emit").override(**given)
        return settings._replace(sync=self._kind == "call")

    def __getattr__(self, name: str) -> VerbPath:
        """Start a path."""
        if name.startswith("_"):
            raise AttributeError(f"{name!r} is no path: names that start with an underscore cannot be called")
        path = VerbPath(self, name)
        if not self._options:
            self.__dict__[name] = path  # found without this method from now on
        return path

    def __call__(self, function: Callable[..., Any] = NOT_GIVEN, /, *args: Any, **kwargs: Any) -> Any:
        """Call a callable in the body, or bind options when none is given.

        Raises
        ------
        ApiParamError
            An option is unknown, or what is given is not callable.
        """
        if function is NOT_GIVEN:
            return self._bind(kwargs)
        if not callable(function):
            hint = f"Write a path as attributes: .{self._kind}.maths.scale(4)." if isinstance(function, str) else ""
            raise ApiParamError(f"first argument of {self._kind}", function, "a callable", hint)
        try:
            return self._perform(RUN_PATH, AdHoc((function, args, kwargs)), {}, _name_of(function))
        except KeyboardInterrupt as exc:
            tell_raised(None, exc)
            raise

    def _bind(self, options: dict[str, Any]) -> Verb:
        allowed = _OPTIONS[self._kind]
        for name in options:
            if name not in allowed:
                raise ApiParamError(f"option of {self._kind}", name, allowed)
        if options.get("on_timeout", "cancel") not in ("cancel", "kill"):
            raise ApiParamError("on_timeout", options["on_timeout"], ("cancel", "kill"))
        window = options.get("window", STREAM_WINDOW)
        if isinstance(window, bool) or not isinstance(window, int) or window < 1:
            raise ApiParamError("window", window, "a whole number of parts, 1 or more")
        return Verb(self._owner, self._kind, {**self._options, **options})

    # --- what each verb does

    def _call(self, path: str, args: tuple[Any, ...], kwargs: dict[str, Any], label: str = "") -> Any:
        if label or "on_timeout" in self._options:
            result = self._send(path, args, kwargs, label)
            if not isinstance(result, AsyncResult):  # middleware may return what it likes
                return result
            try:
                return result.result()
            except KeyboardInterrupt as exc:
                stop_interrupted(result, exc)
                raise
        return perform(self._owner._api, path, args, kwargs, self._settings)

    def _submit(self, path: str, args: tuple[Any, ...], kwargs: dict[str, Any], label: str = "") -> Any:
        return self._send(path, args, kwargs, label)

    def _repeat(self, path: str, args: tuple[Any, ...], kwargs: dict[str, Any], label: str, sink: Any) -> AsyncResult:
        """Make a call once more; its output goes to `sink`."""
        result = self._send(path, args, kwargs, label)
        if not isinstance(result, AsyncResult):  # middleware may return what it likes
            raise ApiError(f"{label or path} gave no AsyncResult this time, but {type(result).__name__}")
        result._sink = sink
        return result

    def _send(self, path: str, args: tuple[Any, ...], kwargs: dict[str, Any], label: str) -> Any:
        settings = self._settings
        transporter = self._owner._straight
        if transporter is None or settings.retry or settings.ignore_errors:
            return self._send_in_style(path, args, kwargs, label)
        begun = monotonic()
        result, pieces = prepare_call(transporter, path, args, kwargs, settings.timeout, settings.callback, 0)
        result._encoded_at, result._started = result._started, begun
        if label:
            result.path = label
            if path == RUN_PATH and sum(map(len, pieces)) >= LARGE_CAPTURE:
                from epyrpc.doctor import warn_of_large  # seldom needed, and bodies have these verbs too

                warn_of_large(args[0], sum(map(len, pieces)))
        # Kept only with what is small: a result is not to hold the megabytes that were sent.
        if self._kind == "submit" and len(pieces) == 1 and len(pieces[0]) <= ARGUMENTS_KEPT:
            result.recall = (self._repeat, path, args, kwargs, label)
        if self._options.get("on_timeout") == "kill":
            result.kill_on_timeout = True
        try:
            result._owner.admit(result)
            if settings.timeout is not None:
                result._owner.set_deadline(result, settings.timeout)
            result._pump.send(pieces, urgent=self._kind == "call")
        except BaseException as exc:
            withdraw(result, exc)
            raise
        if len(pieces) > 1:  # small ones take no time worth a look at the clock
            result._sent_at = monotonic()
        return result

    def _send_in_style(self, path: str, args: tuple[Any, ...], kwargs: dict[str, Any], label: str) -> Any:
        """Send with middleware and all options."""
        settings = self._settings
        try:
            result = perform(self._owner._api, path, args, kwargs, settings._replace(sync=False, ignore_errors=False))
        except Exception as exc:
            if not settings.ignore_errors or not is_ignorable(exc):
                raise
            result = _ended_result(label or path, settings.callback, exc)
        if isinstance(result, AsyncResult):
            result.ignore_errors = settings.ignore_errors
            result.kill_on_timeout = self._options.get("on_timeout") == "kill"
            if label:
                result.path = label
        return result

    def _emit(self, path: str, args: tuple[Any, ...], kwargs: dict[str, Any], label: str = "") -> None:
        perform(self._owner._api, path, args, kwargs, self._settings)

    def _stream(self, path: str, args: tuple[Any, ...], kwargs: dict[str, Any], label: str = "") -> Any:
        window = self._options.get("window", STREAM_WINDOW)
        stream = send_stream(self._owner._api, path, args, kwargs, timeout=self._settings.timeout, window=window)
        if label:
            stream.call.path = label
        return stream

    def __dir__(self) -> list[str]:
        try:
            paths = _paths_for_tab(self._owner)
        except EpyrpcError:  # completion must not fail because a body is gone
            return []
        return sorted({path.partition(".")[0] for path in paths})

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={value!r}" for name, value in self._options.items())
        bound = f"({options})" if options else ""
        return f"<{self._kind}{bound} of {self._owner!r}: write a path behind it, then call it>"


class VerbPath:
    """A verb with a path, ready to be called."""

    def __init__(self, verb: Verb, path: str) -> None:
        self._verb = verb
        self._path = path
        self._perform = verb._perform
        self._is_plain = not verb._options and verb._kind != "stream"
        self._is_call, self._is_event = verb._kind == "call", verb._kind == "emit"
        self._repeat = verb._repeat
        self._owner = verb._owner

    def __getattr__(self, name: str) -> VerbPath:
        """Go one level deeper."""
        if name.startswith("_"):
            raise AttributeError(f"{name!r} is no path: names that start with an underscore cannot be called")
        path = VerbPath(self._verb, f"{self._path}.{name}")
        if not self._verb._options:
            self.__dict__[name] = path
        return path

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call what handles the path."""
        try:
            transporter = self._owner._straight if self._is_plain else None
            if transporter is not None:
                if self._is_call:
                    if current.get() is None:
                        return call_straight(transporter, self._path, args, kwargs)
                elif self._is_event:
                    return send_event(transporter, self._path, args, kwargs)
                else:
                    return submit_straight(transporter, self._path, args, kwargs, self._repeat)
            return self._perform(self._path, args, kwargs)
        except KeyboardInterrupt as exc:
            tell_raised(None, exc)  # before or behind its waits, which have told of it themselves
            raise

    def __dir__(self) -> list[str]:
        try:
            paths = _paths_for_tab(self._verb._owner)
        except EpyrpcError:
            return []
        start = self._path + "."
        return sorted({path[len(start) :].partition(".")[0] for path in paths if path.startswith(start)})

    def __repr__(self) -> str:
        return f"<{self._verb._kind} {self._path} of {self._verb._owner!r}>"


class Verbs:
    """Gives an object with an ``_api`` the four verbs.

    ``_straight`` is its transporter as long as the api has no hooks, middleware or settings that a call must go
    through.
    """

    _straight: Any = None

    def _make_verbs(self) -> None:
        self.call = Verb(self, "call")
        self.submit = Verb(self, "submit")
        self.emit = Verb(self, "emit")
        self.stream = Verb(self, "stream")


def _paths_for_tab(owner: Any) -> list[str]:
    soon = getattr(owner, "_paths_soon", None) or owner.paths
    return list(soon())


def _ended_result(path: str, callback: Callable[[Any, Any], object] | None, error: BaseException) -> AsyncResult:
    """Return the result of a call that could not even be sent."""
    transactions = TransactionManager(HeadTransactionIdGenerator())
    result = transactions.new(path)
    result.ignore_errors = True
    result._call_back(callback)
    transactions.release(result.id, error)
    return result


def _name_of(function: Callable[..., Any]) -> str:
    name = getattr(function, "__qualname__", None) or type(function).__qualname__
    label = str(name).rpartition("<locals>.")[2]
    while label.startswith("<") and "." in label:  # "<listcomp>.<lambda>", until 3.11
        label = label.partition(".")[2]
    return label


__all__ = ["RUN_PATH", "Verb", "VerbPath", "Verbs"]
