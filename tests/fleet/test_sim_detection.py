"""A fleet's agents find what the simulator breaks: scenario, physics, model and cores together, without a network."""

import threading
from pathlib import Path

import pytest

from firmware_sim.fleets.agents import Agents
from firmware_sim.fleets.bundles import fit_bundle
from firmware_sim.fleets.launch import open_bundle
from firmware_sim.fleets.recordings import calibrations, cut_pool, fly_pool
from firmware_sim.scene.plan import plan_fleet
from firmware_sim.scene.scenario import parse_scenario

SCENARIO = b"""\
title = "cuts of three millimetres and more"
duration_s = 120
devices = 24
[vehicles]
pool_quadrotors = 8
first_flight_s = [1, 20]
[[changes]]
kind = "propeller-cut"
share = 0.25
onset_s = [10, 90]
params = { motor = [1, 4], cut_mm = [3.0, 4.0] }
"""


@pytest.mark.timeout(180)
def test_cut_propellers_are_found_after_their_onset_on_the_right_motor_and_healthy_devices_stay_quiet(tmp_path):
    plan = plan_fleet(parse_scenario(SCENARIO, "test", "test"), seed=11)
    raw = fly_pool(plan.recordings, lambda _done: None)
    healthy = [raw[n] for numbers in plan.commission.values() for n in numbers]
    model = open_bundle(fit_bundle("quadrotor", healthy, tmp_path / "m.covey", Path(tmp_path), threading.Event()))
    pool = cut_pool(raw, plan.recordings, {"quadrotor": model.manifest.inputs})
    agents = Agents(plan.devices, {"quadrotor": model}, calibrations(pool, plan.commission, {"quadrotor": model}))
    found = {}
    for i, device in enumerate(plan.devices):
        for stretch in device.stretches:
            recording = pool[stretch.recording]
            agents.begin(i, recording, stretch.start_s, stretch.start_s)
            end_s = stretch.start_s + recording.duration_s
            for _, output in agents.advance([i], end_s, lambda _i, end_s=end_s: end_s):
                found.setdefault(i, []).extend(one.alarm for one in output.alarms if one.alarm.state == "begin")
            agents.end(i)
    broken = {i: device.truth[0] for i, device in enumerate(plan.devices) if device.truth}
    assert len(broken) == 6  # a quarter of 24
    hits = {i for i, item in broken.items() if any(a.window.end_s > item.onset_s for a in found.get(i, []))}
    assert hits == set(broken)
    early = {i for i, item in broken.items() if any(a.window.end_s <= item.onset_s for a in found.get(i, []))}
    false = {i for i, alarms in found.items() if alarms and i not in broken}
    assert len(early | false) <= 1  # in some 60 healthy flights; the threshold is meant to be crossed once in a while
    named = [
        next(a.top_channel for a in found[i] if a.window.end_s > item.onset_s) == f"motor.m{item.size['motor']}"
        for i, item in broken.items()
    ]
    assert sum(named) >= 5
