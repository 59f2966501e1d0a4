"""Logging in by an identity provider: authorization code with PKCE (OpenID Connect Core 1.0, RFC 7636), a claim becomes a role.

Refuses an issuer without TLS beyond loopback (cloud/config.py), an ID token that is not signed by the issuer's keys for us and for this
login, and who has no role. What must survive the way to the provider and back is in a signed cookie; nothing is held here.
"""

from __future__ import annotations

import base64
import secrets
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, urlencode

import msgspec

from cloud.config import is_loopback
from cloud.console import oidc_accounts, sessions
from cloud.console.problems import Refused
from covey.errors import ConfigError, MissingExtra

if TYPE_CHECKING:
    from cloud.config import ConsoleConfig
    from cloud.desk.accounts import Role

COOKIE = "covey_oidc"
CALLBACK = "/api/login/oidc/callback"
LIFE_S = 600.0  # from the button to the return
_TIMEOUT_S = 10.0
_MAX_BYTES = 256 * 1024  # of any answer of the provider
_KEYS_S = 3600.0
_ALGORITHMS = [
    "RS256",
    "RS384",
    "RS512",
    "PS256",
    "PS384",
    "PS512",
    "ES256",
    "ES384",
    "ES512",
    "EdDSA",
]  # never none, never HMAC


class _Trip(msgspec.Struct):
    state: str
    nonce: str
    verifier: str
    until_s: float
    back_to: str


class Login(NamedTuple):
    """What an ID token says of a person."""

    subject: str  # "<issuer> <sub>"
    name: str
    values: list[str]  # of the claim that makes a role


class Provider:
    """One issuer. Metadata and keys are fetched when they are first needed."""

    def __init__(self, config: ConsoleConfig, secret: bytes) -> None:
        try:
            import httpx
            import joserfc  # noqa: F401  # brought by authlib
            from authlib.oidc.core import CodeIDToken  # noqa: F401
        except ModuleNotFoundError as error:
            raise MissingExtra("oidc", str(error.name)) from error
        self._config, self._secret = config, secret
        self._http = httpx.Client(timeout=_TIMEOUT_S, follow_redirects=False)
        self._client_secret = _secret_of(config.oidc_client_secret_file)
        self._lock = threading.Lock()
        self._metadata: dict[str, Any] | None = None
        self._keys: tuple[float, Any] = (0.0, None)

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def depart(self, base_url: str) -> tuple[str, str]:
        """Where to send the browser, and the cookie that it takes along.

        Raises:
            Refused: 503, the provider cannot be asked.
        """
        from authlib.oauth2.rfc7636 import create_s256_code_challenge

        trip = _Trip(
            state=secrets.token_urlsafe(24),
            nonce=secrets.token_urlsafe(24),
            verifier=secrets.token_urlsafe(48),
            until_s=time.time() + LIFE_S,
            back_to=base_url + CALLBACK,
        )
        query = {
            "response_type": "code",
            "client_id": self._config.oidc_client_id,
            "redirect_uri": trip.back_to,
            "scope": self._config.oidc_scopes,
            "state": trip.state,
            "nonce": trip.nonce,
            "code_challenge": create_s256_code_challenge(trip.verifier),
            "code_challenge_method": "S256",
        }
        target = self._endpoint("authorization_endpoint")
        body = base64.urlsafe_b64encode(msgspec.json.encode(trip)).decode()
        return f"{target}{'&' if '?' in target else '?'}{urlencode(query)}", f"{body}.{self._signed(body)}"

    def arrive(self, cookie: str, state: str, code: str) -> Login:
        """Who has come back.

        Raises:
            Refused: 400 not of this browser's departure, or too late; 401 the provider's token is not for us; 503 it cannot be asked.
        """
        trip = self._trip(cookie)
        if trip is None or not sessions.same(trip.state, state) or trip.until_s < time.time():
            raise Refused(400, "a login begun in this browser within ten minutes expected: begin again")
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": trip.back_to,
            "client_id": self._config.oidc_client_id,
            "code_verifier": trip.verifier,
        }
        answer = self._ask("POST", self._endpoint("token_endpoint"), form, self._prove(form))
        claims = self._claims(str(answer.get("id_token", "")), trip.nonce)
        found = claims.get(self._config.oidc_claim)
        values = [found] if isinstance(found, str) else [str(one) for one in found] if isinstance(found, list) else []
        name = next((str(claims[key]) for key in ("preferred_username", "email", "sub") if claims.get(key)), "")
        return Login(f"{claims['iss']} {claims['sub']}"[:256], name, values)

    def role_of(self, login: Login) -> Role | None:
        """The greatest role among the claim's values, else the default; None: none."""
        return oidc_accounts.greatest([self._config.oidc_roles.get(value) for value in login.values]) or (
            self._config.oidc_default_role or None
        )

    def _claims(self, token: str, nonce: str) -> dict[str, Any]:
        from authlib.common.errors import AuthlibBaseError
        from authlib.oidc.core import CodeIDToken
        from joserfc import jwt
        from joserfc.errors import JoseError

        ours, issuer = self._config.oidc_client_id, self._metadata_now()["issuer"]
        options = {
            "iss": {"essential": True, "value": issuer},
            "aud": {"essential": True, "value": ours},
            "nonce": {"essential": True, "value": nonce},
            "exp": {"essential": True},
            "sub": {"essential": True},
        }
        try:
            try:
                decoded = jwt.decode(token, self._key_set(), algorithms=_ALGORITHMS)
            except ValueError:  # signed by a key that is new to us
                decoded = jwt.decode(token, self._key_set(fresh=True), algorithms=_ALGORITHMS)
            claims = CodeIDToken(decoded.claims, decoded.header, options, {"nonce": nonce, "client_id": ours})
            claims.validate(leeway=60)
        except (JoseError, AuthlibBaseError, ValueError) as error:
            raise Refused(
                401, f"an ID token of {issuer} for this login expected: {error}"[:300], "wrong_login"
            ) from error
        return dict(decoded.claims)

    def _key_set(self, *, fresh: bool = False) -> Any:
        from joserfc.jwk import KeySet

        with self._lock:
            until_s, keys = self._keys
        if keys is None or fresh or time.monotonic() > until_s:
            keys = KeySet.import_key_set(self._ask("GET", self._endpoint("jwks_uri")))  # type: ignore[arg-type]  # checked by it
            with self._lock:
                self._keys = (time.monotonic() + _KEYS_S, keys)
        return keys

    def _metadata_now(self) -> dict[str, Any]:
        """The issuer's metadata (OpenID Connect Discovery 1.0)."""
        with self._lock:
            if self._metadata is not None:
                return self._metadata
        issuer = self._config.oidc_issuer.rstrip("/")
        found = self._ask("GET", f"{issuer}/.well-known/openid-configuration")
        if str(found.get("issuer", "")).rstrip("/") != issuer:
            raise Refused(503, f"oidc: issuer {issuer} expected, its metadata says {str(found.get('issuer'))[:120]!r}")
        with self._lock:
            self._metadata = found
        return found

    def _endpoint(self, name: str) -> str:
        url = str(self._metadata_now().get(name, ""))
        host = url.split("/")[2].rsplit(":", 1)[0] if url.count("/") >= 2 else ""
        if not url.startswith("https://") and not (url.startswith("http://") and is_loopback(host)):
            raise Refused(503, f"oidc: {name}: https:// expected, {url[:120]!r} received")
        return url

    def _prove(self, form: dict[str, str]) -> dict[str, str]:
        """Show that we are the client: a header, or a field of the form where the provider takes only that (RFC 6749, 2.3.1)."""
        if not self._client_secret:
            return {}
        taken = self._metadata_now().get("token_endpoint_auth_methods_supported") or ["client_secret_basic"]
        if "client_secret_basic" not in taken:
            form["client_secret"] = self._client_secret
            return {}
        pair = f"{quote(self._config.oidc_client_id, safe='')}:{quote(self._client_secret, safe='')}"
        return {"authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}

    def _ask(
        self, method: str, url: str, form: dict[str, str] | None = None, more: dict[str, str] | None = None
    ) -> dict[str, Any]:
        import httpx

        headers = {"accept": "application/json", **(more or {})}
        try:
            with self._http.stream(method, url, data=form, headers=headers) as answer:
                body = b""
                for part in answer.iter_bytes():
                    body += part
                    if len(body) > _MAX_BYTES:
                        raise Refused(503, f"oidc: {url}: at most {_MAX_BYTES} bytes expected")
                if answer.status_code != httpx.codes.OK:
                    status = 401 if method == "POST" and answer.status_code < httpx.codes.INTERNAL_SERVER_ERROR else 503
                    raise Refused(
                        status, f"oidc: {url} answered {answer.status_code}", "wrong_login" if status == 401 else ""
                    )
            found = msgspec.json.decode(body, type=dict[str, Any])
        except (httpx.HTTPError, msgspec.DecodeError, msgspec.ValidationError) as error:
            raise Refused(503, f"oidc: {url}: {error}"[:300]) from error
        return found

    def _trip(self, cookie: str) -> _Trip | None:
        body, _, signature = cookie.rpartition(".")
        if not body or not sessions.same(signature, self._signed(body)):
            return None
        return msgspec.json.decode(base64.urlsafe_b64decode(body), type=_Trip)

    def _signed(self, body: str) -> str:
        return sessions.signed(self._secret, f"oidc {body}")


def _secret_of(path: str) -> str:
    if not path:
        return ""
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigError(f"console: oidc_client_secret_file {path}: {error.strerror or error}") from error
