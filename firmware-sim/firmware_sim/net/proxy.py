"""A TCP proxy that makes a good connection bad: delay, rate, loss, stalls, resets. It never changes, drops or reorders a byte.

Contract, of each connection and direction: the bytes that come out are a prefix of the bytes that went in, in order; an
orderly end is passed on after the last byte; a drop resets both sides, and then the prefix may be shorter. What waits in
the proxy is bounded (HELD_BYTES a direction), so a slow proxy slows the sender down as a slow link would. TCP hides loss,
so `loss` is what TCP makes of it: a segment comes a retransmission time-out later, and all behind it wait. One thread of
its own; conditions may be set from any.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

import msgspec

from covey.errors import LinkError
from firmware_sim.chaos import CALM, Conditions, Disturbance, conditions_at, drops_between, next_change_s

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from typing_extensions import Self

HELD_BYTES = 262_144
SEGMENT_BYTES = 1_448  # of TCP over Ethernet with time stamps
RETRANSMIT_S = 0.2  # Linux' least retransmission time-out (TCP_RTO_MIN)
_START_S = 10.0
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 s: close() sends RST


class Counters(msgspec.Struct):
    """What a proxy has done."""

    connections: int = 0
    open: int = 0
    refused: int = 0
    dropped: int = 0  # connections reset by a drop
    unreachable: int = 0  # the target did not answer
    up_bytes: int = 0  # client to target
    down_bytes: int = 0
    delayed: int = 0  # segments that were held for a delay, a loss or a rate
    lost: int = 0  # segments that came late as if sent again
    stalled_s: float = 0.0


class Proxy:
    """Listens on loopback (or elsewhere) and forwards to a target, under conditions that may change at any time.

    Args:
        target_host: where to forward to.
        target_port: may be set later, before the first client comes.
        listen_host: address to listen on.
        listen_port: 0: any free one, see `port`.
        seed: of jitter and loss.
    """

    def __init__(
        self, target_host: str, target_port: int, listen_host: str = "127.0.0.1", listen_port: int = 0, seed: int = 0
    ) -> None:
        self.target_host, self.target_port = target_host, target_port
        self.counters = Counters()
        self._listen = (listen_host, listen_port)
        self._rng = random.Random(seed)  # noqa: S311  # jitter, not a secret
        self._conditions = CALM
        self._loop = asyncio.new_event_loop()
        self._pairs: set[_Pair] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="proxy", daemon=True)
        self._server: asyncio.Server | None = None
        self._playing: asyncio.Task[None] | None = None
        self._stalled_since_s = 0.0
        self.port = 0

    @property
    def conditions(self) -> Conditions:
        """What holds now."""
        return self._conditions

    def start(self) -> Self:
        """Listen.

        Raises:
            LinkError: the address is taken or is not ours.
        """
        self._thread.start()
        future = asyncio.run_coroutine_threadsafe(self._open(), self._loop)
        try:
            future.result(_START_S)
        except OSError as error:
            self.close()
            raise LinkError(f"proxy: {self._listen[0]}:{self._listen[1]}: {error.strerror or error}") from error
        return self

    def set(self, conditions: Conditions) -> None:
        """Let these hold from now on; bytes already held keep the time they were given."""
        self._call(self._set, conditions)

    def drop(self) -> None:
        """Reset every connection there is."""
        self._call(self._drop)

    def play(self, disturbances: Sequence[Disturbance]) -> None:
        """Follow a schedule that begins now; another one, or `set`, takes its place."""
        self._call(self._play, tuple(disturbances))

    def close(self) -> None:
        """Reset what is open and stop."""
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(_START_S)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(_START_S)
        if not self._loop.is_running() and not self._loop.is_closed():
            self._loop.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _call(self, what: object, *arguments: object) -> None:
        """Run on the proxy's thread and wait for it, so that the caller may rely on it."""

        async def there() -> None:
            what(*arguments)  # type: ignore[operator]  # one of our own methods

        asyncio.run_coroutine_threadsafe(there(), self._loop).result(_START_S)

    async def _open(self) -> None:
        self._server = await asyncio.start_server(self._accept, *self._listen, limit=SEGMENT_BYTES)
        self.port = int(self._server.sockets[0].getsockname()[1])

    async def _end(self) -> None:
        if self._playing is not None:
            self._playing.cancel()
        if self._server is not None:
            self._server.close()
        self._reset_all()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _set(self, conditions: Conditions) -> None:
        if self._playing is not None:
            self._playing.cancel()
            self._playing = None
        self._apply(conditions)

    def _apply(self, conditions: Conditions) -> None:
        now_s = time.monotonic()
        if self._conditions.stalled:
            self.counters.stalled_s += now_s - self._stalled_since_s
        self._stalled_since_s = now_s
        self._conditions = conditions
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _drop(self) -> None:
        self.counters.dropped += self._reset_all()

    def _reset_all(self) -> int:
        pairs = list(self._pairs)
        for pair in pairs:
            pair.reset()
        return len(pairs)

    def _play(self, disturbances: tuple[Disturbance, ...]) -> None:
        self._set(CALM)
        self._playing = self._loop.create_task(self._follow(disturbances))

    async def _follow(self, disturbances: tuple[Disturbance, ...]) -> None:
        began_s = time.monotonic()
        seen_s = -1.0
        while True:
            t_s = time.monotonic() - began_s
            self._apply(conditions_at(disturbances, t_s))
            if drops_between(disturbances, seen_s, t_s):
                self._drop()
            seen_s = t_s
            then_s = next_change_s(disturbances, t_s)
            if then_s is None:
                return
            await asyncio.sleep(max(0.0, then_s - (time.monotonic() - began_s)))

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.counters.connections += 1
        if self._conditions.refusing:
            self.counters.refused += 1
            _reset(writer)
            return
        task = self._loop.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(
                self.target_host, self.target_port, limit=SEGMENT_BYTES
            )
        except OSError:
            self.counters.unreachable += 1
            _reset(writer)
            return
        pair = _Pair(asyncio.current_task(), writer, far_writer)
        self._pairs.add(pair)
        self.counters.open += 1
        both = [
            self._loop.create_task(self._pass_on(reader, far_writer, "up_bytes")),
            self._loop.create_task(self._pass_on(far_reader, writer, "down_bytes")),
        ]
        try:
            await asyncio.gather(*both)
        except OSError:  # one side was reset: so is the other
            pair.reset()
        finally:
            for one in both:
                one.cancel()
            self._pairs.discard(pair)
            self.counters.open -= 1
            pair.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, counter: str) -> None:
        """One direction: a reader that gives each segment its time, and a writer that waits for it."""
        held = _Held()
        taking = asyncio.ensure_future(self._take(reader, held))
        try:
            free_at_s = 0.0  # when the rate lets the next byte out
            while True:
                segment = await held.first()
                if segment is None:
                    break
                due_s, data = segment
                rate = self._conditions.rate_bytes_s
                if rate:
                    now_s = time.monotonic()
                    free_at_s = max(free_at_s, now_s) + len(data) / rate
                    due_s = max(due_s, free_at_s)
                    self.counters.delayed += 1
                await self._until(due_s)
                writer.write(data)
                await writer.drain()
                held.gone(len(data))
                setattr(self.counters, counter, getattr(self.counters, counter) + len(data))
            await taking
            if writer.can_write_eof():
                writer.write_eof()
        finally:
            taking.cancel()

    async def _take(self, reader: asyncio.StreamReader, held: _Held) -> None:
        try:
            while True:
                data = await reader.read(SEGMENT_BYTES)
                if not data:
                    break
                now = self._conditions
                wait_s = now.delay_s + (self._rng.uniform(0.0, now.jitter_s) if now.jitter_s else 0.0)
                while now.loss and self._rng.random() < now.loss:
                    wait_s += RETRANSMIT_S
                    self.counters.lost += 1
                if wait_s:
                    self.counters.delayed += 1
                await held.add(time.monotonic() + wait_s, data)
        finally:
            held.end()

    async def _until(self, due_s: float) -> None:
        """Wait for the time, and for the end of a stall."""
        left_s = due_s - time.monotonic()
        if left_s > 0:
            await asyncio.sleep(left_s)
        while self._conditions.stalled:
            await self._changed.wait()


class _Pair:
    """The two sockets of one connection."""

    def __init__(self, task: asyncio.Task[None] | None, *writers: asyncio.StreamWriter) -> None:
        self._task, self._writers = task, writers

    def reset(self) -> None:
        for writer in self._writers:
            _reset(writer)
        if self._task is not None:  # it may be waiting for the end of a stall
            self._task.cancel()

    def close(self) -> None:
        for writer in self._writers:
            writer.close()


class _Held:
    """Segments of one direction with the time each may leave; bounded in bytes."""

    def __init__(self) -> None:
        self._segments: deque[tuple[float, bytes]] = deque()
        self._bytes = 0
        self._ended = False
        self._filled = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()

    async def add(self, due_s: float, data: bytes) -> None:
        await self._room.wait()
        self._segments.append((due_s, data))
        self._bytes += len(data)
        if self._bytes >= HELD_BYTES:
            self._room.clear()
        self._filled.set()

    def end(self) -> None:
        self._ended = True
        self._filled.set()

    async def first(self) -> tuple[float, bytes] | None:
        """The next segment; None after the last."""
        while not self._segments:
            if self._ended:
                return None
            self._filled.clear()
            await self._filled.wait()
        return self._segments.popleft()

    def gone(self, count: int) -> None:
        self._bytes -= count
        if self._bytes < HELD_BYTES:
            self._room.set()


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    if sock is not None and sock.fileno() != -1:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
