"""Thousands of sessions against real brokers, and against a raw server that does what brokers do not."""

import collections
import itertools
import queue
import shutil
import socket
import ssl
import struct
import subprocess
import sys
import time

import pytest
from paho.mqtt.client import Client as Paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.subscribeoptions import SubscribeOptions

from certificates import certificate
from covey.errors import LinkError, UsageError
from firmware_sim.net import mqtt5
from firmware_sim.net.ghosts import allow_open_files
from firmware_sim.net.links import PROFILES, LinkProfile
from firmware_sim.net.sessions import Client, Sessions
from raw_broker import RawBroker, connack, packets_of, suback
from servers import Mosquitto, absent, free_port, unique, wait_for

ETHERNET = PROFILES["ethernet"]


def client(name, link=ETHERNET, seed=1, **more):
    return Client(
        name,
        ((f"{name}/down", 1),),
        f"{name}/presence",
        lambda session: b"gone " + session.encode(),
        link,
        seed,
        **more,
    )


def clients(count, prefix="d", link=ETHERNET):
    base = unique(prefix)
    return [client(f"{base}-{i}", link, i) for i in range(count)]


def until(sessions, predicate, timeout_s=20.0, what="sessions"):
    """Step until it holds; all that happened."""
    happened = []

    def turn():
        happened.extend(sessions.step(0.01))
        return predicate(happened)

    wait_for(turn, timeout_s, what)
    return happened


def connect(sessions, count, timeout_s=20.0):
    return until(sessions, lambda _: sessions.counters.connected == count, timeout_s, "connected")


def told(happened, what):
    return [h for h in happened if h.what == what]


class Cloud:
    """A paho client at the broker's other end; `got` holds (topic, payload, retained) in order of arrival."""

    def __init__(self, port, *filters):
        self.got = []
        ready = queue.SimpleQueue()
        self.client = Paho(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
        self.client.max_inflight_messages = 1000
        self.client.on_message = lambda _c, _d, m: self.got.append((m.topic, m.payload, m.retain))
        self.client.on_subscribe = lambda *_: ready.put(None)
        self.client.on_connect = lambda *_: self.client.subscribe([(f, SubscribeOptions(qos=1)) for f in filters])
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        ready.get(timeout=10)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.client.disconnect()
        self.client.loop_stop()

    def payloads(self, topic):
        return [payload for name, payload, _ in list(self.got) if name == topic]

    def tell(self, topic, payload, qos=1, retain=False):
        self.client.publish(topic, payload, qos=qos, retain=retain).wait_for_publish(10)


@pytest.fixture(params=["mosquitto", "iotcore"])
def broker(request):
    return request.getfixturevalue(request.param)


pytestmark = pytest.mark.broker


def test_messages_arrive_byte_for_byte_and_in_order(broker):
    fleet = clients(3)
    name = fleet[1].client_id
    payloads = [bytes(range(256)) * n for n in (0, 1, 5, 40)]
    with Cloud(broker.port, f"{name}/#") as cloud, Sessions("127.0.0.1", broker.port, fleet) as sessions:
        connect(sessions, 3)
        ids = [sessions.publish(1, f"{name}/summary", payload) for payload in payloads]
        happened = until(sessions, lambda h: len(told(h, "puback")) == 4 and len(cloud.got) >= 4)
        assert [h.detail for h in told(happened, "puback")] == ids
        assert {h.index for h in told(happened, "puback")} == {1}
        assert cloud.payloads(f"{name}/summary") == payloads
        assert sessions.counters.published == sessions.counters.pubacks == 4
        sessions.close()


def test_retained_and_live_messages_come_down_with_their_bytes(broker):
    fleet = clients(2)
    name = fleet[0].client_id
    with Cloud(broker.port, "nothing") as cloud, Sessions("127.0.0.1", broker.port, fleet) as sessions:
        cloud.tell(f"{name}/down", b"kept \x00\xff", retain=True)
        happened = until(sessions, lambda h: sessions.counters.connected == 2 and told(h, "message"))
        cloud.tell(f"{name}/down", b"qos 0", qos=0)
        cloud.tell(f"{name}/down", b"qos 1", qos=1)
        happened += until(sessions, lambda h: len(told(h, "message")) == 2)
        expected = [(0, (f"{name}/down", payload)) for payload in (b"kept \x00\xff", b"qos 0", b"qos 1")]
        assert [(h.index, h.detail) for h in told(happened, "message")] == expected
        cloud.tell(f"{name}/down", b"", retain=True)
        sessions.close()


def test_hundreds_of_messages_are_confirmed_in_order_of_receipt(broker):
    # iotcore ends the connection when they are not; both stop when they are not confirmed at all.
    (device,) = clients(1)
    with Cloud(broker.port, "nothing") as cloud, Sessions("127.0.0.1", broker.port, [device]) as sessions:
        connect(sessions, 1)
        for i in range(300):
            cloud.client.publish(f"{device.client_id}/down", b"%d" % i, qos=1)
        happened = until(sessions, lambda h: len(told(h, "message")) == 300)
        assert [h.detail[1] for h in told(happened, "message")] == [b"%d" % i for i in range(300)]
        assert sessions.connected(0)
        assert sessions.counters.lost == 0


def test_the_will_speaks_after_a_cut_and_not_after_a_close(broker):
    fleet = clients(2)
    first, second = (f"{device.client_id}/presence" for device in fleet)
    with Cloud(broker.port, first, second) as cloud, Sessions("127.0.0.1", broker.port, fleet) as sessions:
        connect(sessions, 2)
        gone = sessions.session(0)
        sessions.cut(0)
        happened = until(sessions, lambda _: cloud.got)
        assert cloud.got[0][:2] == (first, b"gone " + gone.encode())
        happened += until(sessions, lambda _: sessions.connected(0))
        assert [h[1:] for h in told(happened, "lost")] == [("lost", "cut")]
        assert told(happened, "ready")[-1].detail == sessions.session(0) != gone
        begun_s = time.monotonic()
        sessions.close(5.0)
        assert time.monotonic() - begun_s < 4.0  # it does not wait without need
        cloud.tell(first, b"after")
        wait_for(lambda: cloud.payloads(first)[-1:] == [b"after"], 5, "the message behind")
        assert len(cloud.got) == 2


def test_all_come_back_after_a_broker_was_killed(mosquitto_factory):
    broker = mosquitto_factory()
    with Sessions("127.0.0.1", broker.port, clients(200), connect_per_s=2000) as sessions:
        connect(sessions, 200)
        broker.kill9()
        happened = until(sessions, lambda h: len(told(h, "lost")) == 200)
        assert {h.detail for h in told(happened, "lost")} <= {
            "connection closed by the broker",
            "connection reset by peer",
        }
        until(sessions, lambda _: sessions.counters.failed >= 200)
        assert "connection refused" in sessions.counters.reasons
        broker.start()
        until(sessions, lambda _: sessions.counters.connected == 200, 40)
        assert sessions.publish(7, "t", b"x") == 2  # packet ids begin again
        until(sessions, lambda h: told(h, "puback"))


def test_a_broker_that_hangs_is_noticed_by_keepalive(mosquitto_factory):
    broker = mosquitto_factory()
    with Sessions("127.0.0.1", broker.port, clients(5), keepalive_s=1) as sessions:
        connect(sessions, 5)
        calm_s = time.monotonic() + 2.5
        until(sessions, lambda _: time.monotonic() > calm_s)
        assert sessions.counters.lost == 0  # pings are answered
        broker.pause()
        begun_s = time.monotonic()
        happened = until(sessions, lambda h: len(told(h, "lost")) == 5, 10)
        assert 0.9 < time.monotonic() - begun_s < 10.0  # 1 s of silence or less, then 1 s for the answer
        assert {h.detail for h in told(happened, "lost")} == {"keepalive: no answer to a ping"}
        broker.resume()
        connect(sessions, 5, 40)


def test_a_thousand_sessions_at_once(broker):
    fleet = clients(1000)
    with Sessions("127.0.0.1", broker.port, fleet, connect_per_s=5000) as sessions:
        connect(sessions, 1000, 40)
        # Everyone tells its neighbour.
        for i in range(1000):
            assert sessions.publish(i, f"{fleet[(i + 1) % 1000].client_id}/down", b"from %d" % i) is not None
        happened = until(sessions, lambda h: len(told(h, "puback")) == len(told(h, "message")) == 1000, 40)
        assert {(h.index, h.detail[1]) for h in told(happened, "message")} == {
            (i, b"from %d" % ((i - 1) % 1000)) for i in range(1000)
        }
        for i in range(500):
            sessions.cut(i)
        connect(sessions, 1000, 40)
        assert sessions.counters.connects == 1500
        sessions.close()


def admit(sock, properties=b""):
    """CONNACK and SUBACK; the packets that follow."""
    stream = packets_of(sock)
    next(stream)
    sock.sendall(connack(properties))
    sock.sendall(suback(next(stream)))
    return stream


@pytest.mark.parametrize(("properties", "window"), [(b"", 20), (b"\x21\x00\x07", 7), (b"\x21\x03\xe8", 20)])
def test_never_more_than_the_window_is_unconfirmed(properties, window):
    open_ids, seen, most = set(), [], []

    def serve(sock):
        for packet in admit(sock, properties):
            assert packet[0] == 0x32
            packet_id = struct.unpack(">H", packet[5:7])[0]  # behind two bytes of header and the topic "t"
            assert packet_id not in open_ids
            open_ids.add(packet_id)
            seen.append(packet_id)
            most.append(len(open_ids))
            if len(open_ids) == window:  # only now; and not in the order of sending
                for one in sorted(open_ids, reverse=True):
                    open_ids.discard(one)
                    sock.sendall(mqtt5.puback(one))

    with RawBroker(serve) as broker, Sessions("127.0.0.1", broker.port, clients(1)) as sessions:
        connect(sessions, 1)
        assert sessions.room(0) == window
        happened = []
        for _ in range(5):
            taken = 0
            while sessions.publish(0, "t", b"x") is not None:
                taken += 1
            assert taken == window
            assert sessions.room(0) == 0
            happened += until(sessions, lambda h: len(told(h, "puback")) == window)
        assert max(most) == window
        assert len(seen) == len(told(happened, "puback")) == 5 * window


def test_packet_ids_in_flight_are_not_given_out_again():
    ids = []

    def serve(sock):
        for packet in admit(sock):
            packet_id = struct.unpack(">H", packet[5:7])[0]
            ids.append(packet_id)
            if packet_id != 5:  # this one is never confirmed
                sock.sendall(mqtt5.puback(packet_id))

    with RawBroker(serve) as broker, Sessions("127.0.0.1", broker.port, clients(1), window=1000) as sessions:
        connect(sessions, 1)
        sent = 0
        while sent < 66_000:
            while sent < 66_000 and sessions.publish(0, "t", b"") is not None:
                sent += 1
            sessions.step(0.01)
        until(sessions, lambda _: sessions.unconfirmed(0) == 1)
    assert collections.Counter(ids)[5] == 1
    assert min(ids) == 1
    assert max(ids) == 65_535
    assert len(ids) == 66_000


def test_what_is_published_in_one_step_is_one_segment():
    with (
        RawBroker(lambda sock: list(admit(sock))) as broker,
        Sessions("127.0.0.1", broker.port, clients(1)) as sessions,
    ):
        connect(sessions, 1)

        def segments():  # tcp_info: tcpi_data_segs_out, linux/tcp.h
            sock = sessions._lines[0].connection.sock
            return struct.unpack_from("I", sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 160), 156)[0]

        before = segments()
        for _ in range(20):
            assert sessions.publish(0, "t", b"x" * 200)
        sessions.step(0.0)
        assert segments() == before + 1


def test_an_event_larger_than_the_broker_takes_is_refused_and_the_session_stays(mosquitto_factory):
    broker = mosquitto_factory("allow_anonymous true\nmax_packet_size 2000\n")
    with Sessions("127.0.0.1", broker.port, clients(1)) as sessions:
        connect(sessions, 1)
        # Header and length of three bytes, the topic of three, the packet id and no properties: nine before the payload.
        with pytest.raises(LinkError, match="at most 2000 bytes expected by the broker, 2001 given"):
            sessions.publish(0, "t", b"x" * 1992)
        assert sessions.publish(0, "t", b"x" * 1991) is not None
        until(sessions, lambda h: told(h, "puback"))
        assert sessions.counters.lost == 0


def test_answers_byte_by_byte_are_understood():
    message = mqtt5.publish("down", b"0123456789" * 30, 9)

    def serve(sock):
        stream = packets_of(sock)
        next(stream)
        for byte in connack():
            sock.sendall(bytes((byte,)))
        answer = suback(next(stream)) + message
        for byte in answer:
            sock.sendall(bytes((byte,)))
        assert next(stream) == mqtt5.puback(9)
        sock.sendall(mqtt5.publish("down", b"end"))

    with RawBroker(serve) as broker, Sessions("127.0.0.1", broker.port, clients(1)) as sessions:
        happened = until(sessions, lambda h: len(told(h, "message")) == 2)
        assert told(happened, "message")[0].detail == ("down", b"0123456789" * 30)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"\xf0\x00", "unexpected packet of type 15"),
        (b"HTTP/1.1 400 Bad Request\r\n" * 5, "malformed packet: PUBACK with flags 0x8"),
        (b"\x30\xff\xff\xff\x7f", "packet too large: at most 1048576 bytes expected, 268435460 announced"),
        (mqtt5.publish("t", b"x"), "PUBLISH before CONNACK"),
        (b"\x20\x03\x00\x87\x00", "refused: not authorized (0x87)"),
        (b"\x20\x03\x01\x00\x00", "a session is present after a clean start"),
        (connack(b"\x24\x00"), "refused: this broker takes QoS 0 only"),
        (connack() + connack(), "CONNACK twice"),
        (connack() + b"\x90\x04\x00\x01\x00\x87", "subscription refused: not authorized (0x87)"),
        (connack() + b"\x90\x05\x00\x01\x00\x01\x01", "SUBACK of another number"),
        (connack() + b"\x90\x04\x00\x02\x00\x01", "SUBACK to nothing"),
        (connack() + b"\xe0\x01\x8e", "ended by the broker: session taken over (0x8e)"),
        (b"", "connection closed by the broker"),
    ],
)
def test_what_a_broker_must_not_say_ends_that_session_only(answer, why):
    def serve(sock):
        stream = packets_of(sock)
        packet = next(stream)
        if b"bad/presence" in packet:
            sock.sendall(answer)
            sock.shutdown(socket.SHUT_WR)
        else:
            sock.sendall(connack())
            sock.sendall(suback(next(stream)))
        list(stream)

    fleet = [client("bad"), client("good")]
    with RawBroker(serve) as broker, Sessions("127.0.0.1", broker.port, fleet) as sessions:
        until(sessions, lambda _: sessions.counters.connected == 1 and sessions.counters.failed >= 2)
        assert sessions.connected(1)
        assert all(why in reason for reason in sessions.counters.reasons)
        assert sessions.counters.lost == 0


def test_a_keepalive_of_the_brokers_own_is_kept():
    pings = []

    def serve(sock):
        for packet in admit(sock, b"\x13\x00\x01"):  # Server Keep Alive: 1 s
            assert packet == mqtt5.PINGREQ
            pings.append(time.monotonic())
            sock.sendall(b"\xd0\x00")

    with RawBroker(serve) as broker, Sessions("127.0.0.1", broker.port, clients(1), keepalive_s=600) as sessions:
        connect(sessions, 1)
        until(sessions, lambda _: len(pings) == 3)
        assert pings[2] - pings[0] > 1.9


class Hand:
    """A clock that stands still until it is moved."""

    def __init__(self):
        self.now_s = 100.0

    def __call__(self):
        return self.now_s


def test_first_connections_come_at_their_rate(mosquitto):
    hand = Hand()
    with Sessions("127.0.0.1", mosquitto.port, clients(100), connect_per_s=50, clock=hand) as sessions:
        for at_s, expected in ((0.0, 1), (0.5, 26), (1.0, 51), (10.0, 100)):
            hand.now_s = 100.0 + at_s
            connect(sessions, expected)
            for _ in range(5):
                sessions.step(0.01)
            assert sessions.counters.connected == expected


def retries(seed, seconds=200):
    """Waits between refused tries, on a clock of our own."""
    hand = Hand()
    device = client(unique("d"), seed=seed)
    begun = []
    with Sessions("127.0.0.1", free_port(), [device], clock=hand) as sessions:
        for step in range(seconds * 20):
            hand.now_s = 100.0 + step * 0.05
            failed = sessions.counters.failed
            sessions.step()
            sessions.step()  # the answer to a try on loopback is there at once
            if sessions.counters.failed > failed:
                begun.append(hand.now_s)
    return [b - a for a, b in itertools.pairwise(begun)]


def test_tries_are_spread_and_grow_to_half_a_minute():
    waits = retries(1)
    assert waits[0] == pytest.approx(0.2, abs=0.11)
    assert all(0.15 <= wait <= 30.1 for wait in waits)
    assert max(waits) > 5.0
    assert retries(1) == waits
    assert retries(2) != waits


def test_a_step_with_nothing_to_do_looks_at_no_session(mosquitto):
    def calls(count):
        with Sessions("127.0.0.1", mosquitto.port, clients(count), connect_per_s=1e6) as sessions:
            connect(sessions, count)
            seen = []
            sys.setprofile(lambda _frame, event, _arg: seen.append(event))
            try:
                sessions.step()
            finally:
                sys.setprofile(None)
            return len(seen)

    assert calls(300) == calls(10) < 50


def test_too_low_a_limit_of_open_files_is_one_line():
    code = (
        "import resource\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (100, 500))\n"
        "from covey.errors import UsageError\n"
        "from firmware_sim.net.ghosts import allow_open_files\n"
        "print(allow_open_files(200), resource.getrlimit(resource.RLIMIT_NOFILE))\n"
        "try: allow_open_files(501)\n"
        "except UsageError as error: print(error)\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True).stdout
    assert out.splitlines() == [
        "400 (400, 500)",
        "501 open files needed, 500 allowed: raise the hard limit (ulimit -Hn, LimitNOFILE=)",
    ]
    with pytest.raises(UsageError):
        allow_open_files(1 << 40)


def test_an_outage_is_silent_and_what_was_published_comes_after_it(mosquitto):
    fleet = clients(2)
    name = fleet[0].client_id
    with Cloud(mosquitto.port, f"{name}/#") as cloud, Sessions("127.0.0.1", mosquitto.port, fleet) as sessions:
        connect(sessions, 2)
        begun_s = time.monotonic()
        sessions.outage(0, begun_s + 0.5)
        sessions.publish(0, f"{name}/summary", b"late")
        sessions.publish(1, f"{name}/summary", b"early")
        cloud.client.publish(f"{name}/down", b"down", qos=1)
        happened = until(sessions, lambda h: told(h, "message") and len(told(h, "puback")) == 2)
        assert time.monotonic() - begun_s >= 0.5
        assert cloud.payloads(f"{name}/summary") == [b"early", b"late"]
        assert [h.index for h in told(happened, "puback")] == [1, 0]
        assert sessions.counters.lost == 0
        # A link that adds nothing is taken away again.
        until(sessions, lambda _: sessions._lines[0].link is None)
        sessions.publish(0, f"{name}/summary", b"again")
        until(sessions, lambda h: told(h, "puback"))


def test_the_broker_learns_of_a_long_outage_by_keepalive_alone(mosquitto):
    fleet = clients(2)
    wills = [f"{device.client_id}/presence" for device in fleet]
    with (
        Cloud(mosquitto.port, *wills) as cloud,
        Sessions("127.0.0.1", mosquitto.port, fleet, keepalive_s=1) as sessions,
    ):
        connect(sessions, 2)
        old = sessions.session(0)
        begun_s = time.monotonic()
        sessions.outage(0, begun_s + 6.0)
        # The device gives up within 2 s; the broker waits for 1.5 keepalives (3.1.2.10), and must not see it leave before.
        until(sessions, lambda h: told(h, "lost"))
        lost_s = time.monotonic()
        until(sessions, lambda _: cloud.got)
        assert cloud.got == [(wills[0], b"gone " + old.encode(), False)]
        assert time.monotonic() - begun_s > 1.4
        assert lost_s - begun_s < 4.0
        assert not sessions.connected(0)
        happened = until(sessions, lambda _: sessions.counters.connected == 2, 40)
        assert time.monotonic() - begun_s > 6.0
        assert told(happened, "ready")[-1].detail != old
        assert cloud.payloads(wills[1]) == []


def test_a_device_without_power_is_silent_and_comes_back_when_told(mosquitto):
    (device,) = clients(1)
    with (
        Cloud(mosquitto.port, f"{device.client_id}/#") as cloud,
        Sessions("127.0.0.1", mosquitto.port, [device], keepalive_s=1) as sessions,
    ):
        connect(sessions, 1)
        begun_s = time.monotonic()
        sessions.off(0)
        assert sessions.publish(0, "t", b"x") is None
        until(sessions, lambda _: cloud.got)
        assert time.monotonic() - begun_s > 1.0  # no FIN told it
        quiet_s = time.monotonic() + 0.6
        until(sessions, lambda _: time.monotonic() > quiet_s)
        assert sessions.counters.connects == 1
        sessions.on(0)
        connect(sessions, 1)
        assert sessions.counters.connects == 2


def test_a_link_is_slower_by_what_it_adds(mosquitto):
    (device,) = clients(1, link=LinkProfile("x", latency_s=0.1, up_bytes_s=10_000))
    begun_s = time.monotonic()
    with Sessions("127.0.0.1", mosquitto.port, [device]) as sessions:
        connect(sessions, 1)
        # Three round trips: TCP, CONNECT, SUBSCRIBE.
        assert 0.6 <= time.monotonic() - begun_s < 10.0
        begun_s = time.monotonic()
        sessions.publish(0, "t", b"x" * 1990)  # with its header 2 kB: 0.2 s
        until(sessions, lambda h: told(h, "puback"))
        assert 0.4 <= time.monotonic() - begun_s < 10.0


def test_a_bad_link_keeps_bytes_and_order_both_ways(mosquitto):
    link = LinkProfile("x", latency_s=0.005, jitter_s=0.005, loss=0.02, down_bytes_s=2e6, up_bytes_s=2e6)
    fleet = clients(20, link=link)
    with Sessions("127.0.0.1", mosquitto.port, fleet) as sessions:
        connect(sessions, 20)
        # Each tells its neighbour, 100 kB at a time: more than a link holds before reading stops.
        sent = [[bytes((i, n)) * 50_000 for n in range(5)] for i in range(20)]
        for n in range(5):
            for i in range(20):
                assert sessions.publish(i, f"{fleet[(i + 1) % 20].client_id}/down", sent[i][n])
        happened = until(sessions, lambda h: len(told(h, "message")) == len(told(h, "puback")) == 100, 60)
        for i in range(20):
            got = [h.detail[1] for h in told(happened, "message") if h.index == (i + 1) % 20]
            assert got == sent[i]
        assert sessions.counters.lost == 0


def test_the_end_of_a_connection_comes_through_the_link_too():
    def serve(sock):
        stream = admit(sock)
        next(stream)
        sock.sendall(mqtt5.publish("t", b"last"))

    device = client("d", LinkProfile("x", latency_s=0.2))
    with RawBroker(serve) as broker, Sessions("127.0.0.1", broker.port, [device]) as sessions:
        connect(sessions, 1)
        sessions.publish(0, "t", b"x")
        begun_s = time.monotonic()
        happened = until(sessions, lambda h: told(h, "lost"))
        assert time.monotonic() - begun_s >= 0.4
        assert [h.what for h in happened] == ["message", "lost"]


def test_two_devices_of_one_name_fight_with_backoff(mosquitto):
    twin = client(unique("twin"))
    with Sessions("127.0.0.1", mosquitto.port, [twin, client(twin.client_id, seed=2)]) as sessions:
        end_s = time.monotonic() + 3.0
        until(sessions, lambda _: time.monotonic() > end_s)
        assert sessions.counters.lost >= 2
        # One each 0.2 s, hence 17, if each connection made the next wait short again.
        assert sessions.counters.connects <= 12, sessions.counters


def test_user_and_password_are_each_devices_own(tmp_path, mosquitto_factory):
    tool = shutil.which("mosquitto_passwd")
    if tool is None:
        absent("mosquitto", "mosquitto_passwd is not installed")
    fleet = [client("d-1", user="user-{device}", password="one"), client("d-2", user="user-{device}", password="wrong")]
    passwords = tmp_path / "passwords"
    passwords.touch(mode=0o644)
    for name, password in (("user-d-1", "one"), ("user-d-2", "two")):
        subprocess.run([tool, "-b", str(passwords), name, password], check=True, timeout=30, capture_output=True)
    broker = mosquitto_factory(f"allow_anonymous false\npassword_file {passwords}\n")
    with Sessions("127.0.0.1", broker.port, fleet) as sessions:
        until(sessions, lambda _: sessions.counters.connected == 1 and sessions.counters.failed >= 2)
        assert sessions.connected(0)
        assert set(sessions.counters.reasons) == {"refused: not authorized (0x87)"}


def test_tls_with_and_without_a_link_and_not_to_a_stranger(tmp_path):
    cert_file, key_file = certificate(tmp_path)
    port = free_port()
    lines = f"listener {port} 127.0.0.1\ncertfile {cert_file}\nkeyfile {key_file}\nallow_anonymous true\n"
    tls = ssl.create_default_context(cafile=str(cert_file))
    slow = LinkProfile("x", latency_s=0.1)
    first, second = client(unique("d")), client(unique("d"), slow)
    payload = bytes(range(256)) * 200  # several records of TLS
    with Mosquitto(tmp_path / "m", lines, port):
        begun_s = time.monotonic()
        with Sessions("127.0.0.1", port, [first, second], tls=tls) as sessions:
            connect(sessions, 2)
            assert time.monotonic() - begun_s >= 0.8  # four round trips: TCP, TLS 1.3, CONNECT, SUBSCRIBE
            assert sessions.publish(0, f"{second.client_id}/down", payload)
            assert sessions.publish(1, f"{first.client_id}/down", payload[::-1])
            happened = until(sessions, lambda h: len(told(h, "message")) == len(told(h, "puback")) == 2)
            assert {(h.index, h.detail[1]) for h in told(happened, "message")} == {(1, payload), (0, payload[::-1])}
            sessions.close()
        with Sessions("127.0.0.1", port, [first], tls=ssl.create_default_context()) as sessions:
            until(sessions, lambda _: sessions.counters.failed)
            assert set(sessions.counters.reasons) == {"tls: certificate verify failed"}
        with Sessions("127.0.0.1", port, [first]) as sessions:  # no TLS at all
            until(sessions, lambda _: sessions.counters.failed)
            assert sessions.counters.connects == 0


def test_an_unknown_host_is_one_line():
    with pytest.raises(LinkError, match=r"mqtt no\.such\.host\.invalid:1883"):
        Sessions("no.such.host.invalid", 1883, [])
