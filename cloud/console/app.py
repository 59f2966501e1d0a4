"""The console as an ASGI application: routes, OpenAPI, errors, and the live loop for its lifetime."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import msgspec
from litestar import Litestar, Request
from litestar.config.app import AppConfig
from litestar.di import Provide
from litestar.exceptions import HTTPException
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme

from cloud.console import (
    api_admin,
    api_alarms,
    api_devices,
    api_fleet,
    api_learning,
    api_system,
    document,
    files,
    problems,
)
from cloud.console.auth import COOKIE, guard
from cloud.console.gate import Gate
from covey.errors import CoveyError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from litestar.types import ASGIApp

    from cloud.console.context import Console
    from cloud.console.files import File

_MODULES = (api_admin, api_alarms, api_devices, api_fleet, api_learning, api_system, problems)
MAX_BODY_BYTES = 1024 * 1024  # ten thousand device names


class _Document(JsonRenderPlugin):
    """The document as document.py mends it, made once."""

    def __init__(self) -> None:
        super().__init__(path="/")
        self._body = b""

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:  # noqa: ARG002  # the interface
        """JSON."""
        self._body = self._body or msgspec.json.encode(document.document(openapi_schema, _MODULES))
        return self._body


def make(console: Console, static: dict[str, File]) -> ASGIApp:
    """Put the application together."""

    @contextlib.asynccontextmanager
    async def living(_app: Litestar) -> AsyncIterator[None]:
        loop = asyncio.create_task(console.live.run())
        try:
            yield
        finally:
            loop.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await loop
            console.live.dispose()

    app = Litestar.from_config(
        AppConfig(
            route_handlers=[
                *api_fleet.ROUTES,
                *api_devices.ROUTES,
                *api_alarms.ROUTES,
                *api_learning.ROUTES,
                *api_system.ROUTES,
                *api_admin.ROUTES,
                files.route(static),
            ],
            dependencies={"console": Provide(lambda: console, sync_to_thread=False)},
            guards=[guard],
            exception_handlers={
                CoveyError: problems.answer,
                HTTPException: problems.answer,
                Exception: problems.answer,
            },
            lifespan=[living],
            request_max_body_size=MAX_BODY_BYTES,
            openapi_config=OpenAPIConfig(
                title="covey's console",
                version=console.version,
                path="/api/openapi.json",
                render_plugins=[_Document()],
                components=Components(
                    security_schemes={
                        "session": SecurityScheme(type="apiKey", name=COOKIE, security_scheme_in="cookie"),
                        "csrf": SecurityScheme(type="apiKey", name="X-CSRF-Token", security_scheme_in="header"),
                    }
                ),
            ),
        )
    )
    return Gate(app, console.config.console, console.doors)
