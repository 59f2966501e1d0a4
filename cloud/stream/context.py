"""An alarm among its peers: the arithmetic. Pure; what the store knows comes from fleet_view.py.

A peer is another device of the alarm's group that was heard within `PEER_S`. It alarms at the same time when an alarm of its
is open, or began within the window of this one's receipt (to the second). The lift is the peers' share that alarms over the share usual in the
group's last week, both smoothed by one device: (alarming + 1) / (usual + 1), so that a group never seen before has lift 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from msgspec.structs import replace

from covey.wire_alarms import Context, ModelOpinion

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from covey import wire

PEER_S = 600.0
DAY_S = 86_400.0
WEEK_S = 7 * DAY_S
RECENT_S = 3600.0  # left out of what is usual: it may be the burst that is judged
MAX_SCORE_RATIO = 1e9  # of a threshold of zero


class Beginning(NamedTuple):
    """An alarm of the group."""

    device: str
    alarm_id: str
    channel: str
    received_s: float  # of its beginning
    open: bool


class Moment(NamedTuple):
    """Devices of a group that alarm at the same time; looked up for each alarm of that second."""

    devices: set[str]
    of_channel: dict[str, set[str]]


class Usual(NamedTuple):
    """A group's last week, without its last hour."""

    alarms: int
    seconds: float  # between their beginnings and ends
    devices: int  # active ones, heard or not
    span_s: float  # how much of the week the group has existed


class GroupView(NamedTuple):
    """What the store says of a group."""

    heard: int  # active devices heard within PEER_S
    alarms: tuple[Beginning, ...]  # open ones, and those begun of late
    usual: Usual


class DeviceView(NamedTuple):
    """What the store says of a device; alarms counted up to the batch's newest receipt."""

    group: str
    labels: dict[str, str]
    heard: bool  # it is itself among the group's `heard`
    drift_psi: float
    alarms_24h: int
    alarms_7d: int
    confirmed_30d: int
    rejected_30d: int


def usual_share(usual: Usual, window_s: float) -> float:
    """Mean share of a group's devices that alarm at a moment, as `moment` counts them: open, or within the window."""
    if usual.devices <= 0 or usual.span_s <= 0:
        return 0.0
    alarming_s = usual.seconds + usual.alarms * 2 * window_s
    return min(1.0, alarming_s / (usual.span_s * usual.devices))


def moment(alarms: Iterable[Beginning], second: int, window_s: float) -> Moment:
    """Who alarms at a second: an alarm is open, or began within the window."""
    devices: set[str] = set()
    of_channel: dict[str, set[str]] = {}
    for one in alarms:
        if one.open or abs(one.received_s - second) <= window_s:
            devices.add(one.device)
            of_channel.setdefault(one.channel, set()).add(one.device)
    return Moment(devices, of_channel)


def lift(alarming: int, peers: int, share: float) -> float:
    """Share of peers alarming over the usual one, smoothed by one device."""
    return (alarming + 1) / (share * peers + 1)


def score_ratio(alarm: wire.Alarm) -> float:
    """Score over threshold; bounded where the threshold is next to nothing."""
    if alarm.threshold <= 0:
        return MAX_SCORE_RATIO if alarm.score > 0 else 0.0
    return min(MAX_SCORE_RATIO, alarm.score / alarm.threshold)


def build(
    device: str,
    alarm: wire.Alarm,
    received_s: float,
    view: DeviceView | None,
    group: GroupView | None,
    together: Moment,
    published: Mapping[tuple[str, int, str], float],
    window_s: float,
) -> Context:
    """The context of one alarm.

    Args:
        device: whose alarm.
        alarm: as the device wrote it.
        received_s: Kafka's timestamp.
        view: of the device; None: the store does not know it.
        group: of the device; None: its peers are not asked for.
        together: who of the group alarms at that time, this device or not.
        published: (group, release, digest) -> when it was published.
        window_s: alarms so near each other are at the same time.
    """
    ratio = score_ratio(alarm)
    if view is None:
        return Context(group="", score_ratio=ratio)
    born_s = published.get((view.group, alarm.release, alarm.digest))
    base = Context(
        group=view.group,
        labels=view.labels,
        alarms_24h=view.alarms_24h,
        alarms_7d=view.alarms_7d,
        confirmed_30d=view.confirmed_30d,
        rejected_30d=view.rejected_30d,
        score_ratio=ratio,
        drift_psi=view.drift_psi,
        release_age_s=0.0 if born_s is None else max(0.0, received_s - born_s),
    )
    if group is None:
        return base
    alarming = len(together.devices) - (device in together.devices)
    alike = together.of_channel.get(alarm.top_channel, set())
    # Whoever alarms is there, whatever its last summary says.
    peers = max(group.heard - view.heard, alarming)
    return replace(
        base,
        peers=peers,
        peers_alarming=alarming,
        peers_same_channel=len(alike) - (device in alike),
        lift=lift(alarming, peers, usual_share(group.usual, window_s)),
    )


def stale(alarm: wire.Alarm) -> Context:
    """What can be said without the store."""
    return Context(group="", score_ratio=score_ratio(alarm), stale=True)


def with_model(context: Context, opinion: ModelOpinion | None) -> Context:
    """The same, judged."""
    return context if opinion is None else replace(context, model=opinion)
