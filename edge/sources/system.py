"""The machine's own health as readings: processors, memory, disk, network, and what its board tells (board.py).

A thread polls, for a bus with a broken sensor makes a read wait; it hands over one reading a poll. Rates (bytes a second) are over the time
between two polls. It changes nothing on the machine.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

from covey.errors import MissingExtra
from edge.sources import Vehicle
from edge.sources.board import probes
from edge.sources.live import Reading

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edge.sources.board import Probe

_FASTEST_S = 0.1
_LOOK_AGAIN_S = 60.0  # for sensors that were added
_MOST_WAITING = 256
_JOIN_S = 1.0


class SystemReader:
    """See `edge.sources.live.Reader`."""

    label = "system"
    done = False
    exact = False

    def __init__(self, interval_s: float, root: str = "/") -> None:
        """The thread begins at once.

        Args:
            interval_s: between two polls, at least 0.1.
            root: where /sys and /var are.

        Raises:
            MissingExtra: psutil is not installed.
        """
        try:
            import psutil
        except ImportError as error:
            raise MissingExtra("edge", "psutil") from error
        self.vehicle = Vehicle()
        self.problem = ""
        self._library: Any = psutil
        self._interval_s = max(_FASTEST_S, interval_s)
        self._root = Path(root)
        self._waiting: deque[Reading] = deque(maxlen=_MOST_WAITING)
        self._readings = self._bad = 0
        self._probes: list[Probe] = []
        self._next_look_s = 0.0
        self._before: dict[str, float] = {}  # counters at the last poll
        self._before_s = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="system", daemon=True)
        self._thread.start()

    @property
    def counts(self) -> dict[str, int]:
        """Polls, and values that could not be read."""
        return {"readings": self._readings, "bad": self._bad}

    def want(self, names: frozenset[str] | None) -> None:
        """A poll reads everything."""

    def read(self, now_s: float) -> Sequence[Reading]:  # noqa: ARG002  # as every reader; polls carry their time
        """Polls that were made."""
        out = []
        while self._waiting:
            out.append(self._waiting.popleft())
        return out

    def clock_of(self, t_s: float, now_s: float, clock_s: float) -> float:
        """The machine's clock is ours."""
        return t_s + (clock_s - now_s)

    def close(self) -> None:
        """End the thread, unless it waits for a bus."""
        self._stop.set()
        self._thread.join(_JOIN_S)

    # -- on the thread --------------------------------------------------------------------------------------------

    def _run(self) -> None:
        self._library.cpu_percent(percpu=True)  # the first call has nothing to compare with
        due_s = time.monotonic()
        while not self._stop.is_set():
            now_s = time.monotonic()
            values = self._poll(now_s)
            if values:
                self._readings += 1
                self._waiting.append(Reading(now_s, now_s, tuple(values), tuple(values.values())))
            due_s = max(due_s + self._interval_s, time.monotonic() - self._interval_s)
            self._stop.wait(max(0.0, due_s - time.monotonic()))

    def _poll(self, now_s: float) -> dict[str, float]:
        out: dict[str, float] = {}
        for part in (self._processors, self._memory, self._traffic):
            try:
                out |= part(now_s)
            except (OSError, ValueError, RuntimeError, self._library.Error):
                self._bad += 1
        if now_s >= self._next_look_s:
            self._next_look_s = now_s + _LOOK_AGAIN_S
            self._probes = probes(self._root)
        for probe in self._probes:
            value = probe.read()
            if value is None:
                self._bad += 1
            else:
                out[probe.channel] = value
        return out

    def _processors(self, _now_s: float) -> dict[str, float]:
        """Percent busy; loads are processes."""
        cores = self._library.cpu_percent(percpu=True)
        out = {"system.cpu": sum(cores) / len(cores)}
        out |= {f"system.cpu.{n}": float(core) for n, core in enumerate(cores)}
        return out | {f"system.load.{m}": load for m, load in zip((1, 5, 15), os.getloadavg(), strict=True)}

    def _memory(self, _now_s: float) -> dict[str, float]:
        """Percent used."""
        memory, swap = self._library.virtual_memory(), self._library.swap_memory()
        disk = self._library.disk_usage(str(self._root))
        return {"system.mem": memory.percent, "system.swap": swap.percent, "system.disk": disk.percent}

    def _traffic(self, now_s: float) -> dict[str, float]:
        """Bytes a second."""
        counters: dict[str, float] = {}
        disk = self._library.disk_io_counters()
        if disk is not None:
            counters |= {"system.disk.read": disk.read_bytes, "system.disk.write": disk.write_bytes}
        for name, net in self._library.net_io_counters(pernic=True).items():
            if name != "lo":
                counters |= {f"system.net.{name}.rx": net.bytes_recv, f"system.net.{name}.tx": net.bytes_sent}
        before, took_s = self._before, now_s - self._before_s
        self._before, self._before_s = counters, now_s
        return {
            name: (count - before[name]) / took_s
            for name, count in counters.items()
            if name in before and took_s > 0 and count >= before[name]
        }
