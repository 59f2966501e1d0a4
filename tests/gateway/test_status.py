"""The status page says what an operator asks first, for one process and for several."""

import socket
import threading

import pytest

from covey.errors import CoveyError, LinkError, UsageError
from gateway.counts import Counts, together
from gateway.status_cli import ask, page, rates


def _seen(**about):
    counts = Counts()
    counts.add("received", 1500, "summary")
    counts.add("deadletter", 3, "too_fast")
    counts.add("delivered", 1497, "covey.summaries")
    counts.observe("ack_delay_s", 0.004, 100)
    counts.gauges.update(in_flight=12, oldest_s=0.25, held_back=1, kafka_queue=7, start_time_s=1_000.0)
    known = {"gateway": "g", "alive": True, "ready": True, "mqtt": "m:1", "kafka": "k:2", "ack_after": "kafka"}
    return known | counts.snapshot() | about


def test_the_page_groups_what_came_in_went_out_and_was_refused() -> None:
    text = "\n".join(page(_seen(), 1_000.0 + 3_725))
    assert "g: ready" in text
    assert "(1 h 2 min)" in text
    assert "1,500 messages" in text
    assert "refused      3: too_fast 3" in text
    assert "in flight    12 messages, oldest 0.250 s, HELD BACK" in text
    # 100 values in (2 ms, 5 ms]: the median is in its middle, 3.5 ms; 99 % of the way is 4.97
    assert "p50 3.5 ms, p99 5.0 ms, of 100" in text


def test_the_first_line_says_why_a_gateway_is_not_ready() -> None:
    assert page(_seen(ready=False, kafka_connected=1), 0)[0] == "g: NOT READY: no mqtt"
    connected = {"ready": False, "kafka_connected": 1, "mqtt_connected": 1}
    assert page(_seen(**connected, oldest_s=42.0), 0)[0].endswith("Kafka has confirmed nothing for 42 s")
    assert page(_seen(ready=False, alive=False), 0)[0].endswith("its loop does not turn")


def test_rates_are_differences_over_time_and_never_negative() -> None:
    later = _seen(received={"summary": 1700, "alarm": 100})
    assert rates(_seen(), later, 2.0) == {"in": 150.0, "out": 0.0, "refused": 0.0}
    assert rates(later, _seen(), 2.0)["in"] == 0.0  # it was started again


def test_several_processes_add_up_and_are_as_bad_as_the_worst() -> None:
    one, two = _seen(mqtt_connected=1), _seen(mqtt_connected=0, oldest_s=9.0, start_time_s=500.0)
    both = together([one, two])
    assert both["received"] == {"summary": 3000}
    assert (both["in_flight"], both["oldest_s"], both["mqtt_connected"], both["start_time_s"]) == (24, 9.0, 0, 500.0)
    assert both["ack_delay_s"]["count"] == 200
    assert both["ack_delay_s"]["p50"] == one["ack_delay_s"]["p50"]
    assert together([])["received"] == {}


def test_an_answer_of_another_version_and_a_wrong_address_are_one_line() -> None:
    with pytest.raises(CoveyError, match="another version"):
        page({"gateway": "g", "ready": True}, 0)
    for url in ("ftp://a:1", "a:1", "http://a:port"):
        with pytest.raises(UsageError, match="--url"):
            ask(url)
    with socket.socket() as other:  # something that answers, and is no gateway
        other.bind(("127.0.0.1", 0))
        other.listen()

        def answer() -> None:
            peer, _ = other.accept()
            with peer:
                peer.recv(4096)
                peer.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        with pytest.raises(LinkError, match="another service has the port"):
            ask(f"http://127.0.0.1:{other.getsockname()[1]}")
        thread.join(5)
