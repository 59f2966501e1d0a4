"""The body of `GET /api/stream`: frames of a listener until somebody ends it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

from litestar import Request, Response
from litestar.response.base import ASGIResponse

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from litestar.types import Receive, Scope, Send

    from cloud.console.live import Listener, Live

AWAKE_S = 15.0  # a comment this often keeps proxies awake, and is when the session is looked at again
SEND_S = 20.0  # a browser that takes nothing for so long has gone


class _Body(ASGIResponse):
    """Sends a listener's frames."""

    def __init__(self, live: Live, cursor: int | None, alive: Callable[[], Awaitable[bool]]) -> None:
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        super().__init__(media_type="text/event-stream", headers=headers, content_length=0)
        self.headers.pop("content-length", None)
        self._live, self._cursor, self._alive = live, cursor, alive

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002  # the interface
        """Run the stream to its end."""
        listener = self._live.listen(self._cursor)
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            await self.start_response(send)
            await self._pass_on(listener, gone, send)
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except TimeoutError:
            return  # the server closes a connection whose response was left unfinished
        finally:
            gone.cancel()
            self._live.leave(listener)

    async def _pass_on(self, listener: Listener, gone: asyncio.Future[None], send: Send) -> None:
        clock = asyncio.get_running_loop()
        look_at = clock.time() + AWAKE_S
        frames: asyncio.Future[Any] = asyncio.ensure_future(listener.next())
        try:
            while not gone.done():
                left_s, waited = max(0.0, look_at - clock.time()), [frames, cast("asyncio.Future[Any]", gone)]
                await asyncio.wait(waited, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
                if frames.done():
                    frame = frames.result()
                    if frame is None:
                        return
                    frames = asyncio.ensure_future(listener.next())
                    await asyncio.wait_for(_send(send, frame), SEND_S)
                if clock.time() >= look_at:
                    look_at = clock.time() + AWAKE_S
                    if not await self._alive():
                        return
                    await asyncio.wait_for(_send(send, b": awake\n\n"), SEND_S)
        finally:
            frames.cancel()


class EventStream(Response[bytes]):
    """What the handler returns."""

    def __init__(self, live: Live, cursor: int | None, alive: Callable[[], Awaitable[bool]]) -> None:
        super().__init__(b"", media_type="text/event-stream")
        self._body = _Body(live, cursor, alive)

    def to_asgi_response(self, app: Any, request: Request[Any, Any, Any], **_given: Any) -> ASGIResponse:  # noqa: ARG002  # the interface
        """The response itself."""
        return self._body


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue


async def _send(send: Send, frame: bytes) -> None:
    await send({"type": "http.response.body", "body": frame, "more_body": True})
