"""The console's process: what it refuses to be, how it answers, how it ends."""

from __future__ import annotations

import contextlib
import subprocess
import time
from typing import TYPE_CHECKING

import httpx
import pytest

import cloud_events as ev
import console_rig as rig
from certificates import certificate

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory) -> Iterator[rig.Console]:
    folder = tmp_path_factory.mktemp("local")
    url, engine = rig.new_store(folder)
    with rig.Console(folder, url, requests_per_s=1000) as running:
        yield running
    engine.dispose()


def test_without_accounts_everybody_here_is_admin_and_is_told_so(console: rig.Console):
    with console.client() as client:
        me = client.get("/api/me").json()
    assert (me["name"], me["role"], me["accounts"], me["oidc"]) == ("local", "admin", False, False)
    assert any("no accounts" in notice for notice in me["notices"])
    assert "no accounts" in console.process.log.read_text()


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "10.0.0.1", "", "localhost.", "[::2]", "a b"]
)
def test_another_host_name_reads_nothing_on_loopback(console: rig.Console, host: str):
    with console.client() as client:
        for path in ("/api/me", "/api/fleet", "/", "/metrics", "/api/openapi.json"):
            answer = client.get(path, headers={"host": host})
            assert answer.status_code in (400, 403), path
            assert "csrf" not in answer.text


@pytest.mark.parametrize("host", ["10.0.0.1:8300", "evil.example", ""])
def test_probes_may_ask_by_any_name_and_read_one_word(console: rig.Console, host: str):
    with console.client() as client:
        for path in ("/healthz", "/readyz"):
            answer = client.get(path, headers={"host": host})
            assert (answer.status_code, answer.json()) == (200, {"ok": True}), path


@pytest.mark.parametrize("host", ["localhost:1", "127.0.0.1", "[::1]:8300", "LOCALHOST"])
def test_loopbacks_own_names_are_answered(console: rig.Console, host: str):
    with console.client() as client:
        assert client.get("/api/me", headers={"host": host}).status_code == 200


def test_a_change_without_the_token_is_refused_on_loopback_too(console: rig.Console):
    with console.client() as client:
        for token in (None, "", "wrong", client.get("/api/me").json()["csrf"][:-1]):
            headers = {} if token is None else {"X-CSRF-Token": token}
            answer = client.post("/api/devices", json={"device": "x1"}, headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (403, "csrf")
        assert client.get("/api/devices/x1").status_code == 404


def test_every_answer_carries_the_headers_that_keep_other_sites_out(console: rig.Console):
    with console.client() as client:
        for path in ("/api/me", "/nothing", "/api/nothing", "/healthz"):
            headers = client.get(path).headers
            policy = headers["content-security-policy"]
            assert "default-src 'self'" in policy
            assert "frame-ancestors 'none'" in policy
            assert "unsafe" not in policy
            assert headers["x-content-type-options"] == "nosniff"
            assert "strict-transport-security" not in headers
        assert client.get("/api/me", headers={"host": "evil"}).headers["x-content-type-options"] == "nosniff"


def test_errors_are_one_sentence_and_one_word(console: rig.Console):
    with console.client() as client:
        client.headers["X-CSRF-Token"] = client.get("/api/me").json()["csrf"]
        cases = [
            (client.get("/api/devices?limit=0"), 400, "bad_request"),
            (client.get("/api/devices?limit=many"), 400, "bad_request"),
            (client.get("/api/devices?after=%00"), 400, "bad_request"),
            (client.get("/api/devices/none"), 404, "not_found"),
            (client.get("/api/nothing"), 404, "not_found"),
            (client.put("/api/devices/d1"), 405, "method_not_allowed"),
            (client.post("/api/devices", json={"device": "d1"}), 409, "conflict"),
            (client.post("/api/devices", json={"device": "../x"}), 400, "bad_request"),
            (client.post("/api/devices", json={"device": "x", "more": 1}), 400, "bad_request"),
            (client.post("/api/devices", content=b"{"), 400, "bad_request"),
            (client.post("/api/devices", content=b'"' + b"x" * 2_000_000 + b'"'), 413, "too_large"),
            (client.post("/api/runs"), 409, "conflict"),
            (client.delete("/api/devices/d3"), 400, "bad_request"),
            (client.request("DELETE", "/api/devices/d3", json={"confirm": "d2"}), 409, "conflict"),
        ]
        for answer, status, code in cases:
            body = answer.json()
            assert (answer.status_code, body["code"], set(body)) == (status, code, {"error", "code"}), (
                answer.request.url
            )
            assert "\n" not in body["error"]


def test_a_public_address_without_accounts_is_refused_in_one_line(tmp_path):
    url, engine = ev.new_store(tmp_path)
    engine.dispose()
    everywhere = "0.0.0.0"  # noqa: S104  # what is to be refused
    command = ev.cloud_command("console", "--store", url, "--host", everywhere, "--port", "0")
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert len(ended.stderr.strip().splitlines()) == 1
    assert "--host 0.0.0.0: accounts or OIDC expected" in ended.stderr


def test_a_stopped_console_ends_its_streams_and_itself_within_seconds(tmp_path):
    url, engine = rig.new_store(tmp_path)
    with (
        rig.Console(tmp_path, url) as console,
        console.client() as client,
        client.stream("GET", "/api/stream") as answer,
    ):
        events = rig.events_of(answer.iter_lines())
        assert next(events)[0] == "hello"
        begin = time.monotonic()
        console.process.stop()
        assert console.process.wait(1) == 0
        assert time.monotonic() - begin < 15
        with contextlib.suppress(httpx.HTTPError):
            assert {name for name, _, _ in events} <= {"fleet", "snapshot"}  # what was on its way, then the end
    engine.dispose()


def test_under_tls_the_cookie_is_secure_and_browsers_are_told_to_stay(tmp_path):
    url, engine = rig.new_store(tmp_path)
    rig.add_accounts(engine)
    cert, key = certificate(tmp_path)
    with (
        rig.Console(tmp_path, url, "https", tls_cert=str(cert), tls_key=str(key)) as console,
        console.client(verify=False) as client,
    ):
        answer = rig.log_in(client, "viewer")
        assert "max-age=31536000" in answer.headers["strict-transport-security"]
        cookie = answer.headers["set-cookie"]
        assert "Secure" in cookie
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert client.get("/api/fleet").status_code == 200
    engine.dispose()


def test_figures_are_prometheus_and_health_is_told(console: rig.Console):
    with console.client() as client:
        assert client.get("/healthz").json() == {"ok": True}
        text = client.get("/metrics").text
        assert 'covey_console_devices{status="alarm"} 1.0' in text
        assert "covey_console_store_failures_total 0.0" in text
        assert "process_resident_memory_bytes" in text
