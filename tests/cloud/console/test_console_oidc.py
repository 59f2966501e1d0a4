"""Logging in by an identity provider: a real one (oidc-provider-mock) against the running console, and one that forges."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from joserfc import jwt
from joserfc.jwk import KeySet, RSAKey
from oidc_provider_mock import User, run_server_in_thread

import cloud_events as ev
import console_rig as rig
from cloud.config import CloudConfig, ConsoleConfig
from cloud.console import oidc, oidc_accounts
from cloud.console.problems import Refused
from cloud.desk import accounts, audit
from covey.config import load
from covey.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sqlalchemy.engine import Engine

USERS = [
    User(sub="u-ada", claims={"preferred_username": "ada", "groups": ["staff", "fleet-admins"]}),
    User(sub="u-bob", claims={"preferred_username": "bob", "groups": ["staff"]}),
    User(sub="u-eve", claims={"preferred_username": "eve", "groups": ["guests"]}),
    User(sub="u-viewer", claims={"preferred_username": "viewer", "groups": ["staff"]}),
]
ROLES = {"staff": "operator", "fleet-admins": "admin"}


class Site:
    def __init__(self, console: rig.Console, engine: Engine, issuer: str) -> None:
        self.console, self.engine, self.issuer = console, engine, issuer


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("oidc")
    url, engine = rig.new_store(folder)
    rig.add_accounts(engine)
    secret = folder / "secret"
    secret.write_text("of the client: 100 %\n")
    with run_server_in_thread(require_nonce=True, user_claims=USERS) as server:
        issuer = f"http://localhost:{server.server_port}"
        config: dict[str, Any] = {
            "oidc_issuer": issuer,
            "oidc_client_id": "covey",
            "oidc_client_secret_file": str(secret),
        }
        config |= {"oidc_roles": ROLES, "login_tries": 1000}
        with rig.Console(folder, url, **config) as console:
            yield Site(console, engine, issuer)
    engine.dispose()


def depart(client: httpx.Client) -> str:
    """To the provider's page; returns its address."""
    answer = client.get("/api/login/oidc")
    assert answer.status_code == 302, answer.text
    return answer.headers["location"]


def consent(address: str, subject: str) -> str:
    """Say yes there as `subject`; returns the address of the way back."""
    answer = httpx.post(address, data={"sub": subject}, timeout=20)
    assert answer.status_code == 302, answer.text
    return answer.headers["location"]


def log_in(client: httpx.Client, subject: str) -> httpx.Response:
    return client.get(consent(depart(client), subject))


def test_a_claim_becomes_a_role_and_the_greatest_holds(site: Site):
    for subject, name, role in (("u-ada", "ada", "admin"), ("u-bob", "bob", "operator")):
        with site.console.client() as client:
            answer = log_in(client, subject)
            assert (answer.status_code, answer.headers.get("location")) == (302, "/"), answer.text
            me = client.get("/api/me").json()
            assert (me["name"], me["role"], me["oidc"], me["accounts"]) == (name, role, True, True)
            assert client.get("/api/fleet").status_code == 200
            assert (client.get("/api/audit").status_code == 200) == (role == "admin")
            client.headers["X-CSRF-Token"] = me["csrf"]
            assert client.post("/api/logout").status_code == 200
    found = {row["name"]: row for row in accounts.all_accounts(site.engine)}
    assert found["ada"]["oidc"] is True
    assert [row["action"] for row in audit.entries(site.engine, 50) if row["actor"] == "ada"] == [
        "logout",
        "login",
        "account_add",
    ]


def test_who_has_no_role_is_refused_and_gets_no_account(site: Site):
    with site.console.client() as client:
        answer = log_in(client, "u-eve")
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
        assert "covey_session" not in answer.headers.get("set-cookie", "")
    assert "eve" not in {row["name"] for row in accounts.all_accounts(site.engine)}


def test_a_providers_name_does_not_take_an_account_that_has_a_password(site: Site):
    with site.console.client() as client:
        log_in(client, "u-viewer")
        assert client.get("/api/me").json()["name"] == "viewer-2"
        assert client.get("/api/me").json()["role"] == "operator"


def test_the_way_there_has_state_nonce_and_a_challenge_of_the_verifier(site: Site):
    with site.console.client() as client:
        query = parse_qs(urlsplit(depart(client)).query)
        trip = json.loads(base64.urlsafe_b64decode(client.cookies[oidc.COOKIE].strip('"').rpartition(".")[0]))
    digest = hashlib.sha256(trip["verifier"].encode()).digest()
    assert query["code_challenge"] == [base64.urlsafe_b64encode(digest).decode().rstrip("=")]
    assert query["code_challenge_method"] == ["S256"]
    assert (query["state"], query["nonce"]) == ([trip["state"]], [trip["nonce"]])
    assert query["redirect_uri"] == [f"{site.console.base}/api/login/oidc/callback"]
    assert len(trip["verifier"]) >= 43  # RFC 7636, 4.1


def test_another_browsers_way_back_is_refused(site: Site):
    with site.console.client() as here, site.console.client() as there:
        back = consent(depart(here), "u-ada")
        assert there.get(back).status_code == 400  # no cookie of a departure
        depart(there)
        assert there.get(back).status_code == 400  # another departure's
        assert there.get("/api/me").json()["name"] is None
        tampered = here.cookies[oidc.COOKIE].replace("a", "b", 1)
        answer = here.get(back, headers={"cookie": f"{oidc.COOKIE}={tampered}"})
        assert answer.status_code == 400
        cookie = here.cookies[oidc.COOKIE]
        assert here.get(back).status_code == 302
        again = here.get(back, headers={"cookie": f"{oidc.COOKIE}={cookie}"})  # a used code opens nothing
        assert (again.status_code, again.json()["code"]) == (401, "wrong_login")


def test_a_code_of_another_login_is_refused_by_its_nonce(site: Site):
    with site.console.client() as client:
        first = parse_qs(urlsplit(consent(depart(client), "u-ada")).query)
        second = parse_qs(urlsplit(consent(depart(client), "u-bob")).query)
        mixed = {"state": second["state"][0], "code": first["code"][0]}
        answer = client.get("/api/login/oidc/callback", params=mixed)
        assert (answer.status_code, answer.json()["code"]) == (401, "wrong_login")


def test_a_refusal_of_the_provider_is_told(site: Site):
    with site.console.client() as client:
        answer = client.get("/api/login/oidc/callback?error=access_denied&state=x")
        assert (answer.status_code, answer.json()["code"]) == (401, "wrong_login")
        assert "access_denied" in answer.json()["error"]


def test_an_account_made_for_oidc_is_taken_over_once(tmp_path: Path):
    _, engine = ev.new_store(tmp_path)
    rig.add_accounts(engine)
    accounts.add(engine, "kim", "viewer", None, rig.HERE)
    assert oidc_accounts.settle(engine, "iss k1", "kim", None, "") == ("kim", "viewer")
    assert oidc_accounts.settle(engine, "iss k1", "kim", "operator", "") == ("kim", "operator")
    assert oidc_accounts.settle(engine, "iss k2", "kim", "viewer", "") == ("kim-2", "viewer")
    assert oidc_accounts.settle(engine, "iss k3", "../Kim/x y", "viewer", "") == ("Kim-x-y", "viewer")
    accounts.change(engine, "kim", rig.HERE, disabled=True)
    with pytest.raises(Refused, match="disabled"):
        oidc_accounts.settle(engine, "iss k1", "kim", "admin", "")
    engine.dispose()


@pytest.mark.parametrize("issuer", ["http://id.example", "ftp://localhost", "id.example"])
def test_an_issuer_without_tls_beyond_loopback_is_refused(issuer: str):
    with pytest.raises(ConfigError, match="oidc_issuer"):
        load(CloudConfig, "cloud", options={"console_oidc_issuer": issuer, "console_oidc_client_id": "c"}, environ={})


class Forger:
    """A provider whose ID token is what a test makes it."""

    def __init__(self) -> None:
        self.key, self.other = (RSAKey.generate_key(2048, {"kid": name}) for name in ("one", "two"))
        self.token = ""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                if "content-length" in self.headers:
                    outer.form = self.rfile.read(int(self.headers["content-length"])).decode()
                body = json.dumps(outer.page(self.path)).encode()
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = _answer  # noqa: N815  # http.server's names

            def log_message(self, *_: object) -> None:
                return

        self.form = ""
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.issuer = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def page(self, path: str) -> dict[str, Any]:
        if path == "/jwks":
            return KeySet([self.key]).as_dict()
        if path == "/token":
            return {"id_token": self.token}
        ends = {name: f"{self.issuer}/{name.split('_')[0]}" for name in ("authorization_endpoint", "token_endpoint")}
        return {"issuer": self.issuer, "jwks_uri": f"{self.issuer}/jwks", **ends}


def test_only_a_token_signed_by_the_issuer_for_us_and_this_login_is_taken():
    forger = Forger()
    config = ConsoleConfig(oidc_issuer=forger.issuer, oidc_client_id="covey", oidc_claim="groups")
    provider = oidc.Provider(config, b"secret")

    def come_back(make: Any, **claims: Any) -> oidc.Login:
        target, cookie = provider.depart("http://127.0.0.1:1")
        query = parse_qs(urlsplit(target).query)
        now = int(time.time())
        good = {
            "iss": forger.issuer,
            "aud": "covey",
            "sub": "s",
            "nonce": query["nonce"][0],
            "iat": now,
            "exp": now + 60,
        }
        forger.token = make({**good, "groups": "staff", **claims})
        return provider.arrive(cookie, query["state"][0], "code")

    def signed(claims: dict[str, Any], key: Any = forger.key, algorithm: str = "RS256") -> str:
        return jwt.encode({"alg": algorithm, "kid": "one"}, claims, key, algorithms=[algorithm])

    def unsigned(claims: dict[str, Any]) -> str:
        parts = [json.dumps({"alg": "none"}).encode(), json.dumps(claims).encode()]
        return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in parts) + "."

    def hmac_by_public_key(claims: dict[str, Any]) -> str:
        told = [json.dumps(part).encode() for part in ({"alg": "HS256", "kid": "one"}, claims)]
        head = ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in told)
        digest = hmac.new(forger.key.as_pem(private=False), head.encode(), "sha256").digest()
        return f"{head}.{base64.urlsafe_b64encode(digest).decode().rstrip('=')}"

    assert come_back(signed) == oidc.Login(f"{forger.issuer} s", "s", ["staff"])
    assert "code_verifier=" in forger.form
    now = int(time.time())
    for make, claims in (
        (unsigned, {}),
        (hmac_by_public_key, {}),
        (lambda claims: signed(claims, forger.other), {}),
        (lambda claims: signed(claims)[:-8] + "AAAAAAAA", {}),
        (signed, {"iss": "https://other.example"}),
        (signed, {"aud": "other"}),
        (signed, {"aud": ["covey", "other"]}),  # for several, and none is named as the one it was issued to
        (signed, {"nonce": "other"}),
        (signed, {"exp": now - 3600}),
        (signed, {"sub": ""}),
        (lambda _: "no token", {}),
        (lambda _: "", {}),
    ):
        with pytest.raises(Refused) as told:
            come_back(make, **claims)
        assert told.value.status == 401, claims
    provider.close()
    forger.server.shutdown()
    forger.server.server_close()
