"""How often something may be tried: token buckets by name, address or session, in bounded memory. Pure: time is an argument."""

from __future__ import annotations

import ipaddress
import threading
from collections import OrderedDict


def take(tokens: float, then_s: float, now_s: float, burst: int, window_s: float) -> tuple[float, float]:
    """Take one token of a bucket that had `tokens` at `then_s` and gets `burst` back over `window_s`.

    Returns:
        Tokens left, and 0; or tokens there are, and how many seconds until there is a whole one (then none is taken).
    """
    rate = burst / window_s
    now = min(float(burst), tokens + max(0.0, now_s - then_s) * rate)
    return (now - 1.0, 0.0) if now >= 1.0 else (now, (1.0 - now) / rate)


class Limit:
    """At most `burst` at once and `burst` again over each `window_s`, a key.

    Of more than `keys` keys the one used longest ago is forgotten: by then it mostly has its tokens back.
    """

    def __init__(self, burst: int, window_s: float, keys: int = 10_000) -> None:
        self._burst, self._window_s, self._keys = burst, window_s, keys
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # key -> tokens, when that was
        self._lock = threading.Lock()

    def wait_s(self, key: str, now_s: float) -> float:
        """Take one token: 0, or how many seconds until there is one (then none is taken).

        Args:
            key: who or what is limited.
            now_s: of a clock that only grows.
        """
        with self._lock:
            tokens, then_s = self._left.get(key, (float(self._burst), now_s))
            left, wait_s = take(tokens, then_s, now_s, self._burst, self._window_s)
            self._left[key] = (left, now_s)
            self._left.move_to_end(key)
            while len(self._left) > self._keys:
                self._left.popitem(last=False)
            return wait_s

    def forgive(self, key: str) -> None:
        """Give a key all its tokens back."""
        with self._lock:
            self._left.pop(key, None)


def network(address: str) -> str:
    """Whom an address stands for: itself, or of IPv6 the /64 that one household has."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address[:64]
    if parsed.version == 6:
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)
