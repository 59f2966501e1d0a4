"""MQTT 5 packets against bytes worked by hand from the OASIS text, and against paho."""

import random
import socket

import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from covey.errors import LinkError
from firmware_sim import mqtt5
from firmware_sim.mqtt5_fields import PacketError
from raw_broker import RawBroker, connack, packets_of


def raw(text):
    return bytes.fromhex(text.replace("|", " "))


# 1.5.5, table 1-1: the bounds of each length
@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0, "00"),
        (127, "7f"),
        (128, "80 01"),
        (16_383, "ff 7f"),
        (16_384, "80 80 01"),
        (2_097_151, "ff ff 7f"),
        (2_097_152, "80 80 80 01"),
        (268_435_455, "ff ff ff 7f"),
    ],
)
def test_variable_byte_integers_have_the_bounds_of_the_standard(value, written):
    assert mqtt5.varint(value) == raw(written)


def test_no_packet_is_longer_than_the_standard_allows():
    with pytest.raises(LinkError, match="268435456 given"):
        mqtt5.varint(268_435_456)
    with pytest.raises(LinkError, match="65535 bytes"):
        mqtt5.connect("x" * 65_536, 10)


def test_connect_with_everything():
    # Flags 0xCE: user, password, will QoS 1, will, clean start (figure 3-6); keepalive 10; Maximum Packet Size 1 MiB.
    expected = (
        "10 20 | 00 04 4d 51 54 54 | 05 | ce | 00 0a | 05 27 00 10 00 00 | 00 01 61 |"
        "00 | 00 01 77 | 00 01 78 | 00 01 75 | 00 01 70"
    )
    will = ("w", b"x")
    written = mqtt5.connect("a", 10, will=will, user="u", password="p", maximum_packet=1 << 20)
    assert written == raw(expected)


def test_connect_with_nothing():
    assert mqtt5.connect("ab", 0) == raw("10 0f | 00 04 4d 51 54 54 | 05 | 02 | 00 00 | 00 | 00 02 61 62")


def test_the_other_packets_that_we_write():
    # 3.8.3, figure 3-20: a/b with QoS 1; c/d with QoS 0 here
    subscribe = raw("82 0f | 00 0a | 00 | 00 03 61 2f 62 01 | 00 03 63 2f 64 00")
    assert mqtt5.subscribe(10, [("a/b", 1), ("c/d", 0)]) == subscribe
    # 3.3.2, figure 3-9: topic a/b, packet identifier 10
    assert mqtt5.publish("a/b", b"hi", 10) == raw("32 0a | 00 03 61 2f 62 | 00 0a | 00 | 68 69")
    assert mqtt5.publish("a/b", b"hi", 10, retain=True, dup=True)[:1] == raw("3b")
    assert mqtt5.publish("a/b", b"") == raw("30 06 | 00 03 61 2f 62 | 00")
    assert mqtt5.puback(0x1234) == raw("40 02 12 34")
    assert raw("c0 00") == mqtt5.PINGREQ
    assert mqtt5.disconnect() == raw("e0 00")
    assert mqtt5.disconnect(0x04) == raw("e0 01 04")


GOLDEN = [
    (
        "20 13 | 00 | 00 | 10 | 21 00 14 | 27 00 00 07 d0 | 13 00 0f | 24 01 | 22 00 0a",
        mqtt5.Connack(False, 0, receive_maximum=20, maximum_packet=2000, keepalive_s=15, maximum_qos=1),
    ),
    ("20 03 | 01 | 00 | 00", mqtt5.Connack(True, 0)),
    ("20 08 | 00 | 87 | 05 | 1f 00 02 6e 6f", mqtt5.Connack(False, 0x87, reason_text="no")),
    ("90 04 | 00 0a | 00 | 01", mqtt5.Suback(10, b"\x01")),
    ("90 05 | 00 0a | 00 | 01 87", mqtt5.Suback(10, b"\x01\x87")),
    ("40 02 00 0a", mqtt5.Puback(10, 0)),
    ("40 03 00 0a 10", mqtt5.Puback(10, 0x10)),
    ("40 04 00 0a 97 00", mqtt5.Puback(10, 0x97)),
    ("40 0b 00 0a 97 | 07 | 26 00 01 6b 00 01 76", mqtt5.Puback(10, 0x97)),
    ("32 0a | 00 03 61 2f 62 | 00 0a | 00 | 68 69", mqtt5.Publish("a/b", b"hi", 1, False, False, 10)),
    ("39 08 | 00 03 61 2f 62 | 00 | 68 69", mqtt5.Publish("a/b", b"hi", 0, True, True, 0)),
    (  # payload format, message expiry, two subscription identifiers (the second of two bytes), a user property
        "30 1c | 00 01 74 | 15 | 01 01 | 02 00 00 00 3c | 0b 05 | 0b 80 01 | 26 00 01 6b 00 03 61 62 63 | 68 69 21",
        mqtt5.Publish("t", b"hi!", 0, False, False, 0),
    ),
    ("d0 00", mqtt5.Pingresp()),
    ("e0 00", mqtt5.Disconnect(0)),
    ("e0 01 8e", mqtt5.Disconnect(0x8E)),
    ("e0 07 8d | 05 | 1f 00 02 6e 6f", mqtt5.Disconnect(0x8D, "no")),
]


@pytest.mark.parametrize(("written", "packet"), GOLDEN)
def test_packets_that_we_read(written, packet):
    assert mqtt5.decode(raw(written)) == ([packet], len(raw(written)))


def test_many_packets_in_one_piece_and_the_rest_is_left():
    stream = b"".join(raw(written) for written, _ in GOLDEN)
    packets, used = mqtt5.decode(stream + raw("40 02 00"))
    assert packets == [packet for _, packet in GOLDEN]
    assert used == len(stream)


def test_byte_by_byte_is_read_as_in_one_piece():
    long = mqtt5.publish("a/b", bytes(range(256)) * 80, 3)  # three bytes of length
    stream = b"".join(raw(written) for written, _ in GOLDEN) + long
    packets, rest = [], b""
    for byte in stream:
        found, used = mqtt5.decode(rest + bytes((byte,)))
        packets += found
        rest = (rest + bytes((byte,)))[used:]
    assert rest == b""
    assert packets == mqtt5.decode(stream)[0]
    assert packets[-1].payload == bytes(range(256)) * 80


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("00 00", "type 0"),
        ("10 00", "type 1"),
        ("50 02 00 01", "type 5"),  # PUBREC: we publish no QoS 2
        ("f0 00", "type 15"),  # AUTH
        ("41 02 00 01", "PUBACK with flags"),
        ("d0 01 00", "PINGRESP with 1 bytes too many"),
        ("40 02 00 00", "identifier 0"),
        ("40 01 00", "identifier missing"),
        ("34 0a 00 03 61 2f 62 00 0a 00 68 69", "QoS 2"),
        ("36 0a 00 03 61 2f 62 00 0a 00 68 69", "QoS 3"),
        ("30 04 00 00 00 68", "without a topic name"),
        ("30 05 00 01 23 00 68", "wildcards"),
        ("30 05 00 01 ff 00 68", "not UTF-8"),
        ("30 05 00 01 00 00 68", "null character"),
        ("30 02 00 09", "longer than its packet"),
        ("30 08 00 01 74 03 23 00 01 68", "property 0x23"),  # a topic alias that nobody allowed
        ("30 09 00 01 74 04 01 01 01 01 68", "came twice"),
        ("20 02 00 00", "cut short"),
        ("20 03 02 00 00", "reserved flags"),
        ("20 06 00 00 03 21 00 00", "maximum of 0"),
        ("20 05 00 00 05 21 00", "longer than their packet"),
        ("20 05 00 00 02 21 00", "cut short"),
        ("30 ff ff ff ff 7f", "more than four bytes"),
        ("30 80 00", "longer than it need be"),
    ],
)
def test_what_mqtt_5_forbids_is_an_error_in_one_line(written, words):
    with pytest.raises(PacketError, match=words) as caught:
        mqtt5.decode(raw(written))
    assert "\n" not in str(caught.value)


def test_a_packet_above_the_limit_is_refused_before_it_is_there():
    with pytest.raises(PacketError, match="at most 1000 bytes expected, 2003 announced"):
        mqtt5.decode(raw("30 d0 0f"), 1000)  # 0x50 + 0x0f * 128 = 2000, and three bytes before


def test_random_bytes_are_packets_or_errors_and_nothing_else():
    rng = random.Random(20261123)
    golden = [raw(written) for written, _ in GOLDEN]
    for turn in range(20_000):
        if turn % 2:
            data = rng.randbytes(rng.randrange(1, 40))
        else:  # nearly right
            packet = bytearray(rng.choice(golden))
            packet[rng.randrange(len(packet))] = rng.randrange(256)
            data = bytes(packet)
        try:
            packets, used = mqtt5.decode(data)
        except PacketError:
            continue
        assert 0 <= used <= len(data)
        assert (used == 0) == (not packets)


def test_every_reason_has_words():
    assert mqtt5.reason_name(0x87) == "not authorized (0x87)"
    assert mqtt5.reason_name(0xFE) == "unknown reason (0xfe)"


def paho():
    client = Client(CallbackAPIVersion.VERSION2, client_id="p", protocol=MQTTProtocolVersion.MQTTv5)
    client.on_message = lambda _c, got, message: got.append(("message", message.topic, message.payload, message.qos))
    client.on_publish = lambda _c, got, mid, reason, _p: got.append(("puback", mid, reason.value))
    return client


def test_paho_reads_what_we_write_and_we_read_what_paho_writes():
    got, came = [], []
    client = paho()
    client.user_data_set(got)

    def serve(sock):
        stream = packets_of(sock)
        assert next(stream)[0] >> 4 == 1  # CONNECT
        sock.sendall(connack())
        sock.sendall(mqtt5.publish("a/é", b"\x00\xff" * 300, 7))
        sock.sendall(mqtt5.publish("b", b"", retain=True))
        for packet in stream:
            came.append(packet)
            if packet[0] >> 4 == 3:
                sock.sendall(mqtt5.puback(int.from_bytes(packet[6:8], "big")))
            if packet[0] >> 4 == 14:
                return

    with RawBroker(serve) as broker:
        client.connect("127.0.0.1", broker.port)
        properties = Properties(PacketTypes.PUBLISH)
        properties.UserProperty = ("k", "v")
        properties.MessageExpiryInterval = 60
        client.loop_start()
        broker.wait(lambda: len([g for g in got if g[0] == "message"]) == 2)
        info = client.publish("t/1" * 9, b"payload", qos=1, properties=properties)
        client.publish("t/2", b"", qos=0, retain=True)
        broker.wait(lambda: len([p for p in came if p[0] >> 4 == 3]) == 2)
        client.disconnect()
        client.loop_stop()
        broker.wait(lambda: came and came[-1][0] >> 4 == 14)
    assert ("message", "a/é", b"\x00\xff" * 300, 1) in got
    assert ("message", "b", b"", 0) in got
    packets, used = mqtt5.decode(b"".join(came))
    assert used == sum(map(len, came))
    assert packets == [
        mqtt5.Puback(7, 0),
        mqtt5.Publish("t/1" * 9, b"payload", 1, False, False, info.mid),
        mqtt5.Publish("t/2", b"", 0, True, False, 0),
        mqtt5.Disconnect(0),
    ]


def test_our_connect_and_subscribe_are_understood_by_mosquitto(mosquitto):
    with socket.create_connection(("127.0.0.1", mosquitto.port), timeout=10) as sock:
        stream = packets_of(sock)
        sock.sendall(mqtt5.connect("golden", 30, will=("w", b"gone"), user="u", password="p", maximum_packet=1000))
        (answer,), _ = mqtt5.decode(next(stream))
        assert (answer.reason, answer.session_present) == (0, False)
        sock.sendall(mqtt5.subscribe(9, [("golden/+", 1), ("golden/x/#", 0)]))
        assert mqtt5.decode(next(stream))[0] == [mqtt5.Suback(9, b"\x01\x00")]
        sock.sendall(mqtt5.publish("golden/1", b"hello", 4) + mqtt5.PINGREQ)
        kinds = {type(packet) for _ in range(3) for packet in mqtt5.decode(next(stream))[0]}
        assert kinds == {mqtt5.Puback, mqtt5.Publish, mqtt5.Pingresp}
        sock.sendall(mqtt5.disconnect())
        assert next(stream, None) is None
