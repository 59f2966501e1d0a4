"""Configuration: file, then environment, then option; every bad key in one message."""

from __future__ import annotations

from typing import Annotated

import msgspec
import pytest

from covey.config import load
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
