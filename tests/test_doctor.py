"""`epyrpc.explain`: what travels, how, how large, and what stands in the way."""

from __future__ import annotations

import importlib
import json
import socket
import sys
import textwrap
import threading
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from epyrpc import CodecError, codec, explain
from epyrpc.doctor import format_size, was_edited


def cell(source: str, **names: Any) -> dict[str, Any]:
    """Run source as a notebook's cell would be."""
    namespace = {"__name__": "__main__", **names}
    exec(compile(textwrap.dedent(source), "<cell>", "exec", dont_inherit=True), namespace)
    return namespace


def part(explanation: Any, name: str) -> Any:
    """Return the part of a name."""
    (found,) = [p for p in explanation.items if p.name == name]
    return found


def test_parts_of_a_closure_and_how_they_travel() -> None:
    made = cell(
        """
        import json
        import math as m
        scale, table = 10, {"a": 1}
        def helper(x): return x + scale
        def make(offset):
            def fit(x, factor=2.5, *, limit=7):
                return json.dumps(table), m.sqrt(helper(x)) * offset + df.a * factor + limit
            return fit
        fit = make(4)
        """
    )
    found = explain(made["fit"])
    assert found.ok
    assert found
    assert (found.culprit, found.what) == (None, "fit")
    hows = {p.name: p.how for p in found.items}
    assert hows == {
        "closure 'offset'": "by value",
        "global 'helper'": "by value",
        "global 'json'": "by reference to json",
        "global 'm'": "by reference to math",
        "global 'table'": "by value",
        "default of 'factor'": "by value",
        "default of 'limit'": "by value",
        "name 'df'": "looked up there",
    }
    assert found.size_bytes == len(codec.encode(made["fit"])[0])
    assert all(p.size_bytes and p.size_bytes < 1000 for p in found.items if p.how != "looked up there")
    assert part(found, "name 'df'").remark == "the body's own, when it runs"
    text = repr(found)
    assert text.startswith(f"fit travels by value, {format_size(found.size_bytes)}\n")
    assert "  global 'json'        module" in text
    html = found._repr_html_()
    assert html.count("<tr>") == 1 + len(found.items)
    assert "global 'table'" in html


def test_culprit_and_its_words_are_those_of_the_error() -> None:
    class Handler:
        def __init__(self) -> None:
            self._lock = threading.Lock()

        def make(self) -> Any:
            return lambda: self

    func = Handler().make()
    found = explain(func, name="handler")
    assert not found.ok
    assert found.culprit == "handler → closure 'self' → _lock (_thread.lock)"
    assert found.size_bytes is None
    with pytest.raises(CodecError) as caught:
        codec.encode(func, what="handler")
    assert str(caught.value) == found.advice
    assert repr(found).startswith(found.advice)
    first = found.items[0]
    assert (first.name, first.how) == ("closure 'self'", "cannot travel")
    assert first.remark == "_lock (_thread.lock)"


@pytest.mark.parametrize(
    ("make", "advice"),
    [
        pytest.param(lambda: (i for i in "ab"), "send a list of what it yields", id="generator"),
        pytest.param(threading.Lock, "make it inside the function, or leave it out", id="lock"),
        pytest.param(threading.Event, "make it inside the function, or leave it out", id="event"),
        pytest.param(socket.socket, "connect inside the function instead", id="socket"),
        pytest.param(lambda: open(__file__, "rb"), "Open it inside the function instead, and send its path", id="file"),  # noqa: SIM115
        pytest.param(lambda: sys._getframe(), "Make it inside the function instead", id="frame"),
    ],
)
def test_advice_fits_what_cannot_travel(make: Any, advice: str) -> None:
    thing = make()
    try:
        found = explain(lambda: thing)
        assert not found.ok
        assert advice in found.advice
        assert found.items[0].how == "cannot travel"
    finally:
        if hasattr(thing, "close"):
            thing.close()


def test_large_parts_come_first_with_a_hint() -> None:
    data, small = np.zeros(12_200_000), 3

    def helper() -> Any:
        return data

    found = explain(lambda: (data, small))
    assert found.size_bytes is not None
    assert found.size_bytes > 97_600_000
    first = found.items[0]
    assert (first.name, first.kind, format_size(first.size_bytes)) == ("closure 'data'", "numpy.ndarray", "97.6 MB")
    assert first.remark == ("push it once: worker.push(data_there=data), and name data_there in the function instead")
    nested = explain(lambda: helper())
    assert nested.items[0].remark == "most of it is its closure 'data' (97.6 MB)"


def test_what_travels_but_surprises(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("one\ntwo\n")
    with file.open() as opened:
        found = explain(cell("read = lambda: opened.read()", opened=opened)["read"])
        assert found.ok
        assert part(found, "global 'opened'").remark.startswith("its content is copied, as it is now")
    found = explain(cell("look = lambda: (In, Out)", In=[""], Out={})["look"])
    assert "history" in part(found, "global 'In'").remark
    assert "history" in part(found, "global 'Out'").remark


def test_other_objects_than_functions() -> None:
    found = explain({"a": [1] * 1000, "b": json})
    assert found.ok
    assert {p.name for p in found.items} >= {"item 'a'", "item 'b'"}
    assert part(found, "item 'b'").how == "by reference to json"
    reference = explain(json.dumps)
    assert repr(reference).startswith("dumps travels by reference to json.dumps, ")
    assert len(reference.items) == 1


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Give a module on disk."""
    (tmp_path / "edited_module.py").write_text(
        "def f(x):\n    return x + 1\n\n\ndef g():\n    return [i for i in f(1)]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield importlib.import_module("edited_module")
    del sys.modules["edited_module"]


def test_module_that_was_edited_since_it_was_imported(module: types.ModuleType) -> None:
    assert module.__file__ is not None
    path = Path(module.__file__)
    assert not was_edited(module)
    path.write_text("# a comment moves the lines\n" + path.read_text())
    assert not was_edited(module)
    assert explain(module.f).items[0].remark == ""
    path.write_text(path.read_text().replace("x + 1", "x + 2"))
    assert was_edited(module)
    for obj in (module.f, lambda: module):
        (found,) = explain(obj).items
        assert found.how.startswith("by reference")
        assert found.remark.startswith("edited_module was edited on disk since it was imported: %body reload NAME")
    path.write_text("def f(:\n")
    assert was_edited(module)


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (999_949, "999.9 kB"), (999_999, "1.0 MB"), (5e12, "5000.0 GB")],
)
def test_sizes(size: float, text: str) -> None:
    assert format_size(size) == text
