"""What a radio link does to a device's TCP connection: rate, latency, jitter, loss and outages, as times. Pure.

It says when bytes that are pushed now come out at the other end. Nothing is ever dropped or reordered, for the device speaks
TCP: a lost packet is seen as the time until its retransmission arrives, and everything behind it waits. Time is an argument
(seconds of any clock that starts near zero), randomness comes from the seed: the same pushes come out at the same times.

The model, per direction:
* Serialisation: bytes leave one after the other at the rate; a push comes out when its last byte does.
* Latency is one way (half a ping); jitter is added, exponentially distributed, and never lets bytes overtake others.
* A packet (at most MSS bytes) is lost with probability `loss`. Three packets of the same push behind it bring a fast
  retransmission after one round trip (RFC 5681, 3.2); otherwise the retransmission time-out passes and doubles each time
  (RFC 6298, 5.5), and all that comes behind waits for it (5.1: one timer for the connection).
* In an outage every packet is lost, hence data flow again at the first retransmission after it, not at its very end.
It models no congestion window: what devices send (a kilobyte at a time) fits the initial one (RFC 6928).
"""

from __future__ import annotations

import math
from typing import Annotated

import msgspec

MSS = 1448  # bytes; 1500 less IPv4, TCP and its timestamps
RTO_MIN_S = 0.2  # Linux, TCP_RTO_MIN; RFC 6298 (2.4) recommends 1 s
RTO_MAX_S = 120.0  # Linux, TCP_RTO_MAX; RFC 6298 (2.5) allows any bound >= 60 s
SYN_RTO_S = 1.0  # RFC 6298, 2.1
FAST_RETRANSMIT_PACKETS = 3  # RFC 5681, 3.2: duplicate ACKs

_MASK = (1 << 64) - 1

_NotNegative = Annotated[float, msgspec.Meta(ge=0.0)]


class LinkProfile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A kind of link; zero means that nothing is added.

    Attributes:
        name: kebab-case.
        up_bytes_s: device to broker; 0: unlimited.
        down_bytes_s: broker to device; 0: unlimited.
        latency_s: one way, the least.
        jitter_s: mean of the exponentially distributed delay on top of it.
        loss: share of packets, [0, 0.5].
        outage_every_s: one outage begins in each such stretch of time, at a random moment; 0: none.
        outage_s: how long each lasts; shorter than `outage_every_s`.
    """

    name: str
    up_bytes_s: _NotNegative = 0.0
    down_bytes_s: _NotNegative = 0.0
    latency_s: _NotNegative = 0.0
    jitter_s: _NotNegative = 0.0
    loss: Annotated[float, msgspec.Meta(ge=0.0, le=0.5)] = 0.0
    outage_every_s: _NotNegative = 0.0
    outage_s: _NotNegative = 0.0

    def __post_init__(self) -> None:
        if not (0.0 <= self.loss <= 0.5):
            raise ValueError(f"loss: a share from 0 to 0.5 expected, {self.loss:g} came")
        if self.outage_every_s and self.outage_s >= self.outage_every_s:
            raise ValueError(
                f"outage_s: less than outage_every_s ({self.outage_every_s:g}) expected, {self.outage_s:g} came"
            )
        if self.outage_s and not self.outage_every_s:
            raise ValueError("outage_every_s: a time above 0 expected beside outage_s, none came")

    @property
    def adds_nothing(self) -> bool:
        """Whether bytes come out when they are pushed (except in outages that are told)."""
        return not (
            self.up_bytes_s or self.down_bytes_s or self.latency_s or self.jitter_s or self.loss or self.outage_every_s
        )


# Medians of published measurements; losses are what is left after the radio's own retransmission, their size an assumption.
# wifi: half of the packets over 20 ms for the Wi-Fi hop, there and back (Pei et al., INFOCOM 2016); 20 Mbit/s assumed.
# lte: 6 Mbit/s up, 13 down (Huang et al., MobiSys 2012); 50 ms there and back at least, as they and operators report.
# satellite: geostationary, about 600 ms there and back, 477 to 568 of them the way (Huston, APNIC Labs, April 2022);
#   400 kbit/s, the most that a portable terminal's background service gets (Inmarsat BGAN).
# leo: 40 to 60 ms for the middle half of Starlink's pings (Michel et al., IMC 2022); 7.2 Mbit/s up, 62.5 down (Ookla, Q2 2022).
PROFILES = {
    profile.name: profile
    for profile in (
        LinkProfile("ethernet"),
        LinkProfile("wifi", up_bytes_s=2.5e6, down_bytes_s=2.5e6, latency_s=0.002, jitter_s=0.01, loss=0.005),
        LinkProfile("lte", up_bytes_s=7.5e5, down_bytes_s=1.6e6, latency_s=0.025, jitter_s=0.008, loss=0.002),
        LinkProfile("satellite", up_bytes_s=5.0e4, down_bytes_s=5.0e4, latency_s=0.28, jitter_s=0.02, loss=0.005),
        LinkProfile("leo", up_bytes_s=9.0e5, down_bytes_s=7.8e6, latency_s=0.02, jitter_s=0.006, loss=0.01),
    )
}


def mix(seed: int, count: int) -> float:
    """The `count`-th number in [0, 1) of the stream `seed`, without any state kept.

    Source: SplitMix64 (Steele, Lea, Flood, OOPSLA 2014); random.Random would hold 2.5 kB for each device.
    """
    z = (seed + (count + 1) * 0x9E3779B97F4A7C15) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return ((z ^ (z >> 31)) >> 11) * 2.0**-53


class _Lane:
    """One direction."""

    __slots__ = ("drawn", "free_s", "last_s", "rate", "seed", "stalled_s")

    def __init__(self, rate: float, seed: int) -> None:
        self.rate, self.seed = rate, seed
        self.drawn = 0
        self.clear()

    def clear(self) -> None:
        self.free_s = 0.0  # the last byte pushed has left
        self.stalled_s = 0.0  # a retransmission goes out then; nothing overtakes it
        self.last_s = 0.0  # the last byte pushed has come out

    def draw(self) -> float:
        self.drawn += 1
        return mix(self.seed, self.drawn)


class LinkState:
    """One device's link: what is on its way, and its outages.

    Args:
        profile: its kind.
        seed: of its jitter, losses and moments of outages.
    """

    __slots__ = ("_down", "_outage_seed", "_outages", "_up", "profile")

    def __init__(self, profile: LinkProfile, seed: int) -> None:
        self.profile = profile
        base = int(mix(seed, 0) * 2**53)  # neighbours' streams must not overlap
        self._up = _Lane(profile.up_bytes_s, base)
        self._down = _Lane(profile.down_bytes_s, base ^ 0x5555555555555555)
        self._outage_seed = base ^ 0x3333333333333333
        self._outages: list[tuple[float, float]] = []  # told, not of the profile

    def up(self, now_s: float, size: int) -> float:
        """When `size` bytes that the device sends now are all with the broker."""
        return self._push(self._up, now_s, size)

    def down(self, now_s: float, size: int) -> float:
        """When `size` bytes that the broker sends now are all with the device."""
        return self._push(self._down, now_s, size)

    def handshake(self, now_s: float) -> float:
        """When a TCP connection begun now is open: SYN and SYN-ACK, each repeated from 1 s on, doubling (RFC 6298, 2.1)."""
        rto_s, sent_s = SYN_RTO_S, now_s
        loss = self.profile.loss
        while True:
            if self.outage_end(sent_s) <= sent_s and not (
                loss and (self._up.draw() < loss or self._down.draw() < loss)
            ):
                return sent_s + self._delay(self._up) + self._delay(self._down)
            sent_s += rto_s
            rto_s = min(2 * rto_s, RTO_MAX_S)

    def outage(self, from_s: float, until_s: float) -> None:
        """Carry nothing in [from_s, until_s), beside the profile's own outages."""
        merged: list[tuple[float, float]] = []
        for begins_s, ends_s in sorted([*self._outages, (from_s, until_s)]):
            if merged and begins_s <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(merged[-1][1], ends_s))
            else:
                merged.append((begins_s, ends_s))
        self._outages = merged

    def outage_end(self, now_s: float) -> float:
        """When the outage at `now_s` ends; `now_s` itself when there is none."""
        end_s = now_s
        if self.profile.outage_every_s:
            every_s, length_s = self.profile.outage_every_s, self.profile.outage_s
            turn = max(0, math.floor(now_s / every_s))
            begins_s = turn * every_s + mix(self._outage_seed, turn) * (every_s - length_s)
            if begins_s <= now_s < begins_s + length_s:
                end_s = begins_s + length_s
        for from_s, until_s in self._outages:
            if from_s <= end_s < until_s:
                end_s = until_s
        return end_s if end_s == now_s else self.outage_end(end_s)  # another may begin there

    def clear(self) -> None:
        """Forget what is on its way: the connection is gone."""
        self._up.clear()
        self._down.clear()

    def _delay(self, lane: _Lane) -> float:
        jitter_s = self.profile.jitter_s
        return self.profile.latency_s - (jitter_s * math.log(1.0 - lane.draw()) if jitter_s else 0.0)

    def _push(self, lane: _Lane, now_s: float, size: int) -> float:
        left_s = max(now_s, lane.free_s)
        if lane.rate:
            left_s += size / lane.rate
        lane.free_s = left_s
        sent_s = max(left_s, lane.stalled_s)
        packets = max(1, -(-size // MSS))
        for behind in range(packets - 1, -1, -1):
            sent_s = self._repeat(lane, sent_s, behind)
        lane.last_s = max(lane.last_s, sent_s + self._delay(lane))
        return lane.last_s

    def _repeat(self, lane: _Lane, sent_s: float, behind: int) -> float:
        """When the transmission that arrives is sent, of a packet first sent at `sent_s` with `behind` behind it."""
        loss = self.profile.loss
        rto_s = 0.0
        while self.outage_end(sent_s) > sent_s or (loss and lane.draw() < loss):
            trip_s = 2 * (self.profile.latency_s + self.profile.jitter_s)
            if rto_s == 0.0 and behind >= FAST_RETRANSMIT_PACKETS and self.outage_end(sent_s) <= sent_s:
                sent_s += trip_s
                continue
            # RFC 6298 (2.3): SRTT + 4 RTTVAR, once they have settled
            rto_s = min(2 * rto_s, RTO_MAX_S) if rto_s else max(RTO_MIN_S, trip_s + 4 * self.profile.jitter_s)
            sent_s += rto_s
            lane.stalled_s = sent_s
        return sent_s
