"""Central training, to compare with: one update from all devices' windows together, each normalised by its own device.

It is what federated training gives up by leaving the data where it is. The ServerApp, the ranges, the gates and the bundle are
those of every run; only a round of learning is answered by one learner that holds everything, for all devices at once.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from federated.engines.home import handed
from federated.engines.simulation import SimulationGrid
from federated.engines.together import MESSAGE_TYPE
from federated.families import Lesson, family_for
from federated.families.defaults import pool_affine
from federated.learning import prepare, respond
from federated.recordings import keeping

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flwr.app import Message

    from federated.gate import Arrays
    from federated.learning import Task


class CentralGrid(SimulationGrid):
    """Answers a round of learning once, for all devices; everything else device by device."""

    _whole: Task | None = None

    def answers(self, messages: list[Message], deadline: float) -> Iterator[Message]:
        """One answer to `train`; the other devices give none."""
        if not messages or messages[0].metadata.message_type != MESSAGE_TYPE:
            yield from super().answers(messages, deadline)
            return
        with keeping(self._shelf):
            if self._whole is None:
                self._whole = self._gathered(messages)
            (first,) = handed(messages[:1])
            own = prepare(first, self.context(first.metadata.dst_node_id))
        whole = self._whole
        task = replace(own, lesson=whole.lesson, center=whole.center, scale=whole.scale)
        yield respond(task, family_for(task.plan).update(task.plan, task.state, task.lesson, task.seed))
        self.keep(first.metadata.dst_node_id)

    def _gathered(self, messages: list[Message]) -> Task:
        """All devices' windows as one lesson, with the center and scale that the fleet would have found; once a run."""
        tasks = [prepare(message, self.context(message.metadata.dst_node_id)) for message in handed(messages)]
        sessions, before = [], 0
        for task in tasks:
            sessions.append(task.lesson.flight + before)
            before = 1 + int(sessions[-1].max())
        lesson = Lesson(
            np.concatenate([task.lesson.z for task in tasks]),
            np.concatenate(sessions),
            np.concatenate([task.lesson.fitted for task in tasks]),
            tasks[0].lesson.drone,
        )
        affines: list[Arrays] = [{"center": task.center, "scale": task.scale} for task in tasks]
        affine = pool_affine(affines)
        return replace(tasks[0], lesson=lesson, center=affine["center"], scale=affine["scale"])
