"""Central training, to compare with: one update from all devices' windows together, each normalised by its own device.

It is what federated training gives up by leaving the data where it is. The ServerApp, the ranges, the gates and the bundle are
those of every run; only a round of learning is answered by one learner that holds everything, for all devices at once.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import numpy as np

from federated.config import Plan, read_struct
from federated.engines.simulation import SimulationGrid
from federated.families import Lesson, family_of
from federated.families.defaults import pool_affine
from federated.own import load, normalised
from federated.records import answer, arrays_of, config_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from threading import Event

    from flwr.app import Message
    from numpy.typing import NDArray

    from covey.bundle import Inputs
    from federated.gate import Arrays


class CentralGrid(SimulationGrid):
    """Answers a round of learning once, for all devices; everything else device by device."""

    def __init__(self, devices: Mapping[str, Mapping[str, str]], stop: Event | None = None) -> None:
        super().__init__(devices, stop)
        self._lesson: tuple[str, Lesson, Arrays] | None = None

    def answers(self, messages: list[Message], deadline: float) -> Iterator[Message]:
        """One answer to `train`; the other devices give none."""
        if not messages or not messages[0].metadata.message_type.startswith("train"):
            yield from super().answers(messages, deadline)
            return
        first = messages[0]
        config = config_of(first)
        plan = read_struct(Plan, str(config["plan"]), "plan")
        lesson, affine = self._whole(plan, str(config["inputs"]))
        seed = zlib.crc32(f"{plan.seed}/{config['round']}/0".encode())
        update = family_of(plan.family).update(plan, arrays_of(first), lesson, seed)
        yield answer({**update, **affine, "windows": np.array([len(lesson.z)], np.int64)}, first)

    def _whole(self, plan: Plan, text: str) -> tuple[Lesson, Arrays]:
        """All devices' windows, and the affine that the fleet's devices would have told; read once a run."""
        from covey.bundle import Inputs

        if self._lesson is None or self._lesson[0] != text:
            inputs: Inputs = read_struct(Inputs, text, "inputs")
            parts: list[NDArray[np.float32]] = []
            flights: list[NDArray[np.int64]] = []
            fitted: list[NDArray[np.bool_]] = []
            affines: list[Arrays] = []
            for number in sorted(self.nodes):
                own = load(self.nodes[number], plan, inputs)
                z, center, scale = normalised(own, plan, inputs)
                parts.append(z)
                fitted.append(own.fitted)
                flights.append(own.session + (1 + int(flights[-1].max()) if flights else 0))
                affines.append({"center": center, "scale": scale})
            lesson = Lesson(
                np.concatenate(parts), np.concatenate(flights), np.concatenate(fitted), inputs.features.kind == "drone"
            )
            affine = {name: values.astype(np.float32) for name, values in pool_affine(affines).items()}
            self._lesson = (text, lesson, affine)
        return self._lesson[1], self._lesson[2]
