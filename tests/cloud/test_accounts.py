"""Accounts of the console: who may log in, with what, as what."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from cloud.desk import accounts, audit
from cloud.store import schema, tables
from covey.errors import NameTaken, UnknownName, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.engine import Engine

ME = audit.Actor("cli:root")
PASSWORD = "correct horse battery"


@pytest.fixture
def engine(store_url: str) -> Iterator[Engine]:
    made = schema.open_store(store_url)
    accounts.add(made, "ada", "admin", PASSWORD, ME)
    yield made
    made.dispose()


def log_in(engine: Engine, name: str) -> None:
    now = time.time()
    with schema.write(engine) as connection:
        connection.execute(
            sa.insert(tables.sessions).values(
                token_sha256=name, name=name, csrf="c", created_s=now, seen_s=now, expires_s=now + 60
            )
        )


def logged_in(engine: Engine) -> list[str]:
    with schema.read(engine) as connection:
        return list(connection.execute(sa.select(tables.sessions.c.name)).scalars())


def test_only_the_right_password_of_an_enabled_account_gives_a_role(engine: Engine) -> None:
    assert accounts.check_password(engine, "ada", PASSWORD) == "admin"
    assert accounts.check_password(engine, "ada", PASSWORD + "x") is None
    assert accounts.check_password(engine, "nobody", PASSWORD) is None
    accounts.add(engine, "bob", "viewer", None, ME)
    for guess in ("", "no account has this password"):
        assert accounts.check_password(engine, "bob", guess) is None  # logs in by OIDC only
    accounts.add(engine, "eve", "operator", PASSWORD, ME)
    accounts.change(engine, "eve", ME, disabled=True)
    assert accounts.check_password(engine, "eve", PASSWORD) is None


def test_the_store_holds_argon2id_hashes_and_no_password(engine: Engine) -> None:
    with schema.read(engine) as connection:
        stored = connection.execute(sa.select(tables.accounts.c.password_hash)).scalar_one()
    assert stored.startswith("$argon2id$v=19$m=65536,t=3,p=4$")
    assert PASSWORD not in stored


@pytest.mark.parametrize("password", ["x" * 11, "x" * 257])
def test_passwords_have_a_length(engine: Engine, password: str) -> None:
    with pytest.raises(UsageError, match="12 to 256"):
        accounts.add(engine, "bob", "viewer", password, ME)
    assert [row["name"] for row in accounts.all_accounts(engine)] == ["ada"]


def test_a_change_ends_the_sessions_of_that_account_only(engine: Engine) -> None:
    accounts.add(engine, "bob", "viewer", PASSWORD, ME)
    for change in ({"password": "another good one"}, {"role": "operator"}, {"disabled": True}):
        log_in(engine, "ada")
        log_in(engine, "bob")
        accounts.change(engine, "bob", ME, **change)
        assert logged_in(engine) == ["ada"]
        with schema.write(engine) as connection:
            connection.execute(sa.delete(tables.sessions))


def test_the_last_admin_cannot_be_lost(engine: Engine) -> None:
    accounts.add(engine, "bob", "operator", PASSWORD, ME)
    for harm in (
        lambda: accounts.remove(engine, "ada", ME),
        lambda: accounts.change(engine, "ada", ME, role="viewer"),
        lambda: accounts.change(engine, "ada", ME, disabled=True),
    ):
        with pytest.raises(UsageError, match="last one"):
            harm()
        assert accounts.check_password(engine, "ada", PASSWORD) == "admin"
    accounts.change(engine, "bob", ME, role="admin")
    accounts.remove(engine, "ada", ME)
    accounts.remove(engine, "bob", ME)  # nobody is left, so nobody is locked out
    assert not accounts.exists(engine)


def test_names_and_roles_that_are_none_make_no_account(engine: Engine) -> None:
    with pytest.raises(NameTaken, match="ada"):
        accounts.add(engine, "ada", "viewer", PASSWORD, ME)
    with pytest.raises(UsageError, match="role"):
        accounts.add(engine, "bob", "root", PASSWORD, ME)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="account"):
        accounts.add(engine, "a b", "viewer", PASSWORD, ME)
    with pytest.raises(UnknownName, match="bob"):
        accounts.change(engine, "bob", ME, role="viewer")
    with pytest.raises(UnknownName, match="bob"):
        accounts.remove(engine, "bob", ME)


def test_the_audit_log_tells_changes_and_never_a_password(engine: Engine) -> None:
    accounts.change(engine, "ada", ME, password="another good one")
    told = [(row["action"], row["target"], row["detail"]) for row in reversed(audit.entries(engine))]
    assert told == [("account_add", "ada", "admin"), ("account_change", "ada", "password")]
