"""A prepared call, its options, and how it is sent."""

from __future__ import annotations

import logging
from time import monotonic
from typing import TYPE_CHECKING, Any, NamedTuple

from epyrpc import codec
from epyrpc import results as _results
from epyrpc.api.handlers import run_middleware
from epyrpc.api.straight import call_straight, lay_out, send_event, withdraw
from epyrpc.clock import check_timeout
from epyrpc.errors import ApiParamError
from epyrpc.results import AsyncResult, current
from epyrpc.streams import PartsResult, Stream
from epyrpc.transports.base import TransportState

if TYPE_CHECKING:
    from collections.abc import Callable

_log = logging.getLogger("epyrpc.api")
STREAM_WINDOW = 64
_NAN = float("nan")
_OPEN = TransportState.OPEN  # reading a member off its class takes ten times as long


class _NotGiven:
    """The type of `NOT_GIVEN`."""

    def __repr__(self) -> str:
        return "<not given>"


NOT_GIVEN: Any = _NotGiven()


class CallSettings(NamedTuple):
    """How a call is made.

    Attributes
    ----------
    sync : bool
        Wait for the result; otherwise an `AsyncResult` is returned at once.
    timeout : float or None
        The call's deadline in seconds; None for ever, 0 only looks.
    solicited : bool
        A reply is owed; otherwise it is an event.
    callback : callable or None
        ``callback(id, result)``, with the exception object when the call failed.
    ignore_errors : bool
        Errors of the api, the transaction and the transport are logged and give None; a handler's own exception never
        is.
    retry : int
        How often the call is made again when the body died or the link was lost; never because the handler raised.
    on_timeout : {"cancel", "kill"}
        What becomes of the call at the other end when its deadline passes: it is stopped as far as it lets itself be
        stopped, or else, after a second, its process is killed and started again. Only a body can be killed.
    """

    sync: bool = True
    timeout: float | None = None
    solicited: bool = True
    callback: Callable[[Any, Any], object] | None = None
    ignore_errors: bool = False
    retry: int = 0
    on_timeout: str = "cancel"

    def override(self, **given: Any) -> CallSettings:
        """Return these settings with those of `given` that were given.

        Raises
        ------
        ApiParamError
            An option is unknown, or its value is not allowed.
        """
        changes = {name: value for name, value in given.items() if value is not NOT_GIVEN}
        if not changes:
            return self
        unknown = sorted(set(changes) - set(self._fields))
        if unknown:
            raise ApiParamError("option", unknown[0], self._fields)
        if "timeout" in changes:
            changes["timeout"] = check_timeout(changes["timeout"])
        callback = changes.get("callback")
        if callback is not None:
            if not callable(callback):
                raise ApiParamError("callback", callback, "a callable taking (id, result)")
            changes.setdefault("sync", False)
        retry = changes.get("retry", 0)
        if isinstance(retry, bool) or not isinstance(retry, int) or retry < 0:
            raise ApiParamError("retry", retry, "a whole number, 0 or more")
        if changes.get("on_timeout", "cancel") not in ("cancel", "kill"):
            raise ApiParamError("on_timeout", changes["on_timeout"], ("cancel", "kill"))
        for name in ("sync", "solicited", "ignore_errors"):
            if name in changes and not isinstance(changes[name], bool):
                raise ApiParamError(name, changes[name], (True, False))
        return self._replace(**changes)


class DebugHook:
    """Hears of every call that is made; subclass it. What it raises is logged and never breaks a call.

    Each method gets a number of the hook's own that ties the events of one call together.
    """

    def api_sync_call(self, debug_id: int, path: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A call that waits is about to be sent."""

    def api_async_call(self, debug_id: int, path: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """A call that does not wait is about to be sent."""

    def api_result(self, debug_id: int, path: str, result: Any) -> None:
        """A call has ended with a value, or with an exception object."""

    def api_timeout(self, debug_id: int, path: str, limit: float) -> None:
        """A call has timed out."""


class _Hooked:
    """One call as a debug hook sees it."""

    _count = 0

    def __init__(self, hook: DebugHook, path: str) -> None:
        _Hooked._count += 1
        self.hook, self.path, self.id = hook, path, _Hooked._count

    def say(self, event: str, *details: Any) -> None:
        """Call the hook, whatever it does."""
        try:
            getattr(self.hook, event)(self.id, self.path, *details)
        except Exception:
            _log.exception("the debug hook failed on %s of %s", event, self.path)

    def settled(self, result: AsyncResult) -> None:
        """Tell how the call ended."""
        if result.state is _results.CallState.TIMED_OUT:
            self.say("api_timeout", result.deadline or 0.0)
            return
        try:
            value = result.result()
        except BaseException as exc:  # the outcome, whatever it is
            value = exc
        self.say("api_result", value)


class ApiAction:
    """A call that has been prepared.

    Calling the action makes it, with per-call overrides. Each time is a call of its own.

    Parameters
    ----------
    api : ApiBase
        Whose connection and defaults are used.
    path : str
        The full dotted path.
    args, kwargs
        What the handler gets.

    Examples
    --------
    ``action = head.nested.method_a(1, 2)``, then ``action()``, ``action(timeout=5)`` or ``action(sync=False)``.
    """

    def __init__(self, api: Any, path: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.api = api
        self.path = path
        self.args = args
        self.kwargs = kwargs

    def __call__(
        self,
        sync: bool = NOT_GIVEN,
        timeout: float | None = NOT_GIVEN,
        solicited: bool = NOT_GIVEN,
        callback: Callable[[Any, Any], object] | None = NOT_GIVEN,
        ignore_errors: bool = NOT_GIVEN,
        retry: int = NOT_GIVEN,
        on_timeout: str = NOT_GIVEN,
    ) -> Any:
        """Make the call.

        Parameters
        ----------
        sync, timeout, solicited, callback, ignore_errors, retry, on_timeout
            As in `CallSettings`; what is not given is the api's default. A `callback` makes the call asynchronous
            unless `sync` is given too.

        Returns
        -------
        object
            The handler's result (`sync`), an `AsyncResult` (not `sync`), or None (an event).

        Raises
        ------
        ApiParamError
            An override has a value that is not allowed.
        TransactionTimeout
            The deadline has passed.
        TransportClosed, TransportDisconnected
            There is no connection.
        UnsupportedApiError
            The other end does not handle the path.
        Exception
            Whatever the handler raised.
        """
        if (
            timeout is NOT_GIVEN
            and sync is NOT_GIVEN
            and solicited is NOT_GIVEN
            and callback is NOT_GIVEN
            and ignore_errors is NOT_GIVEN
            and retry is NOT_GIVEN
            and on_timeout is NOT_GIVEN
        ):
            settings = self.api.settings
        else:
            settings = self.api.settings.override(
                sync=sync,
                timeout=timeout,
                solicited=solicited,
                callback=callback,
                ignore_errors=ignore_errors,
                retry=retry,
                on_timeout=on_timeout,
            )
        result = perform(self.api, self.path, self.args, self.kwargs, settings)
        if isinstance(result, AsyncResult) and not settings.sync:
            result.action = self
        return result

    def __repr__(self) -> str:
        inside = [repr(a) for a in self.args] + [f"{k}={v!r}" for k, v in self.kwargs.items()]
        return f"<ApiAction {self.path}({', '.join(inside)})>"


def perform(api: Any, path: str, args: tuple[Any, ...], kwargs: dict[str, Any], settings: CallSettings) -> Any:
    """Make a call with these settings; see `ApiAction.__call__`."""
    layers = api.call_middleware
    if not layers and settings.solicited and settings.sync and not settings.ignore_errors and not settings.retry:
        if (
            settings.timeout is None
            and settings.callback is None
            and api.debug_hook is None
            and path[:1] != "_"
            and current.get() is None
        ):
            return call_straight(api.transporter, path, args, kwargs)
        return _call_and_wait(api, path, args, kwargs, settings)
    if layers:

        def send(*new_args: Any, **new_kwargs: Any) -> Any:
            return _perform(api, path, new_args, new_kwargs, settings)

        return run_middleware(layers, path, send, args, kwargs)
    return _perform(api, path, args, kwargs, settings)


def _perform(api: Any, path: str, args: tuple[Any, ...], kwargs: dict[str, Any], settings: CallSettings) -> Any:
    if not settings.ignore_errors:
        return _send(api, path, args, kwargs, settings)
    try:
        return _send(api, path, args, kwargs, settings)
    except Exception as exc:
        if not _results.is_ignorable(exc):
            raise
        _log.info("%s failed and is ignored, as asked: %s", path, exc)
        return None


def _send(api: Any, path: str, args: tuple[Any, ...], kwargs: dict[str, Any], settings: CallSettings) -> Any:
    hook = api.debug_hook
    if not settings.solicited:
        if hook is not None:
            _Hooked(hook, path).say("api_async_call", args, kwargs)
        send_event(api.transporter, path, args, kwargs)
        return None
    if settings.sync and settings.retry == 0:
        return _call_and_wait(api, path, args, kwargs, settings)
    hooked = _Hooked(hook, path) if hook is not None else None
    if hooked is not None:
        hooked.say("api_sync_call" if settings.sync else "api_async_call", args, kwargs)
    if settings.retry:
        from epyrpc.api.retry import RetriedResult

        result: AsyncResult = RetriedResult(api, path, args, kwargs, settings)
    else:
        result = send_call(
            api,
            path,
            args,
            kwargs,
            timeout=settings.timeout,
            callback=settings.callback,
            urgent=settings.sync,
            ignore_errors=settings.ignore_errors,
            on_timeout=settings.on_timeout,
        )
    if hooked is not None:
        result.add_done_callback(hooked.settled)  # type: ignore[arg-type]
    return result.result() if settings.sync else result


def _call_and_wait(api: Any, path: str, args: tuple[Any, ...], kwargs: dict[str, Any], settings: CallSettings) -> Any:
    hook, timeout = api.debug_hook, settings.timeout
    hooked = _Hooked(hook, path) if hook is not None else None
    if hooked is not None:
        hooked.say("api_sync_call", args, kwargs)
    # The caller itself watches the deadline while it waits: no entry in the heap.
    result, pieces = prepare_call(
        api.transporter, path, args, kwargs, timeout, settings.callback, 0, settings.ignore_errors, True
    )
    try:
        result._owner.admit(result)
        if not result._wait_quietly(timeout, pieces) and timeout is not None:
            result.kill_on_timeout = settings.on_timeout == "kill"
            result._owner.expire(result, timeout)
        return result._value()
    finally:
        if not result.settled:  # it could not be sent
            result._owner.forget(result)
        if hooked is not None and result.settled:
            hooked.settled(result)


def send_call(
    api: Any,
    path: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    timeout: float | None = None,
    callback: Callable[[Any, Any], object] | None = None,
    urgent: bool = True,
    in_heap: bool = True,
    window: int = 0,
    ignore_errors: bool = False,
    on_timeout: str = "cancel",
) -> AsyncResult:
    """Encode and send a call on this thread; return its result, pending.

    Raises
    ------
    CodecError
        An argument cannot be pickled; nothing was sent and no transaction is left.
    TransportClosed, TransportDisconnected
        There is no connection.
    """
    begun = monotonic()
    result, pieces = prepare_call(api.transporter, path, args, kwargs, timeout, callback, window, ignore_errors)
    result._encoded_at, result._started = result._started, begun
    if on_timeout == "kill":
        result.kill_on_timeout = True
    try:
        result._owner.admit(result)
        if timeout is not None and in_heap:
            result._owner.set_deadline(result, timeout)
        result._pump.send(pieces, urgent=urgent)
    except BaseException as exc:
        withdraw(result, exc)
        raise
    if len(pieces) > 1:  # small ones take no time worth a look at the clock
        result._sent_at = monotonic()
    return result


def prepare_call(
    transporter: Any,
    path: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    timeout: float | None,
    callback: Callable[[Any, Any], object] | None,
    window: int,
    ignore_errors: bool = False,
    awaited: bool = False,
) -> tuple[AsyncResult, list[Any]]:
    """Encode a call and make its transaction; return it, to be admitted, with the frame to be sent.

    With `awaited` the caller will do nothing but wait for it: a handler at the other end may be told of a deadlock.
    """
    if transporter.state is not _OPEN:
        raise transporter.state_error()
    payload, buffers = codec.encode_call(args, kwargs)
    result: AsyncResult = transporter.transactions.make(
        path, window, transporter.name, len(payload), _results.make_output_sink()
    )
    if callback is not None:
        result._call_back(callback)
    if ignore_errors:
        result.ignore_errors = True
    result.deadline = timeout
    return result, lay_out(transporter, result, payload, buffers, timeout, window, awaited)


def send_stream(
    api: Any,
    path: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    timeout: float | None = None,
    window: int = STREAM_WINDOW,
) -> Stream:
    """Call a generator handler; return its parts as they come."""
    result = send_call(api, path, args, kwargs, timeout=timeout, window=window)
    if not isinstance(result, PartsResult):
        raise AssertionError("a call with a window takes parts")
    return Stream(result)


__all__ = ["NOT_GIVEN", "ApiAction", "CallSettings", "DebugHook", "perform", "send_call", "send_stream"]
