from __future__ import annotations

import pytest

from epyrpc.errors import ApiParamError
from epyrpc.namespaces import MAX_PATH_BYTES, RESERVED, check_path, contains, join, nearest, split


@pytest.mark.parametrize(
    ("parts", "path"),
    [((), ""), (("", ""), ""), (("a",), "a"), (("a", "", "b.c"), "a.b.c"), ((RESERVED, "cell"), "_epyrpc.cell")],
)
def test_join_leaves_out_empty_parts(parts, path):
    assert join(*parts) == path


def test_split_is_the_inverse_of_join():
    assert split("a.b.c") == ["a", "b", "c"]
    assert split("") == []


@pytest.mark.parametrize("path", ["a", "a.b", "Test.Nested.method", "if.class.async", "größe", ".".join(["x"] * 50)])
def test_good_path_is_returned_as_it_is(path):
    assert check_path(path) == path


@pytest.mark.parametrize(
    ("path", "word"),
    [
        pytest.param("", "one or more names", id="empty"),
        pytest.param("a..b", "empty", id="empty part"),
        pytest.param(".a", "empty", id="leading dot"),
        pytest.param("a.", "empty", id="trailing dot"),
        pytest.param("a b", "'a b'", id="space"),
        pytest.param("a.1", "'1'", id="digit"),
        pytest.param("a-b", "'a-b'", id="dash"),
        pytest.param("a\n", "is not", id="newline"),
        pytest.param("_a", "kept for the package", id="underscore"),
        pytest.param("a._b", "kept for the package", id="underscore inside"),
        pytest.param("_epyrpc.x", "kept for the package", id="reserved"),
        pytest.param("a.*", "can be handled, but not called", id="wildcard not asked for"),
        pytest.param(7, "of type str", id="no string"),
        pytest.param(None, "of type str", id="none"),
        pytest.param("a" * (MAX_PATH_BYTES + 1), "no longer", id="too long"),
        pytest.param("ö" * (MAX_PATH_BYTES // 2 + 1), "no longer", id="too long encoded"),
    ],
)
def test_bad_path_is_refused_with_the_reason(path, word):
    with pytest.raises(ApiParamError) as caught:
        check_path(path)
    assert word in str(caught.value)
    assert caught.value.item == "path"


@pytest.mark.parametrize("path", ["*", "a.*", "a.b.*"])
def test_wildcard_is_allowed_as_the_last_part(path):
    assert check_path(path, wildcard=True) == path


@pytest.mark.parametrize("path", ["*.a", "a.*.b", "a*", "**", "*.*"])
def test_wildcard_is_refused_elsewhere(path):
    with pytest.raises(ApiParamError):
        check_path(path, wildcard=True)


def test_reserved_names_are_allowed_when_asked_for():
    assert check_path("_epyrpc.cell", reserved=True) == "_epyrpc.cell"
    assert check_path("_epyrpc.*", reserved=True, wildcard=True) == "_epyrpc.*"
    with pytest.raises(ApiParamError):
        check_path("_epyrpc..x", reserved=True)


def test_path_is_normalised_as_python_normalises_identifiers():
    class Names:
        def __getattr__(self, name):
            return name

    ligature = "\ufb01ne"
    assert check_path(ligature) == eval(f"names.{ligature}", {"names": Names()}) == "fine"


@pytest.mark.parametrize(
    ("namespace", "path", "inside"),
    [
        ("test", "test.x", True),
        ("test", "test", True),
        ("test", "test2.x", False),
        ("test", "Test.x", False),
        ("test", "tes", False),
        ("test.x", "test", False),
        ("a.b", "a.b.c.d", True),
        ("a.b", "a.bc", False),
        ("", "anything.at.all", True),
        ("", "", True),
        ("a", "", False),
    ],
)
def test_namespace_contains_whole_parts_only(namespace, path, inside):
    assert contains(namespace, path) is inside


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        pytest.param("maths.scael", ("maths.scale",), id="typing error"),
        pytest.param("scale", ("maths.scale",), id="namespace forgotten"),
        pytest.param("MATHS.SCALE", ("maths.scale",), id="case"),
        pytest.param("qqqq", (), id="nothing like it"),
    ],
)
def test_nearest_finds_what_was_meant(path, expected):
    assert nearest(path, ["maths.scale", "log.note", "plot"]) == expected


def test_nearest_is_limited_and_the_best_comes_first():
    found = nearest("abcd", ["abcd1", "abcd12", "abcd123", "abcd1234"], limit=2)
    assert found == ("abcd1", "abcd12")


def test_nearest_takes_any_iterable_and_ignores_repeats():
    assert nearest("abc", iter(["abd", "abd"])) == ("abd",)
