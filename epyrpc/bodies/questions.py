"""``input()``, ``getpass()`` and the debugger in a body: the person who can answer sits at the head.

A question is a call of the body to its head, ``_epyrpc.ask``. It is answered by the head's main thread while that
waits for the very call whose handler asks, or runs the event loop that awaits it; there a notebook shows the prompt in
the cell that waits, a terminal asks as ever, and an interrupt ends both the question and the call. Where nobody waits
so, asking raises `EOFError`.

The debugger, `bodies.debugging`, asks for its commands by ``input()``, and prints as the handler prints.
"""

from __future__ import annotations

import builtins
import getpass
import linecache
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any, NamedTuple

from epyrpc.api import dispatch
from epyrpc.api.context import current_call
from epyrpc.bodies import inside
from epyrpc.bodies.supervisor import supervisor
from epyrpc.errors import NoDataError
from epyrpc.results import current

if TYPE_CHECKING:
    import types

    from epyrpc.api.context import CurrentCall, DelayedReply
    from epyrpc.results import AsyncResult

ASK_PATH = "_epyrpc.ask"
DEBUG_PATH = "_epyrpc.debug"
SOURCE_PATH = "_epyrpc.source"
PATIENCE_SECONDS = 2.0  # how long a question waits for somebody who waits for its call
NOBODY = (
    "nobody can answer: a question from a body needs a cell, or a main thread, that waits for the call; await it, wait "
    "for it with .result(), run the %%body cell without --async, or pass the value as an argument"
)
NO_INPUT = "this front end takes no input; pass the value as an argument, or %body push it"

# --- in the body


def ask(prompt: str, secret: bool = False) -> str:
    """Ask the person who waits for the call that this thread is answering.

    Parameters
    ----------
    prompt : str
        What is shown.
    secret : bool
        What is typed is not shown.

    Raises
    ------
    EOFError
        There is nobody, or no way to type.
    """
    call = current.get()
    if call is None or not call.solicited or call.stage == "ended":
        raise EOFError(NOBODY)
    call.flush_output()
    try:
        return str(inside.head_api().call(ASK_PATH, call._tid, prompt, secret))
    except EOFError as exc:
        call.unanswered = str(exc)  # the debugger says it, which sees no exception
        raise


def _input(prompt: object = "", /) -> str:
    """Ask the head; what ``input`` is in a body."""
    return ask(str(prompt))


def _getpass(prompt: str = "Password: ", stream: Any = None) -> str:
    """Ask the head for a secret; what ``getpass.getpass`` is in a body."""
    return ask(prompt, secret=True)


def _break(*args: Any, **kwargs: Any) -> Any:
    """Open the debugger in the caller of ``breakpoint()``, unless PYTHONBREAKPOINT says otherwise."""
    if os.environ.get("PYTHONBREAKPOINT"):
        return sys.__breakpointhook__(*args, **kwargs)
    call = current.get()
    if call is None or not call.solicited:
        raise EOFError(NOBODY)
    from epyrpc.bodies.debugging import BodyPdb  # here, since few bodies ever need it

    BodyPdb().set_trace(sys._getframe(1))
    return None


class Failure(NamedTuple):
    """What a handler raised last, kept for the debugger."""

    tid: int
    error: BaseException
    traceback: types.TracebackType | None


last_failure: list[Failure] = []  # one at most: frames hold everything that their code had in its hands


def _note_failure(call: CurrentCall, error: BaseException) -> None:
    if isinstance(error, Exception) and call.path != DEBUG_PATH:
        last_failure[:] = [Failure(call._tid, error, error.__traceback__)]


def install(keep_failures: bool) -> None:
    """Have this process, a body, ask its head; with `keep_failures` it keeps the frames of its last failed call."""
    builtins.input = _input
    getpass.getpass = _getpass
    sys.breakpointhook = _break
    if keep_failures:
        dispatch.on_failure = _note_failure


# --- in the head

being_asked: list[AsyncResult] = []  # calls whose question a person is answering


class Question:
    """One question that has come from a body."""

    def __init__(self, prompt: str, secret: bool, reply: DelayedReply, result: AsyncResult) -> None:
        self._prompt = prompt
        self._secret = secret
        self._reply = reply
        self._result = result
        self._untaken = threading.Semaphore()  # whoever gets it deals with the question

    def put(self) -> None:
        """Have it answered by whoever waits for the call now, or does soon."""
        self._result._send_errand(self._answer)
        supervisor().after(PATIENCE_SECONDS, self._expire)

    def _answer(self) -> None:
        """Ask the person, on the thread that waits for the call."""
        if not self._untaken.acquire(blocking=False) or self._result.settled:
            return
        if threading.current_thread() is not threading.main_thread():
            self._reply.fail(EOFError(NOBODY))
            return
        flush = getattr(self._result._sink, "flush", None)
        if flush is not None:
            flush()  # what was printed before stands above the prompt
        being_asked.append(self._result)
        on_interrupt = signal.getsignal(signal.SIGINT)
        of_loop = callable(on_interrupt) and on_interrupt is not signal.default_int_handler
        try:
            if of_loop:  # it would have the interrupt wait for the answer
                signal.signal(signal.SIGINT, signal.default_int_handler)
            # A running notebook cell has put its own functions in these two places.
            text = getpass.getpass(self._prompt) if self._secret else builtins.input(self._prompt)
        except KeyboardInterrupt:
            if not callable(on_interrupt) or not of_loop:
                raise
            self._result.cancel()
            on_interrupt(signal.SIGINT, None)
        except NotImplementedError:
            self._reply.fail(EOFError(NO_INPUT))
        except (EOFError, RuntimeError, OSError) as exc:  # no standard input, or its end
            self._reply.fail(EOFError(f"{exc}; {NO_INPUT}"))
        else:
            self._reply.send(text)
        finally:
            if of_loop:
                signal.signal(signal.SIGINT, on_interrupt)
            being_asked.remove(self._result)

    def _expire(self) -> None:
        if self._untaken.acquire(blocking=False):
            self._result._pump.run_later(self._refuse)

    def _refuse(self) -> None:
        self._result._drop_errand(self._answer)
        self._reply.fail(EOFError(NOBODY))


def receive(transporter: Any, tid: int, prompt: str, secret: bool) -> None:
    """Take a question; what the head's end of a body handles as `ASK_PATH`."""
    reply = current_call().delay_reply()
    try:
        result = transporter.transactions.get_result(tid)
    except NoDataError as exc:  # the call has ended meanwhile, and nobody needs the answer
        reply.fail(EOFError(str(exc)))
        return
    Question(prompt, secret, reply, result).put()


def source_of(filename: str) -> str:
    """Return the text of a cell; what the head's end of a body handles as `SOURCE_PATH`. Files are not read."""
    entry = linecache.cache.get(filename)
    return "".join(entry[2]) if entry is not None and len(entry) == 4 and entry[1] is None else ""


__all__ = ["ASK_PATH", "DEBUG_PATH", "SOURCE_PATH", "Failure", "ask", "install", "last_failure", "receive", "source_of"]
