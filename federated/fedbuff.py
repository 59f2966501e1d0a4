"""FedBuff: devices learn as they become free, and every `buffer` updates are one round. For devices that come and go.

Nobody waits for the slowest: an update that was begun `tau` rounds ago counts 1 / sqrt(1 + tau). A device has one voice in
a buffer, so that a fast one cannot fill it. A round closes with fewer updates, but no fewer than the quorum, when none came for
`timeout_s`. Works with any Flower Grid by its push_messages and pull_messages; what was under way when a run is killed
is asked again when it goes on, so that a resumed run is another run, unlike those of all other rules.

Source: Nguyen et al., AISTATS 2022, algorithm 1; Flower has no class for it.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from flwr.app import Message

from covey.errors import AggregationError
from federated import gate, rules
from federated.compress import LOSSY, squeeze
from federated.families.defaults import pool_affine
from federated.records import question
from federated.rounds import begin, config, reader, windows_of
from federated.strategy import Answers, gate_together, own_part, update_fault

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from federated.gate import Arrays
    from federated.rounds import Course

POLL_S = 0.2  # between looks at a Grid that had no answer


@dataclass
class Buffer:
    """What a round has so far.

    Attributes:
        answers: admitted updates, refusals, devices that took too long.
        stale: device -> rounds that ended while it learned.
        moved_s: when something last came, monotonic.
        began_s: when the round began, monotonic.
    """

    answers: Answers = field(default_factory=Answers)
    stale: dict[str, int] = field(default_factory=dict)
    moved_s: float = field(default_factory=time.monotonic)
    began_s: float = field(default_factory=time.monotonic)


@dataclass(frozen=True)
class _Asked:
    node: int
    number: int
    due_s: float


def staleness_weight(stale: int) -> float:
    """1 / sqrt(1 + tau)."""
    return 1.0 / math.sqrt(1.0 + stale)


def buffered_step(steps: Sequence[Arrays], stale: Sequence[int]) -> Arrays:
    """Sum of the updates by their weights over their number: old ones do not only count less, they also move less."""
    weights = np.array([staleness_weight(tau) for tau in stale])
    return {name: np.tensordot(weights, [step[name] for step in steps], axes=1) / len(steps) for name in steps[0]}


def play_buffered(course: Course) -> None:
    """All rounds that are left.

    Raises:
        AggregationError: too few updates came in time.
    """
    plan = course.plan
    pending: dict[str, _Asked] = {}  # by message id
    while len(course.rounds) < plan.rounds:
        course.traffic.mark()
        buffer = Buffer()
        while not _full(course, buffer, pending):
            _ask(course, buffer, pending)
            _hear(course, buffer, pending)
        _close(course, buffer)


def _full(course: Course, buffer: Buffer, pending: dict[str, _Asked]) -> bool:
    answers, plan = buffer.answers, course.plan
    if len(answers.arrays) >= plan.server.buffer:
        return True
    voices = {course.crew.name_of(node) for node in course.crew.grid.get_node_ids()} - answers.refused.keys()
    more = pending or voices - answers.arrays.keys() - set(answers.missing)
    if more and time.monotonic() - buffer.moved_s < plan.timeout_s:
        return False
    answers.asked = len(answers.arrays) + len(answers.refused) + len(answers.missing)
    course.crew.require(f"round {len(course.rounds) + 1}", answers)
    return True


def _ask(course: Course, buffer: Buffer, pending: dict[str, _Asked]) -> None:
    """Messages to all that are free and have no voice in this buffer yet, as far as the plan lets them learn at once."""
    plan, crew, answers = course.plan, course.crew, buffer.answers
    number = len(course.rounds) + 1
    away = {asked.node for asked in pending.values()}
    said = answers.arrays.keys() | answers.refused.keys() | set(answers.missing)
    free = [node for node in sorted(crew.grid.get_node_ids()) if node not in away and crew.name_of(node) not in said]
    free = free[: max(0, (plan.server.busy or len(free) + len(away)) - len(away))]
    if not free:
        return
    how = "float16" if plan.compress in LOSSY else plan.compress  # whole: devices hold views of different rounds
    content = question(squeeze(course.family.down(begin(course)), how, 1.0), config(course, number))
    messages = [Message(content, node, "train", ttl=plan.timeout_s, group_id=f"round {number}") for node in free]
    due_s = time.monotonic() + plan.timeout_s
    for node, name in zip(free, crew.grid.push_messages(messages), strict=True):
        pending[name] = _Asked(node, number, due_s)


def _hear(course: Course, buffer: Buffer, pending: dict[str, _Asked]) -> None:
    replies: Iterable[Message] = list(course.crew.grid.pull_messages(list(pending)))
    read = reader(course)
    for reply in replies:
        asked = pending.pop(reply.metadata.reply_to_message_id, None)
        if asked is None:
            continue
        name = course.crew.name_of(asked.node)
        if name in buffer.answers.arrays:
            continue
        buffer.answers.take(
            name,
            asked.node,
            reply,
            read,
            lambda update: update_fault(course.family, course.plan, course.d, update, course.channels),
        )
        buffer.stale[name] = len(course.rounds) + 1 - asked.number
        buffer.moved_s = time.monotonic()
    for name in [name for name, asked in pending.items() if time.monotonic() > asked.due_s]:
        buffer.answers.missing.append(course.crew.name_of(pending.pop(name).node))
    if not replies and pending:
        time.sleep(POLL_S)


def _close(course: Course, buffer: Buffer) -> None:
    answers, plan = buffer.answers, course.plan
    gate_together(course.family, plan, answers, lambda updates: rules.bounded_steps(plan, updates))
    names = sorted(answers.arrays)
    if not names:
        raise AggregationError(
            f"round {len(course.rounds) + 1}: at least one update that passes the gate expected, none did"
        )
    answers.asked = len(names) + len(answers.refused) + len(answers.missing)
    course.crew.require(f"round {len(course.rounds) + 1}", answers, min(plan.min_clients, plan.server.buffer))
    answers.seconds = time.monotonic() - buffer.began_s
    updates = [answers.arrays[name] for name in names]
    steps = rules.bounded_steps(plan, [own_part(update) for update in updates])
    step = buffered_step(steps, [buffer.stale[name] for name in names])
    weights = course.family.down(begin(course))
    merged = {**rules.moved(weights, step, plan.server.rate or 1.0), **pool_affine(updates)}
    gate.require_finite(merged)
    course.save(merged, answers, sum(windows_of(updates)), stale=buffer.stale)
