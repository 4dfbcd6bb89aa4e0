"""Handlers and how they are found: the table of one api tree."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CATCH_ALL = "*"
HANDLER_PREFIX = "_handler_"


class Handler:
    """One handler: the callable, where it is registered, and what wraps it.

    Attributes
    ----------
    path : str
        The full path, or the namespace with ``*`` as its last part.
    registered : bool
        False for a ``_handler_*`` method.
    """

    __slots__ = ("function", "middleware", "path", "registered")

    def __init__(
        self,
        path: str,
        function: Callable[..., Any],
        *,
        registered: bool,
        middleware: tuple[Callable[..., Any], ...] = (),
    ) -> None:
        self.path = path
        self.function = function
        self.registered = registered
        self.middleware = middleware

    def __call__(self, path: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the handler inside its middleware."""
        if not self.middleware:
            return self.function(*args, **kwargs)
        return run_middleware(self.middleware, path, self.function, args, kwargs)

    @property
    def signature(self) -> str:
        """The parameters as text, ``(…)`` where they cannot be known."""
        import inspect

        try:
            return str(inspect.signature(self.function))
        except (TypeError, ValueError):  # builtins without a signature
            return "(…)"

    @property
    def doc(self) -> str:
        """The first line of the docstring, or an empty string."""
        doc = getattr(self.function, "__doc__", None)
        return doc.strip().splitlines()[0] if isinstance(doc, str) and doc.strip() else ""

    def __repr__(self) -> str:
        return f"<Handler {self.path}{self.signature}>"


def run_middleware(
    layers: tuple[Callable[..., Any], ...],
    path: str,
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """Call `function` through `layers`, the first one outermost.

    Each is called ``layer(path, args, kwargs, proceed)``.
    """
    if not layers:
        return function(*args, **kwargs)
    layer, inner = layers[0], layers[1:]

    def proceed(*new_args: Any, **new_kwargs: Any) -> Any:
        return run_middleware(inner, path, function, new_args, new_kwargs)

    return layer(path, args, kwargs, proceed)


class HandlerTable:
    """The handlers of one node of a tree, by name relative to the node.

    A name registered twice is replaced; removing it uncovers a ``_handler_*`` method of the same name.
    """

    # Guarded by the tree's lock.

    def __init__(self) -> None:
        self._fixed: dict[str, Handler] = {}
        self._registered: dict[str, Handler] = {}

    def fix(self, name: str, handler: Handler) -> None:
        """Enter a ``_handler_*`` method."""
        self._fixed[name] = handler

    def register(self, name: str, handler: Handler) -> None:
        """Enter, or replace, a registered handler."""
        self._registered[name] = handler

    def registered(self, name: str) -> Handler | None:
        """Return the registered handler of a name."""
        return self._registered.get(name)

    def remove(self, name: str) -> bool:
        """Remove a registered handler; False when there was none."""
        return self._registered.pop(name, None) is not None

    def take(self, prefix: str) -> list[tuple[str, Handler]]:
        """Remove the registered handlers whose names begin with `prefix`; return them by the rest of their names."""
        names = [name for name in self._registered if name.startswith(prefix)]
        return [(name[len(prefix) :], self._registered.pop(name)) for name in names]

    def rename(self, full: Callable[[str], str]) -> None:
        """Give every handler, covered ones too, its path anew."""
        for handlers in (self._fixed, self._registered):
            for name, handler in handlers.items():
                handler.path = full(name)

    def __iter__(self) -> Iterator[tuple[str, Handler]]:
        return iter({**self._fixed, **self._registered}.items())


class RouteMap:
    """All handlers of a tree by full path; made anew when the tree has changed."""

    def __init__(self) -> None:
        self.exact: dict[str, tuple[Handler, Any]] = {}  # {path: (handler, the node it belongs to)}
        self.catch_all: dict[str, tuple[Handler, Any]] = {}  # {namespace: (handler, node)}

    def add(self, handler: Handler, node: Any) -> None:
        """Enter a handler."""
        if handler.path.endswith(CATCH_ALL):
            self.catch_all[handler.path[:-2]] = (handler, node)
        else:
            self.exact[handler.path] = (handler, node)

    def find(self, path: str) -> tuple[Handler, Any, bool] | None:
        """Return handler, node and whether it is specific; the catch-all of the innermost namespace if none is."""
        found = self.exact.get(path)
        if found is not None:
            return (*found, True)
        namespace = path
        while self.catch_all:
            if "." in namespace:
                namespace = namespace.rpartition(".")[0]
            elif namespace:
                namespace = ""
            else:
                return None
            found = self.catch_all.get(namespace)
            if found is not None:
                return (*found, False)
        return None
