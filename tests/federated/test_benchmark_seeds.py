"""What the hostile benchmark tells of several seeds, worked by hand."""

import pytest

from servers import ROOT


@pytest.fixture(autouse=True)
def _path(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


def test_the_worst_seed_is_judged_and_the_mean_is_shown_without_a_goal():
    from federated_hostile import figure, over_seeds

    each = [{"krum.flip": figure(value, "clean loss", 1.05)} for value in (1.0, 1.06, 0.97)]
    found = over_seeds(each)
    assert found["krum.flip"] == {"value": 1.06, "unit": "clean loss", "goal": 1.05, "met": False}
    assert found["krum.flip.mean"]["value"] == pytest.approx(1.01)
    assert found["krum.flip.mean"]["goal"] is None


def test_the_least_that_a_fault_stands_out_by_is_the_worst():
    from federated_hostile import figure, over_seeds

    each = [{"krum.targeted.fault": figure(value, "clean fault loss")} for value in (0.9, 0.4, 1.1)]
    assert over_seeds(each)["krum.targeted.fault"]["value"] == 0.4


def test_a_seed_without_a_model_is_the_worst_of_all_wherever_it_stands():
    from federated_hostile import figure, over_seeds

    failed = {"value": None, "unit": "krum: 11 updates expected", "goal": 1.05, "met": False}
    whole = {"krum.nan": figure(1.0, "clean loss", 1.05), "krum.nan.scale": figure(1.1, "clean scale", 2.0)}
    for each in ([whole, {"krum.nan": failed}], [{"krum.nan": failed}, whole]):
        found = over_seeds(each)
        assert found["krum.nan"] == failed
        assert found["krum.nan.scale"]["value"] == 1.1
