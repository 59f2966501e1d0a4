"""docs/routing.md: its rules are read, its code verifies what we send, and its tables name every fact and metric."""

from __future__ import annotations

import base64
import re
import time
from pathlib import Path
from typing import Any

import pytest

from cloud.stream import model, rules, webhook
from cloud.stream.gauges import Metrics
from cloud.stream.rules_file import parse

PAGE = (Path(__file__).parents[2] / "docs" / "routing.md").read_text(encoding="utf-8")


def block(kind: str) -> str:
    found = re.search(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    return found[1]


def test_the_pages_rules_are_read() -> None:
    text = re.search(r"```toml\n(# rules.toml.*?)```", PAGE, re.DOTALL)
    assert text is not None
    routing = parse(text[1], "docs")
    assert [one.name for one in routing.rules] == ["rotors in the mine", "at night everything"]
    assert routing.rules[0].targets == ("ops", "duty")


def test_the_pages_code_verifies_what_we_send_and_nothing_else() -> None:
    names: dict[str, Any] = {}
    exec(block("python verify"), names)  # noqa: S102  # our own page
    key, body, now = bytes(range(32)), b'{"a":1}', int(time.time())
    secret = "whsec_" + base64.b64encode(key).decode()
    headers = webhook.headers("d1/o/1", now, body, key)
    assert names["verify"](secret, headers, body)
    assert not names["verify"](secret, headers, body + b" ")
    assert not names["verify"](secret, headers | {"webhook-id": "d1/o/2"}, body)
    assert not names["verify"](secret, webhook.headers("d1/o/1", now - 600, body, key), body)


@pytest.mark.parametrize("fact", [*rules.NUMBERS, *rules.TEXTS, *rules.FLAGS, *model.OF_ALARM])
def test_every_fact_and_feature_is_on_the_page(fact: str) -> None:
    assert f"`{fact}`" in PAGE


def test_every_metric_is_on_the_page() -> None:
    for family in Metrics().registry.collect():
        assert family.name in PAGE
