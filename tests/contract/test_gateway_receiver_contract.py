"""The private parts of paho-mqtt that the batch receiver stands on; the fallback when they move."""

import logging
import socket

import pytest
from paho.mqtt.client import Client

from gateway import receiver
from gateway.config import GatewayConfig
from gateway.link import Link


def test_the_installed_paho_carries_the_batch_receiver() -> None:
    assert receiver.contract_problem() == ""
    assert receiver.receiver_contract_holds()


@pytest.mark.parametrize("part", ["_packet_queue", "_packet_handle", "_loop_rc_handle", "_sock_recv"])
def test_without_a_private_part_stock_paho_takes_over_and_says_so(
    part: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # another paho version, as far as we can see: the name is gone from its class
    monkeypatch.delattr(Client, part)
    assert not receiver.receiver_contract_holds()
    with caplog.at_level(logging.WARNING):
        link = Link(GatewayConfig(), logging.getLogger("gateway"))
    assert link._make is receiver.StockClient
    assert "one by one" in caplog.text


def test_stock_paho_yields_the_same_batches_and_acknowledges_in_order() -> None:
    body = b"\x00\x01t" + b"\x00\x07" + b"\x00" + b"data"
    packets = bytes([0x32, len(body)]) + body + bytes([0x32, len(body)]) + body.replace(b"\x07", b"\x08")
    packets += b"\x30\x05\x00\x01t\x00x"
    answers = []
    for kind in (receiver.StockClient, receiver.BatchClient):
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.settimeout(2.0)
        client = kind("same")
        client._sock = ours
        theirs.sendall(packets)
        got = []
        while len(got) < 3:
            assert client.loop_read() == 0
            got += client.take()
        client.puback([mid for _topic, _payload, mid, _user in got if mid])
        acks = b""
        while len(acks) < 8:
            acks += theirs.recv(100)
        answers.append((got, acks))
        theirs.close()
        ours.close()
    assert answers[0] == answers[1]
    assert answers[0][1] == b"\x40\x02\x00\x07\x40\x02\x00\x08"
