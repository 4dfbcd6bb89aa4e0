"""Trees of apis from TOML, JSON, XML and dicts: what they become, and what is said of those that are wrong."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import pickle
import re
import subprocess
import sys
import textwrap
import types
from pathlib import Path

import pytest

import epyrpc
from epyrpc import ApiBase, ApiParamError, ConfigError, TransportDetailsFactory, api_from_config, load_config
from epyrpc.api import config as config_module
from epyrpc.api import config_text
from epyrpc.api.config import ApiConfig
from epyrpc.errors import UnsupportedTransportError

TOML = """\
# A tree with everything in it.
namespace = "lab"
workers = 2
timeout = 5.0
sync = true
solicited = true
ignore_errors = false
ignore_unhandled = true
middleware = [
    "lab_rpc:shout",   # the outermost
    "lab_rpc:twice",
]
call_middleware = ["lab_rpc:count"]

[handlers]
ping = "lab_rpc:ping"
maths.scale = "operator:mul"
"log.*" = "lab_rpc:note"

[apis.motors]
class = "lab_rpc:Motors"
workers = 4
timeout = "forever"

[apis.motors.handlers]
move = "lab_rpc:move"
lock = "lab_rpc:Tools.lock"

[apis.motors.apis.x]
sync = false
"""

JSON = """\
{
  "namespace": "lab",
  "workers": 2,
  "timeout": 5,
  "sync": true,
  "solicited": true,
  "ignore_errors": false,
  "ignore_unhandled": true,
  "middleware": ["lab_rpc:shout", "lab_rpc:twice"],
  "call_middleware": ["lab_rpc:count"],
  "handlers": {"ping": "lab_rpc:ping", "maths": {"scale": "operator:mul"}, "log.*": "lab_rpc:note"},
  "apis": {
    "motors": {
      "class": "lab_rpc:Motors",
      "workers": 4,
      "timeout": null,
      "handlers": {"move": "lab_rpc:move", "lock": "lab_rpc:Tools.lock"},
      "apis": {"x": {"sync": false}}
    }
  }
}
"""

XML = """\
<?xml version="1.0" encoding="utf-8"?>
<!-- The same once more. -->
<api namespace="lab" workers="2" timeout="5" sync="true" solicited="true" ignore_errors="false"
     ignore_unhandled="true">
  <middleware import="lab_rpc:shout"/>
  <middleware import="lab_rpc:twice" around="handlers"/>
  <middleware import="lab_rpc:count" around="calls"/>
  <handler path="ping" import="lab_rpc:ping"/>
  <handler path="maths.scale" import="operator:mul"/>
  <handler path="log.*" import="lab_rpc:note"/>
  <api name="motors" class="lab_rpc:Motors" workers="4" timeout="forever">
    <handler path="move" import="lab_rpc:move"/>
    <handler path="lock" import="lab_rpc:Tools.lock"/>
    <api name="x" sync="false"/>
  </api>
</api>
"""

PLAIN = {
    "namespace": "lab",
    "workers": 2,
    "timeout": 5.0,
    "sync": True,
    "solicited": True,
    "ignore_errors": False,
    "ignore_unhandled": True,
    "middleware": ("lab_rpc:shout", "lab_rpc:twice"),
    "call_middleware": ["lab_rpc:count"],
    "handlers": {"ping": "lab_rpc:ping", "maths.scale": "operator:mul", "log.*": "lab_rpc:note"},
    "apis": {
        "motors": {
            "class": "lab_rpc:Motors",
            "workers": 4,
            "timeout": None,
            "handlers": {"move": "lab_rpc:move", "lock": "lab_rpc:Tools.lock"},
            "apis": {"x": {"sync": False}},
        }
    },
}
TEXTS = [
    pytest.param("toml", TOML, id="toml"),
    pytest.param("json", JSON, id="json"),
    pytest.param("xml", XML, id="xml"),
]


class Axis(ApiBase):
    def _handler_where(self):
        return 0.5


class Motors(ApiBase):
    x = Axis

    def _handler_stop(self):
        return "stopped"


class Stiff(ApiBase):
    def __init__(self):
        super().__init__()

    def speed(self):
        return 1  # a nested api of this name would hide it


class Tools:
    @staticmethod
    def lock():
        return "locked"


@pytest.fixture
def lab(monkeypatch):
    """Provide what the configurations import."""
    module = types.ModuleType("lab_rpc")
    module.Motors, module.Stiff, module.Tools, module.number = Motors, Stiff, Tools, 3
    module.ping = lambda: "pong"
    module.note = lambda *args: ("noted", args)
    module.move = lambda axis, *, by=1: f"{axis} moved by {by}"
    module.shout = lambda path, args, kwargs, proceed: f"{proceed(*args, **kwargs)}!"
    module.twice = lambda path, args, kwargs, proceed: f"{proceed(*args, **kwargs)} {proceed(*args, **kwargs)}"
    module.counted = []
    module.count = lambda path, args, kwargs, proceed: (module.counted.append(path), proceed(*args, **kwargs))[1]
    monkeypatch.setitem(sys.modules, "lab_rpc", module)
    return module


def _line_of(text: str, part: str) -> int:
    return text[: text.index(part)].count("\n") + 1


def _refused(text: str, format: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load_config(text, format=format)
    return caught.value


# ---- what is loaded --------------------------------------------------------------------------------------------------


@pytest.mark.capability("T2a")
@pytest.mark.parametrize(("format", "text"), TEXTS)
def test_the_same_configuration_is_equal_in_every_format(format, text, tmp_path):
    file = tmp_path / f"lab.{format}"
    file.write_text(text, encoding="utf-8")
    config = load_config(file)
    assert config == load_config(PLAIN)
    assert hash(config) == hash(load_config(PLAIN))
    assert config == load_config(str(file)) == load_config(text, format=format)
    assert repr(config) == repr(load_config(PLAIN))
    assert config != dataclasses.replace(config, workers=3)


def test_what_is_loaded_says_what_the_text_says():
    config = load_config(TOML, format="toml")
    motors = config.apis["motors"]
    assert (config.namespace, motors.namespace, motors.apis["x"].namespace) == ("lab", "lab.motors", "lab.motors.x")
    assert (config.workers, motors.workers, motors.apis["x"].workers) == (2, 4, None)
    assert (config.timeout, motors.timeout, motors.apis["x"].timeout) == (5.0, math.inf, None)
    assert (config.sync, motors.sync, motors.apis["x"].sync) == (True, None, False)
    assert config.handlers == {"ping": "lab_rpc:ping", "maths.scale": "operator:mul", "log.*": "lab_rpc:note"}
    assert config.middleware == ("lab_rpc:shout", "lab_rpc:twice")
    assert motors.api_class == "lab_rpc:Motors"


def test_the_documented_examples_are_one_configuration():
    blocks = re.findall(r"(TOML|JSON|XML)::\n\n((?:    .*\n|\n)+)", config_module.__doc__)
    loaded = [load_config(textwrap.dedent(text), format=name.lower()) for name, text in blocks]
    assert [name for name, _ in blocks] == ["TOML", "JSON", "XML"]
    assert loaded[0] == loaded[1] == loaded[2]
    assert loaded[0].apis["motors"].workers == 4


def test_a_configuration_is_frozen_and_travels():
    config = load_config(TOML, format="toml")
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.workers = 3
    with pytest.raises(TypeError):
        config.handlers["x"] = "y:z"
    again = pickle.loads(pickle.dumps(config))
    assert again == config
    assert again._source.line(("apis", "motors", "workers")) == _line_of(TOML, "workers = 4")


def test_an_empty_configuration_is_a_plain_root():
    empty = [load_config("", format="toml"), load_config("{}", format="json"), load_config("<api/>", format="xml")]
    assert empty == [ApiConfig()] * 3
    assert type(api_from_config(empty[0])) is ApiBase


@pytest.mark.parametrize("seconds", ["inf", '"forever"'])
def test_no_limit_can_be_written(seconds):
    api = api_from_config(load_config(f"timeout = {seconds}", format="toml"))
    assert api.settings.timeout is None


def test_a_file_saved_with_a_byte_order_mark_or_in_its_own_encoding_is_read(tmp_path):
    (tmp_path / "lab.toml").write_bytes(b"\xef\xbb\xbf" + b"workers = 3\r\n")
    (tmp_path / "lab.xml").write_bytes(
        '<?xml version="1.0" encoding="iso-8859-1"?><api namespace="é"/>'.encode("latin-1")
    )
    assert load_config(tmp_path / "lab.toml").workers == 3
    assert load_config(tmp_path / "lab.xml").namespace == "é"


def test_a_path_takes_its_format_when_its_suffix_tells_none(tmp_path):
    file = tmp_path / "lab.conf"
    file.write_text("workers = 3", encoding="utf-8")
    assert load_config(file, format="toml").workers == 3
    with pytest.raises(ApiParamError, match=r"ends in \.toml, \.json, \.xml.*format="):
        load_config(file)


@pytest.mark.capability("X26")
def test_a_bad_name_lists_the_allowed_ones():
    with pytest.raises(ApiParamError, match="format is 'yaml', but must be one of 'toml', 'json', 'xml'"):
        load_config("workers: 2", format="yaml")
    with pytest.raises(
        UnsupportedTransportError, match="'pigeon' is no transport known here; choose one of 'queue', 'memory'"
    ):
        TransportDetailsFactory.get("pigeon")


@pytest.mark.parametrize("source", [None, 3, b"workers = 2", ["workers"]], ids=repr)
def test_a_source_of_another_type_is_refused(source):
    with pytest.raises(ApiParamError, match="path of a file, a text with format=, or a dict"):
        load_config(source)


def test_a_missing_file_is_an_oserror_that_names_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.toml"):
        load_config(tmp_path / "nothing.toml")


# ---- the cache -------------------------------------------------------------------------------------------------------


@pytest.mark.capability("X42")
def test_the_second_load_of_a_content_is_cached_and_a_changed_file_is_not(tmp_path, monkeypatch):
    parsed = []
    read = config_text.READERS["toml"]
    monkeypatch.setitem(config_text.READERS, "toml", lambda text, source: (parsed.append(text), read(text, source))[1])
    file = tmp_path / "lab.toml"
    file.write_text("workers = 2\n", encoding="utf-8")
    first = load_config(file)
    times = file.stat()
    assert load_config(file) is first
    assert load_config(str(file)) is first
    assert len(parsed) == 1
    file.write_text("workers = 3\n", encoding="utf-8")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))  # the content counts, not the time
    assert load_config(file).workers == 3
    file.write_text("workers = 2\n", encoding="utf-8")
    assert load_config(file) is first
    assert len(parsed) == 2


def test_an_error_is_not_cached_and_the_cache_is_bounded(tmp_path):
    for _ in range(2):
        assert _refused("workers = 0", "toml").line == 1
    for number in range(config_module.MAX_CACHED + 5):
        load_config(f"# {number}", format="toml")
    assert len(config_module._cache) == config_module.MAX_CACHED


def test_the_same_content_in_two_files_keeps_two_names(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.toml").write_text('[handlers]\nx = "no_such_lab:x"\n', encoding="utf-8")
        with pytest.raises(ConfigError, match=rf"{name}\.toml, line 2: handlers\.x"):
            api_from_config(tmp_path / f"{name}.toml")


# ---- what is wrong ---------------------------------------------------------------------------------------------------

WRONG = [
    # a field, its value in TOML, in JSON, in XML; what the message says
    pytest.param("workers", '"two"', '"two"', "two", "workers is 'two', but must be a whole number from 1", id="type"),
    pytest.param("workers", "0", "0", "0", "workers is 0, but must be a whole number from 1 to 1024", id="too few"),
    pytest.param(
        "workers", "1025", "1025", "1025", "workers is 1025, but must be a whole number from 1", id="too many"
    ),
    pytest.param("workers", "true", "true", "true", "but must be a whole number", id="bool is no number"),
    pytest.param("workers", "1.0", "1.0", "1.0", "but must be a whole number", id="float is no whole number"),
    pytest.param(
        "timeout", "-1", "-1", "-1", "but must be a number of seconds, 0 or more, or 'forever'", id="negative"
    ),
    pytest.param("timeout", "nan", "NaN", "nan", "timeout is nan", id="nan"),
    pytest.param("timeout", '"5 s"', '"5 s"', "5 s", "timeout is '5 s'", id="with a unit"),
    pytest.param("sync", '"yes"', '"yes"', "yes", "sync is 'yes', but must be true or false", id="bool"),
    pytest.param("ignore_unhandled", "1", "1", "1", "but must be true or false", id="number is no bool"),
    pytest.param("class", '"lab.Motors"', '"lab.Motors"', "lab.Motors", "Write it as 'lab:Motors'", id="no colon"),
    pytest.param("class", '"a:b:c"', '"a:b:c"', "a:b:c", "an import path, 'module:name'", id="two colons"),
    pytest.param("class", '".lab:x"', '".lab:x"', ".lab:x", "package.module:function", id="relative import"),
    pytest.param("worker", "2", "2", "2", "'worker' in apis.motors; did you mean 'workers'? Known here: ", id="typo"),
    pytest.param("colour", "2", "2", "2", "'colour' in apis.motors. Known here: ", id="unknown"),
    pytest.param("namespace", '"x"', '"x"', "x", "The namespace of a nested api is its place", id="nested namespace"),
]


@pytest.mark.capability("T2a", "X42")
@pytest.mark.parametrize(("field", "in_toml", "in_json", "in_xml", "said"), WRONG)
def test_an_error_names_file_line_and_field(field, in_toml, in_json, in_xml, said, tmp_path):
    texts = {
        "toml": f'namespace = "lab"\n\n[apis.motors]\nsolicited = true\n{field} = {in_toml}\n',
        "json": f'{{"namespace": "lab",\n"apis": {{"motors":\n{{"solicited": true,\n\n"{field}": {in_json}}}}}}}',
        "xml": f'<api namespace="lab">\n\n<!-- \n -->\n<api name="motors" {field}="{in_xml}"/></api>',
    }
    for format, text in texts.items():
        file = tmp_path / f"lab.{format}"
        file.write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError) as caught:
            load_config(file)
        error = caught.value
        assert (error.file, error.line, error.field) == (str(file), 5, f"apis.motors.{field}")
        assert str(error).startswith(f"{file}, line 5: ")
        assert said in str(error)
        assert isinstance(error, (ApiParamError, ValueError))
        again = pickle.loads(pickle.dumps(error))
        assert (str(again), repr(vars(again))) == (str(error), repr(vars(error)))  # nan equals no nan


PATHS = [
    pytest.param("a..b", "A part of it is empty", id="empty part"),
    pytest.param("", "one or more names", id="empty"),
    pytest.param("a.1", "The part '1' is not", id="no identifier"),
    pytest.param("a-b", "The part 'a-b' is not", id="dash"),
    pytest.param("_epyrpc.x", "kept for the package", id="reserved"),
    pytest.param("*.a", "only as the last", id="star in front"),
]


@pytest.mark.parametrize(("path", "said"), PATHS)
def test_a_bad_path_of_a_handler_is_named_with_its_line(path, said):
    texts = {
        "toml": f'[handlers]\nfine = "operator:neg"\n"{path}" = "operator:neg"',
        "json": f'{{"handlers": {{\n"fine": "operator:neg",\n"{path}": "operator:neg"}}}}',
        "xml": f'<api>\n<handler path="fine" import="a:b"/>\n<handler path="{path}" import="a:b"/></api>',
    }
    for format, text in texts.items():
        error = _refused(text, format)
        assert (error.line, error.field) == (3, f"handlers.{path}")
        assert said in str(error)


@pytest.mark.parametrize(
    ("namespace", "said"),
    [
        pytest.param("a..b", "A part of it is empty", id="empty part"),
        pytest.param("a.*", "can be handled, but not called", id="star"),
        pytest.param("_mine", "kept for the package", id="reserved"),
    ],
)
def test_a_bad_namespace_is_named_with_its_line(namespace, said):
    error = _refused(f'workers = 1\nnamespace = "{namespace}"', "toml")
    assert (error.line, error.field) == (2, "namespace")
    assert said in str(error)
    assert _refused(f'<api\nnamespace="{namespace}"/>', "xml").line == 1


@pytest.mark.parametrize(
    ("name", "said"),
    [
        pytest.param("a.b", r"Nest it: apis\.a\.apis\.b", id="dotted"),
        pytest.param("ipc", "a name that an api does not have already", id="attribute"),
        pytest.param("call", "a name that an api does not have already", id="method"),
        pytest.param("a b", "The part 'a b' is not", id="no identifier"),
    ],
)
def test_a_bad_name_of_a_nested_api_is_refused(name, said):
    assert re.search(said, str(_refused(f'\n[apis."{name}"]\nworkers = 2', "toml")))
    error = _refused(f'<api>\n<api name="{name}"/>\n</api>', "xml")
    assert error.line == 2
    assert re.search(said, str(error))


@pytest.mark.parametrize(
    ("format", "text", "line", "first", "field"),
    [
        pytest.param("toml", "[apis.a]\nworkers = 1\n[apis.a]\n", 3, 1, "apis.a", id="toml table"),
        pytest.param("toml", "\nworkers = 1\n# x\nworkers = 2\n", 4, 2, "workers", id="toml key"),
        pytest.param("json", '{"apis": {\n"a": {},\n"b": {},\n"a": {}}}', 4, 2, "apis.a", id="json"),
        pytest.param("xml", '<api>\n<api name="a"/>\n<api name="a"/></api>', 3, 2, "apis.a", id="xml"),
        pytest.param(
            "xml",
            '<api><handler path="x" import="a:b"/>\n<handler path="x" import="a:b"/></api>',
            2,
            1,
            "handlers.x",
            id="xml handler",
        ),
        pytest.param(
            "toml",
            '[handlers]\na.x = "m:f"\n[apis.a.handlers]\nx = "m:f"',
            4,
            2,
            "apis.a.handlers.x",
            id="handlers of two apis",
        ),
        pytest.param(
            "json", '{"handlers": {"a.x": "m:f",\n"a": {"x": "m:f"}}}', 2, 1, "handlers.a.x", id="spelled in two ways"
        ),
    ],
)
def test_what_is_given_twice_is_named_with_both_lines(format, text, line, first, field):
    error = _refused(text, format)
    assert (error.line, error.field) == (line, field)
    assert f"is given twice, first on line {first}. Remove" in str(error)


@pytest.mark.capability("T2a")
@pytest.mark.parametrize(
    ("format", "text", "line", "field", "said"),
    [
        pytest.param("toml", "workers = 1\n[apis.a]\nworkers = two\n", 3, "apis.a.workers", "Invalid value", id="toml"),
        pytest.param("toml", "workers = 1\nsync\n", 2, "", "'sync'", id="toml, no value"),
        pytest.param("toml", 'workers = 1\nclass = """\nnever\nclosed\n', 4, "", "Unterminated", id="toml, open text"),
        pytest.param(
            "json", '{"workers": 1,\n"apis": {"a": {"sync": yes}}}', 2, "apis.a.sync", "Expecting value", id="json"
        ),
        pytest.param("json", '{"sync": true,\n"workers": 1,}', 2, "workers", "column", id="json, comma"),
        pytest.param("json", "", 1, "", "Expecting value", id="json, empty"),
        pytest.param("xml", '<api>\n<api name="a">\n</api>', 3, "", "no element found", id="xml, not closed"),
        pytest.param("xml", '<api>\n<api name="a">\n<b></api>', 3, "apis.a.b", "no element 'b'", id="xml, element"),
        pytest.param("xml", '<api>\n<api name="a">\n</api></handler></api>', 3, "", "mismatched tag", id="xml, tags"),
        pytest.param("xml", "<api>\n&secret;</api>", 2, "", "undefined entity", id="xml, entity"),
        pytest.param("xml", '<?xml version="1.0"?>', 1, "", "no element found", id="xml, empty"),
    ],
)
def test_a_syntax_error_names_its_line(format, text, line, field, said):
    error = _refused(text, format)
    assert (error.file, error.line, error.field) == (f"<{format} text>", line, field)
    assert said in str(error)
    assert error.hint or error.allowed


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        pytest.param("<configuration/>", 1, "no element 'configuration'. Known here: api", id="root"),
        pytest.param("<api>\n<handlr/></api>", 2, "no element 'handlr'; did you mean 'handler'?", id="element"),
        pytest.param(
            '<api>\n<handler pth="a" import="b:c"/></api>', 2, "'pth' in handlers; did you mean 'path'?", id="attr"
        ),
        pytest.param(
            '<api>\n<handler import="b:c"/></api>',
            2,
            "<handler> has no attribute 'path'. Write <handler path=",
            id="path",
        ),
        pytest.param('<api>\n<handler path="a"/></api>', 2, "<handler> has no attribute 'import'", id="import"),
        pytest.param("<api>\n<api/></api>", 2, "<api> has no attribute 'name'", id="name"),
        pytest.param('<api name="lab"/>', 1, "The outermost api has a 'namespace' instead", id="name of the root"),
        pytest.param("<api>\nworkers 2</api>", 2, "written as attributes", id="text"),
        pytest.param(
            '<api>\n<middleware import="a:b" around="all"/></api>',
            2,
            "is 'all', but must be one of 'handlers', 'calls'",
            id="side",
        ),
        pytest.param(
            '<api>\n<handler path="a" import="b:c"><api name="d"/></handler></api>',
            2,
            "outside of <handler>",
            id="nested",
        ),
    ],
)
def test_xml_of_another_form_is_refused_with_its_line(text, line, said):
    error = _refused(text, "xml")
    assert error.line == line
    assert said in str(error)


BOMB = '<!DOCTYPE api [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>\n<api namespace="&b;"/>'


@pytest.mark.capability("T2a")
@pytest.mark.parametrize(
    "declaration",
    [
        pytest.param(BOMB, id="entity bomb"),
        pytest.param(
            '<!DOCTYPE api [<!ENTITY f SYSTEM "file:///etc/hostname">]>\n<api>&f;</api>', id="external entity"
        ),
        pytest.param('<!DOCTYPE api SYSTEM "http://localhost:1/x.dtd">\n<api/>', id="external DTD"),
        pytest.param('<!DOCTYPE api [<!ENTITY % p SYSTEM "file:///x">%p;]>\n<api/>', id="parameter entity"),
        pytest.param("<!DOCTYPE api>\n<api/>", id="bare"),
    ],
)
def test_a_document_type_is_refused_before_anything_is_expanded(declaration, tmp_path):
    file = tmp_path / "lab.xml"
    file.write_text(f'<?xml version="1.0"?>\n{declaration}', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"a document type .* is not allowed") as caught:
        load_config(file)
    assert caught.value.line == 2


@pytest.mark.parametrize(
    ("format", "text"),
    [
        pytest.param("json", '{"handlers": ' * 200 + "1" + "}" * 200, id="json"),
        pytest.param("json", "[" * 100_000, id="json, far"),
        pytest.param("toml", "middleware = " + "[" * 120 + "]" * 120, id="toml"),
        pytest.param("toml", "middleware = " + "[" * 10_000, id="toml, far"),
        pytest.param("toml", "[" + ".".join(["apis"] * 200) + "]", id="toml, key"),
        pytest.param("xml", '<api name="a">'.replace(' name="a"', "") + '<api name="a">' * 200, id="xml"),
    ],
)
def test_what_is_nested_beyond_reason_is_refused(format, text):
    assert "nested too deeply" in str(_refused(text, format))


def test_apis_and_handlers_in_a_dict_may_not_be_nested_without_end():
    data: dict = {}
    data["apis"] = {"a": data}
    with pytest.raises(ConfigError, match="nested 32 apis deep at most"):
        load_config(data)
    loop: dict = {}
    loop["a"] = loop
    with pytest.raises(ConfigError, match="no deeper than 64 names"):
        load_config({"handlers": loop})


@pytest.mark.parametrize(
    ("data", "field", "said"),
    [
        pytest.param({"handlers": ["a"]}, "handlers", "a table of import paths by path", id="handlers"),
        pytest.param({"handlers": {"a": 3}}, "handlers.a", "an import path, 'module:name'", id="handler"),
        pytest.param({"handlers": {"a": len}}, "handlers.a", "an import path, 'module:name'", id="a function"),
        pytest.param({"handlers": {"a": {}}}, "handlers.a", "an import path, 'module:name'", id="empty table"),
        pytest.param({"handlers": {3: "a:b"}}, "handlers.3", "a path", id="number as path"),
        pytest.param({"middleware": "a:b"}, "middleware", r"Write \['a:b'\]", id="middleware"),
        pytest.param({"middleware": ["a:b", "a"]}, r"middleware[1]", "an import path", id="one of the middleware"),
        pytest.param({"apis": {"a": 3}}, "apis.a", "a table with the fields class, workers", id="api"),
        pytest.param({"apis": []}, "apis", "a table of nested apis by name", id="apis"),
        pytest.param({3: 4}, "3", "no field '3'", id="number as field"),
        pytest.param({"workers": None}, "workers", "a whole number from 1", id="None"),
        pytest.param({"namespace": 3}, "namespace", "of type str", id="namespace"),
    ],
)
def test_a_dict_is_checked_the_same_way(data, field, said):
    with pytest.raises(ConfigError, match=said) as caught:
        load_config(data)
    assert (caught.value.file, caught.value.line, caught.value.field) == ("<dict>", None, field)


@pytest.mark.parametrize("text", ["[]", "3", "null", '"lab"'])
def test_json_that_is_no_table_is_refused(text):
    assert "must be a table with the fields namespace" in str(_refused(text, "json"))


def test_a_file_that_is_no_utf8_is_refused_with_the_line(tmp_path):
    file = tmp_path / "lab.toml"
    file.write_bytes(b"workers = 2\n# caf\xe9\n")
    with pytest.raises(ConfigError, match=r"lab\.toml, line 2: byte b'\\xe9' is no UTF-8\. Save"):
        load_config(file)


def test_an_encoding_that_nobody_knows_is_refused(tmp_path):
    file = tmp_path / "lab.xml"
    file.write_bytes(b'<?xml version="1.0" encoding="klingon"?><api/>')
    with pytest.raises(ConfigError, match=r"no valid XML: .*encoding"):
        load_config(file)


# ---- lines -----------------------------------------------------------------------------------------------------------

TRICKY_TOML = '''\
# namespace = "no"
title = """
[apis.no]
workers = 1
a quote "" and its end"""""
other = \'\'\'
x = 2\'\'\' # [no]
list = [ # [no]
  "a", # "b",
  [1,
   2], { x = 1, "y.z" = [
  3] }
]
inline = { a.b = 1, c = { d = "}" }, e = [] }
day = 1979-05-27 07:32:00
float = 3.14
"quo\\u0074ed" . 'literal#' . bare = 1
[ a . "b.c" ]
d = 1
[[tables]]
e = 1
[a]
f = "\\" = 1" # =
'''
TRICKY_LINES = {
    ("title",): 2,
    ("other",): 6,
    ("list",): 8,
    ("list", 0): 9,
    ("list", 1): 10,
    ("list", 1, 0): 10,
    ("list", 1, 1): 11,
    ("list", 2): 11,
    ("list", 2, "x"): 11,
    ("list", 2, "y.z"): 11,
    ("list", 2, "y.z", 0): 12,
    ("inline",): 14,
    ("inline", "a"): 14,
    ("inline", "a", "b"): 14,
    ("inline", "c"): 14,
    ("inline", "c", "d"): 14,
    ("inline", "e"): 14,
    ("day",): 15,
    ("float",): 16,
    ("quoted",): 17,
    ("quoted", "literal#"): 17,
    ("quoted", "literal#", "bare"): 17,
    ("a",): 18,
    ("a", "b.c"): 18,
    ("a", "b.c", "d"): 19,
    ("tables",): 20,
    ("tables", "e"): 21,
    ("a", "f"): 23,
    (): 1,
}


def test_the_lines_of_a_tricky_toml_are_found():
    source = config_text.Source("x")
    config_text.read_toml(TRICKY_TOML, source)
    assert source.lines == TRICKY_LINES


def test_the_lines_of_a_tricky_json_are_found():
    source = config_text.Source("x")
    text = '{"a{": [\n1,\n{"b\\"]": [],\n"c": "}\\n",\n"d": [[2,\n3]]}\n],\n"\\u0065": {}\n, "f"\n:\n1}'
    config_text.read_json(text, source)
    assert source.lines == {
        (): 1,
        ("a{",): 1,
        ("a{", 0): 2,
        ("a{", 1): 3,
        ("a{", 1, 'b"]'): 3,
        ("a{", 1, "c"): 4,
        ("a{", 1, "d"): 5,
        ("a{", 1, "d", 0): 5,
        ("a{", 1, "d", 0, 0): 5,
        ("a{", 1, "d", 0, 1): 6,
        ("e",): 8,
        ("f",): 9,
    }


@pytest.mark.parametrize("text", [TOML, TRICKY_TOML, JSON], ids=["toml", "tricky toml", "json"])
def test_a_text_cut_off_anywhere_is_refused_or_loaded_but_never_breaks_the_scanner(text):
    format = "json" if text is JSON else "toml"
    lines = []
    for end in range(len(text)):
        try:
            config_text.READERS[format](text[:end], config_text.Source("x"))
        except ConfigError as exc:
            lines.append(exc.line)
    assert len(lines) > 100
    assert set(lines) <= set(range(1, text.count("\n") + 2))


# ---- what is built ---------------------------------------------------------------------------------------------------


@pytest.mark.capability("T2a", "S7b")
@pytest.mark.parametrize(("format", "text"), TEXTS)
def test_a_configured_tree_has_what_the_configuration_says(format, text, lab):
    api = api_from_config(load_config(text, format=format))
    assert api.namespace == "lab"
    assert sorted(api.handled_paths()) == [
        "lab.maths.scale",
        "lab.motors.lock",
        "lab.motors.move",
        "lab.motors.stop",
        "lab.motors.x.where",
        "lab.ping",
    ]
    assert api.find_handler("lab.log.anything")[0].path == "lab.log.*"
    assert (api.settings.timeout, api.motors.settings.timeout) == (5.0, None)
    assert (api.settings.sync, api.motors.x.settings.sync) == (True, False)
    assert api.ignore_unhandled
    assert type(api.motors) is Motors
    assert type(api.motors.x) is Axis  # declared by Motors, given its options by the configuration


@pytest.mark.capability("T2a", "S7b", "X27")
@pytest.mark.parametrize(("format", "text"), TEXTS)
def test_a_configured_tree_answers_calls_with_its_workers_and_middleware(format, text, lab, queue_wire):
    neck = api_from_config(load_config(text, format=format), ipc=queue_wire.ipc_neck)
    head = queue_wire.head(ApiBase("lab"))
    try:
        assert head.ping()() == "pong pong!"
        assert head.maths.scale(6, 7)() == "42 42!"
        assert head.motors.move("y", by=2)() == "y moved by 2 y moved by 2!"
        assert head.motors.stop()() == "stopped stopped!"
        assert head.log.deep.down(1)() == "('noted', (1,)) ('noted', (1,))!"
        assert [node.pool.size for node in neck.walk()] == [2, 4, 4]
        assert neck.motors.x.pool is neck.motors.pool
        assert neck.ipc is queue_wire.ipc_neck
    finally:
        neck.teardown()


@pytest.mark.capability("S7b")
def test_calls_through_a_configured_tree_have_its_defaults(lab, queue_wire):
    neck = queue_wire.neck(ApiBase("lab"))
    neck.set_handler("ping", lambda: 1)
    neck.set_handler("motors.x.where", lambda: 2)
    head = queue_wire.head(api_from_config(PLAIN))
    assert head.ping()() == 1
    result = head.motors.x.where()()
    assert isinstance(result, epyrpc.AsyncResult)
    assert result.result(10) == 2
    assert lab.counted == ["lab.ping", "lab.motors.x.where"]


def test_a_tree_is_built_anew_each_time(lab):
    config = load_config(PLAIN)
    first, second = api_from_config(config), api_from_config(config)
    first.set_handler("extra", len)
    assert not second.handler_exists("extra")
    assert config.handlers == PLAIN["handlers"]
    part = api_from_config(config.apis["motors"])  # a part of the tree, at its own place
    assert part.handler_exists("move")
    assert part.namespace == "lab.motors"


def test_a_config_written_by_hand_is_checked_too(lab):
    config = ApiConfig(namespace="lab", handlers={"ping": "lab_rpc:ping"}, apis={"a": ApiConfig(workers=3)})
    assert api_from_config(config).handled_paths() == ["lab.ping"]
    with pytest.raises(ConfigError, match=r"<ApiConfig>: .*workers is 0, but must be a whole number"):
        api_from_config(ApiConfig(workers=0))
    with pytest.raises(ConfigError, match=r"<ApiConfig>: handlers\.a\.\.b is 'a\.\.b', but must be"):
        api_from_config(ApiConfig(handlers={"a..b": "lab_rpc:ping"}))
    with pytest.raises(ConfigError, match=r"<ApiConfig>: apis\.a\.\.b is 'a\.\.b', but must be"):
        api_from_config(ApiConfig(apis={"a..b": ApiConfig()}))


@pytest.mark.capability("T2a")
@pytest.mark.parametrize(
    ("entry", "said"),
    [
        pytest.param('"no_such_lab:x"', "'no_such_lab' cannot be imported (ModuleNotFoundError: ", id="module"),
        pytest.param('"lab_rpc.deep:x"', "Install it, put its folder on sys.path, or correct the name", id="submodule"),
        pytest.param('"lab_rpc:pin"', "'lab_rpc' has no 'pin'. Did you mean 'ping'?", id="name"),
        pytest.param('"lab_rpc:Tools.unlock"', "'lab_rpc.Tools' has no 'unlock'. Did you mean 'lock'?", id="attribute"),
        pytest.param('"lab_rpc:number"', "must be something callable. It is 3", id="no function"),
        pytest.param(
            '"lab_broken:x"', "(ZeroDivisionError: division by zero). Correct that module", id="broken module"
        ),
        pytest.param('"lab_exits:x"', "(SystemExit: 3). Correct that module", id="module that exits"),
    ],
)
@pytest.mark.parametrize("field", ["handlers.move", "middleware", "class"])
def test_what_cannot_be_imported_is_named_with_its_line(entry, said, field, lab, tmp_path, monkeypatch, queue_wire):
    (tmp_path / "lab_broken.py").write_text("1 / 0\n", encoding="utf-8")
    (tmp_path / "lab_exits.py").write_text("raise SystemExit(3)\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "lab.toml"
    value = f"[{entry}]" if field == "middleware" else entry
    file.write_text(f"[apis.motors]\nworkers = 1\n\n{field} = {value}\n", encoding="utf-8")
    config = load_config(file)  # imports nothing
    with pytest.raises(ConfigError) as caught:
        api_from_config(config, ipc=queue_wire.ipc_neck)
    error = caught.value
    name = f"apis.motors.{field}" + "[0]" * (field == "middleware")
    assert (error.file, error.line, error.field) == (str(file), 4, name)
    if field == "class" and "callable" in said:
        said = "must be a subclass of ApiBase. It is 3"
    assert f"{file}, line 4: {name} is {error.value!r}, but " in str(error)
    assert said in str(error)
    assert (error.__cause__ is None) == ("It is 3" in said)
    assert queue_wire.neck().namespace == "test"  # the wire was left alone


@pytest.mark.parametrize(
    ("text", "line", "field", "said"),
    [
        pytest.param('class = "lab_rpc:ping"', 1, "class", "a subclass of ApiBase", id="function"),
        pytest.param('class = "lab_rpc:Tools"', 1, "class", "a subclass of ApiBase", id="another class"),
        pytest.param(
            '\nclass = "lab_rpc:Stiff"\nworkers = 2', 2, "class", "Stiff(workers=2) failed: ", id="takes nothing"
        ),
        pytest.param(
            'class = "lab_rpc:Stiff"\n[apis.speed]\n',
            2,
            "apis.speed",
            "a name that Stiff does not have already",
            id="taken",
        ),
    ],
)
def test_a_class_that_does_not_fit_is_named_with_its_line(text, line, field, said, lab):
    config = load_config(text, format="toml")
    with pytest.raises(ConfigError) as caught:
        api_from_config(config)
    assert (caught.value.line, caught.value.field) == (line, field)
    assert said in str(caught.value)


def test_a_class_that_takes_no_options_needs_none(lab):
    assert type(api_from_config({"class": "lab_rpc:Stiff"})) is Stiff


def test_a_configuration_takes_everything_from_where_it_is_loaded_only(tmp_path):
    """A fresh interpreter: nothing but the configuration's own imports happens, and only when the tree is made."""
    (tmp_path / "lab_fresh.py").write_text("def ping():\n    return 'pong'\n", encoding="utf-8")
    (tmp_path / "lab.json").write_text(json.dumps({"handlers": {"ping": "lab_fresh:ping"}}), encoding="utf-8")
    code = (
        "import sys, epyrpc; config = epyrpc.load_config('lab.json'); print('lab_fresh' in sys.modules);"
        "api = epyrpc.api_from_config(config); print('lab_fresh' in sys.modules, api.handled_paths())"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path(epyrpc.__file__).parents[1])])}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout == "False\nTrue ['ping']\n", done.stderr
