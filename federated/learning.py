"""A training message on a device in three steps, so that an engine may take the middle one for many devices at once.

`prepare` reads the message and the device's windows, `family.update` learns, `respond` packs what was learned.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from covey.bundle import Inputs
from federated.config import Plan, read_struct
from federated.families import Lesson
from federated.own import load, node_of, normalised
from federated.records import answer, arrays_of, config_of

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
        state: what the family's `down` gave.
        lesson: the device's windows, normalised.
        center: (D,) the device's own.
        scale: (D,) likewise.
        seed: of this device in this round.
    """

    message: Message
    context: Context
    plan: Plan
    state: Arrays
    lesson: Lesson
    center: NDArray[np.float64]
    scale: NDArray[np.float64]
    seed: int


def asked(config: dict[str, str | int]) -> tuple[Plan, Inputs]:
    """Plan and inputs of a message."""
    return read_struct(Plan, str(config["plan"]), "plan"), read_struct(Inputs, str(config["inputs"]), "inputs")


def prepare(message: Message, context: Context) -> Task:
    """Load and normalise.

    Raises:
        DataError: the device's windows cannot be used now.
    """
    config = config_of(message)
    plan, inputs = asked(config)
    own = load(node_of(context), plan, inputs)
    z, center, scale = normalised(own, plan, inputs)
    lesson = Lesson(z, own.session, own.fitted, inputs.features.kind == "drone")
    seed = zlib.crc32(f"{plan.seed}/{config['round']}/{context.node_id}".encode())
    return Task(message, context, plan, arrays_of(message), lesson, center, scale, seed)


def respond(task: Task, update: Arrays) -> Message:
    """Pack what was learned into the answer."""
    told: Arrays = {
        **update,
        "center": task.center.astype(np.float32),
        "scale": task.scale.astype(np.float32),
        "windows": np.array([len(task.lesson.z)], np.int64),
    }
    return answer(told, task.message)
