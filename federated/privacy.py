"""Differential privacy of the weights, per device: Flower's wrappers add the noise, Flower's accountant (dp-accounting) counts.

Neighbouring fleets differ by one device that is there or is not. A device's update is shortened to `clip`; Gaussian noise of
`noise * clip` is on their sum, which is divided by the number of devices *expected*, so that the divisor tells nothing.
With `fraction` below 1 each device is drawn by itself (Poisson), by the system's randomness: a seed in the plan would be
known to the devices, and the gain from sampling rests on its secrecy. That is why a private run is not repeatable.

Not covered, and said in the report: which devices answered, the group's center and scale, int8 ranges, and the figures and score
sketches of federated evaluation. Those are statistics of devices' windows without noise.

Sources: Abadi et al., CCS 2016; McMahan et al., ICLR 2018 (fixed divisor); Mironov et al., arXiv 1908.10530 (RDP, sampled).
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import numpy as np

from covey.errors import AggregationError, UsageError
from federated.gate import Arrays, length, shortened

if TYPE_CHECKING:
    from collections.abc import Sequence

    from federated.config import Plan, PrivacyOptions

_WHOLE = 1_000_000  # the accountant takes the probability of being drawn as a ratio of two counts
_ROUNDING = 1e-6  # float32 may lengthen what was cut to `clip`
LEFT_OUT = "epsilon is of the weights alone: center, scale, int8 ranges and evaluation figures are not covered"


class Budget:
    """What a run has spent and may still spend."""

    def __init__(self, plan: Plan, options: PrivacyOptions, rounds: int) -> None:
        """Args: rounds: already released, of a run that goes on.

        Raises:
            UsageError: dp-accounting is missing.
        """
        from flwr.supercore.privacy_accounting import (
            GaussianPrivacyEvent,
            NeighboringRelation,
            PrivacyConfig,
            SamplingMethod,
        )
        from flwr.supercore.privacy_accounting.rdp_accountant import RdpAccountant

        sampling = SamplingMethod.POISSON if plan.fraction < 1 else SamplingMethod.NO_AMPLIFICATION
        config = PrivacyConfig(options.delta, _WHOLE, NeighboringRelation.ADD_OR_REMOVE_ONE, sampling, options.epsilon)
        try:
            self._accountant = RdpAccountant(config)
        except ImportError as error:
            raise UsageError(
                "privacy: dp-accounting expected, not installed: pip install 'covey[federated]'"
            ) from error
        self._event = GaussianPrivacyEvent(options.noise, max(1, round(plan.fraction * _WHOLE)), _WHOLE)
        self._options = options
        if rounds:
            self._accountant.compose(self._event, rounds)

    @property
    def epsilon(self) -> float:
        """Spent so far."""
        return self._accountant.get_privacy_spent().epsilon if self._accountant.num_releases else 0.0

    def allows(self) -> bool:
        """Whether one more round stays within the budget."""
        return not self._accountant.would_exceed(self._event)

    def spend(self) -> float:
        """One round was released; what is spent now."""
        self._accountant.compose(self._event)
        return self.epsilon


def drawn(nodes: Sequence[int], fraction: float) -> list[int]:
    """Each node by itself with probability `fraction`."""
    if fraction >= 1:
        return list(nodes)
    system = secrets.SystemRandom()
    return [node for node in nodes if system.random() < fraction]


def bounded(update: Arrays, clip: float) -> Arrays:
    """An update on the device, shortened to `clip`, float32."""
    cut = shortened(update, length(update), clip * (1 - _ROUNDING))
    return {name: values.astype(np.float32) for name, values in cut.items()}


def fault(options: PrivacyOptions, update: Arrays) -> str | None:
    """Why one update cannot be part of a private sum, whatever the others are; None otherwise."""
    norm = length(update)
    if not norm > 0:
        return "an update that is not zero expected, nothing was learned"
    if options.side == "client" and norm > options.clip * (1 + _ROUNDING):
        return f"norm of at most {options.clip:g} expected of a device that clips, {norm:.6g} came"
    return None


def average(plan: Plan, options: PrivacyOptions, number: int, steps: Sequence[Arrays], devices: int) -> Arrays:
    """The noisy step of the weights.

    Args:
        plan: rule and fraction.
        options: noise, clip, side.
        number: of the round.
        steps: one a device.
        devices: that could have been drawn.

    Raises:
        AggregationError: no update.
    """
    from flwr.app import Array, ArrayRecord
    from flwr.serverapp import strategy as flower

    from federated.rules import by_flower, strategy_of

    if not steps:
        raise AggregationError("privacy: at least one update expected, none came")
    zeros = ArrayRecord({name: Array(np.zeros_like(values, np.float64)) for name, values in sorted(steps[0].items())})
    inner = strategy_of(plan, len(steps), 0)
    # Flower draws from NumPy's global generator: nobody's earlier seed may make the noise known.
    np.random.seed([secrets.randbits(32) for _ in range(16)])  # noqa: NPY002
    wide = [{name: values.astype(np.float64) for name, values in step.items()} for step in steps]
    rule: flower.Strategy
    if options.side == "server":
        server = flower.DifferentialPrivacyServerSideFixedClipping(inner, options.noise, options.clip, len(steps))
        server.current_arrays = zeros
        rule = server
    else:
        rule = flower.DifferentialPrivacyClientSideFixedClipping(inner, options.noise, options.clip, len(steps))
    noisy = by_flower(rule, number, wide, [1.0] * len(steps))
    expected = plan.fraction * devices
    return {name: values * (len(steps) / expected) for name, values in noisy.items()}
