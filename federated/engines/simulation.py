"""Engine `simulation`: many devices in this process, each on its own files; rings are read here as well.

A large fleet is shared by several processes, each with a grid of this kind (engines/learners.py).

What devices share is done once: a message's arrays are decoded once for all that receive them, a file is read once for all
messages, a model is opened once. Training messages are gathered and learned from together (engines/together.py); all
others are answered one after the other. Time-out and stop are looked at between two messages and between two classes; a
device that hangs hangs the run, nothing in this process can take its turn away.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from federated.engines.home import HomeGrid, failure, handed, one_line
from federated.recordings import Shelf, keeping

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from flwr.app import Message


class SimulationGrid(HomeGrid):
    """Runs the ClientApp of many devices in this process."""

    engine = "simulation"

    def __init__(
        self,
        devices: Mapping[str, Mapping[str, str]],
        stop: threading.Event | None = None,
        memory: Path | None = None,
        shelf: Shelf | None = None,
    ) -> None:
        super().__init__(devices, stop, memory)
        self._shelf = Shelf() if shelf is None else shelf

    def answers(self, messages: list[Message], deadline: float) -> Iterator[Message]:
        """Answers until the time is up; the rest do not answer."""
        from federated.client_app import app
        from federated.engines.together import MESSAGE_TYPE, Class

        pupils = Class()
        for message in handed(messages):
            if self._over(deadline):
                return
            context = self.context(message.metadata.dst_node_id)
            with keeping(self._shelf):
                if message.metadata.message_type == MESSAGE_TYPE:
                    reply = pupils.admit(message, context)
                else:
                    try:
                        reply = app(message, context)
                        self.keep(message.metadata.dst_node_id)
                    except Exception as error:  # noqa: BLE001  # a device that fails is an answer, whatever failed
                        reply = failure(message, one_line(error))
            if reply is not None:
                yield reply
            if pupils.full:
                yield from self._kept(pupils.learn())
        if not self._over(deadline):
            yield from self._kept(pupils.learn())

    def _kept(self, replies: Iterator[Message]) -> Iterator[Message]:
        for reply in replies:
            self.keep(reply.metadata.src_node_id)
            yield reply

    def _over(self, deadline: float) -> bool:
        return time.monotonic() >= deadline or self.stop.is_set()
