"""Attributes that are made when they are first asked for, and what that takes on one Python.

Pure: no thread, and no lock but the interpreter's own.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

# CPython 3.11 keeps an instance's values outside its dict until the dict is first asked for. When a garbage collection
# at that very moment lets another thread ask too, the instance gets two dicts over the same values, and they are freed
# twice: a crash, once in some thousand results that several threads wait for. An instance that has its dict before it
# is shared is safe.
DICT_FIRST = sys.version_info[:2] == (3, 11)


class MadeOnDemand:
    """An attribute made when it is first asked for; from then on found in the instance without this.

    A ``__getattr__`` would do the same, and make every attribute of the class slower to read.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            return self
        instance.has_listeners = True
        # setdefault on the dict is one step: two threads get the same object.
        return instance.__dict__.setdefault(self._name, self._make())


__all__ = ["DICT_FIRST", "MadeOnDemand"]
