"""Emulated links, checked by arithmetic and by counting."""

import statistics
import subprocess
import sys

import msgspec
import pytest

from firmware_sim.links import PROFILES, LinkProfile, LinkState, mix


def times(profile, seed=1, count=200, every_s=1.0, size=200):
    link = LinkState(profile, seed)
    return [link.up(i * every_s, size) for i in range(count)]


def test_a_kilobyte_at_ten_kilobytes_a_second_takes_a_tenth_and_the_latency():
    link = LinkState(LinkProfile("x", up_bytes_s=10_000, down_bytes_s=20_000, latency_s=0.3), 1)
    assert link.up(5.0, 1000) == pytest.approx(5.4)
    assert link.down(5.0, 1000) == pytest.approx(5.35)


def test_what_is_pushed_behind_waits_for_its_turn():
    link = LinkState(LinkProfile("x", up_bytes_s=10_000, latency_s=0.3), 1)
    assert link.up(0.0, 1000) == pytest.approx(0.4)
    assert link.up(0.0, 500) == pytest.approx(0.45)  # 0.1 + 0.05 to leave
    assert link.up(0.3, 500) == pytest.approx(0.65)  # the line was free again


def test_one_direction_does_not_slow_the_other():
    link = LinkState(LinkProfile("x", up_bytes_s=100, down_bytes_s=100), 1)
    assert link.up(0.0, 1000) == pytest.approx(10.0)
    assert link.down(0.0, 100) == pytest.approx(1.0)


def test_a_link_that_adds_nothing_adds_nothing():
    profile = PROFILES["ethernet"]
    assert profile.adds_nothing
    assert times(profile) == [float(i) for i in range(200)]
    assert [name for name, p in PROFILES.items() if p.adds_nothing] == ["ethernet"]


def test_jitter_has_its_mean_and_never_reorders():
    profile = LinkProfile("x", latency_s=0.1, jitter_s=0.05)
    delays = [when - i for i, when in enumerate(times(profile, count=4000))]
    assert min(delays) >= 0.1
    # The mean of 4000 exponential delays has a standard error of 0.05 / 63 s.
    assert statistics.mean(delays) == pytest.approx(0.15, abs=0.004)
    close = times(profile, count=2000, every_s=0.001)
    assert close == sorted(close)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_share_of_lost_packets_shows_as_retransmissions(seed):
    profile = LinkProfile("x", latency_s=0.05, loss=0.1)
    delays = [when - 10 * i for i, when in enumerate(times(profile, seed, 5000, every_s=10.0))]
    late = [delay for delay in delays if delay > 0.051]
    assert len(late) / 5000 == pytest.approx(0.1, abs=0.013)  # three standard deviations
    # Lost once: RTO 0.2 s (Linux' least, above 0.1 s of round trip); twice: 0.2 + 0.4.
    assert min(late) == pytest.approx(0.25)
    twice = [delay for delay in late if delay > 0.26]
    assert min(twice) == pytest.approx(0.65)
    assert len(twice) / len(late) == pytest.approx(0.1, abs=0.045)


def test_a_loss_with_three_packets_behind_is_repaired_after_one_round_trip():
    # 20 packets, each lost with 2 %: those that are early enough come one round trip (0.2 s) later.
    profile = LinkProfile("x", latency_s=0.1, loss=0.02)
    delays = [when - 100 * i for i, when in enumerate(times(profile, 1, 300, every_s=100.0, size=20 * 1448))]
    assert min(delays) == pytest.approx(0.1)
    assert any(delay == pytest.approx(0.3) for delay in delays)


def test_nothing_overtakes_a_lost_packet():
    profile = LinkProfile("x", latency_s=0.01, loss=0.3, jitter_s=0.01)
    out = times(profile, 4, 3000, every_s=0.02)
    assert out == sorted(out)


def test_an_outage_holds_everything_until_the_first_retransmission_behind_it():
    link = LinkState(LinkProfile("x", latency_s=0.01), 1)
    link.outage(10.0, 12.0)
    assert link.up(9.0, 100) == pytest.approx(9.01)
    assert link.outage_end(9.9) == 9.9
    assert link.outage_end(10.0) == 12.0
    # Tries at 10.5, +0.2, +0.4, +0.8, +1.6 s: the last one, at 13.5, is the first behind the outage.
    assert link.up(10.5, 100) == pytest.approx(13.51)
    assert link.up(11.9, 100) == pytest.approx(13.51)  # one timer for the connection
    assert link.down(11.0, 100) == pytest.approx(12.41)  # 11.0, 11.2, 11.6, 12.4
    assert link.up(14.0, 100) == pytest.approx(14.01)


def test_outages_that_touch_are_one():
    link = LinkState(LinkProfile("x"), 1)
    link.outage(1.0, 2.0)
    link.outage(2.0, 3.0)
    link.outage(1.5, 2.5)
    assert link.outage_end(1.2) == 3.0


def test_a_handshake_takes_a_round_trip_and_syns_are_repeated_after_a_second():
    link = LinkState(LinkProfile("x", latency_s=0.1), 1)
    assert link.handshake(0.0) == pytest.approx(0.2)
    link.outage(10.0, 14.0)
    assert link.handshake(10.0) == pytest.approx(17.2)  # SYN at 10, 11, 13, 17


def test_outages_come_once_in_each_stretch_and_last_as_long_as_told():
    profile = LinkProfile("x", outage_every_s=100.0, outage_s=10.0)
    link = LinkState(profile, 7)
    step_s = 0.25
    out = [link.outage_end(i * step_s) > i * step_s for i in range(int(5000 / step_s))]
    assert sum(out) * step_s == pytest.approx(500, abs=50 * step_s)  # 50 stretches of 10 s
    for turn in range(50):
        stretch = out[int(turn * 100 / step_s) : int((turn + 1) * 100 / step_s)]
        assert sum(stretch) * step_s == pytest.approx(10, abs=step_s)
    others = LinkState(profile, 8)
    assert [others.outage_end(i * step_s) > i * step_s for i in range(4000)] != out[:4000]


def test_the_same_seed_gives_the_same_delays_in_another_process():
    profile = PROFILES["wifi"]
    here = times(profile, 42)
    assert times(profile, 42) == here
    assert times(profile, 43) != here
    code = (
        "from firmware_sim.links import PROFILES, LinkState\n"
        "link = LinkState(PROFILES['wifi'], 42)\n"
        "print([link.up(i * 1.0, 200) for i in range(200)])"
    )
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert there.stdout.strip() == str(here)


def test_neighbouring_seeds_are_not_alike():
    first = [mix(1, i) for i in range(2000)]
    second = [mix(2, i) for i in range(2000)]
    assert statistics.mean(first) == pytest.approx(0.5, abs=0.02)
    assert abs(statistics.correlation(first, second)) < 0.07
    assert all(0.0 <= x < 1.0 for x in first)


def test_a_new_connection_does_not_wait_for_the_bytes_of_the_old_one():
    link = LinkState(LinkProfile("x", up_bytes_s=100, latency_s=0.1), 1)
    link.up(0.0, 10_000)
    link.clear()
    assert link.up(1.0, 100) == pytest.approx(2.1)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"loss": 0.9}, "loss"),
        ({"latency_s": -1.0}, "latency_s"),
        ({"outage_every_s": 5.0, "outage_s": 5.0}, "outage_s"),
        ({"outage_s": 5.0}, "outage_every_s"),
        ({"speed": 1.0}, "speed"),
    ],
)
def test_a_profile_from_a_file_is_checked(wrong, words):
    with pytest.raises(msgspec.ValidationError, match=words):
        msgspec.convert({"name": "x", **wrong}, LinkProfile)


def test_pings_over_the_profiles_are_those_of_the_sources():
    for name, low_s, high_s in (
        ("wifi", 0.01, 0.04),
        ("lte", 0.05, 0.08),
        ("satellite", 0.56, 0.65),
        ("leo", 0.04, 0.06),
    ):
        link = LinkState(PROFILES[name], 5)
        pings = [link.down(link.up(i * 10.0, 84), 84) - i * 10.0 for i in range(500)]
        assert low_s <= statistics.median(pings) <= high_s, name
