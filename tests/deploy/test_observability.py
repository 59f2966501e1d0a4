"""Dashboards and alert rules speak of metrics that exist, and fire when they should."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cloud.console import figures
from cloud.console.live import Live
from cloud.store.schema import open_store
from cloud.stream.gauges import Metrics
from covey.rounds import Progress
from edge.metrics import FIGURES as EDGE
from federated.metrics import families as of_a_run
from firmware_sim.fleets.metrics import families as of_a_fleet
from firmware_sim.fleets.progress import Progress as FleetProgress
from gateway.counts import COUNTERS, GAUGES, HISTOGRAMS, metric
from gateway.pool import METRICS
from processes import absent

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
PARTS = {"histogram": ("_bucket", "_count", "_sum"), "counter": ("_total",), "gauge": ("",)}


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """Every series that a role of ours tells."""
    kinds = {metric(n): "counter" for n in COUNTERS} | {metric(n): "gauge" for n in GAUGES}
    kinds |= {metric(n): "histogram" for n in HISTOGRAMS} | {metric(n): kind for n, (kind, _) in METRICS.items()}
    kinds |= {f"covey_edge_{name}": kind for name, (kind, _, _) in EDGE.items()}
    kinds |= {one.name: one.kind for one in (*of_a_run(Progress()), *of_a_fleet(FleetProgress()))}
    kinds |= {one.name: one.type for one in Metrics().registry.collect()}
    engine = open_store(f"sqlite:///{tmp_path_factory.mktemp('store') / 'store.db'}")
    kinds |= {one.name: one.type for one in figures.registry(Live(engine)).collect()}
    engine.dispose()
    found = {name + part for name, kind in kinds.items() for part in PARTS[kind]}
    return found | {"up", "covey_edge_info", "covey_federated_info"}


def spoken(expression: str) -> set[str]:
    """Names of metrics in an expression."""
    return set(re.findall(r"\b(?:covey_\w+|up)\b(?=[\s\[{)=<>/]|$)", expression))


def test_every_panel_asks_for_metrics_that_exist(names: set[str]) -> None:
    files = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
    assert [file.stem for file in files] == ["cloud", "edge", "fleet", "gateway"]
    for file in files:
        for panel in json.loads(file.read_text())["panels"]:
            for target in panel["targets"]:
                asked = spoken(target["expr"])
                assert asked, f"{file.name}, {panel['title']}: no metric in {target['expr']}"
                assert asked <= names, f"{file.name}, {panel['title']}: {sorted(asked - names)}"


def test_every_alert_rule_asks_for_metrics_that_exist(names: set[str]) -> None:
    rules = re.findall(r"^ +expr: (.+)$", (DEPLOY / "prometheus" / "alerts.yml").read_text(), re.MULTILINE)
    assert len(rules) >= 10
    for rule in rules:
        asked = spoken(rule)
        assert asked, rule
        assert asked <= names, f"{rule}: {sorted(asked - names)}"


def test_the_dashboards_are_what_the_script_writes() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "dashboards"), "--check"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "words",
    [("check", "rules", "alerts.yml"), ("test", "rules", "alerts_test.yml"), ("check", "config", "prometheus.yml")],
)
def test_prometheus_itself_takes_the_rules_and_their_tests_pass(words: tuple[str, ...]) -> None:
    if shutil.which("promtool") is None:
        absent("promtool", "of Debian's package prometheus")
    done = subprocess.run(
        ["promtool", *words], cwd=DEPLOY / "prometheus", capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
