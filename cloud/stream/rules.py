"""Routing rules: which alarms are high or low, and who is told. Pure: facts in, a verdict and its reasons out.

A rule fits when all of its conditions do; the first that fits decides; what none fits goes `otherwise`. A condition on a
fact that is not there (no model has judged, no such label) does not fit. The form of the file is in docs/routing.md.
"""

from __future__ import annotations

import fnmatch
import operator
import re
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from cloud.stream.model import peers_share

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from covey.wire_alarms import Enriched

Level = Literal["high", "low"]
Fact = str | float | bool

NUMBERS = (
    "score",
    "score_ratio",
    "confidence",
    "windows",
    "release",
    "peers",
    "peers_alarming",
    "peers_same_channel",
    "peers_share",
    "lift",
    "alarms_24h",
    "alarms_7d",
    "confirmed_30d",
    "rejected_30d",
    "drift_psi",
    "release_age_s",
    "model",
)
TEXTS = ("device", "group", "kind", "state", "top_channel", "flight", "runtime")
FLAGS = ("stale",)
LABEL = "labels."

_COMPARED = re.compile(r"(>=|<=|==|!=|>|<)\s*(-?[0-9.]+(?:[eE][+-]?[0-9]+)?)")
_HOURS = re.compile(r"([01][0-9]|2[0-4]):([0-5][0-9])-([01][0-9]|2[0-4]):([0-5][0-9])")
_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
}


class Condition(NamedTuple):
    """One condition of a rule."""

    fact: str
    said: str  # as the file says it
    fits: Callable[[Any], bool]


class Rule(NamedTuple):
    """One rule, ready to be asked."""

    name: str
    level: Level
    when: tuple[Condition, ...] = ()
    webhooks: tuple[str, ...] = ()
    mailboxes: tuple[str, ...] = ()
    quiet_s: float = 0.0  # the same target hears nothing more of the same device and channel for so long
    hours: tuple[int, int] | None = None  # minutes of the day, UTC; the rule fits from the first to before the second
    ends: bool = False  # targets hear of the end, too

    @property
    def targets(self) -> tuple[str, ...]:
        """Who is told, each once."""
        return tuple(dict.fromkeys((*self.webhooks, *self.mailboxes)))


class Finding(NamedTuple):
    """One condition held against the facts."""

    condition: str
    found: str
    fits: bool


def facts(data: Enriched, device: str) -> dict[str, Fact]:
    """What conditions may ask of an enriched alarm."""
    alarm, context = data.alarm, data.context
    found: dict[str, Fact] = {
        "device": device,
        "group": context.group,
        "kind": alarm.kind,
        "state": alarm.state,
        "top_channel": alarm.top_channel,
        "flight": alarm.flight,
        "runtime": alarm.runtime,
        "stale": context.stale,
        "peers_share": peers_share(context),
    }
    for name in ("score", "confidence", "windows", "release"):
        found[name] = float(getattr(alarm, name))
    for name in NUMBERS:
        if name not in found and name != "model":
            found[name] = float(getattr(context, name))
    if context.model is not None:
        found["model"] = context.model.value
    found |= {LABEL + name: value for name, value in context.labels.items()}
    return found


def condition(fact: str, wanted: object) -> Condition:
    """A condition as the file says it.

    Raises:
        ValueError: no such fact, or it cannot be compared so; says what was expected.
    """
    said = f"{fact} {_said(wanted)}"
    if fact in FLAGS:
        if not isinstance(wanted, bool):
            raise ValueError(f"{fact}: true or false expected, {wanted!r} received")
        return Condition(fact, said, lambda value: value is wanted)
    if fact in NUMBERS:
        return Condition(fact, said, _number(fact, wanted))
    if fact in TEXTS or (fact.startswith(LABEL) and len(fact) > len(LABEL)):
        return Condition(fact, said, _text(fact, wanted))
    raise ValueError(f"one of {', '.join((*NUMBERS, *TEXTS, *FLAGS))}, labels.<name> expected, {fact!r} received")


def hours(text: str) -> tuple[int, int]:
    """`22:00-06:00` as minutes of the day.

    Raises:
        ValueError: not of that form, or nothing lies between.
    """
    found = _HOURS.fullmatch(text)
    if found is None:
        raise ValueError(f"HH:MM-HH:MM (UTC) expected, {text!r} received")
    first, last = int(found[1]) * 60 + int(found[2]), int(found[3]) * 60 + int(found[4])
    if first == last or max(first, last) > 24 * 60:
        raise ValueError(f"two times of a day expected, {text!r} received")
    return first, last


def within(minute: int, span: tuple[int, int]) -> bool:
    """Whether a minute of the day lies in a span, which may go over midnight."""
    first, last = span
    return first <= minute < last if first < last else minute >= first or minute < last


def examine(rule: Rule, known: Mapping[str, Fact], received_s: float) -> list[Finding]:
    """Every condition of a rule held against the facts."""
    findings = [
        Finding(one.said, _shown(known.get(one.fact)), one.fact in known and one.fits(known[one.fact]))
        for one in rule.when
    ]
    if rule.hours is not None:
        minute = _minute(received_s)
        span = "-".join(f"{at // 60:02}:{at % 60:02}" for at in rule.hours)
        findings.append(Finding(f"hours {span}", f"{minute // 60:02}:{minute % 60:02}", within(minute, rule.hours)))
    return findings


def choose(rules: Sequence[Rule], known: Mapping[str, Fact], received_s: float) -> Rule | None:
    """The first rule that fits; None: none does."""
    minute = _minute(received_s)
    for rule in rules:
        if all(one.fact in known and one.fits(known[one.fact]) for one in rule.when) and (
            rule.hours is None or within(minute, rule.hours)
        ):
            return rule
    return None


def _number(fact: str, wanted: object) -> Callable[[Any], bool]:
    if isinstance(wanted, (int, float)) and not isinstance(wanted, bool):
        return lambda value: bool(value == wanted)
    if isinstance(wanted, str):
        parts = [_COMPARED.fullmatch(part.strip()) for part in wanted.split(",")]
        try:
            tests = [(_OPERATORS[part[1]], float(part[2])) for part in parts if part is not None]
        except ValueError:
            tests = []
        if len(tests) == len(parts):
            return lambda value: all(compare(value, bound) for compare, bound in tests)
    raise ValueError(f'{fact}: a number, or ">= 1.5", ">= 1, < 3" expected, {wanted!r} received')


def _text(fact: str, wanted: object) -> Callable[[Any], bool]:
    patterns = [wanted] if isinstance(wanted, str) else wanted
    if not isinstance(patterns, list) or not patterns or not all(isinstance(one, str) for one in patterns):
        raise ValueError(f'{fact}: a text, "!= text" or a list of texts expected, {wanted!r} received')
    texts = [str(one) for one in patterns]
    if len(texts) == 1 and texts[0].startswith("!="):
        unwanted = texts[0].removeprefix("!=").strip()
        return lambda value: not fnmatch.fnmatchcase(value, unwanted)
    wrong = next((one for one in texts if re.match(r"[<>=!]", one)), None)
    if wrong is not None:
        raise ValueError(f'{fact}: a text, "!= text" or a list of texts expected, {wrong!r} received')
    return lambda value: any(fnmatch.fnmatchcase(value, one) for one in texts)


def _minute(received_s: float) -> int:
    at = datetime.fromtimestamp(received_s, timezone.utc)
    return at.hour * 60 + at.minute


def _said(wanted: object) -> str:
    if isinstance(wanted, list):
        return " | ".join(map(str, wanted))
    text = str(wanted).lower() if isinstance(wanted, bool) else str(wanted)
    return text if text[:1] in "<>=!" else f"= {text}"


def _shown(value: Fact | None) -> str:
    if value is None:
        return "not there"
    return f"{value:g}" if isinstance(value, float) else str(value).lower() if isinstance(value, bool) else str(value)
