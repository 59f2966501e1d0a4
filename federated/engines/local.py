"""Engine `local`: each live device's ClientApp runs in its own child process, which is given that device's ring only.

For one machine (`up`, `demo`). At most two children run at a time. A child that dies or takes too long is a device that
failed, and the round goes on; children are ended by their process id.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections import deque
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import TYPE_CHECKING

from federated.engines.home import HomeGrid, failure

if TYPE_CHECKING:
    from collections.abc import Iterator
    from multiprocessing.connection import Connection
    from multiprocessing.context import ForkServerProcess

    from flwr.app import Message

AT_ONCE = 2
STEP_S = 0.2  # how late a stop may be noticed


@dataclass
class _Child:
    message: Message
    process: ForkServerProcess
    receiver: Connection

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.receiver.close()


class LocalGrid(HomeGrid):
    """Runs the ClientApp of each device in a process of its own."""

    engine = "local"

    def answers(self, messages: list[Message], deadline: float) -> Iterator[Message]:
        """Answers as the children give them; those still at work when the time is up do not answer."""
        waiting = deque(messages)
        running: list[_Child] = []
        try:
            while (waiting or running) and time.monotonic() < deadline and not self.stop.is_set():
                while waiting and len(running) < AT_ONCE:
                    running.append(self._start(waiting.popleft()))
                left = max(0.0, min(STEP_S, deadline - time.monotonic()))
                ready = wait([child.receiver for child in running], left)
                for child in [child for child in running if child.receiver in ready]:
                    running.remove(child)
                    yield _collect(child)
        finally:
            for child in running:
                child.end()

    def _start(self, message: Message) -> _Child:
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # inherited by the fork server: matrices here are small
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["__main__", "federated.engines.child"])
        from federated.engines.child import answer_one

        receiver, sender = context.Pipe(duplex=False)
        node = self.nodes[message.metadata.dst_node_id]
        process = context.Process(target=answer_one, args=(sender, message, node), daemon=True)
        process.start()
        sender.close()  # the child's end: without ours, its death is the end of the pipe
        return _Child(message, process, receiver)


def _collect(child: _Child) -> Message:
    try:
        reply: Message = child.receiver.recv()
    except (EOFError, OSError):
        child.process.join(STEP_S)
        reply = failure(child.message, f"its process ended with {child.process.exitcode} before it answered")
    child.end()
    return reply
