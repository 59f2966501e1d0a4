"""What became of every event: the journal of chaos.devices against the lines of `covey cloud export`. Pure.

An event that was journalled but never reached the outbox's disk was never sent: the outbox gives its number to another one
after a restart. The journal shows that (`open` lines say what the file held), and such an event must not be in the store.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SHOWN = 20  # identities in a report


class Id(NamedTuple):
    """An event's identity."""

    device: str
    outbox: str
    seq: int

    def __str__(self) -> str:
        return f"{self.device}/{self.outbox}/{self.seq}"


@dataclass
class Written:
    """What a journal says."""

    sha256: dict[Id, str] = field(default_factory=dict)
    windows: dict[Id, int] = field(default_factory=dict)
    given_up: set[Id] = field(default_factory=set)


@dataclass
class Verdict:
    """Counts, and the identities behind the bad ones."""

    written: int
    stored: int
    lost: int = 0
    given_up: int = 0  # dropped by the device for want of room, and told
    double: int = 0
    conflicting: int = 0
    unknown: int = 0
    windows_off: int = 0  # devices whose windows in the store are not those of their stored summaries
    bad: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return not (self.lost or self.double or self.conflicting or self.unknown or self.windows_off)

    def as_dict(self) -> dict[str, object]:
        return asdict(self) | {"good": self.good}


def read_journal(lines: Iterable[str]) -> Written:
    """The events that reached the disk of their device, as far as a journal can know.

    Raises:
        ValueError: a line is none of ours.
    """
    written = Written()
    for line in lines:
        what, device, outbox, *rest = line.split()
        if what == "put":
            seq, sha256, windows = rest
            one = Id(device, outbox, int(seq))
            written.sha256[one], written.windows[one] = sha256, int(windows)
        elif what == "open":
            last = int(rest[0])
            # What lies above was never on disk: its numbers are given again.
            void = [one for one in written.sha256 if one.device == device and one.outbox == outbox and one.seq > last]
            for one in void:
                del written.sha256[one], written.windows[one]
        elif what == "dropped":
            first, last = map(int, rest)
            written.given_up |= {Id(device, outbox, seq) for seq in range(first, last + 1)}
        else:
            raise ValueError(f"put, open or dropped expected, {line!r} received")
    return written


def compare(
    written: Written, lines: Iterable[Mapping[str, object]], windows: Mapping[str, int], prefix: str
) -> Verdict:
    """The verdict.

    Args:
        written: what the devices put on disk.
        lines: of the export; other devices' are left out.
        windows: device -> windows that the store says it has of it, summed by the store itself.
        prefix: of the names of the devices that `written` is about.
    """
    stored: dict[Id, str] = {}
    verdict = Verdict(len(written.sha256), 0)

    def bad(what: str, one: object) -> None:
        setattr(verdict, what, getattr(verdict, what) + 1)
        if len(verdict.bad) < SHOWN:
            verdict.bad.append(f"{what}: {one}")

    for line in lines:
        one = Id(str(line["device"]), str(line["outbox"]), int(str(line["seq"])))
        if not one.device.startswith(f"{prefix}-"):
            continue
        if one in stored:
            bad("double", one)
            continue
        stored[one] = str(line["sha256"])
        expected = written.sha256.get(one)
        if expected is None:
            bad("unknown", one)
        elif expected != stored[one]:
            bad("conflicting", one)
    for one in written.sha256:
        if one in stored:
            continue
        if one in written.given_up:
            verdict.given_up += 1
        else:
            bad("lost", one)
    verdict.stored = len(stored)
    sums: dict[str, int] = {}
    for one in stored:
        sums[one.device] = sums.get(one.device, 0) + written.windows.get(one, 0)
    for device, expected_windows in sums.items():
        if windows.get(device) != expected_windows:
            bad("windows_off", f"{device}: {expected_windows} windows stored, the store counts {windows.get(device)}")
    return verdict
