"""MQTT 5 bytes into messages, by hand-made packets cut anywhere."""

import random
import socket

import pytest

from gateway.receiver import BatchClient, PacketError, Received, parse_publish, read_varint, received


def _varint(n: int) -> bytes:
    out = bytearray()
    while True:
        n, digit = divmod(n, 128)
        out.append(digit | (128 if n else 0))
        if not n:
            return bytes(out)


def _publish(topic: bytes, payload: bytes, mid: int = 0, properties: bytes = b"") -> bytes:
    body = len(topic).to_bytes(2, "big") + topic + (mid.to_bytes(2, "big") if mid else b"")
    body += _varint(len(properties)) + properties + payload
    return bytes([0x30 | (2 if mid else 0)]) + _varint(len(body)) + body


def test_varints_of_one_to_four_bytes() -> None:
    # MQTT 5, table 1-1: the borders of each length
    for n in (0, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152, 268_435_455):
        data = _varint(n)
        assert read_varint(data, 0, len(data)) == (n, len(data))
        assert read_varint(data, 0, len(data) - 1) is None
    with pytest.raises(PacketError):
        read_varint(b"\x80\x80\x80\x80\x01", 0, 5)


def test_properties_are_skipped_whatever_their_length() -> None:
    for size in (0, 1, 126, 127, 128, 200, 16_400):
        body = b"\x00\x01t\x00\x05" + _varint(size) + b"p" * size + b"data"
        assert parse_publish(0x32, body, 0, len(body)) == received(b"t", b"data", 5)


@pytest.mark.parametrize(
    ("flags", "body"),
    [
        (0x34, b"\x00\x01t\x00\x05\x00"),  # QoS 2
        (0x32, b"\x00"),
        (0x32, b"\x00\x09t\x00\x05\x00"),  # topic longer than the packet
        (0x32, b"\x00\x01t\x00"),
        (0x32, b"\x00\x01t\x00\x05"),  # no property length
        (0x32, b"\x00\x01t\x00\x05\x09ab"),  # properties longer than the packet
        (0x32, b"\x00\x01t\x00\x00\x00"),  # packet id 0
        (0x32, b"\x00\x00\x00\x05\x03\x23\x00\x01x"),  # a topic alias that was not offered
    ],
)
def test_packets_that_were_not_agreed_to_are_refused(flags: int, body: bytes) -> None:
    with pytest.raises(PacketError):
        parse_publish(flags, body, 0, len(body))


def test_packets_cut_anywhere_come_out_whole_in_order_and_once() -> None:
    rng = random.Random(7)
    wanted = []
    stream = bytearray()
    for n in range(300):
        size = rng.choice((0, 1, 120, 130, 5_000, 70_000 if n % 100 == 0 else 10))
        payload = rng.randbytes(size)
        mid = 0 if n % 7 == 0 else n + 1
        wanted.append(received(b"a/%d" % n, payload, mid))
        stream += _publish(b"a/%d" % n, payload, mid, rng.randbytes(rng.choice((0, 3, 150))))
        if n % 10 == 0:
            stream += b"\xd0\x00"  # PINGRESP between
    ours, theirs = socket.socketpair()
    try:
        ours.setblocking(False)
        client = BatchClient("test")
        client._sock = ours
        got: list[Received] = []
        pos = 0
        while pos < len(stream):
            cut = rng.choice((1, 2, 3, 50, 4_000, 60_000))
            theirs.sendall(stream[pos : pos + cut])
            pos += cut
            assert client.loop_read() == 0
            got += client.take()
        assert got == wanted
    finally:
        theirs.close()
        ours.close()


def test_a_malformed_packet_ends_the_connection() -> None:
    ours, theirs = socket.socketpair()
    ended: list[object] = []
    try:
        ours.setblocking(False)
        client = BatchClient("test")
        client._sock = ours
        client.on_disconnect = lambda *_args: ended.append(1)
        theirs.sendall(_publish(b"t", b"good", 1) + b"\x34\x06\x00\x01t\x00\x05\x00")
        client.loop_read()
        assert client.take() == [received(b"t", b"good", 1)]
        assert client.socket() is None
        assert ended
    finally:
        theirs.close()
