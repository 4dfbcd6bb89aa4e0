"""Objects to bytes and back: closures by value, buffers out of band, exceptions with their remote traceback.

Plain values go through the C pickler, which is five times as fast as anything that can be taught; everything else
through a cloudpickle `Pickler` of ours. This is the only module that imports cloudpickle, and only when it is needed.

A function that travels by value takes the globals that it reads along; for names that it lacks where it arrives see
`home`.

All functions here may be called on any thread.
"""

from __future__ import annotations

import contextlib
import copyreg
import io
import itertools
import linecache
import pickle
import re
import sys
import threading
import traceback
import types
from typing import TYPE_CHECKING, Any

from epyrpc.errors import ApiParamError, CodecError, CodecImportError, RemoteError
from epyrpc.home import global_names, is_standard_builtin, make_function

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Encoded = tuple[bytes, list[pickle.PickleBuffer]]
    FrameSummary = tuple[str, int, str, str]  # file, line number from 1, function, source line or ""

PROTOCOL = 5
# A smaller buffer costs more to hand over by itself than to copy.
MIN_BUFFER_BYTES = 4096
# Bytes from this size on travel as a buffer instead of being copied into the pickle.
LARGE_BYTES = 1 << 20
_SMALL_ITEMS = 16
_FEW_ITEMS = 128
_SMALL_TEXT = 100
_MAX_TEXT = 200_000
_MAX_FRAMES = 200

_dumps = dumps = pickle.dumps
_loads = loads = pickle.loads
ATOMS: frozenset[type] = frozenset({int, float, str, bool, type(None)})
REFUSALS = Exception, SystemExit  # what an object may raise while it is pickled, and cannot be sent then
are_atoms = ATOMS.issuperset  # of the types of values: whether `dumps` does for these
_are_scalars = (ATOMS - {str}).issuperset


# --- encoding


def are_few_atoms(values: Sequence[object]) -> bool:
    """Return whether `dumps` does for all of the values, which nobody can change, and they take some kilobytes at most.

    Of a whole number of more than a thousand digits it is not true that it is small; nobody sends many of those.
    """
    if len(values) > _SMALL_ITEMS:
        return False
    if _are_scalars(map(type, values)):
        return True
    for value in values:
        if type(value) is str:
            if len(value) > _SMALL_TEXT:
                return False
        elif type(value) not in ATOMS:
            return False
    return True


class ApiPicklable:
    """Base for objects that strip themselves before they cross to another process.

    Examples
    --------
    >>> import copy, threading
    >>> class Account(ApiPicklable):
    ...     def __init__(self):
    ...         self.balance, self.lock = 5, threading.Lock()
    ...     def export(self):
    ...         stripped = copy.copy(self)
    ...         stripped.lock = None
    ...         return stripped
    >>> decode(*encode(Account())).balance
    5
    """

    __slots__ = ()

    def export(self) -> Any:
        """Return the object to send in this one's place; called on the thread that sends.

        It is not asked for an `export` in turn, so that it may be of the same class. What is sent is this object
        itself unless a subclass says otherwise.
        """
        return self


def _is_plain(value: object) -> bool:
    """Return whether the C pickler alone does for a value: decided by exact types, one level deep."""
    kind = type(value)
    if kind in ATOMS:
        return True
    if kind is bytes:
        return len(value) < LARGE_BYTES  # type: ignore[arg-type]
    if kind is tuple or kind is list:
        items: Any = value
        return len(items) <= _SMALL_ITEMS and ATOMS.issuperset(map(type, items))
    if kind is dict:
        table: Any = value
        return (
            len(table) <= _SMALL_ITEMS
            and ATOMS.issuperset(map(type, table))
            and ATOMS.issuperset(map(type, table.values()))
        )
    return False


def dump_plain(obj: object) -> bytes:
    """Encode what is known to be plain, in builtin containers; `decode` rebuilds it."""
    return _dumps(obj, PROTOCOL)


class _NotPlain(Exception):
    pass


class _PlainPickler(pickle.Pickler):
    """Refuses whatever its C code does not know, which it asks about at once: no code of a user's runs."""

    def reducer_override(self, obj: object) -> Any:
        raise _NotPlain


class _Pages(io.BytesIO):
    """Refuses what had better not be copied."""

    def write(self, data: Any) -> int:
        if len(data) >= LARGE_BYTES:
            raise _NotPlain
        return super().write(data)


def dump_if_plain(values: Sequence[object]) -> bytes | None:
    """Encode values that are builtin ones, in builtin containers if at all; None when there is anything else.

    No user's code runs, neither here nor in `decode`.
    """
    if len(values) <= _FEW_ITEMS and are_atoms(map(type, values)):
        return _dumps(values, PROTOCOL)
    pages = _Pages()  # of more, to look through them would take longer than the pickler that refuses
    try:
        _PlainPickler(pages, PROTOCOL).dump(values)
    except Exception:  # also that it is too deep, or changes meanwhile: the general way finds that too, and whose it is
        return None
    return pages.getvalue()


def encode_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Encoded:
    """Encode the arguments of a call; `decode` gives them back as the pair of both.

    Parameters
    ----------
    args : tuple
        The positional arguments.
    kwargs : dict
        The keyword arguments.

    Returns
    -------
    payload : bytes
        The pickle.
    buffers : list of pickle.PickleBuffer
        What `payload` refers to out of band, to be handed to `decode` in the same order.

    Raises
    ------
    CodecError
        An argument cannot be pickled; the message names it and the culprit inside it.
    """
    for value in args:
        if type(value) not in ATOMS and not _is_plain(value):
            return _encode_mixed_call(args, kwargs)
    if kwargs:
        for value in kwargs.values():
            if type(value) not in ATOMS and not _is_plain(value):
                return _encode_mixed_call(args, kwargs)
    return _dumps((args, kwargs), PROTOCOL), []


class AdHoc(tuple):  # type: ignore[type-arg]
    """What a call of an ad-hoc function sends: the function, its positional and its named arguments."""

    __slots__ = ()


def _encode_mixed_call(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Encoded:
    wrapped = tuple([_wrap_bytes(value) for value in args]), {name: _wrap_bytes(kwargs[name]) for name in kwargs}
    try:
        return _pickle(wrapped)
    except REFUSALS as exc:
        roots: list[tuple[str, object]] = []
        if type(args) is AdHoc:
            roots.append(("the function", args[0]))
            args, kwargs = args[1], args[2]
        roots += [(f"argument {index} of the call", value) for index, value in enumerate(args, 1)]
        roots += [(f"argument '{name}'", value) for name, value in kwargs.items()]
        raise _refusal(exc, roots, "the arguments of the call") from exc


def encode_value(obj: object, what: str = "result") -> Encoded:
    """Encode one value, as `encode` does, by the short way if it is plain.

    A SystemExit that its pickling raises is let through: of a result it is the outcome, as with executors.
    """
    if type(obj) in ATOMS or _is_plain(obj):
        return _dumps(obj, PROTOCOL), []
    return _encode(obj, what, Exception)


def encode(obj: object, *, what: str = "argument") -> Encoded:
    """Encode any object, functions and classes that cannot be imported by value.

    Parameters
    ----------
    obj : object
        What to encode.
    what : str, optional
        What an error message calls it.

    Returns
    -------
    payload : bytes
        The pickle, of protocol 5.
    buffers : list of pickle.PickleBuffer
        Contiguous buffers of 4096 bytes and more, not copied, so they must not change until they are written.

    Raises
    ------
    CodecError
        It cannot be pickled; the message names the path to the culprit.
    """
    return _encode(obj, what, REFUSALS)


def _encode(obj: object, what: str, refusals: type[Exception] | tuple[type[BaseException], ...]) -> Encoded:
    try:
        return _pickle(_wrap_bytes(obj))
    except refusals as exc:
        raise _refusal(exc, [(what, obj)], what) from exc


def decode(payload: bytes | memoryview, buffers: Sequence[Any] = ()) -> Any:
    """Rebuild what was encoded.

    Parameters
    ----------
    payload : bytes or memoryview
        The pickle.
    buffers : sequence, optional
        The buffers that came with it. Arrays are made over them without a copy, read-only where they are.

    Raises
    ------
    CodecError
        It cannot be rebuilt here; the message names the cause. A `CodecImportError` when a module is missing.
    """
    try:
        return _loads(payload, buffers=buffers) if buffers else _loads(payload)
    except Exception as exc:
        raise unreadable(exc) from exc


def unreadable(exc: Exception) -> CodecError:
    """Return the error for what could not be decoded because of `exc`."""
    kind = CodecImportError if isinstance(exc, ImportError) else CodecError
    return kind(f"what arrived cannot be rebuilt here: {named(exc)}. {_advise(exc)}")


def _advise(exc: Exception) -> str:
    if isinstance(exc, ModuleNotFoundError):
        return (
            f"Make '{exc.name}' importable in this process too, or send the code by value: "
            f"epyrpc.by_value('{exc.name}')"
        )
    if isinstance(exc, (AttributeError, ImportError)):
        return "The module is another one here than where it was sent from: reload it, or restart the body"
    if isinstance(exc, (pickle.UnpicklingError, EOFError)):
        return "The data is damaged, or was not written by epyrpc"
    return "See to it that its class unpickles: pickle.loads(pickle.dumps(x)) must work"


def _pickle(obj: object) -> Encoded:
    buffers: list[pickle.PickleBuffer] = []

    def take(buffer: pickle.PickleBuffer) -> bool:
        """Keep a buffer out of band, or return True to have it copied into the pickle."""
        try:
            with buffer.raw() as view:
                small = view.nbytes < MIN_BUFFER_BYTES
        except BufferError:  # not contiguous: there is no one piece of memory to hand over
            return True
        if not small:
            buffers.append(buffer)
        return small

    sink = io.BytesIO()
    _pickler_class()(sink, PROTOCOL, take).dump(obj)
    return sink.getvalue(), buffers


class _LargeBytes:
    """Stands for bytes that are to travel as a buffer: pickle itself copies them into the stream."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes | bytearray) -> None:
        self._value = value

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self._value), (pickle.PickleBuffer(self._value),)


def _wrap_bytes(value: Any) -> Any:
    kind = type(value)
    return _LargeBytes(value) if (kind is bytes or kind is bytearray) and len(value) >= LARGE_BYTES else value


# --- the pickler, made when it is first needed

_lock = threading.Lock()
_pickler: Any = None  # Guarded by _lock for writing; a class once set, never changed.


def _pickler_class() -> Any:
    """Return our subclass of cloudpickle's `Pickler`."""
    # Read without the lock: a reader sees None or the finished class.
    return _pickler or _make_pickler_class()


def _make_pickler_class() -> Any:
    global _pickler
    import cloudpickle  # type: ignore[import-untyped] # no types; 15 ms, and a process that sends plain values never needs it

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc] # cloudpickle has no types
        """Cloudpickle's, with home names, exports, and exceptions of any constructor."""

        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            # {id: (original, its export)}: the objects are kept, since an id is only theirs while they live.
            self._exports: dict[int, tuple[Any, Any]] = {}

        def reducer_override(self, obj: Any) -> Any:
            # type(), not isinstance: a proxy may answer for its target, or raise, when asked for its __class__.
            kind = type(obj)
            if issubclass(kind, ApiPicklable):
                reduced = self._reduce_export(obj)
            elif issubclass(kind, BaseException):
                reduced = _reduce_exception(obj)
            elif issubclass(kind, type):
                return self._reduce_class(obj)
            elif kind is types.ModuleType and obj.__name__ != "__main__" and _is_dynamic(obj.__name__):
                state = {name: value for name, value in vars(obj).items() if name != "__builtins__"}
                return cloudpickle.cloudpickle.dynamic_subimport, (obj.__name__, state)
            else:
                return super().reducer_override(obj)
            return super().reducer_override(obj) if reduced is NotImplemented else reduced

        def _reduce_class(self, cls: type) -> Any:
            reduced = super().reducer_override(cls)
            if reduced is NotImplemented and _is_of_dynamic_module(cls):
                reduced = cloudpickle.cloudpickle._dynamic_class_reduce(cls)
            has_slots = "__slots__" in vars(cls) and not (issubclass(cls, tuple) and hasattr(cls, "_fields"))
            if has_slots and isinstance(reduced, tuple) and len(reduced[1]) == 6:
                # Cloudpickle lets the class be made without its slots: its instances would come back with a __dict__.
                constructor, name, bases, options, *rest = reduced[1]
                options = {**options, "__slots__": vars(cls)["__slots__"]}
                attributes, more = reduced[2]
                # Made anew with the slots; it overlooks those with private names.
                attributes = {k: v for k, v in attributes.items() if type(v) is not types.MemberDescriptorType}
                reduced = (reduced[0], (constructor, name, bases, options, *rest), (attributes, more), *reduced[3:])
            return reduced

        def _function_reduce(self, func: types.FunctionType) -> Any:
            if _is_of_dynamic_module(func):
                return self._dynamic_function_reduce(func)
            return super()._function_reduce(func)

        def _reduce_export(self, obj: ApiPicklable) -> Any:
            if id(obj) not in self._exports:
                export = obj.export()
                self._exports[id(obj)] = (obj, export)
                self._exports[id(export)] = (export, export)
            export = self._exports[id(obj)][1]
            # An object that refers back to the original finds the export that is already under way.
            return NotImplemented if export is obj else (_identity, (export,))

        def _dynamic_function_reduce(self, func: types.FunctionType) -> Any:
            _, (code, namespace, _, _, closure), state, *_ = super()._dynamic_function_reduce(func)
            names = global_names(code)
            # Cloudpickle overlooks what the body of a nested class reads.
            state[1]["__globals__"].update({name: func.__globals__[name] for name in names if name in func.__globals__})
            home = any(name not in func.__globals__ and not is_standard_builtin(name) for name in names)
            return make_function, (code, namespace, closure, home), state, None, None, _set_function_state

    with _lock:
        if _pickler is None:
            _pickler = Pickler
    return _pickler


def _identity(obj: Any) -> Any:
    return obj


def _set_function_state(func: types.FunctionType, state: Any) -> None:
    # Already loaded by what came before in the pickle.
    from cloudpickle.cloudpickle import _function_setstate  # type: ignore[import-untyped] # it has no types

    namespace = func.__globals__
    kept = namespace["__builtins__"]
    _function_setstate(func, state)  # sets the plain builtins
    namespace["__builtins__"] = kept


def _is_of_dynamic_module(obj: Any) -> bool:
    """Whether a function or class belongs to a module that was made at run time."""
    name = getattr(obj, "__module__", None)
    return isinstance(name, str) and _is_dynamic(name)


def _is_dynamic(name: str) -> bool:
    """Whether a module was made at run time, so that no other process can import it.

    One below an importable package counts as importable: extension modules make some without a file.
    """
    top = sys.modules.get(name.partition(".")[0])
    return isinstance(top, types.ModuleType) and getattr(top, "__spec__", None) is None and not hasattr(top, "__file__")


# --- exceptions


class RemoteTraceback(Exception):  # it is no error, but what Python shows as the cause of one
    """The `__cause__` of an exception that arrived: where it was raised, in the other process.

    Its text is the traceback, chained exceptions included. Source lines that were not known there are filled in from
    this process, which has those of a notebook's cells.

    Attributes
    ----------
    text : str
        The traceback as it was formatted there.
    frames : list of (str, int, str, str)
        File, line number, function and source line, or "", of each frame, the outermost first.
    """

    def __init__(self, text: str, frames: Sequence[FrameSummary] = ()) -> None:
        super().__init__(text, frames)
        self.text = text
        self.frames = list(frames)

    @property
    def tb(self) -> str:
        """The text with source lines, by the name that the standard library's executors give it."""
        return fill_in_sources(self.text)

    def __str__(self) -> str:
        return f"\n{self.tb}"


_FRAME_LINE = re.compile(r'^([ |+-]*)File "(.+)", line (\d+)(?:, in .*)?$')


def fill_in_sources(text: str) -> str:
    """Add the source lines that a formatted traceback lacks, where this process knows them."""
    lines = text.split("\n")
    filled: list[str] = []
    for line, following in itertools.zip_longest(lines, lines[1:], fillvalue=""):
        filled.append(line)
        match = _FRAME_LINE.match(line)
        if match is None:
            continue
        margin = match[1] + "  "
        if not following.startswith(margin):
            source = linecache.getline(match[2], int(match[3])).strip()
            if source:
                filled.append(margin + source)
    return "\n".join(filled)


def encode_error(exc: BaseException) -> bytes:
    """Encode an exception with its traceback; never raises.

    What cannot be pickled of it arrives as a `RemoteError`.
    """
    pickled, reason = None, ""
    try:
        sink = io.BytesIO()
        _pickler_class()(sink, PROTOCOL).dump(exc)
        pickled = sink.getvalue()
    except BaseException as failure:
        # Even a SystemExit: it comes from the exception's own __reduce__, and the caller must get an answer.
        reason = _describe_failure(exc, failure)
    name = _type_name(type(exc))
    try:
        summary = (name, _cut(_safe_str(exc)), _summarise(exc), _cut(_format(exc)), pickled, reason)
    except BaseException as failure:
        # As above: its __str__, its __notes__ and the loader of its source are the user's code.
        summary = (name, "", [], f"{name}\n[it cannot be shown: {type(failure).__name__}]", pickled, reason)
    return _dumps(summary, PROTOCOL)


def decode_error(payload: bytes | memoryview) -> BaseException:
    """Rebuild an exception, with a `RemoteTraceback` as its `__cause__` if it was raised; never raises.

    Returns
    -------
    BaseException
        The exception itself; a `RemoteError` if it cannot be rebuilt here; a `CodecError` if the payload is garbage.
    """
    try:
        type_name, text, frames, formatted, pickled, reason = _loads(payload)
        cause = RemoteTraceback(formatted, frames)
    except Exception as exc:
        error = CodecError(f"the other end sent an error that cannot be read: {type(exc).__name__}: {exc}")
        error.__cause__ = exc
        return error
    exception, failure = _load_exception(pickled)
    if exception is None:
        exception = RemoteError(type_name, text, formatted, reason or failure)
    if frames:
        BaseException.__setattr__(exception, "__cause__", cause)  # an exception of a frozen class refuses the plain way
        if on_error_decoded is not None:
            on_error_decoded(exception)
    return exception


# Called with each exception that has arrived with a traceback; the notebook part sets it, to have it drawn well.
on_error_decoded: Callable[[BaseException], object] | None = None


def _load_exception(pickled: bytes | None) -> tuple[BaseException | None, str]:
    """Return the exception, or None and why it cannot be rebuilt."""
    if pickled is None:
        return None, ""
    try:
        exception = _loads(pickled)
    except BaseException as exc:
        # Whatever its class does when it is unpickled, the caller gets to know the error of the handler, not this one.
        return None, f"it could not be rebuilt here: {named(exc)}"
    if isinstance(exception, BaseException):
        return exception, ""
    return None, f"it unpickles as {_type_name(type(exception))}, which is no exception"


def _describe_failure(exc: BaseException, failure: BaseException) -> str:
    try:
        from epyrpc.culprits import find_culprit  # it stands on this module

        path = find_culprit(exc, "the exception")
    except BaseException as again:
        # The search runs the same code of the user's that has just failed.
        path = f"the exception ({type(again).__name__} while looking for the culprit)"
    return f"it could not be sent: {path}: {named(failure)}"


def _type_name(kind: type) -> str:
    module = getattr(kind, "__module__", "builtins")
    name = getattr(kind, "__qualname__", kind.__name__)
    return str(name) if module == "builtins" else f"{module}.{name}"


def _safe_str(exc: BaseException) -> str:
    try:
        return str.__str__(str(exc))  # a plain str, where __str__ returns an instance of a subclass
    except Exception as failure:
        # As the traceback module does: the exception's type is worth more than the reason why it has no text.
        return f"<its str() raises {type(failure).__name__}>"


def named(exc: BaseException) -> str:
    """Return an exception's type and its text, if it has any, for a sentence."""
    text = _safe_str(exc)
    return f"{type(exc).__name__}: {text}" if text else type(exc).__name__


def _cut(text: str) -> str:
    if len(text) <= _MAX_TEXT:
        return text
    half = _MAX_TEXT // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half} characters left out ...]\n{text[-half:]}"


def _format(exc: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(type(exc), exc, exc.__traceback__)).rstrip("\n")
    except Exception as failure:
        # The traceback module runs __str__, __notes__ and more of the user's.
        return f"{_type_name(type(exc))}: {_safe_str(exc)}\n[its traceback cannot be shown: {type(failure).__name__}]"


def _summarise(exc: BaseException) -> list[FrameSummary]:
    try:
        frames = traceback.extract_tb(exc.__traceback__)
        summary = [(f.filename, f.lineno or 0, f.name, f.line or "") for f in frames]
    except Exception:
        # Loaders of the user's may fail to give the source; the text of the traceback says what it can.
        return []
    half = _MAX_FRAMES // 2
    return summary if len(summary) <= _MAX_FRAMES else summary[:half] + summary[-half:]


def _reduce_exception(exc: BaseException) -> Any:
    """Reduce an exception whose constructor takes other things than its `args`, which pickle cannot rebuild."""
    kind = type(exc)
    written_here = isinstance(kind.__init__, types.FunctionType) or isinstance(kind.__new__, types.FunctionType)
    reduce_is_pythons = (
        not isinstance(kind.__reduce__, types.FunctionType) and kind.__reduce_ex__ is object.__reduce_ex__
    )
    if not written_here or not reduce_is_pythons or kind in copyreg.dispatch_table:
        return NotImplemented
    reduced = exc.__reduce__()
    if not isinstance(reduced, tuple) or reduced[0] is not kind:
        return NotImplemented
    return _rebuild_exception, (kind, reduced[1]), *reduced[2:]


def _rebuild_exception(kind: type[BaseException], args: tuple[Any, ...]) -> BaseException:
    """Make an exception without running an `__init__` written in Python: its results are in the state that follows."""
    for base in kind.__mro__:
        new = base.__dict__.get("__new__")
        if new is None or isinstance(new, (staticmethod, types.FunctionType)):
            continue
        try:
            exc: BaseException = new(kind, *args)
        except TypeError:
            continue  # of several bases made in C, only the one that determines the layout may make it
        # Where its arguments do not fit, it was not called with them there either, and what it sets was not set.
        with contextlib.suppress(TypeError, ValueError):
            base.__dict__["__init__"](exc, *args)
        return exc
    raise TypeError(f"no base of {_type_name(kind)} can make one")


def _refusal(exc: BaseException, roots: Sequence[tuple[str, object]], what: str) -> CodecError:
    from epyrpc.culprits import refusal  # it stands on this module, and is needed when something is wrong only

    return refusal(exc, roots, what)


def by_value(module: types.ModuleType | str, *, on: bool = True) -> types.ModuleType:
    """Let functions and classes of a module travel by value from now on, as those of a notebook do.

    So a body runs the code that this process has: after an edit and `importlib.reload` the new one, as soon as a
    handler is registered again. And the module need not be importable in the body.

    Parameters
    ----------
    module : module or str
        The module, a package with everything in it, or its name, which is imported.
    on : bool
        False takes it back: they are found by their names again.

    Returns
    -------
    module
        The module.

    Raises
    ------
    ApiParamError
        It is no module.
    """
    import importlib

    _pickler_class()
    import cloudpickle

    if isinstance(module, str):
        try:
            module = importlib.import_module(module)
        except ModuleNotFoundError as exc:
            if exc.name is None or not f"{module}.".startswith(f"{exc.name}."):
                raise  # it is there, but lacks something
            raise ApiParamError("module", module, "a module that can be imported") from None
    if not isinstance(module, types.ModuleType):
        raise ApiParamError("module", module, "a module, or the name of one")
    if on:
        cloudpickle.register_pickle_by_value(module)
    elif module.__name__ in cloudpickle.list_registry_pickle_by_value():
        cloudpickle.unregister_pickle_by_value(module)
    return module


def reference_to(obj: Any) -> str | None:
    """Return the name by which an object travels; None for what travels by value.

    Modules, and functions and classes that can be imported, are found by their name at the other end, in whatever
    version it has.
    """
    _pickler_class()
    from cloudpickle.cloudpickle import _should_pickle_by_reference

    if isinstance(obj, types.ModuleType):
        return obj.__name__ if _should_pickle_by_reference(obj) else None
    if isinstance(obj, (types.FunctionType, type)):
        return f"{obj.__module__}.{obj.__qualname__}" if _should_pickle_by_reference(obj) else None
    if isinstance(obj, types.BuiltinFunctionType) and (
        obj.__self__ is None or isinstance(obj.__self__, types.ModuleType)
    ):
        return f"{obj.__module__}.{obj.__qualname__}"
    return None


def size_of(obj: Any, sink: Any) -> int:
    """Return how many bytes an object is that travels, buffers included; `sink` is written to, and may raise."""
    size = 0

    def count(buffer: pickle.PickleBuffer) -> bool:
        nonlocal size
        try:
            with buffer.raw() as view:
                size += view.nbytes
        except BufferError:  # not contiguous: it is copied, and counted with the rest
            return True
        return False

    counting = _Counting(sink)
    _pickler_class()(counting, PROTOCOL, count).dump(_wrap_bytes(obj))
    return size + counting.size


class _Counting:
    """A file that counts what is written to it and tells another one of it."""

    def __init__(self, sink: Any) -> None:
        self.size = 0
        self._sink = sink

    def write(self, data: Any) -> int:
        self.size += len(data)
        return int(self._sink.write(data))
