"""Routing rules: what fits, and what a wrong file is told."""

from __future__ import annotations

from typing import Any

import pytest

from cloud.stream import rules, rules_file
from cloud.stream.rules_file import parse
from cloud_events import alarm
from covey.errors import ConfigError
from covey.wire_alarms import Context, Enriched, ModelOpinion

NOON = 1_770_033_600.0  # 2026-02-02 12:00:00 UTC


def enriched(received_s: float = NOON, context: dict[str, Any] | None = None, **changes: Any) -> Enriched:
    about = Context(**{"group": "mine-04", "score_ratio": 1.5, "labels": {"site": "north"}, **(context or {})})
    return Enriched(alarm(**changes), "2026-02-02T12:00:00.000Z", received_s, about, received_s)


def fits(fact: str, wanted: object, data: Enriched) -> bool:
    known = rules.facts(data, "cf-7")
    one = rules.condition(fact, wanted)
    return one.fact in known and one.fits(known[one.fact])


@pytest.mark.parametrize(
    ("fact", "wanted", "expected"),
    [
        ("score_ratio", ">= 1.5", True),
        ("score_ratio", "> 1.5", False),
        ("score_ratio", "!= 2", True),
        ("score_ratio", ">= 1, < 2", True),
        ("score_ratio", 1.5, True),
        ("confidence", "<0.99", False),
        ("peers_share", ">= 0.25", True),  # 3 of 12
        ("top_channel", "motor.*", True),
        ("top_channel", ["baro", "acc.*"], False),
        ("group", "!= mine-*", False),
        ("device", ["cf-1", "cf-7"], True),
        ("kind", "sensor", False),
        ("state", "begin", True),
        ("labels.site", "n*", True),
        ("labels.crew", "!= a", False),  # no such label: a condition on it does not fit
        ("model", "> 0", False),  # none has judged
        ("stale", False, True),
    ],
)
def test_conditions(fact: str, wanted: object, expected: bool) -> None:
    assert fits(fact, wanted, enriched(context={"peers": 12, "peers_alarming": 3})) is expected


def test_a_models_opinion_is_a_number_like_others() -> None:
    assert fits("model", ">= 0.8", enriched(context={"model": ModelOpinion("m", "ab" * 32, 0.9)}))


def test_every_number_of_the_list_is_a_fact() -> None:
    known = rules.facts(enriched(context={"model": ModelOpinion("m", "ab" * 32, 0.9)}), "cf-7")
    assert {*rules.NUMBERS, *rules.TEXTS, *rules.FLAGS} <= known.keys()


def test_the_first_rule_that_fits_decides() -> None:
    routing = parse(
        """
        otherwise = "high"
        [[rules]]
        name = "night"
        hours = "22:00-06:00"
        level = "low"
        [[rules]]
        name = "rotor"
        when = { top_channel = "motor.*", labels = { site = "north" } }
        level = "high"
        webhooks = ["ops"]
        quiet_s = 600
        [[rules]]
        name = "rest"
        level = "low"
        [[webhooks]]
        name = "ops"
        url = "https://ops.example.org/covey"
        """,
        "test",
    )

    def chosen(data: Enriched) -> str:
        rule = rules.choose(routing.rules, rules.facts(data, "cf-7"), data.received_s)
        return "" if rule is None else rule.name

    assert chosen(enriched()) == "rotor"
    assert chosen(enriched(top_channel="acc.z")) == "rest"
    assert chosen(enriched(NOON + 10 * 3600)) == "night"  # 22:00
    assert chosen(enriched(NOON + 18 * 3600 - 1)) == "night"  # 05:59:59
    assert chosen(enriched(NOON + 18 * 3600)) == "rotor"  # 06:00
    assert routing.otherwise == "high"
    assert (routing.rules[1].targets, routing.rules[1].quiet_s) == (("ops",), 600.0)


def test_examining_tells_each_condition_and_what_was_found() -> None:
    [rule] = parse('[[rules]]\nname = "a"\nlevel = "high"\nwhen = {score_ratio = ">= 2", model = "> 0"}', "t").rules
    told = rules.examine(rule, rules.facts(enriched(), "cf-7"), NOON)
    assert told == [
        rules.Finding("score_ratio >= 2", "1.5", fits=False),
        rules.Finding("model > 0", "not there", fits=False),
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('when = {scores = "> 1"}', "rule 'a': when: one of score, .* expected, 'scores' received"),
        ('when = {score = "=> 1"}', "rule 'a': when: score: a number, or .* expected, '=> 1' received"),
        ("when = {score = true}", "rule 'a': when: score: a number"),
        ('when = {kind = ">= 1"}', "rule 'a': when: kind: a text"),
        ("when = {stale = 1}", "rule 'a': when: stale: true or false"),
        ('hours = "8-18"', "rule 'a': hours: HH:MM-HH:MM"),
        ('hours = "24:30-25:00"', "rule 'a': hours"),
        ('webhooks = ["none"]', r"rule 'a': webhooks: no 'none' in \[\[webhooks\]\]"),
        ("quiet = 5", "rule 'a': .*quiet"),
        ("quiet_s = -5", "rule 'a': .*quiet_s"),
    ],
)
def test_a_wrong_rule_is_named_with_its_key(text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as error:
        parse(f'[[rules]]\nname = "a"\nlevel = "high"\n{text}', "rules.toml")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[[rules]]\nname = "a"\nlevel = "mid"', "rule 'a': .*'mid'"),
        ('[[rules]]\nname = "a"\nlevel = "low"\n' * 2, "'a': a name used twice"),
        ('[[webhooks]]\nname = "w"\nurl = "ftp://x"', "webhooks 'w': url"),
        ('[[mailboxes]]\nname = "m"\nto = ["a@b"]', r"\[smtp\] expected"),
        ('[smtp]\nhost = "h"\nsender = "a@b"\nuser = "u"', "user and password_file"),
        ('otherwise = "none"', "otherwise"),
        ("rule = 1", "unknown key 'rule'"),
        ("[rules", "not TOML"),
    ],
)
def test_a_wrong_file_is_told_in_one_line(text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        parse(text, "rules.toml")


@pytest.mark.parametrize(
    ("context", "changes", "expected"),
    [
        ({}, {"kind": "sensor"}, "sensor"),
        ({"peers_alarming": 3, "lift": 3.0, "rejected_30d": 9, "score_ratio": 1.1}, {}, "fleet"),
        ({"rejected_30d": 3, "score_ratio": 1.9}, {}, "doubted"),
        ({"score_ratio": 1.5}, {}, "strong"),
        ({"score_ratio": 1.49}, {}, ""),
    ],
)
def test_default_rules(context: dict[str, Any], changes: dict[str, Any], expected: str) -> None:
    routing = rules_file.load("")
    data = enriched(context=context, **changes)
    rule = rules.choose(routing.rules, rules.facts(data, "d"), NOON)
    assert ("" if rule is None else rule.name) == expected
    assert routing.otherwise == "low"
