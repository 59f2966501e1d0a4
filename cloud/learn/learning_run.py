"""A training run as the cloud starts it: `covey federated train` as a process, its lines produced to `covey.learning`.

The cloud never imports the learning side. A line that Kafka did not take is produced again; training does not wait for
Kafka. A run that is stopped, or whose starter dies, ends in order and goes on with `--resume`, which tells its lines again
from the first: (run, seq) is their identity.
"""

from __future__ import annotations

import logging
import os
import queue
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

from cloud.stream.kafka import Reader, Writer
from covey import topics, wire
from covey.errors import LinkError, WireError
from covey.processes import covey_command
from covey.runtime import PARENT_VARIABLE, Backoff

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cloud.config import CloudConfig

_log = logging.getLogger("cloud.rounds")

_TURN_S = 0.1
_END_S = 60.0  # for a stopped run to end by itself: a round's message is under way


class Produced:
    """Lines on their way to Kafka; each is handed over until it is delivered."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._again: dict[tuple[str, int], bytes] = {}  # not delivered, or not yet handed over
        self._backoff = Backoff(cap_s=5.0)
        self._next_s = 0.0
        self.under_way = self.delivered = 0

    def add(self, line: bytes) -> None:
        """One line of the run; one that is none is told and left out."""
        try:
            event = wire.decode(wire.RoundEvent, line)
        except WireError as error:
            _log.warning("a line of the run expected: %s", error)
            return
        self._hand_over((event.run, event.seq), wire.make_round_event(event))

    def turn(self, now_s: float) -> None:
        """Take Kafka's reports; hand over again what it did not take."""
        self._writer.poll()
        if self._again and now_s >= self._next_s:
            self._next_s = now_s + self._backoff.next_s()
            waiting, self._again = self._again, {}
            for identity, body in waiting.items():
                self._hand_over(identity, body)

    @property
    def open(self) -> int:
        """Lines that are not delivered."""
        return len(self._again) + self.under_way

    def _hand_over(self, identity: tuple[str, int], body: bytes) -> None:
        def reported(taken: bool) -> None:
            self.under_way -= 1
            if taken:
                self.delivered += 1
                self._backoff.reset()
            else:
                self._again[identity] = body

        self.under_way += 1
        try:
            taken = self._writer.produce(topics.LEARNING, identity[0], body, reported)
        except LinkError as error:
            _log.warning("%s; trying again", error)
            taken = False
        if not taken:
            self.under_way -= 1
            self._again[identity] = body


def run(config: CloudConfig, words: Sequence[str], stop: threading.Event, flush_s: float) -> int:
    """Start a run and produce its lines until it ends; returns its exit code.

    Args:
        config: says where Kafka is.
        words: options of `covey federated train`.
        stop: ends the run in order.
        flush_s: how long to wait for Kafka after its end.

    Raises:
        LinkError: Kafka is out of reach at the start, or did not take every line in the end.
    """
    reader = Reader(config, (topics.LEARNING,))
    try:
        reader.ends()  # says what is wrong with Kafka before anything is trained
    finally:
        reader.close()
    produced = Produced(Writer(config))
    command = covey_command("federated", "train", *words, "--events", "-", "--die-with-parent")
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=sys.stderr.fileno(),
        env={**os.environ, PARENT_VARIABLE: str(os.getpid())},
        start_new_session=True,  # a Ctrl-C in the terminal is ours to pass on
    )
    lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(process, lines), name="lines", daemon=True).start()
    try:
        _pass_on(process, lines, produced, stop)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
    deadline = time.monotonic() + flush_s
    while produced.open and time.monotonic() < deadline:
        produced.turn(time.monotonic())
        time.sleep(_TURN_S)
    if produced.open:
        raise LinkError(
            f"kafka {config.kafka}: {produced.open} lines of the run were not taken; --resume tells them again"
        )
    _log.info("%d lines on %s", produced.delivered, topics.LEARNING)
    return process.returncode


def _pass_on(
    process: subprocess.Popen[bytes],
    lines: queue.SimpleQueue[bytes | None],
    produced: Produced,
    stop: threading.Event,
) -> None:
    asked_s: float | None = None
    while True:
        try:
            line = lines.get(timeout=_TURN_S)
        except queue.Empty:
            pass
        else:
            if line is None:
                process.wait(_END_S)
                return
            produced.add(line)
        now_s = time.monotonic()
        produced.turn(now_s)
        if stop.is_set() and asked_s is None:
            asked_s = now_s
            process.terminate()
        if asked_s is not None and now_s > asked_s + _END_S:
            process.kill()


def _read(process: subprocess.Popen[bytes], lines: queue.SimpleQueue[bytes | None]) -> None:
    """On its own thread: a pipe that nobody empties would hold up the run."""
    if process.stdout is not None:
        for line in process.stdout:
            lines.put(line)
    lines.put(None)
