"""The rounds of a run: ask, gate, merge, checkpoint; once per round, whatever the family and the rule.

A round ends in one checkpoint, and the next begins from it alone: what a rule must remember (FedAdam's moments, the view
that devices hold of the weights, the run's token) is part of the checkpointed state, under names that no bundle carries.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from covey.errors import UsageError
from federated import gate, privacy, rules
from federated.checkpoint import Round, figures_of
from federated.compress import unsqueeze, wire_shapes
from federated.families.defaults import pool_affine
from federated.plans import fewest
from federated.strategy import COMMON, gate_together, own_part, update_fault
from federated.views import Views

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from flwr.serverapp import Grid

    from federated.checkpoint import Checkpoints
    from federated.config import Plan
    from federated.families import Family
    from federated.gate import Arrays
    from federated.strategy import Answers, Crew

_RUN = "run"  # token of a run, so that devices tell its rests and views from another's


class Traffic:
    """Serialised bytes of all messages, where the engine counts them."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._marked = (0, 0)

    @property
    def down(self) -> int:
        """To devices."""
        return int(getattr(self._grid, "bytes_down", 0))

    @property
    def up(self) -> int:
        """From devices."""
        return int(getattr(self._grid, "bytes_up", 0))

    def mark(self) -> None:
        """Count from here."""
        self._marked = (self.down, self.up)

    def since(self) -> tuple[int, int]:
        """Down and up since the mark."""
        return self.down - self._marked[0], self.up - self._marked[1]


@dataclass
class Course:
    """A run between its inputs and its last state.

    Attributes:
        crew: the devices.
        family: what is learned.
        plan: how.
        d: features.
        base: state before the first round.
        asked: what every message down says: plan and inputs.
        checkpoints: where rounds go.
        traffic: bytes.
        state: after the last round; None before the first.
        rounds: so far.
        failed: device -> why, of any phase.
        ended: why the run ended before its last round, if it did.
        channels: C of `temporal` features, whose own centers and scales devices tell; else 0.
        views: what devices hold of the weights, where they travel so.
    """

    crew: Crew
    family: Family
    plan: Plan
    d: int
    base: Arrays
    asked: dict[str, str]
    checkpoints: Checkpoints
    traffic: Traffic
    state: Arrays | None
    rounds: list[Round]
    failed: dict[str, str] = field(default_factory=dict)
    ended: str = ""
    channels: int = 0
    views: Views | None = None

    @property
    def run(self) -> int:
        """The run's token."""
        return int(self.state[_RUN][0]) if self.state is not None and _RUN in self.state else self._fresh

    def __post_init__(self) -> None:
        self._fresh = secrets.randbits(62)

    def save(
        self,
        state: Arrays,
        answers: Answers,
        windows: int,
        *,
        epsilon: float | None = None,
        stale: Mapping[str, int] | None = None,
    ) -> None:
        """End a round: checkpoint it and remember who failed."""
        self.failed.update(answers.refused)
        self.failed.update(dict.fromkeys(answers.missing, "no answer in time"))
        down, up = self.traffic.since()
        record = Round(
            len(self.rounds) + 1,
            len(answers.arrays),
            answers.refused,
            answers.missing,
            windows,
            down,
            up,
            round(answers.seconds, 3),
            epsilon,
            {name: rounds for name, rounds in (stale or {}).items() if rounds and name in answers.arrays},
        )
        self.state = {**state, _RUN: np.array([self.run], np.int64)}
        self.checkpoints.save(self.state, record)
        self.rounds.append(record)
        if self.crew.events is not None:
            self.crew.events.say("round", number=record.number, figures=figures_of(record, answers.arrays))


def play(course: Course) -> None:
    """All rounds that are left; `course.state` is the result.

    Raises:
        AggregationError: a quorum is missed.
        UsageError: no round can be run.
    """
    plan = course.plan
    if plan.rule == "fedbuff":
        from federated.fedbuff import play_buffered

        play_buffered(course)
    elif plan.masked:
        from federated.masked import sum_masked

        _repeat(course, sum_masked)
    elif plan.rule == "sum":
        _repeat(course, sum_round)
    else:
        _averages(course)
    if course.state is None:
        why = course.ended or "none was run"
        raise UsageError(f"{course.checkpoints.folder}: at least one round expected: {why}")


def _repeat(course: Course, one: Callable[[Course, int, Arrays], None]) -> None:
    while len(course.rounds) < course.plan.rounds:
        course.traffic.mark()
        one(course, len(course.rounds) + 1, begin(course))


def begin(course: Course) -> Arrays:
    """The state that a round starts from."""
    return course.base if course.family.one_shot or course.state is None else course.state


def config(course: Course, number: int) -> dict[str, str | int]:
    """What a message of a round says."""
    return {**course.asked, "round": number, "run": course.run}


def sum_round(course: Course, number: int, before: Arrays) -> None:
    """Exact sums: the family's own merge of everything that passed the gate."""
    crew, family, plan = course.crew, course.family, course.plan
    what = f"round {number}"
    answers = crew.ask(
        what,
        "train",
        family.down(before),
        config(course, number),
        lambda update: update_fault(family, plan, course.d, update, course.channels),
        nodes=crew.sample(what),
    )
    gate_together(family, plan, answers, list)
    crew.require(what, answers)
    updates = in_order(answers)
    windows = windows_of(updates)
    merged = family.merge(plan, before, [own_part(update) for update in updates], windows)
    course.save({**merged, **pool_affine(updates)}, answers, sum(windows))


def in_order(answers: Answers) -> list[Arrays]:
    """Updates by the devices' names, not by arrival: sums of floats must not depend on it."""
    return [answers.arrays[name] for name in sorted(answers.arrays)]


def windows_of(updates: list[Arrays]) -> list[int]:
    """How many windows are behind each update."""
    return [int(update["windows"][0]) for update in updates]


def reader(course: Course) -> Callable[[Arrays], Arrays]:
    """What travelled -> the change of the weights, center, scale, windows; raises AggregationError."""
    shapes = course.family.shapes(course.plan, course.d)
    how, keep = course.plan.compress, course.plan.keep
    expected = wire_shapes(shapes, how, keep).keys()

    def read(told: Arrays) -> Arrays:
        common = {name: told[name] for name in COMMON if name in told}
        wire = {name: told[name] for name in told if name in expected or name not in common}
        return {**unsqueeze(wire, shapes, how, keep), **common}

    return read


def _averages(course: Course) -> None:
    crew, family, plan = course.crew, course.family, course.plan
    options = plan.privacy
    budget = privacy.Budget(plan, options, len(course.rounds)) if options is not None else None
    read = reader(course)
    state = course.state if course.state is not None else {}
    views = course.views = Views(plan, state)
    moments = {name: values for name, values in state.items() if name[:2] in {"m.", "v."}}

    def check(update: Arrays) -> str | None:
        told = update_fault(family, plan, course.d, update, course.channels)
        return told or (privacy.fault(options, own_part(update)) if options is not None else None)

    while len(course.rounds) < plan.rounds:
        number = len(course.rounds) + 1
        what = f"round {number}"
        if budget is not None and not budget.allows():
            course.ended = f"epsilon {budget.epsilon:.3f} of {options.epsilon if options else 0:g} spent before {what}"
            return
        course.traffic.mark()
        before = begin(course)
        weights = family.down(before)
        views.next(weights)
        nodes = crew.sample(what, fewest(plan.rule, 1))
        if options is not None:
            nodes = privacy.drawn(sorted(crew.grid.get_node_ids()), plan.fraction)
        rules.bearable(plan, len(nodes), len(nodes), 0)  # refused before anybody works for it
        answers = crew.ask(what, "train", views.to, config(course, number), check, read=read, nodes=nodes)
        views.answered(answers.nodes[name] for name in answers.arrays)
        if options is None:  # compared with the others' norms, one device would decide on another's part
            gate_together(family, plan, answers, lambda updates: rules.bounded_steps(plan, updates))
        crew.require(what, answers)
        updates = in_order(answers)
        steps, windows = [own_part(update) for update in updates], windows_of(updates)
        epsilon = None
        if budget is not None and options is not None:
            step = privacy.average(plan, options, number, steps, len(list(crew.grid.get_node_ids())))
            epsilon = budget.spend()
        else:
            hostile = rules.bearable(plan, answers.asked, len(steps), answers.gated)
            step, moments = rules.average(plan, number, steps, windows, hostile, moments)
        merged = {**rules.moved(weights, step), **pool_affine(updates), **moments, **views.kept()}
        gate.require_finite(merged)
        course.save(merged, answers, sum(windows), epsilon=epsilon)
