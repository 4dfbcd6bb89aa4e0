"""Does something when a module has been imported, whenever that will be: `when_imported`."""

from __future__ import annotations

import importlib.abc
import importlib.util
import logging
import sys
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import types
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec

    Work = Callable[[types.ModuleType], object]

_log = logging.getLogger("epyrpc.imports")
_waiting: dict[str, list[Work]] = {}  # Guarded by _lock.
_lock = threading.Lock()


def when_imported(name: str, work: Work) -> None:
    """Call `work` with the module of that name once it has been imported; now, if it has been."""
    module = sys.modules.get(name)
    if module is not None:
        work(module)
        return
    with _lock:
        _waiting.setdefault(name, []).append(work)
        if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
            sys.meta_path.insert(0, _Finder())


class _Finder(importlib.abc.MetaPathFinder):
    """Finds nothing itself: it lets the others find, and puts a loader around theirs."""

    def __init__(self) -> None:
        self._here = threading.local()

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec that the other finders find, for a module that is waited for."""
        if name not in _waiting or getattr(self._here, "searching", False):
            return None
        self._here.searching = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self._here.searching = False
        if spec is not None and spec.loader is not None and hasattr(spec.loader, "exec_module"):
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(importlib.abc.Loader):
    """Loads as the loader that it holds does, then does what waits for the module."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> types.ModuleType | None:
        """Let the other one."""
        module: types.ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        """Let the other one, as if this one had never been; then do the work."""
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        with _lock:
            works = _waiting.pop(module.__name__, [])
        for work in works:
            try:
                work(module)
            except Exception:  # the module itself is in order, and so is whoever imports it
                _log.exception("%s could not be prepared for a notebook", module.__name__)


__all__ = ["when_imported"]
