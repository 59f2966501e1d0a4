"""What an export of the store says of a ledger's events: lines read in one pass, matched by identity and by bytes. Pure.

What is kept of the lines is a few numbers for each event of the ledger, however many lines there are.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
import numpy as np
from msgspec import Meta, Struct

from covey.errors import DataError
from covey.wire import Identity, Outbox, Seq, Text
from firmware_sim.ledger import MAX_SEQ, SEQ_BITS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from firmware_sim.facts import Facts

NAMED = 10  # identities told of each thing that is wrong
_CHUNK = 50_000


class Line(Struct, frozen=True):
    """One stored event, as docs/protocol.md has it under Export."""

    device: Text
    outbox: Outbox
    seq: Seq
    kind: Literal["summary", "alarm", "status"]
    time: Text
    sha256: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
    received_s: float


class Stored:
    """What the lines say of each event of the ledger."""

    def __init__(self, facts: Facts) -> None:
        n = len(facts.events.key)
        self.facts = facts
        self.index_of = {one.outbox: (i, one.name) for i, one in enumerate(facts.devices)}
        self.right = np.zeros(n, np.uint32)  # lines with the right bytes
        self.wrong = np.zeros(n, np.uint32)  # with others
        self.received_s = np.full(n, np.nan)  # of the first right line
        self.unknown_of = np.zeros(len(facts.devices), np.int64)
        self.unknown: list[str] = []
        self.lines = self.foreign = self.unknown_lines = 0

    def add(self, lines: Sequence[Line]) -> None:
        """Count one chunk of lines."""
        self.lines += len(lines)
        keys, own = [], []
        for line in lines:
            i, name = self.index_of.get(line.outbox, (-1, ""))
            if i < 0:
                self.foreign += 1
            elif name != line.device or line.seq > MAX_SEQ:
                self._unknown(i, line)
            else:
                keys.append(i << SEQ_BITS | line.seq)
                own.append(line)
        if not own:
            return
        events = self.facts.events
        key = np.array(keys, np.int64)
        at = np.searchsorted(events.key, key)
        known = at < len(events.key)
        known[known] = events.key[at[known]] == key[known]
        for n in np.flatnonzero(~known).tolist():
            self._unknown(keys[n] >> SEQ_BITS, own[n])
        digest = np.frombuffer(bytes.fromhex("".join(line.sha256 for line in own)), np.uint64).reshape(-1, 4)
        received_s = np.array([line.received_s for line in own])
        at, digest, received_s = at[known], digest[known], received_s[known]
        same = (events.sha256[at] == digest).all(axis=1)
        np.add.at(self.right, at[same], 1)
        np.add.at(self.wrong, at[~same], 1)
        np.fmin.at(self.received_s, at[same], received_s[same])

    def _unknown(self, i: int, line: Line) -> None:
        self.unknown_lines += 1
        self.unknown_of[i] += 1
        if len(self.unknown) < NAMED:
            self.unknown.append(str(Identity(line.device, line.outbox, line.seq)))


def read_lines(source: Iterable[bytes], name: str) -> Iterable[list[Line]]:
    """Decode an export, chunk by chunk; empty lines are passed over.

    Raises:
        DataError: a line is not JSON or not of an export; says which one of `name`.
    """
    decode = msgspec.json.Decoder(Line).decode
    numbered = enumerate(source, 1)
    while chunk := list(islice(numbered, _CHUNK)):
        lines, number = [], 0
        try:
            for number, line in chunk:  # noqa: B007  # the handler names it
                if not line.isspace():
                    lines.append(decode(line))  # a comprehension would not know the line's number
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            what = "a line of covey cloud export" if isinstance(error, msgspec.ValidationError) else "JSON"
            told = f"{error}"
            raise DataError(f"{name}: line {number}: {what} expected: {told[:1].lower()}{told[1:]}") from error
        yield lines
