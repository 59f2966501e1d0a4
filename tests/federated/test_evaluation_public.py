"""The evaluation on the public sets beside the repository; skipped by name where they are absent.

Bounds are far below what is reached: they tell a broken road from a working one, not a good detector from a better one.
"""

from __future__ import annotations

import pytest

from federated.config import Plan
from federated.evaluation.report import Options, evaluate
from federated_rigs import data_folder

PERSONAL = ("personal",)


def mean(report, name, mode="personal", runtime="litert"):
    return report["sets"][name]["modes"][mode]["runtimes"][runtime]["mean"]


def int8_holds(report, name):
    for modes in report["sets"][name]["int8"].values():
        for told in modes.values():
            assert told["auc_pr_difference"] <= 0.01
            assert told["same_alarms"] >= 0.99


@pytest.mark.slow
@pytest.mark.skipif(data_folder("skab") is None, reason="data set skab is not beside the repository")
def test_skab_s_files_are_told_apart_as_the_leaderboard_counts():
    report = evaluate(data_folder("skab"), Plan("pca"), Options("skab", modes=PERSONAL), print)
    found = mean(report, "skab")
    print(found)
    assert found["f1"] > 0.75
    assert found["far"] < 0.3
    int8_holds(report, "skab")


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(data_folder("asd") is None, reason="data set asd is not beside the repository")
def test_servers_are_judged_on_every_row_of_their_test_series():
    report = evaluate(data_folder("asd"), Plan("pca"), Options("fleet", modes=PERSONAL), print)
    found = mean(report, "asd")
    print(found)
    assert found["auc_pr"] > 0.1  # chance: .04
    assert set(report["sets"]["asd"]["devices"]) >= {"omi-1", "omi-6"}
    int8_holds(report, "asd")


@pytest.mark.slow
@pytest.mark.skipif(data_folder("crazypad") is None, reason="data set crazypad is not beside the repository")
def test_damaged_drones_are_told_from_healthy_flights_that_no_model_saw():
    report = evaluate(data_folder("crazypad"), Plan("pca"), Options("crazypad", modes=PERSONAL), print)
    found = mean(report, "crazypad")
    print(found)
    assert found["auc"] > 0.8
    assert found["false_alarm_windows"] < 0.1
    int8_holds(report, "crazypad")
