"""The file of routing rules: rules, webhooks, mailboxes and the mail server, read and checked as a whole.

Every mistake is one line that names the rule and the key. Secrets are named by the file that holds them, and are read when
they are used.
"""

from __future__ import annotations

import base64
import binascii
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct

from cloud.stream import rules
from covey.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Name = Annotated[str, Meta(pattern="^[A-Za-z0-9][A-Za-z0-9 ._-]{0,63}$")]

# What is done where there is no file: docs/routing.md says why.
DEFAULT = """
[[rules]]
name = "sensor"
when = { kind = "sensor" }
level = "high"

[[rules]]
name = "fleet"
when = { peers_alarming = ">= 3", lift = ">= 3" }
level = "high"

[[rules]]
name = "doubted"
when = { rejected_30d = ">= 3", score_ratio = "< 2" }
level = "low"

[[rules]]
name = "strong"
when = { score_ratio = ">= 1.5" }
level = "high"
"""


class Webhook(Struct, frozen=True, forbid_unknown_fields=True):
    """Where routed alarms are posted."""

    name: Name
    url: str
    secret_file: str = ""  # one line, whsec_<base64>; "": not signed
    ca_file: str = ""  # PEM; "": the machine's trust store
    timeout_s: Annotated[float, Meta(gt=0, le=60)] = 10.0


class Mailbox(Struct, frozen=True, forbid_unknown_fields=True):
    """Who gets routed alarms by mail."""

    name: Name
    to: Annotated[list[str], Meta(min_length=1, max_length=50)]


class Smtp(Struct, frozen=True, forbid_unknown_fields=True):
    """The mail server."""

    host: str
    sender: str
    port: Annotated[int, Meta(ge=1, le=65_535)] = 587
    tls: Literal["starttls", "tls", "none"] = "starttls"
    ca_file: str = ""
    user: str = ""
    password_file: str = ""
    timeout_s: Annotated[float, Meta(gt=0, le=60)] = 20.0


class _Rule(Struct, frozen=True, forbid_unknown_fields=True):
    name: Name
    level: Literal["high", "low"]
    when: dict[str, Any] = {}
    webhooks: list[str] = []
    mailboxes: list[str] = []
    quiet_s: Annotated[float, Meta(ge=0, le=604_800)] = 0.0
    hours: str = ""
    ends: bool = False


class Routing(NamedTuple):
    """The whole file."""

    rules: tuple[rules.Rule, ...]
    otherwise: rules.Level
    webhooks: dict[str, Webhook]
    mailboxes: dict[str, Mailbox]
    smtp: Smtp | None


def load(path: str) -> Routing:
    """Read a file; the default rules for "".

    Raises:
        ConfigError: names every mistake, each with its rule and key.
    """
    if not path:
        return parse(DEFAULT, "default rules")
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    return parse(text, path)


def parse(text: str, where: str) -> Routing:
    """A file's text.

    Raises:
        ConfigError: names every mistake, each with its rule and key.
    """
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where}: not TOML: {error}") from error
    problems: list[str] = []
    known = {"otherwise", "rules", "webhooks", "mailboxes", "smtp"}
    problems += [f"unknown key {key!r}" for key in raw if key not in known]
    otherwise: Any = raw.get("otherwise", "low")
    if otherwise not in ("high", "low"):
        problems.append(f"otherwise: high or low expected, {otherwise!r} received")
    hooks = _tables(raw, "webhooks", Webhook, problems)
    boxes = _tables(raw, "mailboxes", Mailbox, problems)
    smtp = next(iter(_tables({"smtp": [raw["smtp"]]}, "smtp", Smtp, problems)), None) if "smtp" in raw else None
    made = [_rule(one, problems) for one in _tables(raw, "rules", _Rule, problems)]
    targets = [*hooks, *boxes]
    problems += [f"{one}: a name used twice" for one in _twice([each.name for each in targets])]
    problems += [f"rule {one}: a name used twice" for one in _twice([each.name for each in made])]
    for hook in hooks:
        problems += _hook_problems(hook)
    if boxes and smtp is None:
        problems.append("mailboxes: [smtp] expected beside them")
    if smtp is not None and bool(smtp.user) != bool(smtp.password_file):
        problems.append("smtp: user and password_file: both or neither expected")
    for rule in made:
        for kind, told, there in (("webhooks", rule.webhooks, hooks), ("mailboxes", rule.mailboxes, boxes)):
            names = {each.name for each in there}
            problems += [f"rule {rule.name!r}: {kind}: no {one!r} in [[{kind}]]" for one in told if one not in names]
    if problems:
        raise ConfigError(f"{where}: " + "; ".join(problems))
    return Routing(tuple(made), otherwise, {one.name: one for one in hooks}, {one.name: one for one in boxes}, smtp)


def secret(path: str) -> bytes:
    """The key of a webhook's signature.

    Raises:
        ConfigError: the file cannot be read, or holds none.
    """
    try:
        text = Path(path).read_text(encoding="ascii").strip()
        key = base64.b64decode(text.removeprefix("whsec_"), validate=True)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (UnicodeDecodeError, binascii.Error) as error:
        raise ConfigError(f"{path}: whsec_ and base64 expected") from error
    if not text.startswith("whsec_") or not 24 <= len(key) <= 64:  # Standard Webhooks, "Signature scheme"
        raise ConfigError(f"{path}: whsec_ and base64 of 24 to 64 bytes expected, {len(key)} found")
    return key


def _rule(one: _Rule, problems: list[str]) -> rules.Rule:
    when: list[rules.Condition] = []
    for fact, wanted in _flat(one.when).items():
        try:
            when.append(rules.condition(fact, wanted))
        except ValueError as error:
            problems.append(f"rule {one.name!r}: when: {error}")
    span = None
    if one.hours:
        try:
            span = rules.hours(one.hours)
        except ValueError as error:
            problems.append(f"rule {one.name!r}: hours: {error}")
    return rules.Rule(
        one.name, one.level, tuple(when), tuple(one.webhooks), tuple(one.mailboxes), one.quiet_s, span, one.ends
    )


def _flat(when: Mapping[str, Any]) -> dict[str, Any]:
    """`labels = { site = "x" }` and `"labels.site" = "x"` are the same."""
    found: dict[str, Any] = {}
    for fact, wanted in when.items():
        if isinstance(wanted, dict):
            found |= {f"{fact}.{name}": value for name, value in wanted.items()}
        else:
            found[fact] = wanted
    return found


def _tables(raw: Mapping[str, Any], key: str, kind: type[Any], problems: list[str]) -> list[Any]:
    rows = raw.get(key, [])
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        problems.append(f"{key}: tables expected ([[{key}]])")
        return []
    made = []
    for number, row in enumerate(rows):
        called = f"rule {row.get('name', number)!r}" if key == "rules" else f"{key} {row.get('name', number)!r}"
        try:
            made.append(msgspec.convert(row, kind))
        except msgspec.ValidationError as error:
            text = str(error)
            problems.append(f"{called}: {text[:1].lower()}{text[1:]}")
    return made


def _hook_problems(hook: Webhook) -> list[str]:
    parts = urlsplit(hook.url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return [f"webhooks {hook.name!r}: url: http:// or https:// and a host expected, {hook.url!r} received"]
    return []


def _twice(names: Sequence[str]) -> list[str]:
    return sorted({repr(one) for one in names if names.count(one) > 1})
