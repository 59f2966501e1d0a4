"""`covey cloud rules check` and `covey cloud run --check`: which rule fits and why, and what is wrong."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from typer.testing import CliRunner

from cloud.cli import app
from cloud_events import OUTBOX, alarm, body
from covey import wire
from covey.errors import ConfigError, DataError
from covey.wire_alarms import Context, Enriched, make_enriched

if TYPE_CHECKING:
    from pathlib import Path

    from click.testing import Result

RULES = """
[[rules]]
name = "strong"
when = { score_ratio = ">= 2" }
level = "high"
webhooks = ["ops"]

[[rules]]
name = "alike"
when = { peers_alarming = ">= 3", group = "mine-*" }
level = "high"
webhooks = ["ops"]

[[webhooks]]
name = "ops"
url = "https://ops.example.org/"
"""


def invoke(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def test_a_file_is_summed_up(tmp_path: Path) -> None:
    (tmp_path / "rules.toml").write_text(RULES)
    result = invoke("rules", "check", str(tmp_path / "rules.toml"), "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == {
        "rules": ["strong", "alike"],
        "otherwise": "low",
        "webhooks": ["ops"],
        "mailboxes": [],
    }


def test_an_alarm_is_held_against_each_rule_up_to_the_one_that_fits(tmp_path: Path) -> None:
    (tmp_path / "rules.toml").write_text(RULES)
    context = Context(group="mine-04", score_ratio=1.5, peers=9, peers_alarming=4)
    event = make_enriched(wire.Identity("d1", OUTBOX, 7), Enriched(alarm(), "t", 1.0, context, 1.0))
    (tmp_path / "alarm.json").write_bytes(event + b"\n")
    words = ("rules", "check", str(tmp_path / "rules.toml"), "--alarm", str(tmp_path / "alarm.json"))
    found = json.loads(invoke(*words, "--json").stdout)
    assert (found["event"], found["rule"], found["level"]) == (f"d1/{OUTBOX}/7", "alike", "high")
    assert found["targets"] == ["ops"]
    assert [(one["rule"], one["found"], one["fits"]) for one in found["conditions"]] == [
        ("strong", "1.5", False),
        ("alike", "4", True),
        ("alike", "mine-04", True),
    ]
    assert invoke(*words).stdout.splitlines()[-1] == f"d1/{OUTBOX}/7: high by alike; told: ops"


def test_an_alarm_as_its_device_wrote_it_has_no_peers(tmp_path: Path) -> None:
    (tmp_path / "rules.toml").write_text(RULES)
    (tmp_path / "alarm.json").write_bytes(body(7, alarm(score=5.0)))
    words = ("rules", "check", str(tmp_path / "rules.toml"), "--alarm", str(tmp_path / "alarm.json"), "--json")
    assert json.loads(invoke(*words).stdout)["rule"] == "strong"
    (tmp_path / "alarm.json").write_bytes(body(7))
    assert isinstance(invoke(*words).exception, DataError)


def test_a_model_that_does_not_load_is_told_by_check(tmp_path: Path) -> None:
    (tmp_path / "junk.onnx").write_bytes(b"junk")
    (tmp_path / "cloud.toml").write_text(f'[enrich.model]\npath = "{tmp_path / "junk.onnx"}"\nfeatures = ["score"]\n')
    refused = invoke("run", "--config", str(tmp_path / "cloud.toml"), "--check").exception
    assert isinstance(refused, ConfigError)
    assert "junk.onnx" in str(refused)
