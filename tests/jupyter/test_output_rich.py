"""Rich displays and figures from any handler, and where a head's handlers put out."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.jupyter.kernels import VERSIONS, Kernel, kernel, text_of


@pytest.fixture(scope="module", params=VERSIONS)
def empty_kernel(request: pytest.FixtureRequest) -> Iterator[Kernel]:
    processes_that_stay = ("%body spawn first", "%body spawn second --start-method forkserver", "%body stop --all")
    with kernel("%load_ext epyrpc", *processes_that_stay, version=request.param) as started:
        yield started


def test_a_handler_displays_as_a_cell_does(nb: Kernel) -> None:
    nb.ok("""
        @worker.handler("show")
        def show():
            import pandas as pd
            from IPython.display import HTML, clear_output, display, update_display
            print("before")
            display(pd.DataFrame({"energy": [1.5, 2.5]}))
            display(HTML("<b>bold</b>"))
            display("first", display_id="there")
            print("between")
            update_display("second", display_id="there")
            print("after")
    """)
    outcome = nb.ok("worker.call.show()")
    assert [m.kind for m in outcome.messages] == [
        "stream", "display_data", "display_data", "display_data", "stream", "update_display_data", "stream",
    ]  # fmt: skip
    assert "<th>energy</th>" in outcome.displays[0]["text/html"]
    assert outcome.displays[1]["text/html"] == "<b>bold</b>"
    assert outcome.messages[5].content["data"] == {"text/plain": "'second'"}
    assert outcome.stdout == "before\nbetween\nafter\n"


def test_display_needs_no_import_and_no_ipython_until_then(nb: Kernel) -> None:
    loaded = "worker.call(lambda: 'IPython' in __import__('sys').modules)"
    assert nb.value(loaded) == "False"
    assert nb.ok("worker.call(lambda: display({'a': 1}))").displays == [{"text/plain": "{'a': 1}"}]
    assert nb.value(loaded) == "True"


def test_figures_of_a_handler_are_shown_at_its_end_and_closed(nb: Kernel) -> None:
    outcome = nb.ok("""
        def draw():
            import matplotlib.pyplot as plt
            plt.plot([1, 2, 3])
            print("drawn")
        worker.call(draw)
    """)
    assert [m.kind for m in outcome.messages] == ["stream", "display_data"]
    assert len(outcome.displays[0]["image/png"]) > 2000
    assert nb.value("worker.call(lambda: __import__('matplotlib.pyplot').pyplot.get_fignums())") == "[]"
    assert nb.ok("worker.call(draw); worker.call(draw)").stdout == "drawn\ndrawn\n"


def test_show_shows_once_and_in_its_place(nb: Kernel) -> None:
    outcome = nb.ok("""
        def draw():
            import matplotlib.pyplot as plt
            plt.plot([1, 2, 3])
            plt.show()
            print("shown")
        worker.call(draw)
    """)
    assert [m.kind for m in outcome.messages] == ["display_data", "stream"]
    again = nb.ok("%%body worker\nimport matplotlib.pyplot as plt\nplt.plot([1])\nplt.show()\nprint('shown');")
    assert [m.kind for m in again.messages] == ["display_data", "stream"]


def test_calls_at_once_show_their_own_figures_only(nb: Kernel) -> None:
    nb.ok("""
        import threading
        both = threading.Barrier(2)
        worker.on("meet", lambda: both.wait(30) and None)
        def draw(title):
            import matplotlib.pyplot as plt
            from epyrpc import head
            plt.figure(num=f"figure of {title}")
            head.call.meet()
            plt.plot([1, 2, 3])
            plt.title(title)
            head.call.meet()
            assert plt.gca().get_title() == title
            print("end of", title)
        worker.call(lambda: __import__("matplotlib.pyplot") and None)
        calls = {}
    """)
    cells = {title: nb.ok(f"calls[{title!r}] = worker.submit(draw, {title!r})") for title in ("one", "two")}
    last = nb.ok("for call in calls.values(): call.result(60)")
    everything = [m for outcome in (*cells.values(), last) for m in [*outcome.messages, *outcome.others]]
    for title, cell in cells.items():
        own = [m for m in everything if m.parent == cell.id]
        assert [m.kind for m in own] == ["stream", "display_data"]
        assert own[0].text == f"end of {title}\n"
        assert "image/png" in own[1].content["data"]
    nb.ok("assert all([o['output_type'] for o in c.outputs] == ['stream', 'display_data'] for c in calls.values())")


def test_a_figure_that_cannot_be_drawn_does_not_spoil_the_call(nb: Kernel) -> None:
    outcome = nb.ok("""
        def draw():
            import matplotlib.pyplot as plt
            from matplotlib.lines import Line2D
            class Broken(Line2D):
                def draw(self, renderer): raise ValueError("no pencil")
            plt.gca().add_line(Broken([0, 1], [0, 1]))
            return "result"
        worker.call(draw)
    """)
    assert outcome.messages[-1].text == "'result'"
    assert "no pencil" in outcome.stdout + outcome.stderr
    assert nb.value("worker.call(lambda: __import__('matplotlib.pyplot').pyplot.get_fignums())") == "[]"


def test_figure_of_a_failing_handler_is_shown(nb: Kernel) -> None:
    outcome = nb.run("""
        def draw():
            import matplotlib.pyplot as plt
            plt.plot([1, 2])
            raise RuntimeError("after drawing")
        worker.call(draw)
    """)
    assert [m.kind for m in outcome.messages] == ["display_data", "error"]


def test_results_keep_and_replay_what_they_put_out(nb: Kernel) -> None:
    nb.ok("""
        def work():
            import sys
            print("text")
            display({"a": 1})
            print("error", file=sys.stderr)
        call = worker.submit(work); call.result(30)
    """)
    kinds = nb.value("[(o['output_type'], o.get('name')) for o in call.outputs]")
    assert kinds == "[('stream', 'stdout'), ('display_data', None), ('stream', 'stderr')]"
    replayed = nb.ok("call.show()")
    assert [(m.kind, m.text) for m in replayed.messages] == [
        ("stream", "text\n"), ("display_data", "{'a': 1}"), ("stream", "error\n"),
    ]  # fmt: skip


# --- handlers of the head


def test_a_heads_handler_puts_out_into_the_cell_whose_call_caused_it(nb: Kernel) -> None:
    registered = nb.ok("""
        import threading
        gate, heard = threading.Event(), threading.Semaphore(0)
        worker.on("gate", lambda: gate.wait(30) and None)
        @worker.on("event")
        def event(word):
            print("event", word)
            heard.release()
        @worker.on("ask")
        def ask(word):
            print("asked", word)
            display(word)
            return word.upper()
        @worker.on("slow_ask")
        async def slow_ask(word):
            import asyncio
            await asyncio.sleep(0.01)
            print("slowly asked", word)
        def work():
            from epyrpc import head
            head.call.gate()
            print(head.call.ask("something"))
            head.call.slow_ask("more")
            head.emit.event("at the end")
    """)
    caused = nb.ok("call = worker.submit(work)")
    later = [nb.ok(f"print('cell {i}')") for i in range(3)]
    last = nb.ok("gate.set(); call.result(30); heard.acquire(timeout=30); print('over')")
    rest = nb.ok("import time; time.sleep(0.1)  # until the handler's end is there")
    everything = [registered, caused, *later, last, rest]
    said = text_of(caused.id, *everything).splitlines()
    assert sorted(said) == sorted(["asked something", "SOMETHING", "slowly asked more", "event at the end"])
    assert said.index("asked something") < said.index("SOMETHING")
    shown = [m for outcome in everything for m in [*outcome.messages, *outcome.others] if m.kind == "display_data"]
    assert [(m.parent, m.text) for m in shown] == [(caused.id, "'something'")]
    assert text_of(registered.id, *everything) == ""
    assert last.stdout == "over\n"


def test_what_no_call_caused_lands_where_the_handler_was_registered(nb: Kernel) -> None:
    registered = nb.ok("""
        import threading
        heard = threading.Semaphore(0)
        worker.on("tick", lambda word: (print("tick", word), heard.release()))
    """)
    started = nb.ok("""
        def start():
            import threading
            from epyrpc import head
            ready = threading.Event()
            def run():
                ready.wait(30)
                head.emit.tick("from a thread")
            threading.Thread(target=run).start()
            globals()["ready"] = ready
            import __main__; __main__.ready = ready
        worker.call(start)
    """)
    last = nb.ok("worker.execute('ready.set()'); heard.acquire(timeout=30); print('here')")
    rest = nb.ok("import time; time.sleep(0.1)  # until the handler's end is there")
    assert text_of(registered.id, registered, started, last, rest) == "tick from a thread\n"
    assert last.stdout == "here\n"


def test_tasks_of_a_pool_and_repeated_calls_put_out_into_their_cells_too(nb: Kernel) -> None:
    made = nb.ok("""
        import sys, threading
        import epyrpc
        gate = threading.Event()
        crew = epyrpc.Pool(1, name="crew")
        crew.on("gate", lambda: gate.wait(30) and None)
        worker.on("gate", lambda: gate.wait(30) and None)
        def work(word):
            import subprocess
            from epyrpc import head
            head.call.gate()
            subprocess.run(["echo", word, "by a program"])
            display(word)
            return word
        def tell(word, value):
            sys.stdout.write(f"{word} {value}\\n")  # at once: print() writes the parts, and two threads do this
        task = crew.submit(work, "task")
        told = task.then(lambda value: tell("then", value))
        again = worker.submit(retry=1, callback=lambda id, value: tell("heard", value))(work, "again")
    """)
    try:
        last = nb.ok("gate.set(); told.result(60); again.result(60); print('over')")
        rest = nb.ok("import time; time.sleep(0.1)  # until the callback's end is there")
        said = text_of(made.id, made, last, rest).splitlines()
        assert sorted(said) == sorted(["task by a program", "again by a program", "then task", "heard again"])
        assert last.stdout == "over\n"
        kinds = nb.value("[[o['output_type'] for o in call.outputs] for call in (task, again)]")
        assert kinds == "[['stream', 'display_data'], ['stream', 'display_data']]"
    finally:
        nb.ok("crew.shutdown()")


def test_a_figure_that_is_returned_is_shown_by_its_call_and_by_nobody_else(nb: Kernel) -> None:
    outcome = nb.ok("""
        def draw():
            import matplotlib.pyplot as plt
            figure, axes = plt.subplots()
            axes.plot([1, 2])
            return figure
        kept = worker.call(draw)
    """)
    assert len(outcome.displays) == 1
    assert "image/png" in outcome.displays[0]
    assert nb.value("type(kept).__name__, len(kept.axes)") == "('Figure', 1)"
