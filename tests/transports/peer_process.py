"""What the other process runs in the tests of traps that need one."""

from __future__ import annotations

import os
import signal
import time

from epyrpc import ApiArb, ApiBase, NeckTransactionIdGenerator, QueueTransporter, TransactionManager


def fork_a_sleeper(behind_our_back):
    """Fork a process that does nothing, as Python does or as a C library does; return its pid."""
    if behind_our_back:
        import ctypes

        pid = ctypes.PyDLL(None).fork()  # without the hooks of os.fork, which close our descriptors in the child
    else:
        pid = os.fork()
    if pid == 0:
        os.closerange(0, 3)  # whoever reads what this test prints need not wait for it
        time.sleep(60)
        os._exit(0)
    return pid


def fork_and_wait():
    """Fork as users do, and let the child end at once."""
    pid = os.fork()
    if pid == 0:
        os._exit(7)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def kill_me():
    os.kill(os.getpid(), signal.SIGKILL)


def serve(details):
    """Answer until the other end closes."""
    import warnings

    warnings.simplefilter("ignore")  # from 3.12 on, a fork with threads is warned of; here it is what is tested
    ipc = QueueTransporter(details, TransactionManager(NeckTransactionIdGenerator()), name="peer")
    api = ApiBase("t", workers=2)
    for handler in (fork_a_sleeper, fork_and_wait, kill_me):
        api.set_handler(handler.__name__, handler)
    api.set_handler("echo", lambda value: value)
    api.ipc = ApiArb(ipc)
    ipc.connect()
    while ipc.is_connected:
        time.sleep(0.01)
    api.teardown()
    ipc.close()
