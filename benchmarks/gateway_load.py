"""The load: a process that publishes one job's messages with QoS 1, as fast as the broker takes them or at a rate.

Several connections, a window of unacknowledged messages on each, every device always on the same one, so that what a device
sends is in order. Devices are drawn at random by a seed: a fleet's messages are not sorted. It ends when the broker has
acknowledged every message, and prints one JSON line. It does not measure anything but itself.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import select
import struct
import time
from collections import deque

from gateway_jobs import JOBS, PHASE, Job, Line, line
from gateway_mqtt import PUBACK, Connection

CHUNK = 50  # messages of one write when there is no rate
DRAIN_S = 0.005


class _Lane(Connection):
    """A connection with its window."""

    def __init__(self, port: int, client_id: str, window: int) -> None:
        super().__init__(port, client_id)
        self.limit = min(window, self.window)
        self.unacked = 0
        self.mid = 0
        self.todo: deque[int] = deque()

    def take(self) -> int:
        """Read confirmations; returns how many came.

        Raises:
            ValueError: the broker refused a message.
        """
        count = 0
        for first, body in self.packets():
            if first & 0xF0 == PUBACK:
                count += 1
                if len(body) > 2 and body[2] >= 0x80:
                    raise ValueError(f"the broker refused a message: reason {body[2]}")
        self.unacked -= count
        return count

    def next_mid(self) -> bytes:
        """The next packet identifier and an empty property field."""
        self.mid = self.mid % 65_535 + 1
        self.unacked += 1
        return struct.pack(">HB", self.mid, 0)


class Load:
    """A fleet's messages.

    Args:
        port: of the broker.
        job: what is sent.
        devices: how many there are.
        connections: MQTT connections they share.
        window: unacknowledged messages on each.
    """

    def __init__(self, port: int, job: Job, devices: int, connections: int = 4, window: int = 500) -> None:
        self._lanes = [_Lane(port, f"bench-load-{i}", window) for i in range(connections)]
        self._lines: list[Line | None] = [None] * devices
        self._numbers = [0] * devices
        self._job = job
        self.late_s: list[float] = []

    def draw(self, messages: int, phase: int, seed: int) -> list[int]:
        """Which device sends each message of a phase."""
        dice = random.Random(seed)
        self._numbers = [phase * PHASE] * len(self._lines)
        chosen = dice.choices(range(len(self._lines)), k=messages)
        for i in set(chosen):
            self._lines[i] = self._lines[i] or line(self._job, i)
        return chosen

    def saturate(self, chosen: list[int]) -> None:
        """Publish all, as fast as the windows allow."""
        lanes = self._lanes
        for i in chosen:
            lanes[i % len(lanes)].todo.append(i)
        left = len(chosen)
        while left:
            for lane in lanes:
                room = min(lane.limit - lane.unacked, len(lane.todo))
                while room > 0:
                    now_ns = time.monotonic_ns()
                    lane.sock.sendall(
                        b"".join([self._packet(lane, lane.todo.popleft(), now_ns) for _ in range(min(CHUNK, room))])
                    )
                    room -= CHUNK
            left -= self._drain(1.0)

    def pace(self, chosen: list[int], rate_s: float) -> None:
        """Publish one message every 1/rate_s; a message that is late is sent at once, and the next keeps its time."""
        lanes = self._lanes
        begun = drained = time.monotonic()
        left = len(chosen)
        for n, i in enumerate(chosen):
            due = begun + n / rate_s
            now = time.monotonic()
            if now < due:
                time.sleep(due - now)
                now = time.monotonic()
            self.late_s.append(now - due)
            lane = lanes[i % len(lanes)]
            lane.sock.sendall(self._packet(lane, i, time.monotonic_ns()))
            if now - drained > DRAIN_S:
                left -= self._drain(0.0)
                drained = now
            while lane.unacked >= lane.limit:
                left -= self._drain(1.0)
        while left:
            left -= self._drain(1.0)

    def close(self) -> None:
        """Close the connections."""
        for lane in self._lanes:
            lane.close()

    def _packet(self, lane: _Lane, i: int, now_ns: int) -> bytes:
        number = self._numbers[i] = self._numbers[i] + 1
        head, body = self._lines[i]  # type: ignore[misc]  # draw() has made it
        return head + lane.next_mid() + body % (number, now_ns)

    def _drain(self, timeout_s: float) -> int:
        ready = select.select([lane.sock for lane in self._lanes], [], [], timeout_s)[0]
        return sum(lane.take() for lane in self._lanes if lane.sock in ready)


def main() -> None:
    """Publish and say so."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--job", choices=sorted(JOBS), required=True)
    parser.add_argument("--messages", type=int, required=True)
    parser.add_argument(
        "--rate", type=float, default=0.0, help="messages a second; 0: as fast as the broker takes them"
    )
    parser.add_argument("--devices", type=int, default=10_000)
    parser.add_argument("--phase", type=int, default=1, help="1 to 9; numbers grow with it")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    load = Load(options.port, JOBS[options.job], options.devices)
    chosen = load.draw(options.messages, options.phase, options.seed)
    gc.freeze()
    gc.disable()
    begun = time.monotonic()
    if options.rate:
        load.pace(chosen, options.rate)
    else:
        load.saturate(chosen)
    late = sorted(load.late_s) or [0.0]
    told = {
        "seconds": time.monotonic() - begun,
        "late_p99_ms": late[int(len(late) * 0.99)] * 1e3,
        "cpu_s": time.process_time(),
    }
    load.close()
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
