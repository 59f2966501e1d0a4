"""Logging in: limits by name and address, in bounded memory, and sessions that end."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

import cloud_events as ev
import console_rig as rig
from cloud.console import sessions
from cloud.console.limits import Limit, network
from cloud.desk import accounts, audit
from cloud.store import schema, tables

if TYPE_CHECKING:
    from pathlib import Path


def test_a_limit_gives_its_tokens_back_over_the_window():
    limit = Limit(3, 30.0)  # one comes back in ten seconds
    assert [limit.wait_s("a", 0.0) for _ in range(3)] == [0.0, 0.0, 0.0]
    assert limit.wait_s("a", 0.0) == pytest.approx(10.0)
    assert limit.wait_s("b", 0.0) == 0.0
    assert limit.wait_s("a", 9.0) == pytest.approx(1.0)
    assert limit.wait_s("a", 10.0) == 0.0
    assert limit.wait_s("a", 10.0) == pytest.approx(10.0)
    limit.forgive("a")
    assert limit.wait_s("a", 10.0) == 0.0


def test_a_limit_holds_so_many_keys_and_no_more():
    limit = Limit(1, 1e9, keys=100)
    for number in range(1000):
        limit.wait_s(f"k{number}", 0.0)
    assert len(limit._left) == 100
    assert limit.wait_s("k999", 0.0) > 0  # the newest are held
    assert limit.wait_s("k0", 0.0) == 0.0  # the oldest is forgotten


def test_an_ipv6_household_is_one_address():
    assert network("2001:db8:1:2:3::1") == network("2001:db8:1:2:ffff::9") == "2001:db8:1:2::/64"
    assert network("2001:db8:1:3::1") != network("2001:db8:1:2::1")
    assert network("192.0.2.7") == "192.0.2.7"
    assert network("x" * 100) == "x" * 64


def test_a_session_ends_by_age_by_idleness_and_with_its_account(tmp_path: Path):
    _, engine = ev.new_store(tmp_path)
    rig.add_accounts(engine)
    token, csrf = sessions.begin(engine, "viewer", 1000.0)
    now = time.time()
    found = sessions.find(engine, token, 100.0)
    assert found is not None
    assert (found.name, found.role, found.csrf) == ("viewer", "viewer", csrf)
    assert sessions.find(engine, token + "x", 100.0) is None
    assert sessions.find(engine, token, 100.0, now + 101) is None
    assert sessions.find(engine, token, 100.0, now + 90) is not None  # and was seen then
    assert sessions.find(engine, token, 100.0, now + 180) is not None
    assert sessions.find(engine, token, 5000.0, now + 1001) is None
    with schema.read(engine) as connection:
        held = connection.execute(sa.select(tables.sessions.c.token_sha256)).scalar_one()
    assert token not in held
    accounts.change(engine, "viewer", rig.HERE, disabled=True)
    assert sessions.find(engine, token, 100.0) is None
    engine.dispose()


def test_passwords_are_guessed_slowly_by_name_and_by_address(tmp_path: Path):
    url, engine = rig.new_store(tmp_path)
    rig.add_accounts(engine)
    with rig.Console(tmp_path, url, login_tries=3, login_window_s=86_400) as console, console.client() as client:
        told = [rig.log_in(client, "viewer", "wrong wrong wrong") for _ in range(4)]
        assert [answer.status_code for answer in told] == [401, 401, 401, 429]
        assert int(told[3].headers["retry-after"]) > 3600
        assert rig.log_in(client, "viewer").status_code == 429  # the right one, too
        assert rig.log_in(client, "operator").status_code == 200
        nobody = rig.log_in(client, "nobody-of-this-name", "wrong wrong wrong")
        assert nobody.json() == told[0].json()  # who guesses names learns none
        # Seven tries of this address are over; it has nine, three times a name's three.
        assert [rig.log_in(client, "admin", "wrong wrong wrong").status_code for _ in range(3)] == [401, 401, 429]
        actions = [row["action"] for row in audit.entries(engine, 100)]
    assert actions.count("login_failed") == 6  # those that were limited fill no log
    assert actions.count("login") == 1
    engine.dispose()


def test_a_session_of_requests_is_limited(tmp_path: Path):
    url, engine = rig.new_store(tmp_path)
    with rig.Console(tmp_path, url, requests_per_s=1) as console, console.client() as client:
        codes = [client.get("/api/me").status_code for _ in range(15)]
        assert codes[:10] == [200] * 10
        assert codes[-1] == 429
        assert client.get("/healthz").status_code == 200
    engine.dispose()


def test_the_first_account_closes_the_door_at_once(tmp_path: Path):
    url, engine = rig.new_store(tmp_path)
    with rig.Console(tmp_path, url) as console, console.client() as client:
        client.headers["X-CSRF-Token"] = client.get("/api/me").json()["csrf"]
        refused = client.post("/api/accounts", json={"name": "ada", "role": "viewer", "password": rig.PASSWORD})
        assert refused.status_code == 400
        made = client.post("/api/accounts", json={"name": "ada", "role": "admin", "password": rig.PASSWORD})
        assert made.status_code == 201
        assert client.get("/api/fleet").status_code == 401
        assert client.get("/api/me").json()["name"] is None
        assert rig.log_in(client, "ada").json()["role"] == "admin"
        assert client.get("/api/me").json()["accounts"] is True
    engine.dispose()
