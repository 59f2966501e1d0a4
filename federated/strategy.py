"""One message round with Flower: ask every device, gate the answers, check the quorum. The same for every family.

Who answers with an error, not in time, or with something that is not what was asked for is left out and named; a round
closes when enough devices remain. It refuses to aggregate anything that did not pass the gate.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from flwr.app import Message
from flwr.common.constant import SUPERLINK_NODE_ID

from covey.errors import AggregationError, DataError
from federated import gate
from federated.records import arrays_of, question

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import numpy as np
    from flwr.serverapp import Grid
    from numpy.typing import NDArray

    from federated.config import Plan
    from federated.events import Events
    from federated.families import Family
    from federated.gate import Arrays, Shape

COMMON = ("center", "scale", "windows")  # what every update carries beside the family's arrays
LONGEST = 200  # characters of a device's complaint that are passed on


@dataclass
class Answers:
    """What a message round brought.

    Attributes:
        arrays: device -> admitted answer.
        refused: device -> why it was left out.
        missing: devices that did not answer in time.
        seconds: how long it took.
    """

    arrays: dict[str, Arrays] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    seconds: float = 0.0


@dataclass(frozen=True)
class Crew:
    """The devices of a run and how long to wait for them.

    Attributes:
        grid: Flower's, or one that runs its apps on this machine.
        plan: time-out, quorum, strictness.
        name_of: node id -> device.
        events: where to tell who was asked and what became of it.
    """

    grid: Grid
    plan: Plan
    name_of: Callable[[int], str]
    events: Events | None = None

    def ask(
        self,
        what: str,
        kind: str,
        arrays: Mapping[str, NDArray[np.generic]],
        config: Mapping[str, str | int],
        check: Callable[[Arrays], str | None],
    ) -> Answers:
        """Send one message to every device and wait for the answers, at most `timeout_s`.

        Args:
            what: for messages to people ("round 3").
            kind: Flower's message type.
            arrays: down.
            config: down.
            check: why an answer is refused, or None.

        Raises:
            AggregationError: fewer than `min_clients` remain; names who is missing and why.
            DataError: `strict`, and one device failed.
        """
        timeout_s = self.plan.timeout_s
        nodes = sorted(self.grid.get_node_ids())
        content = question(arrays, config)
        messages = [Message(content, node, kind, ttl=timeout_s + 60.0, group_id=what) for node in nodes]
        began = time.monotonic()
        if self.events is not None:
            self.events.say("asked", number=int(config.get("round", 0)), phase=what, figures={"devices": len(nodes)})
        replies = list(self.grid.send_and_receive(messages, timeout=timeout_s))
        answers = Answers(seconds=time.monotonic() - began)
        for reply in replies:
            name = self.name_of(asked_of(reply, messages))
            if name in answers.arrays or name in answers.refused:
                continue  # one voice a device
            told = _complaint(reply)
            if told is None:
                try:
                    found = arrays_of(reply)
                    told = check(found)
                except AggregationError as error:
                    told = str(error)
            if told is None:
                answers.arrays[name] = found
            else:
                answers.refused[name] = told[:LONGEST]
        heard = answers.arrays.keys() | answers.refused.keys()
        answers.missing = [self.name_of(node) for node in nodes if self.name_of(node) not in heard]
        if self.events is not None:
            self.events.answers(what, answers, int(config.get("round", 0)))
        self._quorum(what, answers, len(nodes))
        return answers

    def _quorum(self, what: str, answers: Answers, asked: int) -> None:
        if self.plan.strict and answers.refused:
            raise DataError(next(iter(answers.refused.values())))
        if len(answers.arrays) >= max(self.plan.min_clients, 1):
            return
        reasons = [f"{name}: {why}" for name, why in sorted(answers.refused.items())]
        reasons += [f"{name}: no answer in {self.plan.timeout_s:g} s" for name in answers.missing]
        shown = "; ".join(reasons[:3]) + (f"; and {len(reasons) - 3} more" if len(reasons) > 3 else "")
        raise AggregationError(
            f"{what}: answers of at least {max(self.plan.min_clients, 1)} devices expected, "
            f"{len(answers.arrays)} of {asked} can be used" + (f" ({shown})" if shown else "")
        )


def _complaint(reply: Message) -> str | None:
    if not reply.has_error():
        return None
    return " ".join((reply.error.reason or f"error {reply.error.code}").split())


def asked_of(reply: Message, messages: Sequence[Message]) -> int:
    """The node that an answer is of; a SuperLink answers itself for nodes that it has lost."""
    if reply.metadata.src_node_id == SUPERLINK_NODE_ID:
        for message in messages:
            if message.metadata.message_id == reply.metadata.reply_to_message_id:
                return message.metadata.dst_node_id
    return reply.metadata.src_node_id


def update_shapes(family: Family, plan: Plan, d: int) -> dict[str, Shape]:
    """What a device's answer to `train` must look like."""
    return {
        **family.shapes(plan, d),
        "center": gate.Shape((d,)),
        "scale": gate.Shape((d,)),
        "windows": gate.Shape((1,), "i"),
    }


def update_fault(family: Family, plan: Plan, d: int, update: Arrays) -> str | None:
    """Why one update is refused, or None."""
    told = gate.fault(update, update_shapes(family, plan, d)) or gate.windows_fault(int(update["windows"][0]))
    if told is None and not (update["scale"] > 0).all():
        told = "scale: positive numbers expected, others came"
    return told or family.fault(own_part(update))


def own_part(update: Arrays) -> Arrays:
    """The family's arrays of an update."""
    return {name: values for name, values in update.items() if name not in COMMON}


def merge(family: Family, plan: Plan, state: Arrays, answers: Answers) -> Arrays:
    """Gate by norm, then the family's merge, then the group's center and scale.

    Refused updates move from `answers.arrays` to `answers.refused`.

    Raises:
        AggregationError: fewer than `min_clients` remain.
    """
    from federated.families.defaults import pool_affine

    names = sorted(answers.arrays)  # not the order of arrival: sums of floats must not depend on it
    faults = gate.norm_faults([family.norm(own_part(answers.arrays[name])) for name in names])
    for name, told in zip(names, faults, strict=True):
        if told is not None:
            answers.refused[name] = told
            del answers.arrays[name]
    updates = [answers.arrays[name] for name in names if name in answers.arrays]
    if len(updates) < max(plan.min_clients, 1):
        reasons = "; ".join(f"{name}: {why}" for name, why in sorted(answers.refused.items()))
        raise AggregationError(
            f"round: updates of at least {plan.min_clients} devices expected, {len(updates)} pass the gate ({reasons})"
        )
    weights = [int(update["windows"][0]) for update in updates]
    merged = family.merge(plan, state, [own_part(update) for update in updates], weights)
    return {**merged, **pool_affine(updates)}
