"""Configuration of the cloud's processes: `covey cloud run` and `covey cloud serve`, and their rules."""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Annotated, Literal
from urllib.parse import urlsplit

from msgspec import Meta, Struct, structs

from covey.credentials import Credentials

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_STORE = "sqlite:///covey.db"
DEFAULT_REPOSITORY_DIR = "covey-repository"
DEFAULT_BASE_URL = "http://127.0.0.1:8200"
DEFAULT_GROUP = "default"

# fullmatch only: a group is part of a file's path and of a URL's.
_GROUP = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9._-]{0,63}")


# Parts of `covey cloud run`, each a thread. `deliver` tries what `route` has decided to tell.
STAGES = ("store", "enrich", "route", "deliver")


class EnrichModel(Struct, frozen=True):
    """A model of one's own that judges alarms: `[enrich.model]`."""

    path: str  # ONNX file: input (B, F) float32, output (B,) or (B, K)
    features: Annotated[list[str], Meta(min_length=1, max_length=256)]  # names, docs/routing.md; F of them
    timeout_s: Annotated[float, Meta(gt=0, le=60)] = 2.0  # for a batch; then alarms go on without it


Days = Annotated[float, Meta(ge=0, le=36_500)]


class RetentionConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """Table `[retention]`: how long the store keeps what (docs/store.md), in days since receipt; 0: for ever."""

    events_days: Days = 30.0  # summaries and status as devices wrote them; summaries live on in `hours`
    alarms_days: Days = 400.0  # alarms that have ended, with their events, context and verdicts
    hours_days: Days = 0.0
    learning_days: Days = 400.0  # steps of the loop, rounds of training
    deliveries_days: Days = 30.0  # to webhooks and mailboxes, delivered or given up
    dead_letters_days: Days = 30.0

    def __post_init__(self) -> None:
        """Rules between keys."""
        if self.alarms_days and self.alarms_days < self.events_days:
            msg = f"retention: alarms_days not below events_days ({self.events_days:g}) expected, {self.alarms_days:g} received"
            raise ValueError(msg)


class ConsoleConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """Table `[console]`: `covey cloud console` (docs/console.md)."""

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65_535)] = 8300  # 0: any free one, said on stdout
    tls_cert: str = ""  # PEM chain; "": plain HTTP, behind a proxy or on loopback
    tls_key: str = ""
    public_url: str = ""  # as browsers see it, where that is not http(s)://host:port; OIDC returns to it
    trusted_proxies: list[str] = []  # addresses whose X-Forwarded-For and -Proto are believed
    session_hours: Annotated[float, Meta(gt=0, le=720)] = 12.0
    idle_hours: Annotated[float, Meta(gt=0, le=720)] = 2.0  # a session that asks nothing for so long ends
    login_tries: Annotated[int, Meta(ge=1, le=1000)] = (
        10  # per name over login_window_s; per address three times as many
    )
    login_window_s: Annotated[float, Meta(gt=0, le=86_400)] = 900.0
    requests_per_s: Annotated[float, Meta(gt=0, le=1e6)] = 50.0  # per session; ten seconds' worth at once
    oidc_issuer: str = ""  # https://, or http:// on loopback; OIDC when given
    oidc_client_id: str = ""
    oidc_client_secret_file: str = ""  # one line; "": a public client
    oidc_scopes: str = "openid profile email"
    oidc_claim: str = "groups"  # its values are looked up in oidc_roles
    oidc_roles: dict[str, Literal["viewer", "operator", "admin"]] = {}
    oidc_default_role: Literal["", "viewer", "operator", "admin"] = ""  # of who has no such value; "": refused
    training: list[str] = []  # options of `covey federated train` for runs started from the console; []: none may be

    def __post_init__(self) -> None:
        """Rules between keys."""
        if bool(self.tls_cert) != bool(self.tls_key):
            msg = "console: tls_cert and tls_key are given together or not at all"
            raise ValueError(msg)
        if self.public_url and not self.public_url.startswith(("http://", "https://")):
            msg = f"console: public_url: http:// or https:// expected, {self.public_url!r} received"
            raise ValueError(msg)
        if bool(self.oidc_issuer) != bool(self.oidc_client_id):
            msg = "console: oidc_issuer and oidc_client_id are given together or not at all"
            raise ValueError(msg)
        if self.oidc_issuer and not _secure_url(self.oidc_issuer):
            msg = f"console: oidc_issuer: https://, or http:// on loopback, expected, {self.oidc_issuer!r} received"
            raise ValueError(msg)

    @property
    def on_loopback(self) -> bool:
        """Whether only this machine reaches it."""
        return is_loopback(self.host)


class CloudConfig(Struct, frozen=True):
    """One configuration for all of the cloud's processes on a machine."""

    kafka: str = "127.0.0.1:9092"  # bootstrap servers, comma-separated
    kafka_kind: Literal["kafka", "embedded"] = "kafka"
    kafka_ca: str = ""  # PEM file, or `system` for the machine's trust store; TLS when given
    kafka_cert: str = ""  # PEM file, the chain
    kafka_key: str = ""  # PEM file, without passphrase
    kafka_user: str = ""  # SASL when given
    kafka_password_file: str = ""  # one line
    kafka_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    broker_instance: str = ""  # "": the cluster's own id; offsets in the store belong to it
    store: str = DEFAULT_STORE  # SQLAlchemy URL, or the path of an SQLite file
    repository_dir: str = DEFAULT_REPOSITORY_DIR
    base_url: str = DEFAULT_BASE_URL  # of `covey cloud serve`, as devices see it
    ack_after: Literal["kafka", "store"] = "kafka"  # store: what is committed comes back on covey.acks
    batch_rows: Annotated[int, Meta(ge=1, le=100_000)] = 20_000  # at most; so many only while a stage is behind
    batch_ms: Annotated[int, Meta(ge=1, le=10_000)] = 100
    stages: str = ",".join(STAGES)  # which parts this process runs
    consumer_group: Annotated[str, Meta(pattern="^[A-Za-z0-9._-]{1,64}$")] = "covey"  # prefix of the stages' groups
    instance: Annotated[str, Meta(pattern="^[A-Za-z0-9._-]{0,64}$")] = ""  # no other process's; "": host and a number
    rules: str = ""  # TOML file of routing rules, webhooks and mailboxes; "": the rules of docs/routing.md
    enrich: dict[str, EnrichModel] = {}  # [enrich.model]
    alarm_window_s: Annotated[float, Meta(gt=0, le=3600)] = 60.0  # alarms so near each other are at the same time
    drain_s: Annotated[float, Meta(gt=0, le=86_400)] = 60.0  # a lag should be gone in so long: consumers wanted
    health_host: str = "127.0.0.1"
    health_port: Annotated[int, Meta(ge=0, le=65_535)] = 0  # /healthz, /readyz, /metrics; 0: none
    serve_host: str = "127.0.0.1"
    serve_port: Annotated[int, Meta(ge=0, le=65_535)] = 8200  # 0: any free one, said on stderr
    serve_threads: Annotated[int, Meta(ge=1, le=1024)] = 64  # connections at a time
    tls_cert: str = ""  # PEM chain; "": plain HTTP, what is served is signed anyway
    tls_key: str = ""
    log_json: bool = False  # one JSON object per log line, of every process that this configures
    console: ConsoleConfig = ConsoleConfig()
    retention: RetentionConfig = RetentionConfig()

    def __post_init__(self) -> None:
        """Rules between keys."""
        if self.kafka_kind == "embedded" and not self.broker_instance:
            msg = (
                "broker_instance is needed with kafka_kind 'embedded': it forgets everything when it ends, "
                "so give it a new word at each start"
            )
            raise ValueError(msg)
        if bool(self.tls_cert) != bool(self.tls_key):
            msg = "tls_cert and tls_key are given together or not at all"
            raise ValueError(msg)
        if not self.base_url.startswith(("http://", "https://")):
            msg = f"base_url: http:// or https:// expected, {self.base_url!r} received"
            raise ValueError(msg)
        unknown = [word for word in self.stages.split(",") if word.strip() not in STAGES]
        if unknown:
            msg = f"stages: some of {', '.join(STAGES)} expected, {', '.join(map(repr, unknown))} received"
            raise ValueError(msg)
        if self.enrich.keys() - {"model"}:
            msg = f"enrich: [enrich.model] expected, {', '.join(sorted(self.enrich))} received"
            raise ValueError(msg)
        wrong = self.kafka_credentials.rules()
        if wrong:
            raise ValueError("; ".join(wrong))

    @property
    def stage_names(self) -> tuple[str, ...]:
        """Which parts this process runs, in the order of the road."""
        asked = {word.strip() for word in self.stages.split(",")}
        return tuple(name for name in STAGES if name in asked)

    @property
    def kafka_credentials(self) -> Credentials:
        """Who we are to the Kafka API; the keys are the gateway's."""
        return Credentials.of("kafka", structs.asdict(self))


def file_problems(values: Mapping[str, object]) -> list[str]:
    """What is wrong with the files that the keys name, for `covey.config.load`."""
    return Credentials.of("kafka", values).problems()


def is_group(name: str) -> bool:
    """Whether `name` may be a group: 1-64 letters, digits, `.`, `_`, `-`, not beginning with a mark."""
    return _GROUP.fullmatch(name) is not None


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine's own, seen from itself only."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _secure_url(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname or ""))
