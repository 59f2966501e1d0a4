"""A fleet's agents: each device is scored and judged as one agent would be that flies alone."""

from dataclasses import dataclass

import numpy as np
import pytest

from covey.bundle import Calibration, Features, Inputs, read_bundle
from covey.errors import DataError
from edge.core import AgentCore
from edge.loading import choose_runtime, open_model
from edge_bundles import CHANNELS, D, make_bundle
from firmware_sim.agents import Agents
from firmware_sim.recordings import Flown, cut_pool

EPOCH_S = 1_000_000.0


@dataclass(frozen=True)
class Device:
    name: str
    body: str
    vehicle: int


@dataclass(frozen=True)
class Plan:
    body: str


def traces(first):
    numbers = iter(range(first, first + 1000))
    return lambda: (f"{next(numbers):032x}", "")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("bundle") / "m.covey"
    make_bundle(path)
    bundle = read_bundle(path)
    return open_model(bundle, 1, choose_runtime(bundle, ()), None)


def calibration(model, center):
    d = model.manifest.defaults
    return Calibration(
        "covey-calibration/1", model.digest, "2026-01-01T00:00:00Z", 20, 1, [center] * D, d.scale, d.spread,
        d.thresholds, d.reference,
    )  # fmt: skip


def flown(name, seed, fault_at=None, rows=120):
    samples = np.random.default_rng(seed).standard_normal((rows, 3))
    if fault_at is not None:
        samples[fault_at:, 1] += 9.0
    return Flown(name, ("other", *CHANNELS), 1.0, samples, None)


def alone(model, calibration_, recording, begin_s):
    """The alarms of one agent that is given the samples as they come."""
    from dataclasses import replace

    core = AgentCore("d", replace(model, calibration=calibration_), traces(1))
    raised = core.begin_flight(recording.name, recording.channels)
    for row in range(0, len(recording.rows), 5):
        raised += core.push(recording.rows[row : row + 5], begin_s + row).alarms
    return [r.alarm for r in raised + core.end_flight()]


def test_devices_that_fly_together_raise_the_alarms_each_would_raise_alone(model):
    inputs = {"quadrotor": model.manifest.inputs}
    pool = cut_pool([flown("a", 1, 60), flown("b", 2, 80), flown("c", 3)], [Plan("quadrotor")] * 3, inputs)
    made = {("quadrotor", 7): calibration(model, 0.0), ("quadrotor", 8): calibration(model, 0.4)}
    devices = [Device(f"d{k}", "quadrotor", 7 + k % 2) for k in range(5)]
    plays = [(0, 0.0), (1, 3.0), (0, 10.5), (2, 4.0), (1, 0.0)]  # recording and when it begins, by device
    agents = Agents(devices, {"quadrotor": model}, made, traces(1))
    alarms = [[] for _ in devices]
    waiting = dict(enumerate(plays))
    for t_s in np.arange(0.0, 140.0, 0.5):
        for k, (number, begin_s) in list(waiting.items()):
            if t_s >= begin_s:
                alarms[k] += agents.begin(k, pool[number], begin_s, t_s)
                del waiting[k]
        for k, output in agents.advance(range(5), t_s, lambda _k, t_s=t_s: EPOCH_S + t_s):
            alarms[k] += output.alarms
    for k in range(5):
        alarms[k] += agents.end(k)
    for k, (number, begin_s) in enumerate(plays):
        expected = alone(model, made["quadrotor", 7 + k % 2], pool[number], EPOCH_S + begin_s)
        got = [r.alarm for r in alarms[k]]
        assert [(a.state, a.window, a.score, a.peak_score, a.windows) for a in got] == [
            (a.state, a.window, a.score, a.peak_score, a.windows) for a in expected
        ]
        assert len(got) == (0 if number == 2 else 2)
        assert all(a.alarm_id.startswith(f"d{k}-") for a in got)
    # 120 samples in windows of 4 that do not overlap: 30 windows a play
    assert agents.windows == 5 * 30


def test_a_reboot_forgets_the_alarm_and_passes_over_what_it_missed(model):
    inputs = {"quadrotor": model.manifest.inputs}
    (recording,) = cut_pool([flown("a", 1, 40)], [Plan("quadrotor")], inputs)
    agents = Agents([Device("d", "quadrotor", 7)], {"quadrotor": model}, {("quadrotor", 7): calibration(model, 0.0)})
    agents.begin(0, recording, 0.0, 0.0)
    agents.advance([0], 60.0, lambda _: EPOCH_S + 60.0)
    assert len(agents.cores[0].open_alarms) == 1
    agents.reboot(0)
    assert agents.playing(0) is None
    assert agents.cores[0].open_alarms == []
    agents.begin(0, recording, 0.0, 90.0)
    ((_, output),) = agents.advance([0], 120.0, lambda _: EPOCH_S + 120.0)
    # windows end every 4 s from 4 to 120; those that ended before 90 s are passed over: 92 to 120 remain
    assert output.windows == 8
    assert output.first_s == EPOCH_S + 88.0


def test_the_device_clock_times_the_windows(model):
    inputs = {"quadrotor": model.manifest.inputs}
    (recording,) = cut_pool([flown("a", 1)], [Plan("quadrotor")], inputs)
    agents = Agents([Device("d", "quadrotor", 7)], {"quadrotor": model}, {("quadrotor", 7): None})
    agents.begin(0, recording, 100.0, 100.0)
    ((_, output),) = agents.advance([0], 104.5, lambda _: 5000.0)
    # the newest sample is 4.5 s old by scenario time, and the clock says 5000 now
    assert (output.windows, output.first_s) == (1, 4995.5)


def test_a_model_of_other_channels_or_another_rate_is_told_in_one_line(model):
    with pytest.raises(DataError, match=r"recording a: the bundle's channels .*zz at 1 Hz expected; there are other, "):
        cut_pool([flown("a", 1)], [Plan("m")], {"m": Inputs(["ax", "zz"], 1.0, 4, 4, Features("lag"))})
    with pytest.raises(DataError, match="at 100 Hz expected"):
        cut_pool([flown("a", 1)], [Plan("m")], {"m": Inputs(list(CHANNELS), 100.0, 4, 4, Features("lag"))})
