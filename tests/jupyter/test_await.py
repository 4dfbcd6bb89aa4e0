"""``await`` in ``%%body`` cells: a body has one event loop, for its cells and its async handlers."""

from __future__ import annotations

from tests.jupyter.kernels import Kernel

TICKING = """
%%body worker
import asyncio
ticks = asyncio.Queue()
async def tick():
    for i in range(3):
        await ticks.put(i)
        await asyncio.sleep(0.01)
    return "ticked"
task = asyncio.create_task(tick())
"""


def test_a_task_made_in_one_cell_goes_on_in_the_next(nb: Kernel) -> None:
    nb.ok(TICKING)
    assert nb.ok("%%body worker\nprint(await task, await ticks.get())").stdout == "ticked 0\n"
    assert nb.ok("%%body worker\n[await ticks.get() for _ in range(2)]").displays[-1]["text/plain"] == "[1, 2]"


def test_cells_and_async_handlers_share_the_loop(nb: Kernel) -> None:
    nb.ok(TICKING)
    nb.ok("""
        async def next_tick():
            import asyncio
            return await ticks.get(), asyncio.get_running_loop() is loop
        worker.set_handler("next", next_tick)
    """)
    nb.ok("%%body worker\nloop = asyncio.get_running_loop()")
    assert nb.ok("print(worker.call.next())").stdout == "(0, True)\n"


def test_what_does_not_await_stays_on_the_handlers_thread(nb: Kernel) -> None:
    outcome = nb.ok("""
        %%body worker
        from __future__ import annotations
        import asyncio, threading
        threads = [threading.get_ident()]
        await asyncio.sleep(0)
        threads.append(threading.get_ident())
        def later(x: Undefined) -> Undefined: return asyncio.create_task(x)
        async with asyncio.Lock(): threads.append(threading.get_ident())
        asyncio.run(asyncio.sleep(0))
        print(threads[0] == threads[1] != threads[2], later.__annotations__["x"])
    """)
    assert outcome.stdout == "True Undefined\n"


def test_an_error_behind_an_await_is_shown_with_its_line(nb: Kernel) -> None:
    outcome = nb.run("""
        %%body worker
        import asyncio
        async def fail():
            await asyncio.sleep(0)
            raise ValueError("from behind")
        print("before")
        await fail()
        print("never")
    """)
    assert outcome.stdout == "before\n"
    assert "line 7" in outcome.traceback
    assert "----> 7 await fail()" in outcome.traceback
    assert "dispatch.py" not in outcome.traceback
    assert "async_loop.py" not in outcome.traceback
    assert outcome.traceback.endswith("ValueError: from behind")


def test_exit_behind_an_await_leaves_the_loop_alive(nb: Kernel) -> None:
    outcome = nb.run("%%body worker\nimport sys, asyncio\nasync def leave(): sys.exit(3)\nawait leave()")
    assert "SystemExit" in outcome.traceback
    assert nb.ok("%%body worker\nprint(await asyncio.sleep(0, 'alive'))").stdout == "alive\n"


def test_an_await_is_interrupted_and_tidies_up(nb: Kernel) -> None:
    nb.ok("%%body worker\nimport asyncio\nlife = 1")
    cell = nb.send("""
        %%body worker
        try:
            print("waiting")
            await asyncio.sleep(1000)
        finally:
            await asyncio.sleep(0)
            tidied = "tidied up"
    """)
    nb.watch(cell, until=lambda message: "waiting" in message.text)
    nb.manager.interrupt_kernel()
    outcome = nb.watch(cell)
    assert outcome.error is not None
    assert outcome.error.content["ename"] == "KeyboardInterrupt"
    assert nb.ok("%%body worker\nprint(life, tidied, await asyncio.sleep(0, 'alive'))").stdout == "1 tidied up alive\n"


def test_a_deadline_ends_an_await(nb: Kernel) -> None:
    nb.ok("%%body worker\nimport asyncio")  # the first cell of a body takes its time
    outcome = nb.run("%%body worker --timeout 0.3 --out cell\nawait asyncio.sleep(1000)")
    assert outcome.error is not None
    assert outcome.error.content["ename"] == "TransactionTimeout"
    assert nb.value("cell.wait_stopped(20)") == "'raised'"
    assert nb.ok("%%body worker\nprint(len(asyncio.all_tasks()))").stdout == "1\n"


def test_a_deadline_while_the_shell_is_being_made_leaves_a_whole_one(nb: Kernel) -> None:
    nb.ok("""
        def slow_down():
            import sys, time
            class Slow:
                def find_spec(self, name, path=None, target=None):
                    if name == "IPython.core.completer":
                        sys.meta_path.remove(self)
                        end = time.monotonic() + 1
                        while time.monotonic() < end:  # where it can be interrupted
                            time.sleep(0.01)
            assert "IPython" not in sys.modules
            sys.meta_path.insert(0, Slow())
        worker.call(slow_down)
    """)
    outcome = nb.run("%%body worker --timeout 0.3 --out cell\n1 + 1")
    assert outcome.error is not None
    assert outcome.error.content["ename"] == "TransactionTimeout"
    assert nb.value("cell.wait_stopped(20)") == "'raised'"
    assert nb.ok("%%body worker\nprint(6 * 7)").stdout == "42\n"
