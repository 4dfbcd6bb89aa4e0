"""The wheel: pure Python, typed, both packages in it, and enough for a clean environment with cloudpickle alone."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

EXAMPLE = """\
import os
import sys

import epyrpc

scale = 10
with epyrpc.spawn("worker") as worker:
    worker.set_handler("maths.scale", lambda x: x * scale)
    print(worker.call.maths.scale(4))
    print(worker.call(os.getpid) != os.getpid())
print([name for name in ("IPython", "ipywidgets", "anywidget", "numpy") if name in sys.modules])
"""


def _run(*command: str | Path, cwd: Path) -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "COVERAGE"))}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def built(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with the wheel and the sdist, built without a network."""
    folder = tmp_path_factory.mktemp("dist")
    _run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-t", "sdist", "-d", folder, cwd=repository)
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (found,) = built.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def clean_python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Python of a fresh environment that holds the wheel and cloudpickle, nothing else."""
    folder = tmp_path_factory.mktemp("clean") / "venv"
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    _run(
        *(sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check"),
        *("install", "--quiet", "--no-index", "--no-deps", wheel),
        cwd=folder,
    )
    (packages,) = (folder / "lib").glob("python*/site-packages")
    for file in importlib.metadata.files("cloudpickle") or []:
        source = Path(str(file.locate()))
        if source.suffix != ".pyc" and ".." not in file.parts:
            target = packages / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
    return python


@pytest.mark.capability("S1", "M9")
def test_the_wheel_is_pure_python(wheel: Path) -> None:
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/WHEEL"))
        assert "Root-Is-Purelib: true" in archive.read(metadata).decode()


@pytest.mark.capability("M9")
def test_the_wheel_holds_both_packages_typed_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {"epyrpc/py.typed", "epyrpc_widgets/py.typed", "epyrpc/__init__.py", "epyrpc_widgets/__init__.py"} <= names
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"epyrpc", "epyrpc_widgets"}
    assert any(name.endswith("licenses/LICENSE") for name in names)


@pytest.mark.capability("M9")
def test_the_wheel_holds_every_module_of_the_tree(wheel: Path, repository: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    written = {file.relative_to(repository).as_posix() for file in (repository / "epyrpc").rglob("*.py")}
    assert written <= names


@pytest.mark.capability("M9")
def test_the_wheel_holds_what_the_views_are_made_of(wheel: Path, repository: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    static = repository / "widgets" / "epyrpc_widgets" / "static"
    files = {f"epyrpc_widgets/static/{path.name}" for path in static.iterdir()}
    assert len(files) > 10
    assert files <= names


@pytest.mark.capability("M9")
def test_the_source_distribution_builds_the_same_wheel(built: Path, wheel: Path, tmp_path: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        if hasattr(tarfile, "data_filter"):
            archive.extractall(tmp_path, filter="data")
        else:
            archive.extractall(tmp_path)
    (source,) = tmp_path.iterdir()
    _run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path / "again", cwd=source)
    (again,) = (tmp_path / "again").glob("*.whl")
    with zipfile.ZipFile(wheel) as first, zipfile.ZipFile(again) as second:
        assert sorted(first.namelist()) == sorted(second.namelist())


@pytest.mark.capability("M9")
def test_a_clean_environment_runs_an_example_with_cloudpickle_alone(clean_python: Path, tmp_path: Path) -> None:
    where = _run(clean_python, "-c", "import epyrpc; print(epyrpc.__file__)", cwd=tmp_path).strip()
    assert Path(where).is_relative_to(clean_python.parent.parent)
    (tmp_path / "example.py").write_text(EXAMPLE, encoding="utf-8")
    assert _run(clean_python, "example.py", cwd=tmp_path).splitlines() == ["40", "True", "[]"]


@pytest.mark.capability("M9")
def test_the_dependencies_are_those_promised() -> None:
    wanted = [r for r in importlib.metadata.requires("epyrpc") or [] if "extra" not in r and "python_version" not in r]
    assert sorted(r.partition(">")[0].strip() for r in wanted) == ["anywidget", "cloudpickle", "ipywidgets"]
