"""Texts of configurations: TOML, JSON and XML as plain data, with the line of everything in them.

The parsers for TOML and JSON tell the line of a syntax error, but not of a value: a text is scanned once more for that.
The scanners check nothing. A text that its parser refuses is scanned up to where it was refused, to name the field.

XML comes from expat with nothing to expand: a document type is refused, and with it every entity, declared or external.
"""

from __future__ import annotations

import json
import re
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from epyrpc.errors import ConfigError
from epyrpc.namespaces import nearest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Key = tuple["str | int", ...]  # the way to a value: names in tables, numbers in lists

MAX_LEVELS = 100  # of tables and lists in each other; the schema needs far fewer, and paths to all of them are kept
_XML_LISTED = {
    "api": ("class", "workers", "timeout", "sync", "solicited", "ignore_errors", "ignore_unhandled"),
    "handler": ("path", "import"),
    "middleware": ("import", "around"),
}
_XML_AROUND = {"handlers": "middleware", "calls": "call_middleware"}
_XML_KINDS = {"workers": int, "timeout": float}
_XML_BOOLEANS = {"true": True, "false": False}


class Source:
    """What a configuration was read from, and where its fields stand in it; makes the errors that name both.

    Parameters
    ----------
    file : str
        The file, or a word in angle brackets for what is none.
    """

    def __init__(self, file: str) -> None:
        self.file = file
        self.lines: dict[Key, int] = {}  # {way to a value: its line, from 1}

    def line(self, key: Key) -> int | None:
        """Return the line of a value, or else of what it belongs into; None where there are no lines."""
        return next((self.lines[key[:end]] for end in range(len(key), -1, -1) if key[:end] in self.lines), None)

    def error(
        self, key: Key, value: object, allowed: object, hint: str = "", *, problem: str = "", line: int | None = None
    ) -> ConfigError:
        """Return the error about one field."""
        return ConfigError(
            spell(key), value, allowed, hint, file=self.file, line=line or self.line(key), problem=problem
        )

    def unknown(self, key: Key, allowed: Iterable[str], what: str = "field", hint: str = "") -> ConfigError:
        """Return the error about a name that means nothing where it stands."""
        name, names, place = str(key[-1]), tuple(allowed), spell(key[:-1])
        similar = nearest(name, names, 1)
        problem = f"there is no {what} {name!r}{f' in {place}' if place else ''}"
        problem += f"; did you mean {similar[0]!r}?" if similar and not hint else "."
        return self.error(key, name, names, hint, problem=f"{problem} Known here: {', '.join(names)}")

    def twice(self, key: Key, first: int | None, line: int | None, what: str = "", hint: str = "") -> ConfigError:
        """Return the error about something that is given twice."""
        where = f", first on line {first}" if first is not None else ""
        return self.error(
            key,
            key[-1],
            "given once",
            hint or "Remove one of them.",
            problem=f"{what or spell(key)} is given twice{where}",
            line=line,
        )

    def syntax(self, kind: str, text: str, message: str, line: int | None, key: Key = ()) -> ConfigError:
        """Return the error about a text that is not what it is to be."""
        rows = text.splitlines()
        row = rows[line - 1].strip() if line is not None and 0 < line <= len(rows) else ""
        seen = f", at {row[:80]!r}" if row else ""
        return self.error(
            key, row, f"valid {kind}", "Correct the text there.", problem=f"no valid {kind}: {message}{seen}", line=line
        )


def spell(key: Key) -> str:
    """Write the way to a value as people do.

    Examples
    --------
    >>> spell(("apis", "motors", "middleware", 0))
    'apis.motors.middleware[0]'
    """
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key).removeprefix(".")


# --- TOML

_TOML_TOKEN = re.compile(
    r"""
    \#[^\n]*                              # a comment
    | "{3} (?: \\. | [^\\] )*? "{3,5}     # texts over several lines may end in quotes of their own
    | '{3} .*? '{3,5}
    | " (?: [^"\\\n] | \\. )* "
    | ' [^'\n]* '
    | [\[\]{}=,.\n]
    | [^\s\#"'\[\]{}=,.]+
    """,
    re.VERBOSE | re.DOTALL,
)
_TOML_PLACE = re.compile(r"\s*\(at (?:line (\d+), column \d+|end of document)\)$")


def read_toml(text: str, source: Source) -> Any:
    """Return the data of a TOML text; enter the lines in `source`.

    Raises
    ------
    ConfigError
        It is no TOML.
    """
    try:
        data = tomllib.loads(text)
    except ValueError as exc:
        place = _TOML_PLACE.search(str(exc))
        last = text.count("\n") + (not text.endswith("\n"))
        line = int(place[1]) if place and place[1] else last
        found = _scan(_TomlScan("".join(text.splitlines(keepends=True)[:line])), source, "TOML")
        if found.repeated is not None:
            raise source.twice(*found.repeated) from exc
        raise source.syntax("TOML", text, _TOML_PLACE.sub("", str(exc)), line, found.last) from exc
    except RecursionError as exc:
        raise _too_deep(source, "TOML") from exc
    source.lines = _scan(_TomlScan(text), source, "TOML").lines
    return data


class _Scan:
    """What a scanner finds: the lines, the last key, and a key that was there already."""

    def __init__(self) -> None:
        self.lines: dict[Key, int] = {(): 1}
        self.last: Key = ()
        self.repeated: tuple[Key, int, int] | None = None  # way, its first line, this line
        self._given: dict[Key, int] = {}  # {way: line}, of what stands there itself and not only in a longer way

    def give(self, key: Key, line: int) -> None:
        """Enter a key that stands on a line."""
        if key in self._given and self.repeated is None:
            self.repeated = key, self._given[key], line
        self._given.setdefault(key, line)
        self.last = key
        self.note(key, line)

    def note(self, key: Key, line: int) -> None:
        """Enter that something, and all that it is in, was met on a line."""
        if len(key) > MAX_LEVELS:
            raise RecursionError
        for end in range(len(key), 0, -1):
            if key[:end] in self.lines:
                return
            self.lines[key[:end]] = line

    def run(self) -> None:
        """Scan the text."""
        raise NotImplementedError


def _scan(scan: _Scan, source: Source, kind: str) -> _Scan:
    try:
        scan.run()
    except RecursionError as exc:
        raise _too_deep(source, kind) from exc
    return scan


def _too_deep(source: Source, kind: str) -> ConfigError:
    return source.error(
        (), kind, f"nested {MAX_LEVELS} levels deep at most", problem=f"this {kind} is nested too deeply"
    )


class _TomlScan(_Scan):
    """Reads headers, keys and the structure of values; where it understands nothing it goes on with the next line."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self._tokens = [token for token in _tokens(_TOML_TOKEN, text) if not token[0].startswith("#")]
        self._at = 0

    def run(self) -> None:
        prefix: Key = ()
        while self._here():
            self.last = ()
            if self._here() == "[":
                prefix = self._header()
            elif self._here() != "\n":
                self._entry(prefix)
            while self._here() not in ("", "\n"):
                self._at += 1
            self._at += 1

    def _here(self) -> str:
        return self._tokens[self._at][0] if self._at < len(self._tokens) else ""

    def _line(self) -> int:
        return self._tokens[self._at][1]

    def _header(self) -> Key:
        line = self._line()
        self._at += 1
        of_list = self._here() == "["
        self._at += of_list
        key = self._key("]")
        if of_list:
            self.note(key, line)
        else:
            self.give(key, line)
        return key

    def _key(self, end: str) -> Key:
        parts: list[str | int] = []
        while self._here() not in ("", "\n", end):
            if self._here() != ".":
                parts.append(_toml_name(self._here()))
            self._at += 1
        return tuple(parts)

    def _entry(self, prefix: Key) -> None:
        line = self._line()
        key = (*prefix, *self._key("="))
        if self._here() == "=":
            self.give(key, line)
            self._at += 1
            self._value(key)

    def _value(self, key: Key) -> None:
        opening = self._here()
        self._at += 1
        if opening == "[":
            for index in self._items("]"):
                self.note((*key, index), self._line())
                self._value((*key, index))
        elif opening == "{":
            for _ in self._items("}"):
                start = self._at
                self._entry(key)
                self._at = max(self._at, start + 1)
        elif opening:
            while self._here() not in ("", "\n", ",", "]", "}"):  # a time of day may follow a date
                self._at += 1

    def _items(self, end: str) -> Iterator[int]:
        """Stop at each item of a list or an inline table in turn, and behind its end."""
        index = 0
        while self._here() not in ("", end):
            if self._here() == ",":
                index += 1
            if self._here() in (",", "\n"):
                self._at += 1
            else:
                yield index
        self._at += 1


def _tokens(pattern: re.Pattern[str], text: str) -> Iterator[tuple[str, int]]:
    line, seen = 1, 0
    for match in pattern.finditer(text):
        line += text.count("\n", seen, match.start())
        seen = match.start()
        yield match[0], line


def _toml_name(token: str) -> str:
    if token[0] not in "\"'":
        return token
    try:
        return str(tomllib.loads(f"name = {token}")["name"])
    except ValueError:
        return token  # the text is being refused for it, or for what stands before it


# --- JSON

_JSON_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\],:]|[^\s"{}\[\],:]+', re.DOTALL)


def read_json(text: str, source: Source) -> Any:
    """Return the data of a JSON text; enter the lines in `source`.

    Raises
    ------
    ConfigError
        It is no JSON, or names a key of an object twice.
    """
    try:
        data = json.loads(text)
    except json.JSONDecodeError as exc:
        found = _scan(_JsonScan(text[: exc.pos]), source, "JSON")
        raise source.syntax("JSON", text, f"{exc.msg} (column {exc.colno})", exc.lineno, found.last) from exc
    except ValueError as exc:
        raise source.syntax("JSON", text, str(exc), None) from exc
    except RecursionError as exc:
        raise _too_deep(source, "JSON") from exc
    found = _scan(_JsonScan(text), source, "JSON")
    source.lines = found.lines
    if found.repeated is not None:  # json itself would take the last one
        raise source.twice(*found.repeated)
    return data


class _JsonScan(_Scan):
    """Follows the brackets of a JSON text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text

    def run(self) -> None:
        open_: list[tuple[Key, bool]] = []  # (way, whether it is an object) of what is not closed yet
        key: Key = ()
        awaits_name = False
        for token, line in _tokens(_JSON_TOKEN, self._text):
            if token in ("{", "["):
                self.note(key, line)
                open_.append((key, token == "{"))
                awaits_name = token == "{"
                key = key if awaits_name else (*key, 0)
            elif token in ("}", "]"):
                key = open_.pop()[0] if open_ else ()
                awaits_name = False
            elif token == "," and open_:
                awaits_name = open_[-1][1]
                key = open_[-1][0] if awaits_name else _next(key)
            elif awaits_name and token[0] == '"':
                key = (*key, str(json.loads(token, strict=False)))
                self.give(key, line)
                awaits_name = False
            elif token != ":":
                self.note(key, line)


def _next(key: Key) -> Key:
    last = key[-1] if key else 0
    return (*key[:-1], last + 1 if isinstance(last, int) else last)


# --- XML


def read_xml(text: str | bytes, source: Source) -> Any:
    """Return the data of an XML text, of the same form as that of the others; enter the lines in `source`.

    Raises
    ------
    ConfigError
        It is no XML, declares a document type, or holds elements or attributes that are not known.
    """
    from xml.parsers import expat

    reader = _XmlReader(source, parser := expat.ParserCreate())
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.text
    parser.StartDoctypeDeclHandler = reader.refuse
    # A document type comes before any of these, so none is reached; they are here for the day that one is.
    parser.EntityDeclHandler = parser.ExternalEntityRefHandler = parser.UnparsedEntityDeclHandler = reader.refuse
    try:
        parser.Parse(text, True)
    except expat.ExpatError as exc:
        shown = text if isinstance(text, str) else text.decode("utf-8", "replace")
        message = f"{expat.ErrorString(exc.code)} (column {exc.offset + 1})"
        raise source.syntax("XML", shown, message, exc.lineno, reader.key) from exc
    except ConfigError:
        raise
    except (LookupError, ValueError) as exc:  # its encoding
        raise source.syntax("XML", "", str(exc), parser.CurrentLineNumber) from exc
    return reader.root


class _XmlReader:
    """Builds the data from expat's events; raises at the first element or attribute that is not known."""

    def __init__(self, source: Source, parser: Any) -> None:
        self.root: dict[str, Any] = {}
        self._source = source
        self._parser = parser
        self._open: list[tuple[str, Key, dict[str, Any]]] = []  # (element, way, data) of what is not closed yet

    @property
    def key(self) -> Key:
        """The way to the element that is being read."""
        return self._open[-1][1] if self._open else ()

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        """Enter an element."""
        if not self._open:
            self._check("element", tag, ("api",))
            self._source.lines[()] = self._parser.CurrentLineNumber
            self._check_attributes((), tag, attributes, ("namespace", *_XML_LISTED["api"]))
            self.root = _typed(attributes)
            self._open.append((tag, (), self.root))
            return
        parent, key, data = self._open[-1]
        if parent != "api":
            raise self._error((*key, tag), tag, f"outside of <{parent}>, which holds no elements")
        self._check("element", tag, tuple(_XML_LISTED))
        if len(key) >= MAX_LEVELS:
            raise _too_deep(self._source, "XML")
        getattr(self, f"_start_{tag}")(key, data, attributes)

    def _start_api(self, key: Key, data: dict[str, Any], attributes: dict[str, str]) -> None:
        name = self._take(key, "api", attributes, "name")
        key = (*key, "apis", name)
        node = self._enter(key, data, name, _typed(attributes))
        self._check_attributes(key, "api", attributes, ("name", *_XML_LISTED["api"]))
        self._open.append(("api", key, node))

    def _start_handler(self, key: Key, data: dict[str, Any], attributes: dict[str, str]) -> None:
        self._check_attributes((*key, "handlers"), "handler", attributes, _XML_LISTED["handler"])
        path = self._take(key, "handler", attributes, "path")
        key = (*key, "handlers", path)
        self._enter(key, data, path, self._take(key, "handler", attributes, "import"))
        self._open.append(("handler", key, data))

    def _start_middleware(self, key: Key, data: dict[str, Any], attributes: dict[str, str]) -> None:
        self._check_attributes((*key, "middleware"), "middleware", attributes, _XML_LISTED["middleware"])
        target = self._take((*key, "middleware"), "middleware", attributes, "import")
        around = attributes.pop("around", "handlers")
        if around not in _XML_AROUND:
            raise self._error((*key, "middleware", "around"), around, tuple(_XML_AROUND))
        field = _XML_AROUND[around]
        layers = data.setdefault(field, [])
        key = (*key, field, len(layers))
        self._source.lines[key] = self._parser.CurrentLineNumber
        layers.append(target)
        self._open.append(("middleware", key, data))

    def end(self, tag: str) -> None:
        """Leave an element."""
        self._open.pop()

    def text(self, text: str) -> None:
        """Refuse text between elements."""
        if text.strip():
            element, key, _ = self._open[-1]
            raise self._error(key, text.strip(), "an attribute", f"Everything in <{element}> is written as attributes.")

    def refuse(self, *_: object) -> NoReturn:
        """Refuse a document type, and what only a document type can declare."""
        raise self._error(
            (),
            "<!DOCTYPE",
            "left out",
            "Remove the declaration, and write what its entities stand for.",
            problem="a document type (<!DOCTYPE ...>) is not allowed: it can pull in files and grow without end",
        )

    def _enter(self, key: Key, data: dict[str, Any], name: str, value: Any) -> Any:
        table = data.setdefault(str(key[-2]), {})
        line = self._parser.CurrentLineNumber
        if name in table:
            raise self._source.twice(key, self._source.line(key), line)
        self._source.lines[key] = line
        table[name] = value
        return value

    def _take(self, key: Key, tag: str, attributes: dict[str, str], name: str) -> str:
        if name not in attributes:
            raise self._error(
                (*key, name),
                None,
                "given",
                f'Write <{tag} {name}="...">.',
                problem=f"<{tag}> has no attribute {name!r}",
            )
        return attributes.pop(name)

    def _check(self, what: str, name: str, allowed: tuple[str, ...]) -> None:
        if name not in allowed:
            raise self._unknown((*self.key, name), allowed, what)

    def _check_attributes(self, key: Key, tag: str, attributes: dict[str, str], allowed: tuple[str, ...]) -> None:
        self._source.lines.setdefault(key, self._parser.CurrentLineNumber)
        for name in attributes:
            if name not in allowed:
                raise self._unknown((*key, name), allowed, "attribute", _xml_hint(tag, name))

    def _unknown(self, key: Key, allowed: tuple[str, ...], what: str, hint: str = "") -> ConfigError:
        self._source.lines[key] = self._parser.CurrentLineNumber
        return self._source.unknown(key, allowed, what, hint)

    def _error(self, key: Key, value: object, allowed: object, hint: str = "", *, problem: str = "") -> ConfigError:
        return self._source.error(key, value, allowed, hint, problem=problem, line=self._parser.CurrentLineNumber)


def _xml_hint(tag: str, name: str) -> str:
    if tag == "api" and name == "namespace":
        return "The namespace of a nested api is its place; its last part is the attribute 'name'."
    if tag == "api" and name == "name":
        return "The outermost api has a 'namespace' instead."
    return ""


def _typed(attributes: dict[str, str]) -> dict[str, Any]:
    """Return an api's attributes in their own types; what cannot be read so stays text, and is refused later."""
    return {name: _typed_value(name, text) for name, text in attributes.items()}


def _typed_value(name: str, text: str) -> Any:
    if name in _XML_KINDS:
        try:
            return _XML_KINDS[name](text)
        except ValueError:
            return text
    if name in ("sync", "solicited", "ignore_errors", "ignore_unhandled"):
        return _XML_BOOLEANS.get(text, text)
    return text


READERS = {"toml": read_toml, "json": read_json, "xml": read_xml}
__all__ = ["MAX_LEVELS", "READERS", "Key", "Source", "read_json", "read_toml", "read_xml", "spell"]
