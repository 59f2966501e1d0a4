"""`covey cloud feedback`, `accounts` and `audit`: verdicts on alarms, who may log in, who did what."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from cloud.options import AsJson, Store  # noqa: TC001  # typer reads annotations when it runs
from covey.errors import UsageError

accounts_app = typer.Typer(
    help="Accounts of the console.",
    epilog="Example: covey cloud accounts add ada --role admin --password-file ada.txt --store covey.db",
    no_args_is_help=True,
    rich_markup_mode=None,
)

PasswordFile = Annotated[
    Path | None,
    typer.Option("--password-file", help="File with the password on its first line; asked for on a terminal without."),
]


class Word(str, Enum):
    """What may be said of an alarm."""

    acknowledge = "acknowledge"
    confirm = "confirm"
    reject = "reject"
    undo = "undo"


class RoleName(str, Enum):
    """What an account may do; each may do what those before it may."""

    viewer = "viewer"
    operator = "operator"
    admin = "admin"


_VERDICT = {"acknowledge": "acknowledged", "confirm": "confirmed", "reject": "rejected", "undo": "undone"}


def register(app: typer.Typer) -> None:
    """Add the commands to `covey cloud`."""
    app.command(epilog="Example: covey cloud feedback drone-3-0af7651916cd43dd reject --note 'hard landing'")(feedback)
    app.command(epilog="Example: covey cloud audit --store covey.db --limit 20")(audit)
    app.add_typer(accounts_app, name="accounts")


def feedback(
    alarm_id: Annotated[str, typer.Argument(metavar="ALARM_ID", help="As `covey cloud alarms` prints it.")],
    verdict: Annotated[
        Word,
        typer.Argument(
            metavar="VERDICT",
            help="acknowledge: someone looks at it. confirm: it was right. reject: it was none; its windows go back "
            "into the device's ring. undo: take the last of these back.",
        ),
    ],
    device: Annotated[str | None, typer.Option("--device", help="Where several have an alarm of this id.")] = None,
    note: Annotated[str, typer.Option("--note", help="For people; at most 256 characters.")] = "",
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Say of an alarm what it was; told on covey.feedback once `covey cloud run` is there."""
    from cloud import output, show_cli
    from cloud.desk import audit as audits
    from cloud.desk import judge

    with show_cli.opened(store) as engine:
        alarm = judge.find(engine, alarm_id, device)
        changed = judge.judge(engine, [alarm], _VERDICT[verdict.value], note, audits.command_line())  # type: ignore[arg-type]  # the words of Verdict
    told = {"device": alarm[0], "alarm_id": alarm_id, "verdict": _VERDICT[verdict.value], "changed": bool(changed)}
    if as_json:
        output.print_json(told)
    else:
        output.print_pairs(told)


def audit(
    limit: Annotated[int, typer.Option("--limit", help="At most this many, newest first.", min=1)] = 100,
    store: Store = None,
    as_json: AsJson = False,
) -> None:
    """Who did what to what, newest first."""
    from cloud import output, show_cli
    from cloud.desk import audit as audits

    with show_cli.opened(store) as engine:
        rows = audits.entries(engine, limit)
    if as_json:
        output.print_json(rows)
        return
    lines = [
        [
            output.clock(row["time_s"]),
            row["actor"],
            row["action"],
            row["target"],
            row["detail"] or "-",
            row["address"] or "-",
        ]
        for row in rows
    ]
    output.print_table(("time", "who", "did", "to", "detail", "from"), lines)


@accounts_app.command("list", epilog="Example: covey cloud accounts list --store covey.db --json")
def list_accounts(store: Store = None, as_json: AsJson = False) -> None:
    """Every account: role, whether it may log in, and how."""
    from cloud import output, show_cli
    from cloud.desk import accounts

    with show_cli.opened(store) as engine:
        rows = accounts.all_accounts(engine)
    if as_json:
        output.print_json(rows)
        return
    lines = [
        [row["name"], row["role"], "no" if row["disabled"] else "yes", "oidc" if row["oidc"] else "password"]
        + [output.clock(row["created_s"])]
        for row in rows
    ]
    output.print_table(("name", "role", "enabled", "logs in by", "made"), lines)


@accounts_app.command("add", epilog="Example: covey cloud accounts add ada --role admin --password-file ada.txt")
def add_account(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Letters, digits, `._@+-`.")],
    role: Annotated[RoleName, typer.Option("--role", help="viewer, operator or admin.")] = RoleName.viewer,
    password_file: PasswordFile = None,
    oidc: Annotated[bool, typer.Option("--oidc", help="No password: it logs in by OIDC only.")] = False,
    store: Store = None,
) -> None:
    """Make an account. The first one must be an admin's; from then on the console asks everybody for a login."""
    from cloud import show_cli
    from cloud.desk import accounts
    from cloud.desk import audit as audits

    with show_cli.opened(store) as engine:
        if role is not RoleName.admin and not accounts.exists(engine):
            raise UsageError(
                f"--role: admin expected for the first account, {role.value} given: nobody could make others"
            )
        password = None if oidc else _password(password_file)
        accounts.add(engine, name, role.value, password, audits.command_line())
    typer.echo(f"account {name}: {role.value}", err=True)


@accounts_app.command("change", epilog="Example: covey cloud accounts change ada --role viewer --store covey.db")
def change_account(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As `list` prints it.")],
    role: Annotated[RoleName | None, typer.Option("--role", help="viewer, operator or admin.")] = None,
    password: Annotated[bool, typer.Option("--password", help="Ask for a new one on the terminal.")] = False,
    password_file: PasswordFile = None,
    disabled: Annotated[bool | None, typer.Option("--disable/--enable", help="Whether it may log in.")] = None,
    store: Store = None,
) -> None:
    """Change role, password, or whether it may log in; its sessions end."""
    from cloud import show_cli
    from cloud.desk import accounts
    from cloud.desk import audit as audits

    fresh = _password(password_file) if password or password_file is not None else None
    with show_cli.opened(store) as engine:
        given: accounts.Role | None = role.value if role is not None else None
        accounts.change(engine, name, audits.command_line(), role=given, password=fresh, disabled=disabled)
    typer.echo(f"account {name}: changed", err=True)


@accounts_app.command("remove", epilog="Example: covey cloud accounts remove ada --store covey.db")
def remove_account(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As `list` prints it.")],
    store: Store = None,
) -> None:
    """Take an account away; what it did stays in the audit log."""
    from cloud import show_cli
    from cloud.desk import accounts
    from cloud.desk import audit as audits

    with show_cli.opened(store) as engine:
        accounts.remove(engine, name, audits.command_line())
    typer.echo(f"account {name}: removed", err=True)


def _password(path: Path | None) -> str:
    if path is None:
        return str(typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True))
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--password-file {path}: a readable text file expected: {error}") from error
    if not lines:
        raise UsageError(f"--password-file {path}: a password on its first line expected, it is empty")
    return lines[0]
