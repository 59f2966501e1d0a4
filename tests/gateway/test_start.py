"""What is wrong with a gateway's configuration is told in one message, and its page in the docs shows every key."""

import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from certificates import DAY, Authority
from covey.errors import ConfigError
from gateway.config import GatewayConfig, load_config
from gateway.kafka_options import option_problems

DOCS = Path(__file__).resolve().parents[2] / "docs" / "gateway.md"


def test_values_files_and_settings_are_told_in_one_message(tmp_path) -> None:
    authority = Authority(tmp_path)
    cert, _ = authority.issue("old", ends_in=-DAY)
    file = tmp_path / "gateway.toml"
    file.write_text(
        f'nonsense = 1\nkeepalive_s = 0\nmqtt = "nohost"\nmqtt_ca = "{tmp_path}/none"\nkafka_ca = "{authority.ca}"\n'
        f'kafka_cert = "{cert}"\nkafka_key = "{cert}"\nkafka_user = "u"\nkafka_mechanism = "GSSAPI"\n'
        '[kafka_options]\nacks = 1\n"linger.ms" = "soon"\n"no.such.setting" = true\n"ssl.key.password" = "x"\n'
    )
    with pytest.raises(ConfigError) as told:
        load_config(file, {"name": "a b"}, {})
    text = str(told.value)
    assert text.count(str(file)) == 1
    parts = ["unknown key 'nonsense'", "keepalive_s:", "mqtt: host:port", "name:", "none: no such file"]
    parts += ["kafka_cert", "CN=old: expired", "no PEM private key", "kafka_mechanism:", "kafka_password_file expected"]
    parts += ["kafka_options.acks: refused", "kafka_options.linger.ms:", "kafka_options.no.such.setting: no such"]
    parts += ["kafka_options.ssl.key.password: refused: secrets"]
    assert [p for p in parts if p not in text] == []
    assert "\n" not in text


def test_run_refuses_before_it_connects_and_names_all(tmp_path) -> None:
    secret = tmp_path / "p"
    secret.touch()
    code = "import sys\nfrom covey.cli import one_line\nfrom gateway.cli import app\nwith one_line():\n"
    code += "    sys.exit(app(sys.argv[1:], standalone_mode=False))"
    config = tmp_path / "g.toml"
    config.write_text(f'mqtt_ca = "{tmp_path}/x"\nmqtt_user = "u"\nmqtt_password_file = "{secret}"\nflush_s = -1\n')
    for verb in ("run", "check"):
        command = [sys.executable, "-c", code, verb, "--config", str(config)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        for part in ("flush_s", "no such file", "is empty"):
            assert part in done.stderr


def test_settings_that_promises_rest_on_are_refused_and_others_pass() -> None:
    told = option_problems(
        {"acks": 1, "enable.idempotence": False, "partitioner": "random", "sasl.password": "x", "error_cb": "x"}
    )
    assert len(told) == 5
    assert option_problems({"compression.type": "lz4", "socket.keepalive.enable": True, "client.rack": "a"}) == []


def test_other_settings_reach_every_client(tmp_path) -> None:
    from gateway.kafka import client_settings, make_consumer, make_producer

    config = GatewayConfig(kafka="127.0.0.1:1", kafka_options={"compression.type": "lz4", "socket.timeout.ms": 1_000})
    assert client_settings(config)["socket.timeout.ms"] == 1_000
    make_producer(config, lambda _e: None, lambda _c: None)
    make_consumer(config, "test").close()
    wrong = GatewayConfig(kafka="127.0.0.1:1", kafka_options={"socket.timeout.ms": "soon"})
    with pytest.raises(ConfigError, match=r"socket\.timeout\.ms"):
        make_producer(wrong, lambda _e: None, lambda _c: None)


def _rows():
    section = DOCS.read_text().split("\n## Configuration\n")[1].split("\n## ")[0]
    return {m[1]: m[2] for m in re.finditer(r"^\| `([a-z0-9_]+)` \| ([^|]*) \|", section, re.MULTILINE)}


def _shown(field) -> str:
    value = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
    if value is None or value in ("", (), {}, []):
        return "none"
    return str(value).lower() if isinstance(value, bool) else f"{value:_}" if isinstance(value, int) else str(value)


def test_the_docs_show_every_key_with_its_default() -> None:
    fields = {f.name: f for f in msgspec.structs.fields(GatewayConfig)}
    rows = _rows()
    wanted = {name: f"`{_shown(field)}`" for name, field in fields.items()}
    missing = [f"| `{name}` | {wanted[name]} | <unit, bound, meaning> |" for name in fields if name not in rows]
    assert not missing, "docs/gateway.md, Configuration: add the rows\n" + "\n".join(missing)
    gone = sorted(rows.keys() - fields.keys())
    assert not gone, f"docs/gateway.md, Configuration: remove the rows of {', '.join(gone)}"
    wrong = [f"{n}: {wanted[n]} expected, {rows[n]} found" for n in fields if rows[n] != wanted[n]]
    assert not wrong, "docs/gateway.md, Configuration: defaults are others now:\n" + "\n".join(wrong)


def test_brokers_that_still_choose_leaders_are_asked_again_and_any_other_refusal_is_told_at_once() -> None:
    from confluent_kafka import KafkaError, KafkaException

    from gateway.kafka import settled

    answers: list[int] = [KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE]

    def ask() -> str:
        if answers:
            raise KafkaException(KafkaError(answers.pop(0)))
        return "offsets"

    assert settled(ask) == "offsets"
    answers[:] = [KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.NOT_LEADER_FOR_PARTITION]
    with pytest.raises(KafkaException):
        settled(ask)
    assert answers == [KafkaError.NOT_LEADER_FOR_PARTITION]  # asked once
