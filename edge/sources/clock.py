"""A sender's own clock on ours: the smallest delay seen is the link's, all above it is jitter. Pure.

Intervals stay the sender's to the bit, from one set of its clock to the next; only the label, what our clock showed, follows
the drift between the two. A clock that is set (a reboot) is told, never smoothed over; a single stamp that does not fit is no
time at all.

Source: the idea is NTP's minimum-delay filter (RFC 5905, section 10), with one way only.
"""

from __future__ import annotations

BACK_S = 1.0  # stamps out of order
AHEAD_S = 5.0  # nothing comes so long before it was sent
_AGREE = 5  # stamps in a row that do not fit: the clock was set
_BUCKET_S = 30.0  # the smallest delay is sought over one to two of these


class SenderClock:
    """Maps one sender's time stamps.

    Attributes:
        newest_s: newest stamp on our time; None before the first.
        sets: times that the sender's clock was set while we listened.
    """

    def __init__(self) -> None:
        self.newest_s: float | None = None
        self.sets = 0
        self._base_s = 0.0  # our time less the sender's, since its clock was set
        self._newest_stamp_s = 0.0
        self._before_s = self._now_s = 0.0  # smallest delay in the bucket before and in this one, less the first's
        self._bucket_end_s = float("-inf")  # until the first stamp
        self._odd = 0

    def stamp(self, sent_s: float, arrived_s: float) -> float | None:
        """Place one time stamp; `sets` grows where the clock was set just before it.

        Args:
            sent_s: by the sender's clock.
            arrived_s: by ours, monotonic.

        Returns:
            The time on ours, None for a stamp that does not fit.
        """
        mapped_s = sent_s + self._base_s
        delay_s = arrived_s - mapped_s
        if sent_s >= self._newest_stamp_s and self._now_s <= delay_s and arrived_s < self._bucket_end_s:
            # Almost every stamp: in order, and not the quickest of them.
            self._odd = 0
            self._newest_stamp_s, self.newest_s = sent_s, mapped_s
            return mapped_s
        return self._unusual(sent_s, arrived_s, delay_s)

    def _unusual(self, sent_s: float, arrived_s: float, delay_s: float) -> float | None:
        if self.newest_s is None:
            self._set(sent_s, arrived_s)
            return arrived_s
        if sent_s < self._newest_stamp_s - BACK_S or delay_s < self.delay_s - AHEAD_S:
            self._odd += 1
            if self._odd < _AGREE:
                return None
            self._set(sent_s, arrived_s)
            self.sets += 1
            return arrived_s
        self._odd = 0
        if arrived_s >= self._bucket_end_s:
            quiet = arrived_s >= self._bucket_end_s + _BUCKET_S
            self._before_s = delay_s if quiet else self._now_s
            self._now_s = delay_s
            self._bucket_end_s = arrived_s + _BUCKET_S
        elif delay_s < self._now_s:
            self._now_s = delay_s
        mapped_s = sent_s + self._base_s
        if sent_s > self._newest_stamp_s:
            self._newest_stamp_s, self.newest_s = sent_s, mapped_s
        return mapped_s

    @property
    def delay_s(self) -> float:
        """Smallest delay seen lately, less that of the first stamp: what is added to a mapped time to label it."""
        return min(self._before_s, self._now_s)

    def _set(self, sent_s: float, arrived_s: float) -> None:
        self._base_s = arrived_s - sent_s
        self._newest_stamp_s, self.newest_s = sent_s, arrived_s
        self._before_s = self._now_s = 0.0
        self._bucket_end_s = arrived_s + _BUCKET_S
        self._odd = 0
