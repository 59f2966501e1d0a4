"""Kinds of streams: what `temporal` features and their thresholds are for each, and how data tells its kind. Pure.

`process`: one machine's run of minutes, sampled about once a second (a test rig, a pump): a few lagged rows, channels that wander
taken from their trend. `metrics`: long histories of readings a minute or so apart (servers, edge machines): levels and differences
over several time scales. `daily`: the same where a daily course explains most of what channels do: that course is taken
away in one branch. The figures behind each number are in docs/decisions/0025-kinds-of-streams.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta, Struct

from edge.scoring.temporal import daily_course, day_terms

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from covey.bundle import Manifest

Kind = Literal["process", "metrics", "daily"]
Adapting = Literal["auto", "on", "off"]
Share = Annotated[float, Meta(ge=0, le=1)]
Positive = Annotated[float, Meta(gt=0)]

DAYS = (1440, 720, 288, 144, 96, 48, 24)  # rows of a day: a reading every 1, 2, 5, 10, 15, 30 or 60 minutes
DAILY_FROM = 0.7  # share of the channels' variance that a daily course must explain
HISTORY_ROWS = 2000  # fewer are a run: averages over 37 rows need some fifty of them to have a covariance
_AS_MUCH = 0.02
_LIVE = 0.05  # variance of a normalised channel that is worth explaining


class Stream(Struct, frozen=True, forbid_unknown_fields=True):
    """Options of `temporal` features; None: what the kind of stream says."""

    branches: list[str] | None = None  # names of federated/branches.py
    clip: Positive | None = None  # of a normalised channel
    trend_rows: Annotated[int, Meta(ge=0, le=20_000)] | None = (
        None  # wandering channels: rows of their average; 0: none
    )
    day_rows: Annotated[int, Meta(ge=0, le=10_000_000)] | None = None  # rows of a day
    own_scale: bool | None = None  # pca: devices scale features by their own spread
    keep: Annotated[float, Meta(gt=0, lt=1)] | None = None  # pca: share of a branch's variance that is normal variation
    within: Annotated[float, Meta(ge=0)] | None = None  # pca: weight of that, standardised
    own: Share | None = None  # pca: share of a device's own directions in its score, beside the group's network
    distrust: Annotated[float, Meta(ge=0, lt=0.5)] | None = None  # pca: share of its windows that a device disbelieves
    log: bool | None = None  # pca: smooth log(1 + score)
    smoothing_rows: Positive | None = None  # n of the score's average, alpha 2 / n
    factor: Positive | None = None  # of the threshold
    alone: Annotated[float, Meta(ge=0, le=10)] | None = None  # added to it for a device that learned by itself


KINDS: dict[Kind, Stream] = {
    "process": Stream(
        branches=["lag6"], clip=4.0, trend_rows=200, day_rows=0, own_scale=True, keep=0.65, within=0.1, own=0.3,
        distrust=0.03, log=True, smoothing_rows=31.0, factor=1.14, alone=0.12,
    ),
    "metrics": Stream(
        branches=["ms", "lag5"], clip=8.0, trend_rows=0, day_rows=0, own_scale=False, keep=0.9, within=0.0, own=0.5,
        distrust=0.02, log=False, smoothing_rows=15.0, factor=4 / 3, alone=0.0,
    ),
    "daily": Stream(
        branches=["ms", "ar", "prof"], clip=8.0, trend_rows=0, day_rows=0, own_scale=False, keep=0.98, within=0.0, own=0.5,
        distrust=0.02, log=False, smoothing_rows=None, factor=4 / 3, alone=0.0,
    ),
}  # fmt: skip


def whole(told: Stream, kind: Kind, day_rows: int) -> Stream:
    """Every option, from what was told and from the kind of stream.

    Args:
        told: of the plan.
        kind: of stream.
        day_rows: rows of a day, where the kind is `daily`.
    """
    base = msgspec.structs.replace(KINDS[kind], day_rows=day_rows if kind == "daily" else 0)
    if base.smoothing_rows is None:  # a quarter of an hour, but six rows at least
        base = msgspec.structs.replace(base, smoothing_rows=max(6.0, day_rows / 96))
    own = {name: getattr(told, name) for name in told.__struct_fields__ if getattr(told, name) is not None}
    return msgspec.structs.replace(base, **own)


def daily_shares(rows: NDArray[np.floating[Any]], days: tuple[int, ...] = DAYS) -> NDArray[np.float64]:
    """(days,) how much of the channels' variance a daily course explains, the median channel's; 0 where there is no whole day.

    Args:
        rows: (R, C) in order of time, without gaps worth speaking of.
        days: rows of a day to try.
    """
    scale = rows.std(axis=0)
    live = scale > 0
    u = (rows[:, live] - rows[:, live].mean(axis=0)) / scale[live]
    out = np.zeros(len(days))
    at = np.arange(len(rows), dtype=np.float64)
    for number, day in enumerate(days):
        if len(rows) < day or not u.shape[1]:
            continue
        left = u - day_terms(at, day) @ daily_course(u, at, day)
        out[number] = float(np.median(1 - left.var(axis=0) / np.maximum(u.var(axis=0), _LIVE)))
    return out


def stream_of(manifest: Manifest) -> tuple[Kind, int]:
    """The kind of stream that a bundle was made for, and its rows of a day."""
    features = manifest.inputs.features
    if any(branch.daily for branch in features.branches):
        return "daily", features.day_rows
    return ("process" if manifest.scoring.log else "metrics"), 0


def likely_day(shares: NDArray[np.float64]) -> int:
    """Index of the day that explains most; of several that explain as much the shortest: three days have its course too."""
    return int(np.flatnonzero(shares >= shares.max() - _AS_MUCH)[-1])


def kind_of(shares: NDArray[np.float64], rows: float) -> tuple[Kind, int]:
    """The kind of stream, and its rows of a day (0: none), from what devices tell.

    Args:
        shares: (days,) as of `daily_shares`, the devices' median.
        rows: that a device has, the devices' median.
    """
    best = likely_day(shares)
    if shares[best] >= DAILY_FROM:
        return "daily", DAYS[best]
    return ("metrics" if rows >= HISTORY_ROWS else "process"), 0


def following(adapt: Adapting, rows: float | None) -> Adapting:
    """`adapt` of a plan: off where it is left open and devices know too little for a new level to be told from it.

    A level that holds for 512 rows is news in a history of thousands; of a history of 700 it may be all that there is.

    Args:
        adapt: as told.
        rows: that a device has, the devices' median; None: not known.
    """
    return "off" if adapt == "auto" and rows is not None and rows < HISTORY_ROWS else adapt
