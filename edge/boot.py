"""How an agent starts: which model it begins with, and what its way up is made of.

The first release is installed from a file that was given to the device; from then on the slots decide. A release that dies before it
has lived through its trial, or cannot be opened, is gone back from here.
"""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from covey.bundle import read_bundle
from covey.errors import BundleError, ConfigError, UpdateError
from edge.budget import Budget
from edge.link import Link, read_password, tls_context
from edge.loading import choose_runtime, open_model
from edge.models.check import check_golden, check_in_subprocess
from edge.outbox import Outbox
from edge.resend import SendWindow
from edge.uplink import Uplink

if TYPE_CHECKING:
    import logging
    from collections.abc import Iterator

    from covey.tracing import Tracing
    from edge.config import AgentConfig
    from edge.core import Loaded
    from edge.install import Installer
    from edge.models.slots import Slot, Slots
    from edge.trial import Trial


@contextmanager
def opened_uplink(
    config: AgentConfig, state: Path, log: logging.Logger, tracing: Tracing | None = None
) -> Iterator[Uplink]:
    """Outbox and link, opened together and closed in order; for the thread that will use them."""
    with Outbox(state / "outbox.db", config.device, config.outbox_bytes) as outbox:
        link = Link(
            config.device,
            config.host,
            config.port,
            log,
            tls=tls_context(config.mqtt_ca, config.mqtt_cert, config.mqtt_key),
            user=config.mqtt_user,
            password=read_password(config.mqtt_password_file),
        )
        try:
            window = SendWindow(config.window_rows, config.ack_timeout_s, config.hold_s)
            yield Uplink(outbox, link, window, log, Budget(config.links), tracing)
        finally:
            link.close()


def open_slot(slot: Slot, config: AgentConfig) -> Loaded:
    """The model of a slot, its golden windows checked in this process.

    Raises:
        BundleError: it is damaged or computes something else.
        UsageError: no runtime of those wanted.
    """
    runtime = choose_runtime(slot.bundle, config.runtimes)
    model = open_model(slot.bundle, slot.release, runtime, slot.calibration)
    check_golden(slot.bundle, runtime, model.network)
    return model


def first_model(config: AgentConfig, slots: Slots, trial: Trial, installer: Installer) -> tuple[Slot, Loaded]:
    """What to begin with.

    Raises:
        ConfigError: no release in the slots, and no bundle given.
        BundleError, UpdateError: none can be opened, and there is none to go back to.
    """
    slot = slots.active or _installed(config, slots)
    back = ""
    if trial.failed(slot.release, slot.bundle.digest):
        back = "died before its first windows were over"
    try:
        if not back:
            trial.enter()
            model = open_slot(slot, config)
            trial.leave()
            return slot, model
    except BundleError as error:
        if slots.previous is None:
            raise
        back = str(error)
    older = slots.go_back(back)
    trial.end()
    if older is None:
        raise UpdateError(f"release {slot.release}: {back}; there is no release to go back to")
    installer.gone_back(slot.release, slot.bundle.digest, back)
    return older, open_slot(older, config)


def _installed(config: AgentConfig, slots: Slots) -> Slot:
    if not config.bundle:
        raise ConfigError(f"bundle: a bundle expected, {Path(config.state)} holds no release yet")
    path = Path(config.bundle)
    runtime = choose_runtime(read_bundle(path), config.runtimes)
    check_in_subprocess(path, runtime, config.check_timeout_s, config.check_memory_bytes)
    return slots.activate(slots.put(path, config.bundle_release, None).name)
