"""The proxy's contract, on real sockets: bytes whole and in order, whatever the conditions; the conditions really there."""

from __future__ import annotations

import hashlib
import random
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest

from covey.errors import LinkError
from firmware_sim.chaos import CALM, Conditions, Disturbance
from firmware_sim.net.proxy import HELD_BYTES, Proxy
from processes import free_port, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMIT_S = 20.0


class Echo:
    """A server that gives back what it gets, and an orderly end for an orderly end."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    @staticmethod
    def _serve(client: socket.socket) -> None:
        with client:
            try:
                while data := client.recv(65_536):
                    client.sendall(data)
            except OSError:
                return

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def echo() -> Iterator[Echo]:
    server = Echo()
    yield server
    server.close()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[Proxy]:
    with Proxy("127.0.0.1", echo.port, seed=7) as one:
        yield one


def connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), LIMIT_S)


def receive(client: socket.socket, count: int) -> bytes:
    parts = []
    while count and (data := client.recv(min(count, 65_536))):
        parts.append(data)
        count -= len(data)
    return b"".join(parts)


def asked(proxy: Proxy, payload: bytes) -> tuple[bytes, float]:
    """What comes back, and after how many seconds."""
    with connect(proxy) as client:
        begun_s = time.monotonic()
        sender = threading.Thread(target=client.sendall, args=(payload,), daemon=True)
        sender.start()
        answer = receive(client, len(payload))
        return answer, time.monotonic() - begun_s


def test_bytes_pass_whole_and_in_order_while_conditions_change(proxy: Proxy) -> None:
    payload = random.Random(1).randbytes(1_000_000)
    answers: list[bytes] = []
    asking = threading.Thread(target=lambda: answers.append(asked(proxy, payload)[0]), daemon=True)
    asking.start()
    rng = random.Random(2)
    while asking.is_alive():
        proxy.set(Conditions(delay_s=rng.choice((0.0, 0.05)), jitter_s=0.05, loss=rng.choice((0.0, 0.3))))
        time.sleep(0.02)  # so that each of them meets some bytes
        proxy.set(Conditions(stalled=rng.random() < 0.3, rate_bytes_s=rng.choice((0.0, 20_000_000.0))))
        time.sleep(0.02)
        proxy.set(CALM)
    assert hashlib.sha256(answers[0]).digest() == hashlib.sha256(payload).digest()


def test_an_orderly_end_passes_after_the_last_byte(proxy: Proxy) -> None:
    proxy.set(Conditions(delay_s=0.1))
    with connect(proxy) as client:
        client.sendall(b"last words")
        client.shutdown(socket.SHUT_WR)
        assert receive(client, 1_000) == b"last words"
    wait_for(lambda: proxy.counters.open == 0, LIMIT_S, "the connection is gone")


def test_a_delay_is_there_in_each_direction(proxy: Proxy) -> None:
    proxy.set(Conditions(delay_s=0.25))
    assert asked(proxy, b"ping")[1] >= 0.5
    proxy.set(CALM)
    assert min(asked(proxy, b"ping")[1] for _ in range(5)) < 0.25


def test_a_rate_bounds_what_passes(proxy: Proxy) -> None:
    proxy.set(Conditions(rate_bytes_s=50_000.0))
    answer, seconds = asked(proxy, bytes(50_000))
    assert len(answer) == 50_000
    assert seconds >= 0.9  # 50,000 bytes at 50,000 a second, each way, overlapping


def test_loss_comes_as_waiting_and_nothing_is_missing(proxy: Proxy) -> None:
    proxy.set(Conditions(loss=0.5))
    answer, _ = asked(proxy, bytes(20_000))
    assert len(answer) == 20_000
    assert proxy.counters.lost > 0


def test_a_stall_holds_everything_and_then_lets_it_go(proxy: Proxy) -> None:
    with connect(proxy) as client:
        client.sendall(b"one")
        assert receive(client, 3) == b"one"
        proxy.set(Conditions(stalled=True))
        client.sendall(b"two")
        client.settimeout(0.5)
        with pytest.raises(TimeoutError):
            client.recv(3)
        client.settimeout(LIMIT_S)
        proxy.set(CALM)
        assert receive(client, 3) == b"two"
    assert proxy.counters.stalled_s >= 0.5


def test_what_waits_in_the_proxy_is_bounded_and_slows_the_sender_down(proxy: Proxy) -> None:
    proxy.set(Conditions(stalled=True))
    with connect(proxy) as client:
        client.setblocking(False)
        sent = 0
        end_s = time.monotonic() + 1.0
        while time.monotonic() < end_s:
            try:
                sent += client.send(bytes(65_536))
            except BlockingIOError:
                time.sleep(0.01)  # the kernel's buffers are full; more would come if the proxy took it
        assert sent < HELD_BYTES + 16_000_000  # tcp_wmem and tcp_rmem at their largest


def test_a_drop_resets_both_sides_and_new_connections_pass(proxy: Proxy) -> None:
    with connect(proxy) as client:
        client.sendall(b"x")
        assert receive(client, 1) == b"x"
        proxy.drop()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    assert proxy.counters.dropped == 1
    assert asked(proxy, b"again")[0] == b"again"


def test_a_drop_reaches_a_stalled_connection(proxy: Proxy) -> None:
    proxy.set(Conditions(stalled=True))
    with connect(proxy) as client:
        client.sendall(b"x")
        wait_for(lambda: proxy.counters.open == 1, LIMIT_S, "connected")
        proxy.drop()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    wait_for(lambda: proxy.counters.open == 0, LIMIT_S, "the connection is gone")


def was_reset(proxy: Proxy) -> bool:
    try:
        with connect(proxy) as client:
            client.recv(1)
    except ConnectionResetError:
        return True
    return False


def test_refused_connections_are_reset_and_counted(proxy: Proxy) -> None:
    proxy.set(Conditions(refusing=True))
    assert was_reset(proxy)
    assert proxy.counters.refused == 1


def test_an_absent_target_is_a_reset() -> None:
    with Proxy("127.0.0.1", free_port()) as proxy:
        assert was_reset(proxy)
        assert proxy.counters.unreachable == 1


def test_a_schedule_is_played_and_ends_calm(proxy: Proxy) -> None:
    with connect(proxy) as client:
        client.sendall(b"x")
        assert receive(client, 1) == b"x"
        proxy.play((Disturbance("delay", 0.0, 0.3, 0.1), Disturbance("drop", 0.1)))
        with pytest.raises(ConnectionResetError):
            client.recv(1)
    wait_for(lambda: proxy.conditions == CALM, LIMIT_S, "the schedule is over")
    assert proxy.counters.dropped == 1


def test_a_taken_port_is_one_line(echo: Echo) -> None:
    with pytest.raises(LinkError, match=f"proxy: 127.0.0.1:{echo.port}"):
        Proxy("127.0.0.1", 1, listen_port=echo.port).start()
