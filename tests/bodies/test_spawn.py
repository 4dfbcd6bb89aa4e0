"""Processes of bodies: how they start, what they see, how they end, and what they leave."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import select
import signal
import sys
import textwrap
import threading
import time
import types
from collections.abc import Callable, Iterator
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from epyrpc.bodies import child, helpers, spawn
from epyrpc.bodies.spawn import START_METHODS, UNKNOWN_EXIT, Launch, launch
from tests.bodies.tools import finish, head

LIMIT = 30  # seconds for what takes milliseconds; reached only when something is broken
REPOSITORY = Path(__file__).resolve().parents[2]
needs_pidfd = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="this system has no pidfd")
needs_proc = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="this system has no /proc")


# ------------------------------------------------------------------------------------------ what runs in the bodies


def answer(conn: Connection) -> None:
    """Evaluate each text that arrives and send the value, until the head closes its end."""
    with contextlib.suppress(EOFError):
        while True:
            conn.send(eval(conn.recv()))


def run(conn: Connection, code: str) -> None:
    """Say that we are here, and run the text."""
    conn.send(os.getpid())
    exec(code, {"conn": conn})


def open_links() -> dict[int, str]:
    """Return {descriptor: what it leads to} of the calling process."""
    links = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the one that listed the folder
            links[int(name)] = os.readlink(f"/proc/self/fd/{name}")
    return links


def interrupted_nap(conn: Connection) -> str:
    """Announce a nap and return what ended it."""
    try:
        conn.send("napping")
        select.select([], [], [], LIMIT)
    except KeyboardInterrupt:
        return "interrupted"
    return "slept through"


def own_child_sum(numbers: list[int]) -> int:
    """Let a child process of the body's own add the numbers."""
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    child = context.Process(target=put_sum, args=(queue, numbers))
    child.start()
    total = queue.get()
    child.join()
    child.close()
    queue.close()
    return int(total)


def put_sum(queue: Any, numbers: list[int]) -> None:
    queue.put(sum(numbers))


def wait_for_word(conn: Connection) -> str:
    conn.send("booting")
    return str(conn.recv())


class LoadsSlowly:
    """An argument whose unpickling, in the booting body, waits for a word of the head."""

    def __init__(self, conn: Connection) -> None:
        self.conn = conn

    def __reduce__(self) -> tuple[Callable[[Connection], str], tuple[Connection]]:
        return wait_for_word, (self.conn,)


def send_back(conn: Connection, thing: object) -> None:
    conn.send(thing)


# --------------------------------------------------------------------------------------------------------- helpers


@pytest.fixture(autouse=True)
def _no_server_stays() -> Iterator[None]:
    yield
    helpers.stop_fork_server()


@pytest.fixture(params=START_METHODS)
def method(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Asked:
    """A body that runs `answer`, and our end of its pipe."""

    def __init__(self, method: str, name: str = "body") -> None:
        self.conn, theirs = multiprocessing.Pipe()
        self.launch = launch(name, answer, (theirs,), start_method=method, close_after_start=[theirs])

    def ask(self, text: str) -> Any:
        self.conn.send(text)
        return self.hear()

    def hear(self) -> Any:
        assert self.conn.poll(LIMIT), "no answer"
        return self.conn.recv()


@contextlib.contextmanager
def asked(method: str, name: str = "body") -> Iterator[Asked]:
    body = Asked(method, name)
    try:
        yield body
    finally:
        body.launch.close()
        body.conn.close()


def started(method: str, target: Callable[..., None], *args: object) -> contextlib.closing[Launch]:
    return contextlib.closing(launch("body", target, args, start_method=method))


def read_output(started: Launch) -> str:
    """Return all that a process, now ended, has written."""
    parts = []
    with contextlib.suppress(BlockingIOError):
        while part := os.read(started.stderr_fd, 65536):
            parts.append(part)
    return b"".join(parts).decode()


def readable(fd: int, seconds: float) -> bool:
    return bool(select.select([fd], [], [], seconds)[0])


PREAMBLE = """
import multiprocessing, os, signal, sys, threading
from epyrpc.bodies import child, helpers, spawn
from tests.bodies.test_spawn import Asked, LIMIT, answer, run
"""


# ------------------------------------------------------------------------------------------------- what a body sees


def test_body_is_a_process_with_its_own_session(method: str) -> None:
    with asked(method, "lab") as body:
        assert body.ask("os.getpid()") == body.launch.pid != os.getpid()
        assert body.ask("os.getsid(0)") == body.ask("os.getpgid(0)") == body.launch.pid
        assert body.ask("multiprocessing.current_process().name") == body.launch.name == "lab"
        assert body.ask("multiprocessing.parent_process().pid") == os.getpid()


def test_main_is_a_fresh_module(method: str) -> None:
    with asked(method) as body:
        names = body.ask("sorted(vars(sys.modules['__main__']))")
        assert [name for name in names if not name.startswith("__")] == []
        assert body.ask("sys.modules['__mp_main__'] is sys.modules['__main__']")
        assert body.ask(
            "exec('import __main__; __main__.x = len', {}) or eval('x', vars(sys.modules['__main__']))([1])"
        )


def test_fresh_main_replaces_the_module() -> None:
    before, alias = sys.modules["__main__"], sys.modules["__mp_main__"]
    try:
        made = child.fresh_main()
        assert sys.modules["__main__"] is made is not before
        assert eval("len('abc')", made.__dict__) == 3
    finally:
        sys.modules["__main__"], sys.modules["__mp_main__"] = before, alias
        child._former_mains.clear()


def test_path_folder_and_arguments_travel(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.joinpath("only_here.py").write_text(
        "def target(conn):\n    import os, sys\n    conn.send((os.getcwd(), sys.argv))\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["a", "b"])
    import only_here  # type: ignore[import-not-found]

    ours, theirs = multiprocessing.Pipe()
    with ours, started(method, only_here.target, theirs) as process:
        theirs.close()
        assert process.wait(LIMIT) == 0, read_output(process)
        assert ours.recv() == (str(tmp_path), ["a", "b"])
    del sys.modules["only_here"]


@needs_proc
def test_standard_descriptors_and_crash_messages(method: str) -> None:
    with asked(method) as body:
        links = body.ask("open_links()")
        assert links[0] == "/dev/null"
        assert links[1] == links[2] == os.readlink(f"/proc/self/fd/{body.launch.stderr_fd}")
        assert not os.get_blocking(body.launch.stderr_fd)
        assert not os.get_inheritable(body.launch.stderr_fd)
        body.ask("[os.write(1, b'one '), os.system('echo two'), os.write(2, b'three')]")
        body.conn.send("__import__('faulthandler')._sigsegv()")
        assert body.launch.wait(LIMIT) == -signal.SIGSEGV
        text = read_output(body.launch)
        assert text.startswith("one two\nthree")
        assert "Segmentation fault" in text
        assert "in answer" in text


@needs_proc
def test_second_body_has_nothing_of_the_first(method: str) -> None:
    def own(body: Asked) -> set[str]:
        return {link for link in body.ask("open_links()").values() if link.startswith(("pipe:", "socket:"))}

    with asked(method) as first, asked(method) as second:
        tracker = os.readlink(f"/proc/self/fd/{resource_tracker.getfd()}")
        assert own(first) & own(second) <= {tracker}
        ours = set(open_links().values())
        with asked(method) as third:  # nothing of the head either, but what leads to this body
            new = set(open_links().values()) - ours
            assert own(third) & ours <= {tracker}
            assert own(third) & new


@needs_proc
def test_programs_that_a_body_starts_inherit_nothing(method: str) -> None:
    with asked(method) as body:
        body.ask("os.system('ls -l /proc/self/fd')")
        listed = read_output(body.launch)
        assert "/dev/null" in listed
        tracker = os.readlink(f"/proc/self/fd/{resource_tracker.getfd()}")  # multiprocessing lets it be inherited
        output = os.readlink(f"/proc/self/fd/{body.launch.stderr_fd}")
        assert {word for word in listed.split() if word.startswith(("pipe:", "socket:"))} <= {tracker, output}


def test_body_may_use_multiprocessing_itself(method: str) -> None:
    with asked(method) as body:
        assert body.ask("own_child_sum([1, 2, 3])") == 6
        assert body.ask("multiprocessing.current_process().daemon") is False


def test_queues_travel(method: str) -> None:
    queue = multiprocessing.get_context("spawn").SimpleQueue()
    with started(method, put_sum, queue, [1, 2]) as process:
        assert queue.get() == 3
        assert process.wait(LIMIT) == 0
    queue.close()


# ------------------------------------------------------------------------------------------------------- its end


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        pytest.param("pass", 0, id="return"),
        pytest.param("raise SystemExit(3)", 3, id="sys.exit"),
        pytest.param("import os; os._exit(7)", 7, id="os._exit"),
        pytest.param("1/0", 1, id="error"),
        pytest.param("import os; os.abort()", -signal.SIGABRT, id="abort"),
        pytest.param("import os; os.kill(os.getpid(), 9)", -signal.SIGKILL, id="kill"),
    ],
)
def test_exit_codes(method: str, code: str, expected: int) -> None:
    ours, theirs = multiprocessing.Pipe()
    with ours, theirs, started(method, run, theirs, code) as process:
        assert process.wait(LIMIT) == process.poll() == process.wait(0) == expected
        assert ("ZeroDivisionError" in read_output(process)) == (code == "1/0")
        for act in (process.interrupt, process.terminate, process.kill):
            act()  # of a process that is gone: nothing
        with pytest.raises(ProcessLookupError):
            os.kill(process.pid, 0)  # no zombie
    assert process.poll() == expected
    process.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_terminate_and_kill(method: str, number: signal.Signals) -> None:
    with asked(method) as body:
        body.ask("0")
        {signal.SIGTERM: body.launch.terminate, signal.SIGKILL: body.launch.kill}[number]()
        assert body.launch.wait(LIMIT) == -number


def test_interrupt_raises_in_the_body_alone(method: str) -> None:
    with asked(method) as body:
        body.conn.send("interrupted_nap(conn)")
        assert body.hear() == "napping"
        assert body.launch.wait(0.01) is None
        body.launch.interrupt()
        assert body.hear() == "interrupted"
        assert body.launch.poll() is None


def test_interrupt_while_booting_is_dropped(method: str) -> None:
    ours, theirs = multiprocessing.Pipe()
    with ours, theirs, started(method, send_back, theirs, LoadsSlowly(theirs)) as process:
        assert ours.poll(LIMIT)
        assert ours.recv() == "booting"
        process.interrupt()
        ours.send("go on")
        assert ours.poll(LIMIT)
        assert ours.recv() == "go on"
        assert process.wait(LIMIT) == 0, read_output(process)


@needs_proc
def test_fork_server_that_comes_first_has_interrupts_blocked_too() -> None:
    code = PREAMBLE + textwrap.dedent("""
        body = Asked("forkserver")  # no resource tracker has been started before
        with open(f"/proc/{helpers.server_ids(helpers._server)[0]}/status") as file:
            blocked = next(int(line.split()[1], 16) for line in file if line.startswith("SigBlk"))
        print(bool(blocked & 1 << signal.SIGINT - 1))
        body.launch.close()
        """)
    with head(code) as process:
        assert finish(process) == "True\n"


@needs_pidfd
def test_forked_grandchild_does_not_hide_the_death(method: str) -> None:
    with asked(method) as body:
        assert body.launch.death_fd is not None
        grandchild = body.ask("os.fork() or signal.pause()")
        watch = os.pidfd_open(grandchild)
        try:
            assert not readable(body.launch.death_fd, 0)
            body.launch.kill()
            assert readable(body.launch.death_fd, LIMIT)
            assert body.launch.wait(LIMIT) == -signal.SIGKILL
            assert not body.conn.poll(0)  # the pipe knows nothing of it: the grandchild has it open
            assert not readable(watch, 0)
        finally:
            signal.pidfd_send_signal(watch, signal.SIGKILL)
            assert readable(watch, LIMIT)
            os.close(watch)


def test_wait_in_a_thread_ends_with_close(method: str) -> None:
    codes: list[int | None] = []
    with asked(method) as body:
        body.ask("0")
        waiter = threading.Thread(target=lambda: codes.append(body.launch.wait(LIMIT)))
        waiter.start()
        body.launch.close()
        waiter.join(LIMIT)
    assert codes == [-signal.SIGKILL]
    assert repr(body.launch) == f"<Launch 'body' pid={body.launch.pid} ended with -9>"


def test_exit_code_taken_by_somebody_else_is_unknown() -> None:
    with asked("spawn") as body:
        body.launch.kill()
        os.waitpid(body.launch.pid, 0)
        assert body.launch.wait(LIMIT) == UNKNOWN_EXIT
        body.launch.kill()


def test_body_outlives_its_fork_server() -> None:
    with asked("forkserver") as body:
        body.ask("0")
        helpers.stop_fork_server()
        assert body.ask("6 * 7") == 42
        if body.launch.death_fd is not None:
            assert body.launch.poll() is None
            body.launch.kill()
        assert body.launch.wait(LIMIT) == UNKNOWN_EXIT
        with asked("forkserver") as other:
            assert other.ask("6 * 7") == 42


def test_system_without_pidfd_and_prctl(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "pidfd_open", raising=False)
    with asked(method) as body:
        assert body.launch.death_fd is None
        body.ask("0")
        assert not readable(body.launch.sentinel, 0)
        assert body.launch.wait(0.01) is None
        body.launch.kill()
        assert readable(body.launch.sentinel, LIMIT)
        assert body.launch.wait(LIMIT) == -signal.SIGKILL


# ------------------------------------------------------------------------------------------------ starts that fail


def test_target_that_cannot_be_imported_shows_in_code_and_output(method: str) -> None:
    module = types.ModuleType("epyrpc_known_here_only")
    exec("def target(): pass", module.__dict__)
    sys.modules[module.__name__] = module
    try:
        with started(method, module.target) as process:
            assert process.wait(LIMIT) == 1
            assert "No module named 'epyrpc_known_here_only'" in read_output(process)
    finally:
        del sys.modules[module.__name__]


def test_bad_arguments_are_refused_and_the_ends_closed(method: str) -> None:
    for target, arguments, start_method, error in (
        (answer, (), "fork", ValueError),
        (types.FunctionType(answer.__code__, {"__name__": "__main__"}), (), method, ValueError),
        (answer, (lambda: None,), method, (pickle.PicklingError, AttributeError)),
    ):
        ours, theirs = multiprocessing.Pipe()
        with ours, pytest.raises(error):
            launch("body", target, arguments, start_method=start_method, close_after_start=[theirs])
        assert theirs.closed


def test_dropped_launch_warns_and_ends_the_process(method: str) -> None:
    body = Asked(method)
    body.ask("0")
    pid = body.launch.pid
    with pytest.warns(ResourceWarning, match=rf"'body' \(pid {pid}\) was not closed"):
        del body.launch
    with pytest.raises(EOFError):
        body.conn.recv()
    body.conn.close()


# ------------------------------------------------------------------------------------------- the head and its threads


def test_one_launcher_thread_serves_all_and_outlives_them(method: str) -> None:
    bodies: list[Asked] = []
    threads = [threading.Thread(target=lambda: bodies.append(Asked(method))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT)
    try:
        # The threads that asked for them are gone; the bodies are not.
        assert [body.ask("os.getpid()") for body in bodies] == [body.launch.pid for body in bodies]
        assert len(bodies) == 6
        assert [thread.name for thread in threading.enumerate()].count("epyrpc-launcher") == 1
    finally:
        for body in bodies:
            body.launch.close()
            body.conn.close()


@needs_proc
def test_nothing_is_left_in_the_head_after_close(method: str) -> None:
    with asked(method) as warm:  # the resource tracker's and the fork server's descriptors stay
        warm.ask("0")
    before = open_links()
    for _ in range(3):
        with asked(method) as body:
            body.ask("0")
    assert open_links() == before


def test_multiprocessing_of_the_user_is_not_touched(method: str) -> None:
    patched = vars(multiprocessing.util)["spawnv_passfds"]
    with asked(method) as body:
        assert vars(multiprocessing.util)["spawnv_passfds"] is patched
        assert multiprocessing.active_children() == []
        queue = multiprocessing.get_context("spawn").SimpleQueue()
        child = multiprocessing.get_context("spawn").Process(target=put_sum, args=(queue, [4, 5]))
        child.start()
        assert queue.get() == 9
        assert body.ask("os.getpgid(0)") != os.getpgid(0) == os.getpgid(child.pid or 0)
        child.join()
        child.close()
        queue.close()


def test_user_may_still_choose_a_start_method(method: str, tmp_path: Path) -> None:
    tmp_path.joinpath("job.py").write_text(
        PREAMBLE
        + textwrap.dedent(f"""
            def double(x):
                return 2 * x

            if __name__ == "__main__":
                body = Asked({method!r})
                multiprocessing.set_start_method("spawn")
                with multiprocessing.Pool(1) as pool:
                    print(pool.map(double, [1, 2]), body.ask("os.getpid()") == body.launch.pid)
                    pool.close()
                    pool.join()
                body.launch.close()
            """)
    )
    with head("", str(tmp_path / "job.py")) as process:
        assert finish(process) == "[2, 4] True\n"


GUARDLESS = (
    PREAMBLE
    + """
print("main runs as", __name__)
for method in spawn.START_METHODS:
    body = Asked(method)
    print(body.ask("2 + 2"))
    body.launch.close()
"""
)


@pytest.mark.parametrize("way", ["script", "stdin", "-c", "-m", "interactive"])
def test_no_guard_is_needed(way: str, tmp_path: Path) -> None:
    package = tmp_path / "package"
    package.mkdir()
    for name in ("__init__.py", "module.py"):
        package.joinpath(name).write_text(GUARDLESS if name == "module.py" else "")
    options = {
        "script": ("-W", "error", str(package / "module.py")),
        "stdin": ("-W", "error", "-"),
        "-c": ("-W", "error", "-c", GUARDLESS),
        "-m": ("-W", "error", "-m", "package.module"),
        "interactive": ("-q", "-i", "-c", "import sys; sys.ps1 = sys.ps2 = ''"),
    }[way]
    words = {"stdin": GUARDLESS, "interactive": f"exec({GUARDLESS!r})\n"}
    with head("", *options, cwd=tmp_path) as process:
        out, err = process.communicate(words.get(way, ""), timeout=LIMIT)
    assert (process.returncode, out) == (0, "main runs as __main__\n4\n4\n"), err
    assert err.strip() == ""


def test_ctrl_c_of_the_head_does_not_reach_bodies_and_helpers() -> None:
    code = PREAMBLE + textwrap.dedent("""
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in a notebook's kernel between cells
        bodies = [Asked(method) for method in spawn.START_METHODS]
        assert len(helpers.helper_pids()) == 2
        for pid in helpers.helper_pids():
            assert os.getsid(pid) == pid
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for body in bodies:
            body.conn.send("interrupted_nap(conn)")
            assert body.hear() == "napping"
        try:
            print("ready", flush=True)
            sys.stdin.readline()
        except KeyboardInterrupt:
            print("head interrupted", flush=True)
        for body in bodies:
            assert not body.conn.poll(0.05)
            body.launch.interrupt()
            print(body.hear())
            body.launch.close()
        """)
    with head(code) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        os.killpg(process.pid, signal.SIGINT)
        assert finish(process) == "head interrupted\ninterrupted\ninterrupted\n"


@needs_pidfd
@pytest.mark.parametrize("end", ["kill", "os._exit", "return", "error"])
@pytest.mark.parametrize("busy", [pytest.param(True, id="computing"), pytest.param(False, id="idle")])
def test_death_of_the_head_ends_bodies_and_helpers(end: str, busy: bool) -> None:
    code = PREAMBLE + textwrap.dedent(f"""
        bodies = []
        work = {"while True: pass" if busy else "conn.recv()"!r}
        for method in spawn.START_METHODS:
            ours, theirs = multiprocessing.Pipe()
            body = spawn.launch("body", run, (theirs, work), start_method=method, close_after_start=[theirs])
            bodies.append((ours, body))
            assert ours.recv() == body.pid
        forked = 0
        if {end!r} == "kill" and (forked := os.fork()) == 0:
            while True:
                signal.pause()  # holding the head's end of every pipe
        server = helpers.server_ids(helpers._server)[0]
        print(*[body.pid for _, body in bodies], server, *(helpers.helper_pids() - {{server}}), forked, flush=True)
        sys.stdin.readline()
        if {end!r} == "os._exit":
            os._exit(5)
        if {end!r} == "error":
            1 / 0
        """)
    with head("", "-c", code) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        *pids, forked = map(int, process.stdout.readline().split())
        watches = [os.pidfd_open(pid) for pid in pids]
        *prompt, tracker = watches  # the bodies and the fork server; the resource tracker, which waits for all others
        try:
            assert len(watches) == 4
            assert not any(readable(watch, 0) for watch in watches)
            if end == "kill":
                process.kill()
            else:
                process.stdin.write("\n")
                process.stdin.flush()
            assert process.wait(LIMIT) == {"kill": -9, "os._exit": 5, "return": 0, "error": 1}[end]
            ended = time.monotonic()
            assert all(readable(watch, LIMIT) for watch in prompt)
            assert time.monotonic() - ended < 1
        finally:
            if forked:
                os.kill(forked, signal.SIGKILL)
            assert readable(tracker, LIMIT)
            for watch in watches:
                os.close(watch)


def test_forked_child_of_the_head_starts_bodies_of_its_own(method: str) -> None:
    code = PREAMBLE + textwrap.dedent(f"""
        body = Asked({method!r})
        body.ask("0")
        pid = os.fork()
        if pid == 0:
            body.launch.close()  # closes our copies; the body is the parent's
            own = Asked({method!r})
            assert own.ask("multiprocessing.parent_process().pid") == os.getpid()
            own.launch.close()
            os._exit(11)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 11
        print(body.ask("'alive'"), body.launch.poll())
        body.launch.close()
        """)
    with head("", "-c", code) as process:  # without -W error: newer Pythons warn of a fork beside threads
        out, err = process.communicate(timeout=LIMIT)
    assert (process.returncode, out) == (0, "alive None\n"), err


def test_head_that_forgets_its_bodies_exits_at_once(method: str) -> None:
    code = PREAMBLE + textwrap.dedent(f"""
        bodies = [Asked({method!r}) for _ in range(2)]
        print(*[body.ask("os.getpid()") == body.launch.pid for body in bodies])
        """)
    with head(code) as process:
        assert finish(process) == "True True\n"


def test_python_without_the_private_hook_still_starts_bodies(monkeypatch: pytest.MonkeyPatch) -> None:
    original = vars(multiprocessing.util)["spawnv_passfds"]
    monkeypatch.delattr(multiprocessing.util, "spawnv_passfds")
    with helpers._helpers_in_own_session():
        assert "spawnv_passfds" not in vars(multiprocessing.util)
    monkeypatch.undo()
    with helpers._helpers_in_own_session():
        assert vars(multiprocessing.util)["spawnv_passfds"] is not original
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    assert vars(multiprocessing.util)["spawnv_passfds"] is original
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # it blocks it on its own thread, here the test's


def test_ctrl_c_during_a_start_waits_for_its_end_and_undoes_it() -> None:
    handled, closed = threading.Event(), threading.Event()

    def on_interrupt(*_: object) -> None:
        if not handled.is_set():
            handled.set()
            raise KeyboardInterrupt

    class Result:
        close = staticmethod(closed.set)

    def start() -> Any:
        while not handled.wait(0.1):  # Python may miss one that comes just before it starts to wait for a lock
            os.kill(os.getpid(), signal.SIGINT)
        return Result

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            spawn._get_launcher().run(start)
    finally:
        signal.signal(signal.SIGINT, before)
    assert closed.is_set()


def test_interrupts_reach_a_body_whose_head_ignores_or_blocks_them(method: str) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        with asked(method) as body:
            assert body.ask("signal.getsignal(signal.SIGINT) is signal.default_int_handler")
            assert body.ask("signal.pthread_sigmask(signal.SIG_BLOCK, ())") == set()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process that does not let Python run")
def test_death_of_the_head_ends_a_spawned_body_that_keeps_the_gil() -> None:
    code = PREAMBLE + textwrap.dedent(f"""
        ours, theirs = multiprocessing.Pipe()
        work = "import ctypes; ctypes.PyDLL(None).sleep({LIMIT})"
        body = spawn.launch("body", run, (theirs, work))
        print(ours.recv(), flush=True)
        sys.stdin.readline()
        """)
    with head("", "-c", code) as process:
        assert process.stdout is not None
        watch = os.pidfd_open(int(process.stdout.readline()))
        process.kill()
        assert process.wait(LIMIT) == -signal.SIGKILL
        ended = time.monotonic()
        assert readable(watch, LIMIT)
        assert time.monotonic() - ended < 1
        os.close(watch)
