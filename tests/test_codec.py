from __future__ import annotations

import builtins
import contextlib
import copy
import linecache
import os
import pathlib
import pickle
import subprocess
import sys
import textwrap
import threading
import traceback
from fractions import Fraction

import numpy as np
import pytest

from epyrpc import codec, culprits
from epyrpc import home as homes
from epyrpc.codec import (
    ApiPicklable,
    RemoteTraceback,
    decode,
    decode_error,
    encode,
    encode_call,
    encode_error,
    encode_value,
)
from epyrpc.culprits import find_culprit
from epyrpc.errors import BodyDied, CodecError, RemoteError, TransactionTimeout, UnsupportedApiError
from epyrpc.home import home_namespace, set_home_namespace

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture
def home():
    """Give the test a home namespace of its own; afterwards it is as before, since bodies that are threads set it."""
    namespace = {}
    before = homes._home
    set_home_namespace(namespace)
    yield namespace
    set_home_namespace(before)


def run_cell(source, **names):
    """Run source as a notebook's cell would be and return its namespace, whose functions travel by value."""
    namespace = {"__name__": "__main__", **names}
    exec(compile(textwrap.dedent(source), "<cell>", "exec", dont_inherit=True), namespace)
    return namespace


def there_and_back(obj):
    return decode(*encode(obj))


def in_another_process(payload, program):
    """Return what a program prints in a fresh interpreter, where `arrived` is what the payload decodes to."""
    prelude = "import sys\nfrom epyrpc.codec import decode, decode_error\npayload = sys.stdin.buffer.read()\n"
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", prelude + textwrap.dedent(program)],
        input=payload,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": path},
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().strip()


# --- plain values


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(value, id=repr(value)[:30])
        for value in [
            0,
            1,
            -(10**40),
            1.5,
            "text",
            "\ud800",
            True,
            None,
            b"",
            b"bytes",
            (),
            (1, "a", None),
            [1.0, True],
            {"a": 1, 2: None},
            [1, [2, [3]]],
            list(range(100)),
            {"a": {"b": (1, 2)}},
            {1, 2},
            1 + 2j,
            range(3),
            bytearray(b"abc"),
        ]
    ],
)
def test_value_comes_back_equal_and_of_its_type(value):
    for again in (there_and_back(value), decode(*encode_value(value)), decode(*encode_call((value,), {}))[0][0]):
        assert again == value
        assert type(again) is type(value)


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [((), {}), ((1,), {}), ((1, "a"), {"x": 2.5, "y": [1, 2]}), ((object,), {}), ((), {"f": len})],
)
def test_call_comes_back_as_its_arguments(args, kwargs):
    payload, buffers = encode_call(args, kwargs)
    assert decode(payload, buffers) == (args, kwargs)
    assert decode(memoryview(payload), buffers) == (args, kwargs)


def test_plain_values_do_not_go_through_cloudpickle(monkeypatch):
    monkeypatch.setattr(codec, "_pickler_class", lambda: pytest.fail("the slow way was taken"))
    encode_call((1, 2.0, "a", True, None, b"x", (1, 2), [3], {"k": 4}), {"x": "y", "z": [1] * 16})
    encode_value({"a": 1})


@pytest.mark.parametrize(
    "value",
    [
        pytest.param([1] * 17, id="many items"),
        pytest.param([[1]], id="nested"),
        pytest.param(b"x" * (1 << 20), id="large bytes"),
        pytest.param(type("Text", (str,), {})("x"), id="subclass"),
        pytest.param({(1, 2): 3}, id="tuple as key"),
    ],
)
def test_other_values_take_the_long_way(monkeypatch, value):
    asked = []
    real = codec._pickler_class
    monkeypatch.setattr(codec, "_pickler_class", lambda: asked.append(1) or real())
    with contextlib.suppress(CodecError):
        encode_call((value,), {})
        encode_call((), {"x": value})
    assert len(asked) >= 2


def test_result_is_a_copy():
    original = {"a": [1, 2]}
    again = decode(*encode_value(original))
    again["a"].append(3)
    assert original == {"a": [1, 2]}


def test_importing_the_package_loads_no_cloudpickle():
    program = "import sys, epyrpc.codec as c; c.encode_call((1,), {}); assert 'cloudpickle' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


# --- buffers


@pytest.mark.parametrize("order", ["C", "F"])
def test_large_array_travels_out_of_band(order):
    array = np.asarray(np.arange(2000.0).reshape(40, 50), order=order)
    payload, buffers = encode(array)
    assert len(payload) < 1000
    assert [len(memoryview(buffer.raw())) for buffer in buffers] == [16000]
    np.testing.assert_array_equal(decode(payload, buffers), array)


def test_array_over_a_read_only_buffer_is_read_only():
    payload, buffers = encode(np.arange(2000.0))
    again = decode(payload, [memoryview(bytes(buffer.raw())) for buffer in buffers])
    assert not again.flags.writeable
    assert again.sum() == np.arange(2000.0).sum()


def test_small_array_stays_in_band_and_is_writable():
    payload, buffers = encode(np.arange(10))
    assert buffers == []
    assert decode(payload).flags.writeable


def test_array_that_is_not_contiguous_comes_back_equal():
    array = np.arange(20000.0).reshape(100, 200)[::2, ::3]
    np.testing.assert_array_equal(there_and_back(array), array)


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_large_bytes_are_not_copied_into_the_pickle(kind):
    data = kind(b"x" * (1 << 20))
    for payload, buffers in (encode(data), encode_value(data), encode_call((data,), {"k": data})):
        assert len(payload) < 500
        assert buffers
    args, kwargs = decode(payload, buffers)
    assert args[0] == kwargs["k"] == data
    assert type(args[0]) is kind


def test_buffers_keep_their_order_in_a_call():
    first, second = np.zeros(1000), np.ones(1000)
    payload, buffers = encode_call((first,), {"second": second, "small": np.arange(3)})
    assert len(buffers) == 2
    args, kwargs = decode(payload, buffers)
    np.testing.assert_array_equal(args[0], first)
    np.testing.assert_array_equal(kwargs["second"], second)


# --- functions and classes by value


@pytest.mark.capability("M1")
def test_closure_travels_with_what_it_captured():
    cell = run_cell(
        """
        import math
        k = 3
        def helper(x):
            return x * k
        def make(offset):
            return lambda x: helper(x) + offset + math.floor(0.5)
        f = make(10)
        """
    )
    again = there_and_back(cell["f"])
    cell["k"] = 1000  # what was captured was copied
    assert again(4) == 22


def test_free_name_is_looked_up_in_the_home_namespace_when_it_is_called(home):
    f = there_and_back(run_cell("f = lambda x: x * factor")["f"])
    with pytest.raises(NameError, match="factor"):
        f(2)
    home["factor"] = 10
    assert f(2) == 20
    home["factor"] = 11
    assert f(2) == 22


def test_home_name_is_read_each_time_however_often_it_was_read(home):
    cell = run_cell("def f(): return free\ndef g(): return len('') or k\nk = 1")
    f, g = there_and_back((cell["f"], cell["g"]))
    for number in range(200):  # long enough for the interpreter to specialise what can be specialised
        home["free"] = number
        assert f() == number
        assert g() == 1
    del home["free"]
    with pytest.raises(NameError):
        f()


def test_same_code_with_and_without_home_names_does_not_mix(home):
    cell = run_cell("def f(): return free")
    without = there_and_back(cell["f"])
    cell["free"] = "travelled"
    with_it = there_and_back(cell["f"])
    home["free"] = "home"
    for _ in range(200):
        assert (without(), with_it(), cell["f"]()) == ("home", "travelled", "travelled")


def test_names_that_travel_never_overwrite_the_home_namespace(home):
    home.update(k="home", helper="home")
    cell = run_cell(
        """
        k = 3
        def helper():
            return k
        def f():
            global k, made
            k = helper() + 1
            made = k
            return k, free
        """
    )
    f = there_and_back(cell["f"])
    home["free"] = "free"
    assert f() == (4, "free")
    assert home == {"k": "home", "helper": "home", "free": "free"}


def test_functions_that_travel_together_share_their_globals(home):
    cell = run_cell(
        """
        count = 0
        def bump():
            global count
            count += 1
            return [missing for _ in range(1)]
        def read():
            return count
        """
    )
    home["missing"] = 1
    bump, read = there_and_back((cell["bump"], cell["read"]))
    bump()
    assert read() == 1
    read, bump = there_and_back((cell["read"], cell["bump"]))
    bump()
    assert read() == 1


@pytest.mark.parametrize(
    "source",
    [
        pytest.param("def f():\n    return free", id="plain"),
        pytest.param("f = lambda: (lambda: free)()", id="nested lambda"),
        pytest.param("def f():\n    def g():\n        return free\n    return g()", id="nested def"),
        pytest.param("def f():\n    return [free for _ in range(1)][0]", id="comprehension"),
        pytest.param("def f():\n    return next(free for _ in range(1))", id="generator"),
        pytest.param("def f():\n    class A:\n        x = free\n    return A.x", id="class body"),
        pytest.param("def f():\n    class A:\n        def m(self): return free\n    return A().m()", id="method"),
        pytest.param("def f():\n    free\n    return eval('free')", id="eval"),
        pytest.param("def f(g=lambda: free):\n    return g()", id="default"),
        pytest.param("class A:\n    @staticmethod\n    def s(): return free\nf = A.s", id="class of a cell"),
        pytest.param("def g(): return free\ndef f(): return g()", id="through a helper"),
        pytest.param("import functools\nf = functools.partial(lambda x: free, 1)", id="partial"),
    ],
)
def test_free_name_is_found_from(home, source):
    home["free"] = 42
    assert there_and_back(run_cell(source)["f"])() == 42


def test_class_body_in_a_function_takes_the_globals_it_reads_along():
    f = there_and_back(run_cell("K = 5\ndef f():\n    class A:\n        x = K\n    return A.x")["f"])
    assert f() == 5


def test_recursive_functions_travel():
    cell = run_cell(
        """
        def even(n): return n == 0 or odd(n - 1)
        def odd(n): return n != 0 and even(n - 1)
        def outer():
            def fact(n): return 1 if n < 2 else n * fact(n - 1)
            return fact
        fact = outer()
        """
    )
    assert there_and_back(cell["even"])(10) is True
    assert there_and_back(cell["fact"])(5) == 120


def test_function_with_nothing_missing_keeps_plain_globals_and_builtins():
    f = there_and_back(run_cell("k = 1\ndef f(x):\n    return len([x, k])")["f"])
    assert f.__builtins__ is builtins.__dict__
    assert type(f.__globals__["__builtins__"]) is dict
    assert f(1) == 2


def test_builtin_that_a_program_added_is_looked_up_at_home(home, monkeypatch):
    def display():
        return "here"

    monkeypatch.setattr(builtins, "display", display, raising=False)
    sent = encode(run_cell("f = lambda: display()")["f"])
    assert decode(*sent)() == "here"
    monkeypatch.delattr(builtins, "display")
    f = decode(*sent)
    with pytest.raises(NameError):
        f()
    home["display"] = lambda: "home"
    assert f() == "home"


def test_builtins_come_before_the_home_namespace(home):
    home.update(len=lambda x: "home", free=1)
    assert there_and_back(run_cell("f = lambda: (free, len([]))")["f"])() == (1, 0)


def test_function_that_arrived_can_be_sent_on(home):
    home["free"] = 1
    f = there_and_back(there_and_back(run_cell("k = 2\nf = lambda: (free, k)")["f"]))
    assert f() == (1, 2)
    home["free"] = 3
    assert f() == (3, 2)


def test_function_metadata_survives(home):
    cell = run_cell(
        """
        def f(a: int, b=2, *, c="x") -> str:
            "What it does."
            return free
        f.tag = [1]
        """
    )
    f = there_and_back(cell["f"])
    assert (f.__name__, f.__doc__, f.__defaults__, f.__kwdefaults__) == ("f", "What it does.", (2,), {"c": "x"})
    assert f.__annotations__ == {"a": int, "return": str}
    assert f.tag == [1]


CLASSES = """
    import dataclasses, enum
    class Colour(enum.Enum):
        RED = 1
        def nice(self): return self.name.lower()
    @dataclasses.dataclass
    class Point:
        x: int
        y: int = 0
        colour: Colour = Colour.RED
        def norm(self): return abs(self.x) + abs(self.y)
    class Base:
        count = 1
        def who(self): return "base"
    class Child(Base):
        __slots__ = ("z",)
        def __init__(self, z): self.z = z
        def who(self): return "child of " + super().who()
        @property
        def double(self): return 2 * self.z
"""


def test_classes_of_a_cell_keep_their_identity_here():
    cell = run_cell(CLASSES)
    point, child, red = there_and_back((cell["Point"](1, 2), cell["Child"](3), cell["Colour"].RED))
    assert isinstance(point, cell["Point"])
    assert point == cell["Point"](1, 2)
    assert red is cell["Colour"].RED
    assert (child.who(), child.double) == ("child of base", 6)


@pytest.mark.capability("M1")
def test_what_a_cell_defines_works_in_another_process():
    cell = run_cell(
        CLASSES
        + """
    def f(point):
        scale = later  # defined in the other process only, after this arrived
        return Point(point.x * scale, point.y, Colour.RED), Child(point.norm()).who()
    """
    )
    payload, buffers = encode((cell["f"], cell["Point"](2, 3)))
    assert buffers == []
    out = in_another_process(
        payload,
        """
        f, point = decode(payload)
        Point = "mine"
        later = 10
        result, who = f(point)
        print(result.x, result.y, result.colour.nice(), who, Point)
        """,
    )
    assert out == "20 3 red child of base mine"


def test_import_inside_a_function_with_home_names_works(home):
    home["free"] = 1
    f = there_and_back(run_cell("def f():\n    import json\n    return json.dumps([free])")["f"])
    assert f() == "[1]"


def test_home_namespace_is_main_unless_set():
    assert home_namespace() is sys.modules["__main__"].__dict__


# --- objects that have their say


class Account(ApiPicklable):
    def __init__(self):
        self.lock = threading.Lock()
        self.balance = 5

    def export(self):
        stripped = copy.copy(self)
        stripped.lock = None
        return stripped


@pytest.mark.capability("X29")
def test_object_strips_itself_before_it_crosses():
    account = Account()
    again = there_and_back({"a": account, "b": [account]})
    assert type(again["a"]) is Account
    assert again["a"].balance == 5
    assert again["a"].lock is None
    assert again["b"][0] is again["a"]
    assert account.lock is not None


class Node(ApiPicklable):
    """Exports something else, which refers back to the original."""

    def __init__(self):
        self.lock = threading.Lock()

    def export(self):
        return {"node": [self], "kind": "export"}


class Plain(ApiPicklable):
    def __init__(self):
        self.x = 1


@pytest.mark.capability("X29")
def test_export_may_be_of_another_kind_and_refer_to_the_original():
    again = there_and_back(Node())
    assert again["kind"] == "export"
    assert again["node"][0] is again


def test_object_that_exports_itself_is_sent_as_it_is():
    assert there_and_back(Plain()).x == 1


class BadExport(ApiPicklable):
    def export(self):
        raise RuntimeError("not today")


class Refuses:
    def __reduce__(self):
        raise CodecError("an AsyncResult stays where it was made; send its result() instead")


class RefusesPlainly:
    def __reduce__(self):
        raise TypeError("sockets do not travel")


@pytest.mark.parametrize(
    ("obj", "text"),
    [
        (BadExport(), "not today"),
        (Refuses(), "send its result() instead"),
        (RefusesPlainly(), "sockets do not travel"),
    ],
)
def test_refusal_keeps_its_message(obj, text):
    with pytest.raises(CodecError) as caught:
        encode([obj], what="result")
    assert text in str(caught.value)
    assert f"result → item 0 (tests.test_codec.{type(obj).__name__})" in str(caught.value)


# --- what cannot be pickled


@pytest.mark.capability("X21")
@pytest.mark.parametrize(
    ("args", "kwargs", "path"),
    [
        pytest.param((1, threading.Lock()), {}, "argument 2 of the call (_thread.lock)", id="positional"),
        pytest.param((), {"x": [threading.Lock()]}, "argument 'x' → item 0 (_thread.lock)", id="keyword"),
        pytest.param(((i for i in ()),), {}, "argument 1 of the call (generator)", id="generator"),
    ],
)
def test_argument_that_cannot_be_pickled_is_named(args, kwargs, path):
    with pytest.raises(CodecError) as caught:
        encode_call(args, kwargs)
    assert path in str(caught.value)
    assert "cannot pickle" in str(caught.value)
    assert isinstance(caught.value, pickle.PicklingError)
    assert caught.value.__cause__ is not None


class Leaves:
    def __reduce__(self):
        sys.exit("from within")


def test_what_leaves_the_program_while_it_is_pickled_is_refused_and_named():
    for attempt in (lambda: encode_call(([Leaves()],), {}), lambda: encode([Leaves()], what="argument 1 of the call")):
        with pytest.raises(CodecError) as caught:
            attempt()
        expected = "argument 1 of the call → item 0 (tests.test_codec.Leaves): SystemExit: from within"
        assert expected in str(caught.value)
        assert isinstance(caught.value.__cause__, SystemExit)
    with pytest.raises(SystemExit, match="from within"):  # of a result it is the outcome
        encode_value(Leaves())


def test_a_reason_without_a_text_is_its_type():
    class Silent:
        def __reduce__(self):
            raise LookupError

    with pytest.raises(CodecError, match=r": LookupError\. Make it inside"):
        encode(Silent())


class Holder:
    def __init__(self):
        self.fine = 1
        self._lock = threading.Lock()


class Slotted:
    __slots__ = ("_lock", "fine")

    def __init__(self):
        self.fine, self._lock = 1, threading.Lock()


class Method:
    def __init__(self):
        self.handle = threading.Lock()

    def method(self):
        pass


CULPRITS = run_cell(
    """
    import functools
    def closure():
        self = holder
        return lambda: self
    def uses_global(): return lock
    def default(a, b=lock): pass
    def keyword(*, b=lock): pass
    def attribute(): pass
    attribute.tag = lock
    def outer(): return (lambda: lock)
    part = functools.partial(outer, 1, k=lock)
    class WithLock:
        shared = lock
        def m(self): return 1
    class Prop:
        @property
        def p(self): return lock
    """,
    holder=Holder(),
    lock=threading.Lock(),
)


@pytest.mark.capability("M1")
@pytest.mark.parametrize(
    ("obj", "path"),
    [
        pytest.param(threading.Lock(), "handler (_thread.lock)", id="itself"),
        pytest.param(CULPRITS["closure"](), "handler → closure 'self' → _lock (_thread.lock)", id="closure"),
        pytest.param(CULPRITS["uses_global"], "handler → global 'lock' (_thread.lock)", id="global"),
        pytest.param(CULPRITS["outer"], "handler → global 'lock' (_thread.lock)", id="global of a nested one"),
        pytest.param(CULPRITS["default"], "handler → default of 'b' (_thread.lock)", id="default"),
        pytest.param(CULPRITS["keyword"], "handler → default of 'b' (_thread.lock)", id="keyword default"),
        pytest.param(CULPRITS["attribute"], "handler → tag (_thread.lock)", id="attribute of a function"),
        pytest.param(CULPRITS["part"], "handler → its function → global 'lock' (_thread.lock)", id="partial"),
        pytest.param(CULPRITS["WithLock"], "handler → shared (_thread.lock)", id="class"),
        pytest.param(CULPRITS["WithLock"](), "handler → its class → shared (_thread.lock)", id="instance of a class"),
        pytest.param(CULPRITS["Prop"], "handler → p → getter → global 'lock' (_thread.lock)", id="property"),
        pytest.param(Holder(), "handler → _lock (_thread.lock)", id="attribute"),
        pytest.param(Slotted(), "handler → _lock (_thread.lock)", id="slot"),
        pytest.param(Method().method, "handler → its object → handle (_thread.lock)", id="bound method"),
        pytest.param(
            {"a": [1, (2, Holder())]}, "handler → item 'a' → item 1 → item 1 → _lock (_thread.lock)", id="items"
        ),
        pytest.param({Holder(): 1}, "→ _lock (_thread.lock)", id="key"),
        pytest.param(ValueError(threading.Lock()), "handler → part 1 (_thread.lock)", id="exception"),
        pytest.param(np.array([Holder()], dtype=object), "→ _lock (_thread.lock)", id="array of objects"),
    ],
)
def test_culprit_is_found(obj, path):
    assert find_culprit(obj, "handler").endswith(path)


def test_culprit_search_ends_on_cycles():
    loop = []
    loop.append(loop)
    loop.append(threading.Lock())
    assert find_culprit(loop, "x") == "x → item 1 (_thread.lock)"
    one, two = Plain(), Plain()
    one.other, two.other = two, one
    two.zone = threading.Lock()
    assert find_culprit(one, "x") == "x → other → zone (_thread.lock)"
    back = [one]
    one.other = [back, threading.Lock()]
    assert find_culprit(back, "x") == "x → item 0 → other → item 1 (_thread.lock)"


def test_culprit_search_is_bounded_in_depth_and_count():
    deep = threading.Lock()
    for _ in range(100):
        deep = [deep]
    assert find_culprit(deep, "x").count("→") < 50
    wide = [Plain() for _ in range(1000)] + [threading.Lock()]
    assert find_culprit(wide, "x") == "x → ..."


def test_culprit_search_is_bounded_in_time(monkeypatch):
    ticks = iter(range(10_000))
    monkeypatch.setattr(culprits.time, "monotonic", lambda: next(ticks))
    assert find_culprit([[[threading.Lock()]]], "x").endswith("...")


def test_deep_recursion_is_an_error_of_the_argument():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(CodecError, match="argument 1 of the call"):
        encode_call((deep,), {})
    while deep:  # taken apart here, since freeing it all at once is deep, too
        deep = deep[0]


class Touchy:
    """Cannot be looked into either."""

    def __reduce_ex__(self, protocol):
        return list, (), None, self.items()

    def items(self):
        yield 1
        raise LookupError("hands off")


def test_object_that_cannot_be_looked_into_is_still_a_codec_error():
    with pytest.raises(CodecError, match="LookupError: hands off") as caught:
        encode([Touchy()], what="result")
    assert "result → item 0" in str(caught.value)


def test_what_names_the_value_in_the_error():
    with pytest.raises(CodecError, match=r"cannot send result \(_thread.lock\)"):
        encode_value(threading.Lock())


# --- what cannot be rebuilt


def reduce_to(function, *args):
    class Made:
        def __reduce__(self):
            return function, args

    return pickle.dumps(Made())


def explode():
    raise RuntimeError("no thanks")


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        pytest.param(b"", "damaged", id="empty"),
        pytest.param(b"garbage", "damaged", id="garbage"),
        pytest.param(pickle.dumps([1] * 10)[:-3], "damaged", id="cut"),
        pytest.param(b"cno_such_module\nx\n.", "Make 'no_such_module' importable", id="module"),
        pytest.param(b"cos\nno_such_name\n.", "reload it", id="name"),
        pytest.param(reduce_to(explode), "RuntimeError: no thanks", id="raises"),
    ],
)
def test_payload_that_cannot_be_rebuilt_is_a_codec_error(payload, text):
    with pytest.raises(CodecError) as caught:
        decode(payload)
    assert text in str(caught.value)
    assert caught.value.__cause__ is not None


def test_missing_buffers_are_a_codec_error():
    payload, buffers = encode(np.zeros(10_000))
    assert len(buffers) == 1
    with pytest.raises(CodecError):
        decode(payload)


# --- exceptions


def raised(exc):
    """Return the exception with a traceback."""
    try:
        raise exc
    except BaseException as caught:
        return caught


class Fussy(Exception):
    """Its constructor does not take its args."""

    def __init__(self, code, *, detail):
        super().__init__(f"code {code}")
        self.code, self.detail = code, detail


class FussyFile(OSError):
    def __init__(self, path):
        super().__init__(2, "no such thing", path)
        self.path = path


class FussyDecode(UnicodeDecodeError):
    def __init__(self, note):
        super().__init__("utf-8", b"abc", 0, 1, "bad")
        self.note = note


class FussyNew(ValueError):
    def __new__(cls, a, b):
        return super().__new__(cls, a)

    def __init__(self, a, b):
        super().__init__(a)
        self.b = b


class Both(Fussy, KeyError, OSError):
    def __init__(self, code):
        super().__init__(code, detail=None)


class OwnReduce(Exception):
    def __init__(self, a, b):
        super().__init__("x")
        self.a, self.b = a, b

    def __reduce__(self):
        return OwnReduce, (self.a, self.b)


@pytest.mark.parametrize(
    "exc",
    [
        ValueError("no"),
        ValueError(),
        KeyError("k"),
        OSError(2, "none", "file"),
        FileNotFoundError(2, "none"),
        UnicodeDecodeError("utf-8", b"abc", 0, 1, "bad"),
        SyntaxError("bad", ("file", 1, 2, "text")),
        StopIteration(5),
        SystemExit(3),
        KeyboardInterrupt("stop"),
        GeneratorExit(),
        Fussy(7, detail=[1]),
        FussyFile("p"),
        FussyDecode("n"),
        FussyNew("a", "b"),
        Both(9),
        OwnReduce(1, 2),
        TransactionTimeout("a.b", 7, 2.0),
        UnsupportedApiError("body", "a.b", ("a.c",)),
        BodyDied("w", 1, -9),
    ],
    ids=lambda exc: type(exc).__name__,
)
def test_exception_arrives_as_itself(exc):
    again = decode_error(encode_error(raised(exc)))
    assert type(again) is type(exc)
    assert again.args == exc.args
    assert str(again) == str(exc)
    assert vars(again) == vars(exc)
    for name in ("errno", "filename", "code", "value", "lineno", "reason"):
        assert getattr(again, name, None) == getattr(exc, name, None)
    cause = again.__cause__
    assert isinstance(cause, RemoteTraceback)
    assert "in raised" in str(cause)
    assert type(exc).__name__ in str(cause)
    assert cause.frames[-1][0] == __file__
    assert cause.frames[-1][2:] == ("raised", "raise exc")


def test_exception_of_a_cell_arrives_in_another_process():
    cell = run_cell(
        """
        class Mine(Exception):
            def __init__(self, a, b):
                super().__init__(f"{a} and {b}")
                self.a = a
        def fail():
            raise Mine(1, 2)
        """
    )
    with pytest.raises(cell["Mine"]) as caught:
        cell["fail"]()
    out = in_another_process(
        encode_error(caught.value),
        "e = decode_error(payload); print(type(e).__qualname__, e, e.a, 'in fail' in str(e.__cause__))",
    )
    assert out == "Mine 1 and 2 1 True"


def test_chained_exceptions_show_in_the_remote_traceback():
    try:
        try:
            raise KeyError("first")
        except KeyError as first:
            raise ValueError("second") from first
    except ValueError as exc:
        text = str(decode_error(encode_error(exc)).__cause__)
    assert "KeyError: 'first'" in text
    assert "direct cause" in text
    assert "ValueError: second" in text


@pytest.mark.skipif(sys.version_info < (3, 11), reason="exception groups came with 3.11")
def test_exception_group_arrives_with_its_members():
    group = raised(builtins.ExceptionGroup("several", [raised(ValueError("one")), Fussy(2, detail=None)]))
    group.add_note("a note")
    again = decode_error(encode_error(group))
    assert type(again) is builtins.ExceptionGroup
    assert [type(e) for e in again.exceptions] == [ValueError, Fussy]
    assert again.exceptions[1].code == 2
    assert again.__notes__ == ["a note"]
    assert "ValueError: one" in str(again.__cause__)


def test_exception_that_was_never_raised_has_no_remote_traceback():
    assert decode_error(encode_error(ValueError("x"))).__cause__ is None


def test_exception_that_cannot_be_pickled_becomes_a_remote_error():
    exc = raised(ValueError("text", threading.Lock()))
    again = decode_error(encode_error(exc))
    assert type(again) is RemoteError
    assert again.type_name == "ValueError"
    assert again.text == str(exc)
    assert "raise exc" in again.traceback_text
    assert "lock" in again.reason
    assert isinstance(again.__cause__, RemoteTraceback)


class Unloadable(Exception):
    def __reduce__(self):
        return explode, ()


class Exiting(Exception):
    def __reduce__(self):
        sys.exit(3)


class ExitsThere(Exception):
    def __reduce__(self):
        return sys.exit, (3,)


class BecomesAnother(Exception):
    def __reduce__(self):
        return int, (3,)


class NoText(Exception):
    def __str__(self):
        raise RuntimeError("no text")


class ExitsAsText(Exception):
    def __str__(self):
        sys.exit(3)


class OddText(Exception):
    def __str__(self):
        return type("Local", (str,), {})("odd")


@pytest.mark.parametrize(
    ("exc", "reason"),
    [
        (Unloadable("x"), "RuntimeError: no thanks"),
        (Exiting("x"), "SystemExit: 3"),
        (ExitsThere("x"), "SystemExit: 3"),
        (BecomesAnother("x"), "int, which is no exception"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_exception_that_cannot_be_rebuilt_becomes_a_remote_error(exc, reason):
    again = decode_error(encode_error(raised(exc)))
    assert type(again) is RemoteError
    assert again.type_name == f"tests.test_codec.{type(exc).__name__}"
    assert again.text == "x"
    assert reason in again.reason


@pytest.mark.parametrize("kind", [NoText, ExitsAsText, OddText])
def test_exception_whose_text_cannot_be_had_arrives(kind):
    again = decode_error(encode_error(raised(kind())))
    assert type(again) is kind
    assert kind.__name__ in again.__cause__.text if again.__cause__ else kind is ExitsAsText
    assert type(decode_error(encode_error(raised(kind(threading.Lock()))))) is RemoteError


def test_exception_of_a_module_that_is_not_there_becomes_a_remote_error(monkeypatch, tmp_path):
    (tmp_path / "only_there.py").write_text("class Odd(Exception):\n    pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    import only_there

    payload = encode_error(raised(only_there.Odd("strange")))
    monkeypatch.undo()
    monkeypatch.delitem(sys.modules, "only_there")
    again = decode_error(payload)
    assert type(again) is RemoteError
    assert again.type_name == "only_there.Odd"
    assert "only_there" in again.reason


@pytest.mark.parametrize("payload", [b"", b"garbage", pickle.dumps(5), pickle.dumps((1, 2))])
def test_garbage_in_place_of_an_error_is_a_codec_error(payload):
    assert isinstance(decode_error(payload), CodecError)


def test_source_lines_of_a_cell_are_filled_in_here(monkeypatch):
    name = "<ipython-input-7>"
    source = "def fail(x):\n    return 1 / x\n"
    namespace = {"__name__": "__main__"}
    exec(compile(source, name, "exec"), namespace)
    with pytest.raises(ZeroDivisionError) as caught:
        namespace["fail"](0)
    payload = encode_error(caught.value)  # the source is not known "there"
    cause = decode_error(payload).__cause__
    assert "1 / x" not in str(cause)
    monkeypatch.setitem(linecache.cache, name, (len(source), None, source.splitlines(True), name))
    assert f'  File "{name}", line 2, in fail\n    return 1 / x\n' in str(cause)
    assert str(cause).count("1 / x") == 1
    assert str(cause).count("namespace[") == 1  # lines that were known there are not doubled


def test_source_lines_are_filled_in_inside_a_group_too(monkeypatch):
    source = "line one\nline two\n"
    monkeypatch.setitem(linecache.cache, "<cell>", (len(source), None, source.splitlines(True), "<cell>"))
    text = '  |   File "<cell>", line 2, in f\n  | ValueError: x\n'
    assert codec.fill_in_sources(text) == '  |   File "<cell>", line 2, in f\n  |     line two\n  | ValueError: x\n'


def test_remote_traceback_can_be_sent_on_and_shown():
    exc = decode_error(encode_error(raised(ValueError("x"))))
    cause = pickle.loads(pickle.dumps(exc.__cause__))
    assert str(cause) == str(exc.__cause__)
    shown = "".join(traceback.format_exception(type(exc), exc, None))
    assert "in raised" in shown


def test_endless_recursion_arrives_bounded():
    def forever():
        return forever()

    with pytest.raises(RecursionError) as caught:
        forever()
    payload = encode_error(caught.value)
    assert len(payload) < 500_000
    assert isinstance(decode_error(payload), RecursionError)


def test_huge_text_arrives_cut():
    payload = encode_error(raised(ValueError("x" * 3_000_000, threading.Lock())))
    assert len(payload) < 1_000_000
    assert "characters left out" in decode_error(payload).text


# --- threads


def test_pickler_is_made_once_whoever_comes_first(monkeypatch):
    monkeypatch.setattr(codec, "_pickler", None)
    barrier = threading.Barrier(8)
    made = []

    def make():
        barrier.wait(10)
        made.append(codec._pickler_class())

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 8
    assert set(made) == {codec._pickler, codec._make_pickler_class()}


@pytest.mark.parametrize("many", [1, 1000], ids=["few", "many"])
@pytest.mark.parametrize(
    "value",
    [
        1,
        2**70,
        1.5,
        "text",
        True,
        None,
        b"bytes",
        (1, "a"),
        [1, [2]],
        {"a": (1, {2})},
        frozenset({1}),
        bytearray(b"x"),
        1j,
    ],
    ids=repr,
)
def test_builtin_values_in_builtin_containers_are_plain_or_said_not_to_be(value: object, many: int) -> None:
    payload = codec.dump_if_plain([value] * many)
    if payload is not None:
        assert codec.decode(payload) == [value] * many
    assert (payload is None) == (type(value) is complex)


@pytest.mark.parametrize(
    "value",
    [len, int, lambda: 1, ValueError("no"), Fraction(1, 2), np.float64(1.0), np.zeros(3), bytes(codec.LARGE_BYTES)],
    ids=["function", "class", "closure", "exception", "fraction", "scalar", "array", "large bytes"],
)
def test_what_may_run_code_or_had_better_not_be_copied_is_not_plain(value: object) -> None:
    assert codec.dump_if_plain([value]) is None
    assert codec.dump_if_plain([*range(1000), {"a": [value]}]) is None


def test_what_changes_while_it_is_pickled_is_not_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    def write(self: object, data: object) -> int:
        raise RuntimeError("dictionary changed size during iteration")

    monkeypatch.setattr(codec._Pages, "write", write)
    assert codec.dump_if_plain([{}] * 2) is None


def test_what_is_nested_too_deep_is_not_plain() -> None:
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    assert codec.dump_if_plain(deep) is None
    while deep:  # else its end would be as deep
        deep = deep.pop()  # type: ignore[assignment]
