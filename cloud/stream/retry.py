"""When a delivery is tried again, and when it is given up. Pure, but for chance."""

from __future__ import annotations

import email.utils
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random

BASE_S = 2.0
CAP_S = 3600.0
GIVE_UP_S = 86_400.0  # after it was made
GONE = 410  # the receiver wants no more of it
BUSY = (429, 503)  # with Retry-After, perhaps
TAKEN = range(200, 300)


def next_try(now_s: float, made_s: float, tries: int, asked_s: float | None, rng: random.Random) -> float | None:
    """When to try again after the `tries`-th failure; None: not any more.

    Args:
        now_s: seconds since the epoch, like every time here.
        made_s: when the delivery was decided on.
        tries: at least 1.
        asked_s: what the receiver asked for (Retry-After), seconds from now; waited for whole, as long as that is in time.
        rng: jitter: uniform between half and all of the backoff, so that what failed together comes back apart.
    """
    top = min(CAP_S, BASE_S * 2.0 ** min(tries - 1, 30))
    wait_s = rng.uniform(top / 2, top)
    if asked_s is not None:
        wait_s = max(wait_s, asked_s)
    at_s = now_s + wait_s
    return at_s if at_s <= made_s + GIVE_UP_S else None


def retry_after(header: str | None, now_s: float) -> float | None:
    """Seconds from now that a Retry-After header asks for; None: none, or not readable.

    Source: RFC 9110, section 10.2.3.
    """
    if not header:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit():
        return float(min(int(text[:9]), 10**9))
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - now_s)
    except ValueError:
        return None
