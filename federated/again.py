"""A run that ended or was killed, taken up again for a bundle: which rounds are whole, and which plan they belong to.

Works on a copy of the rounds: what is in the run's folder stays as it was left.
"""

from __future__ import annotations

import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from covey.bundle import sha256
from covey.errors import DataError, UsageError
from covey.runtime import write_whole
from federated.checkpoint import BUNDLE, Checkpoints
from federated.config import Plan
from federated.training import read_report

if TYPE_CHECKING:
    from collections.abc import Iterator


class Begun(NamedTuple):
    """Whole rounds of a run."""

    folder: Path
    rounds: int

    @contextmanager
    def copied(self) -> Iterator[Path]:
        """A folder with the plan and these rounds, for as long as it is needed."""
        with tempfile.TemporaryDirectory(prefix="covey-export-") as name:
            for part in ("plan.json", *(f"round-{number:04d}.npz" for number in range(1, self.rounds + 1))):
                shutil.copyfile(self.folder / part, Path(name) / part)
            yield Path(name)


def begun(folder: Path, number: int | None) -> Begun:
    """The run in a folder, up to a round (None: its last whole one).

    Raises:
        DataError: no run there, or a damaged file.
        UsageError: it has no such round.
    """
    there = len(Checkpoints(folder).rounds())
    if there == 0:
        raise UsageError(f"{folder}: at least one whole round expected, none there")
    if number is not None and number > there:
        raise UsageError(f"--round: 1 to {there} expected, {number} came")
    return Begun(folder, number or there)


def plan_of_run(folder: Path, rounds: int, min_clients: int, timeout_s: float) -> Plan:
    """The plan of a run, ending after some rounds.

    Raises:
        DataError: plan.json is damaged, or of another version of covey.
    """
    path = folder / "plan.json"
    try:
        told = msgspec.json.decode(path.read_bytes())["plan"]
        whole = told | {"rounds": rounds, "min_clients": min_clients, "timeout_s": timeout_s}
        return msgspec.convert(whole, Plan)
    except (OSError, msgspec.DecodeError, KeyError, TypeError) as error:
        raise DataError(f"{path}: the plan of a run expected: {error}") from error


def kept(folder: Path, run: Begun, out: Path) -> str | None:
    """Write out the bundle of a run that passed its gates after its last round; its digest, or None if there is none.

    Raises:
        UsageError: `out` cannot be written.
    """
    try:
        report = read_report(folder)
        content = (folder / BUNDLE).read_bytes()
    except (DataError, OSError):
        return None
    last = len(Checkpoints(folder).rounds())
    if not (report.rounds == run.rounds == last and sha256(content) == report.digest):
        return None
    try:
        write_whole(out, content)
    except OSError as error:
        raise UsageError(f"{out}: cannot be written: {error.strerror}") from error
    return report.digest
