"""What only shows between two processes: classes with slots, modules made at run time, modules that are missing."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path


def run_script(source: str) -> str:
    """Run a script that has `body`, and `echo(x)`, which sends x there and back."""
    start = "import epyrpc, sys, types\nbody = epyrpc.spawn('b')\nbody.set_handler('echo', lambda x: x)\n"
    start += "echo = body.call.echo\n"
    done = subprocess.run(
        [sys.executable, "-c", start + textwrap.dedent(source)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_class_of_the_main_module_keeps_its_slots_on_the_way_there_and_back() -> None:
    shown = run_script("""
        import dataclasses

        class Slotted:
            __slots__ = ("__secret", "open")
            def __init__(self):
                self.open, self.__secret = 1, 2
            def both(self):
                return self.open, self.__secret

        @dataclasses.dataclass(slots=True)
        class Point:
            x: int
            y: int = 2

        thing, point = Slotted(), Point(1)
        there = body.call(lambda a, b: (hasattr(a, "__dict__"), hasattr(b, "__dict__"), a.both(), b.y), thing, point)
        back, point_back = echo(thing), echo(point)
        print(there, back.both(), type(back) is Slotted, point_back == point)
    """)
    assert shown == "(False, False, (1, 2), 2) (1, 2) True True"


def test_module_made_at_run_time_travels_with_what_is_of_it() -> None:
    shown = run_script("""
        made = types.ModuleType("made")
        exec('''
        scale = 3

        def times(x):
            return x * scale

        class Scaled:
            def of(self, x):
                return times(x)
        ''', made.__dict__)
        sys.modules["made"] = made  # where it looks like one that can be imported
        print(body.call(made.times, 2), body.call(lambda: made.Scaled().of(3)))
        print(echo(made.times)(4), echo(made.Scaled)().of(5))
    """)
    assert shown == "6 9\n12 15"


def test_missing_module_is_an_import_error_too(tmp_path: Path) -> None:
    (tmp_path / "only_here.py").write_text("def work():\n    return 1\n")
    shown = run_script(f"""
        body.call(sys.path.clear)
        sys.path.insert(0, {str(tmp_path)!r})
        import only_here
        try:
            body.call(only_here.work)
        except ImportError as exc:
            print(type(exc).__name__, isinstance(exc, epyrpc.CodecError), "only_here" in str(exc))
    """)
    assert shown == "CodecImportError True True"
