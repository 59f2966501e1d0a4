"""A training message on a device in three steps, so that an engine may take the middle one for many devices at once.

`prepare` reads the message and the device's windows, `family.update` learns, `respond` packs what was learned. What the
device remembers of a round (federated/memory.py) is written by `respond` alone: a device that fails has learned nothing.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from covey.bundle import Inputs
from federated.compress import packed
from federated.config import Plan, read_struct
from federated.families import Lesson
from federated.memory import recall, remember
from federated.own import load, node_of, normalised
from federated.privacy import bounded
from federated.records import answer, arrays_of, config_of
from federated.views import received

if TYPE_CHECKING:
    from flwr.app import Context, Message
    from numpy.typing import NDArray

    from federated.gate import Arrays


@dataclass(frozen=True)
class Task:
    """One device's part of a round.

    Attributes:
        message: the question.
        context: the device's; its state outlives the message.
        plan: of the run.
        state: what the family's `down` gave, as it arrived.
        lesson: the device's windows, normalised.
        center: (D,) the device's own, then (C,) of its channels where features are `temporal`.
        scale: (D,) likewise.
        seed: of this device in this round.
        number: of the round, from 1.
        run: token of the run, 0 where the plan needs none.
        memory: what the device remembers, this round's weights included.
    """

    message: Message
    context: Context
    plan: Plan
    state: Arrays
    lesson: Lesson
    center: NDArray[np.float64]
    scale: NDArray[np.float64]
    seed: int
    number: int
    run: int
    memory: Arrays


def asked(config: dict[str, str | int]) -> tuple[Plan, Inputs]:
    """Plan and inputs of a message."""
    return read_struct(Plan, str(config["plan"]), "plan"), read_struct(Inputs, str(config["inputs"]), "inputs")


def prepare(message: Message, context: Context) -> Task:
    """Load and normalise.

    Raises:
        DataError: the device's windows cannot be used now, or it does not hold what the message builds on.
    """
    config = config_of(message)
    plan, inputs = asked(config)
    number, run = int(config["round"]), int(config.get("run", 0))
    own = load(node_of(context), plan, inputs)
    z, center, scale = normalised(own, plan, inputs)
    lesson = Lesson(z, own.session, own.fitted, inputs.features.kind == "drone")
    seed = zlib.crc32(f"{plan.seed}/{number}/{context.node_id}".encode())
    state, memory = arrays_of(message), recall(context)
    if plan.rule != "sum":
        state, memory = received(plan, state, memory, number, run)
    return Task(message, context, plan, state, lesson, center, scale, seed, number, run, memory)


def respond(task: Task, update: Arrays) -> Message:
    """Pack what was learned into the answer.

    Args:
        task: of `prepare`.
        update: of `family.update`: sums, or the change of the weights in float32.
    """
    plan = task.plan
    if plan.rule != "sum":
        if plan.privacy is not None and plan.privacy.side == "client":
            update = bounded(update, plan.privacy.clip)
        update, memory = packed(plan, update, task.memory, task.number, task.run)
        if memory:
            remember(task.context, memory)
    told: Arrays = {
        **update,
        "center": task.center.astype(np.float32),
        "scale": task.scale.astype(np.float32),
        "windows": np.array([len(task.lesson.z)], np.int64),
    }
    return answer(told, task.message)
