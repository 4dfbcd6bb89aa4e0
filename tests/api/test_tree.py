"""Trees of apis: mounted by being attributes, bound once, to any depth."""

from __future__ import annotations

import threading

import pytest

from epyrpc import ApiArb, ApiBase, ApiParamError, TransportDisconnected, UnsupportedApiError, current_call
from tests.api.ends import LIMIT, Ends, eventually


class E(ApiBase):
    """The innermost."""

    def _handler_method(self, x):
        return self.namespace, x


class D(ApiBase):
    """Holds `e`."""

    e = E


class C(ApiBase):
    """Holds `d`, by an annotation."""

    d: D


class B(ApiBase):
    """Holds `c`."""

    c = C

    def _handler_method(self, x):
        return "b", x


class A(ApiBase):
    """Holds `b`, declared inside."""

    class b(B):
        """Named by its place."""


@pytest.mark.capability("S2a", "S4a")
def test_path_of_five_names_and_more_reaches_its_handler(wire):
    head = wire.head()
    neck = wire.neck(A("root"))
    head = wire.head(ApiBase("root"))
    assert head.b.c.d.e.method(1)(timeout=LIMIT) == ("root.b.c.d.e", 1)
    assert head.b.method(2)(timeout=LIMIT) == ("b", 2)
    assert [node.namespace for node in neck.walk()] == ["root", "root.b", "root.b.c", "root.b.c.d", "root.b.c.d.e"]
    with pytest.raises(UnsupportedApiError):
        head.b.c.method(1)(timeout=LIMIT)


@pytest.mark.capability("S2a", "E6")
def test_tree_on_both_sides_calls_and_handles_at_every_level(wire):
    head, neck = wire.head(A("root")), wire.neck(A("root"))
    for one in (head, neck):
        assert one.b.c.d.e.method("x")(timeout=LIMIT) == ("root.b.c.d.e", "x")
        assert one.b.c.d.e.action("method", 1)(timeout=LIMIT) == ("root.b.c.d.e", 1)
        assert one.b.c.action("d.e.method", 1)(timeout=LIMIT) == ("root.b.c.d.e", 1)


@pytest.mark.capability("S2b")
def test_api_does_not_know_what_carries_it(wire):
    head, neck = wire.head(A("root")), wire.neck(A("root"))
    neck.set_handler("kind", lambda: neck.ipc.kind)
    assert head.kind()(timeout=LIMIT) == wire.kind


@pytest.mark.capability("E6")
def test_nesting_is_fifty_deep_and_more(wire):
    depth = 50
    neck = node = ApiBase("test")
    for i in range(depth):
        setattr(node, f"n{i}", ApiBase())
        node = getattr(node, f"n{i}")
    node.set_handler("method", lambda: current_call().path)
    wire.neck(neck)
    path = wire.head()
    for i in range(depth):
        path = getattr(path, f"n{i}")
    expected = ".".join(["test", *(f"n{i}" for i in range(depth)), "method"])
    assert path.method()(timeout=LIMIT) == expected
    assert node.namespace + ".method" == expected
    assert node.root is neck
    assert len(list(neck.walk())) == depth + 1


@pytest.mark.capability("E7")
def test_ipc_set_at_the_root_binds_the_whole_tree_once(ends):
    root = A("root")
    assert root.ipc is None
    assert root.b.c.ipc is None
    arb = ApiArb(ends.ipc_head)
    root.ipc = arb
    assert root.ipc is arb
    for node in root.walk():
        assert node.ipc is root.ipc
    for again in (arb, ApiArb(ends.ipc_neck)):
        with pytest.raises(ValueError, match="once"):
            root.ipc = again
    with pytest.raises(ValueError, match="root"):
        root.b.ipc = arb
    assert root.ipc is arb
    root.teardown()
    assert root.ipc is None


@pytest.mark.capability("E7")
@pytest.mark.parametrize("ipc", [None, 3, "queue", ApiBase], ids=["None", "int", "str", "class"])
def test_only_a_transport_can_be_bound(ipc):
    root = ApiBase("x")
    with pytest.raises(ApiParamError):
        root.ipc = ipc
    assert root.ipc is None


@pytest.mark.capability("E9")
def test_unbound_api_says_what_is_missing():
    root = A("root")
    for api in (root, root.b.c):
        with pytest.raises(TransportDisconnected, match=r"set \.ipc"):
            api.method(1)()


# ------------------------------------------------------------------------------------------ found without being listed


class Parent(ApiBase):
    """Has a nested api and handlers, for subclasses to inherit or override."""

    nested = E
    other: E

    def _handler_kept(self):
        return "parent"

    def _handler_overridden(self):
        return "parent"

    def _handler_extended(self):
        return ["parent"]

    def _handler_disabled(self):
        return "parent"


class Mixin:
    """Not an api; its handlers count once it is mixed in."""

    def _handler_mixed(self):
        return "mixin"


class Replacement(ApiBase):
    """Takes the place of a nested api."""

    def _handler_method(self, x):
        return "replaced", x


class Child(Mixin, Parent):
    """Overrides some."""

    nested = Replacement
    added = E
    _handler_disabled = None

    def _handler_overridden(self):
        return "child"

    def _handler_extended(self):
        return [*super()._handler_extended(), "child"]


@pytest.mark.capability("T1", "E18", "S6a")
def test_subclass_inherits_and_overrides_handlers_and_nested_apis(wire):
    neck = wire.neck(Child("test"))
    head = wire.head()
    assert head.kept()(timeout=LIMIT) == "parent"
    assert head.overridden()(timeout=LIMIT) == "child"
    assert head.extended()(timeout=LIMIT) == ["parent", "child"]
    assert head.mixed()(timeout=LIMIT) == "mixin"
    assert head.nested.method(1)(timeout=LIMIT) == ("replaced", 1)
    assert head.other.method(1)(timeout=LIMIT) == ("test.other", 1)
    assert head.added.method(1)(timeout=LIMIT) == ("test.added", 1)
    with pytest.raises(UnsupportedApiError):
        head.disabled()(timeout=LIMIT)
    assert type(neck.nested) is Replacement
    assert type(Parent("x").nested) is E
    assert not hasattr(Parent, "added")


@pytest.mark.capability("T1")
def test_nested_apis_are_found_bound_and_named(ends):
    neck = ends.neck(Child("test"))
    assert {name: type(getattr(neck, name)) for name in ("nested", "other", "added")} == {
        "nested": Replacement,
        "other": E,
        "added": E,
    }
    assert {node.namespace for node in neck.walk()} == {"test", "test.nested", "test.other", "test.added"}
    assert all(node.ipc is neck.ipc for node in neck.walk())
    assert Child("a").nested is not Child("b").nested


@pytest.mark.capability("S6a", "E18")
def test_handler_methods_answer_without_registration(wire):
    head, neck = wire.head(), wire.neck(Parent("test"))
    assert head.kept()(timeout=LIMIT) == "parent"
    assert set(neck.api_map()) == {
        "test.kept",
        "test.overridden",
        "test.extended",
        "test.disabled",
        "test.nested.method",
        "test.other.method",
    }


@pytest.mark.capability("T1")
def test_api_is_mounted_by_assignment_at_any_time(wire):
    head, neck = wire.pair()
    with pytest.raises(UnsupportedApiError):
        head.late.method(1)(timeout=LIMIT)
    late = E()
    neck.late = late
    assert late.namespace == "test.late"
    assert late.ipc is neck.ipc
    assert head.late.method(1)(timeout=LIMIT) == ("test.late", 1)
    neck.late = Replacement()
    assert head.late.method(1)(timeout=LIMIT) == ("replaced", 1)


def test_workers_of_a_replaced_api_end(wire):
    head, neck = wire.pair()
    neck.late = old = ApiBase(workers=2)
    old.set_handler("name", lambda: threading.current_thread().name)
    name = head.late.name()(timeout=LIMIT)
    neck.late = ApiBase()
    eventually(lambda: name not in [thread.name for thread in threading.enumerate()], "its worker ends")
    with pytest.raises(UnsupportedApiError):
        head.late.name()(timeout=LIMIT)


def test_api_is_mounted_in_one_place_only(ends):
    root, other = ApiBase("root"), ApiBase("other")
    root.a = E()
    for bad in (root.a, root, ends.head(ApiBase("bound"))):
        with pytest.raises(ApiParamError):
            other.a = bad if bad is not root else root.a
    with pytest.raises(ApiParamError):
        root.a.up = root
    assert [node.namespace for node in other.walk()] == ["other"]


@pytest.mark.parametrize("name", ["settings", "pool", "call", "transporter", "teardown"])
def test_nested_api_cannot_take_a_name_that_every_api_has(name):
    with pytest.raises(ApiParamError, match=name):
        type("Bad", (ApiBase,), {name: E})
    root = ApiBase("root")
    with pytest.raises(ApiParamError, match=name):
        setattr(root, name, E())
    assert [node.namespace for node in root.walk()] == ["root"]


def test_instance_in_a_class_body_is_refused():
    with pytest.raises(ApiParamError, match="nested"):
        type("Bad", (ApiBase,), {"nested": E()})


@pytest.mark.parametrize("namespace", ["a..b", ".a", "a b", "*", 3], ids=repr)
def test_bad_namespace_is_refused(namespace):
    with pytest.raises(ApiParamError):
        ApiBase(namespace)


@pytest.mark.capability("S4a")
@pytest.mark.parametrize("namespace", ["", "test", "deep.er.test"], ids=repr)
def test_root_may_have_any_namespace_or_none(wire, namespace):
    head, neck = wire.head(ApiBase(namespace)), wire.neck(ApiBase(namespace))
    neck.set_handler("Nested.method", lambda: current_call().path)
    expected = f"{namespace}.Nested.method" if namespace else "Nested.method"
    assert head.Nested.method()(timeout=LIMIT) == expected
    with pytest.raises(UnsupportedApiError):
        head.nested.method()(timeout=LIMIT)


@pytest.mark.capability("S7a")
def test_torn_down_api_says_so_and_cannot_be_bound_again(wire: Ends):
    head, neck = wire.pair()
    neck.set_handler("echo", lambda x: x)
    assert head.echo(1)(timeout=LIMIT) == 1
    neck.teardown()
    neck.teardown()
    with pytest.raises(UnsupportedApiError):
        head.echo(1)(timeout=LIMIT)
    with pytest.raises(TransportDisconnected, match="torn down"):
        neck.echo(1)()
    with pytest.raises(Exception, match="torn down"):
        neck.ipc = ApiArb(wire.ipc_neck)
    again = wire.neck()
    again.set_handler("echo", lambda x: x + 1)
    assert head.echo(1)(timeout=LIMIT) == 2


# Each of these names hides a path of the same name at the other end, which can then only be called by its text.
PUBLIC = """
    action add_middleware api_map call call_middleware configure debug_hook events_to_handle find_handler
    handled_paths handler handler_exists handler_middleware handlers ignore_unhandled ipc is_in_my_namespace
    namespace nested_apis pool recover root send_raw set_handler settings stream submit teardown torn_down
    transport_state_changed transporter walk
"""


@pytest.mark.capability("T2b")
def test_every_other_name_of_an_api_is_a_path():
    api = ApiBase("test")
    assert {name for name in (*dir(api), *vars(api)) if not name.startswith("_")} == set(PUBLIC.split())


@pytest.mark.capability("T2b")
def test_path_that_an_api_hides_is_called_by_its_text(wire):
    head, neck = wire.pair()
    neck.set_handler("settings", lambda: "of the neck")
    assert head.call("settings") == "of the neck"
    assert head.action("settings")(timeout=LIMIT) == "of the neck"
