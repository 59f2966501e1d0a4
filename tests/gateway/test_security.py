"""A gateway between locked brokers: TLS, certificates and passwords on both sides; each refusal is one clear line, and ends.

Every lock is real: mosquitto with certificates and password_file, Apache Kafka with SSL, SASL and ACLs.
"""

import logging
from types import SimpleNamespace

import pytest
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from certificates import DAY, Authority
from cloud.config import CloudConfig
from cloud.stream.kafka import Reader, Writer
from covey import topics
from covey.errors import LinkError
from covey.runtime import poll
from gateway.config import GatewayConfig
from gateway.kafka import ensure_topics
from gateway.link import Link
from secured import MECHANISMS, SECRET, mosquitto_password, mosquitto_tls, write_secret
from servers import Mosquitto, free_port, unique

pytestmark = pytest.mark.broker


@pytest.fixture(scope="module")
def locked(tmp_path_factory):
    """mosquitto: a plain listener for devices, a locked one for gateways, two whose certificates are wrong."""
    folder = tmp_path_factory.mktemp("locked")
    authority = Authority(folder / "ca")
    passwords = mosquitto_password(folder / "passwords", "gateway", SECRET)
    ports = SimpleNamespace(plain=free_port(), good=free_port(), stale=free_port(), elsewhere=free_port())
    config = f"per_listener_settings true\nlistener {ports.plain} 127.0.0.1\nallow_anonymous true\n"
    strict = f"require_certificate true\nallow_anonymous false\npassword_file {passwords}\n"
    config += mosquitto_tls(ports.good, authority, authority.issue("server"), more=strict)
    config += mosquitto_tls(ports.stale, authority, authority.issue("stale", ends_in=-DAY))
    config += mosquitto_tls(ports.elsewhere, authority, authority.issue("elsewhere", host="mqtt.example.org"))
    config = config.replace("max_queued_messages 100000\n", "")
    with Mosquitto(folder / "broker", config, ports.plain) as broker:
        yield SimpleNamespace(broker=broker, ports=ports, authority=authority, folder=folder)


def _mqtt_keys(locked, folder, secret=SECRET):
    cert, key = locked.authority.issue("gateway")
    return {
        "mqtt": f"127.0.0.1:{locked.ports.good}",
        "mqtt_ca": str(locked.authority.ca),
        "mqtt_cert": str(cert),
        "mqtt_key": str(key),
        "mqtt_user": "gateway",
        "mqtt_password_file": str(write_secret(folder / "mqtt-password", secret)),
    }


def _config_file(path, keys):
    path.write_text("".join(f'{key} = "{value}"\n' for key, value in keys.items()))
    return str(path)


def _brokers(locked, doors, folder):
    """What the gateway fixtures know as brokers; devices come by the plain listener."""
    return SimpleNamespace(kind="real", mqtt=locked.broker, kafka=doors.kafka, bootstrap="", folder=folder)


def _start(start, locked, doors, folder, keys, *, wait=True):
    file = _config_file(folder / "gateway.toml", keys)
    return start(_brokers(locked, doors, folder), wait=wait, config=file, mqtt=keys["mqtt"], kafka=keys["kafka"])


def _lines(gateway, *parts):
    return [line for line in gateway.process.log.read_text().splitlines() if all(p in line for p in parts)]


def test_events_pass_with_certificates_and_passwords_on_both_sides(start, locked, doors, tmp_path, name) -> None:
    gateway = _start(start, locked, doors, tmp_path, _mqtt_keys(locked, tmp_path) | doors.keys("LOGIN"))
    devices = start.devices(gateway.brokers, [name])
    devices.write(name, 50)
    devices.push_until(50, 30.0)
    assert _lines(gateway, "WARNING") == []


@pytest.mark.parametrize("door", ["LOGIN", "CLEAR"])
@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_kafka_takes_each_mechanism(doors, door, mechanism) -> None:
    ensure_topics(GatewayConfig(**doors.keys(door, kafka_mechanism=mechanism)))


def test_kafka_takes_a_client_certificate(doors) -> None:
    ensure_topics(GatewayConfig(**doors.keys("MUTUAL")))


def test_what_kafka_or_its_certificate_refuses_is_said_plainly(doors, tmp_path) -> None:
    wrong = str(write_secret(tmp_path / "wrong", "not it"))
    cases = [
        (doors.keys("STALE"), "the broker's certificate has expired; it is CN=stale"),
        (doors.keys("ELSEWHERE"), "the broker's certificate is of another host"),
        (doors.keys("LOGIN", kafka_ca=str(doors.stranger.ca)), "is not signed by kafka_ca"),
        (doors.keys("LOGIN", kafka_password_file=wrong), "SASL authentication error: Authentication failed"),
    ]
    for keys, part in cases:
        with pytest.raises(LinkError) as told:
            ensure_topics(GatewayConfig(**keys))
        assert part in str(told.value)
        assert "\n" not in str(told.value)


def test_what_is_wrong_with_mqtts_certificate_is_said_plainly(locked, tmp_path) -> None:
    good = _mqtt_keys(locked, tmp_path)
    stranger = Authority(tmp_path / "stranger")
    cases = [
        ({"mqtt": f"127.0.0.1:{locked.ports.stale}"}, "the broker's certificate has expired"),
        ({"mqtt": f"127.0.0.1:{locked.ports.elsewhere}"}, "the broker's certificate is of another host"),
        ({"mqtt_ca": str(stranger.ca)}, "is not signed by mqtt_ca"),
        ({"mqtt": f"127.0.0.1:{locked.ports.plain}"}, "is TLS spoken there?"),
    ]
    for other, part in cases:
        link = Link(GatewayConfig(**good | other), logging.getLogger("test"))
        with pytest.raises(LinkError) as told:
            link.connect()
        assert part in str(told.value)


@pytest.mark.slow
def test_wrong_passwords_are_told_once_and_a_replaced_file_needs_no_restart(start, locked, doors, tmp_path, name):
    kafka_password = write_secret(tmp_path / "kafka-password", "not it")
    keys = _mqtt_keys(locked, tmp_path, "not it") | doors.keys("LOGIN", kafka_password_file=str(kafka_password))
    gateway = _start(start, locked, doors, tmp_path, keys, wait=False)
    assert poll(lambda: bool(_lines(gateway, "WARNING", "SASL authentication error")), 30.0)
    write_secret(tmp_path / "new", SECRET).replace(kafka_password)
    seen = locked.broker.process.log.read_text().count("not authorised")
    assert poll(lambda: bool(_lines(gateway, "mqtt", "refused: not authorized")), 40.0)
    tries = f"covey-gateway-{gateway.name}"
    assert poll(lambda: locked.broker.process.log.read_text().count("not authorised") >= seen + 3, 40.0), tries
    assert len(_lines(gateway, "SASL authentication error")) == 1
    assert len(_lines(gateway, "refused: not authorized")) == 1
    write_secret(tmp_path / "new", SECRET).replace(tmp_path / "mqtt-password")
    assert poll(lambda: bool(gateway.status().get("ready")), 40.0)
    devices = start.devices(gateway.brokers, [name])
    devices.write(name, 5)
    devices.push_until(5, 20.0)


@pytest.mark.slow
def test_replaced_certificates_need_no_restart(start, locked, doors, tmp_path, name) -> None:
    stranger = Authority(tmp_path / "stranger")
    pairs = {side: stranger.issue(side) for side in ("mqtt", "kafka")}
    files = {
        f"{side}_{part}": str(path) for side in pairs for part, path in zip(("cert", "key"), pairs[side], strict=True)
    }
    keys = _mqtt_keys(locked, tmp_path) | doors.keys("MUTUAL") | files
    gateway = _start(start, locked, doors, tmp_path, keys, wait=False)
    assert poll(lambda: bool(_lines(gateway, "WARNING", "kafka")), 30.0)
    assert "alert" in _lines(gateway, "WARNING", "kafka")[0]
    for new, old in zip(doors.authority.issue("gateway"), pairs["kafka"], strict=True):
        old.write_bytes(new.read_bytes())
    assert poll(lambda: bool(_lines(gateway, "mqtt", "before CONNACK")), 40.0)
    for new, old in zip(locked.authority.issue("gateway"), pairs["mqtt"], strict=True):
        old.write_bytes(new.read_bytes())
    assert poll(lambda: bool(gateway.status().get("ready")), 40.0)
    devices = start.devices(gateway.brokers, [name])
    devices.write(name, 5)
    devices.push_until(5, 20.0)


def _rule(name, operation, kind=ResourceType.TOPIC, pattern=ResourcePatternType.LITERAL):
    return AclBinding(kind, name, pattern, "User:limited", "*", operation, AclPermissionType.ALLOW)


@pytest.mark.slow
def test_a_revoked_permission_holds_events_until_it_is_given_back(start, locked, doors, tmp_path, name) -> None:
    ensure_topics(GatewayConfig(**doors.keys("LOGIN")))
    admin = AdminClient({"bootstrap.servers": doors.kafka.bootstrap})
    rules = [_rule(t, o) for t in topics.KAFKA_TOPICS for o in (AclOperation.READ, AclOperation.WRITE)]
    rules.append(_rule("covey-gateway-", AclOperation.READ, ResourceType.GROUP, ResourcePatternType.PREFIXED))
    for future in admin.create_acls(rules).values():
        future.result(10)
    keys = _mqtt_keys(locked, tmp_path) | doors.keys("LOGIN", kafka_user="limited")
    gateway = _start(start, locked, doors, tmp_path, keys)
    devices = start.devices(gateway.brokers, [name], resend_s=60.0)
    devices.write(name, 5)
    devices.push_until(5, 30.0)
    mine = _rule(topics.STATUS, AclOperation.WRITE)
    gone = AclBindingFilter(
        mine.restype,
        mine.name,
        mine.resource_pattern_type,
        mine.principal,
        mine.host,
        mine.operation,
        mine.permission_type,
    )
    for future in admin.delete_acls([gone]).values():
        assert len(future.result(10)) == 1
    devices.write(name, 5)
    devices.push()
    assert poll(lambda: bool(_lines(gateway, "WARNING", "kafka", "authorization failed")), 30.0)
    assert devices.settled() == 5
    for future in admin.create_acls([mine]).values():
        future.result(10)
    devices.push_until(10, 40.0)


def _read_key(reader, key):
    try:
        assert reader.assign_new({}) > 0
        assert poll(lambda: any(record.key == key for record in reader.batch(100, 0.2)), 20.0)
    finally:
        reader.close()


def test_the_cloud_comes_in_with_the_same_keys(doors) -> None:
    ensure_topics(GatewayConfig(**doors.keys("LOGIN")))
    for door in ("MUTUAL", "LOGIN"):
        config = CloudConfig(**doors.keys(door))
        writer, delivered, key = Writer(config), [], unique("d")
        assert writer.produce(topics.FEEDBACK, key, b"{}", delivered.append)
        assert writer.flush(20.0) == 0
        assert delivered == [True]
        _read_key(Reader(config, [topics.FEEDBACK]), key)
    with pytest.raises(ValueError, match="kafka_password_file expected"):
        CloudConfig(kafka_user="u")
