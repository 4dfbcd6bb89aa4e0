"""`Pool`: many bodies behind one `concurrent.futures.Executor`."""

from __future__ import annotations

import _thread
import contextlib
import itertools
import operator
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any

from epyrpc import codec
from epyrpc import results as _results
from epyrpc.bodies import sharing
from epyrpc.bodies.baggage import can_be_inherited
from epyrpc.bodies.body import BodyState
from epyrpc.bodies.pool_engine import Engine, Settings, cancelled_error
from epyrpc.bodies.pool_inside import SeededCall
from epyrpc.bodies.pool_jobs import PoolResult, Task
from epyrpc.bodies.pool_map import MapResults, MapWork, make_results
from epyrpc.bodies.pool_verbs import Each, LeastBusy, Submit, check_task_options
from epyrpc.bodies.sharing import Shared
from epyrpc.bodies.spawn import START_METHODS
from epyrpc.bodies.verbs import Verb
from epyrpc.clock import check_timeout
from epyrpc.errors import ApiParamError, CodecError
from epyrpc.namespaces import check_path, refuse_bare
from epyrpc.tables import table

if TYPE_CHECKING:
    from epyrpc.bodies.body import Body

_numbers = itertools.count(1)
_pools: weakref.WeakValueDictionary[str, Pool] = weakref.WeakValueDictionary()


def pools() -> dict[str, Pool]:
    """Return the pools of this process that take work, by name."""
    return {name: pool for name, pool in sorted(_pools.items()) if pool.alive}


def cpu_count() -> int:
    """Return how many processors this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else os.cpu_count() or 1


class Pool(Executor):
    """Several bodies that share work: an executor, and a group of bodies.

    It keeps the promises of `concurrent.futures.ProcessPoolExecutor`, and goes on when a process dies: only what that
    process was running has failed, with `BodyDied`.

    Parameters
    ----------
    max_workers : int, optional
        How many bodies; by default one for each processor.
    initializer, initargs : callable and tuple, optional
        Called in each body before anything else. If it fails, so does all that is pending, and the pool is broken.
    max_tasks_per_child : int, optional
        After so many tasks or items a process is replaced by a new one.
    name : str, optional
        The bodies are called ``NAME_1``, ``NAME_2`` …
    start_method : {"forkserver", "spawn"}, optional
        How the processes are started; by default the first, which is faster from the second process on.
    mp_context : multiprocessing context, optional
        What executors have for `start_method`. Of *fork*, which copies threads' locks as they stand, the default is
        made.
    idle_timeout : float, optional
        After so many seconds without work a process ends; when there is work, another is started.
    threads : int, optional
        How many threads BLAS, OpenMP and the like may use in each body: by default its share of the processors. The
        user's own setting (``OMP_NUM_THREADS`` …) stays; 0 leaves them alone.

    Raises
    ------
    ValueError
        `max_workers` or another number is not positive; a name is taken.
    TypeError
        The initializer cannot be called.

    Examples
    --------
    >>> with Pool(2) as pool:
    ...     list(pool.map(lambda x: x * x, range(5)))
    [0, 1, 4, 9, 16]
    """

    def __init__(
        self,
        max_workers: int | None = None,
        *,
        initializer: Callable[..., object] | None = None,
        initargs: tuple[Any, ...] = (),
        max_tasks_per_child: int | None = None,
        name: str | None = None,
        start_method: str | None = None,
        mp_context: Any = None,
        idle_timeout: float | None = None,
        threads: int | None = None,
    ) -> None:
        size = cpu_count() if max_workers is None else _check_positive("max_workers", max_workers)
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        if not isinstance(initargs, Iterable):
            raise TypeError(f"initargs must be a tuple, not {initargs!r}")
        if max_tasks_per_child is not None:
            max_tasks_per_child = _check_positive("max_tasks_per_child", max_tasks_per_child)
        if mp_context is not None and not hasattr(mp_context, "get_start_method"):
            raise TypeError(f"mp_context must be a context of multiprocessing, not {mp_context!r}: see get_context()")
        if start_method is None:
            asked = mp_context.get_start_method() if mp_context is not None else ""
            start_method = asked if asked in START_METHODS else "forkserver"
        if start_method not in START_METHODS:
            raise ApiParamError("start_method", start_method, START_METHODS)
        if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 0):
            raise ApiParamError("threads", threads, "a whole number, or 0 to leave numeric libraries alone")
        if is_lock_of_tqdm(initializer):
            initializer, initargs = None, ()
        inherited = initializer is not None and _must_inherit(initializer, initargs)
        share = max(1, cpu_count() // size) if threads is None else threads or None
        settings = Settings(
            initializer=initializer,
            initargs=tuple(initargs),
            max_tasks_per_child=max_tasks_per_child,
            start_method=start_method,
            idle_timeout=check_timeout(idle_timeout, "idle_timeout"),
            threads=share,
            inherited=inherited,
        )
        self._submit_instead: Callable[..., Any] | None = None
        self.name = name or f"pool{next(_numbers)}"
        self._engine = engine = Engine(self.name, size, settings)
        self._finalizer = weakref.finalize(self, _abandon, engine)
        self._finalizer.atexit = False
        least = LeastBusy(engine)
        self.call = Verb(least, "call")
        self.emit = Verb(least, "emit")
        self.stream = Verb(least, "stream")
        self.each = Each(lambda: [member.body for member in engine.wait_for_all()])
        _pools[self.name] = self

    # --- the executor

    @property
    def submit(self) -> Any:  # a method with a few more uses, see Submit
        """Queue ``submit(function, *args, **kwargs)`` and return its `PoolResult`; see `Submit` for its other uses.

        Raises
        ------
        RuntimeError
            The pool was shut down.
        PoolBroken
            The initializer failed.
        """
        return Submit(self) if self._submit_instead is None else self._submit_instead

    @submit.setter
    def submit(self, function: Callable[..., Any]) -> None:
        # tqdm.contrib.concurrent does this, to hear of each task; `map` goes through it from then on.
        self._submit_instead = function

    def _submit(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], options: dict[str, Any]
    ) -> PoolResult:
        engine = self._engine
        engine.check_owner()
        if engine.closing or engine.broken is not None:
            engine.check_open()
        try:
            travelling = engine.encode_function(function)
            with sharing.collected() as shared:
                encoded = codec.encode_call(args, kwargs)
        except Exception as exc:  # what cannot be pickled: the future carries it, as with executors
            failed = PoolResult(getattr(function, "__qualname__", type(function).__qualname__))
            failed.set_running_or_notify_cancel()
            failed.set_exception(exc)
            return failed
        task = Task(engine, travelling, encoded, _results.make_output_sink(), options)
        task.shared = shared
        engine.add_task(task)
        return task.future

    def map(  # type: ignore[override]
        self,
        fn: Callable[..., Any],
        /,
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | None = None,
        buffersize: int | None = None,
        **options: Any,
    ) -> Iterator[Any]:
        """Call ``fn(item)`` for every item, in the bodies; return an iterator over the results, in order.

        Parameters
        ----------
        fn : callable
            Travels once to each body.
        *iterables : iterable
            With several, ``fn`` gets an item of each. They are read here and now, unless `max_in_flight` is given.
        timeout : float, optional
            Seconds from now, after which the iterator raises TimeoutError and what runs is stopped.
        chunksize : int, optional
            How many items travel together; by itself, as many as take about 40 ms.
        buffersize : int, optional
            The standard library's name of `max_in_flight`.
        **options
            ``task_timeout``, seconds for each item, which is stopped after that and has failed with
            `TransactionTimeout`; ``retry``, how often an item runs again whose process died; ``return_exceptions``,
            to get exceptions as results; ``max_in_flight``, how many items may be begun and not taken from the
            iterator, so that the iterable may be endless; ``progress``, to show a bar; ``rng``, True or a seed: `fn`
            also gets ``rng=``, a NumPy generator of its own for each item, whatever body runs it.

        Returns
        -------
        iterator
            Raises what `fn` raised, when that result's turn comes; the exception has ``item`` and ``item_index``.
        """
        chunksize = _check_chunksize(chunksize)
        if self._submit_instead is not None and not options:
            return super().map(fn, *iterables, timeout=timeout)
        if buffersize is not None:
            options.setdefault("max_in_flight", buffersize)
        return self._map(fn, iterables, {"timeout": timeout, "chunksize": chunksize, **options}, True)

    def imap_unordered(
        self,
        fn: Callable[..., Any],
        /,
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int | None = None,
        **options: Any,
    ) -> Iterator[Any]:
        """Do as `map` does, but give each result as soon as it is there."""
        chunksize = _check_chunksize(chunksize)
        return self._map(fn, iterables, {"timeout": timeout, "chunksize": chunksize, **options}, False)

    def starmap(
        self,
        fn: Callable[..., Any],
        /,
        tuples: Iterable[Iterable[Any]],
        *,
        timeout: float | None = None,
        chunksize: int | None = None,
        **options: Any,
    ) -> Iterator[Any]:
        """Do as `map` does with ``fn(*item)`` for every item."""
        chunksize = _check_chunksize(chunksize)
        return self._map(fn, (tuples,), {"timeout": timeout, "chunksize": chunksize, **options}, True, star=True)

    def _map(
        self,
        fn: Callable[..., Any],
        iterables: tuple[Iterable[Any], ...],
        given: dict[str, Any],
        ordered: bool,
        *,
        star: bool = False,
    ) -> MapResults:
        engine = self._engine
        engine.check_owner()
        options = _check_map_options(given)
        if not callable(fn):
            raise TypeError(f"{fn!r} is not callable")
        items: Iterable[Any] = iterables[0] if len(iterables) == 1 else zip(*iterables, strict=False)
        star = star or len(iterables) != 1
        if options["rng"] is not None:
            items, fn, star = enumerate(items), SeededCall(fn, options["rng"], star), True
        with engine.lock:
            engine.check_open()
        function = engine.encode_function(fn, once=True)
        work = MapWork(
            engine, function, items, _results.make_output_sink(), star=star, ordered=ordered, options=options
        )
        try:
            engine.add_map(work)
            return make_results(work, progress=bool(options["progress"]))
        except BaseException:  # an interrupt, most likely: nobody gets its results
            work.cancel()
            raise

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take nothing more, and end the bodies when everything that was submitted is done. May be called again.

        Parameters
        ----------
        wait : bool
            Return when that is so.
        cancel_futures : bool
            Cancel what has not begun.
        """
        self._engine.shutdown(wait=wait, cancel=cancel_futures)

    # --- the bodies

    @property
    def bodies(self) -> tuple[Body, ...]:
        """The bodies of now."""
        with self._engine.lock:
            return tuple(member.body for member in self._engine.members if not member.retired)

    @property
    def processes(self) -> int:
        """How many bodies it has, or may have."""
        return self._engine.size

    _max_workers = processes  # what libraries look at that take an executor

    @property
    def alive(self) -> bool:
        """Whether it takes work."""
        return not self._engine.closing and self._engine.broken is None

    def share(self, value: Any) -> Shared:
        """Put a value where every body can read it: one copy for all, read-only, freed when the last user goes.

        Parameters
        ----------
        value : object
            An array, or anything that holds arrays: a DataFrame, a dict of arrays.

        Returns
        -------
        Shared
            To be passed to tasks, or captured by their functions; in a body it is the value itself.
        """
        self._engine.check_owner()
        return Shared(value)

    def scale(self, max_workers: int) -> None:
        """Have so many bodies from now on; those that are too many end after what they run."""
        size = _check_positive("max_workers", max_workers)
        self._engine.check_owner()
        self._engine.scale(size)

    def restart(self) -> None:
        """End every process and start another in its place, with its handlers; what runs is lost."""
        engine = self._engine
        engine.check_owner()
        with engine.lock:
            engine.check_open()
            members = list(engine.members)
            for member in members:
                member.ready = False
        for member in members:
            member.kill()
        engine.wait_for_all()

    def stop(self, timeout: float = 5.0) -> None:
        """End all bodies; what runs is lost, what has not begun is cancelled. `shutdown` lets it finish."""
        engine = self._engine
        engine.shutdown(wait=False, cancel=True)
        with engine.lock:
            members = list(engine.members)
            batches = [batch for member in members for batch in member.inflight]
        for batch in batches:
            batch.work.cancelled = True
            if batch.call is not None:
                batch.call.cancel()
        for member in members:
            member.kill()
        for member in members:
            if member.thread is not threading.current_thread():  # in a callback: what called it ends after that
                member.thread.join(timeout)
        for batch in batches:
            future = getattr(batch.work, "future", None)
            if future is not None:
                future._cancel_running()
            else:
                batch.work.fail(cancelled_error())

    def set_handler(self, path: str, handler: Callable[..., Any] | None) -> None:
        """Handle `path` in every body, later ones too; see `Body.set_handler`."""
        check_path(path, wildcard=True)
        engine = self._engine
        bodies = [member.body for member in engine.wait_for_all()]
        for body in bodies:
            body.set_handler(path, handler)
        if handler is None:
            engine.handlers.pop(path, None)
        else:
            engine.handlers[path] = handler

    def handler(self, path: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Register the decorated function as every body's handler of `path`."""
        refuse_bare(path, "handler")

        def register(function: Callable[..., Any]) -> Callable[..., Any]:
            self.set_handler(path, function)
            return function

        return register

    def on(self, path: str, handler: Any = object) -> Any:
        """Handle `path`, when a body calls or emits it, here in the head; for every body, later ones too."""
        refuse_bare(path, "on")
        if handler is object:

            def register(function: Callable[..., Any]) -> Callable[..., Any]:
                self.on(path, function)
                return function

            return register
        engine = self._engine
        for member in engine.wait_for_all():
            member.body.on(path, handler)
        if handler is None:
            engine.listeners.pop(path, None)
        else:
            engine.listeners[path] = handler
        return None

    # --- how it looks

    def __len__(self) -> int:
        return len(self.bodies)

    def __iter__(self) -> Iterator[Body]:
        return iter(self.bodies)

    def __getitem__(self, index: int) -> Body:
        return self.bodies[index]

    def __bool__(self) -> bool:
        return True  # also while it has no body

    def _facts(self) -> tuple[str, int, int]:
        engine = self._engine
        with engine.lock:
            state = "broken" if engine.broken is not None else "shut down" if engine.closing else "running"
            busy = sum(bool(member.inflight) for member in engine.members)
            return state, busy, len(engine.tasks)

    def __repr__(self) -> str:
        state, busy, queued = self._facts()
        living = sum(body.state is BodyState.RUNNING for body in self.bodies)
        count = (
            f"{living} of {self.processes} bodies"
            if living != self.processes
            else f"{living} bod{'y' if living == 1 else 'ies'}"
        )
        return f"<Pool {self.name} · {state} · {count}, {busy} busy · {queued} tasks queued>"

    def _repr_html_(self) -> str:
        rows = [(body.name, body.state, f"pid {body.pid}" if body.pid else "", done) for body, done in self._rows()]
        return table(("Body", "State", "Process", "Tasks done"), rows, code=(0,))

    def _rows(self) -> list[tuple[Body, int]]:
        with self._engine.lock:
            return [(member.body, member.done) for member in self._engine.members if not member.retired]

    def __reduce__(self) -> Any:
        raise TypeError(f"pool {self.name!r} cannot travel to another process; make one there")


def _must_inherit(initializer: Callable[..., object], initargs: tuple[Any, ...]) -> bool:
    """Return whether the arguments can only be handed down when a process starts, as locks and queues are.

    Raises
    ------
    CodecError
        They cannot travel at all.
    """
    codec.encode(initializer, what="initializer")  # an error belongs here, not in each body
    try:
        codec.encode(initargs, what="initargs")
    except CodecError:
        if can_be_inherited(initargs):
            return True
        raise
    return False


def is_lock_of_tqdm(initializer: Any) -> bool:
    """Whether an initializer only hands down the lock that tqdm's bars share.

    What bodies print goes through the head, so their bars need no lock; and that one cannot travel.
    """
    owner = getattr(initializer, "__self__", None)
    return getattr(initializer, "__name__", "") == "set_lock" and str(getattr(owner, "__module__", "")).startswith(
        "tqdm"
    )


def _abandon(engine: Engine) -> None:
    """Shut a pool down that nobody refers to; called by the collector, so without taking a lock here."""
    with contextlib.suppress(RuntimeError):  # the interpreter is ending, and sees to it itself
        _thread.start_new_thread(_shut_down_later, (engine,))


def _shut_down_later(engine: Engine) -> None:
    engine.shutdown(wait=False)


def _check_integer(name: str, value: Any) -> int:
    try:
        if not isinstance(value, bool):
            return operator.index(value)  # NumPy's integers, too
    except TypeError:
        pass  # it is none
    raise TypeError(f"{name} must be an integer, not {value!r}")


def _check_positive(name: str, value: Any) -> int:
    number = _check_integer(name, value)
    if number <= 0:
        raise ValueError(f"{name} must be greater than 0")
    return number


def _check_chunksize(chunksize: Any) -> int | None:
    if chunksize is None:
        return None
    size = _check_integer("chunksize", chunksize)
    if size < 1:
        raise ValueError("chunksize must be >= 1.")
    return size


_MAP_OPTIONS: dict[str, Any] = {
    "timeout": None,
    "chunksize": None,
    "task_timeout": None,
    "retry": 0,
    "return_exceptions": False,
    "max_in_flight": None,
    "progress": False,
    "rng": None,
}


def _check_map_options(given: dict[str, Any]) -> dict[str, Any]:
    for name in given:
        if name not in _MAP_OPTIONS:
            raise TypeError(f"map() has no option {name!r}; it has {', '.join(_MAP_OPTIONS)}")
    options = {**_MAP_OPTIONS, **given}
    check_task_options({"retry": options["retry"]})
    if options["timeout"] is not None:
        # Negative and tiny limits are let pass: executors take them for "at once".
        options["timeout"] = max(0.0, float(options["timeout"]))
    options["task_timeout"] = check_timeout(options["task_timeout"], "task_timeout")
    if options["max_in_flight"] is not None:
        options["max_in_flight"] = _check_positive("max_in_flight", options["max_in_flight"])
    if options["rng"] is not None and options["rng"] is not False:
        options["rng"] = 0 if options["rng"] is True else options["rng"]
    else:
        options["rng"] = None
    return options


__all__ = ["Pool", "cpu_count", "pools"]
