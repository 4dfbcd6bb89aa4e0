"""Code that was edited: modules loaded anew, and what was imported from them bound to the new objects."""

from __future__ import annotations

import functools
import importlib
import os
import sys
import types
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from epyrpc.errors import ApiParamError
from epyrpc.places import place

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def load_anew(names: Sequence[str], namespaces: Iterable[dict[str, Any]], *, only_loaded: bool = False) -> list[str]:
    """Load modules anew, and bind what namespaces have imported from them to the new objects.

    Parameters
    ----------
    names : sequence of str
        Of the modules.
    namespaces : iterable of dict
        Where functions and classes of theirs may be bound.
    only_loaded : bool
        Leave out what this process has not loaded: it will load the new one when it needs it.

    Returns
    -------
    list of str
        The modules that were loaded.

    Raises
    ------
    ApiParamError
        There is no such module.
    Exception
        What a module raises while it is loaded, a SyntaxError for one; then what was there before is still in use.
    """
    loaded = []
    importlib.invalidate_caches()
    for name in names:
        module = sys.modules.get(name)
        if module is None and only_loaded:
            continue
        if module is None:
            try:
                importlib.import_module(name)
            except ModuleNotFoundError as exc:
                if exc.name is None or not f"{name}.".startswith(f"{exc.name}."):
                    raise  # it is there, but lacks something
                raise ApiParamError("module", name, "a module that can be imported") from None
        else:
            _forget_bytecode(module)
            importlib.reload(module)
        loaded.append(name)
    for namespace in namespaces:
        _bind_anew(namespace, loaded)
    return loaded


def _forget_bytecode(module: types.ModuleType) -> None:
    """Remove the compiled file: it is trusted by size and whole seconds, and two edits may be closer than that."""
    cached = getattr(module.__spec__, "cached", None)
    if cached:
        with suppress(OSError):  # there is none, or it is not ours to remove: then its time decides
            os.unlink(cached)


def renewed(value: Any, names: Sequence[str]) -> Any:
    """Return what a function or class of one of these modules is called now; anything else as it is."""
    if not isinstance(value, (types.FunctionType, type)) or value.__module__ not in names:
        return value
    found: Any = sys.modules.get(value.__module__)
    for part in value.__qualname__.split("."):
        found = getattr(found, part, None)
    return value if found is None else found


def _bind_anew(namespace: dict[str, Any], names: Sequence[str]) -> None:
    for key, value in list(namespace.items()):
        new = renewed(value, names)
        if new is not value:
            namespace[key] = new


def bind_closure_anew(function: Any, names: Sequence[str]) -> None:
    """Bind what a function has captured, and what its module has imported, to the new objects."""
    if not isinstance(function, types.FunctionType):
        return
    _bind_anew(function.__globals__, names)
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # an empty cell: the variable is not set yet
            cell.cell_contents = renewed(cell.cell_contents, names)


def place_of(function: Any) -> str:
    """Return where a function was written: its cell, or its file and line; "" where that is not known."""
    for _ in range(20):
        names = ("func",) if isinstance(function, functools.partial) else ("__wrapped__", "__func__")
        inner = next((found for name in names if (found := getattr(function, name, None)) is not None), None)
        if inner is None:
            break
        function = inner
    code = getattr(function, "__code__", None)
    return place(code.co_filename, code.co_firstlineno, with_line=False) if isinstance(code, types.CodeType) else ""


__all__ = ["bind_closure_anew", "load_anew", "place_of", "renewed"]
