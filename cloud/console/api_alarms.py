"""Routes of alarms: the inbox, one with its why, verdicts."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import unquote

from litestar import Request, get, post
from litestar.params import Parameter
from msgspec import Meta, Struct, to_builtins

from cloud.console import alarm_view, why_view
from cloud.console.alarm_view import AlarmRow, DeliveryLine, Filter, Share, VerdictLine
from cloud.console.auth import actor_of
from cloud.console.context import After, Console, Limit, Moment, Text, changes, reads, threaded
from cloud.console.why_view import Why
from cloud.desk import judge
from cloud.store import schema
from cloud.store import why as chains
from covey.errors import UnknownName, UsageError

Word = Literal["acknowledged", "confirmed", "rejected", "undone"]


class AlarmPage(Struct):
    """Alarms, the last heard of first."""

    alarms: list[AlarmRow]
    next: str | None


class AlarmWhole(AlarmRow):
    """An alarm with all that belongs to it."""

    attribution: list[Share]
    context: dict[str, Any] | None
    verdicts: list[VerdictLine]
    deliveries: list[DeliveryLine]
    why: Why


class Judgement(Struct, forbid_unknown_fields=True):
    """What an alarm was."""

    verdict: Word
    note: Annotated[str, Meta(max_length=256)] = ""


class AlarmKey(Struct, forbid_unknown_fields=True):
    """Which alarm."""

    device: Annotated[str, Meta(max_length=64)]
    alarm_id: Annotated[str, Meta(max_length=256)]


class Judgements(Struct, forbid_unknown_fields=True):
    """What several alarms were: an incident at once."""

    alarms: Annotated[list[AlarmKey], Meta(min_length=1, max_length=500)]
    verdict: Word
    note: Annotated[str, Meta(max_length=256)] = ""


class Done(Struct):
    """How many alarms that changed."""

    done: int


@get("/api/alarms", **reads("viewer", name="alarms"))
@threaded
def list_alarms(
    console: Console,
    open_: Annotated[bool | None, Parameter(query="open")] = None,
    unjudged: bool | None = None,
    group: Text = None,
    device: Text = None,
    channel: Text = None,
    level: Literal["high", "low"] | None = None,
    kind: Literal["anomaly", "sensor"] | None = None,
    from_s: Moment = None,
    to_s: Moment = None,
    limit: Limit = 100,
    after: After = None,
) -> AlarmPage:
    """Alarms, the last heard of first; `from_s` and `to_s` are of their beginning."""
    which = Filter(open_, unjudged, group, device, channel, level, kind, from_s, to_s)
    return AlarmPage(*alarm_view.page(console.engine, which, limit, after))


@get("/api/alarms/{device:str}/{alarm_id:str}", **reads("viewer", 404, name="alarm"))
@threaded
def one_alarm(console: Console, device: str, alarm_id: str) -> AlarmWhole:
    """An alarm, whole, with its why. Its id is percent-encoded: it may hold `/`."""
    return _whole(console, unquote(device), unquote(alarm_id))


@post("/api/alarms/{device:str}/{alarm_id:str}/verdict", **changes("operator", 404, name="judge_alarm"))
@threaded
def judge_alarm(
    console: Console, request: Request[Any, Any, Any], device: str, alarm_id: str, data: Judgement
) -> AlarmWhole:
    """Say what an alarm was, or take the last of that back. Its id is percent-encoded: it may hold `/`."""
    device, alarm_id = unquote(device), unquote(alarm_id)
    judge.judge(console.engine, [(device, alarm_id)], data.verdict, data.note, actor_of(request))
    return _whole(console, device, alarm_id)


@post("/api/verdicts", **changes("operator", 404, name="judge_alarms"))
@threaded
def judge_alarms(console: Console, request: Request[Any, Any, Any], data: Judgements) -> Done:
    """Say of several alarms what they were: all, or none."""
    keys = list(dict.fromkeys((one.device, one.alarm_id) for one in data.alarms))
    return Done(judge.judge(console.engine, keys, data.verdict, data.note, actor_of(request)))


def _whole(console: Console, device: str, alarm_id: str) -> AlarmWhole:
    with schema.read(console.engine) as connection:
        found = alarm_view.one(connection, device, alarm_id)
        if found is None:
            raise UnknownName(f"alarm: one that is known expected, {device[:64]} {alarm_id[:80]!r} received")
        line, row = found
        said = alarm_view.verdicts(connection, device, alarm_id)
        sent = alarm_view.deliveries(connection, device, alarm_id)
    try:
        chain = chains.why(console.engine, str(alarm_view.identity(row)))[0]
    except UsageError:  # retention has taken the event
        chain = None
    context = alarm_view.context_of(row)
    return AlarmWhole(
        **{name: getattr(line, name) for name in AlarmRow.__struct_fields__},
        attribution=alarm_view.shares(row),
        context=None if context is None else to_builtins(context),
        verdicts=said,
        deliveries=sent,
        why=why_view.why(row, chain, said, sent),
    )


ROUTES = [list_alarms, one_alarm, judge_alarm, judge_alarms]
