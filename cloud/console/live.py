"""One loop for all browsers: reads what changed in the store ten times a second, tells it at most four times a second.

A browser takes the snapshot with its cursor and then the stream from that cursor. Frames of the last while are kept in a ring for those who
were cut off; who asks for older ones gets a snapshot. A frame is encoded once, whoever listens. A browser that does not take its frames is
cut off and comes again by itself: nothing is held for it without bound. Cursors count in this process only: another's are refused by their
upper half, and a snapshot follows.
"""

from __future__ import annotations

import asyncio
import gzip
import logging
import secrets
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from cloud.console import rows
from cloud.console.fleet import Fleet
from covey.errors import StoreError
from covey.runtime import Backoff

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from sqlalchemy.engine import Engine

    T = TypeVar("T")

_log = logging.getLogger("cloud.console")

LOOK_S = 0.1
TELL_S = 0.25
USUAL_S = 60.0  # what is usual of a group is looked up this often
RELOAD_S = 3600.0  # what retention deleted leaves no changed row
RING_FRAMES = 480  # two minutes of steady changes
RING_BYTES = 16 * 1024 * 1024
QUEUE_FRAMES = 40  # ten seconds that a browser may be behind
GZIP_LEVEL = 4  # 10,000 devices: docs/console.md has the figures
_EPOCH_BITS, _COUNT_BITS = 20, 32  # together exact in every browser's numbers


class Snapshot(NamedTuple):
    """`GET /api/fleet`, ready to send."""

    cursor: int
    body: bytes
    compressed: bytes  # gzip


class Figures(msgspec.Struct):
    """What the loop did since its start, for metrics."""

    looks: int = 0
    rows: int = 0
    frames: int = 0
    cut_off: int = 0
    failures: int = 0


class Listener:
    """One browser's queue."""

    def __init__(self, first: list[bytes]) -> None:
        self._frames: asyncio.Queue[bytes | None] = asyncio.Queue(QUEUE_FRAMES + len(first) + 1)
        for frame in first:
            self._frames.put_nowait(frame)
        self.cut = False

    def put(self, frame: bytes) -> bool:
        """Queue a frame; False: this one has too many already and is cut off."""
        if self.cut:
            return False
        if self._frames.qsize() >= QUEUE_FRAMES:
            self.end()
            return False
        self._frames.put_nowait(frame)
        return True

    def end(self) -> None:
        """No more frames; what is queued is let go."""
        self.cut = True
        while not self._frames.empty():
            self._frames.get_nowait()
        self._frames.put_nowait(None)

    async def next(self) -> bytes | None:
        """The next frame; None: it is over."""
        return await self._frames.get()


class Live:
    """The loop, the ring and who listens. On one event loop, but for `fleet`'s look-ups by name."""

    def __init__(self, engine: Engine) -> None:
        self.fleet = Fleet()
        self.figures = Figures()
        self.loaded = asyncio.Event()  # a first snapshot has been read
        self._engine = engine
        self._listeners: set[Listener] = set()
        self._ring: deque[tuple[int, bytes]] = deque()
        self._ring_bytes = 0
        self._last = secrets.randbits(_EPOCH_BITS) << _COUNT_BITS  # cursor of the newest frame
        self._horizon = self._erased = 0
        self._snapshot: Snapshot | None = None
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="live")
        self._reload_at = self._usual_at = self._tell_at = 0.0
        self._steps: list[rows.Step] = []
        self._closed = False

    async def run(self) -> None:
        """Look and tell until cancelled. A store that refuses is waited out; meanwhile nothing falls silent."""
        backoff = Backoff(cap_s=5.0)
        while True:
            pause_s = LOOK_S
            try:
                await self._look()
                backoff.reset()
            except StoreError as error:
                self.figures.failures += 1
                pause_s = max(LOOK_S, backoff.next_s())
                _log.warning("%s; looking again in %.1f s", error, pause_s)
            except Exception:  # noqa: BLE001  # a fault of ours: told with its traceback, and everything is read anew
                self.figures.failures += 1
                self._reload_at, pause_s = 0.0, max(LOOK_S, backoff.next_s())
                _log.exception("the live view failed; reading everything anew in %.1f s", pause_s)
            await asyncio.sleep(pause_s)

    def close(self) -> None:
        """End every stream; whoever comes later is turned away at once."""
        self._closed = True
        for listener in list(self._listeners):
            listener.end()

    def dispose(self) -> None:
        """Let its thread go; after `run`."""
        self._pool.shutdown(wait=False)

    @property
    def listeners(self) -> int:
        """Browsers on the stream."""
        return len(self._listeners)

    def snapshot(self) -> Snapshot:
        """The whole fleet; made once a cursor. It may hold more than its cursor says: what comes then again is whole, and does no harm."""
        if self._snapshot is None or self._snapshot.cursor != self._last:
            picture = self.fleet.snapshot()
            picture.cursor = self._last
            body = msgspec.json.encode(picture)
            self._snapshot = Snapshot(self._last, body, gzip.compress(body, GZIP_LEVEL, mtime=0))
        return self._snapshot

    def listen(self, cursor: int | None) -> Listener:
        """A browser's queue, beginning with what it has missed since `cursor`; None or too old: with a snapshot."""
        missed = self._since(cursor)
        if missed is None:
            whole = self.snapshot()
            first = [
                _frame("hello", {"cursor": whole.cursor}, retry=True),
                _frame("snapshot", whole.body, whole.cursor),
            ]
        else:
            first = [_frame("hello", {"cursor": cursor}, retry=True), *missed]
        listener = Listener(first)
        self._listeners.add(listener)
        if self._closed:
            listener.end()
        return listener

    def leave(self, listener: Listener) -> None:
        """The browser has gone."""
        self._listeners.discard(listener)

    def _since(self, cursor: int | None) -> list[bytes] | None:
        """Frames after a cursor; None: they are not all here."""
        if cursor is None or not self.loaded.is_set():
            return None
        oldest = self._ring[0][0] if self._ring else self._last + 1
        if not oldest - 1 <= cursor <= self._last:
            return None
        return [frame for number, frame in self._ring if number > cursor]

    async def _look(self) -> None:
        now = time.monotonic()
        if now >= self._reload_at:
            await self._load()
            self._reload_at, self._usual_at = now + RELOAD_S, now + USUAL_S
        else:
            found = await self._in_thread(lambda: rows.changed(self._engine, self._horizon))
            self.figures.looks += 1
            self.figures.rows += len(found.devices) + len(found.alarms)
            self._horizon = found.horizon
            if found.erased != self._erased:
                await self._load()
            else:
                self.fleet.take(found.devices, found.alarms, time.time())
            self._steps += found.steps
        if now >= self._usual_at:
            self._usual_at = now + USUAL_S
            devices = self.fleet.devices
            self.fleet.expect(await self._in_thread(lambda: rows.usual(self._engine, devices, time.time())))
        self.fleet.tick(time.time())
        self._tell(now)

    async def _load(self) -> None:
        whole = await self._in_thread(lambda: rows.everything(self._engine))
        self.fleet.expect(whole.usual)
        self.fleet.replace(whole.devices, whole.alarms, time.time())
        self._horizon, self._erased = whole.horizon, whole.erased
        self.loaded.set()

    def _tell(self, now: float) -> None:
        if now < self._tell_at:
            return
        changed = self.fleet.changes()
        for step in self._steps:
            self._send("learning", {"run": step.run, "kind": step.kind, "round": step.round})
        if changed is not None:
            self._tell_at = now + TELL_S
            changed.cursor = self._last + 1
            self._send("fleet", msgspec.json.encode(changed))
        self._steps = []

    def _send(self, event: str, data: bytes | dict[str, object]) -> None:
        self._last += 1
        frame = _frame(event, data, self._last)
        self.figures.frames += 1
        self._ring.append((self._last, frame))
        self._ring_bytes += len(frame)
        while len(self._ring) > RING_FRAMES or self._ring_bytes > RING_BYTES:
            self._ring_bytes -= len(self._ring.popleft()[1])
        for listener in list(self._listeners):
            if not listener.put(frame):
                self.figures.cut_off += 1
                self._listeners.discard(listener)

    async def _in_thread(self, ask: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, ask)


def _frame(event: str, data: bytes | dict[str, object], cursor: int | None = None, *, retry: bool = False) -> bytes:
    """One server-sent event (HTML, "Server-sent events"): JSON has no line ends of its own."""
    body = data if isinstance(data, bytes) else msgspec.json.encode(data)
    head = f"event: {event}\n" + ("" if cursor is None else f"id: {cursor}\n") + ("retry: 2000\n" if retry else "")
    return head.encode() + b"data: " + body + b"\n\n"
