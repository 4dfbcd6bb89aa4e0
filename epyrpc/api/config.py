"""Trees of apis from a configuration: TOML, JSON, XML or a dict, checked in full before anything is made.

The same configuration three times. TOML::

    namespace = "lab"
    workers = 2                 # handlers that run at once
    timeout = 5.0               # seconds; "forever" for no limit
    middleware = ["lab.layers:timed"]

    [handlers]
    ping = "lab.tools:ping"
    "log.*" = "lab.tools:note"  # everything below lab.log that has no handler of its own

    [apis.motors]               # mounted as api.motors, answers lab.motors
    class = "lab.motors:Motors"
    workers = 4

    [apis.motors.handlers]
    move = "lab.motors:move"

JSON::

    {
      "namespace": "lab",
      "workers": 2,
      "timeout": 5.0,
      "middleware": ["lab.layers:timed"],
      "handlers": {"ping": "lab.tools:ping", "log.*": "lab.tools:note"},
      "apis": {
        "motors": {
          "class": "lab.motors:Motors",
          "workers": 4,
          "handlers": {"move": "lab.motors:move"}
        }
      }
    }

XML::

    <api namespace="lab" workers="2" timeout="5.0">
      <middleware import="lab.layers:timed"/>
      <handler path="ping" import="lab.tools:ping"/>
      <handler path="log.*" import="lab.tools:note"/>
      <api name="motors" class="lab.motors:Motors" workers="4">
        <handler path="move" import="lab.motors:move"/>
      </api>
    </api>

Loading imports nothing: a configuration can be checked, or sent to a body, where its modules are not installed. The
imports happen in `api_from_config`, and its errors name the file and the line as well.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from epyrpc.api.base import MAX_WORKERS, ApiBase
from epyrpc.api.config_text import READERS, Key, Source, read_xml, spell
from epyrpc.clock import check_timeout
from epyrpc.errors import ApiParamError, ConfigError
from epyrpc.namespaces import check_path, join, nearest

V = TypeVar("V", covariant=True)

MAX_NESTING = 32  # apis in each other
MAX_CACHED = 64
_FOREVER = float("inf")
_OPTIONS = ("workers", "timeout", "sync", "solicited", "ignore_errors", "ignore_unhandled")  # of `ApiBase`
_NESTED_FIELDS = ("class", *_OPTIONS, "middleware", "call_middleware", "handlers", "apis")
_FIELDS = ("namespace", *_NESTED_FIELDS)
_TAKEN = frozenset(name for name in dir(ApiBase()) if not name.startswith("_"))
_BY_HAND = Source("<ApiConfig>")


class FrozenDict(Mapping[str, V]):
    """A mapping that cannot be changed: loaded configurations are shared."""

    def __init__(self, items: Mapping[str, V] | None = None) -> None:
        self._items = dict(items or {})

    def __getitem__(self, key: str) -> V:
        return self._items[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return hash(frozenset(self._items.items()))

    def __repr__(self) -> str:
        return repr(self._items)


@dataclass(frozen=True, kw_only=True)
class ApiConfig:
    """One node of a configured tree. Two are equal when they say the same, whatever they were read from.

    Attributes
    ----------
    namespace : str
        The full dotted path of the node. It counts for the root that is built; what is nested is named by its place.
    workers : int or None
        How many handlers run at once; None for the workers of the node above. Here and below, None means that the
        configuration does not say.
    timeout : float or None
        Seconds; infinity for no limit.
    sync, solicited, ignore_errors : bool or None
        Defaults for the calls made through the node, as in `CallSettings`.
    ignore_unhandled : bool or None
        Whether events that nobody handles are dropped without a warning.
    api_class : str or None
        Import path of the `ApiBase` subclass of the node; None for the one that the class above declares there, or
        else `ApiBase` itself.
    handlers : mapping of str to str
        Import paths by path relative to the node.
    middleware, call_middleware : tuple of str
        Import paths of what runs around handlers and around calls, the outermost first.
    apis : mapping of str to ApiConfig
        The nested apis by name.
    """

    namespace: str = ""
    workers: int | None = None
    timeout: float | None = None
    sync: bool | None = None
    solicited: bool | None = None
    ignore_errors: bool | None = None
    ignore_unhandled: bool | None = None
    api_class: str | None = None
    handlers: Mapping[str, str] = FrozenDict()
    middleware: tuple[str, ...] = ()
    call_middleware: tuple[str, ...] = ()
    apis: Mapping[str, ApiConfig] = FrozenDict()
    # Where the node was read, for the errors of `api_from_config`.
    _source: Source = field(default=_BY_HAND, repr=False, compare=False)
    _key: Key = field(default=(), repr=False, compare=False)

    def __post_init__(self) -> None:
        """Keep what was given from being changed later."""
        for name, kind in (
            ("handlers", FrozenDict),
            ("apis", FrozenDict),
            ("middleware", tuple),
            ("call_middleware", tuple),
        ):
            object.__setattr__(self, name, kind(getattr(self, name)))

    def _error(self, where: Key, value: object, allowed: object, hint: str = "", *, problem: str = "") -> ConfigError:
        return self._source.error((*self._key, *where), value, allowed, hint, problem=problem)


# --- loading

# Guarded by _cache_lock: _cache, the one used last at its end.
_cache: OrderedDict[tuple[str, str, bytes], ApiConfig] = OrderedDict()
_cache_lock = threading.Lock()


def load_config(source: str | os.PathLike[str] | Mapping[str, Any], *, format: str | None = None) -> ApiConfig:
    """Read and check the configuration of a tree of apis; nothing is imported and nothing is made.

    The file is read each time; if its content is one that was loaded before, that result is returned again.

    Parameters
    ----------
    source : str, path or mapping
        A file; or the text itself, as a `str` together with `format`; or the data as a dict.
    format : {"toml", "json", "xml"}, optional
        How the text is written; for a file its suffix tells, unless this is given with a `pathlib.Path`.

    Returns
    -------
    ApiConfig
        The same for the same content in any of the formats.

    Raises
    ------
    ConfigError
        The configuration is not as it must be; the error names file, line and field, and what is allowed there.
    ApiParamError
        `source` or `format` is not allowed.
    OSError
        The file cannot be read.

    Examples
    --------
    >>> config = load_config('''
    ... namespace = "maths"
    ... [handlers]
    ... negate = "operator:neg"
    ... ''', format="toml")
    >>> config.handlers["negate"]
    'operator:neg'
    >>> load_config({"namespace": "maths", "worker": 2})
    Traceback (most recent call last):
    ...
    epyrpc.errors.ConfigError: <dict>: there is no field 'worker'; did you mean 'workers'? Known here: namespace, ...
    """
    if format is not None and format not in READERS:
        raise ApiParamError("format", format, tuple(READERS))
    if isinstance(source, Mapping):
        if format is not None:
            raise ApiParamError("format", format, "left out for a dict")
        return _Schema(Source("<dict>")).node(source, (), "")
    if isinstance(source, str) and format is not None:
        return _load(f"<{format} text>", format, source.encode("utf-8", "surrogatepass"), source)
    if not isinstance(source, (str, os.PathLike)):
        raise ApiParamError("source", source, "the path of a file, a text with format=, or a dict")
    file = os.fspath(source)
    return _load(file, format or _format_of(file), Path(file).read_bytes())


def _format_of(file: str) -> str:
    suffix = Path(file).suffix[1:].lower()
    if suffix in READERS:
        return suffix
    hint = "For a text that is no file, and for a pathlib.Path with another suffix, give format=."
    raise ApiParamError("source", file, f"a file whose name ends in {', '.join(f'.{name}' for name in READERS)}", hint)


def _load(file: str, kind: str, content: bytes, text: str | None = None) -> ApiConfig:
    # The name is part of the key, since errors that are raised later name it.
    key = file, kind, hashlib.sha256(content).digest()
    with _cache_lock:
        if key in _cache:
            _cache.move_to_end(key)
            return _cache[key]
    source = Source(file)
    if READERS[kind] is read_xml:
        data = read_xml(content if text is None else text, source)  # an XML file names its own encoding
    else:
        data = READERS[kind](_decode(content, source) if text is None else text, source)
    config = _Schema(source).node(data, (), "")
    with _cache_lock:
        _cache[key] = config
        while len(_cache) > MAX_CACHED:
            _cache.popitem(last=False)
    return config


def _decode(content: bytes, source: Source) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = content.count(b"\n", 0, exc.start) + 1
        problem = f"byte {content[exc.start : exc.start + 1]!r} is no UTF-8"
        raise source.error((), "", "UTF-8", "Save the file as UTF-8.", problem=problem, line=line) from exc


class _Schema:
    """Makes the frozen configuration of plain data, or raises at the first thing that is not allowed."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._claimed: dict[str, Key] = {}  # {full path of a handler: where it is given}

    def node(self, data: Any, key: Key, namespace: str) -> ApiConfig:
        """Check a node and everything below it."""
        allowed = _NESTED_FIELDS if key else _FIELDS
        self._table(data, key, f"a table with the fields {', '.join(allowed)}")
        if len(key) > 2 * MAX_NESTING:
            raise self._source.error(key, "...", f"nested {MAX_NESTING} apis deep at most")
        for name in data:
            if name not in allowed:
                hint = "The namespace of a nested api is its place." if name == "namespace" else ""
                raise self._source.unknown((*key, str(name)), allowed, hint=hint)
        if not key:
            namespace = self._namespace(data.get("namespace", ""))
        given: dict[str, Any] = {
            "api_class" if name == "class" else name: getattr(self, f"_{name}", self._boolean)(data[name], (*key, name))
            for name in _NESTED_FIELDS[:-2]
            if name in data
        }
        handlers = self._handlers(data.get("handlers", {}), (*key, "handlers"), namespace)
        apis = self._apis(data.get("apis", {}), (*key, "apis"), namespace)
        return ApiConfig(namespace=namespace, **given, handlers=handlers, apis=apis, _source=self._source, _key=key)

    def _table(self, data: Any, key: Key, allowed: str) -> None:
        if not isinstance(data, Mapping):
            raise self._source.error(key, data, allowed)

    def _path(self, path: Any, key: Key, *, wildcard: bool = False) -> str:
        try:
            return check_path(path, wildcard=wildcard)
        except ApiParamError as exc:
            problem = f"{spell(key)}: the path {path!r} must be {exc.allowed}" if isinstance(exc.allowed, str) else ""
            raise self._source.error(key, path, exc.allowed, exc.hint, problem=problem) from exc

    def _namespace(self, namespace: Any) -> str:
        return self._path(namespace, ("namespace",)) if namespace != "" else ""

    def _workers(self, workers: Any, key: Key) -> int:
        if isinstance(workers, bool) or not isinstance(workers, int) or not 1 <= workers <= MAX_WORKERS:
            raise self._source.error(key, workers, f"a whole number from 1 to {MAX_WORKERS}")
        return workers

    def _timeout(self, timeout: Any, key: Key) -> float:
        try:
            seconds = check_timeout(None if timeout == "forever" else timeout)
        except ApiParamError as exc:
            raise self._source.error(key, timeout, "a number of seconds, 0 or more, or 'forever'") from exc
        return _FOREVER if seconds is None else seconds

    def _boolean(self, value: Any, key: Key) -> bool:
        if not isinstance(value, bool):
            raise self._source.error(
                key, value, "true or false", "Write it without quotes." if value in ("true", "false") else ""
            )
        return value

    def _import_path(self, target: Any, key: Key) -> str:
        names = target.split(":") if isinstance(target, str) else []
        if len(names) == 2 and all(part.isidentifier() for name in names for part in name.split(".")):
            return str(target)
        hint = "Write it as 'package.module:function'."
        if isinstance(target, str) and ":" not in target and all(part.isidentifier() for part in target.split(".")[:1]):
            module, _, name = target.rpartition(".")
            hint = f"Write it as '{module}:{name}'." if module else hint
        raise self._source.error(key, target, "an import path, 'module:name'", hint)

    _class = _import_path

    def _middleware(self, layers: Any, key: Key) -> tuple[str, ...]:
        if not isinstance(layers, (list, tuple)):
            hint = f"Write [{layers!r}]." if isinstance(layers, str) else ""
            raise self._source.error(key, layers, "a list of import paths", hint)
        return tuple(self._import_path(layer, (*key, index)) for index, layer in enumerate(layers))

    _call_middleware = _middleware

    def _handlers(self, data: Any, key: Key, namespace: str) -> dict[str, str]:
        self._table(data, key, "a table of import paths by path, {path: 'module:function'}")
        found: dict[str, str] = {}
        for path, target, where in self._leaves(data, key, ()):
            checked = self._path(path, where, wildcard=True)
            self._claim(join(namespace, checked), where)
            found[checked] = self._import_path(target, where)
        return found

    def _leaves(self, data: Any, key: Key, parts: tuple[str, ...]) -> Iterator[tuple[Any, Any, Key]]:
        """Yield path, import path and place of each handler; in TOML an unquoted path is a table in a table."""
        if len(parts) > 2 * MAX_NESTING:
            raise self._source.error(key, "...", f"no deeper than {2 * MAX_NESTING} names")
        for name, value in data.items():
            where = (*key, str(name))
            if not isinstance(name, str):
                raise self._source.error(where, name, "a path", "Write it as 'maths.scale'.")
            if isinstance(value, Mapping) and value:
                yield from self._leaves(value, where, (*parts, name))
            else:
                yield ".".join((*parts, name)), value, where

    def _claim(self, path: str, where: Key) -> None:
        other = self._claimed.setdefault(path, where)
        if other != where:
            raise self._source.twice(
                where,
                self._source.line(other),
                self._source.line(where),
                f"the handler of '{path}'",
                f"Remove {spell(where)} or {spell(other)}.",
            )

    def _apis(self, data: Any, key: Key, namespace: str) -> dict[str, ApiConfig]:
        self._table(data, key, "a table of nested apis by name")
        found: dict[str, ApiConfig] = {}
        for name, node in data.items():
            where = (*key, str(name))
            checked = self._path(name, where)
            if "." in checked:
                inner = ".apis.".join(checked.split("."))
                raise self._source.error(where, name, "one name without dots", f"Nest it: {spell(key)}.{inner}")
            if checked in _TAKEN:
                raise self._source.error(
                    where, name, "a name that an api does not have already", "Choose another name."
                )
            if checked in found:  # written in two ways that Python takes for one name
                raise self._source.twice(where, None, self._source.line(where))
            found[checked] = self.node(node, where, join(namespace, checked))
        return found


# --- building


def api_from_config(config: ApiConfig | str | os.PathLike[str] | Mapping[str, Any], *, ipc: Any = None) -> ApiBase:
    """Make the tree of apis that a configuration describes; import its classes, handlers and middleware.

    Parameters
    ----------
    config : ApiConfig, path or mapping
        From `load_config`, or what that takes.
    ipc : Transporter or ApiArb, optional
        The connection. The tree is bound to it only once it is complete.

    Returns
    -------
    ApiBase
        The root.

    Raises
    ------
    ConfigError
        Something cannot be imported, or is not what it is to be; the error names file, line and field, and the
        import's own error is its ``__cause__``. Nothing is bound then.

    Examples
    --------
    >>> api = api_from_config({"namespace": "maths", "handlers": {"negate": "operator:neg"}})
    >>> api.handled_paths()
    ['maths.negate']
    """
    if not isinstance(config, ApiConfig):
        config = load_config(config)
    api = _build(config, ApiBase, {"ns": config.namespace} if config.namespace else {})
    if ipc is not None:
        api.ipc = ipc
    return api


def _build(config: ApiConfig, kind: type[ApiBase], options: dict[str, Any]) -> ApiBase:
    if config.api_class is not None:
        kind = _import_class(config)
    options |= {name: value for name in _OPTIONS if (value := getattr(config, name)) is not None}
    try:
        api = kind(**options)
    except Exception as exc:
        where = getattr(exc, "item", "") if isinstance(exc, ApiParamError) else ""
        place = (where,) if where in options else ("class",) if config.api_class else ()
        problem = f"{kind.__name__}({', '.join(f'{k}={v!r}' for k, v in options.items())}) failed: {exc}"
        raise config._error(place, options, "taken by the class", problem=problem) from exc
    for name, nested in config.apis.items():
        _mount(config, api, name, nested)
    for around, layers in (("middleware", config.middleware), ("call_middleware", config.call_middleware)):
        for index, target in enumerate(layers):
            layer = _import_callable(config, (around, index), target)
            api.add_middleware(layer, around="handlers" if around == "middleware" else "calls")
    for path, target in config.handlers.items():
        handler = _import_callable(config, ("handlers", path), target)
        try:
            api.set_handler(path, handler)
        except ApiParamError as exc:
            raise config._error(("handlers", path), path, exc.allowed, exc.hint) from exc
    return api


def _mount(config: ApiConfig, api: ApiBase, name: str, nested: ApiConfig) -> None:
    there = api._nested.get(name)
    if there is None and hasattr(type(api), name):
        allowed = f"a name that {type(api).__name__} does not have already"
        raise config._error(("apis", name), name, allowed, "Choose another name.")
    child = _build(nested, ApiBase if there is None else type(there), {})
    try:
        setattr(api, name, child)
    except ApiParamError as exc:
        raise config._error(("apis", name), name, exc.allowed, exc.hint) from exc


def _import_class(config: ApiConfig) -> type[ApiBase]:
    found = _import(config, ("class",), str(config.api_class))
    if not (isinstance(found, type) and issubclass(found, ApiBase)):
        raise config._error(("class",), config.api_class, "a subclass of ApiBase", f"It is {found!r}.")
    return found


def _import_callable(config: ApiConfig, where: Key, target: str) -> Any:
    found = _import(config, where, target)
    if not callable(found):
        raise config._error(where, target, "something callable", f"It is {found!r}.")
    return found


def _import(config: ApiConfig, where: Key, target: str) -> Any:
    from importlib import import_module

    module, _, names = target.partition(":")
    try:
        found: Any = import_module(module)
    except (Exception, SystemExit) as exc:  # whatever its code does, a script's sys.exit() included
        missing = (
            isinstance(exc, ModuleNotFoundError) and exc.name is not None and f"{module}.".startswith(f"{exc.name}.")
        )
        hint = "Install it, put its folder on sys.path, or correct the name." if missing else "Correct that module."
        field_name, why = spell((*config._key, *where)), f"{type(exc).__name__}: {exc}"
        problem = f"{field_name} is {target!r}, but {module!r} cannot be imported ({why})"
        raise config._error(where, target, "importable", hint, problem=problem) from exc
    at = module
    for name in names.split("."):
        try:
            found = getattr(found, name)
        except AttributeError as exc:
            similar = nearest(name, [known for known in dir(found) if not known.startswith("_")])
            hint = f"Did you mean {' or '.join(map(repr, similar))}?" if similar else "Correct the name."
            problem = f"{spell((*config._key, *where))} is {target!r}, but {at!r} has no {name!r}"
            raise config._error(where, target, "importable", hint, problem=problem) from exc
        at = f"{at}.{name}"
    return found


__all__ = ["ApiConfig", "FrozenDict", "api_from_config", "load_config"]
