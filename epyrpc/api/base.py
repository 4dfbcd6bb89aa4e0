"""`ApiBase`: an object tree of calls one way and handlers the other."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from epyrpc import codec, messages
from epyrpc.api.action import NOT_GIVEN, ApiAction, CallSettings, DebugHook, perform, send_stream
from epyrpc.api.arbiter import ApiReceiver, receiver_for
from epyrpc.api.handlers import CATCH_ALL, HANDLER_PREFIX, Handler, HandlerTable, RouteMap
from epyrpc.api.workers import WorkerPool
from epyrpc.errors import ApiError, ApiParamError, TransportDisconnected, UnknownApiError
from epyrpc.namespaces import RESERVED, check_path, contains, join, nearest
from epyrpc.results import AsyncResult
from epyrpc.streams import Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from epyrpc.transports.base import TransportState

_log = logging.getLogger("epyrpc.api")
MAX_WORKERS = 1024
T = TypeVar("T", bound="ApiBase")


class GeneratedPath:
    """A path below an api that the api itself does not define; calling it prepares the call.

    ``api.a.b.c(1)`` is an `ApiAction` for ``a.b.c``, whether or not the other end handles it.
    """

    __slots__ = ("_api", "_path")

    def __init__(self, api: ApiBase, path: str) -> None:
        self._api = api
        self._path = path

    def __getattr__(self, name: str) -> GeneratedPath:
        """Go one level deeper."""
        if name.startswith("_"):
            raise AttributeError(
                f"{name!r} is no path: names that start with an underscore are not callable from outside"
            )
        return GeneratedPath(self._api, join(self._path, name))

    def __call__(self, *args: Any, **kwargs: Any) -> ApiAction:
        """Prepare the call."""
        return ApiAction(self._api, self._path, args, kwargs)

    def __repr__(self) -> str:
        return f"<path {self._path}>"


class ApiBase:
    """A node of a tree of apis.

    Nested apis are class attributes (or annotations) that are `ApiBase` subclasses, or instances assigned at any time.
    ``_handler_<name>`` methods answer ``<namespace>.<name>``; handlers can be registered and removed at any time
    (`set_handler`). Every other public name is a call to the other end: ``api.name(args)`` prepares it, calling that
    makes it.

    Parameters
    ----------
    ns : str, optional
        The namespace of a root, ``""`` for none; a nested api's comes from its place.
    ipc : Transporter or ApiArb, optional
        The connection; can be set later (`ipc`), once.
    sync, timeout, solicited, callback, ignore_errors : optional
        Defaults for the calls made through this api, see `CallSettings`; nested apis inherit what they are not given.
    workers : int, optional
        How many handlers run at once, 1 by default (then calls are served one after the other, in order). A nested
        api that is given a number has workers of its own.
    ignore_unhandled : bool
        Events that nobody handles are dropped without a warning.

    Raises
    ------
    ApiParamError
        A parameter has a value that is not allowed.
    """

    # Guarded by the root's _tree_lock: tables, mounts, routes.

    _parent: ApiBase | None = None
    _name = ""
    _ready = False
    ignore_unhandled = False
    torn_down = False
    nested_apis: ClassVar[dict[str, type[ApiBase]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Find the nested apis that the class declares.

        Raises
        ------
        ApiParamError
            One has a name that every api has already, or is an instance, which all instances of the class would share.
        """
        super().__init_subclass__(**kwargs)
        nested = {
            name: value
            for base in reversed(cls.__mro__[1:])
            for name, value in vars(base).get("nested_apis", {}).items()
        }
        nested.update(_declared(cls))
        cls.nested_apis = nested

    def __init__(
        self,
        ns: str = "",
        *,
        ipc: Any = None,
        sync: bool = NOT_GIVEN,
        timeout: float | None = NOT_GIVEN,
        solicited: bool = NOT_GIVEN,
        callback: Callable[[Any, Any], object] | None = NOT_GIVEN,
        ignore_errors: bool = NOT_GIVEN,
        workers: int | None = None,
        ignore_unhandled: bool = False,
    ) -> None:
        if ns:
            check_path(ns, reserved=True)
        if workers is not None and (
            isinstance(workers, bool) or not isinstance(workers, int) or not 1 <= workers <= MAX_WORKERS
        ):
            raise ApiParamError("workers", workers, f"a whole number from 1 to {MAX_WORKERS}")
        given = {
            "sync": sync,
            "timeout": timeout,
            "solicited": solicited,
            "callback": callback,
            "ignore_errors": ignore_errors,
        }
        CallSettings().override(**given)
        self._own_settings = {name: value for name, value in given.items() if value is not NOT_GIVEN}
        self._settings: CallSettings | None = None
        self._namespace: str | None = ns  # of this node; None while it has to be worked out again
        self._hooks: tuple[DebugHook | None, tuple[Callable[..., Any], ...]] | None = None  # likewise
        self._plain: bool | None = None
        self._ns = ns
        self._workers = workers
        self._table = HandlerTable()
        self._nested: dict[str, ApiBase] = {}
        self._tree_lock = threading.RLock()
        self._routes: RouteMap | None = None
        self._receiver: ApiReceiver | None = None
        self._pool: WorkerPool | None = None
        self._debug_hook: DebugHook | None = None
        self._call_middleware: tuple[Callable[..., Any], ...] = ()
        self._handler_middleware: tuple[Callable[..., Any], ...] = ()
        self.ignore_unhandled = ignore_unhandled
        self._ready = True
        for name, kind in type(self).nested_apis.items():
            setattr(self, name, kind())
        for name in _handler_names(type(self)):
            self._table.fix(name, Handler(self._full(name), getattr(self, HANDLER_PREFIX + name), registered=False))
        if ipc is not None:
            self.ipc = ipc

    # --- the tree

    @property
    def root(self) -> ApiBase:
        """The top of the tree."""
        node = self
        while node._parent is not None:
            node = node._parent
        return node

    @property
    def namespace(self) -> str:
        """The dotted path of this node."""
        namespace = self._namespace
        if namespace is None:
            namespace = self._namespace = self._ns if self._parent is None else join(self._parent.namespace, self._name)
        return namespace

    def _full(self, name: str) -> str:
        namespace = self.namespace
        return f"{namespace}.{name}" if namespace else name

    def _mount(self, name: str, child: ApiBase) -> None:
        check_path(name)
        _check_free(name, child)
        if child is self or child.root is self.root:
            raise ApiParamError(name, child, "an api that is not mounted anywhere yet")
        if child._parent is not None or child._receiver is not None:
            raise ApiParamError(
                name, child, "an api that is not mounted or bound yet", hint="Make a new one for each place."
            )
        with self.root._tree_lock:
            old = self._nested.get(name)
            if old is not None:
                old._parent, old._name = None, ""
                old._moved()
            self._nested[name] = child
            child._parent, child._name = self, name
            child._moved()
            self._hand_down(name, child)
        self._changed()
        if old is not None and self.root._receiver is not None:
            old._stop_pools(self.root._receiver.dispatcher, 0)

    def _moved(self) -> None:
        """Work everything out again that depends on the place in the tree."""
        for node in self.walk():
            node._settings = node._namespace = node._hooks = node._plain = None
        for node in self.walk():
            node._table.rename(node._full)

    def _hand_down(self, name: str, child: ApiBase) -> None:
        """Give a child what was registered for its paths while there was no such child."""
        above, prefix = self, name
        while True:
            for path, handler in above._table.take(prefix + "."):
                node, rest = child._node_for(path)
                if node._table.registered(rest) is None:
                    node._table.register(rest, handler)
            if above._parent is None:
                return
            above, prefix = above._parent, f"{above._name}.{prefix}"

    def walk(self) -> Iterator[ApiBase]:
        """Iterate over this node and everything below it."""
        yield self
        for child in list(self._nested.values()):
            yield from child.walk()

    def _changed(self) -> None:
        root = self.root
        root._routes = None
        if root._receiver is not None:
            root._receiver.changed()

    def __setattr__(self, name: str, value: Any) -> None:
        """Mount apis that are assigned."""
        if isinstance(value, ApiBase) and self._ready and not name.startswith("_"):
            self._mount(name, value)
        object.__setattr__(self, name, value)

    def __getattr__(self, name: str) -> Any:
        """Generate what the class does not define: a path to be called at the other end."""
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        return GeneratedPath(self, self._full(name))

    # --- calling

    def action(self, name: str, *args: Any, **kwargs: Any) -> ApiAction:
        """Prepare a call of `name` below this node; what a hand-written method returns after checking its arguments."""
        return ApiAction(self, self._full(check_path(name, reserved=True)), args, kwargs)

    @property
    def settings(self) -> CallSettings:
        """The defaults for calls made through this node."""
        if self._settings is None:
            above = self._parent.settings if self._parent is not None else CallSettings()
            self._settings = above.override(**self._own_settings)
        return self._settings

    def configure(self, **defaults: Any) -> None:
        """Change the defaults for calls made through this node and below, from now on.

        Raises
        ------
        ApiParamError
            A default is unknown, or its value is not allowed.
        """
        CallSettings().override(**defaults)
        self._own_settings.update(defaults)
        for node in self.walk():
            node._settings = None
        self._forget_hooks()

    def call(self, path: str, *args: Any, **kwargs: Any) -> Any:
        """Call a path below this node given as text, with this node's defaults."""
        return perform(self, self._full(check_path(path, reserved=True)), args, kwargs, self.settings)

    def submit(self, path: str, *args: Any, **kwargs: Any) -> AsyncResult:
        """Call a path below this node without waiting, with this node's defaults otherwise."""
        settings = self.settings._replace(sync=False, solicited=True)
        result: AsyncResult = perform(self, self._full(check_path(path, reserved=True)), args, kwargs, settings)
        return result

    def stream(self, path: str, *args: Any, **kwargs: Any) -> Stream:
        """Call a generator handler at a path below this node; iterate over its parts."""
        return send_stream(
            self, self._full(check_path(path, reserved=True)), args, kwargs, timeout=self.settings.timeout
        )

    def send_raw(self, data: Any, *, wait: bool = False, timeout: float | None = None) -> Any:
        """Send data past every api, to the other end's listeners.

        Parameters
        ----------
        data : object
            Anything that pickles.
        wait : bool
            Wait for, and return, the first answer of a listener.
        timeout : float, optional
            Seconds to wait.
        """
        transporter = self.transporter
        payload, buffers = codec.encode(data, what="raw data")
        if not wait:
            transporter.wire.send(transporter.pack(messages.RAW, payload=payload, buffers=buffers))
            return None
        manager = transporter.transactions
        result = manager.new("raw data")
        flags = messages.REPLY_OWED
        try:
            transporter.wire.send(
                transporter.pack(messages.RAW, result._tid, payload=payload, buffers=buffers, flags=flags)
            )
            if timeout is not None and not result._wait_quietly(timeout):
                manager.expire(result, timeout)
            return result.result()
        finally:
            manager.forget(result)

    @property
    def debug_hook(self) -> DebugHook | None:
        """Who hears of the calls made through this node and below, see `DebugHook`."""
        return self._outgoing()[0]

    @debug_hook.setter
    def debug_hook(self, hook: DebugHook | None) -> None:
        self._debug_hook = hook
        self._forget_hooks()

    @property
    def call_middleware(self) -> tuple[Callable[..., Any], ...]:
        """What runs around calls made through this node, the outermost first."""
        return self._outgoing()[1]

    def _outgoing(self) -> tuple[DebugHook | None, tuple[Callable[..., Any], ...]]:
        hooks = self._hooks
        if hooks is None:
            hook, layers = self._parent._outgoing() if self._parent is not None else (None, ())
            hooks = self._hooks = (self._debug_hook or hook, (*layers, *self._call_middleware))
        return hooks

    @property
    def _is_plain(self) -> bool:
        """Whether calls made through this node need nothing but to be sent."""
        if self._plain is None:
            self._plain = self._outgoing() == (None, ()) and self.settings == CallSettings()
        return self._plain

    def _forget_hooks(self) -> None:
        for node in self.walk():
            node._hooks = node._plain = None
        self.root._outgoing_changed()

    def _outgoing_changed(self) -> None:
        """The settings, hooks or middleware of calls made through this tree have changed; for those who keep a copy."""

    def add_middleware(self, layer: Callable[..., Any], *, around: str = "handlers") -> Callable[..., Any]:
        """Run `layer` around every handler (or every call made) of this node and below.

        Parameters
        ----------
        layer : callable
            ``layer(path, args, kwargs, proceed)``; returns the result, normally ``proceed(*args, **kwargs)``.
        around : {"handlers", "calls"}
            Which side. The layer added first is the outermost.
        """
        if not callable(layer):
            raise ApiParamError("layer", layer, "a callable taking (path, args, kwargs, proceed)")
        if around == "handlers":
            self._handler_middleware = (*self._handler_middleware, layer)
            self._changed()
        elif around == "calls":
            self._call_middleware = (*self._call_middleware, layer)
            self._forget_hooks()
        else:
            raise ApiParamError("around", around, ("handlers", "calls"))
        return layer

    @property
    def handler_middleware(self) -> tuple[Callable[..., Any], ...]:
        """What runs around this node's handlers, the outermost first."""
        above = self._parent.handler_middleware if self._parent is not None else ()
        return (*above, *self._handler_middleware)

    # --- handling

    def set_handler(self, path: str, handler: Callable[..., Any] | None) -> None:
        """Handle a path below this node with `handler` from now on, or with None remove what was registered.

        Calls in flight finish on the handler they started with.

        Parameters
        ----------
        path : str
            Relative to this node; ``"*"`` as its last part is the catch-all of that level.
            ``root.set_handler("nested.m", h)`` and ``root.nested.set_handler("m", h)`` are one.
        handler : callable or None
            Called with the caller's arguments.

        Raises
        ------
        ApiParamError
            The path or the handler is not allowed.
        """
        check_path(path, wildcard=True)
        self._register(path, handler)

    def _register(self, path: str, handler: Callable[..., Any] | None) -> None:
        if handler is not None and not callable(handler):
            raise ApiParamError(f"handler of {path}", handler, "a callable, or None to remove it")
        with self.root._tree_lock:
            node, name = self._node_for(path)
            if handler is None:
                node._table.remove(name)
            else:
                node._table.register(name, Handler(node._full(name), handler, registered=True))
        self._changed()

    def _node_for(self, path: str) -> tuple[ApiBase, str]:
        """Return the deepest mounted node that a relative path leads to, and the rest of the path."""
        node, rest = self, path
        while "." in rest:
            first, _, tail = rest.partition(".")
            if first not in node._nested:
                break
            node, rest = node._nested[first], tail
        return node, rest

    def handler(self, path: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Register the decorated function as the handler of `path`."""

        def register(function: Callable[..., Any]) -> Callable[..., Any]:
            self.set_handler(path, function)
            return function

        return register

    def find_handler(self, path: str) -> tuple[Handler, ApiBase, bool] | None:
        """Return the handler of a full path, its node, and whether it is specific (not a catch-all).

        None if there is none.
        """
        routes = self.root._routes
        if routes is None:
            routes = self.root._make_routes()
        found = routes.find(path)
        if found is not None and not found[2] and contains(RESERVED, path):
            return None  # a user's catch-all does not catch the package's own
        return found

    def _make_routes(self) -> RouteMap:
        with self._tree_lock:
            routes = RouteMap()
            for node in self.walk():
                middleware = node.handler_middleware
                for _, handler in node._table:
                    handler.middleware = middleware
                    routes.add(handler, node)
            self._routes = routes
            return routes

    def handler_exists(self, path: str) -> bool:
        """Whether a path below this node has a specific handler."""
        found = self.find_handler(self._full(path))
        return found is not None and found[2]

    def is_in_my_namespace(self, path: str) -> bool:
        """Whether a full path lies below this node."""
        return contains(self.namespace, path)

    def handlers(self) -> dict[str, Handler]:
        """Return what is handled here and below, by full path."""
        with self.root._tree_lock:
            return {handler.path: handler for node in self.walk() for _, handler in node._table}

    def handled_paths(self) -> list[str]:
        """Return the full paths handled here and below, without catch-alls and reserved ones."""
        return [p for p in self.handlers() if not p.endswith(CATCH_ALL) and not contains(RESERVED, p)]

    def api_map(self) -> dict[str, str]:
        """Return ``{full path: signature}`` of everything handled in this tree, sorted by path."""
        return {path: handler.signature for path, handler in sorted(self.handlers().items())}

    def events_to_handle(self) -> frozenset[str]:
        """Return the values of all ``EVENT__…`` constants of this class, inherited ones and nested apis included."""
        return frozenset(
            getattr(node, name)
            for node in self.walk()
            for kind in type(node).__mro__
            for name in vars(kind)
            if name.startswith("EVENT__")
        )

    # --- the connection

    @property
    def ipc(self) -> Any:
        """What the whole tree is bound to, or None."""
        receiver = self.root._receiver
        if receiver is None:
            return None
        return receiver if receiver._limit is None else receiver.transporter

    @ipc.setter
    def ipc(self, ipc: Any) -> None:
        if self._parent is not None:
            raise ApiParamError("ipc", ipc, "set on the root of the tree", hint=f"The root is {self.root!r}.")
        if self._receiver is not None:
            raise ApiParamError(
                "ipc", ipc, "set once", hint="teardown() this api, and make a new one for another connection."
            )
        if self.torn_down:
            raise ApiError(f"{self!r} has been torn down; make a new api")
        receiver = receiver_for(ipc)
        self._receiver = receiver  # first: as soon as it is inserted there may be calls, which need it
        try:
            receiver.insert(self)
        except ApiParamError:
            self._receiver = None
            raise

    def _transporter(self) -> Any:
        receiver = self.root._receiver
        return receiver.transporter if receiver is not None else None

    @property
    def transporter(self) -> Any:
        """The transport below.

        Raises
        ------
        TransportDisconnected
            The tree is not bound to one.
        """
        receiver = self._receiver if self._parent is None else self.root._receiver
        if receiver is not None:
            return receiver.transporter
        if self.root.torn_down:
            raise TransportDisconnected(f"{self!r} has been torn down; make a new api")
        raise TransportDisconnected(
            f"{self!r} has no connection yet: set .ipc on its root, then connect() the transport"
        )

    def recover(self) -> None:
        """Wait for the connection to come back, for a call that is to be made again; here it never does."""
        raise self.transporter.state_error()

    @property
    def pool(self) -> WorkerPool:
        """The workers of this node: its own, or those of the node above."""
        pool = self._pool
        if pool is not None:
            return pool
        if self._parent is not None and self._workers is None:
            return self._parent.pool
        with self.root._tree_lock:
            receiver = self.root._receiver
            if receiver is None:
                raise TransportDisconnected(f"{self!r} has no connection")
            if self._pool is None:
                dispatcher = receiver.dispatcher
                name = f"{dispatcher.name}-{self.namespace}" if self.namespace else dispatcher.name
                self._pool = WorkerPool(name, self._workers or 1, dispatcher, self)
                dispatcher.add_pool(self._pool)
            return self._pool

    def transport_state_changed(self, state: TransportState) -> None:
        """Hear of a change that the other end caused; on the reading thread, so do not block. Override at will."""

    def teardown(self, timeout: float = 5.0) -> None:
        """Part from the connection: handlers end after what they are running, queued calls fail at their callers.

        Idempotent, and callable from one of its own handlers.

        Parameters
        ----------
        timeout : float
            Seconds to wait for running handlers at most.
        """
        root = self.root
        receiver = root._receiver
        root.torn_down = True
        if receiver is None:
            return
        receiver.remove(root)  # first: what comes from now on finds nobody, rather than an api without a connection
        root._receiver = None
        root._stop_pools(receiver.dispatcher, timeout)

    def __enter__(self: T) -> T:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.teardown()

    def _stop_pools(self, dispatcher: Any, timeout: float) -> None:
        for node in self.walk():
            pool, node._pool = node._pool, None
            if pool is not None:
                dispatcher.remove_pool(pool)
                pool.stop(wait=timeout)
                dispatcher.remove_pool(pool)  # once more: the reader may have queued a call meanwhile

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.namespace or '(root)'}>"


def _declared(cls: type[ApiBase]) -> Iterator[tuple[str, type[ApiBase]]]:
    """Yield the nested apis that a class itself declares, as attributes or as annotations."""
    for name, value in vars(cls).items():
        if name.startswith("_"):
            continue
        if isinstance(value, ApiBase):
            raise ApiParamError(
                f"{cls.__name__}.{name}",
                value,
                "a class",
                hint=f"Write {name} = {type(value).__name__}: each tree makes its own.",
            )
        if isinstance(value, type) and issubclass(value, ApiBase):
            _check_free(name, value)
            yield name, value
    annotations = _annotations(cls)
    for name, value in annotations.items():
        if isinstance(value, type) and issubclass(value, ApiBase) and name not in vars(cls):
            _check_free(name, value)
            yield name, value


def _check_free(name: str, api: object) -> None:
    """Refuse a nested api that would hide what every api needs itself."""
    if hasattr(ApiBase, name):
        raise ApiParamError(
            f"the api named {name!r}", api, "under another name: every api has an attribute of that name"
        )


def _annotations(cls: type[Any]) -> dict[str, Any]:
    """Return a class's own annotations, resolved where they are text; what cannot be resolved is no api."""
    found = vars(cls).get("__annotations__", {})
    if not any(isinstance(value, str) for value in found.values()):
        return dict(found)
    import sys

    namespace = (
        {**vars(sys.modules.get(cls.__module__, object)), **vars(cls)}
        if cls.__module__ in sys.modules
        else dict(vars(cls))
    )
    resolved = {}
    for name, value in found.items():
        parts = value.split(".") if isinstance(value, str) else []
        target = namespace.get(parts[0]) if parts and all(part.isidentifier() for part in parts) else value
        for part in parts[1:]:
            target = getattr(target, part, None)
        resolved[name] = target
    return resolved


def _handler_names(cls: type[ApiBase]) -> list[str]:
    names = {name for base in cls.__mro__ for name in vars(base) if name.startswith(HANDLER_PREFIX)}
    return sorted(name[len(HANDLER_PREFIX) :] for name in names if callable(getattr(cls, name)))


def require_handled(api: ApiBase, path: str) -> None:
    """Raise `UnknownApiError` unless a full path is handled in the tree."""
    if api.find_handler(path) is None:
        raise UnknownApiError(path, nearest(path, api.handled_paths()))
