"""Configuration: file, then environment, then option; every bad key in one message."""

from __future__ import annotations

from typing import Annotated

import msgspec
import pytest

from covey.config import explain, load
from covey.errors import ConfigError


class Example(msgspec.Struct, frozen=True):
    device: str
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)] = 1883
    files: list[str] = []

    def __post_init__(self):
        if self.port == 13:
            raise ValueError("port: 13 brings bad luck")


def test_options_win_over_environment_over_file(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text('device = "file"\nport = 1\nfiles = ["x"]\n')
    environ = {"COVEY_EDGE_PORT": "2", "COVEY_EDGE_DEVICE": "env", "COVEY_OTHER_PORT": "9"}
    assert load(Example, "edge", path, {"device": "option", "port": None}, environ) == Example("option", 2, ["x"])


def test_one_message_names_every_bad_key(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text('prot = 1\nport = "many"\n')
    with pytest.raises(ConfigError) as caught:
        load(Example, "edge", path, None, {"COVEY_EDGE_DEVISE": "x"})
    message = str(caught.value)
    assert message.startswith(str(path))
    for words in ("unknown key 'prot'", "unknown variable COVEY_EDGE_DEVISE", "port: expected", "missing key 'device'"):
        assert words in message
    assert "\n" not in message
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("content", ["device = ", "\x00", "[[[["])
def test_a_file_that_is_not_toml_is_one_line(tmp_path, content):
    path = tmp_path / "c.toml"
    path.write_text(content)
    with pytest.raises(ConfigError, match="not TOML"):
        load(Example, "edge", path, None, {})


def test_a_missing_file_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        load(Example, "edge", tmp_path / "none.toml", None, {})


def test_a_rule_across_fields_is_told_with_the_file():
    with pytest.raises(ConfigError, match="edge configuration: port: 13 brings bad luck"):
        load(Example, "edge", None, {"device": "d", "port": 13}, {})


def test_every_key_tells_where_its_value_came_from(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text('# device = "no"\n\n"device" = "d"\nport = 1\n')
    config, settings = explain(
        Example, "edge", path, {"files": ["x"]}, {"COVEY_EDGE_PORT": "2"}, flags={"files": "--file"}
    )
    assert config == Example("d", 2, ["x"]) == load(Example, "edge", path, {"files": ["x"]}, {"COVEY_EDGE_PORT": "2"})
    assert [tuple(one) for one in settings] == [
        ("device", "d", f"{path}:3"),
        ("port", 2, "environment COVEY_EDGE_PORT"),
        ("files", ["x"], "option --file"),
    ]
    assert [one.source for one in explain(Example, "edge", path, None, {})[1]] == [f"{path}:3", f"{path}:4", "default"]


class Named(msgspec.Struct, frozen=True):
    port: int = 1
    links: dict[str, Example] = {}


def test_a_table_tells_its_line_and_keys_inside_tables_are_none_of_ours(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text('[links.lan]\ndevice = "d"\nport = 5\n\n[links.wan]\ndevice = "e"\n')
    settings = explain(Named, "edge", path, None, {})[1]
    assert [(one.key, one.source) for one in settings] == [("port", "default"), ("links", f"{path}:1")]


def test_keys_behind_a_text_of_several_lines_tell_the_file_alone(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text('device = """\nport = 7"""\nport = 9\n')
    config, settings = explain(Example, "edge", path, None, {})
    assert (config.port, settings[1].source) == (9, str(path))


def test_every_bad_key_of_every_named_table_is_told(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text('[links.lan]\ndevice = "d"\nport = 0\n[links.wan]\nprot = 1\n')
    with pytest.raises(ConfigError) as caught:
        load(Named, "edge", path, None, {})
    for words in ("links.lan.port: expected", "links.wan: unknown key 'prot'", "links.wan: missing key 'device'"):
        assert words in str(caught.value)
    path.write_text("links = 3\n")
    with pytest.raises(ConfigError, match=r"links: tables in the TOML file expected \(\[links.NAME\]\), int given"):
        load(Named, "edge", path, None, {})


class Inner(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    port: int = 1
    host: str = "here"


class Outer(msgspec.Struct, frozen=True):
    name: str = ""
    inner: Inner = Inner()


def test_a_table_of_the_file_is_set_by_environment_and_options_key_by_key(tmp_path):
    file = tmp_path / "a.toml"
    file.write_text('name = "n"\n[inner]\nport = 2\nhost = "there"\n')
    assert load(Outer, "x", file, {}, environ={}).inner == Inner(2, "there")
    assert load(Outer, "x", file, {}, environ={"COVEY_X_INNER_PORT": "3"}).inner == Inner(3, "there")
    assert load(Outer, "x", file, {"inner_port": 4}, environ={"COVEY_X_INNER_PORT": "3"}).inner == Inner(4, "there")
    assert load(Outer, "x", None, {"inner_host": "h"}, environ={}).inner == Inner(1, "h")


def test_every_bad_key_of_a_table_is_named(tmp_path):
    file = tmp_path / "a.toml"
    file.write_text("[inner]\nport = 'many'\nmore = 1\n")
    with pytest.raises(ConfigError) as told:
        load(Outer, "x", file, {}, environ={"COVEY_X_INNER_NOTHING": "1"})
    for part in ("inner: unknown key 'more'", "inner.port", "unknown variable COVEY_X_INNER_NOTHING"):
        assert part in str(told.value)
