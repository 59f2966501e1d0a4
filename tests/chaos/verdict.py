"""What became of every event: the journal of chaos.devices against the lines of `covey cloud export`. Pure.

An event that was journalled but never reached the outbox's disk was never sent: the outbox gives its number to another one
after a restart. The journal shows that (`open` lines say what the file held), and such an event must not be in the store.

Made for millions of events: an event costs some 20 bytes here, and both inputs are read once, line by line.
"""

from __future__ import annotations

from array import array
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

SHOWN = 20  # identities in a report
_DIGEST_BYTES = 16  # of sha256's 32: no two events of a run agree in them by chance
_STORED, _GIVEN_UP = 1, 2


class Id(NamedTuple):
    """An event's identity."""

    device: str
    outbox: str
    seq: int

    def __str__(self) -> str:
        return f"{self.device}/{self.outbox}/{self.seq}"


class Rows:
    """The events of one outbox, by seq from 1 without gaps."""

    def __init__(self) -> None:
        self._digests = bytearray()
        self.windows = array("I")
        self.marks = bytearray()  # _STORED, _GIVEN_UP

    def __len__(self) -> int:
        return len(self.marks)

    def put(self, seq: int, sha256: str, windows: int) -> None:
        """The next event.

        Raises:
            ValueError: it is not the next one.
        """
        if seq != len(self) + 1:
            raise ValueError(f"seq {len(self) + 1} expected, {seq} received")
        self._digests += _digest(sha256)
        self.windows.append(windows)
        self.marks.append(0)

    def cut(self, last: int) -> None:
        """What lies above `last` was never on disk: its numbers are given again."""
        del self._digests[last * _DIGEST_BYTES :], self.windows[last:], self.marks[last:]

    def same(self, seq: int, sha256: str) -> bool:
        """Whether event `seq` was written with these bytes."""
        return self._digests[(seq - 1) * _DIGEST_BYTES : seq * _DIGEST_BYTES] == _digest(sha256)

    def give_up(self, first: int, last: int) -> None:
        """A range that was dropped, as far as it was written."""
        for at in range(first - 1, min(last, len(self))):
            self.marks[at] |= _GIVEN_UP


@dataclass
class Written:
    """What a journal says."""

    rows: dict[tuple[str, str], Rows] = field(default_factory=dict)

    def __len__(self) -> int:
        return sum(map(len, self.rows.values()))

    def given_up(self) -> int:
        """Events that were dropped for want of room."""
        return sum(len(rows.marks) - rows.marks.count(0) for rows in self.rows.values())


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

    def found(self, what: str, one: object) -> None:
        """Count one crime."""
        setattr(self, what, getattr(self, what) + 1)
        if len(self.bad) < SHOWN:
            self.bad.append(f"{what}: {one}")


def read_journal(lines: Iterable[str]) -> Written:
    """The events that reached the disk of their device, as far as a journal can know.

    Raises:
        ValueError: a line is none of ours.
    """
    written = Written()
    dropped: list[tuple[tuple[str, str], int, int]] = []
    for line in lines:
        what, device, outbox, *rest = line.split()
        rows = written.rows.setdefault((device, outbox), Rows())
        if what == "put":
            seq, sha256, windows = rest
            rows.put(int(seq), sha256, int(windows))
        elif what == "open":
            rows.cut(int(rest[0]))
        elif what == "dropped":
            dropped.append(((device, outbox), int(rest[0]), int(rest[1])))
        else:
            raise ValueError(f"put, open or dropped expected, {line!r} received")
    for key, first, last in dropped:
        written.rows[key].give_up(first, last)
    return written


def compare(
    written: Written, lines: Iterable[Mapping[str, object]], windows: Mapping[str, int], prefix: str
) -> Verdict:
    """The verdict; `written` is marked with what was stored and is of no use afterwards.

    Args:
        written: what the devices put on disk.
        lines: of the export; other devices' are left out.
        windows: device -> windows that the store says it has of it, summed by the store itself.
        prefix: of the names of the devices that `written` is about.
    """
    verdict = Verdict(len(written), 0)
    strangers: set[Id] = set()
    for line in lines:
        one = Id(str(line["device"]), str(line["outbox"]), int(str(line["seq"])))
        if not one.device.startswith(f"{prefix}-"):
            continue
        rows = written.rows.get((one.device, one.outbox))
        if rows is None or not 1 <= one.seq <= len(rows):
            verdict.found("double" if one in strangers else "unknown", one)
            strangers.add(one)
        elif rows.marks[one.seq - 1] & _STORED:
            verdict.found("double", one)
        else:
            rows.marks[one.seq - 1] |= _STORED
            verdict.stored += 1
            if not rows.same(one.seq, str(line["sha256"])):
                verdict.found("conflicting", one)
    verdict.stored += len(strangers)
    for one, gave_up in _missing(written):
        if gave_up:
            verdict.given_up += 1
        else:
            verdict.found("lost", one)
    sums: dict[str, int] = {}
    for (device, _), rows in written.rows.items():
        of_stored = [n for n, mark in zip(rows.windows, rows.marks, strict=True) if mark & _STORED]
        if of_stored:
            sums[device] = sums.get(device, 0) + sum(of_stored)
    for device, expected in sums.items():
        if windows.get(device) != expected:
            verdict.found("windows_off", f"{device}: {expected} windows stored, the store counts {windows.get(device)}")
    return verdict


def _missing(written: Written) -> Iterator[tuple[Id, bool]]:
    """What is not stored, and whether its device gave it up."""
    for (device, outbox), rows in written.rows.items():
        for at, mark in enumerate(rows.marks):
            if not mark & _STORED:
                yield Id(device, outbox, at + 1), bool(mark & _GIVEN_UP)


def _digest(sha256: str) -> bytes:
    return bytes.fromhex(sha256)[:_DIGEST_BYTES].ljust(_DIGEST_BYTES, b"\0")
