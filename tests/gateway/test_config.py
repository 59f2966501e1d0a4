"""One message names every bad key; the commands' help loads no heavy library."""

import subprocess
import sys
from pathlib import Path

import pytest

from covey.config import load
from covey.errors import ConfigError
from gateway.config import GatewayConfig
from gateway.tick import Tick


def test_defaults_serve_the_whole_fleet() -> None:
    config = load(GatewayConfig, "gateway", environ={})
    assert config.serves("00")
    assert len(config.own_shards()) == 256


def test_file_then_environment_then_option(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text('mqtt = "a:1"\nkafka = "a:2"\nname = "a"\nshards = ["0a", "ff"]\n')
    environ = {"COVEY_GATEWAY_KAFKA": "b:2", "COVEY_GATEWAY_NAME": "b", "COVEY_GATEWAY_RECEIVE_MAXIMUM": "50"}
    config = load(GatewayConfig, "gateway", file, {"name": "c"}, environ)
    assert (config.mqtt, config.kafka, config.name, config.receive_maximum) == ("a:1", "b:2", "c", 50)
    assert config.own_shards() == ("0a", "ff")
    assert not config.serves("0b")


def test_every_bad_value_is_named_in_one_message() -> None:
    with pytest.raises(ConfigError) as told:
        load(GatewayConfig, "gateway", None, {"mqtt": "nohost", "kafka": "a:1,b", "shards": ["0G"], "name": "a b"}, {})
    for part in ("mqtt:", "kafka:", "shards:", "name:"):
        assert part in str(told.value)


def test_unknown_keys_and_values_out_of_bounds_are_told_together(tmp_path: Path) -> None:
    file = tmp_path / "gateway.toml"
    file.write_text('mqqt = "a:1"\nreceive_maximum = 0\nack_after = "never"\n')
    with pytest.raises(ConfigError) as told:
        load(GatewayConfig, "gateway", file, None, {"COVEY_GATEWAY_HEALTH_PORT": "70000"})
    for part in (str(file), "'mqqt'", "receive_maximum", "ack_after", "COVEY_GATEWAY_HEALTH_PORT"):
        assert part in str(told.value)


def test_help_loads_no_client_library() -> None:
    code = (
        "import sys; from typer.testing import CliRunner; from gateway.cli import app\n"
        "for c in (['--help'], ['run', '--help'], ['status', '--help'], ['check', '--help']):\n"
        "    r = CliRunner().invoke(app, c); assert r.exit_code == 0, r.output\n"
        "    assert len(c) == 1 or 'Example: covey gateway ' + c[0] in r.output, r.output\n"
        "print([m for m in ('paho', 'confluent_kafka', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.returncode) == ("[]", 0), done.stderr


def test_the_loop_waits_where_news_will_come_from() -> None:
    tick = Tick(0.0)
    assert tick.waits(0, linked=True, busy=False).socket_s > 0  # idle: the socket
    assert tick.waits(5, linked=True, busy=False).report_s > 0  # sparse: the delivery report
    assert tick.waits(0, linked=False, busy=False).report_s > 0  # no socket: still not spinning


def test_the_denser_the_traffic_the_longer_bytes_gather_up_to_a_bound() -> None:
    sleeps = []
    for rate in (1_000, 5_000, 20_000, 200_000):
        tick = Tick(0.0)
        for n in range(1, 201):
            tick.saw(rate // 100, n * 0.01)
        assert abs(tick.rate_s - rate) < 0.01 * rate
        wait = tick.waits(5, linked=True, busy=False)
        assert wait.socket_s == wait.report_s == 0.0
        sleeps.append(wait.gather_s)
        for n in range(201, 401):
            tick.saw(0, n * 0.01)
        assert tick.waits(5, linked=True, busy=False).report_s > 0  # sparse again
    assert sleeps == pytest.approx([0.004, 0.01, 0.0325, 0.04], rel=0.001)
