"""From a scenario to a fleet on the air: flies the pool, finds the models, opens ledger and sessions, runs.

A ledger remembers what it was begun with, so that a simulation that was killed goes on with the same fleet: its devices come
back as after a power cut, with the same outboxes and what was not acknowledged in them.
"""

from __future__ import annotations

import random
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from covey import topics, wire
from covey.bundle import read_bundle
from covey.errors import DataError, LinkError, UsageError
from edge.loading import choose_runtime, open_model
from edge.models.check import check_golden
from firmware_sim.fleets.agents import Agents
from firmware_sim.fleets.bundles import fit_bundle
from firmware_sim.fleets.loop import Fleet
from firmware_sim.fleets.recordings import calibrations, cut_pool, fly_pool
from firmware_sim.net.sessions import Client, Sessions
from firmware_sim.scene.plan import plan_fleet
from firmware_sim.scene.scenario import Scenario  # noqa: TC001  # msgspec reads annotations when it runs
from firmware_sim.truth.ledger import Ledger

if TYPE_CHECKING:
    import ssl
    import threading
    from collections.abc import Callable, Sequence

    from edge.core import Loaded
    from firmware_sim.fleets.progress import FleetOptions, Progress
    from firmware_sim.fleets.recordings import Flown
    from firmware_sim.scene.plan import DevicePlan, FleetPlan

_FLEET = "fleet"  # the ledger's meta value that holds all that `resume` needs
RELEASE = 1  # what the devices report of the bundle that they were given


@dataclass(frozen=True)
class Order:
    """What a fleet is asked to do.

    Attributes:
        scenario: what happens.
        devices: how many; None: the scenario's own number.
        seed: the same seed gives the same fleet.
        first: number of the first device, so that several processes can share a fleet.
        seconds: length; None: the scenario's.
        mqtt: (host, port).
        ledger: file to write.
        bundles: body -> bundle to run; what is missing is fitted.
        options: drain and resending.
        user: MQTT user name; `{device}` in it becomes the device's.
        password: MQTT password.
        tls: how the broker is trusted; None: plain TCP.
    """

    scenario: Scenario
    devices: int | None
    seed: int
    first: int
    seconds: float | None
    mqtt: tuple[str, int]
    ledger: Path
    bundles: dict[str, Path]
    options: FleetOptions
    user: str = ""
    password: str | None = None
    tls: ssl.SSLContext | None = None


class Meta(msgspec.Struct, frozen=True):
    """What a ledger remembers of how it was begun."""

    scenario: Scenario
    devices: int
    seed: int
    first: int
    seconds: float
    start_epoch_s: float
    bundles: dict[str, str]


@dataclass(frozen=True)
class Ended:
    """How a run ended: everything acknowledged or not, and its last progress."""

    clean: bool
    progress: Progress


def launch(
    order: Order, stop: threading.Event, told: Callable[[str, int, int], None], show: Callable[[Progress], None]
) -> Ended:
    """Begin a fleet with a new ledger.

    Raises:
        UsageError: the ledger exists already, or the scenario cannot be planned.
        LinkError: no device could ever connect.
        CoveyError: a bundle or a runtime cannot be used, the learner fails.
    """
    if order.ledger.exists():
        raise UsageError(f"{order.ledger}: a new ledger expected, the file is there already (--resume goes on with it)")
    if not order.ledger.absolute().parent.is_dir():
        raise UsageError(f"{order.ledger}: a ledger in an existing folder expected, there is no such folder")
    for path in order.bundles.values():
        read_bundle(path)  # before the flying: it takes a while
    plan = plan_fleet(order.scenario, order.devices, order.seed, order.seconds, order.first)
    with ExitStack() as stack:
        flown = _fly(plan, told)
        paths = _bundles(plan, flown, order, stop, told)
        models = {body: open_bundle(path) for body, path in paths.items()}
        meta = Meta(
            order.scenario, len(plan.devices), order.seed, order.first, plan.duration_s, time.time(),
            {body: str(path) for body, path in paths.items()},
        )  # fmt: skip
        told_by_ledger = {
            "scenario": plan.scenario.name,
            "seed": order.seed,
            "start_epoch_s": meta.start_epoch_s,
            "covey": version("covey"),
            _FLEET: msgspec.to_builtins(meta),
        }
        ledger = stack.enter_context(Ledger.create(order.ledger, told_by_ledger))
        _register(ledger, plan, meta.start_epoch_s, flown)
        return _run(order, plan, flown, models, ledger, meta.start_epoch_s, stop, show)


def resume(
    order: Order, stop: threading.Event, told: Callable[[str, int, int], None], show: Callable[[Progress], None]
) -> Ended:
    """Go on with the fleet of a ledger after its simulation was killed; scenario, number and seed are the ledger's.

    Raises:
        UsageError: there is no ledger, or another process writes it.
        CoveyError: as `launch`.
    """
    with ExitStack() as stack:
        ledger = stack.enter_context(Ledger.open(order.ledger))
        try:
            meta = msgspec.convert(ledger.meta.get(_FLEET), Meta)
        except msgspec.ValidationError as error:
            raise DataError(f"{order.ledger}: a fleet's ledger expected, {error}") from error
        plan = plan_fleet(meta.scenario, meta.devices, meta.seed, meta.seconds, meta.first)
        models = {body: open_bundle(Path(path)) for body, path in meta.bundles.items()}
        flown = _fly(plan, told)
        return _run(order, plan, flown, models, ledger, meta.start_epoch_s, stop, show)


def _fly(plan: FleetPlan, told: Callable[[str, int, int], None]) -> list[Flown]:
    done, total = 0, len(plan.recordings)

    def count(more: int) -> None:
        nonlocal done
        done += more
        told("flying the pool", done, total)

    told("flying the pool", 0, total)
    return fly_pool(plan.recordings, count)


def _bundles(
    plan: FleetPlan,
    flown: Sequence[Flown],
    order: Order,
    stop: threading.Event,
    told: Callable[[str, int, int], None],
) -> dict[str, Path]:
    paths: dict[str, Path] = {}
    for body in sorted({one.body for one in plan.devices}):
        if body in order.bundles:
            paths[body] = order.bundles[body].absolute()
            continue
        told(f"fitting a model for each {body}", 0, 1)
        healthy = [flown[n] for (kind, _), numbers in plan.commission.items() if kind == body for n in numbers]
        out = order.ledger.with_name(f"{order.ledger.name}.{body}.covey").absolute()
        with tempfile.TemporaryDirectory(prefix="covey-fit-") as folder:
            paths[body] = fit_bundle(body, healthy, out, Path(folder), stop)
        told(f"fitting a model for each {body}", 1, 1)
    return paths


def open_bundle(path: Path) -> Loaded:
    """A bundle as every device of the fleet runs it, checked against its golden windows.

    Raises:
        CoveyError: it is no bundle, does not do what it promises, or no runtime here runs it.
    """
    bundle = read_bundle(path)
    runtime = choose_runtime(bundle, ())
    model = open_model(bundle, RELEASE, runtime, None)
    check_golden(bundle, runtime, model.network)
    return model


def _register(ledger: Ledger, plan: FleetPlan, begin_s: float, flown: Sequence[Flown]) -> None:
    length_s = [len(one.samples) / one.rate_hz for one in flown]
    ledger.register(
        [
            (
                one.name,
                one.body,
                one.link,
                one.clock.offset_s,
                [
                    (item.kind, item.category, begin_s + item.onset_s, begin_s + item.until_s, item.size)
                    for item in one.truth
                ],
                [(begin_s + s.start_s, begin_s + s.start_s + length_s[s.recording]) for s in one.stretches],
            )
            for one in plan.devices
        ]
    )


def _run(
    order: Order,
    plan: FleetPlan,
    flown: Sequence[Flown],
    models: dict[str, Loaded],
    ledger: Ledger,
    begin_s: float,
    stop: threading.Event,
    show: Callable[[Progress], None],
) -> Ended:
    recordings = cut_pool(flown, plan.recordings, {body: model.manifest.inputs for body, model in models.items()})
    agents = Agents(plan.devices, models, calibrations(recordings, plan.commission, models))
    clients = [_client(one, order, plan.scenario) for one in plan.devices]
    host, port = order.mqtt
    scenario = plan.scenario
    with Sessions(
        host,
        port,
        clients,
        keepalive_s=scenario.keepalive_s,
        connect_per_s=scenario.connect_per_s,
        tls=order.tls,
    ) as sessions:
        fleet = Fleet(plan, recordings, agents, ledger, sessions, begin_s, order.options, random.Random(order.seed))  # noqa: S311  # jitter
        clean = fleet.run(stop, show)
    if not fleet.progress.connects:
        reasons = sessions.counters.reasons.most_common(1)
        raise LinkError(
            f"mqtt {host}:{port}: no device could connect: {reasons[0][0] if reasons else 'stopped before'}"
        )
    return Ended(clean, fleet.progress)


def _client(plan: DevicePlan, order: Order, scenario: Scenario) -> Client:
    device = plan.name
    down = [(topics.mqtt_topic(device, kind), 1) for kind in topics.DOWN_KINDS]
    return Client(
        client_id=device,
        subscriptions=(*down, (topics.gateway_topic(topics.shard(device)), 1)),
        will_topic=topics.mqtt_topic(device, topics.PRESENCE),
        will_payload=lambda session: wire.encode(wire.Presence(online=False, session=session)),
        link=scenario.link_profile(plan.link),
        seed=plan.seed,
        user=order.user,
        password=order.password,
    )
