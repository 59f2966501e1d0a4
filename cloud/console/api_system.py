"""Routes of the system: losses, dead letters, deliveries; health and metrics for machines."""

from __future__ import annotations

from typing import Annotated, Literal

import sqlalchemy as sa
from litestar import Response, get
from litestar.params import Parameter
from msgspec import Struct
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from cloud.console import system_view
from cloud.console.context import After, Console, Limit, Text, reads, threaded
from cloud.console.problems import Refused
from cloud.console.system_view import DeadLetterLine, DeliveryRow, System
from cloud.store import schema
from covey.errors import StoreError


class DeadLetters(Struct):
    """Newest first."""

    deadletters: list[DeadLetterLine]
    next: str | None


class DeliveryPage(Struct):
    """Newest first."""

    deliveries: list[DeliveryRow]
    next: str | None


class Alive(Struct):
    """It is."""

    ok: bool


@get("/api/system", **reads("viewer", name="system"))
@threaded
def system(console: Console) -> System:
    """Are we losing data."""
    return system_view.system(console.engine, console.embedded)


@get("/api/deadletters", **reads("viewer", name="deadletters"))
@threaded
def list_dead_letters(console: Console, reason: Text = None, limit: Limit = 100, after: After = None) -> DeadLetters:
    """Dead letters, newest first."""
    return DeadLetters(*system_view.dead_letters(console.engine, reason, limit, after))


@get("/api/deliveries", **reads("viewer", name="deliveries"))
@threaded
def list_deliveries(
    console: Console,
    delivery_state: Annotated[Literal["waiting", "delivered", "failed"] | None, Parameter(query="state")] = None,
    limit: Limit = 100,
    after: After = None,
) -> DeliveryPage:
    """Messages to webhooks and mailboxes, newest first."""
    return DeliveryPage(*system_view.deliveries(console.engine, delivery_state, limit, after))


@get("/healthz", sync_to_thread=False, include_in_schema=False)
def healthz() -> Alive:
    """The process answers."""
    return Alive(ok=True)


@get("/readyz", include_in_schema=False)
@threaded
def readyz(console: Console) -> Alive:
    """The store answers, and the fleet has been read."""
    try:
        with schema.read(console.engine) as connection:
            connection.execute(sa.text("SELECT 1"))
    except StoreError as error:
        raise Refused(503, str(error), retry_s=1.0) from error
    if not console.live.loaded.is_set():
        raise Refused(503, "the fleet expected, the store has not been read yet", retry_s=1.0)
    return Alive(ok=True)


@get("/metrics", sync_to_thread=False, include_in_schema=False)
def metrics(console: Console) -> Response[bytes]:
    """Prometheus."""
    return Response(generate_latest(console.registry), headers={"content-type": CONTENT_TYPE_LATEST})


ROUTES = [system, list_dead_letters, list_deliveries, healthz, readyz, metrics]
