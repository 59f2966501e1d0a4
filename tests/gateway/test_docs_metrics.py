"""docs/gateway.md names every metric with its type and labels, and none that does not exist."""

import re
from pathlib import Path

from gateway.counts import COUNTERS, GAUGES, HISTOGRAMS, metric
from gateway.pool import METRICS

DOCS = Path(__file__).resolve().parents[2] / "docs" / "gateway.md"


def _built():
    built = {f"{metric(n)}_total": ("counter", label) for n, (label, _) in COUNTERS.items()}
    built |= {metric(n): ("gauge", "") for n in GAUGES}
    built |= {metric(n): ("histogram", "le") for n in HISTOGRAMS}
    return built | {
        metric(n) + ("_total" if kind == "counter" else ""): (kind, "process") for n, (kind, _) in METRICS.items()
    }


def test_the_table_of_metrics_is_complete_and_true() -> None:
    rows = re.findall(r"^\| `(covey_gateway_\w+)` \| (\w+) \| `?(\w*)`? ?\|", DOCS.read_text(), re.MULTILINE)
    assert len({name for name, _, _ in rows}) == len(rows)
    assert {name: (kind, label) for name, kind, label in rows} == _built()


def test_every_metric_that_the_text_speaks_of_exists() -> None:
    spoken = set(re.findall(r"covey_gateway_\w+", DOCS.read_text()))
    allowed = set(_built()) | {f"{n}{s}" for n, (k, _) in _built().items() if k == "histogram" for s in ("_bucket",)}
    assert spoken <= allowed, spoken - allowed
