"""The seed document's example, in Python 3 and PEP 8 names: the contract of the object API.

It runs as it stands once the package is installed (``python seed_example.py``) and prints ``seed example: ok``.
Both ends live in one process here, as in the seed's unit tests; ``epyrpc.spawn`` puts the Neck's end in a body.
"""

import logging
import threading

from epyrpc import (
    ApiArb,
    ApiBase,
    AsyncResult,
    HeadTransactionIdGenerator,
    NeckTransactionIdGenerator,
    QueueTransportDetails,
    QueueTransporter,
    TransactionFailed,
    TransactionManager,
    TransportFactory,
    TransportListener,
    TransportState,
    UnsupportedApiError,
)


class Listener(TransportListener):
    """Hears state changes, and data that no api handles."""

    def __init__(self):
        self.disconnected, self.data = threading.Event(), []

    def transport_state_changed(self, state):
        if state is TransportState.DISCONNECTED:
            self.disconnected.set()

    def transport_data_received(self, transaction_id, data):
        self.data.append(data)


class NestedHead(ApiBase):
    def method_a(self, *args, **kwargs):
        # A hand-written method may check or change its arguments before the action is made.
        return self.action("method_a", *args, **kwargs)


class Head(ApiBase):
    nested = NestedHead  # mounted as 'nested' by being here; to any depth

    def _handler_method_b(self, greeting, world=False):  # the prefix makes it a handler
        events.append((greeting, world))
        event_seen.set()


class NestedNeck(ApiBase):
    def _handler_method_a(self, *args, **kwargs):
        return args, kwargs

    def _handler_fails(self):
        raise ValueError("from the neck")

    def _handler_sleeps(self, seconds):
        threading.Event().wait(seconds)


class Neck(ApiBase):
    nested = NestedNeck

    def _handler_method_c(self, greeting, world=False):
        return f"{greeting}, world={world}"


events, event_seen = [], threading.Event()
head_listener = Listener()
details = QueueTransportDetails()
ipc_head = QueueTransporter(
    details, TransactionManager(HeadTransactionIdGenerator()), head_listener, logger=logging.getLogger("Head")
)
ipc_neck = QueueTransporter(
    details.invert(), TransactionManager(NeckTransactionIdGenerator()), logger=logging.getLogger("Neck")
)
head = Head("test", ipc=ApiArb(ipc_head))
neck = Neck("test", solicited=True, workers=2)
neck.ipc = ApiArb(ipc_neck)  # binds the whole tree, once
ipc_head.connect()
ipc_neck.connect()

# A call is prepared, then made; what the api did not define is generated.
action = head.nested.method_a(0, 1, 2, 3, four=4, five=5)
assert action(timeout=5) == ((0, 1, 2, 3), {"four": 4, "five": 5})
assert head.method_c("hello", world=True)(timeout=5) == "hello, world=True"

# Asynchronous: held and asked, or called back. An override is for that one call.
pending = action(sync=False)
assert isinstance(pending, AsyncResult)
assert pending.acquire(timeout=5) == ((0, 1, 2, 3), {"four": 4, "five": 5})
assert pending.elapsed > 0 and pending.done()
called_back, answers = threading.Event(), []
action(callback=lambda transaction_id, result: (answers.append((transaction_id, result)), called_back.set()))
assert called_back.wait(5) and answers[0][1] == ((0, 1, 2, 3), {"four": 4, "five": 5})

# The handler's exception is the caller's; a timeout is a TransactionFailed; an unhandled path says so.
for make, expected in (
    (lambda: head.nested.fails()(timeout=5), ValueError),
    (lambda: head.nested.sleeps(3)(timeout=0.2), TransactionFailed),
    (lambda: head.nested.nobody()(timeout=5), UnsupportedApiError),
):
    try:
        make()
    except expected:
        pass
    else:
        raise AssertionError(f"{expected.__name__} was not raised")

# An unsolicited event from the neck: no transaction, no reply.
assert neck.method_b("hello", world=True)(solicited=False, ignore_errors=True) is None
assert event_seen.wait(5) and events == [("hello", True)]

# Handlers registered at run time; the two ways are one.
d_seen = threading.Event()
head.set_handler("nested.method_d", lambda text, world=None: d_seen.set())
neck.nested.method_d("there was no handler", world="for this")(solicited=False)
assert d_seen.wait(5)
head.nested.set_handler("method_d", lambda text, world=None: text.upper())
assert neck.nested.method_d("both ways")(timeout=5) == "BOTH WAYS"
head.set_handler("nested.method_d", None)

# Several apis share one ipc through the arbitrator, and come and go while it lives.
extra = ApiBase("extra", ipc=neck.ipc)
extra.set_handler("double", lambda x: 2 * x)
assert ApiBase("extra", ipc=head.ipc).double(21)(timeout=5) == 42
extra.teardown()
assert isinstance(
    TransportFactory.get(QueueTransportDetails(), TransactionManager(HeadTransactionIdGenerator())), ApiArb
)

ipc_neck.close()
assert head_listener.disconnected.wait(5)  # the other end closed: this one hears of it
for api in (head, neck):
    api.teardown()
ipc_head.close()
print("seed example: ok")
