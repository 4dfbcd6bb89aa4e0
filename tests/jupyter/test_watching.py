"""Live views and ``%transactions`` in a real kernel: what is displayed, and under which cell."""

from __future__ import annotations

from tests.jupyter.kernels import Kernel

VIEW = "application/vnd.jupyter.widget-view+json"


def test_a_call_and_a_body_are_displayed_as_view_text_and_table(nb: Kernel) -> None:
    (call,) = nb.ok("worker.submit(len, 'abc')").displays
    assert set(call) == {VIEW, "text/plain", "text/html"}
    assert call["text/plain"] == "AsyncResult(len on worker)"
    (body,) = nb.ok("worker").displays
    assert set(body) == {VIEW, "text/plain", "text/html"}
    assert body["text/plain"].startswith("<Body worker · running")
    (again,) = nb.ok("worker").displays
    assert again[VIEW]["model_id"] == body[VIEW]["model_id"]


def test_without_the_packages_text_and_table_and_one_hint(nb: Kernel) -> None:
    hide = "import sys\nhidden = sys.modules.pop('epyrpc_widgets', None)\nsys.modules['epyrpc_widgets'] = None"
    nb.ok(hide)
    try:
        first = nb.ok("worker.submit(len, 'abc')")
        assert set(first.displays[0]) == {"text/plain", "text/html"}
        assert first.stderr == "For live rows: pip install ipywidgets anywidget\n"
        assert nb.ok("worker").stderr == ""
        assert "1 done" in nb.ok("%transactions\nworker.call(len, 'abc')\n%transactions").displays[-1]["text/plain"]
    finally:
        nb.ok(
            "%transactions stop\nsys.modules.pop('epyrpc_widgets')\nif hidden: sys.modules['epyrpc_widgets'] = hidden"
        )


def test_transactions_shows_what_was_called_since_its_first_use(nb: Kernel) -> None:
    (first,) = nb.ok("%transactions").displays
    assert set(first) == {VIEW, "text/plain", "text/html"}
    assert first["text/plain"] == "the transactions of this notebook"
    nb.ok("worker.set_handler('maths.half', lambda x: x / 2)\nworker.call.maths.half(4)")
    (second,) = nb.ok("%transactions").displays
    assert second[VIEW] == first[VIEW]  # the same monitor, shown twice
    assert "maths.half" in second["text/html"]
    assert nb.value("__import__('epyrpc').results.watch is None") == "False"
    nb.ok("%transactions stop")
    assert nb.value("__import__('epyrpc').results.watch is None") == "True"


def test_mistakes_print_the_usage(nb: Kernel) -> None:
    outcome = nb.run("%transactions everything")
    assert "'everything' is not known" in outcome.stderr + str(outcome.error)
    assert nb.ok("%transactions --help").stdout.startswith("%transactions shows")


def test_the_extension_takes_its_magic_with_it(nb: Kernel) -> None:
    nb.ok("%transactions\n%unload_ext epyrpc")
    assert nb.value("__import__('epyrpc').results.watch is None") == "True"
    assert "not found" in nb.run("%transactions").stderr
    nb.ok("%load_ext epyrpc\n%transactions\n%transactions stop")


def test_a_row_is_told_while_a_cell_blocks(nb: Kernel) -> None:
    nb.ok("import time\nslow = worker.submit(time.sleep, 0.5)\nslow")
    outcome = nb.ok(
        "import epyrpc_widgets\n"
        "view = epyrpc_widgets.view_of(slow)\n"
        "slow.result()\n"
        "limit = time.monotonic() + 20\n"
        "while not view.row['ended'] and time.monotonic() < limit: time.sleep(0.02)\n"
        "print(view.row['state'])"
    )
    assert outcome.stdout == "done\n"
