"""Checkpoints of a training run: one file a round, written whole, and the plan they belong to.

A run that was killed goes on after its last whole round and ends with the same model as one that was not. A folder that
belongs to another plan, or to another initial bundle, is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from msgspec import Struct

from covey.errors import BundleError, DataError, UsageError
from covey.runtime import write_whole
from federated.families import pack_state, unpack_state

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from federated.config import Plan
    from federated.gate import Arrays

BUNDLE = "bundle.zip"  # of a run that passed its gates

_RECORD = "record"  # the array that holds a round's JSON


class Identity(Struct, frozen=True, forbid_unknown_fields=True):
    """plan.json: what the rounds of a folder have in common."""

    plan: Any  # the plan as plain JSON
    inputs: Any
    initial: str | None  # digest of the initial bundle


class Round(Struct, frozen=True, forbid_unknown_fields=True):
    """What one round was."""

    number: int  # from 1
    clients: int  # that answered and were admitted
    refused: dict[str, str]  # device -> why
    missing: list[str]  # devices that did not answer in time
    windows: int
    bytes_down: int  # model traffic of all devices
    bytes_up: int
    seconds: float
    epsilon: float | None = None  # of a private run, spent up to and with this round
    stale: dict[str, int] = {}  # fedbuff: device -> rounds that ended while it learned, where any did


class Checkpoints:
    """A folder of rounds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def begin(self, identity: Identity, *, resume: bool) -> tuple[Arrays | None, list[Round]]:
        """Open the folder for a run: the state after its last round (None: none yet), and its rounds.

        Raises:
            UsageError: it holds a run and `resume` is not asked for, or the run of another plan.
            DataError: a file in it is damaged.
        """
        path = self.folder / "plan.json"
        found = self._identity() if path.exists() else None
        if found is not None and not resume:
            raise UsageError(f"{self.folder}: an empty folder expected, it holds a run: give --resume to go on with it")
        if found is not None:
            wanted = msgspec.to_builtins(identity)
            other = [name for name, value in msgspec.to_builtins(found).items() if value != wanted[name]]
            if other:
                raise UsageError(f"{self.folder}: a run of the same plan expected, {', '.join(other)} differ")
            rounds = self.rounds()
            return (self._load(rounds[-1].number)[0], rounds) if rounds else (None, [])
        if resume:
            raise UsageError(f"{self.folder}: a run to go on with expected, no plan.json there")
        write_whole(path, msgspec.json.encode(identity))
        return None, []

    def save(self, state: Arrays, record: Round) -> None:
        """Write a round, whole."""
        text = np.frombuffer(msgspec.json.encode(record), np.uint8)
        write_whole(self._path(record.number), pack_state({**state, _RECORD: text}))

    def rounds(self) -> list[Round]:
        """Rounds 1, 2, ... as far as they go without a gap.

        Raises:
            DataError: no run in the folder, or a damaged file.
        """
        if not (self.folder / "plan.json").exists():
            raise DataError(f"{self.folder}: a training run expected, no plan.json there")
        found: list[Round] = []
        while self._path(len(found) + 1).exists():
            found.append(self._load(len(found) + 1)[1])
        return found

    def _path(self, number: int) -> Path:
        return self.folder / f"round-{number:04d}.npz"

    def _identity(self) -> Identity:
        path = self.folder / "plan.json"
        try:
            return msgspec.json.decode(path.read_bytes(), type=Identity)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: the plan of a run expected: {error}") from error

    def _load(self, number: int) -> tuple[Arrays, Round]:
        path = self._path(number)
        try:
            state = unpack_state(path.read_bytes(), str(path))
            record = msgspec.json.decode(state.pop(_RECORD).tobytes(), type=Round)
        except (OSError, BundleError, KeyError, msgspec.DecodeError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: a whole round expected: {error}") from error
        return state, record


def figures_of(record: Round, updates: Mapping[str, Arrays]) -> dict[str, float]:
    """A round in figures; `loss`, weighted by windows, where the family's updates tell one."""
    figures = {
        "clients": float(record.clients),
        "refused": float(len(record.refused)),
        "missing": float(len(record.missing)),
        "windows": float(record.windows),
        "bytes_down": float(record.bytes_down),
        "bytes_up": float(record.bytes_up),
        "seconds": record.seconds,
    }
    told = [
        (float(one["loss"].ravel()[0]), float(one["windows"].ravel()[0])) for one in updates.values() if "loss" in one
    ]
    weight = sum(windows for _, windows in told)
    if weight > 0:
        figures["loss"] = sum(loss * windows for loss, windows in told) / weight
    return figures


def identity_of(plan: Plan, inputs: Struct, initial: str | None) -> Identity:
    """What must be the same for a run to go on; rounds and time-outs may change."""
    told = msgspec.to_builtins(plan)
    for name in ("rounds", "timeout_s", "min_clients"):
        told.pop(name)
    # As JSON has it: what was written and what is compared must be of the same types.
    return msgspec.json.decode(msgspec.json.encode(Identity(told, msgspec.to_builtins(inputs), initial)), type=Identity)
