"""Makes the name of our joblib backend known to joblib, without importing either for the other.

joblib keeps a table of what makes a backend. If joblib is loaded already, our name is put there, with what loads the
backend when it is first made; else a finder waits for joblib on `sys.meta_path`, and leaves when it has come.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

_MODULE = "joblib.parallel"


def _make_backend(**options: Any) -> Any:
    from epyrpc.joblib import EpyrpcBackend  # which takes our place in the table

    return EpyrpcBackend(**options)


def _tell(module: Any) -> None:
    if "epyrpc" not in module.BACKENDS:
        module.register_parallel_backend("epyrpc", _make_backend)


class _Finder:
    """Finds nothing itself; has one module's loader tell us when the module is there."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return the spec of joblib's module, as others find it, with our step behind its loading."""
        if name != _MODULE:
            return None
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        from importlib.machinery import PathFinder

        spec = PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return spec
        loader: Any = spec.loader
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            _tell(module)

        loader.exec_module = exec_module
        return spec


def install() -> None:
    """Make the backend known, now or when joblib is imported."""
    if _MODULE in sys.modules:
        _tell(sys.modules[_MODULE])
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


__all__ = ["install"]
