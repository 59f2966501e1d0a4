"""Routes of the fleet: the snapshot, and the stream that goes on from it."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from litestar import Request, Response, get
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import Parameter

from cloud.console import sessions
from cloud.console.auth import COOKIE, in_thread, who_of
from cloud.console.context import MAX_ID, Console, reads
from cloud.console.fleet import Picture
from cloud.console.problems import Refused
from cloud.console.stream import EventStream

MAX_STREAMS = 256  # browsers at a time
LOADED_S = 10.0

_fleet = reads("viewer", name="fleet")
_fleet["responses"][200] = ResponseSpec(data_container=Picture, description="The fleet now.", generate_examples=False)
_stream = reads("viewer", name="stream")


@get("/api/fleet", **_fleet)
async def fleet(console: Console, request: Request[Any, Any, Any]) -> Response[bytes]:
    """The whole fleet, with the cursor from which the stream goes on."""
    await _loaded(console)
    whole = console.live.snapshot()
    headers = {"cache-control": "no-store", "vary": "accept-encoding"}
    if "gzip" in request.headers.get("accept-encoding", ""):
        headers["content-encoding"] = "gzip"
        return Response(whole.compressed, media_type="application/json", headers=headers)
    return Response(whole.body, media_type="application/json", headers=headers)


async def _loaded(console: Console) -> None:
    """Wait for the first look at the store: browsers come back before it is over."""
    try:
        await asyncio.wait_for(console.live.loaded.wait(), LOADED_S)
    except TimeoutError as error:
        raise Refused(503, "the fleet expected, the store has not been read yet", retry_s=1.0) from error


@get("/api/stream", media_type="text/event-stream", **_stream)
async def stream(
    console: Console,
    request: Request[Any, Any, Any],
    cursor: Annotated[int | None, Parameter(ge=0, le=MAX_ID, description="Of the snapshot.")] = None,
) -> Response[bytes]:
    """Server-sent events from a cursor, or from `Last-Event-ID`: hello, then fleet, snapshot and learning."""
    await _loaded(console)
    if console.live.listeners >= MAX_STREAMS:
        raise Refused(429, f"at most {MAX_STREAMS} streams at a time expected", retry_s=10.0)
    last = request.headers.get("last-event-id", "")
    if last.isdecimal() and len(last) <= 16:
        cursor = int(last)
    who, token = who_of(request), request.cookies.get(COOKIE)

    async def alive() -> bool:
        found: sessions.Who = await in_thread(console.doors.who, token)
        return found.role is not None and found.name == who.name

    return EventStream(console.live, cursor, alive)


ROUTES = [fleet, stream]
