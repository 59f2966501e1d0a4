"""Runs of simulated computers: repeatable, independent of company, faults where and when they were put."""

import csv

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from covey.errors import UsageError
from edge.model_cli import app as score_app
from edge.sources.files import read_recording
from federated.model_cli import app as fit_app
from firmware_sim import machine_cli
from firmware_sim.world import thermal as th
from firmware_sim.world.faults import (
    Firmware,
    Overheating,
    Payload,
    Season,
    SensorBias,
    SensorDropout,
    SensorStuck,
)
from firmware_sim.world.machine import Machine, run_machines
from firmware_sim.world.machine_sensors import CHANNELS


@pytest.fixture(scope="module")
def sim():
    app = typer.Typer()
    app.callback()(lambda: None)
    machine_cli.register(app)
    return app


def invoke(app, *arguments):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def column(run, name):
    return run.samples[:, CHANNELS.index(name)]


def one(fault=None, seed=3, run_seed=5, seconds=240.0, rate_hz=1.0):
    return run_machines([Machine(seed)], [run_seed], [[] if fault is None else [fault]], seconds, rate_hz)[0]


def test_the_same_seeds_give_the_same_run_and_others_another():
    np.testing.assert_array_equal(one().samples, one().samples)
    assert (one().samples != one(run_seed=6).samples).any()
    assert (one().samples != one(seed=4).samples).any()


def test_who_runs_beside_it_changes_nothing():
    crowd = run_machines(
        [Machine(9), Machine(3), Machine(1)],
        [1, 5, 2],
        [[Overheating(0.1, onset_s=20.0)], [], [Firmware(load_share=2.0, onset_s=7.5)]],
        240.0,
    )
    np.testing.assert_array_equal(crowd[1].samples, one().samples)
    np.testing.assert_array_equal(crowd[1].truth.die_c, one().truth.die_c)


def test_readings_have_the_steps_of_the_real_ones():
    run = one(seconds=300)
    for name, step in {
        "temp.cpu": 1 / 32,
        "temp.heatsink": 1 / 32,
        "supply.mv": 8,
        "supply.ma": 8,
        "cpu.load": 1,
    }.items():
        parts = column(run, name) / step
        np.testing.assert_allclose(parts, np.rint(parts), atol=1e-9, err_msg=name)
    # power is the product of the two readings beside it, in whole mW
    np.testing.assert_allclose(
        column(run, "power.total_mw"), column(run, "supply.mv") * column(run, "supply.ma") / 1000, atol=0.5
    )
    # clocks are steps of 76.8 from 115.2 and of 102
    steps = (column(run, "clock.cpu_mhz") - 115.2) / 76.8
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-6)
    np.testing.assert_allclose(column(run, "clock.gpu_mhz") / 102 % 1, 0, atol=1e-6)


def test_sensors_show_the_truth_within_their_error():
    runs = run_machines([Machine(i) for i in range(40)], [0] * 40, None, 120.0)
    board = np.array([(column(r, "temp.heatsink") - r.truth.sink_c).mean() for r in runs])
    # each sensor is off by 0.4 K as built; 120 readings of 0.12 K add 0.011 K to their mean
    assert board.std() == pytest.approx(0.4, rel=0.35)
    noise = np.concatenate([column(r, "temp.heatsink") - r.truth.sink_c - b for r, b in zip(runs, board, strict=True)])
    assert noise.std() == pytest.approx(0.12, rel=0.05)
    power = np.array([column(r, "power.total_mw").mean() / 1000 - r.truth.power_w.mean() for r in runs])
    assert np.abs(power).max() < 0.05


def test_jobs_are_as_many_as_the_rates_say():
    # memory counts them: (reading - memory without jobs) / 380 MB. Mean over a day: 2 jobs, standard deviation sqrt(2) or more
    # by the rhythm: 40 runs of an hour, correlated over 45 s: 40 x 3600 / 90 = 1600 free samples
    runs = run_machines([Machine(5)] * 40, list(range(40)), None, 3_600.0, 0.2)
    jobs = np.concatenate([column(r, "mem.used_mb") for r in runs])
    least = jobs.min()
    counted = np.rint((jobs - least) / 380.0)
    # times of day are drawn evenly, so that the mean over the runs is near that of the day
    assert counted.mean() == pytest.approx(2.0, abs=0.45)
    assert counted.min() == 0.0


def test_fouled_air_raises_the_die_by_what_the_resistances_say():
    healthy, fouled = one(seconds=4000.0), one(Overheating(0.2, onset_s=0.0), seconds=4000.0)
    late = slice(2000, None)
    # the same jobs, so the same power, until a throttle comes (none here)
    np.testing.assert_allclose(healthy.truth.power_w, fouled.truth.power_w)
    assert fouled.truth.cap.min() == 1.0
    power, air = healthy.truth.power_w[late].mean(), healthy.truth.air_c[late].mean()

    def hand(run, flow):
        rpm = column(run, "fan.rpm")[late].mean()
        return air + power * (0.6 + 1 / (0.12 + 0.94 * flow * rpm / 6000))

    # means of a slowly moving state: within a kelvin of the steady value at the mean power and speed
    assert healthy.truth.die_c[late].mean() == pytest.approx(hand(healthy, 1.0), abs=1.0)
    assert fouled.truth.die_c[late].mean() == pytest.approx(hand(fouled, 0.2), abs=1.0)
    assert fouled.truth.die_c[late].mean() - healthy.truth.die_c[late].mean() > 5


def test_overheating_begins_at_its_onset():
    healthy, fouled = one(seconds=300), one(Overheating(0.1, onset_s=100.0), seconds=300)
    np.testing.assert_array_equal(fouled.samples[:100], healthy.samples[:100])
    np.testing.assert_array_equal(fouled.truth.faulty, np.arange(300) >= 100)
    assert not fouled.truth.drifting.any()
    assert (fouled.truth.sink_c[101:] > healthy.truth.sink_c[101:]).all()


def test_a_season_is_drift_and_moves_the_air_at_once():
    # the nominal room is 20 C: 35 C is 15 K more
    cool, warm = one(), one(Season(35.0, onset_s=60.0))
    shift = warm.truth.air_c - cool.truth.air_c
    np.testing.assert_allclose(shift[:60], 0)
    np.testing.assert_allclose(shift[60:], 15.0)
    assert not warm.truth.faulty.any()
    np.testing.assert_array_equal(warm.truth.drifting, np.arange(240) >= 60)


def test_other_firmware_asks_for_more():
    before, after = one(), one(Firmware(load_share=2.0, onset_s=60.0))
    np.testing.assert_array_equal(after.samples[:60], before.samples[:60])
    assert after.truth.power_w[60:].mean() > before.truth.power_w[60:].mean() + 1.0
    assert after.truth.drifting[60:].all()


def test_a_stuck_sensor_keeps_its_last_value_and_touches_no_other():
    whole, stuck = one(), one(SensorStuck("temp.cpu", onset_s=50.0))
    np.testing.assert_array_equal(column(stuck, "temp.cpu")[:50], column(whole, "temp.cpu")[:50])
    assert (column(stuck, "temp.cpu")[50:] == column(whole, "temp.cpu")[49]).all()
    others = [i for i, name in enumerate(CHANNELS) if name != "temp.cpu"]
    np.testing.assert_array_equal(stuck.samples[:, others], whole.samples[:, others])


def test_a_bias_is_added_in_the_unit_of_the_sensor():
    whole, biased = one(), one(SensorBias("power.total_mw", 1500.0, onset_s=50.0))
    np.testing.assert_allclose((column(biased, "power.total_mw") - column(whole, "power.total_mw"))[50:], 1500.0)


def test_a_dropout_repeats_the_last_reading_as_often_as_said():
    whole, holed = one(seconds=2000), one(SensorDropout("fan.rpm", 0.3), seconds=2000)
    same = column(holed, "fan.rpm") == column(whole, "fan.rpm")
    # 2000 x 0.3 lost; standard deviation sqrt(2000 x 0.21) = 20; some repeats equal the lost value by chance
    assert 450 < (~same).sum() < 680
    lost = np.flatnonzero(~same)[1:]
    np.testing.assert_array_equal(column(holed, "fan.rpm")[lost], column(holed, "fan.rpm")[lost - 1])


@pytest.mark.parametrize(
    "arguments",
    [
        ([Machine(1)], [0, 1]),
        ([], []),
        ([Machine(1)], [0], [[Payload(3.0)]]),
        ([Machine(1)], [0], [[SensorStuck("gps")]]),
        ([Machine(1)], [0], None, 0.2),
        ([Machine(1)], [0], None, 60.0, 0.0),
        ([Machine(1)], [0], None, 60.0, 20.0),
    ],
)
def test_what_cannot_be_run_is_told(arguments):
    with pytest.raises(UsageError, match="expected"):
        run_machines(*arguments)


def test_a_run_is_settled_at_its_start():
    # no transient: the first minutes are no warmer or cooler than an hour's spread
    runs = run_machines([Machine(seed) for seed in range(8)], [0] * 8, None, 3600.0, 0.5)
    for run in runs:
        assert abs(run.truth.sink_c[:30].mean() - run.truth.sink_c.mean()) < 6
        assert run.truth.die_c[0] > run.truth.sink_c[0] > run.truth.air_c[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--fault", "overheating"), "airflow_share expected"),
        (("--fault", "overheating:airflow_share"), "key=value"),
        (("--fault", "overheating:airflow_share=2"), "0 to 1 expected"),
        (("--fault", "rust"), "overheating"),
        (("--fault", "propeller-cut:motor=3,cut_mm=2"), "quadrotor"),
        (("--fault", "overheating:airflow_share=0.5", "--onset-s", "60"), "within the 60 s"),
    ],
)
def test_bad_faults_on_the_command_line_are_one_line(sim, tmp_path, arguments, message):
    with pytest.raises(UsageError, match=message) as told:
        invoke(sim, "machine", "--out", tmp_path / "run.csv", "--seconds", "60", *arguments)
    assert "\n" not in str(told.value)
    assert list(tmp_path.iterdir()) == []


def test_the_command_writes_what_the_agent_reads(sim, tmp_path):
    path = tmp_path / "run.csv"
    assert invoke(sim, "machine", "--out", path, "--machine-seed", 3, "--run-seed", 5, "--seconds", 60) == f"{path}\n"
    recording = read_recording(path)
    assert recording.channels == CHANNELS
    np.testing.assert_allclose(recording.samples, one(seconds=60).samples, rtol=1e-6)


def test_overheating_is_found_by_a_lag_model_of_healthy_runs(sim, tmp_path):
    names = [tmp_path / f"healthy{n}.csv" for n in range(4)]
    for n, path in enumerate(names):
        invoke(sim, "machine", "--out", path, "--run-seed", n, "--seconds", 1800)
    fault = ("--fault", "overheating:airflow_share=0.1", "--onset-s", 900)
    for path, extra in ((tmp_path / "good.csv", ()), (tmp_path / "bad.csv", fault)):
        invoke(sim, "machine", "--out", path, "--run-seed", 9, "--seconds", 1800, *extra)
    bundle = tmp_path / "machine.zip"
    data = [part for path in names for part in ("--data", path)]
    invoke(fit_app, "fit", *data, "--features", "lag", "--out", bundle)

    def alarms(name):
        out = tmp_path / f"{name}.scores.csv"
        invoke(score_app, "score", bundle, "--data", tmp_path / f"{name}.csv", "--calibrate", "0:600", "--out", out)
        with out.open() as lines:
            rows = list(csv.DictReader(lines))
        return np.array([row["alarm"] in {"1", "true", "True"} for row in rows])

    good, bad = alarms("good"), alarms("bad")
    assert good.mean() < 0.03
    assert bad[:900].mean() < 0.03
    assert bad[900:].sum() > 5 * good[900:].sum()
    assert bad[900:].mean() > 0.2


def test_stepping_reaches_the_state_that_was_asked_for():
    # a second method for the whole chain of one quiet machine: fixed demand by hand, no jobs
    cpu, gpu = th.cpu_clock(np.array([0.2]), np.ones(1)), th.gpu_clock(np.array([0.16]), np.ones(1))
    # 0.25 x 1344 = 336 -> floor 729.6, busy 0.2 x 1344 / 729.6 = 0.36842; volts 0.6 + 0.4 x 0.542857 = 0.817143
    # 3.3 x 0.36842 x 0.542857 x 0.667722 = 0.440697 W
    watts = th.dynamic_w(th.utilisation(np.array([0.2]), cpu, 1344.0), cpu, 1344.0, 3.3)
    assert watts[0] == pytest.approx(0.440697, rel=1e-4)
    # 0.2 x 918 = 183.6 -> floor 306, busy 0.48; volts 0.6 + 0.4/3 = 0.733333: 7 x 0.48 x 0.333333 x 0.537778 = 0.602311 W
    watts = th.dynamic_w(th.utilisation(np.array([0.16]), gpu, 918.0), gpu, 918.0, 7.0)
    assert watts[0] == pytest.approx(0.602311, rel=1e-4)
