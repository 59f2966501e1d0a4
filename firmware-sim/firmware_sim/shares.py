"""Who is meant by a share of the devices: numbered in order, so that adding devices changes nothing for the others.

Drawing every device by itself would give 10 devices of a 10 % share none or three of them. Instead a sequence is dealt out in
which every beginning holds the shares to less than one device, and each ten devices of it are shuffled, so that two kinds of
shares (links and faults, say) do not fall on the same devices. After 10, 20, 30, ... devices a share is exact to less than one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

BLOCK = 10  # devices shuffled among themselves


def deal(shares: Sequence[float], count: int, stream: Sequence[int]) -> NDArray[np.int64]:
    """Which share each of the first `count` devices falls in: an index, or `len(shares)` for what is left of 1.

    Args:
        shares: each in [0, 1], together at most 1.
        count: devices.
        stream: seed of the shuffling; different for each question that is asked.

    Source: R. Tijdeman, The chairman assignment problem, Discrete Mathematics 32 (1980): with k shares, every beginning of
    his sequence is off by at most 1 - 1/(2k - 2) of each.
    """
    parts = [*shares, max(0.0, 1.0 - sum(shares))]
    live = [i for i, part in enumerate(parts) if part > 1e-12]
    blocks = -(-count // BLOCK)
    rng = np.random.default_rng(list(stream))
    order = np.argsort(rng.random((blocks, BLOCK)), axis=1) + BLOCK * np.arange(blocks)[:, None]
    dealt = np.full(blocks * BLOCK, live[0], dtype=np.int64)
    if len(live) > 1:
        dealt[:] = _chairmen([parts[i] for i in live], live, blocks * BLOCK)
    whose: NDArray[np.int64] = dealt[order.ravel()][:count]
    return whose


def _chairmen(parts: list[float], names: list[int], count: int) -> list[int]:
    spare = 1.0 - 1.0 / (2 * len(parts) - 2)
    had = [0] * len(parts)
    dealt = []
    for n in range(1, count + 1):
        best, soonest = -1, np.inf
        for i, part in enumerate(parts):
            owed = part * n - had[i]
            if owed >= 1.0 - spare - 1e-9:  # may come now without coming too early
                latest = (spare - owed) / part  # turns until it comes too late
                if latest < soonest:
                    best, soonest = i, latest
        had[best] += 1
        dealt.append(names[best])
    return dealt
