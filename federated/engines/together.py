"""Training messages of many devices of one process, learned from together: the ClientApp's own three steps, side by side.

`prepare` and `respond` are the ClientApp's (federated/learning.py); between them a family that can (`update_many`) trains
all devices that were sent the same state, one that cannot trains them one by one. A device that fails at any step is a
device that failed; the others do not notice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from federated.engines.home import failure, one_line
from federated.families import ManyAtOnce, family_for
from federated.learning import Task, prepare, respond

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from flwr.app import Context, Message

    from federated.gate import Arrays

MESSAGE_TYPE = "train"
LESSON_BYTES = 64 << 20  # features of the devices that are learned from together
MOST = 256  # of them: what a stop or a time-out may have to wait for


class Class:
    """Devices whose lessons wait to be learned from together."""

    def __init__(self) -> None:
        self._tasks: list[Task] = []
        self._size = 0

    @property
    def full(self) -> bool:
        """Whether `learn` is due."""
        return self._size >= LESSON_BYTES or len(self._tasks) >= MOST

    def admit(self, message: Message, context: Context) -> Message | None:
        """Load and normalise a device's windows; its answer when that fails."""
        try:
            task = prepare(message, context)
        except Exception as error:  # noqa: BLE001  # a device that fails is an answer, whatever failed
            return failure(message, one_line(error))
        self._tasks.append(task)
        self._size += task.lesson.z.nbytes
        return None

    def learn(self) -> Iterator[Message]:
        """The answers of all that were admitted; the class is empty afterwards."""
        tasks, self._tasks, self._size = self._tasks, [], 0
        for group in _of_one_state(tasks):
            for task, update in zip(group, _updates(group), strict=True):
                try:
                    yield (
                        failure(task.message, one_line(update))
                        if isinstance(update, Exception)
                        else respond(task, update)
                    )
                except Exception as error:  # noqa: BLE001  # as above
                    yield failure(task.message, one_line(error))


def _of_one_state(tasks: Sequence[Task]) -> list[list[Task]]:
    """Tasks by plan and state: devices that came late may have been sent another."""
    groups: list[list[Task]] = []
    for task in tasks:
        for group in groups:
            if task.plan == group[0].plan and _same(task.state, group[0].state):
                group.append(task)
                break
        else:
            groups.append([task])
    return groups


def _same(one: Arrays, other: Arrays) -> bool:
    return one.keys() == other.keys() and all(
        values is other[name] or np.array_equal(values, other[name]) for name, values in one.items()
    )


def _updates(group: Sequence[Task]) -> Sequence[Arrays | Exception]:
    plan, state = group[0].plan, group[0].state
    family = family_for(plan)
    if isinstance(family, ManyAtOnce) and len(group) > 1:
        try:
            return family.update_many(plan, state, [task.lesson for task in group], [task.seed for task in group])
        except Exception:  # noqa: BLE001, S110  # what one device brought must not cost the others their update
            pass
    updates: list[Arrays | Exception] = []
    for task in group:
        try:
            updates.append(family.update(plan, task.state, task.lesson, task.seed))
        except Exception as error:  # noqa: BLE001  # a device that fails is an answer, whatever failed
            updates.append(error)
    return updates
