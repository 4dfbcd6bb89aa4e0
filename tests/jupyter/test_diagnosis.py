"""``%body why``: what the calls of a notebook wait for."""

from __future__ import annotations

import re
from pathlib import Path

from tests.jupyter.kernels import Kernel

SLOW = """
%%body worker --async --out job
import time
def nap():
    while True:
        time.sleep(0.01)
nap()
"""
# Cells of the notebook are waited for in it: by its own means, up to a limit.
UNTIL = """
import time as _time
def until(check, limit=30):
    end = _time.monotonic() + limit
    while not check():
        assert _time.monotonic() < end, check
        _time.sleep(0.01)
"""


def test_why_shows_the_lines_of_cells(nb: Kernel) -> None:
    nb.ok(UNTIL)
    assert nb.ok("%body why").displays[0]["text/plain"] == "nothing waits: no call is pending"
    started = nb.ok(SLOW)
    nb.ok("import epyrpc; until(lambda: 'in nap' in repr(epyrpc.waiting()))")
    outcome = nb.ok("%body why worker")
    assert started.id != outcome.id
    (shown,) = outcome.displays
    text = shown["text/plain"]
    assert re.match(r"H\d+ In\[\d+\] on worker, [\d.]+ m?s: running\n", text), text
    assert re.search(r"\n    In\[\d+\], line 6, in <module>: nap\(\)\n", text), text
    assert re.search(r"\n    In\[\d+\], line 5, in nap: time\.sleep\(0\.01\)", text), text
    assert shown["text/html"].count("<tr>") == 2
    assert {m.parent for m in outcome.messages} == {outcome.id}
    nb.ok("job.cancel(); assert job.wait_stopped(30) == 'raised'")


def test_why_while_a_cell_blocks_is_asked_by_a_thread(nb: Kernel) -> None:
    nb.ok(UNTIL)
    outcome = nb.ok(
        """
        import epyrpc, threading, time
        gate, here, told = threading.Event(), threading.Event(), []
        def rate():
            here.set(); gate.wait(30)
            return 2
        worker.on("ask.rate", rate)
        def asks():
            from epyrpc import head
            return head.call.ask.rate()
        def look():
            here.wait(30)
            until(lambda: "waits for" in repr(epyrpc.waiting()))
            told.append(repr(epyrpc.waiting()))
            gate.set()
        threading.Thread(target=look).start()
        print(worker.call(asks))
        print(told[0])
        """
    )
    text = outcome.stdout
    assert text.startswith("2\n")
    assert re.search(r"asks on worker, .*: waits for N[\d.]+ ask\.rate of this process", text), text
    assert re.search(r"In\[\d+\], line 9, in asks: return head\.call\.ask\.rate\(\)", text), text
    assert re.search(r"\n  └ N[\d.]+ ask\.rate here, .*: running, called by worker", text), text
    assert re.search(r"\n        In\[\d+\], line 4, in rate: here\.set\(\); gate\.wait\(30\)", text), text


def test_why_of_a_body_that_is_not_there(nb: Kernel) -> None:
    outcome = nb.run("%body why wroker")
    assert outcome.stderr == "UsageError: there is no body 'wroker'; did you mean worker?\n"
    assert "%body why [NAME…]" in nb.ok("%body why --help").stdout


def test_explain_stops_at_the_shell(nb: Kernel) -> None:
    outcome = nb.ok("import epyrpc\ndef asks(): return get_ipython()\nepyrpc.explain(asks)")
    text = outcome.displays[0]["text/plain"]
    assert text.startswith(
        "cannot send asks → global 'get_ipython' → its object (ipykernel.zmqshell.ZMQInteractiveShell)"
    )
    assert "a %%body cell has the body's own" in text
    assert outcome.displays[0]["text/html"].count("<tr>") == 2
    outcome = nb.run("worker.set_handler('asks', asks)")
    assert outcome.error is not None
    assert "cannot send handler → global 'get_ipython' → its object (ipykernel" in outcome.error.content["evalue"]


def test_reload_and_by_value(nb: Kernel, tmp_path: Path) -> None:
    file = tmp_path / "shop_for_notebooks.py"
    file.write_text("def price(n):\n    return 2 * n\n")
    nb.ok(f"import sys; sys.path.insert(0, {str(tmp_path)!r})")
    nb.ok("from shop_for_notebooks import price\ndef total(n): return price(n) + 1")
    # This body was spawned before the path was known, so it cannot import the module.
    assert "epyrpc.by_value('shop_for_notebooks')" in nb.run("worker.set_handler('shop.total', total)").traceback
    nb.ok("%body spawn other --by-value shop_for_notebooks")
    nb.ok("other.set_handler('shop.total', total)\nother.set_handler('shop.total', total)")
    assert nb.value("other.call.shop.total(5)") == "11"
    file.write_text("def price(n):\n    return 3 * n\n")
    outcome = nb.ok("%body reload other shop_for_notebooks")
    assert outcome.stdout == (
        "shop_for_notebooks loaded anew here; other has not loaded it; 1 handler was sent again\n"
    )
    assert nb.value("other.call.shop.total(5), price(5)") == "(16, 15)"
    text = nb.ok("print(other.api)").stdout
    assert re.search(r"└─ total\(n\)   v3 · In\[\d+\]\n", text), text


def test_reload_of_what_is_not_there(nb: Kernel) -> None:
    assert nb.run("%body reload worker no_such_module").stderr.startswith("UsageError: module is 'no_such_module', but")
    assert nb.run("%body reload worker").stderr.startswith("UsageError: %body reload worker: which modules? Usage: ")
    text = nb.run("%body spawn more --by-value a-b").stderr
    assert text.startswith("UsageError: %body spawn: --by-value 'a-b' must be names of modules, such as a.b,c")


def test_running_a_cell_again_upgrades_its_handler(nb: Kernel) -> None:
    source = "@worker.handler('greet')\ndef greet(): return 'WORD'"
    nb.ok(source.replace("WORD", "good morning"))
    nb.ok(source.replace("WORD", "good evening"))
    number = nb.value("len(In) - 2")
    assert nb.value("worker.call.greet()") == "'good evening'"
    assert f"└─ greet()   v2 · In[{number}]" in nb.ok("print(worker.api)").stdout
