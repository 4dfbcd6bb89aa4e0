"""Tab behind ``%body`` and in the first line of a ``%%body`` cell: verbs, names of bodies, options, variables.

Below that line the body itself is asked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from epyrpc.bodies.body import TAB_SECONDS
from epyrpc.bodies.pool import pools
from epyrpc.bodies.registry import bodies
from epyrpc.errors import EpyrpcError
from epyrpc.jupyter.commands import CELL, VERBS, CommandError, read, split

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from epyrpc.bodies.body import Body
    from epyrpc.jupyter.commands import Command


def candidates(words: list[str], is_cell: bool, variables: Iterable[str]) -> list[str]:
    """Return what may stand at the last of `words`, which are those behind the magic's name.

    Parameters
    ----------
    words : list of str
        As far as they are typed; the last one may be empty.
    is_cell : bool
        ``%%body`` rather than ``%body``.
    variables : iterable of str
        The notebook's own variables, for ``push``.
    """
    names = sorted([*bodies(), *pools()])
    if is_cell:
        found = _for_command(CELL, words, names, variables)
    elif len(words) <= 1:
        found = [*VERBS, "--help"]
    elif words[0] in VERBS:
        found = _for_command(VERBS[words[0]], words[1:], names, variables)
    else:
        found = []
    return [text for text in found if text.startswith(words[-1] if words else "")]


def _for_command(command: Command, words: list[str], names: list[str], variables: Iterable[str]) -> list[str]:
    before = words[:-1]
    if before and (option := command.option(before[-1])) is not None and option.value:
        return list(option.choices)
    options = [option.name for option in command.options if not option.later and option.name not in before]
    plain = [word for word in before if not word.startswith("-")]
    if words[-1].startswith("-"):
        return [*options, "--help"]
    if command.names and (not plain or command.names in ("some", "any")):
        return [name for name in names if name not in plain] + ([] if command.names != "new" else options)
    if command.rest:
        return sorted(variables) if command is VERBS["push"] else _names_in(plain[0])
    return options


def find_body(name: str) -> Body | None:
    """Return the body of a name, or the first one of a pool."""
    pool = pools().get(name)
    return bodies().get(name) if pool is None else next(iter(pool.bodies), None)


def _names_in(name: str) -> list[str]:
    """Return the variables of a body."""
    body = find_body(name)
    if body is None or not body.alive:
        return []
    try:
        return list(body._control("names", timeout=TAB_SECONDS))
    except EpyrpcError:  # completion must not fail because a body is gone
        return []


def body_of(first_line: str) -> str:
    """Return the name of the body that a cell runs in, "" when it cannot be read yet."""
    try:
        return next(iter(read(CELL, split(first_line.strip())[1:]).plain), "")
    except CommandError:  # being typed
        return ""


def _ask(name: str, line: str, column: int) -> tuple[str, list[str]]:
    """Return what a body would complete, and how; nothing when it does not answer soon."""
    body = find_body(name)
    if body is None or not body.alive:
        return "", []
    try:
        fragment, found = body._control("complete", line, column, timeout=TAB_SECONDS)
    except EpyrpcError:  # Tab must not fail, nor wait, because a body is busy or gone
        return "", []
    return fragment, found


def make_matcher(ip: Any) -> Callable[[Any], Any]:
    """Return the matcher that IPython's completer asks."""
    from IPython.core.completer import SimpleCompletion, context_matcher

    @context_matcher(identifier="epyrpc.body")  # type: ignore[untyped-decorator]  # IPython is not typed
    def match_body(context: Any) -> dict[str, Any]:
        if context.cursor_line > 0 and context.full_text.lstrip().startswith("%%body "):
            return match_in_cell(context)
        line = context.line_with_cursor.lstrip()
        magic, space, rest = line.partition(" ")
        if magic not in ("%body", "%%body") or not space:
            return {"completions": []}
        words = [*rest.split(" ")]
        words = [*(word for word in words[:-1] if word), words[-1]]
        hidden = ip.user_ns_hidden
        variables = (n for n in ip.user_ns if not n.startswith("_") and n not in hidden)
        found = candidates(words, magic == "%%body", variables)
        completions = [SimpleCompletion(text, type="body") for text in found]
        return {"completions": completions, "matched_fragment": words[-1], "suppress": bool(found)}

    def match_in_cell(context: Any) -> dict[str, Any]:
        """Find what the body knows; where it does not answer at once, the notebook's own names are shown."""
        lines = context.full_text.splitlines()
        first = next(line for line in lines if line.strip())
        fragment, found = _ask(body_of(first), context.line_with_cursor, context.cursor_position)
        completions = [SimpleCompletion(text, type="body") for text in found]
        return {"completions": completions, "matched_fragment": fragment, "suppress": bool(found)}

    return match_body  # type: ignore[no-any-return]


__all__ = ["body_of", "candidates", "find_body", "make_matcher"]
