"""What every route is given, and how routes say who may ask them and what they may answer."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec, TypeVar

import anyio.to_thread
from litestar.params import Parameter

from cloud.console.problems import responses

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from prometheus_client import CollectorRegistry
    from sqlalchemy.engine import Engine

    from cloud.config import CloudConfig
    from cloud.console.auth import Doors
    from cloud.console.live import Live
    from cloud.console.oidc import Provider
    from cloud.console.training import Training
    from cloud.desk.accounts import Role

P = ParamSpec("P")
T = TypeVar("T")

MAX_TIME_S = 1e11
MAX_ID = 2**53 - 1

Limit = Annotated[int, Parameter(ge=1, le=500, description="Rows of a page.")]
After = Annotated[str | None, Parameter(max_length=1000, description="`next` of the page before.")]
Text = Annotated[str | None, Parameter(max_length=256)]
Moment = Annotated[float | None, Parameter(ge=0, le=MAX_TIME_S, description="Seconds since the epoch.")]


class Console:
    """The parts of one console process."""

    def __init__(
        self,
        engine: Engine,
        config: CloudConfig,
        live: Live,
        doors: Doors,
        training: Training,
        provider: Provider | None,
        notices: Callable[[], list[str]],
        embedded: dict[str, str],
        version: str,
        registry: CollectorRegistry,
    ) -> None:
        self.engine, self.config, self.live, self.doors = engine, config, live, doors
        self.training, self.provider, self.notices = training, provider, notices
        self.embedded, self.version, self.registry = embedded, version, registry

    @property
    def secure(self) -> bool:
        """Whether browsers reach it by TLS."""
        console = self.config.console
        return bool(console.tls_cert) or console.public_url.startswith("https://")

    def status_of(self, device: str) -> str | None:
        """A device's status in the fleet's view; None: not in it."""
        row = self.live.fleet.device(device)
        return None if row is None else row[2]


def threaded(handler: Callable[P, T]) -> Callable[P, Awaitable[T]]:
    """Run a handler on a thread, since the store's library waits.

    Litestar's own `sync_to_thread` wraps a handler once more for each method of its path (2.25: the answer is then a coroutine).
    """

    @functools.wraps(handler)
    async def on_thread(*arguments: P.args, **named: P.kwargs) -> T:
        return await anyio.to_thread.run_sync(functools.partial(handler, *arguments, **named))

    return on_thread


def reads(role: Role | None, *statuses: int, name: str) -> dict[str, Any]:
    """Of a route that changes nothing: who may ask, what it may answer; its name is that of its operation.

    Routes that ask the store are `threaded`.
    """
    needed = (401,) if role is not None else ()
    return {
        "opt": {"role": role},
        "responses": responses(*needed, *statuses),
        "operation_id": name,
        "security": [{"session": []}] if role is not None else [{}],
    }


def changes(role: Role | None, *statuses: int, name: str) -> dict[str, Any]:
    """Of a route that changes something: the CSRF token besides, and a row in the audit log."""
    security: list[dict[str, list[str]]] = [{"session": [], "csrf": []}] if role is not None else [{"csrf": []}]
    return {**reads(role, *statuses, name=name), "security": security}
