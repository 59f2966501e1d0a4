"""Trials beside the loads x faults: each with a stack, a load and promises of its own."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from chaos import bad, badness, crowd, million, outage, plain

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from chaos.outcome import Outcome
    from chaos.rig import Rig

    Act = Callable[[Rig, Outcome, int, Callable[[str], None]], None]


@dataclass(frozen=True)
class Trial:
    """One trial.

    Attributes:
        name: as `--faults` selects it.
        load: what drives the stack.
        run: called with the rig, the row to fill, the seed and where to tell progress.
        layout: of the rig.
        long: asked for by an option of its own, whatever `--faults` says.
    """

    name: str
    load: str
    run: Act
    layout: dict[str, Any] = field(default_factory=dict)
    long: bool = False


def mappings() -> bool:
    """Whether this gateway bridges topics that are not covey's own."""
    return importlib.util.find_spec("gateway.mapping") is not None


def trials(options: argparse.Namespace) -> list[Trial]:
    """All of them, as large as the options say."""
    out = [
        Trial(
            "outage",
            "agents+plain",
            lambda rig, row, seed, say: outage.run(rig, row, seed, options.outage_s, say),
            {"gateway_toml": plain.MAPPING} if mappings() else {},
        ),
        Trial(
            "bad-messages",
            "agents+bad",
            lambda rig, row, seed, say: bad.run(rig, row, seed, options.bad, say),
            {"acl": badness.ACL, "gateway_toml": badness.GATEWAY_TOML},
        ),
        Trial("crowd", "crowd", lambda rig, row, _seed, say: crowd.run(rig, row, options.clients, 2, say)),
    ]
    if options.million:
        out.append(
            Trial(
                "million",
                "agents",
                lambda rig, row, seed, say: million.run(
                    rig,
                    row,
                    seed,
                    options.million,
                    options.million_kills,
                    say,
                    most_s=60.0 * options.million_minutes,
                ),
                long=True,
            )
        )
    return out
