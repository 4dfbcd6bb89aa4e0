"""Work that waits for a module to be imported."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from epyrpc.jupyter import imports
from epyrpc.jupyter.imports import when_imported


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.setattr(imports, "_waiting", {})
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_work_is_done_once_the_module_is_there_and_leaves_no_trace(folder: Path) -> None:
    (folder / "awaited.py").write_text("answer = 42")
    seen: list[int] = []
    when_imported("awaited", lambda module: seen.append(module.answer))
    assert seen == []
    module = importlib.import_module("awaited")
    assert seen == [42]
    assert module.__spec__ is not None
    assert type(module.__spec__.loader).__module__.startswith(("importlib", "_frozen_importlib"))
    assert module.__loader__ is module.__spec__.loader
    importlib.reload(module)
    assert seen == [42]


def test_work_for_a_module_that_is_there_is_done_at_once() -> None:
    seen: list[object] = []
    when_imported("sys", seen.append)
    assert seen == [sys]


def test_a_part_of_a_package_is_waited_for(folder: Path) -> None:
    (folder / "whole").mkdir()
    (folder / "whole" / "__init__.py").write_text("from whole import part\nready = True")
    (folder / "whole" / "part.py").write_text("import whole\nwas_ready = hasattr(whole, 'ready')")
    seen: list[bool] = []
    when_imported("whole.part", lambda module: seen.append(module.was_ready))
    importlib.import_module("whole")
    assert seen == [False]


def test_a_failing_import_is_waited_for_again_and_failing_work_hurts_nobody(folder: Path) -> None:
    file = folder / "shaky.py"
    file.write_text("raise RuntimeError('not today')")
    seen: list[object] = []

    def fail(module: object) -> None:
        seen.append("asked")
        raise ValueError("no")

    when_imported("shaky", fail)
    when_imported("shaky", seen.append)
    with pytest.raises(RuntimeError):
        importlib.import_module("shaky")
    assert seen == []
    file.write_text("fine = 'a longer line, so that no cached bytecode is taken for this one'")
    importlib.invalidate_caches()
    module = importlib.import_module("shaky")
    assert seen == ["asked", module]


def test_a_module_that_nobody_has_is_missing_as_ever() -> None:
    when_imported("nobody_has_this_module", print)
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("nobody_has_this_module")
