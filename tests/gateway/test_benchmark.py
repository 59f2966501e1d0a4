"""benchmarks/bench_gateway.py still runs: tiny numbers, ours alone, real mosquitto and Kafka. Its figures mean nothing here."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

from servers import KAFKA_LIBS, ROOT, absent

pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(300)]

TINY = "--rounds 1 --messages 1500 --warm-up 300 --devices 50 --kafka-warm-up 20 --kill-s 2 --kills 1"


@pytest.fixture(autouse=True)
def installed() -> None:
    if shutil.which("mosquitto", path="/usr/bin:/usr/sbin:/usr/local/bin") is None:
        absent("mosquitto", "not installed")
    if shutil.which("java") is None or not any(KAFKA_LIBS.glob("kafka_*.jar")):
        absent("kafka", "not installed")


def test_the_gateway_benchmark_counts_what_ours_bridges_and_what_a_kill_costs() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "bench_gateway.py"), "--only", "covey", "--only", "kill"]
    command += ["--paced-job", "covey", "--candidates", "ours", "--json", *TINY.split()]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=280)
    assert done.returncode == 0, done.stderr[-2000:]
    figures = json.loads(done.stdout)
    assert "FAILED" not in done.stderr
    for name in ("covey_ours_lost", "covey_ours_order", "covey_ours_duplicates", "kill_ours_lost", "kill_ours_order"):
        assert figures[name] | {"unit": ""} == {"value": 0, "unit": "", "goal": 0, "met": True}, name
    assert figures["covey_ours_not_keyed"]["value"] == 0
    assert figures["kill_ours_messages"]["value"] == 10_000
    # 1/cpu_s is per_cpu_s by definition; a figure that is zero was not measured
    assert figures["covey_ours_cpu_s"]["value"] * figures["covey_ours_per_cpu_s"]["value"] == pytest.approx(
        1e5, rel=1e-3
    )
    assert figures["covey_ours_cpu_s"]["value"] > 0
