"""What can be typed behind the magics, without a kernel."""

from __future__ import annotations

import re

import pytest

from epyrpc.jupyter.commands import CELL, USAGE, VERBS, CommandError, find_verb, read, split, unknown_body
from epyrpc.jupyter.completion import candidates


def read_line(line: str) -> tuple[list[str], dict[str, object]]:
    verb, *words = split(line)
    found = read(find_verb(verb, ["worker"]), words)
    return found.plain, found.options


@pytest.mark.parametrize(
    ("line", "plain", "options"),
    [
        ("spawn worker", ["worker"], {}),
        ("spawn worker --workers 2", ["worker"], {"--workers": 2}),
        ("spawn --workers=2 --restart worker", ["worker"], {"--workers": 2, "--restart": True}),
        ("spawn worker --start-method forkserver", ["worker"], {"--start-method": "forkserver"}),
        ("list", [], {}),
        ("stop a b", ["a", "b"], {}),
        ("stop --all", [], {"--all": True}),
        ("push worker x y", ["worker", "x", "y"], {}),
    ],
)
def test_lines_are_read(line: str, plain: list[str], options: dict[str, object]) -> None:
    assert read_line(line) == (plain, options)


@pytest.mark.parametrize(
    ("line", "plain", "options"),
    [
        ("worker", ["worker"], {}),
        ("worker --timeout 2.5", ["worker"], {"--timeout": 2.5}),
        ("worker -a -o job", ["worker"], {"--async": True, "--out": "job"}),
        ("worker --noblock", ["worker"], {"--async": True}),
        ("worker --block", ["worker"], {"--block": True}),
        ("worker --push x,y --pull 'z, w'", ["worker"], {"--push": ["x", "y"], "--pull": ["z", "w"]}),
    ],
)
def test_first_lines_of_cells_are_read(line: str, plain: list[str], options: dict[str, object]) -> None:
    assert tuple(read(CELL, split(line))) == (plain, options)


MISTAKES = [
    ("swapn worker", "%body: there is no verb 'swapn'; did you mean spawn? Verbs: spawn, list, stop"),
    ("zzz", "%body: there is no verb 'zzz'. Verbs: spawn, list"),
    ("worker", "%body: worker is a body, not a verb; %%body worker on top of a cell runs the cell in it"),
    ("spawn", "%body spawn: NAME is missing. Usage: %body spawn NAME [--workers N]"),
    ("spawn a b", "%body spawn: 'b' is one word too many. Usage:"),
    ("spawn a --worker 3", "%body spawn: there is no option --worker; did you mean --workers? Usage:"),
    ("spawn a --qqq", "%body spawn: there is no option --qqq. Usage:"),
    ("spawn a --workers", "%body spawn: --workers needs a value: --workers N. Usage:"),
    ("spawn a --workers --restart", "%body spawn: --workers needs a value: --workers N. Usage:"),
    ("spawn a --restart=yes", "%body spawn: --restart takes no value. Usage:"),
    ("spawn a --workers two", "%body spawn: --workers is 'two', but must be a whole number, 1 or more"),
    ("spawn a --processes 0", "%body spawn: --processes is '0', but must be a whole number, 1 or more"),
    ("spawn a --start-method spwan", "%body spawn: --start-method is 'spwan', but must be one of spawn, forkserver"),
    ("list a", "%body list takes no name. Usage: %body list"),
    ("stop", "%body stop: NAME is missing. Usage: %body stop NAME… [--all]"),
    ("push worker", "%body push worker: which variables? Usage: %body push NAME x y…"),
    ("pull", "%body pull: NAME is missing. Usage: %body pull NAME x y…"),
    ("log 'worker", "%body: no closing quotation in: log 'worker"),
]


@pytest.mark.parametrize(("line", "text"), MISTAKES, ids=[line for line, _ in MISTAKES])
def test_every_mistake_is_one_line_that_says_what_is_right(line: str, text: str) -> None:
    with pytest.raises(CommandError, match="^" + re.escape(text)) as caught:
        read_line(line)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("", "%%body: NAME is missing. Usage: %%body NAME [--timeout S] [--kill] [--async]"),
        ("worker --timout 3", "%%body: there is no option --timout; did you mean --timeout?"),
        ("worker --timeout soon", "%%body: --timeout is 'soon', but must be a number of seconds, 0 or more"),
        ("worker --timeout -1", "%%body: --timeout is '-1', but must be a number of seconds, 0 or more"),
        ("worker --push 1x", "%%body: --push '1x' must be variable names, such as x,y"),
        ("worker --progress-after soon", "%%body: --progress-after is 'soon', but must be a number of seconds"),
    ],
)
def test_mistakes_in_a_first_line(line: str, text: str) -> None:
    with pytest.raises(CommandError, match="^" + re.escape(text)):
        read(CELL, split(line))


@pytest.mark.parametrize(
    ("name", "bodies", "text"),
    [
        ("wroker", ["worker", "other"], "there is no body 'wroker'; did you mean worker?"),
        ("zzz", ["worker"], "there is no body 'zzz'; there are: worker"),
        ("zzz", [], "there is no body 'zzz'; %body spawn zzz starts one"),
        ("list", ["worker"], "there is no body 'list'; the verbs go with one percent sign: %body list"),
    ],
)
def test_unknown_body_names_the_nearest(name: str, bodies: list[str], text: str) -> None:
    assert str(unknown_body(name, bodies)) == text


def test_usage_is_one_line_and_names_every_verb() -> None:
    assert "\n" not in USAGE
    assert all(verb in USAGE for verb in VERBS)
    assert (
        VERBS["spawn"].usage
        == "%body spawn NAME [--workers N] [--start-method M] [--restart] [--processes N] [--by-value MODULE]"
    )


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("s", ["spawn", "stop", "scale"]),
        ("re", ["restart", "reload"]),
        ("--h", ["--help"]),
        ("spawn x --st", ["--start-method"]),
        ("spawn x --start-method f", ["forkserver"]),
        ("spawn x --restart ", ["--workers", "--start-method", "--processes", "--by-value"]),
        ("push worker a", ["alpha", "array"]),
        ("nonsense ", []),
    ],
)
def test_tab_completes_verbs_options_and_variables(typed: str, found: list[str]) -> None:
    assert candidates(typed.split(" "), False, ["array", "alpha", "beta"]) == found


def test_tab_completes_the_options_of_a_cell() -> None:
    assert candidates(["worker", "--p"], True, []) == ["--push", "--pull", "--progress-after"]
    assert candidates(["worker", "--ti"], True, []) == ["--timeout"]
