"""What can be typed behind ``%body`` and ``%%body``: verbs, options, and the one line that says what is wrong.

One table serves reading a line, its usage and its completion. Nothing here knows IPython.
"""

from __future__ import annotations

import difflib
import shlex
from typing import TYPE_CHECKING, Any, NamedTuple

from epyrpc.bodies.spawn import START_METHODS

if TYPE_CHECKING:
    from collections.abc import Iterable


class CommandError(Exception):
    """Something on the line is wrong; the text is one line that says what, and what would be right."""


class Option(NamedTuple):
    """One option; ``value`` names its value in the usage, "" for a switch."""

    name: str
    value: str = ""
    short: str = ""
    same_as: str = ""  # another option that this one is a second name of
    kind: str = "text"  # "whole", "seconds", "names", "modules" or "text"
    later: str = ""  # why it is not there yet
    shown: bool = True  # in the usage
    choices: tuple[str, ...] = ()


class Command(NamedTuple):
    """One verb, or the cell magic.

    ``names`` says what its first words are: "new" (one name that may be free), "one", "some" (one or more
    bodies), "any" (none means all of them), "".
    ``rest`` names further words in the usage, "" where there are none.
    """

    title: str
    names: str
    help: str
    options: tuple[Option, ...] = ()
    rest: str = ""

    @property
    def usage(self) -> str:
        """How it is typed, on one line."""
        words = [self.title]
        words += {"": [], "some": ["NAME…"], "any": ["[NAME…]"]}.get(self.names, ["NAME"])
        words += [self.rest] if self.rest else []
        for option in self.options:
            if option.shown:
                words.append(f"[{option.name}{f' {option.value}' if option.value else ''}]")
        return " ".join(words)

    def option(self, word: str) -> Option | None:
        """Return the option that is called `word`, by its first name."""
        found = next((o for o in self.options if word in (o.name, o.short) and word), None)
        return self.option(found.same_as) if found is not None and found.same_as else found


VERBS = {
    "spawn": Command(
        "%body spawn", "new", "start a body and bind the variable NAME; one that lives is kept",
        (
            Option("--workers", "N", kind="whole"),
            Option("--start-method", "M", choices=(*START_METHODS, "thread")),
            Option("--restart"),
            Option("--processes", "N", kind="whole"),
            Option("--by-value", "MODULE", kind="modules"),
        ),
    ),
    "list": Command("%body list", "", "show the bodies of this notebook"),
    "stop": Command("%body stop", "some", "stop bodies", (Option("--all"),)),
    "restart": Command("%body restart", "some", "start bodies again, with their handlers; variables are lost"),
    "interrupt": Command("%body interrupt", "one", "interrupt what runs in a body; variables stay"),
    "push": Command("%body push", "one", "copy variables of the notebook into a body", rest="x y…"),
    "pull": Command("%body pull", "one", "copy variables of a body into the notebook", rest="x y…"),
    "debug": Command("%body debug", "one", "open pdb on what a body raised last"),
    "log": Command("%body log", "one", "print what a body wrote outside of calls"),
    "reload": Command("%body reload", "one", "load edited modules anew, here and in a body", rest="MODULE…"),
    "why": Command("%body why", "any", "show what the calls under way wait for"),
    "scale": Command("%body scale", "one", "have N bodies in a pool from now on", rest="N"),
}  # fmt: skip
CELL = Command(
    "%%body", "one", "run the cell in a body; a long wait says so, after 5 s unless --progress-after is given",
    (
        Option("--timeout", "S", short="-t", kind="seconds"),
        Option("--kill"),
        Option("--async", short="-a"),
        Option("--noblock", same_as="--async", shown=False),
        Option("--block", shown=False),
        Option("--out", "VAR", short="-o"),
        Option("--push", "x,y", kind="names"),
        Option("--pull", "z", kind="names"),
        Option("--progress-after", "S", kind="seconds"),
    ),
)  # fmt: skip
USAGE = f"%body {'|'.join(VERBS)} …, each with --help; {CELL.usage}"


class Words(NamedTuple):
    """A line that has been read: the words that are no options, and the options' values by name."""

    plain: list[str]
    options: dict[str, Any]

    def get(self, option: str, default: Any = None) -> Any:
        """Return an option's value."""
        return self.options.get(option, default)


def nearest(word: str, names: Iterable[str]) -> str:
    """Return the one of `names` that `word` was meant for, perhaps, or "".

    Examples
    --------
    >>> nearest("swapn", ["stop", "spawn"])
    'spawn'
    """
    return next(iter(difflib.get_close_matches(word, list(names), 1, 0.55)), "")


def split(line: str) -> list[str]:
    """Split a line as a shell does.

    Raises
    ------
    CommandError
        A quotation is not closed.
    """
    try:
        return shlex.split(line)
    except ValueError as exc:
        raise CommandError(f"%body: {str(exc).lower()} in: {line.strip()}") from None


def read(command: Command, words: list[str]) -> Words:
    """Read the words behind a verb.

    Raises
    ------
    CommandError
        An option is unknown, has no value or a wrong one; a name is missing, or there is one too many.
    """
    found = Words([], {})
    rest = iter(words)
    for word in rest:
        if not word.startswith("-") or word == "-":
            found.plain.append(word)
            continue
        name, equals, value = word.partition("=")
        option = _find_option(command, name)
        if option.value and not equals:
            value = next(rest, "")
        if bool(option.value) != bool(value) or value.startswith("--"):
            need = f"needs a value: {option.name} {option.value}" if option.value else "takes no value"
            raise CommandError(f"{command.title}: {name} {need}. Usage: {command.usage}")
        found.options[option.name] = _convert(command, option, value) if option.value else True
    _check_count(command, found)
    return found


def _find_option(command: Command, name: str) -> Option:
    option = command.option(name)
    if option is None:
        near = nearest(name, [o.name for o in command.options])
        hint = f"; did you mean {near}?" if near else "."
        raise CommandError(f"{command.title}: there is no option {name}{hint} Usage: {command.usage}")
    if option.later:
        raise CommandError(f"{command.title}: {name} is not built yet; {option.later}")
    return option


def _convert(command: Command, option: Option, value: str) -> Any:
    try:
        if option.kind == "whole":
            number = int(value)
            if number < 1:
                raise ValueError
            return number
        if option.kind == "seconds":
            seconds = float(value)
            if not seconds >= 0:
                raise ValueError
            return seconds
    except ValueError:
        wanted = "a whole number, 1 or more" if option.kind == "whole" else "a number of seconds, 0 or more"
        raise CommandError(f"{command.title}: {option.name} is {value!r}, but must be {wanted}") from None
    if option.kind in ("names", "modules"):
        names = [name for name in value.replace(",", " ").split() if name]
        parts = [part for name in names for part in (name.split(".") if option.kind == "modules" else [name])]
        if not names or not all(part.isidentifier() for part in parts):
            what = "variable names, such as x,y" if option.kind == "names" else "names of modules, such as a.b,c"
            raise CommandError(f"{command.title}: {option.name} {value!r} must be {what}")
        return names
    if option.choices and value not in option.choices:
        near = nearest(value, option.choices)
        hint = f"; did you mean {near}?" if near else ""
        raise CommandError(
            f"{command.title}: {option.name} is {value!r}, but must be one of {', '.join(option.choices)}{hint}"
        )
    return value


def _check_count(command: Command, words: Words) -> None:
    count = len(words.plain)
    if command.names == "" and count:
        raise CommandError(f"{command.title} takes no name. Usage: {command.usage}")
    if command.names not in ("", "any") and not count and not words.get("--all"):
        raise CommandError(f"{command.title}: NAME is missing. Usage: {command.usage}")
    if command.rest and count < 2:
        which = "modules" if command.rest.startswith("MODULE") else "variables"
        raise CommandError(f"{command.title} {words.plain[0]}: which {which}? Usage: {command.usage}")
    if command.names in ("new", "one") and not command.rest and count > 1:
        raise CommandError(f"{command.title}: {words.plain[1]!r} is one word too many. Usage: {command.usage}")


def find_verb(word: str, bodies: list[str]) -> Command:
    """Return the command of a verb.

    Raises
    ------
    CommandError
        There is none of that name.
    """
    command = VERBS.get(word)
    if command is None:
        if word in bodies:
            raise CommandError(
                f"%body: {word} is a body, not a verb; %%body {word} on top of a cell runs the cell in it"
            )
        near = nearest(word, VERBS)
        hint = f"; did you mean {near}?" if near else "."
        raise CommandError(f"%body: there is no verb {word!r}{hint} Verbs: {', '.join(VERBS)}")
    return command


def unknown_body(name: str, bodies: list[str]) -> CommandError:
    """Return the error for a name that no body has."""
    if name in VERBS:
        return CommandError(f"there is no body {name!r}; the verbs go with one percent sign: {VERBS[name].usage}")
    near = nearest(name, bodies)
    if near:
        return CommandError(f"there is no body {name!r}; did you mean {near}?")
    if bodies:
        return CommandError(f"there is no body {name!r}; there are: {', '.join(bodies)}")
    return CommandError(f"there is no body {name!r}; %body spawn {name} starts one")


__all__ = [
    "CELL",
    "USAGE",
    "VERBS",
    "Command",
    "CommandError",
    "Words",
    "find_verb",
    "nearest",
    "read",
    "split",
    "unknown_body",
]
