"""Output of a call lands in the cell that made the call."""

from __future__ import annotations

from typing import Any

from epyrpc import results
from epyrpc.jupyter import output
from epyrpc.jupyter.cells import DISPLAY, Display
from tests.jupyter.kernels import Kernel


def test_output_goes_to_the_cell_that_made_the_call(nb: Kernel) -> None:
    nb.ok("""
        import threading
        steps = [threading.Event() for _ in range(3)]
        worker.on("next", lambda i: steps[i].wait(20))
        def talk(name):
            from epyrpc import head
            for i in range(3):
                head.call.next(i)
                print(name, i)
        calls = []
    """)
    cells = {name: nb.ok(f"calls.append(worker.submit(talk, {name!r}))").id for name in ("first", "second")}
    later = [nb.ok(f"print('cell', {i}); steps[{i}].set(); import time; time.sleep(0.1)") for i in range(3)]
    last = nb.ok("for call in calls: call.result(20)")
    assert [outcome.stdout for outcome in later] == ["cell 0\n", "cell 1\n", "cell 2\n"]
    others = [m for outcome in (*later, last) for m in outcome.others]
    for name, cell in cells.items():
        assert "".join(m.text for m in others if m.parent == cell) == f"{name} 0\n{name} 1\n{name} 2\n"
    assert {m.parent for m in others} == set(cells.values())


def test_output_of_a_blocking_call_comes_live_before_its_result(nb: Kernel) -> None:
    outcome = nb.ok("""
        def work():
            import time
            for i in range(3):
                print("step", i)
                time.sleep(0.15)
            return "value"
        worker.call(work)
    """)
    assert outcome.stdout == "step 0\nstep 1\nstep 2\n"
    assert outcome.messages[-1].text == "'value'"
    streams = [m for m in outcome.messages if m.kind == "stream"]
    assert streams[-1].when - streams[0].when > 0.2


def test_every_line_arrives_before_the_result(nb: Kernel) -> None:
    outcome = nb.ok("""
        def chatter(n):
            for i in range(n): print(i)
        for _ in range(20): worker.call(chatter, 50)
    """)
    assert outcome.stdout == "".join(f"{i}\n" for i in range(50)) * 20


class Stream:
    """Stands in for the kernel's session and socket."""

    iopub_socket = "socket"

    def __init__(self) -> None:
        self.sent: list[tuple[str, dict[str, Any], Any]] = []
        self.session = self

    def send(self, socket: str, kind: str, content: dict[str, Any], parent: Any) -> None:
        assert socket == "socket"
        self.sent.append((kind, content, parent))


class OldShell:
    """A kernel's shell that cannot set the request of a thread."""

    def __init__(self) -> None:
        self.kernel = Stream()
        self.request = {"header": {"msg_id": "cell 1"}}

    def get_parent(self) -> Any:
        return self.request


def test_kernel_without_thread_parents_is_sent_messages() -> None:
    shell = OldShell()
    maker = output.SinkMaker(shell)
    sink = maker()
    first, shell.request = shell.request, {"header": {"msg_id": "cell 2"}}
    sink("stderr", "o")
    sink("stderr", "h")
    sink.show(DISPLAY, tuple(Display({"image/png": "iVBORw=="}, {"m": 1}, {"display_id": "d"})))
    sink.show(DISPLAY, tuple(Display({"text/plain": "x"}, {}, {"display_id": "d"}, "update")))
    sink.flush()
    sink.show(DISPLAY, tuple(Display({}, {}, {}, "clear later")))
    sink.show("something else", 1)
    sink.flush()
    maker.publisher.close()
    assert shell.kernel.sent == [
        ("stream", {"name": "stderr", "text": "oh"}, first),
        (
            "display_data",
            {"data": {"image/png": "iVBORw=="}, "metadata": {"m": 1}, "transient": {"display_id": "d"}},
            first,
        ),
        ("update_display_data", {"data": {"text/plain": "x"}, "metadata": {}, "transient": {"display_id": "d"}}, first),
        ("clear_output", {"wait": True}, first),
    ]


def test_calls_of_one_cell_share_a_sink() -> None:
    shell = OldShell()
    maker = output.SinkMaker(shell)
    first = maker()
    assert maker() is first
    shell.request = {"header": {"msg_id": "cell 2"}}
    assert maker() is not first


def test_installing_twice_and_uninstalling_restores_what_was() -> None:
    before = results.make_output_sink
    output.install(OldShell())
    output.install(OldShell())
    assert isinstance(results.make_output_sink, output.SinkMaker)
    output.uninstall()
    output.uninstall()
    assert results.make_output_sink is before
