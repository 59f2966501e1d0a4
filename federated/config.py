"""What a training run is asked to do, and the manifest that follows from it; frozen structs, no I/O.

A `Plan` travels as JSON to every client, so that server and devices cannot disagree about it. Defaults depend on the
features: `drone` for flight logs and rings of drones; `temporal` (pca) or `lag` (autoencoders) for everything else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta, Struct

from covey.bands import Band, wrong_bands
from covey.bundle import Adapt, Defaults, Features, Golden, Inputs, Manifest, Model, Scoring
from covey.errors import ConfigError, DataError
from covey.sketch import Sketch
from federated.branches import branch
from federated.streams import Stream, whole

if TYPE_CHECKING:
    from collections.abc import Sequence

    from federated.streams import Kind

S = TypeVar("S", bound=Struct)

FAMILIES = ("pca", "dense-ae", "conv-ae")
RUNTIMES = ("onnx", "litert", "tflite")  # a bundle serves all three, whatever is installed here
CLIP = 8.0  # of normalised features, and the int8 input range

AIRBORNE_ABOVE = 15_000.0  # mean Crazyflie motor command: hover takes about 35,000, idling propellers below 10,000
SETTLE_S = 0.5
DRONE_SMOOTHING = 1 - (1 - 2 / 11) ** 0.5  # an EWMA of 11 windows of 0.5 s, at 0.25 s between windows
LAG_WINDOW = 10  # samples
LAG_SMOOTHING = 2 / 31  # an EWMA of about 30 rows
FACTOR = 4 / 3
TREND_REACH = 2.5  # of the window in `trend_rows`: 8 % of the average's weight lies on its oldest row

AVERAGES = ("trimmed", "fedavg", "fedprox", "fedadam", "krum", "multikrum", "bulyan", "fedbuff")
RULES = {"pca": ("sum",), "dense-ae": AVERAGES, "conv-ae": AVERAGES}  # family -> its rules, the default first
Strategy = Literal["auto", "sum", "trimmed", "fedavg", "fedprox", "fedadam", "krum", "multikrum", "bulyan", "fedbuff"]
Compress = Literal["none", "float16", "int8", "topk"]

Share = Annotated[float, Meta(ge=0, le=1)]
Positive = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(ge=1, le=1_000_000)]


class PcaOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """Options of family `pca`."""

    keep: Count = 8  # lag: components that count as normal; the score is what lies beyond them
    variance: Annotated[float, Meta(gt=0, lt=1)] | None = None  # lag: instead of keep, the share they must hold
    ridge: Positive = 0.03  # drone: times the mean variance, added to every direction
    between: Annotated[float, Meta(ge=0)] | None = None  # weight of the between-flight scatter; drone 5, lag 1
    forget: Share = 1.0  # weight of the windows behind the initial bundle


class ConvOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """The network of family `conv-ae`; it trains by the options of `dense`, `hidden` apart."""

    hidden: Count = 32  # channels between the layers
    code: Count | None = None  # channels of the narrowest tensor; from the number of channels when None
    kernel: Count = 3  # steps that a convolution sees, odd


class DenseOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """Options of family `dense-ae`, and of the training of `conv-ae`."""

    hidden: list[Count] | None = None  # widths; from the number of features when None
    epochs: Count = 10  # a round
    learning_rate: Positive = 2e-3
    batch: Count = 16  # windows; a commissioned drone has some forty
    trim: Annotated[float, Meta(ge=0, lt=0.5)] = 0.2  # share of updates cut from each end, from three updates on
    proximal: Annotated[float, Meta(ge=0)] = 0.0  # mu of FedProx


class ServerOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """Options of the rules that merge updates."""

    hostile: Annotated[int, Meta(ge=0, le=100_000)] | None = (
        None  # krum, multikrum, bulyan: to bear; a fifth of those asked
    )
    rate: Positive | None = None  # fedadam: eta, 0.1; fedbuff: server learning rate, 1
    beta_1: Annotated[float, Meta(ge=0, lt=1)] = 0.9  # fedadam
    beta_2: Annotated[float, Meta(ge=0, lt=1)] = 0.99
    tau: Positive = 1e-3
    buffer: Count = 4  # fedbuff: updates a round
    busy: Count | None = None  # fedbuff: devices that learn at the same time; all


class PrivacyOptions(Struct, frozen=True, forbid_unknown_fields=True):
    """Differential privacy of the weights, per device (add or remove one); see federated/privacy.py for what it leaves out."""

    noise: Positive = 1.0  # standard deviation of the noise on the sum, in `clip`
    clip: Positive = 1.0  # norm of one device's update
    epsilon: Positive = 8.0  # budget: no round is begun that would exceed it
    delta: Annotated[float, Meta(gt=0, lt=1)] = 1e-5
    side: Literal["server", "client"] = "server"  # who clips


class Gates(Struct, frozen=True, forbid_unknown_fields=True):
    """Bounds that a candidate must keep in federated evaluation before it is exported."""

    int8_error: Positive = 0.05  # median over devices of the .99 quantile of |int8 - fp32| score, in thresholds
    int8_bias: Positive = 0.05  # median over devices of |mean int8 score / mean fp32 score - 1|
    false_alarms: Share = 0.05  # how much the share of false alarms may exceed fp32's, and the current release's


class Plan(Struct, frozen=True, forbid_unknown_fields=True):
    """One training run."""

    family: Literal["pca", "dense-ae", "conv-ae"]
    group: Annotated[str, Meta(min_length=1, max_length=64)] = "default"
    features: Literal["auto", "drone", "lag", "temporal"] = "auto"
    stream: Literal["auto", "process", "metrics", "daily"] = "auto"  # temporal: its kind; federated/streams.py
    window: Count | None = None  # samples
    hop: Count | None = None  # samples
    columns: list[str] | None = None
    rows: tuple[int, int] | None = None  # of every file
    bands: list[Band] = []  # drone: of the accelerations, each three features more
    rounds: Annotated[int, Meta(ge=1, le=10_000)] = 1
    min_clients: Count = 2
    timeout_s: Positive = 120.0  # a message round
    seed: int = 0
    strict: bool = False  # one failing device fails the run
    strategy: Strategy = "auto"
    fraction: Annotated[float, Meta(gt=0, le=1)] = 1.0  # of the devices, asked in a round
    evaluators: Count = 1000  # devices that judge a candidate, at most: rates of a fleet need no more
    clip: Literal["median", "none"] | Positive = "median"  # norm to which longer updates are shortened before any rule
    far: Literal["auto", "none"] | Positive = "auto"  # distance from the others' median, in median distances, to refuse
    compress: Compress = "float16"  # of autoencoder updates up and weights down
    keep: Annotated[float, Meta(gt=0, le=1)] = 0.1  # topk: share of the weights that travels
    masked: bool = False  # pca: the server sees the sum alone
    quantile: Annotated[float, Meta(gt=0, lt=1)] = 0.99
    factor: Positive | None = None  # of the threshold; 4/3, temporal: the stream's
    commission_windows: Count | None = None
    temporal: Stream = Stream()
    adapt: Literal["auto", "on", "off"] = "auto"  # scores follow a level that drifts; auto: of long histories
    pca: PcaOptions = PcaOptions()
    dense: DenseOptions = DenseOptions()
    conv: ConvOptions = ConvOptions()
    gates: Gates = Gates()
    server: ServerOptions = ServerOptions()
    privacy: PrivacyOptions | None = None

    @property
    def rule(self) -> str:
        """The strategy, named."""
        return RULES[self.family][0] if self.strategy == "auto" else self.strategy


def read_struct(kind: type[S], text: str, what: str) -> S:
    """A struct from the JSON that another part wrote.

    Raises:
        ConfigError: it is not one.
    """
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.DecodeError as error:
        raise ConfigError(f"{what}: {error}") from error


def write_struct(value: Struct) -> str:
    """The JSON of a struct."""
    return msgspec.json.encode(value).decode()


def choose_inputs(
    plan: Plan,
    offers: Sequence[tuple[str, tuple[str, ...], float, int]],
    drone: Sequence[str],
    stream: tuple[Kind, int] = ("process", 0),
) -> Inputs:
    """What the model looks at, from what the devices have.

    Args:
        plan: its features, columns, window and hop.
        offers: name, channels, rate in samples/s, and window length (0: free) of every device that answered.
        drone: the channels of `drone` features.
        stream: its kind and rows of a day, for `temporal` features.

    Raises:
        DataError: the devices' channels, rates or windows do not go together, or lack what is asked for.
    """
    if not offers:
        raise DataError("inputs: at least one device expected, none answered")
    _, channels, rate_hz, fixed = offers[0]
    everywhere = [name for name in channels if all(name in other for _, other, _, _ in offers)]
    kind = plan.features
    if kind == "auto":
        kind = "drone" if plan.columns is None and set(drone) <= set(everywhere) else _table_features(plan, offers)
    wanted = list(drone) if kind == "drone" else plan.columns or list(channels)
    for device, there, rate, _ in offers:
        missing = [name for name in wanted if name not in there]
        if missing:
            raise DataError(f"{device}: channels {', '.join(wanted)} expected, {', '.join(missing)} missing")
        if abs(rate - rate_hz) > 0.05 * rate_hz:
            raise DataError(f"{device}: {rate_hz:g} samples/s expected as of {offers[0][0]}, {rate:g} found")
    rate_hz = round(rate_hz, 3)
    windows = {length for _, _, _, length in offers if length}
    if len(windows) > 1 or (windows and kind != "temporal" and plan.window not in {None, *windows}):
        raise DataError(f"inputs: windows of one length expected, {sorted(windows | {plan.window or 0} - {0})} found")
    if kind != "lag" and plan.family == "conv-ae":
        raise DataError(f"conv-ae: features lag expected, whose order is time, {kind} found: give --features lag")
    if kind == "drone":
        window = fixed or plan.window or max(4, round(rate_hz))
        if wrong := wrong_bands(plan.bands, rate_hz, window):
            raise DataError("; ".join(wrong))
        return Inputs(wanted, rate_hz, window, plan.hop or max(1, window // 4), _drone_features(plan))
    if plan.bands:
        raise DataError(f"inputs: no bands expected for features {kind}, {len(plan.bands)} came")
    if kind == "temporal":
        return _temporal(plan, wanted, rate_hz, fixed, *stream)
    window = fixed or plan.window or LAG_WINDOW
    if plan.family == "conv-ae" and window != (plan.window or LAG_WINDOW):
        raise DataError(f"conv-ae: the devices hold windows of {window} samples: give --window {window}")
    return Inputs(wanted, rate_hz, window, plan.hop or 1, Features("lag"))


def _table_features(
    plan: Plan, offers: Sequence[tuple[str, tuple[str, ...], float, int]]
) -> Literal["lag", "temporal"]:
    """Filters over time for `pca`, unless rings hold whole windows or the plan says how long they are; else rows as they are."""
    free = plan.window is None and {length for *_, length in offers} <= {0, 1}
    return "temporal" if plan.family == "pca" and free else "lag"


def settled(plan: Plan, inputs: Inputs, kind: Kind, day_rows: int) -> Plan:
    """The plan with the features that were chosen, so that families need no `auto`.

    Args:
        plan: as it was given.
        inputs: what the model looks at.
        kind: of stream, for `temporal` features.
        day_rows: likewise.
    """
    found = inputs.features
    plan = msgspec.structs.replace(plan, features=found.kind)
    if found.kind != "temporal":
        return plan
    told = whole(plan.temporal, kind, day_rows)
    names = [one.name for one in found.branches]  # an initial bundle's go before the plan's
    told = msgspec.structs.replace(told, branches=names, day_rows=found.day_rows, own_scale=found.own_scale)
    return msgspec.structs.replace(plan, stream=kind, temporal=told)


def _temporal(plan: Plan, channels: list[str], rate_hz: float, recorded: int, kind: Kind, day_rows: int) -> Inputs:
    """Padded windows as long as the longest filter; `recorded`: rows that a ring's records hold, 0 for files."""
    options = whole(plan.temporal, kind, day_rows)
    branches = [branch(name) for name in options.branches or []]
    longest = max(len(taps) for one in branches for taps in one.taps)
    hop = recorded or plan.hop or 1
    if plan.hop not in {None, hop} or (recorded > 1 and plan.hop is None):
        raise DataError(f"inputs: rings of {plan.hop or 1} rows a record expected for temporal features, {hop} found")
    back = max(plan.window or 1, longest, hop, round(TREND_REACH * (options.trend_rows or 0)))
    told = Features(
        "temporal",
        branches=branches,
        channel_clip=options.clip or CLIP,
        trend_rows=options.trend_rows or 0,
        day_rows=options.day_rows or 0,
        own_scale=bool(options.own_scale) and plan.family == "pca",
    )
    if any(one.daily for one in branches) and not told.day_rows:
        raise DataError("inputs: branch prof: the rows of a day expected (temporal.day_rows), none told or found")
    return Inputs(channels, rate_hz, back, hop, told)


def _drone_features(plan: Plan) -> Features:
    return Features("drone", AIRBORNE_ABOVE, SETTLE_S, bands=plan.bands)


def scoring_of(plan: Plan, inputs: Inputs, channel_of_feature: Sequence[int]) -> Scoring:
    """From a window's score to an alarm, by the kind of features."""
    drone = inputs.features.kind == "drone"
    return Scoring(
        smoothing=DRONE_SMOOTHING if drone else _smoothing(plan, inputs),
        quantile=plan.quantile,
        factor=plan.factor or (plan.temporal.factor if inputs.padded else None) or FACTOR,
        # Windows of 1 s overlap by three quarters: four in a row are the first second that the first one does not share.
        begin_windows=4 if drone else 1,
        end_windows=8 if drone else 5,
        commission_windows=plan.commission_windows or (40 if drone else 100),
        attribution="rotor" if drone else "channel",
        channel_of_feature=list(channel_of_feature),
        log=inputs.padded and plan.family == "pca" and bool(plan.temporal.log),
        adapt=Adapt() if plan.adapt == "on" or (plan.adapt == "auto" and _long(plan, inputs)) else None,
    )


def _long(plan: Plan, inputs: Inputs) -> bool:
    """Whether a stream is a history of readings minutes apart: a hold of 512 rows is hours there, and minutes on a test rig."""
    return inputs.padded and plan.stream in {"metrics", "daily"}


def _smoothing(plan: Plan, inputs: Inputs) -> float:
    rows = plan.temporal.smoothing_rows if inputs.padded else None
    return LAG_SMOOTHING if rows is None else min(1.0, 2 / rows)


def draft_manifest(
    plan: Plan, inputs: Inputs, scoring: Scoring, model: Model, *, center: list[float], scale: list[float]
) -> Manifest:
    """A manifest whose thresholds, references and spread are still unknown: a device calibrates before it scores."""
    own = len(inputs.channels) if inputs.padded else 0
    return Manifest(
        format="covey-bundle/1",
        family=plan.family,
        group=plan.group,
        made="1970-01-01T00:00:00Z",
        made_by="draft",
        inputs=inputs,
        defaults=Defaults(
            center=center,
            scale=scale,
            clip=CLIP,
            spread=[1e-6] * model.inputs,  # below any real one, so that it floors nothing
            thresholds=dict.fromkeys(RUNTIMES, 1.0),
            reference={name: Sketch().to_wire() for name in RUNTIMES},
            channel_center=[0.0] * own,
            channel_scale=[1e-3] * own,
        ),
        model=model,
        scoring=scoring,
        golden=Golden(windows=1, tolerance=dict.fromkeys(RUNTIMES, 1.0)),
        evidence={},
        files={},
    )


class Job(Struct, frozen=True, forbid_unknown_fields=True):
    """A plan and where it reads and writes; paths are the server's."""

    plan: Plan
    out: str  # bundle
    checkpoint: str  # folder
    initial: str | None = None  # bundle: where training starts, and the current release to compare with
    resume: bool = False
