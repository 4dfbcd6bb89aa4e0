"""The tree of errors, all below `EpyrpcError`.

::

    EpyrpcError                                          (in brackets: the builtin that it also is)
    ├─ ApiError            ApiParamError(ValueError) ─ ConfigError
    │                      UnknownApiError, UnsupportedApiError(LookupError) · MultipleApiResponseError
    ├─ TransactionError    TransactionIdError(ValueError) · DeadlockError
    │                      TransactionFailed ─ TransactionTimeout(TimeoutError)
    ├─ IpcError            TransportStateError ─ TransportClosed · TransportDisconnected
    │                                          └ ConnectionTimeout(TimeoutError)
    │                      CodecError(PicklingError) · NoDataError
    │                      UnsupportedTransportError(ValueError) ─ …CompressionError · …EncryptionError
    ├─ BodyError           all BrokenProcessPool, a BrokenExecutor: BodyStartError · PoolBroken · BodyDied · BodyLost
    └─ RemoteError         a handler's exception that cannot be rebuilt here

A handler's own exception is none of these: it reaches the caller as itself. A cancelled call raises the standard
library's `concurrent.futures.CancelledError`. Every error pickles, keeps its attributes when it does, and says what to
do next.
"""

from __future__ import annotations

import pickle
import signal
import sys
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

if sys.version_info >= (3, 11):
    TimeoutBase = TimeoutError
else:
    from concurrent.futures import TimeoutError as _FuturesTimeoutError

    # Until 3.11 the futures' TimeoutError is another class than the builtin; code in the wild catches either.
    class TimeoutBase(TimeoutError, _FuturesTimeoutError):
        """Both of the standard library's timeout errors."""

    TimeoutBase.__name__ = "TimeoutError"  # what a traceback shows


_REPR_LIMIT = 120
_PLAIN_TYPES = frozenset({str, int, float, bool, bytes, type(None)})


def _short(value: object) -> str:
    """Return a repr that is bounded in length and never raises."""
    try:
        text = repr(value)
    except Exception as exc:
        # The error that is being built matters more than the reason why its value has no repr.
        return f"<{type(value).__name__} whose repr raises {type(exc).__name__}>"
    return text if len(text) <= _REPR_LIMIT else f"{text[: _REPR_LIMIT - 3]}..."


def _listing(values: Sequence[object]) -> str:
    return ", ".join(_short(value) for value in values)


def _picklable(value: object) -> object:
    """Return `value`, or its repr when it would keep the error that holds it from being pickled."""
    if type(value) in _PLAIN_TYPES:
        return value
    try:
        pickle.dumps(value)
    except Exception:
        # Whatever it is, the error must arrive: a readable text in place of one attribute is the lesser loss.
        return _short(value)
    return value


def _rebuild(cls: type[EpyrpcError], args: tuple[Any, ...], state: dict[str, Any]) -> EpyrpcError:
    """Make a pickled error again without calling `__init__`, whose parameters are not its `args`."""
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(state)
    return error


class EpyrpcError(Exception):
    """Base of every error that this package raises on its own behalf.

    Pickling keeps the message and every attribute, whatever a subclass's constructor takes; an attribute that
    cannot be pickled arrives as its repr.
    """

    def __reduce__(self) -> tuple[Callable[..., EpyrpcError], tuple[Any, ...]]:
        """Pickle by state, so that subclasses are free in what their constructors take."""
        args = tuple(_picklable(value) for value in self.args)
        state = {name: _picklable(value) for name, value in self.__dict__.items()}
        return _rebuild, (type(self), args, state)


# --- apis


class ApiError(EpyrpcError):
    """Something is wrong with a path, a parameter or a handler of an api."""


class ApiParamError(ApiError, ValueError):
    """A parameter has a value that is not allowed.

    Parameters
    ----------
    item : str
        What the value was meant for.
    value : object
        The refused value.
    allowed : str or type or sequence
        What is allowed: in words, as a type, or as the values (or types) themselves.
    hint : str, optional
        What to do instead, as a sentence.

    Attributes
    ----------
    item, value, allowed, hint
        As given.

    Examples
    --------
    >>> print(ApiParamError("timeout", -1, "None or a number of seconds >= 0"))
    timeout is -1, but must be None or a number of seconds >= 0
    >>> print(ApiParamError("existing", "maybe", ("error", "keep", "restart")))
    existing is 'maybe', but must be one of 'error', 'keep', 'restart'
    """

    def __init__(self, item: str, value: object, allowed: object, hint: str = "") -> None:
        self.item = item
        self.value = value
        self.allowed = allowed
        self.hint = hint
        text = f"{item} is {_short(value)}, but must be {_describe_allowed(allowed)}"
        super().__init__(f"{text}. {hint}" if hint else text)


def _describe_allowed(allowed: object) -> str:
    if isinstance(allowed, str):
        return allowed
    if isinstance(allowed, type):
        return f"of type {allowed.__name__}"
    if isinstance(allowed, (tuple, list, set, frozenset, dict)):
        if allowed and all(isinstance(item, type) for item in allowed):
            return f"of type {' or '.join(sorted(item.__name__ for item in allowed))}"
        # A set has no order of its own, a message should have one.
        names = sorted(map(_short, allowed)) if isinstance(allowed, (set, frozenset)) else [_short(v) for v in allowed]
        return f"one of {', '.join(names)}" if len(names) != 1 else names[0]
    return _short(allowed)


class ConfigError(ApiParamError):
    """A configuration is not as it must be.

    Parameters
    ----------
    field : str
        What is wrong, as a dotted path from the top of the configuration; empty where it is no one field.
    value : object
        The refused value.
    allowed : str or type or sequence
        What is allowed, as for `ApiParamError`.
    hint : str, optional
        What to do instead, as a sentence.
    file : str, optional
        What was read: a file, or a word for what is none.
    line : int, optional
        Where it stands, from 1; None where there are no lines.
    problem : str, optional
        What is wrong, where it is not the value.

    Attributes
    ----------
    field, value, allowed, hint, file, line
        As given. `item` is the field, too.

    Examples
    --------
    >>> print(ConfigError("apis.motors.workers", "two", int, file="lab.toml", line=7))
    lab.toml, line 7: apis.motors.workers is 'two', but must be of type int
    """

    def __init__(
        self,
        field: str,
        value: object,
        allowed: object,
        hint: str = "",
        *,
        file: str = "",
        line: int | None = None,
        problem: str = "",
    ) -> None:
        super().__init__(field or "the configuration", value, allowed, hint)
        self.field = field
        self.file = file
        self.line = line
        text = self.args[0] if not problem else f"{problem}. {hint}" if hint else problem
        where = ", ".join([part for part in (file, f"line {line}" if line is not None else "") if part])
        self.args = (f"{where}: {text}" if where else text,)


class UnknownApiError(ApiError, LookupError):
    """A name leads to no api of a tree.

    Parameters
    ----------
    path : str
        The path that leads nowhere.
    nearest : sequence of str, optional
        The most similar paths that exist.
    who : str, optional
        Whose tree it is.
    """

    def __init__(self, path: str, nearest: Sequence[str] = (), who: str = "") -> None:
        self.path = path
        self.nearest = tuple(nearest)
        self.who = who
        start = f"{who} has no api '{path}'" if who else f"there is no api '{path}'"
        super().__init__(f"{start}; {_advise_nearest(self.nearest, 'exists')}")


class UnsupportedApiError(ApiError, LookupError):
    """Nobody at the other end handles the path that was called.

    Parameters
    ----------
    who : str
        The end that was asked.
    path : str
        The path that it does not handle.
    nearest : sequence of str, optional
        The most similar paths that it does handle.

    Examples
    --------
    >>> print(UnsupportedApiError("body 'b'", "maths.scael", ("maths.scale",)))
    body 'b' does not handle 'maths.scael'; did you mean 'maths.scale'? set_handler('maths.scael', ...) adds a handler
    """

    def __init__(self, who: str, path: str, nearest: Sequence[str] = ()) -> None:
        self.who = who
        self.path = path
        self.nearest = tuple(nearest)
        advice = _advise_nearest(self.nearest, "is handled")
        super().__init__(f"{who} does not handle '{path}'; {advice} set_handler('{path}', ...) adds a handler")


def _advise_nearest(nearest: tuple[str, ...], verb: str) -> str:
    if not nearest:
        return f"nothing similar {verb}."
    return f"did you mean {' or '.join(repr(path) for path in nearest)}?"


class MultipleApiResponseError(ApiError):
    """More than one api on the same wire claims a path.

    Parameters
    ----------
    path : str
        The path that was called.
    count : int
        How many apis claimed it.
    results : sequence, optional
        What they returned, where they were asked.
    names : sequence of str, optional
        The apis by name.
    """

    def __init__(self, path: str, count: int, results: Sequence[Any] = (), names: Sequence[str] = ()) -> None:
        self.path = path
        self.count = count
        self.results = tuple(results)
        self.names = tuple(names)
        which = f" ({', '.join(self.names)})" if self.names else ""
        super().__init__(
            f"{count} apis{which} handle '{path}', where exactly one may; remove the handler from all but one of them"
        )


# --- transactions


class TransactionError(EpyrpcError):
    """A call's transaction is in a state in which this cannot be done."""


class TransactionIdError(TransactionError, ValueError):
    """A transaction id is malformed, unknown, or was made by another end.

    Parameters
    ----------
    message : str
        What is wrong with it, and what to do.
    transaction_id : int or str, optional
        The id.
    """

    def __init__(self, message: str, transaction_id: int | str | None = None) -> None:
        self.transaction_id = transaction_id
        super().__init__(message)


class DeadlockError(TransactionError):
    """A call could never be answered, since every worker that might waits for the caller.

    Parameters
    ----------
    message : str
        Which call waits for which, and what to do.
    calls : sequence, optional
        The calls of the circle.
    """

    def __init__(self, message: str, calls: Sequence[Any] = ()) -> None:
        self.calls = tuple(calls)
        super().__init__(message)


class TransactionFailed(TransactionError):
    """A call ended without an answer of its handler.

    Parameters
    ----------
    message : str
        Why, and what to do.
    transaction_id : int or str, optional
        The call.
    """

    def __init__(self, message: str, transaction_id: int | str | None = None) -> None:
        self.transaction_id = transaction_id
        super().__init__(message)


class TransactionTimeout(TransactionFailed, TimeoutBase):
    """A call's own deadline passed; it is retired, and the other end was told to stop it.

    It is a `TimeoutError`, and also a `concurrent.futures.TimeoutError` where that is another class (Python 3.10).

    Parameters
    ----------
    path : str
        What was called.
    transaction_id : int or str, optional
        The call.
    limit : float, optional
        Seconds that it was given.
    stopped : str, optional
        How it was stopped at the other end, once that is known.

    Examples
    --------
    >>> print(TransactionTimeout("maths.slow", "h7", 2.0))
    'maths.slow' (call h7) gave no answer within 2 s; give it a larger timeout=, or see with stacks() what it is doing
    """

    def __init__(
        self,
        path: str,
        transaction_id: int | str | None = None,
        limit: float | None = None,
        stopped: str | None = None,
    ) -> None:
        call = f"'{path}'" if transaction_id is None else f"'{path}' (call {transaction_id})"
        within = "in time" if limit is None else f"within {limit:g} s"
        super().__init__(
            f"{call} gave no answer {within}; give it a larger timeout=, or see with stacks() what it is doing",
            transaction_id,
        )
        self.path = path
        self.limit = limit
        self.stopped = stopped


class NoResponseRequired(Exception):
    """Raised by a handler to say that no reply is to be sent.

    This is control flow, so it stands outside the tree: `except EpyrpcError` in a handler must not swallow it. Somebody
    has to answer the call later, or its caller waits until its deadline.
    """


# --- transports


class IpcError(EpyrpcError):
    """Something is wrong with the wire, or with what was to cross it."""


class TransportStateError(IpcError):
    """The transport is in a state in which this cannot be done."""


class TransportClosed(TransportStateError):
    """The transport was closed by us; nothing can be sent or connected any more."""

    def __init__(
        self, message: str = "this end has closed the transport; make a new one (or spawn the body again) to go on"
    ) -> None:
        super().__init__(message)


class TransportDisconnected(TransportStateError):
    """The transport is not connected: it was not yet, or the peer or the world ended it."""

    def __init__(
        self, message: str = "the transport is not connected; call connect(), or see whether the other end still lives"
    ) -> None:
        super().__init__(message)


class ConnectionTimeout(TransportStateError, TimeoutBase):
    """The other end did not answer while connecting or disconnecting.

    Parameters
    ----------
    message : str, optional
        What was waited for, and what to do.
    limit : float, optional
        Seconds that were waited.
    """

    def __init__(
        self,
        message: str = "the other end did not answer in time; see whether it was started, and whether it is stopped",
        limit: float | None = None,
    ) -> None:
        super().__init__(message)
        self.limit = limit


# The ancestor's names, which the seed's users know.
TransportFinishedError = TransportClosed
TransportDisconnectedError = TransportDisconnected


class CodecError(IpcError, pickle.PicklingError):
    """Something cannot be encoded, or cannot be rebuilt from what arrived; the message names the culprit."""


class CodecImportError(CodecError, ImportError):
    """What arrived needs a module, or a name in one, that cannot be imported here."""


class NoDataError(IpcError):
    """There is nothing to return yet."""

    def __init__(self, message: str = "there is no data yet; wait for it, or ask again later") -> None:
        super().__init__(message)


class UnsupportedTransportError(IpcError, ValueError):
    """No transport goes by this name.

    Parameters
    ----------
    name : object
        What was asked for.
    allowed : sequence, optional
        What can be asked for.
    """

    _kind = "transport"

    def __init__(self, name: object, allowed: Sequence[object] = ()) -> None:
        self.name = name
        self.allowed = tuple(allowed)
        choice = f"choose one of {_listing(self.allowed)}" if self.allowed else f"there is no {self._kind} to choose"
        super().__init__(f"{_short(name)} is no {self._kind} known here; {choice}")


class UnsupportedTransportCompressionError(UnsupportedTransportError):
    """No compression goes by this name; `algo` is an alias of `name`."""

    _kind = "compression"

    @property
    def algo(self) -> object:
        """The algorithm that was asked for."""
        return self.name


class UnsupportedTransportEncryptionError(UnsupportedTransportError):
    """No cipher goes by this name; `algo` is an alias of `name`."""

    _kind = "encryption"

    @property
    def algo(self) -> object:
        """The algorithm that was asked for."""
        return self.name


# --- bodies


class BodyError(EpyrpcError, BrokenProcessPool):
    """Something is wrong with a body as a whole.

    Code written for `concurrent.futures.ProcessPoolExecutor` catches it as ``BrokenProcessPool``.

    Parameters
    ----------
    message : str
        What, and what to do.
    name : str, optional
        The body.
    pid : int, optional
        Its process.
    """

    def __init__(self, message: str, name: str | None = None, pid: int | None = None) -> None:
        super().__init__(message)
        self.name = name
        self.pid = pid


class BodyStartError(BodyError):
    """A body's process could not be started, or ended before it was ready.

    Parameters
    ----------
    message : str
        Why, and what to do.
    name : str, optional
        The body.
    pid : int, optional
        Its process, if there was one.
    exitcode : int, optional
        With what it ended; a negative number is a signal.
    stderr : str, optional
        The last lines that it wrote.
    """

    def __init__(
        self,
        message: str,
        name: str | None = None,
        pid: int | None = None,
        exitcode: int | None = None,
        stderr: str = "",
    ) -> None:
        super().__init__(message + _quote_stderr(stderr), name, pid)
        self.exitcode = exitcode
        self.stderr = stderr


class PoolBroken(BodyError):
    """A pool cannot go on: its initializer failed, or its bodies do not start."""


class BodyDied(BodyError):
    """A body's process ended while it was needed.

    Parameters
    ----------
    name : str
        The body.
    pid : int, optional
        Its process.
    exitcode : int, optional
        With what it ended; a negative number is a signal, None is not known.
    running : sequence, optional
        The calls that it was running.
    stderr : str, optional
        The last lines that it wrote.
    to_end : str, optional
        The call that it was killed for, where somebody asked for that; it is started again then.

    Examples
    --------
    >>> error = BodyDied("worker", 4242, -9, running=["maths.slow"])
    >>> error.signal
    'SIGKILL'
    >>> print(error)
    body 'worker' (pid 4242) was killed by SIGKILL while running maths.slow; was memory short? restart() brings it back
    """

    def __init__(
        self,
        name: str,
        pid: int | None = None,
        exitcode: int | None = None,
        running: Sequence[Any] = (),
        stderr: str = "",
        to_end: str = "",
    ) -> None:
        who = f"body '{name}'" if pid is None else f"body '{name}' (pid {pid})"
        busy = f" while running {', '.join(str(call) for call in running)}" if running else ""
        if to_end:
            text = f"{who} was killed on request, to end {to_end}{busy}; it is started again with its handlers"
        else:
            memory = " was memory short?" if exitcode == -9 else ""
            text = f"{who} {describe_exit(exitcode)}{busy};{memory} restart() brings it back"
        super().__init__(text + _quote_stderr(stderr), name, pid)
        self.exitcode = exitcode
        self.running = tuple(running)
        self.stderr = stderr

    @property
    def signal(self) -> str | None:
        """The name of the signal that killed it, or None if none did."""
        return _signal_name(self.exitcode)


class BodyLost(BodyError):
    """The link to a body was lost; whether its process still lives is not known."""


def _signal_name(exitcode: int | None) -> str | None:
    if exitcode is None or exitcode >= 0:
        return None
    try:
        return signal.Signals(-exitcode).name
    except ValueError:  # a real-time signal, most of which have no name
        return f"signal {-exitcode}"


def describe_exit(exitcode: int | None) -> str:
    """Return how a process ended, as the end of a sentence about it."""
    name = _signal_name(exitcode)
    if name is not None:
        return f"was killed by {name}"
    return "died" if exitcode is None else f"ended with exit code {exitcode}"


def _quote_stderr(stderr: str) -> str:
    return f"\nThe last lines of its stderr:\n{stderr.rstrip()}" if stderr.strip() else ""


class LargeCaptureWarning(UserWarning):
    """A function takes much data along whenever it is sent; the text says what, and how to send it once."""


# --- handlers


class RemoteError(EpyrpcError):
    """Stands for a handler's exception that cannot be rebuilt in this process.

    Parameters
    ----------
    type_name : str
        The exception's class, with its module.
    text : str
        What `str()` of it gave.
    traceback_text : str, optional
        Its traceback, as text of the process where it was raised.
    reason : str, optional
        Why it could not be rebuilt.

    Attributes
    ----------
    type_name, text, traceback_text, reason : str
        As given.
    """

    def __init__(self, type_name: str, text: str, traceback_text: str = "", reason: str = "") -> None:
        self.type_name = type_name
        self.text = text
        self.traceback_text = traceback_text
        self.reason = reason
        what = f"{type_name}: {text}" if text else type_name
        why = reason or "it could not be rebuilt here"
        super().__init__(f"{what}\n[{why}; .type_name, .text and .traceback_text hold what is known of it]")
