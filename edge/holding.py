"""When a device is left alone: no release is fetched or swapped and nothing is trained in the air, on a low battery, or over a metered link.

Pure. What is not known (None) holds nothing up: a machine in a rack has no battery and is never armed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from edge.config import AgentConfig


class About(NamedTuple):
    """What is known of the device now."""

    armed: bool = False
    airborne: bool = False
    battery_v: float | None = None
    battery_share: float | None = None  # of a full one
    metered: bool = False  # and something is to come over the link


def held(about: About, config: AgentConfig) -> str:
    """Why it is left alone, in words; empty: it need not be. `update_anyway` in the configuration overrules."""
    reasons: list[tuple[str, str]] = []
    if about.armed or about.airborne:
        reasons.append(("armed", "armed" if about.armed else "in the air"))
    if about.battery_v is not None and about.battery_v < config.min_battery_v:
        reasons.append(("battery", f"battery {about.battery_v:.2f} V, below {config.min_battery_v:g} V"))
    if about.battery_share is not None and about.battery_share < config.min_battery_share:
        reasons.append(("battery", f"battery {about.battery_share:.0%}, below {config.min_battery_share:.0%}"))
    if about.metered:
        reasons.append(("metered", "metered link"))
    return next((words for key, words in reasons if key not in config.update_anyway), "")
