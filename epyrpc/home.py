"""Where a function that arrived by value finds the names that did not travel with it: the home namespace.

Such a function takes the globals that it reads along. A name that is defined neither there nor among the builtins is
looked up in the *home namespace* of the process where the function runs, at the time it is read: see `_HomeBuiltins`.
Nothing that travels is ever written to the home namespace.

All functions here may be called on any thread.
"""

from __future__ import annotations

import builtins
import sys
import types
import weakref
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_home: dict[str, Any] | Callable[[], dict[str, Any]] | None = None
# {code: the global names that it reads, nested code included}
_names_by_code: weakref.WeakKeyDictionary[types.CodeType, frozenset[str]] = weakref.WeakKeyDictionary()
_STANDARD_MODULES = frozenset({"builtins", "io", "_io", "_sitebuiltins", None})


def set_home_namespace(namespace: dict[str, Any] | Callable[[], dict[str, Any]] | None) -> None:
    """Set where functions that arrived by value find the names that did not travel with them.

    Parameters
    ----------
    namespace : dict, callable or None
        The namespace, looked into whenever such a name is read; or what returns it, asked each time on the thread that
        reads; None for that of ``__main__``, which is the default.
    """
    global _home
    _home = namespace


def home_namespace() -> dict[str, Any]:
    """Return the namespace of `set_home_namespace`."""
    if _home is None:
        return sys.modules["__main__"].__dict__
    return _home() if callable(_home) else _home


class _HomeBuiltins(dict[str, Any]):
    """The builtins, and behind them the home namespace.

    Python looks a name up in a function's globals, then in its builtins. Where these are not a plain dict, it goes
    through `__getitem__` and so through `__missing__`. Only functions that read a name which did not travel have these
    builtins; all others keep the plain ones, and with them the interpreter's inline caches. A name that stands only in
    a text given to `eval` is not seen when the function is sent, so it alone does not give a function these builtins.
    """

    def __missing__(self, name: str) -> Any:
        try:
            return home_namespace()[name]
        except KeyError:
            pass  # not an error yet: a program may have added it to the builtins
        return builtins.__dict__[name]


_home_builtins = _HomeBuiltins()


def make_function(
    code: types.CodeType, namespace: dict[str, Any], closure: tuple[types.CellType, ...] | None, home: bool
) -> types.FunctionType:
    """Make a function that arrived, before its state is known; `home` if it reads names that did not travel."""
    if home:
        # What it holds is a copy, which may have aged. What programs added to the builtins comes after the home names.
        _home_builtins.update(
            {name: builtins.__dict__[name] for name in builtins.__dict__ if is_standard_builtin(name)}
        )
    # A function takes its builtins from its globals when it is made, and so will the functions that it makes. Functions
    # of one namespace that travel together share it: once one of them needs the home names, what they make has them.
    inherited = namespace.get("__builtins__")
    namespace["__builtins__"] = _home_builtins if home else builtins.__dict__
    func = types.FunctionType(code, namespace, None, None, closure)
    if inherited is _home_builtins:
        namespace["__builtins__"] = inherited
    return func


def is_standard_builtin(name: str) -> bool:
    """Return whether every process has this builtin; programs add their own, IPython for one."""
    if name not in builtins.__dict__:
        return False
    return getattr(builtins.__dict__[name], "__module__", None) in _STANDARD_MODULES


def global_names(code: types.CodeType) -> frozenset[str]:
    """Return the global names that a function's code reads, the functions and classes inside it included."""
    names = _names_by_code.get(code)
    if names is None:
        names = frozenset(_walk_global_names(code))
        _names_by_code[code] = names
    return names


def _walk_global_names(code: types.CodeType) -> Iterator[str]:
    import dis  # cloudpickle has it loaded by now

    stored: set[str] = set()
    for instruction in dis.get_instructions(code):
        name = instruction.opname
        if name == "LOAD_GLOBAL":
            yield instruction.argval
        elif name == "STORE_NAME":
            stored.add(instruction.argval)
        elif name in ("LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS") and instruction.argval not in stored:
            yield instruction.argval  # in the body of a class: a name that it has not defined so far
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _walk_global_names(constant)
