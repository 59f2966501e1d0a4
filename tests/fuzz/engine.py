"""What every decoder must hold to, whatever it is given: a value or a CoveyError of one line, soon, and no file elsewhere.

make fuzz ARGS="-k mavlink"       COVEY_FUZZ_EXAMPLES examples of each decoder; `make test` takes few, always the same ones
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from covey.errors import CoveyError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

EXAMPLES = int(os.environ.get("COVEY_FUZZ_EXAMPLES", "0"))
SHORT = 40
MOST_CPU_S = 3.0  # of one example; the slowest honest one takes 0.1 s
_PLACES = ("/dev/null", "/dev/shm", "/dev/urandom")

# Few examples: the same ones in each run, so that a test's outcome is the code's and not the day's.
PROFILE = settings(
    max_examples=EXAMPLES or SHORT,
    derandomize=not EXAMPLES,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)


class Written:
    """Files opened for writing while `watching`, outside of the folder that is allowed."""

    def __init__(self) -> None:
        self._allowed = ""
        self.elsewhere: list[str] = []
        sys.addaudithook(self._see)  # cannot be taken back: it looks only while it watches

    @contextmanager
    def watching(self, folder: Path) -> Iterator[None]:
        """Only this folder may be written to."""
        self._allowed, self.elsewhere = os.path.realpath(folder), []
        try:
            yield
        finally:
            self._allowed = ""

    def _see(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._allowed or event not in _WRITES:
            return
        name = arguments[0]
        if event == "open" and (not isinstance(name, (str, bytes)) or not _for_writing(arguments)):
            return
        path = os.path.realpath(os.fsdecode(name)) if isinstance(name, (str, bytes, os.PathLike)) else ""
        if path and not path.startswith((self._allowed, *_PLACES)):
            self.elsewhere.append(f"{event} {path}")


_WRITES = {
    "open",
    "os.remove",
    "os.rename",
    "os.mkdir",
    "os.rmdir",
    "os.symlink",
    "os.truncate",
    "os.chmod",
    "subprocess.Popen",
}


def _for_writing(arguments: tuple[Any, ...]) -> bool:
    _, mode, flags = arguments
    if isinstance(mode, str):
        return any(letter in mode for letter in "wax+")
    return bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC))


def hold(decode: Callable[[Path, bytes], object], folder: Path, content: bytes, written: Written) -> object:
    """Run a decoder on some bytes; returns the value, or the CoveyError.

    Raises:
        AssertionError: what the decoder promises does not hold.
        Exception: it raised something else than a CoveyError.
    """
    began_s = time.process_time()
    outcome: object
    with written.watching(folder):
        try:
            outcome = decode(folder, content)
        except CoveyError as error:
            outcome = error
    took_s = time.process_time() - began_s
    assert took_s < MOST_CPU_S, f"{took_s:.1f} s of CPU for {len(content)} bytes"
    assert not written.elsewhere, written.elsewhere
    if isinstance(outcome, CoveyError):
        text = str(outcome)
        assert text, "an error that says nothing"
        assert "\n" not in text, f"an error of several lines: {text!r}"
        assert len(text) < 20_000, f"an error of {len(text)} characters"
    return outcome


# -- bytes that are nearly right ------------------------------------------------------------------------------------

_NUMBERS = (
    b"0",
    b"-1",
    b"1e999",
    b"NaN",
    b"99999999999999999999",
    b"-0.0",
    b"1e-320",
    b"true",
    b"null",
    b'""',
    b"[]",
    b"{}",
)
_EDGES = (
    b"\x00" * 4,
    b"\xff" * 4,
    b"\xff\xff\xff\x7f",
    b"\x00\x00\xc0\x7f",
    b"\x80",
    b"\xef\xbb\xbf",
    b"\r\n",
    b";",
    b",",
    b'"',
)


def spoil(content: bytes, rng: random.Random) -> bytes:
    """The same bytes with one to four things wrong."""
    out = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4))):
        at = rng.randrange(len(out) + 1)
        way = rng.randrange(8)
        if way == 0:
            del out[at:]
        elif way == 1 and out:
            out[at % len(out)] ^= 1 << rng.randrange(8)
        elif way == 2:
            del out[at : at + rng.randrange(1, 40)]
        elif way == 3:
            out[at:at] = rng.randbytes(rng.randrange(1, 40))
        elif way == 4:
            edge = rng.choice(_EDGES)
            out[at : at + len(edge)] = edge
        elif way == 5:
            begin = rng.randrange(len(out) + 1)
            out[at:at] = out[begin : begin + rng.randrange(1, 200)]  # said twice
        elif way == 6:
            out = _other_number(out, rng)
        else:
            out = _other_value(out, rng)
    return bytes(out)


def _other_number(out: bytearray, rng: random.Random) -> bytearray:
    digits = [at for at, byte in enumerate(out) if 48 <= byte <= 57]
    if digits:
        at = rng.choice(digits)
        end = at
        while end < len(out) and 48 <= out[end] <= 57:
            end += 1
        out[at:end] = rng.choice(_NUMBERS)
    return out


def _other_value(out: bytearray, rng: random.Random) -> bytearray:
    """Where it is JSON: another value, a key too many or too few somewhere in it."""
    try:
        value = json.loads(out.decode())
    except (ValueError, RecursionError):
        return out
    strange: list[Any] = [
        None,
        -1,
        2**70,
        1e308,
        "",
        "x" * 3000,
        "\ud800",
        [],
        {},
        [[]],
        [1] * 2000,
        "a\nb",
        "../..",
        True,
    ]
    spots: list[tuple[Any, Any]] = []
    waiting = [value]
    while waiting and len(spots) < 500:
        one = waiting.pop()
        keys = list(one) if isinstance(one, dict) else list(range(len(one))) if isinstance(one, list) else []
        spots += [(one, key) for key in keys]
        waiting += [one[key] for key in keys]
    if not spots:
        return bytearray(json.dumps(rng.choice(strange)).encode())
    owner, key = rng.choice(spots)
    way = rng.randrange(4)
    if way == 0:
        del owner[key]
    elif way == 1 and isinstance(owner, dict):
        owner[rng.choice(("x", "", "__class__", "format"))] = rng.choice(strange)
    elif way == 2 and isinstance(owner, list):
        owner += [owner[key]] * rng.choice((1, 300))
    else:
        owner[key] = rng.choice(strange)
    return bytearray(json.dumps(value).encode())


def nearly(seeds: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """Right content, spoilt in places; sometimes anything at all."""
    spoilt = st.builds(
        lambda content, seed: spoil(content, random.Random(seed)), st.sampled_from(list(seeds)), st.integers(0, 2**64)
    )
    return st.one_of(spoilt, spoilt, spoilt, spoilt, st.binary(max_size=400))
