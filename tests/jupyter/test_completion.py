"""Tab below the first line of a ``%%body`` cell: the names of the body, and never a kernel that waits for one."""

from __future__ import annotations

from tests.jupyter.kernels import Kernel


def complete(nb: Kernel, source: str) -> list[str]:
    """Return what may stand at the end of the cell's last line: that line."""
    return [found.rpartition("\n")[2] for found in nb.complete(source)]


def test_names_and_attributes_are_the_bodys(names: Kernel) -> None:
    assert complete(names, "%%body worker\nlonel") == ["lonely_text"]
    assert complete(names, "%%body worker\nx = 1\nprint(lonely_text.upp") == ["print(lonely_text.upper"]
    assert complete(names, "%%body worker --async -t 3\nlonel") == ["lonely_text"]
    assert "lots" in complete(names, "%%body worker\nlo")
    assert "notebooks_own" not in complete(names, "%%body worker\nno")
    assert "import" in complete(names, "%%body worker\nimpor")
    assert "import json" in complete(names, "%%body worker\nimport jso")


def test_the_bodys_shell_knows_keys_and_magics(nb: Kernel) -> None:
    nb.ok("%%body worker\ntable = {'key one': 1}")
    assert complete(nb, "%%body worker\ntable['k") == ["table['key one"]
    assert "%timeit" in complete(nb, "%%body worker\n%timei")


def test_completion_works_while_every_handler_is_busy(named: Kernel) -> None:
    named.ok("import threading\ngo = threading.Event()\nworker.on('wait', lambda: go.wait(30))")
    named.ok("""
        def hold():
            from epyrpc import head
            return head.call.wait()
        held = [worker.submit(hold) for _ in range(4)]
    """)
    assert complete(named, "%%body worker\nlonel") == ["lonely_text"]
    named.ok("go.set(); [h.result(20) for h in held]")


def test_tab_does_not_wait_for_a_body_that_does_not_answer(named: Kernel) -> None:
    named.ok("worker.set_handler('maths.scale', abs)")
    named.ok("import os, signal; os.kill(worker.pid, signal.SIGSTOP)")
    try:
        for source, found in [
            ("%%body worker\nnotebooks_o", "notebooks_own"),  # the notebook's names are better than none
            ("worker.call.ma", "worker.call.maths"),  # known in the notebook, which registered it
            ("%body pull worker lon", None),
        ]:
            assert found in (None, *complete(named, source))  # although the body never answers
    finally:
        named.ok("os.kill(worker.pid, signal.SIGCONT)")


def test_cells_of_no_body_complete_as_ever(named: Kernel) -> None:
    assert complete(named, "%%body nobody\nnotebooks_o") == ["notebooks_own"]
    assert complete(named, "%%time\nnotebooks_o") == ["notebooks_own"]
    assert complete(named, "x = 1\nnotebooks_o") == ["notebooks_own"]
