"""The leak guard: a test that leaves a thread, process, descriptor or shared-memory block behind fails.

Before each test the guard writes down what this process holds, and compares when the test and its fixtures are done.
What is new gets a moment to end (`GRACE`), since ends of things are seen late: a daemon thread returns a little after
its queue was closed. A test that has failed already is not looked at: its traceback keeps its objects alive.

How a process is recognised as ours, even one whose parent is gone (a body whose head was killed): it descends from this
process, or its environment carries `RUN_VARIABLE` with this run's word, which every child inherits. Whatever is left is
ended after it was named, so that one bad test does not spoil the next; what is left over at the very end of the run
fails the run.

Allowed to appear and to stay: one living thread for each name's beginning in `SINGLETON_THREADS`, with a few
descriptors of its own, and the standard library's resource tracker and forkserver, with the descriptors that lead
to them.
"""

from __future__ import annotations

import gc
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

GRACE = 2.0  # seconds
RUN_VARIABLE = "EPYRPC_TEST_RUN"
SINGLETON_THREADS = ("epyrpc-launcher", "epyrpc-supervisor")
# What one singleton may hold of pipes, sockets and anonymous inodes (epoll, pidfd, eventfd).
SINGLETON_DESCRIPTORS = 16

_PROC = Path("/proc/self/stat").exists()
_FD_FOLDER = "/proc/self/fd" if _PROC else "/dev/fd"
_SHM_FOLDER = "/dev/shm"


@dataclass(frozen=True)
class Process:
    """A process of ours, told apart from a later one with the same pid by its start time."""

    pid: int
    started: str
    command: str = field(compare=False)

    def __str__(self) -> str:
        return f"process {self.pid}: {self.command}"


@dataclass
class Holdings:
    """What this process holds at one moment."""

    threads: dict[int, threading.Thread]  # {ident: thread}
    descriptors: dict[int, str]  # {fd: target}
    processes: set[Process]
    shared_memory: set[str]
    pids: frozenset[str] = frozenset()  # everything in /proc then; what is in it is not ours to look at again

    @classmethod
    def now(cls, before: Holdings | None = None) -> Holdings:
        """Look; with `before`, only at processes that were not there then."""
        processes, pids = _processes(before)
        return cls(_threads(), _descriptors(), processes, _shared_memory(), pids)


@dataclass
class Leaks:
    """What is there now and was not before, less what is allowed."""

    threads: list[threading.Thread]
    descriptors: dict[int, str]
    processes: list[Process]
    shared_memory: list[str]

    def __bool__(self) -> bool:
        return bool(self.threads or self.descriptors or self.processes or self.shared_memory)

    def describe(self) -> str:
        """Name everything left behind; of a thread also where it is."""
        frames = sys._current_frames()
        lines = []
        for thread in self.threads:
            lines.append(f"thread {thread.name!r} (daemon={thread.daemon}), now at:")
            frame = frames.get(thread.ident or -1)
            stack = traceback.format_stack(frame) if frame is not None else ["  (just ended)\n"]
            lines.append("".join(stack).rstrip())
        lines += [str(process) for process in self.processes]
        lines += [f"descriptor {fd} -> {target}" for fd, target in sorted(self.descriptors.items())]
        lines += [f"shared memory {_SHM_FOLDER}/{name}" for name in self.shared_memory]
        return "\n".join(lines)


class LeakGuard:
    """The plugin: a fixture around every test and a last look at the end of the run."""

    def __init__(self, grace: float = GRACE) -> None:
        self.grace = grace  # seconds
        self._granted: set[str] = set()  # kinds of singletons whose first descriptors have been let pass
        # A run inside a run (a test of the tests) keeps the outer word, so that the outer guard sees its children too.
        outer = os.environ.get(RUN_VARIABLE, "")
        os.environ[RUN_VARIABLE] = f"{outer}:{os.getpid()}-{time.time_ns()}".lstrip(":")
        self._outer = outer

    @pytest.fixture(autouse=True)
    def leak_guard(self, request: pytest.FixtureRequest) -> Iterator[None]:
        """Fail a test that leaves something behind."""
        exempt = request.node.get_closest_marker("leaves_behind")
        if exempt is not None:
            if not (exempt.args and isinstance(exempt.args[0], str)):
                pytest.fail('say why: @pytest.mark.leaves_behind("the reason")', pytrace=False)
            yield
            return
        before = Holdings.now()
        yield
        if request.node.stash.get(_failed, False):
            _end(self._leaks(before).processes)
            return
        leaks = self.settled(before)
        if leaks:
            message = f"{request.node.nodeid} left behind:\n{leaks.describe()}"
            _end(leaks.processes)
            pytest.fail(message, pytrace=False)

    def settled(self, before: Holdings) -> Leaks:
        """Wait until nothing new is there, at most for the grace; return what still is."""
        leaks = self._leaks(before)
        if not leaks:
            return leaks
        gc.collect()  # what only a reference cycle holds is not leaked, and if it warns as it goes, that is an error
        end, pause = time.monotonic() + self.grace, 0.002
        while (leaks := self._leaks(before)) and time.monotonic() < end:
            time.sleep(pause)
            pause = min(pause * 1.5, 0.05)
        return leaks

    def _leaks(self, before: Holdings) -> Leaks:
        now = Holdings.now(before)
        new = [thread for ident, thread in now.threads.items() if before.threads.get(ident) is not thread]
        old = [thread for thread in before.threads.values() if thread.is_alive()]
        taken = {_kind(thread) for thread in old}
        singletons = {kind: thread for thread in new if (kind := _kind(thread)) and kind not in taken}
        helpers = _stdlib_helpers()
        descriptors = {
            fd: target
            for fd, target in now.descriptors.items()
            if before.descriptors.get(fd) != target and fd not in helpers.descriptors
        }
        if singletons:
            descriptors = self._less_singletons(descriptors, before, now, set(singletons))
        return Leaks(
            [thread for thread in new if thread not in singletons.values()],
            descriptors,
            [process for process in now.processes - before.processes if process.pid not in helpers.pids],
            _not_used_elsewhere(sorted(now.shared_memory - before.shared_memory)),
        )

    def _less_singletons(self, new: dict[int, str], before: Holdings, now: Holdings, kinds: set[str]) -> dict[int, str]:
        """Take a new singleton's descriptors off; one that comes again may hold no more than went with the last."""
        if kinds <= self._granted:
            allowed = sum(now.descriptors.get(fd) != target for fd, target in before.descriptors.items())
        else:
            allowed = SINGLETON_DESCRIPTORS * len(kinds - self._granted)
        anonymous = [fd for fd, target in new.items() if not target.startswith("/")]
        if len(anonymous) > allowed:
            return new
        return {fd: target for fd, target in new.items() if fd not in anonymous}

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self) -> Iterator[None]:
        """Remember, after each test, which singletons exist by now."""
        try:
            yield
        finally:
            self._granted.update(kind for thread in threading.enumerate() if (kind := _kind(thread)))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item) -> Iterator[None]:
        """Tell the fixture whether its test failed."""
        report = yield
        if report.when != "teardown" and report.failed:
            item.stash[_failed] = True
        return report

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail the run when a process of it is still there."""
        word = os.environ.get(RUN_VARIABLE, "")
        if self._outer:
            os.environ[RUN_VARIABLE] = self._outer
        else:
            os.environ.pop(RUN_VARIABLE, None)
        if session.config.pluginmanager.has_plugin("dsession"):  # xdist's workers, still there now, look for themselves
            return
        end = time.monotonic() + self.grace
        while (left := _left_at_end(word)) and time.monotonic() < end:
            time.sleep(0.05)
        if left:
            reporter = session.config.pluginmanager.get_plugin("terminalreporter")
            if reporter is not None:
                reporter.ensure_newline()
                for process in left:
                    reporter.write_line(f"left behind by the run: {process}", red=True)
            _end(left)
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


_failed = pytest.StashKey[bool]()


def _kind(thread: threading.Thread) -> str | None:
    """Return which singleton this thread is, None for any other."""
    return next((kind for kind in SINGLETON_THREADS if thread.name.startswith(kind)), None)


@dataclass
class _Helpers:
    """Pids and descriptors of the long-lived processes: the standard library's, and our fork server."""

    pids: set[int]
    descriptors: set[int]


def _stdlib_helpers() -> _Helpers:
    """Ask the resource tracker and the fork servers, if they are loaded, who they are."""
    found = _Helpers(set(), set())
    for module, instance, names in (
        ("multiprocessing.resource_tracker", "_resource_tracker", ("_pid", "_fd")),
        ("multiprocessing.forkserver", "_forkserver", ("_forkserver_pid", "_forkserver_alive_fd")),
        ("epyrpc.bodies.helpers", "_server", ("_forkserver_pid", "_forkserver_alive_fd")),
    ):
        owner = getattr(sys.modules.get(module), instance, None)
        pid, fd = (getattr(owner, name, None) for name in names)
        if isinstance(pid, int):
            found.pids.add(pid)
        if isinstance(fd, int):
            found.descriptors.add(fd)
    return found


def _threads() -> dict[int, threading.Thread]:
    # The stand-in for a thread that `threading` has not started stays in its list for ever, until 3.13 at least.
    alive = sys._current_frames()
    return {
        t.ident: t
        for t in threading.enumerate()
        if t.ident is not None and not (isinstance(t, threading._DummyThread) and t.ident not in alive)
    }


def _descriptors() -> dict[int, str]:
    found = {}
    for name in os.listdir(_FD_FOLDER):
        try:
            found[int(name)] = os.readlink(f"{_FD_FOLDER}/{name}") if _PROC else "open"
        except OSError:  # the one that listed the folder, closed again
            continue
    return found


def _shared_memory() -> set[str]:
    try:
        return set(os.listdir(_SHM_FOLDER))
    except OSError:  # not every system has the folder
        return set()


def _not_used_elsewhere(names: list[str]) -> list[str]:
    """Leave out what another process has mapped: another run's, or that of a process which is itself a leak."""
    if not names or not _PROC:
        return names
    left = set(names)
    for pid in filter(str.isdigit, os.listdir("/proc")):
        if int(pid) != os.getpid() and left:
            try:
                maps = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8", errors="replace")
            except OSError:  # another user's, or just ended
                continue
            left = {name for name in left if f"{_SHM_FOLDER}/{name}" not in maps}
    return sorted(name for name in left if not _names_another_run(name))


def _names_another_run(name: str) -> bool:
    """Tell whether a name has the pid of a living process that is none of ours, as joblib's and loky's blocks do."""
    word = os.environ.get(RUN_VARIABLE, "").encode()
    pids = {int(digits) for digits in re.findall(r"(?<![0-9a-z])[0-9]{2,7}(?![0-9a-z])", name)}
    return any(psutil.pid_exists(pid) and pid != os.getpid() and not _is_ours(pid, set(), word) for pid in pids)


def _processes(before: Holdings | None) -> tuple[set[Process], frozenset[str]]:
    """Return our processes, and every pid there is; with `before`, of ours only those that are new or were ours."""
    if not _PROC:
        return {_described(child.pid) for child in psutil.Process().children(recursive=True)}, frozenset()
    pids = frozenset(name for name in os.listdir("/proc") if name.isdigit())
    if before is None:  # whatever runs already is not this test's: nothing to read
        return set(), pids
    word = os.environ.get(RUN_VARIABLE, "").encode()
    new = {pid for name in pids - before.pids if (pid := int(name)) != os.getpid()}
    return {_described(pid) for pid in new if _is_ours(pid, new, word)}, pids


def _is_ours(pid: int, new: set[int], word: bytes) -> bool:
    """Tell whether `pid` descends from this process or carries this run's word in its environment."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            if word and word in file.read():
                return True
    except OSError:  # another user's, or just ended; a zombie's is empty: its parent tells
        pass
    parent = _stat(pid)[0]
    return parent == os.getpid() or (parent in new and _is_ours(parent, new, word))


def _stat(pid: int) -> tuple[int, str, str]:
    """Return (parent's pid, state, start time) as Linux tells them; zeros for a process that is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return 0, "", ""
    return int(fields[1]), fields[0].decode(), fields[19].decode()


def _described(pid: int) -> Process:
    try:
        process = psutil.Process(pid)
        with process.oneshot():
            state, started = process.status(), str(process.create_time())
            command = "(zombie)" if state == psutil.STATUS_ZOMBIE else " ".join(process.cmdline())[:300]
    except psutil.Error:
        return Process(pid, "", "(just ended)")
    return Process(pid, started, f"{command or '?'} [{state}]")


def _left_at_end(word: str) -> list[Process]:
    if not _PROC or not word:
        return []
    helpers, found = _stdlib_helpers(), []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid() or int(name) in helpers.pids:
            continue
        try:
            environment = Path(f"/proc/{name}/environ").read_bytes()
        except OSError:  # another user's, or just ended
            continue
        if word.encode() in environment:
            found.append(_described(int(name)))
    return found


def _end(processes: list[Process]) -> None:
    """Kill what a test left, by pid; the test has been or is being failed for it."""
    for process in processes:
        try:
            os.kill(process.pid, signal.SIGKILL)
            os.waitpid(process.pid, os.WNOHANG)
        except (ProcessLookupError, ChildProcessError):  # ended meanwhile, or not a direct child: nothing to reap
            continue
