"""The rooms of the package import only downwards.

`ROOMS` is the plan of the house. Every import in a module is compared with it, those inside functions too, and calls of
`import_module` and `__import__` with a constant name. Imports under ``if TYPE_CHECKING:`` are exempt: they do not run,
they load nothing, and an upward type name in an annotation ties no knot that a reader or the interpreter would meet.

A module that stands in no room fails the test: give it a place in the plan first.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

FLOOR_0 = ("errors", "namespaces", "messages", "clock", "interrupts", "outputs", "tables", "places", "following")
FLOOR_1 = (
    *(
        "home",
        "codec",
        "culprits",
        "doctor",
        "algorithms",
        "partials",
        "ids",
        "news",
        "ondemand",
        "results",
        "streams",
        "transactions",
    ),
)
# What a person looks at with; nothing below the notebook's room may meet any of it.
NOTEBOOK = ("IPython", "ipywidgets", "anywidget", "traitlets", "ipykernel", "comm", "jupyter_client")


@dataclass(frozen=True)
class Room:
    """What the modules of one room may import, beside the standard library and their own room's `__init__`.

    A name ending in ".*" means a package with everything in it.
    """

    inside: tuple[str, ...]  # modules of epyrpc, without the leading "epyrpc."
    outside: tuple[str, ...] = ()  # other distributions
    threads: bool = False  # may start a thread
    processes: bool = False  # may start a process


# {module or "package.*", longest match first: its room}
ROOMS = {
    **{name: Room(FLOOR_0) for name in FLOOR_0},
    "algorithms": Room(FLOOR_0),
    # What is wrong with something that cannot be pickled is looked for by a module of its own, once it is.
    "codec": Room((*FLOOR_0, "home", "culprits"), ("cloudpickle",)),
    "culprits": Room((*FLOOR_0, "home", "codec")),
    "doctor": Room((*FLOOR_0, "home", "codec", "culprits")),
    "home": Room(FLOOR_0),
    "partials": Room(FLOOR_0),
    # A result decodes its own reply, so that a failure has an owner: results stand on the codec.
    "ids": Room(()),
    "news": Room((*FLOOR_0, "codec")),
    "ondemand": Room(()),
    "results": Room((*FLOOR_0, "codec", "partials", "ids", "news", "ondemand")),
    "streams": Room((*FLOOR_0, "codec", "ids", "results")),
    "transactions": Room((*FLOOR_0, "codec", "partials", "ids", "news", "results", "streams", "algorithms")),
    "gathering": Room((*FLOOR_0, "codec", "partials", "results", "streams")),
    "ledger": Room((*FLOOR_0, "ids", "results")),
    "snapshots": Room((*FLOOR_0, "news", "results", "streams")),
    "observing": Room((*FLOOR_0, "ids", "results", "streams", "snapshots", "ledger")),
    "transports.*": Room((*FLOOR_0, "transports.*"), threads=True),
    # What a call needs in one function, that of the reader and writer included; so it stands on all of theirs.
    "api.straight": Room((*FLOOR_0, *FLOOR_1, "transports.*", "api.*")),
    "api.*": Room((*FLOOR_0, *FLOOR_1, "transports.base", "api.*")),
    "api.config_text": Room((*FLOOR_0, *FLOOR_1, "transports.base", "api.*"), ("tomli", "tomllib")),
    "api.async_loop": Room((*FLOOR_0, *FLOOR_1, "transports.base", "api.*"), threads=True),
    "api.workers": Room((*FLOOR_0, *FLOOR_1, "transports.base", "api.*"), threads=True),
    "api.factory": Room((*FLOOR_0, *FLOOR_1, "transports.*", "api.*")),
    "bodies.*": Room((*FLOOR_0, *FLOOR_1, "transports.*", "api.*", "bodies.*"), threads=True),
    "bodies.helpers": Room(("bodies.*",), processes=True),
    # A body's own: random generators and thread limits for the libraries that the user's function uses.
    "bodies.pool_inside": Room(
        (*FLOOR_0, *FLOOR_1, "transports.*", "api.*", "bodies.*"), ("numpy", "threadpoolctl"), threads=True
    ),
    "jupyter.*": Room(
        (*FLOOR_0, *FLOOR_1, "gathering", "observing", "snapshots", "transports.*", "api.*", "bodies.*", "jupyter.*"),
        NOTEBOOK,
        threads=True,
    ),
    "jupyter.display": Room(
        (*FLOOR_0, *FLOOR_1, "gathering", "observing", "snapshots", "transports.*", "api.*", "bodies.*", "jupyter.*"),
        (*NOTEBOOK, "epyrpc_widgets"),
        threads=True,
    ),
    "joblib": Room((*FLOOR_0, *FLOOR_1, "bodies.*"), ("joblib",)),
    "hooks": Room(("joblib",)),
    "conformance": Room((*FLOOR_0, *FLOOR_1, "transports.base", "api.*"), threads=True),
    "testing": Room((*FLOOR_0, *FLOOR_1, "transports.*", "api.*", "conformance")),
    "demo": Room(("",), processes=True, threads=True),  # a user's program: public names only
    "__main__": Room(("", "demo")),
    "": Room(("*",)),  # epyrpc/__init__.py re-exports, lazily
}
# The transports' room holds concrete wires; only these may name one.
CONCRETE_ALLOWED = ("transports.*", "api.factory", "api.straight", "testing", "")

STARTS_THREAD = {"Thread", "Timer", "ThreadPoolExecutor", "ThreadPool", "start_new_thread"}
STARTS_PROCESS = {
    "Process",
    "Popen",
    "ProcessPoolExecutor",
    "fork",
    "forkpty",
    "posix_spawn",
    "check_output",
    "check_call",
}
PROCESS_MODULES = {"subprocess"}


@dataclass(frozen=True)
class Import:
    """One imported module, written out in full."""

    module: str
    line: int


def _resolve(node: ast.ImportFrom, module: str, is_package: bool) -> str:
    if not node.level:
        return node.module or ""
    parts = module.split(".")
    parts = parts[: len(parts) - node.level + is_package]
    return ".".join([*parts, *(node.module.split(".") if node.module else [])])


def _is_type_checking(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def _running(node: ast.AST) -> Iterator[ast.AST]:
    """Walk a tree, without what stands under ``if TYPE_CHECKING:``."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and _is_type_checking(child.test):
            for other in child.orelse:
                yield other
                yield from _running(other)
            continue
        yield child
        yield from _running(child)


def _called(node: ast.Call) -> str:
    if isinstance(node.func, ast.Name):
        return node.func.id
    return node.func.attr if isinstance(node.func, ast.Attribute) else ""


class House:
    """The modules under one folder, by their dotted names."""

    def __init__(self, root: Path, packages: tuple[str, ...] = ("epyrpc", "widgets/epyrpc_widgets")) -> None:
        self.files: dict[str, Path] = {}  # {dotted name: file}
        for package in packages:
            folder = root / package
            for file in sorted(folder.rglob("*.py")):
                parts = [folder.name, *file.relative_to(folder).with_suffix("").parts]
                self.files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
        # A module that is planned but not written yet is still a module and not a name in a package.
        self.planned = {f"epyrpc.{name}" for name in ROOMS if name and not name.endswith("*")}

    def tree(self, module: str) -> ast.Module:
        return ast.parse(self.files[module].read_text(encoding="utf-8"), str(self.files[module]))

    def imports(self, module: str) -> Iterator[Import]:
        """Everything that `module` imports when it runs."""
        is_package = self.files[module].name == "__init__.py"
        for node in _running(self.tree(module)):
            if isinstance(node, ast.Import):
                yield from (Import(alias.name, node.lineno) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = _resolve(node, module, is_package)
                for alias in node.names:
                    full = f"{base}.{alias.name}"
                    is_module = full in self.files or full in self.planned
                    yield Import(full if is_module else base, node.lineno)
            elif isinstance(node, ast.Call) and _called(node) in ("import_module", "__import__"):
                name = node.args[0] if node.args else None
                if isinstance(name, ast.Constant) and isinstance(name.value, str) and not name.value.startswith("."):
                    yield Import(name.value, node.lineno)

    def public_names(self) -> set[str] | None:
        """`epyrpc.__all__`, when it is written out; None when it is made by code."""
        if "epyrpc" not in self.files:
            return None
        for node in self.tree("epyrpc").body:
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
                try:
                    return set(ast.literal_eval(node.value))  # type: ignore[attr-defined]
                except ValueError:
                    return None
        return None


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(
        pattern in ("*", name) or (pattern.endswith(".*") and f"{name}.".startswith(pattern[:-1]))
        for pattern in patterns
    )


def _room(name: str) -> Room | None:
    """Return the room of `name`: its own entry before its package's."""
    if name in ROOMS:
        return ROOMS[name]
    return next((room for key, room in ROOMS.items() if key.endswith(".*") and _matches(name, (key,))), None)


def _import_faults(house: House, module: str, name: str, room: Room) -> Iterator[str]:
    for found in house.imports(module):
        top, _, rest = found.module.partition(".")
        where = f"{module}:{found.line} imports {found.module}"
        if top == "epyrpc":
            if rest == "__init__":
                rest = ""
            own_package = name.rpartition(".")[0]
            if not _matches(rest, room.inside) and not (rest and rest == own_package):
                yield f"{where}: not below it"
            elif rest.startswith("transports.") and rest != "transports.base" and not _matches(name, CONCRETE_ALLOWED):
                yield f"{where}: only api.factory names a concrete transport"
        elif top not in sys.stdlib_module_names and top not in room.outside:
            yield f"{where}: this room may not meet {top}"


def _start_faults(house: House, module: str, room: Room) -> Iterator[str]:
    """Find calls, and classes derived, that start what the room may not start."""
    for node in _running(house.tree(module)):
        names = []
        if isinstance(node, ast.Call):
            names = [_called(node)]
            owner = node.func.value if isinstance(node.func, ast.Attribute) else None
            if isinstance(owner, ast.Name) and owner.id in PROCESS_MODULES:
                names.append("Popen")
        elif isinstance(node, ast.ClassDef):
            names = [base.attr if isinstance(base, ast.Attribute) else getattr(base, "id", "") for base in node.bases]
        for name in names:
            if name in STARTS_THREAD and not room.threads:
                yield f"{module}:{node.lineno} uses {name}: no thread starts in this room"
            if name in STARTS_PROCESS and not room.processes:
                yield f"{module}:{node.lineno} uses {name}: no process starts in this room"


def _widget_faults(house: House, module: str) -> Iterator[str]:
    public = house.public_names()
    is_package = house.files[module].name == "__init__.py"
    for found in house.imports(module):
        top, _, rest = found.module.partition(".")
        if top == "epyrpc" and rest:
            yield f"{module}:{found.line} imports {found.module}: widgets use the public names of epyrpc only"
    for node in _running(house.tree(module)):
        if isinstance(node, ast.ImportFrom) and _resolve(node, module, is_package) == "epyrpc" and public is not None:
            hidden = sorted(alias.name for alias in node.names if alias.name not in public)
            if hidden:
                yield f"{module}:{node.lineno} imports {', '.join(hidden)} from epyrpc: not in its __all__"


def faults(house: House) -> list[str]:
    """Everything that breaks the plan, a line each."""
    found = []
    for module in house.files:
        top, _, name = module.partition(".")
        if top == "epyrpc_widgets":
            found += _widget_faults(house, module)
            continue
        room = _room(name)
        if room is None:
            found.append(f"{module} stands in no room: give it a place in tests/test_layers.py")
            continue
        found += _import_faults(house, module, name, room)
        found += _start_faults(house, module, room)
    return sorted(found)


def test_rooms_import_only_downwards(repository: Path) -> None:
    assert faults(House(repository)) == []


def _build(root: Path, files: dict[str, str]) -> House:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return House(root)


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        pytest.param("epyrpc/errors.py", "import epyrpc.codec", "not below it", id="upward"),
        pytest.param("epyrpc/errors.py", "from . import codec", "imports epyrpc.codec", id="upward relative"),
        pytest.param(
            "epyrpc/errors.py", "def f():\n    from .codec import x", "errors:2", id="upward, inside a function"
        ),
        pytest.param("epyrpc/codec.py", "from epyrpc import results", "epyrpc.results", id="sideways"),
        pytest.param("epyrpc/codec.py", "import epyrpc", "not below it", id="the roof"),
        pytest.param(
            "epyrpc/codec.py", "import importlib\nimportlib.import_module('epyrpc.api')", "codec:2", id="by name"
        ),
        pytest.param("epyrpc/results.py", "import cloudpickle", "may not meet cloudpickle", id="cloudpickle elsewhere"),
        pytest.param(
            "epyrpc/transports/queues.py", "from ..codec import encode", "not below it", id="wire knows codec"
        ),
        pytest.param("epyrpc/api/base.py", "from ..transports.queues import Q", "not below it", id="api knows a wire"),
        pytest.param(
            "epyrpc/bodies/spawn.py", "from ..transports.queues import Q", "concrete transport", id="body knows a wire"
        ),
        pytest.param(
            "epyrpc/bodies/spawn.py", "from ..jupyter import cells", "not below it", id="body knows notebooks"
        ),
        pytest.param(
            "epyrpc/bodies/inside.py", "import IPython", "may not meet IPython", id="IPython outside its room"
        ),
        pytest.param("epyrpc/api/base.py", "import numpy", "may not meet numpy", id="another library"),
        pytest.param("epyrpc/jupyter/cells.py", "import epyrpc_widgets", "may not meet", id="widgets beside display"),
        pytest.param(
            "epyrpc/results.py", "import threading\nthreading.Thread(target=f)", "no thread", id="thread below"
        ),
        pytest.param(
            "epyrpc/codec.py", "import threading\nclass T(threading.Thread): pass", "no thread", id="thread class below"
        ),
        pytest.param("epyrpc/clock.py", "import multiprocessing as m\nm.Process()", "no process", id="process below"),
        pytest.param(
            "epyrpc/api/dispatch.py", "import subprocess\nsubprocess.run([])", "no process", id="subprocess in api"
        ),
        pytest.param(
            "epyrpc/bodies/life.py",
            "import multiprocessing as m\nm.Process()",
            "no process",
            id="process beside helpers",
        ),
        pytest.param("epyrpc/attic.py", "", "stands in no room", id="no room"),
        pytest.param(
            "widgets/epyrpc_widgets/view.py", "import epyrpc.results", "public names", id="widget looks inside"
        ),
        pytest.param(
            "widgets/epyrpc_widgets/view.py", "from epyrpc import _x", "not in its __all__", id="widget, private"
        ),
    ],
)
def test_a_violation_is_found(tmp_path: Path, file: str, text: str, said: str) -> None:
    house = _build(tmp_path, {"epyrpc/__init__.py": "__all__ = ['spawn']", "epyrpc/codec.py": "", file: text})
    found = faults(house)
    assert len(found) == 1, found
    assert said in found[0]


def test_what_the_plan_allows_is_not_complained_about(tmp_path: Path) -> None:
    house = _build(
        tmp_path,
        {
            "epyrpc/__init__.py": "__all__ = ['spawn']\ndef __getattr__(n):\n    from .bodies.spawn import spawn",
            "epyrpc/errors.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .codec import encode",
            "epyrpc/codec.py": "from . import errors\nimport cloudpickle\nimport pickle\nfrom .errors import A",
            "epyrpc/transactions.py": "from .results import AsyncResult\nfrom .clock import Clock",
            "epyrpc/transports/__init__.py": "from .base import Transport",
            "epyrpc/transports/queues.py": "import threading\nfrom . import base\nthreading.Thread()",
            "epyrpc/api/base.py": "from . import action\nfrom ..transports.base import T\nfrom epyrpc.codec import x",
            "epyrpc/api/factory.py": "from ..transports import memory, queues",
            "epyrpc/bodies/helpers.py": "import multiprocessing as m\nfrom . import spawn\nm.Process()",
            "epyrpc/bodies/spawn.py": "import threading\nfrom ..api import factory\nthreading.Thread()",
            "epyrpc/jupyter/display.py": "def f():\n    import epyrpc_widgets\nimport ipywidgets",
            "epyrpc/testing.py": "from .transports.memory import pair",
            "widgets/epyrpc_widgets/__init__.py": "import anywidget\nimport epyrpc\nfrom epyrpc import spawn",
        },
    )
    assert faults(house) == []
