"""`explain`: what travels with a function or another object, how, how large it is, and what stands in the way."""

from __future__ import annotations

import importlib.machinery
import io
import sys
import types
import warnings
import weakref
from typing import TYPE_CHECKING, Any, NamedTuple

from epyrpc import codec
from epyrpc.culprits import Probe, SearchEnded, children, find_culprit, refusal
from epyrpc.errors import LargeCaptureWarning
from epyrpc.home import global_names, is_standard_builtin
from epyrpc.tables import escape, table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from epyrpc.errors import CodecError

LARGE_BYTES = 1_000_000  # from here on, what travels with a function is worth to be sent once
MAX_ITEMS = 200
BY_VALUE, BY_REFERENCE, REFUSED, THERE = "by value", "by reference", "cannot travel", "looked up there"
HEADER = ("What", "Type", "How it travels", "Size", "Remarks")
_HISTORY = frozenset({"In", "Out", "_ih", "_oh", "_dh"})


class Part(NamedTuple):
    """One thing that travels along.

    Attributes
    ----------
    name : str
        Where it is, such as ``closure 'data'`` or ``global 'helper'``.
    kind : str
        Its type.
    how : str
        ``"by value"``, ``"by reference"`` (found by its name at the other end), ``"looked up there"`` (a name that is
        defined here nowhere, so it is the body's), or ``"cannot travel"``.
    size_bytes : int or None
        As it is sent alone; None when that is not known.
    remark : str
        What may surprise, or what to do.
    """

    name: str
    kind: str
    how: str
    size_bytes: int | None
    remark: str = ""


class Explanation:
    """What `explain` found: a text and a static table.

    Attributes
    ----------
    what : str
        What was looked at.
    ok : bool
        Whether it can travel.
    items : tuple of Part
        What travels with it, the largest first.
    size_bytes : int or None
        All of it as it is sent; None when it cannot be.
    culprit : str or None
        The path to what cannot travel.
    advice : str
        What a `CodecError` would say, empty when it can travel.
    """

    def __init__(
        self, what: str, how: str, items: tuple[Part, ...], size_bytes: int | None, error: CodecError | None
    ) -> None:
        self.what = what
        self.ok = error is None
        self.items = items
        self.size_bytes = size_bytes
        self.advice = str(error) if error is not None else ""
        self.culprit = None if error is None else self.advice.removeprefix("cannot send ").partition("): ")[0] + ")"
        self._how = how

    def __bool__(self) -> bool:
        return self.ok

    @property
    def summary(self) -> str:
        """The first line of its text."""
        if not self.ok:
            return self.advice
        size = "" if self.size_bytes is None else f", {format_size(self.size_bytes)}"
        return f"{self.what} travels {self._how}{size}"

    def __repr__(self) -> str:
        rows = [_row(part) for part in self.items]
        widths = [max((len(row[column]) for row in rows), default=0) for column in range(4)]
        lines = ["  ".join(f"{cell:<{width}}" for cell, width in zip(row, (*widths, 0), strict=True)) for row in rows]
        return "\n".join([self.summary, *(f"  {line}".rstrip() for line in lines)])

    def _repr_html_(self) -> str:
        rows = [_row(part) for part in self.items]
        return f"<p>{escape(self.summary)}</p>" + (table(HEADER, rows, code=(0,)) if rows else "")


def _row(part: Part) -> tuple[str, str, str, str, str]:
    size = "" if part.size_bytes is None else format_size(part.size_bytes)
    return part.name, part.kind, part.how, size, part.remark


def format_size(size: float) -> str:
    """Return a number of bytes as text.

    Examples
    --------
    >>> format_size(97_600_000)
    '97.6 MB'
    """
    if size < 1000:
        return f"{size:.0f} B"
    for unit in ("kB", "MB", "GB"):
        size /= 1000
        if size < 999.95 or unit == "GB":
            break
    return f"{size:.1f} {unit}"


def explain(obj: Any, *, name: str | None = None) -> Explanation:
    """Tell what would travel with `obj`: with a function, what it captures; with another object, what it holds.

    Nothing is sent, but objects are pickled to be measured.

    Parameters
    ----------
    obj : object
        A handler, a callable for a verb, an argument.
    name : str, optional
        What to call it; a function's own name by default.

    Returns
    -------
    Explanation
        Its text tells for each part how it travels, its size, and what may surprise; `ok`, `items`, `culprit`.

    Examples
    --------
    >>> scale = 10
    >>> explain(lambda x: x * scale).ok
    True
    """
    what = name or _name_of(obj)
    error, size = None, None
    try:
        size = codec.size_of(obj, _Sink())
    except Exception as exc:  # whatever it is, it is what a call with it would fail with
        error = refusal(exc, [(what, obj)], what)
    reference = codec.reference_to(obj)
    if reference is not None:
        part = Part("itself", _kind(obj), BY_REFERENCE, size, _remark_of_reference(obj, reference))
        return Explanation(what, f"{BY_REFERENCE} to {reference}", (part,), size, error)
    parts = [_part(label, value) for label, value in _bounded(children(obj))]
    parts += [Part(f"name '{n}'", "", THERE, None, "the body's own, when it runs") for n in _free_names(obj)]
    parts.sort(key=lambda part: (part.how != REFUSED, -(part.size_bytes or 0)))
    return Explanation(what, BY_VALUE, tuple(parts), size, error)


def _name_of(obj: Any) -> str:
    name = getattr(obj, "__qualname__", None)
    return str(name).rpartition("<locals>.")[2] if isinstance(name, str) else type(obj).__qualname__


def _kind(value: Any) -> str:
    return codec._type_name(type(value))


class _Sink:
    """Takes what is pickled and keeps nothing."""

    def write(self, data: Any) -> int:
        return len(data)


def _bounded(found: Iterator[tuple[str, object]]) -> Iterator[tuple[str, object]]:
    """Yield what is worth a line: no docstring, no plain class of what was asked for, not without end."""
    count = 0
    for label, value in found:
        if label == "its class" or value is None:
            continue
        if label.startswith(("annotation of", "__doc__", "__module__", "__qualname__")):
            continue
        count += 1
        if count > MAX_ITEMS:
            return
        yield label, value


def _part(label: str, value: Any) -> Part:
    reference = codec.reference_to(value)
    try:
        size = codec.size_of(value, Probe())
    except SearchEnded:
        return Part(label, _kind(value), BY_VALUE, None, "too large to be measured in a second")
    except Exception:  # why, the summary says
        inside = find_culprit(value, label).removeprefix(label)
        return Part(label, _kind(value), REFUSED, None, inside[3:] if inside.startswith(" → ") else "")
    if reference is not None:
        remark = _remark_of_reference(value, reference)
        return Part(label, _kind(value), f"{BY_REFERENCE} to {reference}", size, remark)
    return Part(label, _kind(value), BY_VALUE, size, _remark(label, value, size))


def _remark(label: str, value: Any, size: int) -> str:
    """Return what may surprise about something that travels by value."""
    variable = label.partition("'")[2].partition("'")[0]
    if isinstance(value, io.IOBase):
        return "its content is copied, as it is now; send its path and open it there to read on"
    if variable in _HISTORY and label.startswith("global"):
        return "a copy of the notebook's history goes along, as it is now"
    if size >= LARGE_BYTES:
        if isinstance(value, types.FunctionType):
            path, _, inner = _largest(value)
            return f"most of it is its {path} ({format_size(inner)})" if path else "large"
        if variable.isidentifier() and not label.startswith("default"):
            return push_hint(variable)
        return "large: better an argument, or pushed once with worker.push()"
    return ""


def push_hint(variable: str) -> str:
    """Return how a large variable is sent once only.

    A name that is defined here travels along whenever the function does, so it needs another one there.
    """
    return f"push it once: worker.push({variable}_there={variable}), and name {variable}_there in the function instead"


def _free_names(obj: Any) -> list[str]:
    """Return the names that a function reads and that are not defined here."""
    if not isinstance(obj, types.FunctionType):
        return []
    known = obj.__globals__
    return sorted(n for n in global_names(obj.__code__) if n not in known and not is_standard_builtin(n))


# --- code that is edited


def _remark_of_reference(value: Any, reference: str) -> str:
    module = value if isinstance(value, types.ModuleType) else sys.modules.get(getattr(value, "__module__", ""))
    if module is not None and was_edited(module):
        name = module.__name__
        return f"{name} was edited on disk since it was imported: %body reload NAME {name}, or worker.reload('{name}')"
    if reference.partition(".")[0] == "__main__":
        return "the body's __main__ is another one"
    return ""


def was_edited(module: types.ModuleType) -> bool:
    """Whether a module's file holds other functions now than those in use; False where that cannot be known."""
    path = getattr(module, "__file__", None)
    if type(getattr(module, "__loader__", None)) is not importlib.machinery.SourceFileLoader or not path:
        return False
    if "site-packages" in path or path.startswith(sys.base_prefix):
        return False  # nobody edits these between two cells; and it would take long
    try:
        with open(path, "rb") as file:
            source = file.read()
        fresh = {code.co_name: code for code in _codes(compile(source, path, "exec", dont_inherit=True))}
    except (OSError, SyntaxError, ValueError):
        return True  # gone, or half way through an edit
    for value in vars(module).values():
        if isinstance(value, types.FunctionType) and value.__module__ == module.__name__:
            now = fresh.get(value.__code__.co_name)
            if value.__code__.co_filename == path and now is not None and not _same(now, value.__code__):
                return True
    return False


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    return (constant for constant in code.co_consts if isinstance(constant, types.CodeType))


def _same(one: types.CodeType, other: types.CodeType) -> bool:
    """Compare what two pieces of code do, not where they stand."""
    if (one.co_code, one.co_names, one.co_varnames) != (other.co_code, other.co_names, other.co_varnames):
        return False
    plain = [[c for c in code.co_consts if not isinstance(c, types.CodeType)] for code in (one, other)]
    return plain[0] == plain[1] and all(_same(*pair) for pair in zip(_codes(one), _codes(other), strict=True))


# --- large captures


_warned: weakref.WeakSet[types.CodeType] = weakref.WeakSet()


def _largest(func: Any) -> tuple[str, Any, int]:
    """Return the path to the largest thing that a function captures, that thing and its size."""
    path: list[str] = []
    found, size = func, 0
    while isinstance(found, types.FunctionType) and len(path) < 8 and codec.reference_to(found) is None:
        sizes = []
        for label, value in _bounded(children(found)):
            try:
                sizes.append((codec.size_of(value, Probe()), label, value))
            except (SearchEnded, Exception):  # too large, or not to be sent: then an error says so
                continue
        if not sizes:
            break
        size, label, found = max(sizes, key=lambda entry: entry[0])
        path.append(label)
    return " → ".join(path), found, size


def warn_of_large(func: Any, size_bytes: int) -> None:
    """Warn, once for each function, that it takes much along whenever it is sent; at the line of the user's."""
    if size_bytes < LARGE_BYTES or not isinstance(func, types.FunctionType) or func.__code__ in _warned:
        return
    path, value, size = _largest(func)
    if size < LARGE_BYTES:
        return  # the size is that of arguments, passed on purpose
    _warned.add(func.__code__)
    variable = path.rpartition("'")[0].rpartition("'")[2]
    hint = push_hint(variable) if variable.isidentifier() else "push it once with worker.push(), or pass it"
    level = 2
    frame: types.FrameType | None = sys._getframe(1)
    while frame is not None and str(frame.f_globals.get("__name__", "")).startswith("epyrpc."):
        frame, level = frame.f_back, level + 1
    text = f"{_name_of(func)} takes {format_size(size)} along each time it is sent, its {path} ({_kind(value)}); {hint}"
    warnings.warn(text, LargeCaptureWarning, stacklevel=level)


__all__ = ["Explanation", "Part", "explain", "warn_of_large", "was_edited"]
