"""`covey cloud run`: consumer, desired releases and publisher in one process and one thread."""

from __future__ import annotations

import logging
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from cloud.learn import desired
from cloud.learn.releases import Repository
from cloud.store.schema import open_store
from cloud.stream.consume import Intake
from cloud.stream.kafka import Writer
from cloud.stream.publish import Publisher
from covey.errors import StoreError

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from sqlalchemy.engine import Engine

    from cloud.config import CloudConfig

_log = logging.getLogger("cloud")

PUBLISH_S = 0.2  # how often the store is asked for messages to produce and for devices that have appeared
REFRESH_S = 3600.0  # how often metadata is looked at for half its life
FLUSH_S = 5.0  # deadline for what is on its way when stopped


def run(config: CloudConfig, stop: threading.Event) -> None:
    """Store the stream, acknowledge it, and say what is wanted, until `stop`.

    Raises:
        StoreError: store or repository cannot be opened at the start; later refusals are waited out.
    """
    engine = open_store(config.store)
    repository = Repository(Path(config.repository_dir))
    repository.create()
    desired.say_base_url(engine, config.base_url)
    desired.record_releases(engine, repository.releases())
    again = desired.republish(engine, config.base_url)
    _log.info("store open; %d desired releases told again; acknowledging after %s", again, config.ack_after)
    with ExitStack() as stack:
        stack.callback(engine.dispose)
        writer = Writer(config)
        publisher = Publisher(engine, writer)
        intake = Intake(config, engine, writer, stop)
        stack.callback(writer.flush, FLUSH_S)
        stack.callback(intake.close)
        publish_at = refresh_at = 0.0
        while not stop.is_set():
            intake.step()
            writer.poll()
            now = time.monotonic()
            if now >= publish_at:
                publish_at = now + PUBLISH_S
                _patiently(lambda: _say_what_is_wanted(engine, config, publisher))
            if now >= refresh_at:
                refresh_at = now + REFRESH_S
                _patiently(lambda: _renew(repository))
    _log.info("stopped")


def _say_what_is_wanted(engine: Engine, config: CloudConfig, publisher: Publisher) -> None:
    new = desired.adopt(engine, config.base_url)
    if new:
        _log.info("new devices given their group's release: %s", ", ".join(new))
    publisher.step()


def _renew(repository: Repository) -> None:
    renewed = repository.refresh()
    if renewed:
        _log.info("signed again before expiry: %s", ", ".join(renewed))


def _patiently(step: Callable[[], None]) -> None:
    """Do a step whose next turn comes by itself: a store that refuses now is an outage, not the end."""
    try:
        step()
    except StoreError as error:
        _log.warning("%s; trying again", error)
