"""`covey cloud run`: the stages of the stream, a thread each, in one process or in several (`--stages`).

What goes wrong in a thread and is no outage reaches the main loop, stops the others and ends the process.
"""

from __future__ import annotations

import gc
import logging
import threading
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import generate_latest

from cloud.learn import desired
from cloud.learn.releases import Repository
from cloud.store import retention
from cloud.store.schema import open_store
from cloud.stream import instance, rules_file
from cloud.stream.consume import StoreStage
from cloud.stream.deliver import Deliver
from cloud.stream.enrich import EnrichStage
from cloud.stream.gauges import Metrics, StageGauge
from cloud.stream.kafka import Writer
from cloud.stream.publish import Publisher
from cloud.stream.route import RouteStage
from cloud.stream.stage import Loop
from cloud.stream.watched import Watched
from covey import health, tracing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sqlalchemy.engine import Engine

    from cloud.config import CloudConfig
    from cloud.stream.rules_file import Routing
    from cloud.stream.stage import Stage
    from covey.tracing import Tracing

_log = logging.getLogger("cloud")

REFRESH_S = 3600.0  # how often metadata is looked at for half its life
FLUSH_S = 5.0  # deadline for what is on its way when stopped
TURN_S = 0.2
JOIN_S = 15.0  # a stage ends its batch; after that the process ends without it


class Part(threading.Thread):
    """One stage's thread; keeps what went wrong for the main loop."""

    def __init__(self, name: str, run: Callable[[], None], failed: threading.Event) -> None:
        super().__init__(name=name, daemon=True)
        self._run, self._failed = run, failed
        self.error: BaseException | None = None

    def run(self) -> None:
        """The thread's own."""
        try:
            self._run()
        except BaseException as error:  # noqa: BLE001  # told by the main thread
            self.error = error
            self._failed.set()


def run(config: CloudConfig, stop: threading.Event) -> None:
    """Run the configured stages until `stop`.

    Raises:
        StoreError: store or repository cannot be opened at the start; later refusals are waited out.
        ConfigError: rules or credentials cannot be read.
        LinkError: the health port is taken.
        UsageError: no name for this instance.
    """
    names = config.stage_names
    with ExitStack() as stack:
        kind = "|".join((config.kafka, config.consumer_group, *names, config.broker_instance))
        name = config.instance or stack.enter_context(instance.claim(kind))
        engine = open_store(config.store)
        stack.callback(engine.dispose)
        failed, metrics = threading.Event(), Metrics()
        routing = None
        if {"route", "deliver"} & {*names}:
            routing = Watched(config.rules, rules_file.load, metrics.refused("rules")).now
        traces = tracing.start("cloud")
        if traces is not None:
            stack.callback(traces.close)
        stages = _stages(config, engine, metrics, routing, stack, traces)
        reading = {one.name: False for one in stages}

        def made(one: Stage) -> Part:
            gauge = StageGauge(metrics, engine, one.name, name, config.drain_s)
            return Part(
                one.name, Loop(one, config, name, gauge, stop, partial(reading.__setitem__, one.name)).run, failed
            )

        parts = [made(one) for one in stages]
        if "deliver" in names and routing is not None:
            parts.append(Part(Deliver.name, Deliver(routing, engine, metrics, stop).run, failed))

        if "store" in names:
            parts.append(Part("retention", partial(retention.run, config.retention, engine, stop), failed))

        def state() -> dict[str, str]:
            running = {part.name: part.is_alive() for part in parts}
            return {
                of: ("reading" if reading.get(of, True) else "waiting") if on else "ended" for of, on in running.items()
            }

        def view() -> health.View:
            seen = state()
            alive, ready = "ended" not in seen.values(), set(seen.values()) <= {"reading"}
            return health.View(alive, ready, dict(seen), lambda: generate_latest(metrics.registry).decode())

        stack.enter_context(health.serve(config.health_host, config.health_port, view))
        _log.info("%s: %s; acknowledging after %s", name, ", ".join(names), config.ack_after)
        _spare_the_collector()
        supervise(parts, stop, failed)
    _log.info("stopped")


def supervise(parts: Sequence[Part], stop: threading.Event, failed: threading.Event) -> None:
    """Run parts until `stop`, or until one of them fails; then end the others.

    Raises:
        BaseException: whatever a part raised.
    """
    for part in parts:
        part.start()
    while not stop.is_set() and not failed.is_set():
        stop.wait(TURN_S)
    stop.set()
    for part in parts:
        part.join(JOIN_S)
    for part in parts:
        if part.error is not None:
            raise part.error


def _spare_the_collector() -> None:
    """A batch is up to 200,000 short-lived objects without cycles: looking for some took a third of a full load's time (measured)."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(500_000, 20, 100)


def _stages(
    config: CloudConfig,
    engine: Engine,
    metrics: Metrics,
    routing: Callable[[], Routing] | None,
    stack: ExitStack,
    traces: Tracing | None,
) -> list[Stage]:
    made: list[Stage] = []
    if "store" in config.stage_names:
        made.append(_store(config, engine, stack, traces))
    if "enrich" in config.stage_names:
        made.append(EnrichStage(config, engine, metrics.model_failures.inc, traces, metrics.refused("model")))
    if "route" in config.stage_names and routing is not None:
        made.append(RouteStage(routing, engine, traces))
    return made


def _store(config: CloudConfig, engine: Engine, stack: ExitStack, traces: Tracing | None) -> StoreStage:
    repository = Repository(Path(config.repository_dir))
    repository.create()
    desired.say_base_url(engine, config.base_url)
    desired.record_releases(engine, repository.releases())
    again = desired.republish(engine, config.base_url)
    _log.info("store open; %d desired releases told again", again)
    writer = Writer(config)
    stack.callback(writer.flush, FLUSH_S)
    chores = _Chores(config, engine, repository, Publisher(engine, writer))
    return StoreStage(config, engine, writer, chores, traces)


class _Chores:
    """What one instance of `store` does for all: say what is wanted and what was decided, keep signatures young."""

    def __init__(self, config: CloudConfig, engine: Engine, repository: Repository, publisher: Publisher) -> None:
        self._config, self._engine = config, engine
        self._repository, self._publisher = repository, publisher
        self._refresh_at = 0.0

    def __call__(self) -> None:
        new = desired.adopt(self._engine, self._config.base_url)
        if new:
            _log.info("new devices given their group's release: %s", ", ".join(new))
        self._publisher.step()
        now = time.monotonic()
        if now >= self._refresh_at:
            self._refresh_at = now + REFRESH_S
            renewed = self._repository.refresh()
            if renewed:
                _log.info("signed again before expiry: %s", ", ".join(renewed))
