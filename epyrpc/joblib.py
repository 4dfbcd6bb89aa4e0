"""A backend of joblib: ``joblib.parallel_config(backend="epyrpc")``, and with it scikit-learn, runs on a `Pool`.

The name is known to joblib as soon as both packages are imported (see `epyrpc.hooks`); this module is loaded when the
backend is first used.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

from joblib.parallel import (  # type: ignore[import-untyped,unused-ignore]  # it has no types
    AutoBatchingMixin,
    ParallelBackendBase,
    register_parallel_backend,
)

from epyrpc.bodies.pool import Pool, cpu_count

if TYPE_CHECKING:
    from collections.abc import Callable

IDLE_SECONDS = 300.0
_lock = threading.Lock()
_shared: list[Pool] = []  # Guarded by _lock: the pool of those that bring none, once there is one


class EpyrpcBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]  # joblib has no types
    """Runs joblib's batches as tasks of a pool.

    Parameters
    ----------
    pool : Pool, optional
        Whose bodies do the work: ``parallel_config(backend="epyrpc", pool=crunch)``. By default one that all calls
        share, made by the first and kept for the next; its bodies end after five idle minutes.
    initializer, initargs : callable and tuple, optional
        Called first in each body, of a pool that is this call's alone then.
    """

    supports_retrieve_callback = True
    supports_timeout = True
    uses_threads = False
    supports_sharedmem = False

    def __init__(self, pool: Pool | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._given = pool
        self._pool: Pool | None = None
        self._own: Pool | None = None  # with the initializer; ended with the call
        self._futures: set[Any] = set()

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return how many tasks run at once."""
        if n_jobs == 0:
            raise ValueError("n_jobs == 0 in Parallel has no meaning")
        if self._given is not None:
            limit = self._given.processes
            return limit if n_jobs is None or n_jobs < 0 else min(n_jobs, limit)
        if n_jobs is None:
            return 1
        return max(1, cpu_count() + 1 + n_jobs) if n_jobs < 0 else int(n_jobs)

    def configure(self, n_jobs: int | None = 1, parallel: Any = None, **options: Any) -> int:
        """Get a pool ready.

        Raises
        ------
        ValueError
            There is an initializer, and a pool whose bodies run already.
        """
        count = self.effective_n_jobs(n_jobs)
        options = {**getattr(self, "backend_kwargs", {}), **options}
        self.parallel = parallel
        if options.get("initializer") is None:
            self._pool = self._given or shared_pool(count)
        elif self._given is not None:
            raise ValueError("give the initializer to the pool when it is made: its bodies run already")
        else:
            self._pool = self._own = Pool(
                count, initializer=options["initializer"], initargs=options.get("initargs") or ()
            )
        return count

    def submit(self, func: Callable[[], Any], callback: Callable[[Any], Any] | None = None) -> Any:
        """Run a batch."""
        if self._pool is None:
            raise RuntimeError("the backend is not configured")
        future = self._pool.submit(_call, func)
        self._futures.add(future)
        future.add_done_callback(self._futures.discard)
        if callback is not None:
            future.add_done_callback(callback)
        return future

    def retrieve_result_callback(self, out: Any) -> Any:
        """Return what a batch gave."""
        return out.result()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Stop what is under way: a task has failed."""
        for future in list(self._futures):
            future.cancel(kill=True)

    def terminate(self) -> None:
        """End a call; the bodies are kept for the next."""
        self._pool = None
        if self._own is not None:
            self._own.shutdown(wait=False)
            self._own = None
        self.reset_batch_stats()


def _call(batch: Callable[[], Any]) -> Any:
    return batch()


def shared_pool(count: int) -> Pool:
    """Return the pool of those that bring none, with at least so many bodies."""
    with _lock:
        if _shared and _shared[0].alive:
            pool = _shared[0]
            if pool.processes < count:
                pool.scale(count)
            return pool
        _shared[:] = [Pool(count, idle_timeout=IDLE_SECONDS)]
        return _shared[0]


def shutdown() -> None:
    """End the shared pool, if there is one; the next call makes another."""
    with _lock:
        pools, _shared[:] = list(_shared), []
    for pool in pools:
        pool.shutdown()


def _forget_after_fork() -> None:
    """The pool belongs to the parent, and so may the lock."""
    global _lock
    _lock = threading.Lock()
    _shared.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)


def register() -> None:
    """Make the backend known to joblib; what importing this module does."""
    register_parallel_backend("epyrpc", EpyrpcBackend)


register()

__all__ = ["EpyrpcBackend", "register", "shared_pool", "shutdown"]
