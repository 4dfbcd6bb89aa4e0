"""``%body`` and ``%%body``: bodies from a notebook, and cells that run in them."""

from __future__ import annotations

import builtins
import sys
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any

from IPython.core.error import UsageError
from IPython.core.magic import Magics, line_cell_magic, magics_class, no_var_expand
from IPython.display import display

from epyrpc.bodies.body import Body
from epyrpc.bodies.pool import Pool, pools
from epyrpc.bodies.registry import bodies, spawn
from epyrpc.codec import by_value
from epyrpc.errors import ApiParamError, CodecError, EpyrpcError
from epyrpc.jupyter import cells, completion, diagnosis, inspecting, output, patience, tracebacks, watching
from epyrpc.jupyter import display as looks
from epyrpc.jupyter.commands import CELL, USAGE, VERBS, CommandError, find_verb, nearest, read, split, unknown_body
from epyrpc.jupyter.groups import run_on_each, wait_for_each
from epyrpc.results import CallState

if TYPE_CHECKING:
    from concurrent.futures import Future

    from epyrpc.jupyter.commands import Words
    from epyrpc.results import AsyncResult

KILLED_SECONDS = 15.0  # how long an interrupted cell waits for its body to be killed and started again


@magics_class
class BodyMagics(Magics):
    """The magics ``%body`` and ``%%body``."""

    shell: Any

    @no_var_expand
    @line_cell_magic
    def body(self, line: str, cell: str | None = None) -> None:
        """Start, list, stop and use bodies; on top of a cell, run the cell in a body.

        %body spawn NAME, then %body list|stop|restart|interrupt|push|pull|debug|log|why|reload|scale, each with --help.
        %%body NAME runs a cell in a body; [--timeout S] [--kill] [--async] [--out VAR] [--push x,y] [--pull z]
        [--progress-after S].
        """
        try:
            words = split(line)
            if "--help" in words or "-h" in words or words[:1] == ["help"]:
                self._help(words, cell is not None)
            elif cell is None:
                self._do(words)
            else:
                self._run(words, cell)
        except CommandError as exc:
            raise UsageError(str(exc)) from None
        except (ApiParamError, CodecError) as exc:
            if tracebacks.is_drawn(exc):
                raise  # the cell's own
            raise UsageError(" ".join(str(exc).split())) from None
        except EpyrpcError as exc:
            raise tracebacks.draw_as_message(exc) from None

    @staticmethod
    def _help(words: list[str], is_cell: bool) -> None:
        words = [word for word in words if word != "help"] or words
        if is_cell:
            print(f"{CELL.usage}   {CELL.help}")  # noqa: T201 - it is what was asked for
        elif words[0] in VERBS:
            print(f"{VERBS[words[0]].usage}   {VERBS[words[0]].help}")  # noqa: T201
        else:
            print(USAGE)  # noqa: T201

    # --- %body

    def _do(self, words: list[str]) -> None:
        """Do what a line says; alone, it lists."""
        verb, *rest = words or ["list"]
        command = find_verb(verb, sorted([*bodies(), *pools()]))
        getattr(self, f"_{verb}")(read(command, rest))

    def _spawn(self, words: Words) -> None:
        name = words.plain[0]
        for module in words.get("--by-value", ()):
            by_value(module)
        count = words.get("--processes")
        if count is not None or (name in pools() and name not in bodies()):
            shown: Any = self._spawn_pool(name, count, words)
        else:
            shown = self._spawn_one(name, words)
        self._say_hidden(name)
        self.shell.push({name: shown})
        _show(shown)

    def _say_hidden(self, name: str) -> None:
        """Say what the variable that is to hold a body has been until now."""
        held = self.shell.user_ns.get(name)
        if held is not None and not isinstance(held, (Body, Pool)):
            _say(f"the variable {name} held a {type(held).__name__}; it is the body from now on")
        elif held is None and hasattr(builtins, name):
            _say(f"the variable {name} hides Python's own {name} in this notebook; del {name} brings it back")

    def _spawn_one(self, name: str, words: Words) -> Body:
        """Return the body of that name: the one there is, that one started again, or a new one."""
        body = self._known(name)
        workers, method = words.get("--workers"), words.get("--start-method")
        if body is None or (not body.alive and not words.get("--restart")):
            if body is not None:
                self._say_replaced(body)
                body.stop(0)
            return spawn(name, workers=workers or 4, start_method=method or "spawn")
        if not words.get("--restart"):
            _say(f"{name} lives already and is kept; --restart starts it again, and its variables are lost then")
            return body
        body.workers = workers or body.workers
        body.start_method = method or body.start_method
        return self._start_again(body)

    @staticmethod
    def _spawn_pool(name: str, count: int | None, words: Words) -> Pool:
        """Return the pool of that name: the one there is, or a new one."""
        if words.get("--workers") is not None:
            raise CommandError(
                "%body spawn: the bodies of a pool run one task at a time, so --workers has no place here"
            )
        method = words.get("--start-method") or "forkserver"
        if method == "thread":
            raise CommandError("%body spawn: the bodies of a pool are processes; leave out --start-method thread")
        pool = pools().get(name)
        if pool is not None and words.get("--restart"):
            pool.restart()
            return pool
        if pool is not None:
            size = pool.processes
            _say(f"{name} lives already, {size} bodies, and is kept; %body scale {name} N changes their number")
            return pool
        pool = Pool(count, name=name, start_method=method)
        pool.each._bodies()  # waits until all of them are there
        return pool

    @staticmethod
    def _say_replaced(body: Body) -> None:
        count = len(body._handlers)
        if count and str(body.state) == "died":
            handlers = f"{count} handler{'s' if count > 1 else ''}"
            _say(f"{body.name} had died; this is a new one. --restart would have brought back its {handlers} too")

    @staticmethod
    def _start_again(body: Body) -> Body:
        body.restart()
        count = len(body._handlers)
        handlers = f" with its {count} handler{'s' if count > 1 else ''}" if count else ""
        _say(f"{body.name} was started again{handlers}; its variables are new")
        return body

    def _list(self, words: Words) -> None:
        _show(looks.BodyList([body for _, body in sorted(bodies().items())]))

    def _scale(self, words: Words) -> None:
        name, *rest = words.plain
        pool = pools().get(name)
        if pool is None:
            raise CommandError(f"%body scale: {name} is no pool; %body spawn {name} --processes N starts one")
        if len(rest) > 1 or not rest[0].isdigit() or not int(rest[0]):
            raise CommandError(f"%body scale: {' '.join(rest)!r} must be one whole number, 1 or more")
        pool.scale(int(rest[0]))
        pool.each._bodies()
        _show(pool)

    def _stop(self, words: Words) -> None:
        living = pools()
        wanted = list(living) if words.get("--all") else [name for name in words.plain if name in living]
        for name in wanted:
            living[name].stop()
            _say(f"{name} is stopped")
        names = [name for name in words.plain if name not in wanted]
        chosen = list(bodies().values()) if words.get("--all") else self._chosen(names)
        for body in chosen:
            body.stop()
            _say(f"{body.name} is stopped")
        if not chosen and not wanted:
            _say("there is no body to be stopped")

    def _restart(self, words: Words) -> None:
        for name in words.plain:
            if name in pools():
                pools()[name].restart()
                _show(pools()[name])
                continue
            body = self._one(name)
            self._start_again(body)
            _show(body)

    def _interrupt(self, words: Words) -> None:
        for body in self._chosen(words.plain):
            count = body.interrupt()
            _say(
                f"{body.name}: {count} call{'s' if count > 1 else ''} interrupted"
                if count
                else f"{body.name} runs nothing now"
            )

    def _push(self, words: Words) -> None:
        name, *variables = words.plain
        values = self._values(variables)
        for body in self._chosen([name]):
            body.push(**values)

    def _pull(self, words: Words) -> None:
        name, *variables = words.plain
        self._pull_from(self._one(name), variables)

    def _log(self, words: Words) -> None:
        for body in self._chosen(words.plain):
            text = body.log() or f"{body.name} has written nothing outside of calls"
            print(text, end="" if text.endswith("\n") else "\n")  # noqa: T201 - it is what was asked for

    def _debug(self, words: Words) -> None:
        self._one(words.plain[0]).debug()

    def _reload(self, words: Words) -> None:
        name, *modules = words.plain
        for body in self._chosen([name]):
            _say(diagnosis.reload(body, modules))

    def _why(self, words: Words) -> None:
        _show(diagnosis.why(self._chosen(words.plain)))

    # --- %%body

    def _run(self, line: list[str], source: str) -> None:
        words = read(CELL, line)
        pool = pools().get(words.plain[0])
        if pool is not None:
            self._run_on_pool(pool, words, source)
            return
        body = self._one(words.plain[0])
        if body.start_method == "thread":
            raise cells.refuse_thread(body.name)
        out = _checked_out(words)
        if words.get("--push"):
            body.push(**self._values(words.get("--push")))
        kill = words.get("--kill", False)
        result = self._submit(body, source, words.get("--timeout"), kill)
        if out is not None:
            self.shell.push({out: result})
        if words.get("--async"):
            result.add_done_callback(_show_failure)
            return
        result.progress_after = words.get("--progress-after")
        self._wait(body, result, kill)
        if words.get("--pull"):
            self._pull_from(body, words.get("--pull"))

    def _run_on_pool(self, pool: Pool, words: Words, source: str) -> None:
        """Run a cell on every body of a pool."""
        out = _checked_out(words)
        if words.get("--push"):
            pool.each.push(**self._values(words.get("--push")))
        number = cells.current_number(self.shell)
        members = pool.each._bodies()
        calls, group = run_on_each(members, cells.Cell(source, number), f"In[{number}]", words.get("--timeout"))
        if out is not None:
            self.shell.push({out: calls})
        if words.get("--async"):
            return
        try:
            wait_for_each(calls, group, pool.name)
        except KeyboardInterrupt as exc:
            text = f"the cell was stopped; the bodies of {pool.name} and their variables live on"
            raise tracebacks.draw_as_message(KeyboardInterrupt(text)) from exc
        for name in words.get("--pull") or ():
            self.shell.push({name: {body.name: body.pull(name) for body in members}})

    def _submit(self, body: Body, source: str, timeout: float | None, kill: bool) -> AsyncResult:
        number = cells.current_number(self.shell)
        verb = body.submit(timeout=timeout, on_timeout="kill" if kill else "cancel")
        result: AsyncResult = verb(cells.run_cell, cells.Cell(source, number))
        result.path = f"In[{number}]"
        return result

    @staticmethod
    def _wait(body: Body, result: AsyncResult, kill: bool) -> None:
        """Wait for a cell; raises what it raised, drawn as in the body.

        With `kill`, an interrupt kills the body if the cell does not stop.
        """
        patience = KILLED_SECONDS if kill else tracebacks.STOPPED_SECONDS
        try:
            result.result()
        except KeyboardInterrupt as exc:
            if result.state is not CallState.CANCELLED:
                raise  # of the body: its handlers were interrupted, not this notebook
            if kill:
                body._kill_for(result)
            how = tracebacks.how_stopped(result, "the cell", patience)
            raise tracebacks.draw_as_message(KeyboardInterrupt(how)) from exc
        except (SyntaxError, SystemExit) as exc:
            raise _shown_as_itself(body, exc) from None
        except (EpyrpcError, CancelledError) as exc:
            text = ""
            if result.state is CallState.TIMED_OUT:
                how = tracebacks.how_stopped(result, "the cell", patience)
                text = f"not done within the {result.deadline:g} s of --timeout; {how}"
            raise tracebacks.draw_as_message(exc, text) from None

    # --- names

    def _known(self, name: str) -> Body | None:
        """Return the body of a name: one that has not been stopped, else the one that the variable still holds."""
        body = bodies().get(name)
        if body is None:
            value = self.shell.user_ns.get(name)
            body = value if isinstance(value, Body) and value.name == name else None
        return body

    def _chosen(self, names: list[str]) -> list[Body]:
        """Return the bodies that were named, those of groups among them.

        Raises
        ------
        CommandError
            There is none of a name.
        """
        found: list[Body] = []
        for name in names:
            body = self._known(name)
            if body is not None:
                found.append(body)
            elif name in pools():
                found += pools()[name]
            else:
                raise unknown_body(name, sorted([*bodies(), *pools()]))
        return found

    def _one(self, name: str) -> Body:
        chosen = self._chosen([name])
        if len(chosen) > 1:
            raise CommandError(f"{name} is {len(chosen)} bodies; name one of them: {', '.join(b.name for b in chosen)}")
        return chosen[0]

    def _values(self, names: list[str]) -> dict[str, Any]:
        """Return variables of the notebook."""
        namespace = self.shell.user_ns
        for name in names:
            if name not in namespace:
                hidden = self.shell.user_ns_hidden
                near = nearest(name, [n for n in namespace if not n.startswith("_") and n not in hidden])
                hint = f"; did you mean {near}?" if near else ""
                raise CommandError(f"the notebook has no variable {name!r}{hint}")
        return {name: namespace[name] for name in names}

    def _pull_from(self, body: Body, names: list[str]) -> None:
        values = body.pull(*names)
        self.shell.push(dict(zip(names, values if len(names) > 1 else (values,), strict=True)))


def _show(thing: object) -> None:
    display(thing)  # type: ignore[no-untyped-call]


def _say(text: str) -> None:
    print(text)  # noqa: T201 - a magic talks to the person who typed it


def _checked_out(words: Words) -> str | None:
    """Return the name of the variable that takes the call, if there is one; refuse what makes no sense together."""
    if words.get("--async") and words.get("--pull"):
        raise CommandError(
            f"%%body: --async does not wait, so there is nothing to --pull yet; %body pull {words.plain[0]} later"
        )
    out: str | None = words.get("--out")
    if out is not None and not out.isidentifier():
        raise CommandError(f"%%body: --out is {out!r}, but must be a variable's name")
    return out


def _shown_as_itself(body: Body, exc: BaseException) -> Exception:
    """Return an error that IPython shows as one of that name.

    Of a real SyntaxError it would list our own frames as well, and of a SystemExit it would explain how to leave.
    """
    shown: Any = type(type(exc).__name__, (Exception,), {})(str(exc))
    if isinstance(exc, SystemExit):
        shown._render_traceback_ = tracebacks.Message(type(shown)(f"{exc}; {body.name} lives on"))
    else:
        shown._render_traceback_ = vars(exc).get("_render_traceback_") or tracebacks.Message(exc)
    return shown  # type: ignore[no-any-return]


def _show_failure(result: Future[Any]) -> None:
    """Write under its own cell why a cell that nobody waits for has failed."""
    if result.cancelled():
        return
    exc = result.exception()
    sink = getattr(result, "_sink", None)
    if exc is None or sink is None:
        return
    draw = vars(exc).get("_render_traceback_") or tracebacks.Message(exc)
    sink("stderr", "\n".join(draw()) + "\n")


def load_ipython_extension(ip: Any) -> None:
    """Add the magics, their completion, and what sends output to its cell; again, does nothing."""
    if getattr(ip, "_epyrpc", None) is not None:
        return
    magics = BodyMagics(ip)
    matcher = completion.make_matcher(ip)
    ip.register_magics(magics)
    ip.user_ns.setdefault("epyrpc", sys.modules["epyrpc"])  # for epyrpc.track, epyrpc.explain, epyrpc.Pool
    ip.Completer.custom_matchers.append(matcher)
    looks.register(ip)
    tracebacks.install()
    diagnosis.name_cells(ip)
    output.install(ip)
    patient = patience.Patience(ip) if hasattr(ip, "kernel") and hasattr(ip, "get_parent") else None
    if patient is not None:
        patient.install()
    inspector = inspecting.Inspecting(ip.kernel) if hasattr(ip, "kernel") else None
    if inspector is not None:
        inspector.install()
    ip._epyrpc = (magics, matcher, patient, watching.load(ip), inspector)


def unload_ipython_extension(ip: Any) -> None:
    """Undo `load_ipython_extension`; bodies live on, and so do the variables that hold them."""
    loaded = getattr(ip, "_epyrpc", None)
    if loaded is None:
        return
    ip._epyrpc = None
    for kind in ("line", "cell"):
        ip.magics_manager.magics[kind].pop("body", None)
    ip.magics_manager.registry.pop(BodyMagics.__name__, None)
    ip.Completer.custom_matchers.remove(loaded[1])
    if loaded[2] is not None:
        loaded[2].uninstall()
    watching.unload(ip, loaded[3])
    if loaded[4] is not None:
        loaded[4].uninstall()
    looks.unregister(ip)
    tracebacks.uninstall()
    diagnosis.forget_cells()
    output.uninstall()


__all__ = ["BodyMagics", "load_ipython_extension", "unload_ipython_extension"]
