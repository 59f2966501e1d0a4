"""One message round with Flower: ask devices, gate the answers, check the quorum. The same for every family and rule.

Who answers with an error, not in time, or with something that is not what was asked for is left out and named; a round
closes when enough devices remain. It refuses to hand on anything that did not pass the gate.
"""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from flwr.app import Message
from flwr.common.constant import SUPERLINK_NODE_ID

from covey.errors import AggregationError, DataError
from federated import gate
from federated.gate import Arrays
from federated.records import arrays_of, question

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from flwr.serverapp import Grid
    from numpy.typing import NDArray

    from federated.config import Plan
    from federated.events import Events
    from federated.families import Family
    from federated.gate import Shape

Check: TypeAlias = Callable[[Arrays], "str | None"]  # why an answer is refused, or None
COMMON = ("center", "scale", "windows")  # what every update carries beside the family's arrays
LONGEST = 200  # characters of a device's complaint that are passed on


@dataclass
class Answers:
    """What a message round brought.

    Attributes:
        arrays: device -> admitted answer.
        refused: device -> why it was left out.
        missing: devices that did not answer in time.
        gated: how many of the refused sent an answer that is not one (the others said that they failed).
        asked: how many devices were.
        nodes: device -> node id of all that answered.
        seconds: how long it took.
    """

    arrays: dict[str, Arrays] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    gated: int = 0
    asked: int = 0
    nodes: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    def refuse(self, name: str, why: str) -> None:
        """Leave out an answer that was admitted before."""
        self.refused[name] = why
        self.gated += 1
        del self.arrays[name]

    def take(self, name: str, node: int, reply: Message, read: Callable[[Arrays], Arrays], check: Check) -> None:
        """Admit or refuse one answer: read what travelled, then look at what it says."""
        told = complaint(reply)
        found: Arrays = {}
        if told is None:
            try:
                found = read(arrays_of(reply))
                told = check(found)
            except AggregationError as error:
                told = str(error)
            self.gated += told is not None
        self.nodes[name] = node
        if told is None:
            self.arrays[name] = found
        else:
            self.refused[name] = told[:LONGEST]


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
        arrays: Mapping[str, NDArray[np.generic]] | Callable[[int], Mapping[str, NDArray[np.generic]]],
        config: Mapping[str, str | int],
        check: Check,
        *,
        read: Callable[[Arrays], Arrays] = lambda told: told,
        nodes: Sequence[int] | None = None,
        quorum: int | None = None,
    ) -> Answers:
        """Send one message to devices and wait for the answers, at most `timeout_s`.

        Args:
            what: for messages to people ("round 3").
            kind: Flower's message type.
            arrays: down, the same for all or by node.
            config: down.
            check: why an answer is refused, or None.
            read: what travelled -> what `check` sees and `Answers` holds; raises AggregationError to refuse.
            nodes: whom to ask; all.
            quorum: answers needed; `min_clients`.

        Raises:
            AggregationError: fewer than the quorum remain; names who is missing and why.
            DataError: `strict`, and one device failed.
        """
        timeout_s = self.plan.timeout_s
        nodes = sorted(self.grid.get_node_ids() if nodes is None else nodes)
        if callable(arrays):
            contents = [question(arrays(node), config) for node in nodes]
        else:
            contents = [question(arrays, config)] * len(nodes)
        messages = [
            Message(content, node, kind, ttl=timeout_s + 60.0, group_id=what)
            for content, node in zip(contents, nodes, strict=True)
        ]
        began = time.monotonic()
        if self.events is not None:
            self.events.say("asked", number=int(config.get("round", 0)), phase=what, figures={"devices": len(nodes)})
        replies = list(self.grid.send_and_receive(messages, timeout=timeout_s))
        answers = Answers(seconds=time.monotonic() - began, asked=len(nodes))
        for reply in replies:
            node = asked_of(reply, messages)
            name = self.name_of(node)
            if name not in answers.nodes:  # one voice a device
                answers.take(name, node, reply, read, check)
        answers.missing = [self.name_of(node) for node in nodes if self.name_of(node) not in answers.nodes]
        if self.events is not None:
            self.events.answers(what, answers, int(config.get("round", 0)))
        self.require(what, answers, quorum)
        return answers

    def sample(self, what: str, least: int = 1) -> list[int]:
        """The plan's fraction of the devices, drawn anew for every `what`; the same again when a run is resumed."""
        nodes = sorted(self.grid.get_node_ids())
        count = min(len(nodes), max(math.ceil(self.plan.fraction * len(nodes)), self.plan.min_clients, least))
        drawn = np.random.default_rng(zlib.crc32(f"{self.plan.seed}/{what}".encode())).permutation(len(nodes))[:count]
        return [nodes[number] for number in sorted(drawn)]

    def judges(self) -> list[int]:
        """Whom an evaluation asks: the plan's fraction, at most `evaluators` of them; the same when a run is resumed."""
        nodes = self.sample("evaluation")
        count = max(self.plan.evaluators, self.plan.min_clients)
        drawn = np.random.default_rng(zlib.crc32(f"{self.plan.seed}/judges".encode())).permutation(len(nodes))[:count]
        return [nodes[number] for number in sorted(drawn)]

    def require(self, what: str, answers: Answers, quorum: int | None = None) -> None:
        """Enough answers.

        Raises:
            AggregationError: fewer than the quorum; names who is missing and why.
            DataError: `strict`, and one device failed.
        """
        if self.plan.strict and answers.refused:
            raise DataError(next(iter(answers.refused.values())))
        needed = max(self.plan.min_clients if quorum is None else quorum, 1)
        if len(answers.arrays) >= needed:
            return
        reasons = [f"{name}: {why}" for name, why in sorted(answers.refused.items())]
        reasons += [f"{name}: no answer in {self.plan.timeout_s:g} s" for name in answers.missing]
        shown = "; ".join(reasons[:3]) + (f"; and {len(reasons) - 3} more" if len(reasons) > 3 else "")
        raise AggregationError(
            f"{what}: answers of at least {needed} devices expected, "
            f"{len(answers.arrays)} of {answers.asked} can be used" + (f" ({shown})" if shown else "")
        )


def complaint(reply: Message) -> str | None:
    """What a device that failed says, or None."""
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


def update_shapes(family: Family, plan: Plan, d: int, channels: int = 0) -> dict[str, Shape]:
    """What a device's answer to `train` must look like."""
    return {
        **family.shapes(plan, d),
        "center": gate.Shape((d + channels,)),
        "scale": gate.Shape((d + channels,)),
        "windows": gate.Shape((1,), "i"),
    }


def update_fault(family: Family, plan: Plan, d: int, update: Arrays, channels: int = 0) -> str | None:
    """Why one update is refused, or None; `channels`: C of `temporal` features."""
    told = gate.fault(update, update_shapes(family, plan, d, channels)) or gate.windows_fault(int(update["windows"][0]))
    if told is None and not (update["scale"] > 0).all():
        told = "scale: positive numbers expected, others came"
    return told or family.fault(own_part(update))


def own_part(update: Arrays) -> Arrays:
    """The family's arrays of an update."""
    return {name: values for name, values in update.items() if name not in COMMON}


def gate_together(
    family: Family, plan: Plan, answers: Answers, shorten: Callable[[list[Arrays]], list[Arrays]]
) -> None:
    """Refuse updates that differ too much from the others: by norm, then by distance and direction; they move to `answers.refused`.

    Args:
        family: knows the norm.
        plan: whether distances are looked at, and how far is far.
        answers: of a round.
        shorten: what the rule will be given of updates.
    """
    names = sorted(answers.arrays)
    norms = [family.norm(own_part(answers.arrays[name])) for name in names]
    _refuse(answers, names, gate.norm_faults(norms))
    if plan.far == "none":
        return
    names = sorted(answers.arrays)
    updates = [own_part(answers.arrays[name]) for name in names]
    if plan.rule == "sum":
        compared, ratio = [{"within": update["within"]} for update in updates], gate.FAR_SUM
    else:
        compared, ratio = shorten(updates), gate.FAR_STEP
    faults = gate.far_faults(compared, ratio if plan.far == "auto" else float(plan.far))
    if plan.rule != "sum":
        faults = [far or away for far, away in zip(faults, gate.away_faults(compared), strict=True)]
    _refuse(answers, names, faults)


def _refuse(answers: Answers, names: list[str], faults: Sequence[str | None]) -> None:
    for name, told in zip(names, faults, strict=True):
        if told is not None:
            answers.refuse(name, told)
