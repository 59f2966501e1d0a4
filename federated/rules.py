"""The rules that merge admitted updates: Flower's own strategies, fed with what passed the gate; the arithmetic is theirs.

An update here is the change of the weights, in float64; so a rule that speaks of weights is given zeros as the current
ones, which changes no distance and no mean. What must be known before a rule may run (how many updates it needs, what is
admitted, how long an update may be) is decided here and in the gate; messages and time-outs are elsewhere.

Sources: McMahan et al., AISTATS 2017 (FedAvg); Li et al., MLSys 2020 (FedProx); Reddi et al., ICLR 2021 (FedAdam);
Yin et al., ICML 2018 (trimmed mean); Blanchard et al., NeurIPS 2017 (Krum, Multi-Krum); El Mhamdi et al., ICML 2018 (Bulyan).
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import strategy as flower

from covey.errors import AggregationError
from federated import gate
from federated.plans import fewest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from flwr.serverapp.strategy import FedAvg
    from numpy.typing import NDArray

    from federated.config import Plan
    from federated.gate import Arrays

WEIGHT = "num-examples"
MOMENTS = ("m", "v")  # of FedAdam, kept in the checkpointed state as m.w0, v.w0, ...
ADAM_RATE = 0.1  # Flower's default
BY_WEIGHT = ("trimmed", "fedavg", "fedprox")  # rules whose mean of a weight depends on no other weight


def hostile_of(plan: Plan, asked: int) -> int:
    """How many hostile devices among those asked the rule must bear: as planned, or a fifth, at least one."""
    if plan.rule not in {"krum", "multikrum", "bulyan"}:
        return 0
    return plan.server.hostile if plan.server.hostile is not None else max(1, asked // 5)


def bearable(plan: Plan, asked: int, admitted: int, refused: int) -> int:
    """Hostile updates that the rule still has to bear among the admitted ones.

    Those that the gate refused are hostile ones found; they are taken off only as far as the rule needs it.

    Args:
        plan: rule and number of hostile devices.
        asked: devices of the round.
        admitted: updates that passed the gate.
        refused: updates that did not.

    Raises:
        AggregationError: too few updates for the rule.
    """
    wanted = hostile_of(plan, asked)
    least = max(0, wanted - refused)
    for hostile in range(wanted, least - 1, -1):
        if admitted >= fewest(plan.rule, hostile):
            return hostile
    raise AggregationError(
        f"{plan.rule}: at least {fewest(plan.rule, least)} updates expected to bear {least} hostile ones, {admitted} can be used"
    )


def shares_kept(plan: Plan, steps: Sequence[Arrays]) -> list[float]:
    """What each update is multiplied with: cut as the plan says, to the median length of three or more, to a number, or not."""
    if plan.clip == "none" or (plan.clip == "median" and len(steps) < 3):
        return [1.0] * len(steps)
    norms = [gate.length(step) for step in steps]
    bound = float(np.median(norms)) if plan.clip == "median" else float(plan.clip)
    return [1.0 if norm <= bound else bound / norm for norm in norms]


def bounded_steps(plan: Plan, steps: Sequence[Arrays]) -> list[Arrays]:
    """Updates in float64, shortened as the plan says."""
    return _wide(steps, shares_kept(plan, steps), sorted(steps[0]) if steps else [])


def _wide(steps: Sequence[Arrays], shares: Sequence[float], names: Sequence[str]) -> list[Arrays]:
    return [
        {name: step[name].astype(np.float64) * share for name in names}
        for step, share in zip(steps, shares, strict=True)
    ]


def average(
    plan: Plan, number: int, steps: Sequence[Arrays], windows: Sequence[int], hostile: int, moments: Arrays
) -> tuple[Arrays, Arrays]:
    """One step of the weights from many.

    Args:
        plan: the rule and its options.
        number: of the round, from 1.
        steps: one dictionary a device, same names and shapes.
        windows: what each device learned from.
        hostile: how many updates may be hostile, as `bearable` says.
        moments: FedAdam's, as the round before returned them; empty at first.

    Returns:
        The step, and the moments for the next round.

    Raises:
        AggregationError: no update, or the rule gives none.
    """
    if not steps:
        raise AggregationError("round: at least one update expected, none came")
    weights = gate.bounded_weights(windows)
    rule = strategy_of(plan, len(steps), hostile)
    if isinstance(rule, flower.FedAdam):
        rule.current_arrays = {name: np.zeros_like(values, np.float64) for name, values in steps[0].items()}
        if moments:
            rule.m_t, rule.v_t = ({name: moments[f"{kind}.{name}"] for name in sorted(steps[0])} for kind in MOMENTS)
    shares, names = shares_kept(plan, steps), sorted(steps[0])
    step: Arrays = {}
    # What looks at each weight by itself is given one array at a time: memory for thousands of devices.
    for part in [[name] for name in names] if plan.rule in BY_WEIGHT else [names]:
        step |= by_flower(rule, number, _wide(steps, shares, part), weights)
    if isinstance(rule, flower.FedAdam):
        kept = zip(MOMENTS, (rule.m_t or {}, rule.v_t or {}), strict=True)
        moments = {f"{kind}.{name}": np.asarray(values) for kind, part in kept for name, values in part.items()}
    return step, moments


def strategy_of(plan: Plan, count: int, hostile: int) -> FedAvg:
    """Flower's strategy for so many updates; the plain mean for `fedbuff`, and for `trimmed` below three updates."""
    server = plan.server
    makers: dict[str, Callable[[], FedAvg]] = {
        "fedprox": lambda: flower.FedProx(proximal_mu=plan.dense.proximal),
        "fedadam": lambda: flower.FedAdam(
            eta=server.rate or ADAM_RATE, beta_1=server.beta_1, beta_2=server.beta_2, tau=server.tau
        ),
        "krum": lambda: flower.Krum(num_malicious_nodes=hostile),
        "multikrum": lambda: flower.MultiKrum(num_malicious_nodes=hostile, num_nodes_to_select=count - hostile),
        "bulyan": lambda: flower.Bulyan(num_malicious_nodes=hostile),
    }
    if count >= 3:  # two cannot tell which one lies
        makers["trimmed"] = lambda: flower.FedTrimmedAvg(beta=trimmed_share(plan.dense.trim, count))
    return makers.get(plan.rule, flower.FedAvg)()


def trimmed_share(trim: float, count: int) -> float:
    """Flower's `beta` that cuts at least one update from each end (none when `trim` is 0) and leaves one.

    Flower rounds beta times the count down: a quarter of an update more keeps that from falling short by rounding of floats.
    """
    cut = min(max(1, int(trim * count)), (count - 1) // 2) if trim else 0
    return (cut + 0.25) / count if cut else 0.0


def by_flower(rule: flower.Strategy, number: int, steps: Sequence[Arrays], weights: Sequence[float]) -> Arrays:
    """What a Flower strategy makes of updates.

    Raises:
        AggregationError: nothing, or something that is not finite.
    """
    with quiet():
        merged, _ = rule.aggregate_train(
            number, [reply(step, weight) for step, weight in zip(steps, weights, strict=True)]
        )
    if merged is None:
        raise AggregationError(f"{type(rule).__name__}: a step of {len(steps)} updates expected, none came")
    step: Arrays = {name: array.numpy() for name, array in merged.items()}
    if not all(np.isfinite(values).all() for values in step.values()):
        raise AggregationError(f"{type(rule).__name__}: finite numbers expected, others came")
    return step


def reply(step: Arrays, weight: float) -> Message:
    """An update as Flower's strategies expect one."""
    arrays = ArrayRecord({name: Array(np.asarray(values)) for name, values in sorted(step.items())})
    return Message(RecordDict({"arrays": arrays, "metrics": MetricRecord({WEIGHT: weight})}), 0, "train")


def moved(state: Arrays, step: Arrays, rate: float = 1.0) -> Arrays:
    """Weights after a step, float32."""
    return {name: (state[name] + rate * values).astype(np.float32) for name, values in sorted(step.items())}


def flat(arrays: Arrays) -> NDArray[np.float64]:
    """All values in the order of the sorted names."""
    return np.concatenate([arrays[name].astype(np.float64).ravel() for name in sorted(arrays)])


@contextmanager
def quiet() -> Iterator[None]:
    """Flower's strategies tell every call on stderr; our rounds are told by their records."""
    logger = logging.getLogger("flwr")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
