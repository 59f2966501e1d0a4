"""The server's part of a masked sum: four message rounds for each cohort, and one sum that it may look at.

A fleet is summed in cohorts of at most COHORT devices, because keys and shares go from each to each; the server learns a sum for
each cohort, never one of fewer than three devices. A cohort of whom too few stay is left out and named. The gate can look at
sums alone: finite and semidefinite are checked there, a norm cannot be; that is the price of not seeing a device's part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from covey.errors import AggregationError, DataError
from federated import gate, masking
from federated.gate import Arrays, Shape
from federated.masked_device import FEWEST
from federated.moments import from_words, layout_of
from federated.rounds import config
from federated.strategy import Answers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from federated.moments import Layout, Moments
    from federated.rounds import Course

COHORT = 32


@dataclass
class _Cohort:
    """Devices that are summed together, by their positions in the roster.

    Attributes:
        nodes: by position.
        keys: (n, 32) of `cipher` and of `pair`.
        threshold: devices that must stay.
    """

    nodes: list[int]
    keys: Arrays
    threshold: int


def sum_masked(course: Course, number: int, before: Arrays) -> None:
    """One masked round: sums of all cohorts, merged as one.

    Raises:
        AggregationError: too few devices for a sum, or a sum that is none.
    """
    from federated.families.pca import Pca
    from federated.families.pca_time import PcaOverTime

    crew, plan, family = course.crew, course.plan, course.family
    if not isinstance(family, Pca | PcaOverTime):
        raise AggregationError(f"masked: sums of family pca expected, {plan.family} came")
    answers = Answers()
    parts: list[NDArray[np.uint64]] = []
    nodes = crew.sample(f"round {number}", FEWEST)
    for cohort in cohorts(nodes):
        words = _sum(course, number, cohort, answers)
        if words is not None:
            parts.append(words)
    answers.asked = len(nodes)
    crew.require(f"round {number}", answers, max(plan.min_clients, FEWEST))
    total = np.add.reduce(parts, dtype=np.uint64)
    moments = from_words(total, _layout(course), len(answers.arrays))
    told = _fault(course, moments)
    if told is not None:
        raise AggregationError(f"masked sum of {moments.devices} devices: {told}; no device can be named")
    merged = family.merge_sums(plan, before, moments)
    state = {**merged, "center": moments.center, "scale": moments.scale}
    gate.require_finite(state)
    course.save(state, answers, moments.windows)


def _layout(course: Course) -> Layout:
    return layout_of(course.family.shapes(course.plan, course.d), course.d + course.channels)


def cohorts(nodes: Sequence[int]) -> list[list[int]]:
    """Groups of nearly one size, at most COHORT."""
    count = -(-len(nodes) // COHORT)
    return [list(nodes[part::count]) for part in range(count)]


def _fault(course: Course, moments: Moments) -> str | None:
    update = moments.as_update()
    return gate.fault(update, course.family.shapes(course.plan, course.d)) or course.family.fault(update)


def _sum(course: Course, number: int, nodes: list[int], all_answers: Answers) -> NDArray[np.uint64] | None:
    """A cohort's sum, or None; what became of its devices goes into `all_answers`."""
    name_of = course.crew.name_of
    try:
        cohort, left = _roster(course, number, nodes, all_answers)
        present, sealed = _share(course, number, cohort, left, all_answers)
        vectors = _vectors(course, number, cohort, present, sealed, all_answers)
        words = _open(course, number, cohort, present, vectors, all_answers)
        from_words(words, _layout(course), len(vectors))  # a wrong share spoils its cohort, not the others
    except (AggregationError, DataError) as error:
        if course.plan.strict:
            raise
        for node in nodes:
            name = name_of(node)
            if name not in all_answers.refused and name not in all_answers.missing:
                all_answers.refused[name] = f"its cohort was left out: {error}"[:200]
        return None
    for position in vectors:
        all_answers.arrays[name_of(cohort.nodes[position])] = {}
    return words


def _step(
    course: Course,
    number: int,
    kind: str,
    arrays: Arrays | Callable[[int], Arrays],
    shapes: dict[str, Shape],
    nodes: Sequence[int],
    extra: dict[str, int],
    all_answers: Answers,
    quorum: int,
) -> dict[int, Arrays]:
    """One message round of a cohort: node -> answer."""
    what = f"round {number}, {kind}"
    answers = course.crew.ask(
        what,
        kind,
        arrays,
        {**config(course, number), **extra},
        lambda told: gate.fault(told, shapes),
        nodes=nodes,
        quorum=quorum,
    )
    all_answers.refused.update(answers.refused)
    all_answers.missing += [name for name in answers.missing if name not in all_answers.missing]
    all_answers.seconds += answers.seconds
    return {answers.nodes[name]: answers.arrays[name] for name in answers.arrays}


def _roster(course: Course, number: int, nodes: list[int], all_answers: Answers) -> tuple[_Cohort, list[int]]:
    shapes = {"cipher": Shape((masking.KEY,), "u"), "pair": Shape((masking.KEY,), "u")}
    told = _step(course, number, "query.mask_keys", {}, shapes, nodes, {}, all_answers, FEWEST)
    there = sorted(told)
    keys = {name: np.stack([told[node][name] for node in there]) for name in shapes}
    return _Cohort(there, keys, masking.threshold_of(len(there))), there


def _share(
    course: Course, number: int, cohort: _Cohort, nodes: list[int], all_answers: Answers
) -> tuple[list[int], dict[int, NDArray[np.uint8]]]:
    """Positions that sent shares, and by position what each sealed for the others."""
    shapes = {"sealed": Shape((len(nodes), masking.SEALED), "u")}
    told = _step(
        course,
        number,
        "query.mask_shares",
        lambda node: {**cohort.keys, "position": np.array([cohort.nodes.index(node)], np.int64)},
        shapes,
        nodes,
        {"threshold": cohort.threshold},
        all_answers,
        cohort.threshold,
    )
    sealed = {cohort.nodes.index(node): answer["sealed"] for node, answer in told.items()}
    return sorted(sealed), sealed


def _vectors(
    course: Course,
    number: int,
    cohort: _Cohort,
    present: list[int],
    sealed: dict[int, NDArray[np.uint8]],
    all_answers: Answers,
) -> dict[int, NDArray[np.uint64]]:
    """Masked vectors by position, of those that did not drop out."""
    count = len(cohort.nodes)

    def letters(node: int) -> Arrays:
        to = cohort.nodes.index(node)
        box = np.zeros((count, masking.SEALED), np.uint8)
        for sender in present:
            box[sender] = sealed[sender][to]
        return {"sealed": box, "present": _flags(count, present)}

    shapes = {"masked": Shape((_layout(course).size,), "u")}
    nodes = [cohort.nodes[position] for position in present]
    told = _step(course, number, "train.mask_update", letters, shapes, nodes, {}, all_answers, cohort.threshold)
    return {cohort.nodes.index(node): answer["masked"].astype(np.uint64) for node, answer in told.items()}


def _open(
    course: Course,
    number: int,
    cohort: _Cohort,
    present: list[int],
    vectors: dict[int, NDArray[np.uint64]],
    all_answers: Answers,
) -> NDArray[np.uint64]:
    """The sum without its masks."""
    count, survivors = len(cohort.nodes), sorted(vectors)
    shapes = {"shares": Shape((count, masking.SEED), "u")}
    nodes = [cohort.nodes[position] for position in survivors]
    asked = {"survivors": _flags(count, survivors)}
    later = Answers()  # a survivor that is silent now is in the sum all the same
    told = _step(course, number, "query.mask_open", asked, shapes, nodes, {}, later, cohort.threshold)
    all_answers.seconds += later.seconds
    shares = {cohort.nodes.index(node): answer["shares"] for node, answer in told.items()}
    tag = f"{course.run}/{number}".encode()
    total: NDArray[np.uint64] = np.add.reduce(list(vectors.values()), dtype=np.uint64)
    pairs = [key.tobytes() for key in cohort.keys["pair"]]
    for position in present:
        seed = masking.join({holder: rows[position].tobytes() for holder, rows in shares.items()}, cohort.threshold)
        if position in vectors:
            total = total - masking.own_mask(seed, total.size, tag)
            continue
        key = masking.pair_key(seed)
        for other in survivors:  # what `other` added for the one that dropped out, by that one's key
            total = total + masking.pair_mask(key, pairs[other], (position, other), total.size, tag)
    return total


def _flags(count: int, members: Sequence[int]) -> NDArray[np.uint8]:
    flags = np.zeros(count, np.uint8)
    flags[list(members)] = 1
    return flags
