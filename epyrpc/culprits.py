"""What inside an object cannot travel: where it is, and what to do about it.

The search runs when a pickling has failed, and for `epyrpc.explain`.
"""

from __future__ import annotations

import collections
import copyreg
import functools
import io
import time
import types
from typing import TYPE_CHECKING, Any

from epyrpc import codec
from epyrpc.errors import CodecError
from epyrpc.home import global_names

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_MAX_DEPTH = 32
_MAX_PROBES = 400
_MAX_SECONDS = 1.0


class SearchEnded(BaseException):  # not an Exception, so that no __reduce__ of the user's takes it for its own
    """The search for the culprit has used up its time."""


class Probe:
    """Tells whether objects can be pickled, a bounded number of times and within a bounded time.

    It is also the file that the pickler writes to: the only place where a long pickling can be stopped.
    """

    def __init__(self) -> None:
        self._deadline = time.monotonic() + _MAX_SECONDS
        self._left = _MAX_PROBES

    def write(self, data: Any) -> int:
        """Take what is pickled, as long as there is time."""
        if time.monotonic() > self._deadline:
            raise SearchEnded
        return len(data)

    def fails(self, obj: object) -> bool:
        """Whether an object cannot be pickled."""
        if type(obj) in codec.ATOMS:
            return False
        self._left -= 1
        if self._left < 0 or time.monotonic() > self._deadline:
            raise SearchEnded
        try:
            codec._pickler_class()(self, codec.PROTOCOL, lambda buffer: None).dump(obj)
        except codec.REFUSALS:
            # That it fails is the answer; why, is told by the error that began the search.
            return True
        return False


def find_culprit(obj: object, what: str) -> str:
    """Return the path to what cannot be pickled inside an object.

    Closures, the globals that functions use, defaults, attributes, items and keys are followed, to a bounded depth and
    for about a second at most. Objects on the way are pickled again to see which of them fail.

    Parameters
    ----------
    obj : object
        What could not be pickled.
    what : str
        What to call it.

    Returns
    -------
    str
        Such as ``handler → closure 'self' → _lock (_thread.lock)``.
    """
    return _search([(what, obj)], what)[0]


def _search(roots: Sequence[tuple[str, object]], what: str) -> tuple[str, object]:
    path: list[tuple[str, object]] = []
    tail = ""
    try:
        path = _find(roots, Probe(), path)
    except SearchEnded:
        # As far as it came is still the right direction, but not the end of the way.
        tail = "..."
    except codec.REFUSALS as exc:
        # Looking into an object runs its code; what was found before is still the right direction.
        tail = f"({type(exc).__name__} when looked into)"
    labels = [label for label, _ in path] or [what]
    if tail:
        return " → ".join([*labels, tail]), None
    return (f"{' → '.join(labels)} ({codec._type_name(type(path[-1][1]))})", path[-1][1]) if path else (what, None)


def _find(
    roots: Iterable[tuple[str, object]], probe: Probe, path: list[tuple[str, object]]
) -> list[tuple[str, object]]:
    """Return the way, in labels and objects, to something that cannot be pickled though all that is in it can.

    `path` is where the search is; it tells its caller how far it came when it is broken off.
    """
    levels = [iter(roots)]
    circular = [False]  # for each level: something in it leads back to what is on the way already
    seen: dict[int, object] = {}  # the objects too, since an id is only theirs while they live
    first: list[tuple[str, object]] = []
    while levels:
        for label, value in levels[-1]:
            if id(value) in seen:
                circular[-1] = True
            elif probe.fails(value):
                path.append((label, value))
                if len(path) == _MAX_DEPTH or _is_end(value):
                    return path
                seen[id(value)] = value
                levels.append(children(value))
                circular.append(False)
                break
        else:
            if path and not circular[-1]:
                return path
            first = first or list(path)  # it fails for what it is part of, so far as is known
            levels.pop()
            circular.pop()
            if path:
                path.pop()
                circular[-1] = True
    return first


def _is_end(value: object) -> bool:
    """Whether to look no further: nobody wants to know what of the notebook's shell cannot be pickled."""
    return any(base.__name__ == "InteractiveShell" for base in type(value).__mro__)


def refusal(exc: BaseException, roots: Sequence[tuple[str, object]], what: str) -> CodecError:
    """Return the error for something that cannot be pickled."""
    path, found = _search(roots, what)
    if isinstance(exc, CodecError):  # an object's own refusal, which says what to do
        return CodecError(f"cannot send {path}: {exc}")
    return CodecError(f"cannot send {path}: {codec.named(exc)}. {advise(found)}")


def advise(culprit: object) -> str:
    """Return what to do about something that cannot be pickled."""
    kind = type(culprit)
    names = {base.__name__ for base in kind.__mro__}
    if isinstance(culprit, (types.GeneratorType, types.CoroutineType, types.AsyncGeneratorType)):
        return "It runs here and cannot be copied: send a list of what it yields, or make it inside the function"
    if kind.__module__ in ("_thread", "threading") and not names & {"Thread", "local"}:
        return (
            "It keeps threads of this process apart and means nothing in another one: make it inside the function, or "
            "leave it out with __getstate__ or ApiPicklable.export()"
        )
    if isinstance(culprit, io.IOBase):
        return "Open it inside the function instead, and send its path"
    if names & {"socket", "Connection", "Cursor", "Session", "Engine"}:
        return "It belongs to this process: connect inside the function instead"
    if "InteractiveShell" in names:
        return "It is the notebook's shell; a %%body cell has the body's own: leave it, and get_ipython, out"
    return (
        "Make it inside the function instead, send only what is needed of it, or leave it out with __getstate__ or "
        "ApiPicklable.export()"
    )


def children(obj: Any) -> Iterator[tuple[str, object]]:
    """Yield what pickling an object pickles, with labels."""
    if isinstance(obj, types.FunctionType):
        yield from _function_children(obj)
    elif isinstance(obj, types.MethodType):
        yield "its object", obj.__self__
        yield "its function", obj.__func__
    elif isinstance(obj, (staticmethod, classmethod)):
        yield "its function", obj.__func__
    elif isinstance(obj, property):
        yield from (("getter", obj.fget), ("setter", obj.fset), ("deleter", obj.fdel))
    elif isinstance(obj, functools.partial):
        yield "its function", obj.func
        yield from ((f"argument {index}", value) for index, value in enumerate(obj.args, 1))
        yield from ((f"argument '{name}'", value) for name, value in obj.keywords.items())
    elif isinstance(obj, type):
        yield from ((f"base {base.__name__}", base) for base in obj.__bases__)
        yield from ((name, value) for name, value in list(vars(obj).items()) if name not in _CLASS_EXTRAS)
    elif type(obj) in (list, tuple, set, frozenset, collections.deque):
        yield from ((f"item {index}", value) for index, value in enumerate(obj))
    elif type(obj) is dict:
        yield from _pair_children(list(obj.items()))
    else:
        yield from _reduced_children(obj)


# What cloudpickle leaves out of a class that it sends by value.
_CLASS_EXTRAS = frozenset({"__dict__", "__weakref__", "_abc_impl", "__module__", "__doc__"})


def _function_children(func: types.FunctionType) -> Iterator[tuple[str, object]]:
    code = func.__code__
    for name, cell in zip(code.co_freevars, func.__closure__ or (), strict=True):
        try:
            yield f"closure '{name}'", cell.cell_contents
        except ValueError:  # an empty cell: the variable is not set yet
            continue
    for name in sorted(global_names(code)):
        if name in func.__globals__:
            yield f"global '{name}'", func.__globals__[name]
    defaults = func.__defaults__ or ()
    positional = code.co_varnames[: code.co_argcount]
    if defaults:
        yield from ((f"default of '{n}'", v) for n, v in zip(positional[-len(defaults) :], defaults, strict=True))
    yield from ((f"default of '{name}'", value) for name, value in (func.__kwdefaults__ or {}).items())
    yield from vars(func).items()
    yield from ((f"annotation of '{name}'", value) for name, value in func.__annotations__.items())


def _pair_children(pairs: Iterable[tuple[object, object]]) -> Iterator[tuple[str, object]]:
    for key, value in pairs:
        label = _short_repr(key)
        yield f"key {label}", key
        yield f"item {label}", value


def _short_repr(key: object) -> str:
    try:
        text = repr(key)
    except Exception:
        return f"<{type(key).__name__}>"  # a label is wanted, and any will do
    return text if len(text) <= 40 else f"{text[:37]}..."


def _reduced_children(obj: Any) -> Iterator[tuple[str, object]]:
    """Yield what an instance reduces to: its state by attribute, the arguments that remake it, its items."""
    try:
        if isinstance(obj, codec.ApiPicklable):
            export = obj.export()
            if export is not obj:
                obj = export
        reducer = copyreg.dispatch_table.get(type(obj))
        reduced = reducer(obj) if reducer else obj.__reduce_ex__(codec.PROTOCOL)
    except codec.REFUSALS:
        return  # it refuses by itself, so it is the culprit
    if not isinstance(reduced, tuple):
        return
    _, args, state, items, pairs = (*reduced, None, None, None)[:5]
    yield from _state_children(state)
    for index, value in enumerate(args or (), 1):
        yield ("its class" if value is type(obj) else f"part {index}"), value
    yield from ((f"item {index}", value) for index, value in enumerate(items or ()))
    yield from _pair_children(pairs or ())


def _state_children(state: Any) -> Iterator[tuple[str, object]]:
    """Yield attributes: of a dict, or of the pair of a dict and another one for the slots."""
    parts: Iterable[Any] = state if isinstance(state, tuple) and len(state) == 2 else (state,)
    for part in parts:
        if isinstance(part, dict):
            yield from ((str(name), value) for name, value in list(part.items()))
        elif part is not None:
            yield "its state", part


__all__ = ["Probe", "SearchEnded", "advise", "children", "find_culprit", "refusal"]
