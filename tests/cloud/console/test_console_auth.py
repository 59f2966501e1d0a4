"""Who may do what: every route of the API by role, the token that changes carry, logins, limits, and an identity provider."""

from __future__ import annotations

import re
from contextlib import closing
from typing import TYPE_CHECKING, Any

import httpx
import oidc_provider_mock
import pytest
import sqlalchemy as sa

import console_rig as rig
from cloud.desk import accounts, audit
from cloud.store import schema, tables

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy.engine import Engine

# As docs/api.md has it: what a role below may not do.
OPERATOR = {
    "POST /api/devices", "PATCH /api/devices/{device}", "POST /api/devices/{device}/commands",
    "POST /api/alarms/{device}/{alarm_id}/verdict", "POST /api/verdicts",
}  # fmt: skip
ADMIN = {
    "DELETE /api/devices/{device}", "POST /api/releases/{group}/{number}/want", "POST /api/runs", "GET /api/audit",
    "GET /api/accounts", "POST /api/accounts", "PATCH /api/accounts/{name}", "DELETE /api/accounts/{name}",
}  # fmt: skip
NOBODY = {"GET /api/me", "POST /api/login", "POST /api/logout", "GET /api/login/oidc", "GET /api/login/oidc/callback"}
ENDLESS = "GET /api/stream"


@pytest.fixture(scope="module")
def doors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[rig.Console, Engine]]:
    folder = tmp_path_factory.mktemp("doors")
    url, engine = rig.new_store(folder)
    rig.add_accounts(engine)
    with rig.Console(folder, url, requests_per_s=1000, login_tries=5) as running:
        yield running, engine
    engine.dispose()


def routes(client: httpx.Client) -> list[str]:
    """Every operation of the API, as its own description has it."""
    paths = client.get("/api/openapi.json").json()["paths"]
    return sorted(
        f"{method.upper()} {path}" for path, ways in paths.items() for method in ways if path.startswith("/api/")
    )


def needed(route: str) -> str | None:
    if route in NOBODY:
        return None
    return "admin" if route in ADMIN else "operator" if route in OPERATOR else "viewer"


def asked(client: httpx.Client, route: str, **options: Any) -> httpx.Response:
    method, path = route.split(" ")
    path = re.sub(r"\{(\w+)\}", lambda found: {"number": "1"}.get(found[1], "none"), path)
    return client.request(method, path, **options)


def test_the_documented_routes_are_those_there_are(doors: tuple[rig.Console, Engine]) -> None:
    with doors[0].client() as client:
        there = set(routes(client))
    assert ADMIN | OPERATOR | {ENDLESS} <= there
    assert {"GET /api/fleet", "GET /api/system", "POST /api/me/password"} <= there


def test_every_route_is_closed_to_who_is_not_logged_in(doors: tuple[rig.Console, Engine]) -> None:
    with doors[0].client() as client:
        for route in routes(client):
            if needed(route) is not None:
                answer = asked(client, route)
                assert (answer.status_code, answer.json()["code"]) == (401, "login_needed"), route


def test_every_route_asks_for_its_role(doors: tuple[rig.Console, Engine]) -> None:
    for place, role in enumerate(rig.ROLES):
        with closing(doors[0].logged_in(role)) as client:
            for route in routes(client):
                wanted = needed(route)
                if wanted is None or route == ENDLESS:
                    continue
                answer = asked(client, route)
                if rig.ROLES.index(wanted) > place:
                    assert (answer.status_code, answer.json()["code"]) == (403, "forbidden"), (role, route)
                else:
                    assert answer.status_code not in (401, 403), (role, route, answer.text)


def test_every_change_asks_for_the_sessions_own_token(doors: tuple[rig.Console, Engine]) -> None:
    console, _ = doors
    with closing(console.logged_in("admin")) as client, closing(console.logged_in("operator")) as other:
        foreign = other.headers["X-CSRF-Token"]
        for route in routes(client):
            if route.startswith("GET ") or route == "POST /api/login":
                continue
            for token in ("", "x" * 64, foreign):
                answer = asked(client, route, headers={"X-CSRF-Token": token})
                assert (answer.status_code, answer.json()["code"]) == (403, "csrf"), route
        assert client.get("/api/me").json()["name"] == "admin"


def test_a_wrong_login_tells_nothing_and_too_many_are_stopped(doors: tuple[rig.Console, Engine]) -> None:
    console, engine = doors
    with console.client() as client:
        told = {rig.log_in(client, name, "wrong password 1").text for name in ("viewer", "nobody-here")}
        assert len(told) == 1, "a name that exists is told apart from one that does not"
        answers = [rig.log_in(client, "operator", "wrong password 1") for _ in range(6)]
        assert [answer.status_code for answer in answers][:4] == [401] * 4
        assert answers[-1].status_code == 429
        assert int(answers[-1].headers["retry-after"]) >= 1
        assert rig.log_in(client, "operator", rig.PASSWORD).status_code == 429, "the right one waits as well"
    actions = [(row["action"], row["target"]) for row in audit.entries(engine, 50)]
    assert ("login_failed", "operator") in actions


def test_a_session_ends_with_logout_and_with_a_changed_password(tmp_path: Path) -> None:
    url, engine = rig.new_store(tmp_path)
    rig.add_accounts(engine)
    with rig.Console(tmp_path, url, requests_per_s=1000) as console:
        with closing(console.logged_in("viewer")) as one, closing(console.logged_in("viewer")) as two:
            one.post("/api/logout")
            assert one.get("/api/fleet").status_code == 401
            assert two.get("/api/fleet").status_code == 200
            wrong = two.post("/api/me/password", json={"old": "not the old one", "new": "another good one"})
            assert wrong.status_code == 401
            with closing(console.logged_in("viewer")) as three:
                assert (
                    two.post("/api/me/password", json={"old": rig.PASSWORD, "new": "another good one"}).status_code
                    < 300
                )
                assert three.get("/api/fleet").status_code == 401
        with console.client() as client:
            assert rig.log_in(client, "viewer").status_code == 401
            assert rig.log_in(client, "viewer", "another good one").status_code == 200
            accounts.change(engine, "viewer", rig.HERE, disabled=True)
            assert client.get("/api/fleet").status_code == 401
    with schema.read(engine) as connection:
        stored = list(connection.execute(sa.select(tables.sessions.c.token_sha256)).scalars())
    assert all(re.fullmatch("[0-9a-f]{64}", one) for one in stored)
    engine.dispose()


def test_a_change_is_told_in_the_audit_log_with_name_and_address(doors: tuple[rig.Console, Engine]) -> None:
    console, engine = doors
    with closing(console.logged_in("admin")) as client:
        assert client.post("/api/devices", json={"device": "audited", "group": "north"}).status_code == 201
        assert "audited" in client.get("/api/audit").text
    rows = audit.entries(engine)
    row = next(row for row in rows if row["target"] == "audited")
    assert (row["actor"], row["action"], row["address"]) == ("admin", "add", "127.0.0.1")


@pytest.mark.parametrize("groups", [["ops"], ["nobody"]])
def test_an_identity_provider_lets_in_who_has_a_role_and_no_one_else(tmp_path: Path, groups: list[str]) -> None:
    url, engine = rig.new_store(tmp_path)
    user = oidc_provider_mock.User(sub="ada", claims={"groups": groups, "email": "ada@example.org"})
    with oidc_provider_mock.run_server_in_thread(user_claims=[user]) as provider:
        issuer = f"http://localhost:{provider.server_port}"
        secret = tmp_path / "secret"
        secret.write_text("of the client\n")
        given = {"oidc_issuer": issuer, "oidc_client_id": "covey", "oidc_client_secret_file": str(secret)}
        given["oidc_roles"] = {"ops": "operator"}
        with rig.Console(tmp_path, url, **given) as console, console.client() as client:
            assert client.get("/api/fleet").status_code == 401
            assert client.get("/api/me").json()["oidc"] is True
            there = client.get("/api/login/oidc")
            assert there.status_code in (302, 303, 307)
            asked_of = httpx.URL(there.headers["location"])
            assert asked_of.params["code_challenge_method"] == "S256"
            back = httpx.post(str(asked_of), data={"sub": "ada"}, timeout=20)
            target = httpx.URL(back.headers["location"])
            landed = client.get(target.path, params=target.params)
            if groups == ["ops"]:
                assert landed.status_code in (302, 303, 307), landed.text
                me = client.get("/api/me").json()
                assert me["role"] == "operator"
                again = client.get(target.path, params=target.params)  # a used code opens nothing
                assert again.status_code in (400, 401)
            else:
                assert landed.status_code in (401, 403)
                assert client.get("/api/me").json()["role"] is None
            stranger = console.client()
            assert stranger.get(target.path, params=target.params).status_code == 400, "another browser's departure"
            stranger.close()
    engine.dispose()
