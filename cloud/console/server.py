"""`covey cloud console`: opens the store, refuses what would be unsafe, serves until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from contextlib import ExitStack
from importlib import metadata
from typing import TYPE_CHECKING

import uvicorn

from cloud.console import app, figures, files
from cloud.console.auth import Doors
from cloud.console.context import Console
from cloud.console.live import Live
from cloud.console.oidc import Provider
from cloud.console.training import Training
from cloud.desk import accounts
from cloud.store.schema import open_store
from covey.errors import ConfigError, LinkError

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sqlalchemy.engine import Engine

    from cloud.config import CloudConfig, ConsoleConfig

_log = logging.getLogger("cloud.console")

GRACE_S = 5  # for requests under way, when it is stopped
_GONE_MS = 30_000  # a browser whose machine has gone, or stands still, is given up
_TURN_S = 0.1


class _Server(uvicorn.Server):
    """Without signals of its own: covey's runtime has them."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone."""
        yield


def run(
    config: CloudConfig, stop: threading.Event, ready: Callable[[str], None], config_file: Path | None = None
) -> None:
    """Serve until `stop`; `ready` is told the address.

    Raises:
        ConfigError: a public address without accounts or OIDC; certificate or key cannot be loaded.
        StoreError: the store is not there.
        LinkError: the address cannot be listened on.
    """
    ours = config.console
    with ExitStack() as stack:
        engine = open_store(config.store, create=False)
        stack.callback(engine.dispose)
        _check_safe(ours, engine)
        live, doors = Live(engine), Doors(engine, ours)
        provider = Provider(ours, doors.secret) if ours.oidc_issuer else None
        if provider is not None:
            stack.callback(provider.close)
        training = Training(engine, ours.training, config_file)
        stack.callback(training.close)
        embedded = embedded_parts(config)
        console = Console(
            engine,
            config,
            live,
            doors,
            training,
            provider,
            lambda: notices(ours, doors.open_to_all(), embedded),
            embedded,
            metadata.version("covey"),
            figures.registry(live),
        )
        listening = _listen(ours)
        stack.callback(listening.close)
        server = _Server(_settings(ours, app.make(console, files.read_all())))
        for line in console.notices():
            _log.warning("%s", line)
        asyncio.run(_serve(server, listening, live, stop, ours, ready))
    _log.info("stopped")


def notices(config: ConsoleConfig, open_to_all: bool, embedded: dict[str, str]) -> list[str]:
    """What people should know: what is insecure, what is embedded."""
    told = []
    if open_to_all:
        told.append(
            "no accounts: this console is for this machine only, and everyone on it is an admin; "
            "`covey cloud accounts add` makes the first"
        )
    if not config.on_loopback and not config.tls_cert and not config.public_url.startswith("https://"):
        told.append(
            "no TLS: passwords and sessions travel in the clear; --tls-cert, or --public-url of a proxy with TLS"
        )
    return told + list(embedded.values())


def embedded_parts(config: CloudConfig) -> dict[str, str]:
    """What is embedded, and what it does not keep."""
    if config.kafka_kind != "embedded":
        return {}
    return {
        "kafka": "embedded Kafka broker: it keeps nothing when it ends; the store is the record. In production: any Kafka API",
        "mqtt": "embedded MQTT broker: for this machine only. In production: Mosquitto, or any MQTT 5 broker",
    }


def _check_safe(config: ConsoleConfig, engine: Engine) -> None:
    if not config.on_loopback and not config.oidc_issuer and not accounts.exists(engine):
        raise ConfigError(
            f"--host {config.host}: accounts or OIDC expected for a public address, there are none: "
            "`covey cloud accounts add NAME --role admin`, or 127.0.0.1"
        )


def _listen(config: ConsoleConfig) -> socket.socket:
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    listening = socket.socket(family)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # taken over by the connections it accepts (tcp(7))
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _GONE_MS)
        listening.bind((config.host.strip("[]"), config.port))
        listening.listen(256)
    except OSError as error:
        listening.close()
        where = f"{config.host}:{config.port}"
        raise LinkError(f"console: a free address expected, {where}: {error.strerror or error}") from error
    listening.setblocking(False)
    return listening


def _settings(config: ConsoleConfig, asgi: object) -> uvicorn.Config:
    settings = uvicorn.Config(
        asgi,  # type: ignore[arg-type]  # two libraries' words for the same
        log_config=None,
        access_log=False,
        lifespan="on",
        ws="none",
        server_header=False,
        proxy_headers=bool(config.trusted_proxies),
        forwarded_allow_ips=list(config.trusted_proxies) or "",
        timeout_graceful_shutdown=GRACE_S,
        timeout_keep_alive=30,
        h11_max_incomplete_event_size=32 * 1024,
        ssl_certfile=config.tls_cert or None,
        ssl_keyfile=config.tls_key or None,
    )
    try:
        settings.load()
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise ConfigError(f"console: tls_cert {config.tls_cert}, tls_key {config.tls_key}: {error}") from error
    return settings


async def _serve(
    server: _Server,
    listening: socket.socket,
    live: Live,
    stop: threading.Event,
    config: ConsoleConfig,
    ready: Callable[[str], None],
) -> None:
    serving = asyncio.create_task(server.serve([listening]))
    told = False
    while not serving.done():
        if server.started and not told:
            told = True
            host, port = listening.getsockname()[:2]
            ready(f"{'https' if config.tls_cert else 'http'}://{f'[{host}]' if ':' in host else host}:{port}")
        if stop.is_set() and not server.should_exit:
            live.close()  # else the streams would hold it up
            server.should_exit = True
        await asyncio.sleep(_TURN_S)
    await serving
