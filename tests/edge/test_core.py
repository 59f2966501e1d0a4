"""The core's promises: alarms, normal windows, shadow, swap; without clock or disk."""

import hashlib
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from covey import wire
from covey.bundle import Adapt, Calibration, read_bundle
from covey.errors import DataError
from edge.core import AgentCore
from edge.loading import choose_runtime, open_model
from edge_bundles import CHANNELS, WINDOW, make_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    path = tmp_path_factory.mktemp("bundle") / "m.covey"
    make_bundle(path)
    return read_bundle(path)


def calibration(bundle, threshold=4.0):
    d = bundle.manifest.defaults
    return Calibration(
        "covey-calibration/1", bundle.digest, "2026-01-01T00:00:00Z", 20, 1, d.center, d.scale, d.spread,
        dict.fromkeys(d.thresholds, threshold), d.reference,
    )  # fmt: skip


def loaded(bundle, release=1, threshold=4.0, *, calibrated=True):
    runtime = choose_runtime(bundle, ())
    return open_model(bundle, release, runtime, calibration(bundle, threshold) if calibrated else None)


def noise(rows, seed=0):
    return np.random.default_rng(seed).standard_normal((rows, 2)).astype(np.float32) * 0.5


def fly(core, samples, portion=7):
    alarms, kept, windows = core.begin_flight("f", CHANNELS), [], 0
    for i in range(0, len(samples), portion):
        out = core.push(samples[i : i + portion], 1000.0 + i)
        alarms, kept, windows = alarms + out.alarms, kept + out.kept, windows + out.windows
    return alarms, kept, windows


def with_fault(rows=80, first=40, last=60):
    samples = noise(rows)
    samples[first:last, 1] += 6.0
    return samples


def test_a_fault_raises_one_alarm_that_names_channel_window_and_samples(bundle):
    core = AgentCore("d1", loaded(bundle))
    samples = with_fault()
    alarms, _, windows = fly(core, samples)
    assert windows == 20
    assert [r.alarm.state for r in alarms] == ["begin", "end"]
    begin, end = alarms[0].alarm, alarms[1].alarm
    # windows 10 and 11 (rows 40-47) are the first two above: the second one raises it; window 14 is the last one
    assert (begin.window.start_s, begin.window.end_s) == (1044.0, 1048.0)
    assert (end.window.start_s, end.windows) == (1056.0, 5)
    assert begin.window.sha256 == hashlib.sha256(samples[44:48].astype("<f4").tobytes()).hexdigest()
    assert begin.top_channel == "ay"
    assert begin.attribution[0].share > 0.9
    assert begin.alarm_id == end.alarm_id
    assert begin.trace_id == end.trace_id
    assert alarms[0].traceparent.split("-")[1] == begin.trace_id
    assert wire.decode(wire.Alarm, wire.encode(begin)) == begin


def test_an_alarm_open_at_the_end_of_a_flight_ends_with_it(bundle):
    core = AgentCore("d1", loaded(bundle))
    alarms, _, _ = fly(core, with_fault(60, 40, 60))
    assert [r.alarm.state for r in alarms] == ["begin"]
    assert len(core.open_alarms) == 1
    [ended] = core.end_flight()
    assert (ended.alarm.state, ended.alarm.flight, ended.alarm.windows) == ("end", "f", 5)
    assert core.open_alarms == []


def test_windows_of_an_alarm_are_never_kept(bundle):
    core = AgentCore("d1", loaded(bundle))
    _, kept, _ = fly(core, with_fault())
    starts = {k.start_s for k in kept}
    # windows 10-14 are anomalous, 15 belongs to the open alarm, 16 ends it
    assert starts == {1000.0 + WINDOW * n for n in range(20) if n not in range(10, 16)}
    assert [k.index for k in kept] == [n for n in range(20) if n not in range(10, 16)]
    assert {k.flight for k in kept} == {0}


def test_one_window_above_the_threshold_is_not_kept_though_it_raises_nothing(bundle):
    core = AgentCore("d1", loaded(bundle))
    alarms, kept, _ = fly(core, with_fault(40, 20, 24))
    assert alarms == []
    assert 1020.0 not in {k.start_s for k in kept}
    assert len(kept) == 9


def test_an_alarm_s_windows_are_those_that_raised_it_and_all_until_it_ended(bundle):
    core = AgentCore("d1", loaded(bundle))
    samples = with_fault()
    samples[12:16, 1] += 6.0  # one window alone, of which no alarm comes
    alarms, kept, windows = fly(core, samples)
    [(alarm_id, alarmed)] = core.take_alarmed()
    assert alarm_id == alarms[0].alarm.alarm_id
    assert alarmed[0].index == 10  # rows 40 to 43: before the alarm began, and one of the windows that raised it
    assert sorted([w.index for w in (*kept, *alarmed)] + [3]) == list(range(windows))
    assert all(w.samples == samples[4 * w.index : 4 * w.index + WINDOW].tobytes() for w in alarmed)
    assert core.take_alarmed() == []


def test_windows_with_a_dead_sensor_are_never_given_back(bundle):
    model = loaded(bundle)
    core = AgentCore("d1", replace(model, calibration=msgspec.structs.replace(model.calibration, still=[0.001, 0.001])))
    samples = with_fault()
    samples[20:60, 0] = 0.25
    alarms, _, _ = fly(core, samples)
    assert {r.alarm.kind for r in alarms} == {"anomaly", "sensor"}
    assert not {w.index for _, alarmed in core.take_alarmed() for w in alarmed} & set(range(5, 15))


def test_without_calibration_it_learns_silently(bundle):
    core = AgentCore("d1", loaded(bundle, calibrated=False))
    alarms, kept, windows = fly(core, with_fault())
    assert (alarms, len(kept), windows) == ([], 20, 20)


@pytest.mark.parametrize("portion", [1, 3, 80])
def test_portions_do_not_matter(bundle, portion):
    core, reference = AgentCore("d1", loaded(bundle)), AgentCore("d1", loaded(bundle))
    one, two = fly(core, with_fault(), portion), fly(reference, with_fault(), 10)
    assert one[1:] == two[1:]
    assert [r.alarm.window for r in one[0]] == [r.alarm.window for r in two[0]]


def test_a_gap_ends_the_alarm_and_no_window_spans_it(bundle):
    core = AgentCore("d1", loaded(bundle))
    core.begin_flight("f", CHANNELS)
    bad = noise(10) + 6
    assert core.push(bad, 0.0).windows == 2
    core.gap()
    out = core.push(noise(6), 100.0)
    assert out.windows == 1  # the two rows left before the gap are gone
    assert [(r.alarm.state, r.alarm.window.start_s) for r in out.alarms] == [("end", 4.0)]
    assert (out.kept[0].start_s, out.kept[0].index, out.kept[0].flight) == (100.0, 0, 1)


def test_a_swap_takes_effect_with_the_next_window_and_loses_none(bundle):
    core = AgentCore("d1", loaded(bundle, release=1))
    core.begin_flight("f", CHANNELS)
    first = core.push(noise(42) + 6, 0.0)
    ended = core.swap(loaded(bundle, release=2))
    second = core.push(noise(38) + 6, 42.0)
    assert (first.windows, second.windows) == (10, 10)
    assert [(r.alarm.state, r.alarm.release) for r in first.alarms + ended + second.alarms] == [
        ("begin", 1), ("end", 1), ("begin", 2),
    ]  # fmt: skip
    assert second.alarms[0].alarm.window.start_s == 44.0  # window 11: the second one under the new model
    assert core.model.release == 2


def test_a_swap_uses_the_new_calibration(bundle):
    core = AgentCore("d1", loaded(bundle))
    core.swap(loaded(bundle, release=2, threshold=1e6))
    assert core.threshold == 1e6
    alarms, _, _ = fly(core, with_fault())
    assert alarms == []


def test_the_shadow_counts_what_the_new_model_would_say_and_says_nothing(bundle):
    core = AgentCore("d1", loaded(bundle))
    core.watch(loaded(bundle, release=2, threshold=1e-6))
    alarms, _, _ = fly(core, noise(40))
    assert alarms == []
    assert (core.shadow.windows, core.shadow.calm, core.shadow.above, core.shadow.broken) == (10, 10, 10, 0)
    core.watch(loaded(bundle, release=2))
    fly(core, noise(40))
    assert (core.shadow.calm, core.shadow.above) == (10, 0)


def test_the_shadow_does_not_count_against_a_model_what_the_active_one_finds_too(bundle):
    core = AgentCore("d1", loaded(bundle))
    core.watch(loaded(bundle, release=2))
    fly(core, with_fault())
    assert (core.shadow.windows, core.shadow.calm, core.shadow.above) == (20, 14, 0)


def test_a_shadow_of_other_inputs_says_what_it_misses(bundle, tmp_path):
    make_bundle(tmp_path / "other.covey", channels=("ax", "gz"))
    core = AgentCore("d1", loaded(bundle))
    core.begin_flight("f", CHANNELS)
    core.watch(loaded(read_bundle(tmp_path / "other.covey"), release=2))
    assert "gz" in core.shadow.problem
    assert core.push(noise(8), 0.0).windows == 2


def test_a_missing_channel_is_named(bundle):
    with pytest.raises(DataError, match="ay missing"):
        AgentCore("d1", loaded(bundle)).begin_flight("f", ("ax", "b"))


def test_columns_are_taken_by_name(bundle):
    core = AgentCore("d1", loaded(bundle))
    core.begin_flight("f", ("zz", "ay", "ax"))
    samples = np.full((8, 3), 99.0, np.float32)
    samples[:, 1:] = noise(8)
    out = core.push(samples, 0.0)
    assert len(out.kept) == 2
    assert np.array_equal(np.frombuffer(out.kept[0].samples, "<f4").reshape(4, 2), samples[:4, [2, 1]])


def test_a_model_that_gives_no_numbers_is_heard(bundle):
    class Broken:
        def run(self, x):
            return np.full_like(x, np.nan)

    core = AgentCore("d1", replace(loaded(bundle), network=Broken()))
    alarms, kept, _ = fly(core, noise(40))
    assert [r.alarm.state for r in alarms] == ["begin"]
    assert kept == []
    assert wire.decode(wire.Alarm, wire.encode(alarms[0].alarm)).score == 1e12


def test_the_summary_counts_windows_and_alarmed_ones(bundle):
    core = AgentCore("d1", loaded(bundle))
    fly(core, with_fault())
    model = core.model
    reported = wire.Reported(1, model.digest, model.runtime)
    summary = core.summary.build(5.0, core.threshold, reported, wire.Health(0, 0.0, 0, 0, 0, 0))
    assert (summary.windows, summary.alarmed_windows, summary.start_s, summary.end_s) == (20, 5, 1000.0, 1080.0)


def adapting(bundle, hold=40):
    scoring = msgspec.structs.replace(
        bundle.manifest.scoring, adapt=Adapt(hold_windows=hold, hold_share=0.0), begin_windows=1, end_windows=1
    )
    return replace(loaded(bundle), manifest=msgspec.structs.replace(bundle.manifest, scoring=scoring))


def test_a_core_that_adapts_alarms_at_a_new_level_until_the_hold_is_over_and_then_ends_the_alarm(bundle):
    core = AgentCore("d1", adapting(bundle))
    samples = noise(8000)
    samples[400:] += 3.0  # window 100: the score is about 9 thresholds 4
    alarms, _, _ = fly(core, samples)
    begin, end = alarms[0].alarm, alarms[1].alarm
    assert [r.alarm.state for r in alarms] == ["begin", "end"]
    assert begin.window.start_s in {1400.0, 1404.0}
    assert 40 <= end.windows < 60  # 43 fill the count
    assert begin.threshold == end.threshold == 4.0  # what moves is the level, not the threshold


def test_a_core_whose_bundle_does_not_adapt_alarms_at_a_new_level_for_good(bundle):
    samples = noise(8000)
    samples[400:] += 3.0
    core = AgentCore("d1", loaded(bundle))
    alarms, _, _ = fly(core, samples)
    assert [r.alarm.state for r in alarms] == ["begin"]
    assert core.open_alarms


def test_any_portions_raise_the_same_alarms_of_a_core_that_adapts(bundle):
    samples = noise(4000)
    samples[400:] += 3.0
    told = [
        [(r.alarm.state, r.alarm.window, r.alarm.score) for r in fly(AgentCore("d1", adapting(bundle)), samples, n)[0]]
        for n in (1, 7, 4000)
    ]
    assert told[0] == told[1] == told[2]
    assert len(told[0]) == 2


def test_a_restarted_core_begins_at_the_calibrations_level_again(bundle):
    samples = noise(4000) + np.float32(3.0)
    model = adapting(bundle)
    first = AgentCore("d1", model)
    fly(first, samples)
    assert not first.open_alarms
    again = AgentCore("d1", model)
    fly(again, samples[:40])
    assert again.open_alarms  # what was learned before a power cut of unknown length is not trusted


def test_a_shadow_does_not_adapt(bundle):
    core = AgentCore("d1", adapting(bundle))
    core.watch(adapting(bundle))
    samples = noise(8000)
    samples[400:] += 3.0
    fly(core, samples)
    assert core.shadow.above > 0.9 * core.shadow.calm - 120  # of the calm ones after the hold, all are above
