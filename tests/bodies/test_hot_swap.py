"""Handlers and modules that are edited while their body lives on."""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import epyrpc
from epyrpc import ApiParamError, Body, CodecError
from epyrpc.bodies.reloading import place_of
from tests.bodies.tools import LIMIT, waits

SOURCE = """
FACTOR = 2

def scale(x):
    return FACTOR * x

class Model:
    def predict(self):
        return "old"
"""


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Give a module on disk, importable here, and in bodies that are spawned from now on."""
    (tmp_path / "shop.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module("shop")
    yield module
    epyrpc.by_value(module, on=False)
    sys.modules.pop("shop", None)


def edit(module: ModuleType, old: str, new: str) -> None:
    """Change a module's file, to one of the same length within the same second."""
    assert module.__file__ is not None
    assert len(old) == len(new)
    path = Path(module.__file__)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_handler_is_upgraded_at_once_and_calls_in_flight_finish_on_the_old(body: Body) -> None:
    here, gate = threading.Event(), threading.Event()

    def ask() -> None:
        here.set()
        gate.wait(LIMIT)

    body.on("ask", ask)

    def make(version: str, *, asks: bool) -> Any:
        def answer() -> str:
            from epyrpc import head

            if asks:
                head.call.ask()
            return version

        return answer

    body.set_handler("answer", make("old", asks=True))
    running = body.submit.answer()
    waits(here)
    body.set_handler("answer", make("new", asks=False))
    assert body.call.answer() == "new"
    gate.set()
    assert running.result(LIMIT) == "old"
    lines = repr(body.api).splitlines()
    assert "   v2 · test_hot_swap.py:" in lines[1]


def test_versions_count_on_over_removal_and_not_over_a_restart(worker: Body) -> None:
    def handler(x):  # type: ignore[no-untyped-def]
        return x

    for _ in range(2):
        worker.set_handler("m", handler)
    worker.set_handler("m", None)
    worker.set_handler("n", handler)
    worker.set_handler("m", abs)
    worker.restart()
    line = handler.__code__.co_firstlineno
    origin = f"v1 · test_hot_swap.py:{line}"
    assert repr(worker.api).splitlines()[1:] == [
        f"├─ m(x, /)   {'v3':<{len(origin)}}   Return the absolute value of the argument.",
        f"└─ n(x)      {origin}",
    ]


def test_place_of_what_wraps_a_function() -> None:
    import functools

    def plain() -> None:
        pass

    @functools.wraps(plain)
    def wrapper() -> None:
        plain()

    class Thing:
        def method(self) -> None:
            pass

    here = f"test_hot_swap.py:{plain.__code__.co_firstlineno}"
    assert place_of(plain) == place_of(wrapper) == place_of(functools.partial(wrapper)) == here
    assert place_of(Thing().method).startswith("test_hot_swap.py:")
    assert place_of(len) == ""


@pytest.mark.parametrize("kind", ["spawn", "forkserver"])
def test_reload_takes_an_edit_to_the_body(shop: ModuleType, kind: str, cleanup: None) -> None:
    worker = epyrpc.spawn("worker", start_method=kind)
    scale, module = shop.scale, shop
    worker.set_handler("by_reference", shop.scale)
    worker.set_handler("closure", lambda x: scale(x))
    worker.set_handler("through_module", lambda x: module.scale(x))
    worker.execute("from shop import scale, Model\nold = Model()")
    assert (worker.call.by_reference(5), worker.call.closure(5), worker.call.through_module(5)) == (10, 10, 10)
    edit(shop, "FACTOR = 2", "FACTOR = 3")
    edit(shop, '"old"', '"new"')
    assert worker.call.by_reference(5) == 10  # nothing happens by itself
    assert worker.reload("shop") == ["shop"]
    assert (worker.call.by_reference(5), worker.call.closure(5), worker.call.through_module(5)) == (15, 15, 15)
    assert worker.execute("scale(5), Model().predict(), old.predict()") == (15, "new", "old")
    assert worker.call(lambda: shop.scale(5)) == 15
    assert shop.scale(5) == 15
    assert "v2" in repr(worker.api)


def test_module_by_value_needs_no_reload_in_the_body(worker: Body, shop: ModuleType) -> None:
    # The body was spawned before the module could be imported: it has to travel.
    assert epyrpc.by_value("shop") is shop
    with pytest.raises(ModuleNotFoundError):
        worker.execute("import shop")
    worker.set_handler("scale", shop.scale)
    assert worker.call.scale(5) == 10
    edit(shop, "FACTOR = 2", "FACTOR = 4")
    assert worker.reload(shop) == []  # it has none to be loaded anew
    assert worker.call.scale(5) == 20
    edit(shop, "FACTOR = 4", "FACTOR = 6")
    Path(str(shop.__spec__.cached)).unlink(missing_ok=True)  # type: ignore[union-attr]
    importlib.reload(shop)
    worker.set_handler("scale", shop.scale)
    assert worker.call.scale(5) == 30
    assert worker.call(shop.Model().predict) == "old"


def test_module_that_the_body_lacks_says_what_to_do(worker: Body, shop: ModuleType) -> None:
    with pytest.raises(CodecError, match=r"Make 'shop' importable in this process too, .*epyrpc\.by_value\('shop'\)"):
        worker.call(shop.scale, 5)


def test_edit_that_cannot_be_loaded_changes_nothing(shop: ModuleType, cleanup: None) -> None:
    worker = epyrpc.spawn("worker")
    worker.set_handler("scale", shop.scale)
    assert shop.__file__ is not None
    Path(shop.__file__).write_text("def scale(:\n")
    with pytest.raises(SyntaxError):
        worker.reload("shop")
    assert worker.call.scale(5) == 10
    assert shop.scale(5) == 10


@pytest.mark.parametrize("use", [epyrpc.by_value, lambda name: epyrpc.spawn("w", start_method="thread").reload(name)])
def test_module_that_is_not_there(use: Any, cleanup: None) -> None:
    with pytest.raises(
        ApiParamError, match=r"module is 'no_such_shop\.front', but must be a module that can be imported"
    ):
        use("no_such_shop.front")


@pytest.mark.parametrize("use", [epyrpc.by_value, lambda name: epyrpc.spawn("w", start_method="thread").reload(name)])
def test_no_module_at_all(use: Any, cleanup: None) -> None:
    with pytest.raises(ApiParamError, match="module is 5, but must be a module, or the name of one"):
        use(5)
