"""A learner: `python -m federated.engines.learner FD` is engine `simulation` for a share of a large fleet's devices.

It is started by engines/learners.py, which passes a socket. The first frame is the fleet as JSON; then come batches: BEGIN
with a number, CONTENT before the messages that carry it, HEAD for every message, GO with the seconds that are left. Back
come ANSWER for every device that answers and END, both with the batch's number. Whatever arrives while it is at work
means that nobody waits for the rest: it stops as a run is stopped. It ends when its parent closes the socket or ends.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import struct
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from flwr.supercore.task_identity import TaskIdentity

import federated.client_app  # noqa: F401  # imported before READY, so that the first round does not wait for it
from covey.errors import ProcessError
from covey.runtime import die_with_parent
from federated.engines.child import READY, pack_message, receive_frame, send_frame
from federated.engines.home import RUN_ID, unpack_content, unpack_head
from federated.engines.simulation import SimulationGrid
from federated.recordings import KEPT_BYTES, Shelf

if TYPE_CHECKING:
    from flwr.app import Message, RecordDict

BEGIN, CONTENT, HEAD, GO, STOP = b"B", b"C", b"H", b"G", b"S"
ANSWER, END = b"A", b"E"
NUMBER = struct.Struct(">I")
SECONDS = struct.Struct(">d")


class Interrupted(threading.Event):
    """Set as soon as the parent has sent something, or is gone."""

    def __init__(self, line: socket.socket) -> None:
        super().__init__()
        self._line = line

    def is_set(self) -> bool:
        """Whether to stop."""
        return bool(select.select([self._line], [], [], 0)[0])


def batch(line: socket.socket) -> tuple[bytes, list[Message], float]:
    """The next batch: its number, messages, seconds left.

    Raises:
        EOFError: the parent is gone.
        ProcessError: it says what nobody understands.
    """
    number = b""
    messages: list[Message] = []
    content: RecordDict | None = None
    while True:
        frame = receive_frame(line)
        word, rest = frame[:1], frame[1:]
        if word == BEGIN:
            number, messages, content = rest, [], None
        elif word == CONTENT:
            content = unpack_content(rest)
        elif word == HEAD and content is not None:
            messages.append(unpack_head(rest, content))
        elif word == GO:
            return number, messages, float(SECONDS.unpack(rest)[0])
        elif word != STOP:  # which came too late: what it was to stop is over
            raise ProcessError("learner", f"a frame of a batch expected, {word!r} came")


def serve(line: socket.socket) -> None:
    """Answer batch after batch, until the parent goes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle: it closes the line
    die_with_parent()
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, RUN_ID, 1  # as run_server does
    try:
        fleet = json.loads(receive_frame(line))
        memory = Path(fleet["memory"]) if fleet["memory"] else None
        shelf = Shelf(KEPT_BYTES // int(fleet["learners"]))
        grid = SimulationGrid(fleet["devices"], Interrupted(line), memory, shelf)
        send_frame(line, READY)
        while True:
            number, messages, left_s = batch(line)
            for reply in grid.answers(messages, time.monotonic() + left_s):
                send_frame(line, ANSWER + number + pack_message(reply))
            send_frame(line, END + number)
    except (EOFError, OSError):
        os._exit(0)  # the parent is gone: nobody is left to tell, and nothing here is worth cleaning up


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
