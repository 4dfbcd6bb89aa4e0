"""What a person types in a ``%%body`` cell because it works in every notebook: magics, ``!``, ``?``, ``_``."""

from __future__ import annotations

import pytest

from tests.jupyter.kernels import Kernel, plain


def test_matplotlib_inline_is_taken(nb: Kernel) -> None:
    assert nb.ok("%%body worker\n%matplotlib inline").messages == []


def test_underscore_is_what_was_displayed_last(nb: Kernel) -> None:
    nb.ok("%%body worker\n3 + 4")
    assert nb.ok("%%body worker\n_ + 1").displays == [{"text/plain": "8"}]
    assert nb.ok("%%body worker\n_, __").displays == [{"text/plain": "(8, 7)"}]
    nb.ok("%%body worker\n9;")  # not displayed
    nb.ok("%%body worker\n_ = 'my own'")
    nb.ok("%%body worker\n10")
    assert nb.ok("%%body worker\n_").displays == [{"text/plain": "'my own'"}]


def test_help_is_displayed_however_long_it_is(nb: Kernel) -> None:
    nb.ok("""
        %%body worker
        def scale(x):
            "Scale a number."
            return x
        long = type("Long", (), {"__doc__": "line\\n" * 300})()
    """)
    (shown,) = nb.ok("%%body worker\nscale?").displays
    assert "Signature: scale(x)\nDocstring: Scale a number." in plain(shown["text/plain"])
    (shown,) = nb.ok("%%body worker\nlong?").displays
    assert shown["text/plain"].count("line\n") > 250
    (shown,) = nb.ok("%%body worker\nscale??").displays
    assert "return x" in plain(shown["text/plain"])


@pytest.mark.parametrize(
    ("cell", "printed", "displayed"),
    [
        pytest.param("%%time\nx = 3\nx + 1", "CPU times: user", "4", id="time-cell"),
        pytest.param("%time 5 + 5", "CPU times: user", "10", id="time-line"),
        pytest.param("%timeit -n 2 -r 1 1 + 1", "per loop", None, id="timeit"),
        pytest.param("words = !echo one two\nwords[0].split()", "", "['one', 'two']", id="bang-assigned"),
        pytest.param("import os\n%cd -q /\nos.getcwd()", "", "'/'", id="cd"),
        pytest.param("%%bash\necho from bash", "from bash\n", None, id="bash"),
        pytest.param("%pip --version", "pip ", None, id="pip"),
        pytest.param(
            "async def parts():\n    yield 1\nasync for part in parts(): print(part)", "1\n", None, id="async-for"
        ),
        pytest.param("get_ipython().user_ns is globals()", "", "True", id="get-ipython"),
        pytest.param("# nothing but a comment", "", None, id="comment"),
        pytest.param("exit", "The body goes on; %body stop, in the notebook, ends it.\n", None, id="exit"),
        pytest.param("exit()", "The body goes on; %body stop, in the notebook, ends it.\n", None, id="exit-called"),
    ],
)
def test_cell_does_what_it_does_in_a_notebook(nb: Kernel, cell: str, printed: str, displayed: str | None) -> None:
    outcome = nb.ok(f"%%body worker\n{cell}")
    assert printed in outcome.stdout
    assert bool(printed) == bool(outcome.stdout)
    assert [shown["text/plain"] for shown in outcome.displays] == ([] if displayed is None else [displayed])
    assert nb.value("worker.alive") == "True"


def test_lines_are_counted_as_in_the_cell_also_below_blank_lines_and_comments(nb: Kernel) -> None:
    outcome = nb.run("%%body worker\n\n\n# a comment\n1 / 0")
    assert "----> 5 1 / 0" in outcome.traceback
    outcome = nb.run("%%body worker\n\nhere = !pwd\n1 / 0")
    assert "----> 4 1 / 0" in outcome.traceback
    outcome = nb.run("%%body worker\n\n\nx = = 2")
    assert "line 4" in outcome.traceback


def test_unknown_magic_is_one_line(nb: Kernel) -> None:
    outcome = nb.run("%%body worker\n%no_such_magic 3")
    assert outcome.status == "error"
    assert outcome.stderr == "UsageError: Line magic function `%no_such_magic` not found.\n"
