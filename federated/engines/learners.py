"""Engine `simulation` of a large fleet: a process for every processor, each answering for its share of the devices.

What a device answers does not depend on who is asked beside (docs/decisions/0027), so neither does it depend on how many
processes there are. A device is always asked by the same process, which keeps its memory. A process that ends ends the
run, as it would if there were one; engines/learner.py is the other end.
"""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from covey.errors import ProcessError
from federated.engines.child import READY, receive_frame, send_frame, unpack_message
from federated.engines.home import HomeGrid, pack_content, pack_head
from federated.engines.learner import ANSWER, BEGIN, CONTENT, END, GO, HEAD, NUMBER, SECONDS, STOP
from federated.engines.simulation import SimulationGrid
from federated.families.dense_batch import SHARERS, processors

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator, Mapping
    from pathlib import Path
    from types import TracebackType

    from flwr.app import Message

LEAST = 256  # devices from which on a second or two of starting is worth it
MOST = 4  # processes: a simulation is not alone on its machine
START_S = 60.0  # importing Flower on a slow, busy machine
FRAME_S = 60.0  # for one frame to pass, once it has begun
STEP_S = 0.2  # how late a stop may be noticed
CLASS_S = 600.0  # for a class that nobody waits for any more to come to its end
END_S = 2.0


def simulation(
    devices: Mapping[str, Mapping[str, str]], stop: threading.Event, memory: Path | None, stack: ExitStack
) -> HomeGrid:
    """The engine for that many devices, in this process or in several; `stack` ends them."""
    count = min(MOST, processors())
    if len(devices) < LEAST or count < 2:
        return SimulationGrid(devices, stop, memory)
    return stack.enter_context(LearnersGrid(devices, stop, memory, count))


class LearnersGrid(HomeGrid):
    """Runs the ClientApp of many devices in several processes; use it as a context."""

    engine = "simulation"

    def __init__(
        self,
        devices: Mapping[str, Mapping[str, str]],
        stop: threading.Event | None = None,
        memory: Path | None = None,
        count: int = 2,
    ) -> None:
        super().__init__(devices, stop, memory)
        self._fleet = {
            "devices": {name: self.nodes[node] for node, name in self.names.items()},
            "memory": str(memory) if memory is not None else "",
            "learners": count,
        }
        self.processes: list[subprocess.Popen[bytes]] = []
        self._lines: list[socket.socket] = []
        self._batch = 0
        self._busy: set[int] = set()  # learners that have not ended their batch

    def __enter__(self) -> LearnersGrid:  # noqa: PYI034  # Self would do, the name says more
        """Start the learners.

        Raises:
            ProcessError: one does not come up.
        """
        count = int(str(self._fleet["learners"]))
        # Matrices are small, and the processes take all processors as it is.
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", SHARERS: str(count)}
        with ExitStack() as undo:
            undo.callback(self.close)
            for _ in range(count):
                ours, theirs = socket.socketpair()
                self._lines.append(ours)
                # -P: a folder named federated where the user stands must not be taken for us.
                command = [sys.executable, "-P", "-m", "federated.engines.learner", str(theirs.fileno())]
                with theirs:
                    self.processes.append(
                        subprocess.Popen(
                            command,
                            pass_fds=[theirs.fileno()],
                            stdin=subprocess.DEVNULL,
                            stdout=subprocess.DEVNULL,
                            env=environment,
                        )
                    )
            told = json.dumps(self._fleet).encode()
            for line in self._lines:
                line.settimeout(START_S)
                try:
                    send_frame(line, told)
                except OSError as error:
                    raise ProcessError("learner", f"its fleet taken expected: {error}") from error
            for number, line in enumerate(self._lines):
                if self._frame(number) != READY:
                    raise ProcessError("learner", f"ready within {START_S:g} s expected, it was not")
                line.settimeout(FRAME_S)
            undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the learners, those at work as well."""
        for line in self._lines:
            line.close()
        for process in self.processes:
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def answers(self, messages: list[Message], deadline: float) -> Iterator[Message]:
        """Answers as the learners give them; those not given when the time is up are not heard.

        Raises:
            ProcessError: a learner ended.
        """
        self._settle()
        if self.stop.is_set():
            return
        self._batch += 1
        shares: list[list[Message]] = [[] for _ in self._lines]
        for message in messages:
            shares[message.metadata.dst_node_id % len(shares)].append(message)
        for number, share in enumerate(shares):
            if share:
                self._send(number, _framed(share, self._batch, deadline - time.monotonic()))
                self._busy.add(number)
        while self._busy and time.monotonic() < deadline and not self.stop.is_set():
            for number in self._heard(min(STEP_S, max(0.0, deadline - time.monotonic()))):
                frame = self._take(number)
                if frame[:1] == ANSWER:
                    yield unpack_message(frame[1 + NUMBER.size :])

    def _settle(self) -> None:
        """Learners that still work for a batch whose time is up are stopped, and what they say is not heard.

        Raises:
            ProcessError: one does not stop.
        """
        for number in self._busy:
            self._send(number, _frame(STOP))
        until = time.monotonic() + CLASS_S
        while self._busy and not self.stop.is_set():
            left = until - time.monotonic()
            if left <= 0:
                raise ProcessError("learner", f"the end of its class within {CLASS_S:g} s expected, it did not come")
            for number in self._heard(min(STEP_S, left)):
                self._take(number)

    def _heard(self, wait_s: float) -> list[int]:
        lines = {self._lines[number]: number for number in self._busy}
        return [lines[line] for line in select.select(list(lines), [], [], wait_s)[0]]

    def _take(self, number: int) -> bytes:
        frame = self._frame(number)
        if frame == END + NUMBER.pack(self._batch):
            self._busy.discard(number)
        return frame

    def _frame(self, number: int) -> bytes:
        try:
            return receive_frame(self._lines[number])
        except (EOFError, OSError) as error:
            raise self._ended(number) from error

    def _send(self, number: int, content: bytes) -> None:
        try:
            self._lines[number].sendall(content)
        except OSError as error:
            raise self._ended(number) from error

    def _ended(self, number: int) -> ProcessError:
        process = self.processes[number]
        return ProcessError("learner", f"process {process.pid} ended with {process.poll()} before it answered")


def _framed(messages: list[Message], batch: int, left_s: float) -> bytes:
    """A batch as it travels: a content that many carry is there once."""
    frames = [_frame(BEGIN + NUMBER.pack(batch))]
    content = None
    for message in messages:
        if message.content is not content:
            content = message.content
            frames.append(_frame(CONTENT + pack_content(content)))
        frames.append(_frame(HEAD + pack_head(message)))
    frames.append(_frame(GO + SECONDS.pack(left_s)))
    return b"".join(frames)


def _frame(content: bytes) -> bytes:
    return NUMBER.pack(len(content)) + content
