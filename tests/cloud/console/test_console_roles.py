"""Who may ask what: every route of the OpenAPI document against every role, with and without the CSRF token."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx
import pytest

import console_rig as rig
from cloud.desk import accounts, audit
from cloud.store import schema

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.engine import Engine

# docs/api.md's table, written down a second time: operation -> least role; None: nobody need be logged in.
LEAST = {
    "me": None,
    "login": None,
    "logout": None,
    "fleet": "viewer",
    "stream": "viewer",
    "devices": "viewer",
    "add_device": "operator",
    "device": "viewer",
    "change_device": "operator",
    "forget_device": "admin",
    "command_device": "operator",
    "scores": "viewer",
    "alarms": "viewer",
    "alarm": "viewer",
    "judge_alarm": "operator",
    "judge_alarms": "operator",
    "releases": "viewer",
    "want_release": "admin",
    "learning": "viewer",
    "runs": "viewer",
    "run": "viewer",
    "start_run": "admin",
    "system": "viewer",
    "deadletters": "viewer",
    "deliveries": "viewer",
    "audit": "admin",
    "accounts": "admin",
    "add_account": "admin",
    "change_account": "admin",
    "remove_account": "admin",
    "change_password": "viewer",
}
FILLED = {"device": "d1", "alarm_id": "a1", "group": "default", "number": "1", "run": rig.RUN, "name": "nobody"}


class Site:
    """A console with one account of each role, all logged in."""

    def __init__(self, console: rig.Console, engine: Engine) -> None:
        self.console, self.engine = console, engine
        self.clients = {role: console.logged_in(role) for role in rig.ROLES}
        self.nobody = console.client()
        self.nobody.headers["X-CSRF-Token"] = self.nobody.get("/api/me").json()["csrf"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("roles")
    url, engine = rig.new_store(folder)
    rig.add_accounts(engine)
    with rig.Console(folder, url, requests_per_s=1000, login_tries=1000) as console:
        yield Site(console, engine)
    engine.dispose()


def operations(site: Site) -> list[tuple[str, str, str]]:
    """(operation, method, address) of every route."""
    document = site.nobody.get("/api/openapi.json").json()
    found = []
    for path, methods in document["paths"].items():
        for method, told in methods.items():
            found.append((told["operationId"], method.upper(), path.format(**FILLED)))
    return found


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json().get("code", "") if answer.status_code >= 400 else ""


def ask(client: httpx.Client, method: str, path: str, **headers: str) -> httpx.Response:
    """A request whose body is none a route would take: what it must refuse, it refuses before it reads that."""
    body: Any = None if method == "GET" else b"[]"
    with client.stream(method, path, content=body, headers=headers) as answer:
        if answer.headers["content-type"].startswith("text/event-stream"):
            return httpx.Response(answer.status_code)
        answer.read()
        return answer


def test_the_table_of_roles_names_every_route(site: Site):
    assert {name for name, _, _ in operations(site)} == set(LEAST)


def test_no_route_answers_who_is_not_logged_in(site: Site):
    for name, method, path in operations(site):
        if LEAST[name] is not None:
            assert code(ask(site.nobody, method, path)) == (401, "login_needed"), name


def test_no_route_answers_a_role_that_is_too_small(site: Site):
    tried = 0
    for name, method, path in operations(site):
        least = LEAST[name]
        for role in rig.ROLES[: rig.ROLES.index(least)] if least else ():
            assert code(ask(site.clients[role], method, path)) == (403, "forbidden"), (name, role)
            tried += 1
    assert tried == 5 + 8 * 2  # of the table: five of operators, one role below; eight of admins, two below


def test_every_change_needs_the_sessions_own_token(site: Site):
    other = site.clients["viewer"].headers["X-CSRF-Token"]
    for name, method, path in operations(site):
        if method == "GET":
            continue
        for token in ("", "x", other):
            assert code(ask(site.clients["admin"], method, path, **{"X-CSRF-Token": token})) == (403, "csrf"), name


def test_the_least_role_gets_past_the_door(site: Site):
    for name, method, path in operations(site):
        if name in ("logout", "start_run", "remove_account"):
            continue  # these need no body: they would be done
        answer = ask(site.clients[LEAST[name] or "viewer"], method, path)
        assert answer.status_code == (200 if method == "GET" else 400), (name, answer.text)


def test_a_verdict_is_told_to_the_fleet_and_the_audit_log_and_can_be_undone(site: Site):
    operator = site.clients["operator"]
    body = {"verdict": "rejected", "note": "hard landing"}
    answer = operator.post("/api/alarms/d1/a1/verdict", json=body).json()
    assert (answer["verdict"], answer["verdict_by"]) == ("rejected", "operator")
    assert answer["verdicts"][-1]["note"] == "hard landing"
    last = audit.entries(site.engine, 1)[0]
    assert (last["actor"], last["action"], last["address"]) == ("operator", "rejected", "127.0.0.1")
    deadline = time.monotonic() + 10
    while operator.get("/api/fleet").json()["counts"]["alarm"] and time.monotonic() < deadline:
        time.sleep(0.05)
    counts = operator.get("/api/fleet").json()["counts"]
    assert (counts["alarm"], counts["inbox"]) == (0, 0)
    both = {"alarms": [{"device": "d1", "alarm_id": "a1"}], "verdict": "undone"}
    assert operator.post("/api/verdicts", json=both).json() == {"done": 1}
    assert operator.get("/api/alarms/d1/a1").json()["verdict"] == ""


@pytest.mark.parametrize("alarm_id", ["a/b", "/", "a/verdict", "50%2Fx", "é ?#&+;", "a//b/"])
def test_an_alarm_is_found_and_judged_whatever_its_id_holds(site: Site, alarm_id: str):
    with schema.write(site.engine) as connection:
        rig.put_alarm(connection, "d2", alarm_id, state="end", end_s=time.time())
    path = f"/api/alarms/d2/{quote(alarm_id, safe='')}"
    assert site.clients["viewer"].get(path).json()["alarm_id"] == alarm_id
    answer = site.clients["operator"].post(f"{path}/verdict", json={"verdict": "rejected"})
    assert (answer.status_code, answer.json()["alarm_id"], answer.json()["verdict"]) == (201, alarm_id, "rejected")
    assert code(site.clients["viewer"].get(f"/api/alarms/d2/{quote(alarm_id + 'x', safe='')}")) == (404, "not_found")
    assert (
        site.clients["viewer"]
        .get(f"/why/d2/{quote(alarm_id, safe='')}")
        .headers["content-type"]
        .startswith("text/html")
    )


def test_a_device_is_added_moved_labelled_retired_and_forgotten(site: Site):
    operator, admin = site.clients["operator"], site.clients["admin"]
    made = operator.post("/api/devices", json={"device": "n1", "group": "north", "labels": {"a": "1"}})
    assert made.status_code == 201
    assert made.json()["labels"] == {"a": "1"}
    change = {"group": "south", "labels": {"a": None, "b": "2"}, "state": "retired"}
    told = operator.patch("/api/devices/n1", json=change).json()
    assert (told["group"], told["labels"], told["state"], told["status"]) == ("south", {"b": "2"}, "retired", None)
    assert operator.post("/api/devices/n1/commands", json={"kind": "ping"}).status_code == 409
    order = operator.post("/api/devices/d1/commands", json={"kind": "ping"}).json()
    assert order["id"].startswith("cmd-")
    assert order["expires_s"] > time.time()
    receipt = admin.request("DELETE", "/api/devices/n1", json={"confirm": "n1"}).json()
    assert receipt["erased"]["devices"] == 1
    assert admin.get("/api/devices/n1").status_code == 404
    assert [row["device"] for row in operator.get("/api/devices?q=N1").json()["devices"]] == []


def test_a_release_is_wanted_and_the_device_is_updating(site: Site):
    admin = site.clients["admin"]
    with schema.write(site.engine) as connection:
        rig.put_device(connection, "u1", last_seen_s=time.time(), first_seen_s=time.time())
    assert admin.post("/api/releases/default/9/want", json={}).status_code == 404
    answer = admin.post("/api/releases/default/1/want", json={"to": ["u1"]})
    assert answer.json() == {"devices": ["u1"]}
    assert admin.get("/api/releases").json()["releases"][0]["wanted"] == 1
    told = admin.patch("/api/devices/u1", json={"parameters": {"summary_interval_s": 5}}).json()
    assert (told["desired"], told["desired_revision"], told["parameters"]) == (1, 2, {"summary_interval_s": 5.0})
    deadline = time.monotonic() + 10
    while admin.get("/api/devices/u1").json()["status"] != "updating" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [row["device"] for row in admin.get("/api/devices?status=updating").json()["devices"]] == ["u1"]
    assert admin.request("DELETE", "/api/devices/u1", json={"confirm": "u1"}).status_code == 200


def test_lists_come_in_pages_that_miss_and_repeat_nothing(site: Site):
    viewer = site.clients["viewer"]
    for path, key in (("/api/devices", "devices"), ("/api/deadletters", "deadletters")):
        seen, after = [], None
        while True:
            page = viewer.get(path, params={"limit": 1, **({"after": after} if after else {})}).json()
            assert len(page[key]) <= 1
            seen += page[key]
            after = page["next"]
            if after is None:
                break
        whole = viewer.get(path).json()[key]
        assert seen == whole
        assert len(whole) == 3


def test_an_accounts_role_holds_from_one_request_to_the_next(site: Site):
    admin = site.clients["admin"]
    assert (
        admin.post("/api/accounts", json={"name": "eve", "role": "admin", "password": rig.PASSWORD}).status_code == 201
    )
    eve = site.console.logged_in("eve")
    assert eve.get("/api/audit").status_code == 200
    admin.patch("/api/accounts/eve", json={"role": "viewer"})
    assert code(eve.get("/api/fleet")) == (401, "login_needed")  # a changed account logs in anew
    assert rig.log_in(eve, "eve").json()["role"] == "viewer"
    assert code(eve.get("/api/audit")) == (403, "forbidden")
    admin.patch("/api/accounts/eve", json={"disabled": True})
    assert rig.log_in(eve, "eve").status_code == 401
    assert admin.delete("/api/accounts/eve").json() == {"ok": True}


def test_a_new_password_ends_the_other_sessions_and_keeps_this_one(site: Site):
    accounts.add(site.engine, "ada", "viewer", rig.PASSWORD, rig.HERE)
    here, there = site.console.logged_in("ada"), site.console.logged_in("ada")
    wrong = here.post("/api/me/password", json={"old": "not that one, no", "new": "another long one"})
    assert code(wrong) == (401, "wrong_login")
    fresh = here.post("/api/me/password", json={"old": rig.PASSWORD, "new": "another long one"})
    assert fresh.status_code == 200
    assert code(there.get("/api/fleet")) == (401, "login_needed")
    assert here.get("/api/fleet").status_code == 200
    here.headers["X-CSRF-Token"] = fresh.json()["csrf"]
    assert here.post("/api/logout").status_code == 200
    assert code(here.get("/api/fleet")) == (401, "login_needed")
    assert rig.log_in(site.console.client(), "ada", "another long one").status_code == 200
