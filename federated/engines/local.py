"""Engine `local`: each live device's ClientApp runs in its own child process, which is given that device's ring only.

For one machine (`up`, `demo`). At most two children run at a time. A child that dies or takes too long is a device that
failed, and the round goes on; children are ended by their process id. engines/child.py is the other end.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from covey.errors import ProcessError
from federated.engines.child import FORK, READY, pack_message, receive_frame, send_frame, unpack_message
from federated.engines.home import HomeGrid, failure

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator, Mapping
    from types import TracebackType

    from flwr.app import Message

AT_ONCE = 2
STEP_S = 0.2  # how late a stop may be noticed
START_S = 60.0  # importing Flower on a slow, busy machine
FRAME_S = 30.0  # for one frame to pass, once it has begun


@dataclass
class _Child:
    message: Message
    line: socket.socket
    pid: int

    def end(self) -> None:
        """Kill it unless it is gone already: its end of the line is closed then."""
        with suppress(OSError):
            gone = select.select([self.line], [], [], 0)[0] and not self.line.recv(1, socket.MSG_PEEK)
            if not gone:
                os.kill(self.pid, signal.SIGKILL)
        self.line.close()


class LocalGrid(HomeGrid):
    """Runs the ClientApp of each device in a process of its own; use it as a context."""

    engine = "local"
    at_once = AT_ONCE

    def __init__(self, devices: Mapping[str, Mapping[str, str]], stop: threading.Event | None = None) -> None:
        super().__init__(devices, stop)
        self._nursery: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def __enter__(self) -> LocalGrid:  # noqa: PYI034  # Self would do, the name says more
        """Start the nursery.

        Raises:
            ProcessError: it does not come up.
        """
        ours, theirs = socket.socketpair()
        # -P: a folder named federated where the user stands must not be taken for us.
        command = [sys.executable, "-P", "-m", "federated.engines.child", str(theirs.fileno())]
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}  # matrices are small; threads do not survive a fork
        self._nursery = subprocess.Popen(
            command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=environment
        )
        theirs.close()
        self._control = ours
        ours.settimeout(START_S)
        try:
            came = ours.recv(1)
        except OSError:
            came = b""
        if came != READY:
            self.close()
            raise ProcessError("learner", f"ready within {START_S:g} s expected, it was not")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the nursery; its children end with it."""
        if self._control is not None:
            self._control.close()
        if self._nursery is not None:
            try:
                self._nursery.wait(2.0)
            except subprocess.TimeoutExpired:
                self._nursery.kill()
                self._nursery.wait()

    def answers(self, messages: list[Message], deadline: float) -> Iterator[Message]:
        """Answers as the children give them; those still at work when the time is up do not answer."""
        waiting = deque(messages)
        running: dict[int, _Child] = {}  # by the descriptor of its line
        try:
            while (waiting or running) and time.monotonic() < deadline and not self.stop.is_set():
                while waiting and len(running) < AT_ONCE:
                    message = waiting.popleft()
                    try:
                        child = self._start(message)
                    except (OSError, EOFError) as error:
                        yield failure(message, f"its process did not start: {error}")
                        continue
                    running[child.line.fileno()] = child
                left = max(0.0, min(STEP_S, deadline - time.monotonic()))
                for number in select.select(list(running), [], [], left)[0]:
                    child = running.pop(number)
                    yield _collect(child)
        finally:
            for child in running.values():
                child.end()

    def _start(self, message: Message) -> _Child:
        if self._control is None:
            raise ProcessError("learner", "a started engine expected, use it as a context")
        ours, theirs = socket.socketpair()
        try:
            socket.send_fds(self._control, [FORK], [theirs.fileno()])
            theirs.close()
            ours.settimeout(FRAME_S)
            child = _Child(message, ours, int(receive_frame(ours)))
            send_frame(ours, json.dumps(self.nodes[message.metadata.dst_node_id]).encode())
            send_frame(ours, pack_message(message))
        except BaseException:
            ours.close()
            theirs.close()
            raise
        return child


def _collect(child: _Child) -> Message:
    try:
        return unpack_message(receive_frame(child.line))
    except (EOFError, OSError):
        return failure(child.message, f"its process {child.pid} ended before it answered")
    finally:
        child.end()
