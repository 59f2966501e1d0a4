"""Routes of people: who am I, logging in and out, one's password, accounts, the audit log."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from litestar import Request, Response, delete, get, patch, post
from litestar.datastructures import Cookie
from litestar.params import Parameter
from litestar.response import Redirect
from msgspec import UNSET, Meta, Struct, UnsetType

from cloud.console import oidc, oidc_accounts, pages
from cloud.console.auth import COOKIE, LOCAL, actor_of, address_of, who_of
from cloud.console.context import After, Console, Limit, changes, reads, threaded
from cloud.console.problems import Refused
from cloud.console.sessions import Who
from cloud.desk import accounts, audit

RoleName = Literal["viewer", "operator", "admin"]
Password = Annotated[str, Meta(min_length=accounts.MIN_PASSWORD, max_length=accounts.MAX_PASSWORD)]
AccountName = Annotated[str, Meta(pattern="^[a-zA-Z0-9][a-zA-Z0-9._@+-]{0,63}$")]


class Me(Struct):
    """Who asks; `name` null: nobody is logged in. `notices`: what is embedded, what is insecure."""

    name: str | None
    role: RoleName | None
    csrf: str
    accounts: bool
    oidc: bool
    version: str
    notices: list[str]


class Credentials(Struct, forbid_unknown_fields=True):
    """A name and its password."""

    name: Annotated[str, Meta(max_length=64)]
    password: Annotated[str, Meta(max_length=256)]


class NewPassword(Struct, forbid_unknown_fields=True):
    """The present password and the one to come."""

    old: Annotated[str, Meta(max_length=256)]
    new: Password


class Account(Struct):
    """An account; `oidc`: it has no password here."""

    name: str
    role: RoleName
    disabled: bool
    oidc: bool
    created_s: float


class Accounts(Struct):
    """By name."""

    accounts: list[Account]


class NewAccount(Struct, forbid_unknown_fields=True):
    """Without a password it logs in by OIDC only."""

    name: AccountName
    role: RoleName
    password: Password | None = None


class AccountChange(Struct, forbid_unknown_fields=True):
    """What is given is changed; it ends the account's sessions."""

    role: RoleName | UnsetType = UNSET
    password: Password | UnsetType = UNSET
    disabled: bool | UnsetType = UNSET


class AuditLine(Struct):
    """Who did what to what."""

    id: int
    time_s: float
    actor: str
    action: str
    target: str
    detail: str
    address: str


class AuditPage(Struct):
    """Newest first."""

    audit: list[AuditLine]
    next: str | None


class Ok(Struct):
    """It is done."""

    ok: bool


@get("/api/me", **reads(None, name="me"))
@threaded
def me(console: Console, request: Request[Any, Any, Any]) -> Me:
    """Who asks, and the session's CSRF token."""
    return _me(console, who_of(request))


@post("/api/login", status_code=200, **changes(None, 401, name="login"))
@threaded
def login(console: Console, request: Request[Any, Any, Any], data: Credentials) -> Response[Me]:
    """Begin a session."""
    token, who = console.doors.login(data.name, data.password, address_of(request.scope))
    _end_old(console, request)
    return Response(_me(console, who), cookies=[_cookie(console, token)], headers={"cache-control": "no-store"})


@post("/api/logout", status_code=200, **changes(None, name="logout"))
@threaded
def logout(console: Console, request: Request[Any, Any, Any]) -> Response[Ok]:
    """End the session."""
    _end_old(console, request)
    return Response(Ok(ok=True), cookies=[_cookie(console, "")])


@post("/api/me/password", status_code=200, **changes("viewer", name="change_password"))
@threaded
def change_password(console: Console, request: Request[Any, Any, Any], data: NewPassword) -> Response[Me]:
    """Another password; every session of the account ends, and this browser gets a new one."""
    who, address = who_of(request), address_of(request.scope)
    if who.name == LOCAL and not who.token_sha256:
        raise Refused(400, "an account expected, this console has none")
    console.doors.verify(who, data.old, address)
    accounts.change(console.engine, who.name, actor_of(request), password=data.new)
    token, fresh = console.doors.begin(who.name, who.role or "viewer", address)
    return Response(_me(console, fresh), cookies=[_cookie(console, token)])


@get("/api/login/oidc", status_code=302, include_in_schema=False, **reads(None, name="oidc_login"))
@threaded
def oidc_login(console: Console, request: Request[Any, Any, Any]) -> Redirect:
    """To the identity provider."""
    target, cookie = _provider(console).depart(_base_url(console, request))
    answer = Redirect(target, status_code=302)
    # Lax: the way back is a navigation from another site. The path keeps it out of every other request.
    answer.set_cookie(
        oidc.COOKIE,
        cookie,
        max_age=int(oidc.LIFE_S),
        path="/api/login/oidc",
        httponly=True,
        samesite="lax",
        secure=console.secure,
    )
    return answer


@get("/api/login/oidc/callback", status_code=302, include_in_schema=False, **reads(None, name="oidc_callback"))
@threaded
def oidc_callback(
    console: Console,
    request: Request[Any, Any, Any],
    code: Annotated[str, Parameter(max_length=4096)] = "",
    trip_state: Annotated[str, Parameter(query="state", max_length=256)] = "",
    refusal: Annotated[str, Parameter(query="error", max_length=256)] = "",
) -> Redirect:
    """Back from the identity provider."""
    provider, address = _provider(console), address_of(request.scope)
    console.doors.count_address(address)
    if refusal:
        raise Refused(401, f"the identity provider refused: {refusal}", "wrong_login")
    who = provider.arrive(request.cookies.get(oidc.COOKIE, ""), trip_state, code)
    name, role = oidc_accounts.settle(console.engine, who.subject, who.name, provider.role_of(who), address)
    token, _ = console.doors.begin(name, role, address)
    answer = Redirect("/", status_code=302)
    answer.cookies.append(_cookie(console, token))
    answer.delete_cookie(oidc.COOKIE, path="/api/login/oidc")
    return answer


@get("/api/accounts", **reads("admin", name="accounts"))
@threaded
def list_accounts(console: Console) -> Accounts:
    """Every account by name."""
    return Accounts([Account(**row) for row in accounts.all_accounts(console.engine)])


@post("/api/accounts", **changes("admin", 409, name="add_account"))
@threaded
def add_account(console: Console, request: Request[Any, Any, Any], data: NewAccount) -> Account:
    """Make an account. The first one of a console without accounts has to be an admin, or nobody could make another."""
    if data.role != "admin" and not accounts.exists(console.engine):
        raise Refused(400, f"role: admin expected of the first account, {data.role} received")
    accounts.add(console.engine, data.name, data.role, data.password, actor_of(request))
    return _account(console, data.name)


@patch("/api/accounts/{name:str}", **changes("admin", 404, name="change_account"))
@threaded
def change_account(console: Console, request: Request[Any, Any, Any], name: str, data: AccountChange) -> Account:
    """Change role, password, or whether it may log in."""
    accounts.change(
        console.engine,
        name,
        actor_of(request),
        role=None if isinstance(data.role, UnsetType) else data.role,
        password=None if isinstance(data.password, UnsetType) else data.password,
        disabled=None if isinstance(data.disabled, UnsetType) else data.disabled,
    )
    return _account(console, name)


@delete("/api/accounts/{name:str}", status_code=200, **changes("admin", 404, name="remove_account"))
@threaded
def remove_account(console: Console, request: Request[Any, Any, Any], name: str) -> Ok:
    """Take an account away, and end its sessions."""
    accounts.remove(console.engine, name, actor_of(request))
    return Ok(ok=True)


@get("/api/audit", **reads("admin", name="audit"))
@threaded
def list_audit(console: Console, limit: Limit = 100, after: After = None) -> AuditPage:
    """The audit log, newest first."""
    found = [AuditLine(**row) for row in audit.entries(console.engine, limit + 1, pages.place(after, int))]
    return AuditPage(*pages.cut(found, limit, lambda line: line.id))


def _me(console: Console, who: Who) -> Me:
    known = who.role is not None
    return Me(
        name=who.name if known else None,
        role=who.role,
        csrf=who.csrf,
        accounts=not console.doors.open_to_all(),
        oidc=console.provider is not None,
        version=console.version,
        notices=console.notices() if known else [],
    )


def _end_old(console: Console, request: Request[Any, Any, Any]) -> None:
    console.doors.end(who_of(request), address_of(request.scope))


def _cookie(console: Console, token: str) -> Cookie:
    """The session's cookie; an empty token takes it away."""
    life_s = round(console.config.console.session_hours * 3600) if token else 0
    return Cookie(
        COOKIE, value=token, path="/", max_age=life_s, httponly=True, samesite="strict", secure=console.secure
    )


def _provider(console: Console) -> oidc.Provider:
    if console.provider is None:
        raise Refused(404, "oidc_issuer in [console] of the configuration expected")
    return console.provider


def _base_url(console: Console, request: Request[Any, Any, Any]) -> str:
    """As browsers see it: configured, or what this one has asked for (its host is checked at the gate)."""
    return console.config.console.public_url.rstrip("/") or str(request.base_url).rstrip("/")


def _account(console: Console, name: str) -> Account:
    return next(Account(**row) for row in accounts.all_accounts(console.engine) if row["name"] == name)


ROUTES = [me, login, logout, change_password, oidc_login, oidc_callback, list_accounts, add_account, change_account]
ROUTES += [remove_account, list_audit]
