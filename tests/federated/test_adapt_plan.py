"""Whether a plan's bundles adapt, and what an absent option means on the wire."""

import msgspec
import pytest

from covey.bundle import Adapt, Branch, Features, Inputs, Scoring
from federated.config import Plan, scoring_of
from federated.streams import following

LAG = Inputs(["x"], 1.0, 2, 1, Features("lag"))
TIME = Inputs(["x"], 1.0, 2, 1, Features("temporal", branches=[Branch("n", [[1.0]])]))
DRONE = Inputs(["x"], 1.0, 2, 1, Features("drone"))


@pytest.mark.parametrize(
    ("adapt", "stream", "inputs", "expected"),
    [
        ("auto", "metrics", TIME, Adapt()),
        ("auto", "daily", TIME, Adapt()),
        ("auto", "process", TIME, None),
        ("auto", "auto", LAG, None),
        ("auto", "auto", DRONE, None),
        ("on", "auto", DRONE, Adapt()),
        ("on", "process", TIME, Adapt()),
        ("off", "metrics", TIME, None),
    ],
)
def test_long_histories_adapt_and_nothing_else_does_unless_told(adapt, stream, inputs, expected):
    assert scoring_of(Plan("pca", adapt=adapt, stream=stream), inputs, [0, 0]).adapt == expected


@pytest.mark.parametrize(
    ("adapt", "rows", "expected"),
    [("auto", 700.0, "off"), ("auto", 2000.0, "auto"), ("auto", None, "auto"), ("on", 700.0, "on")],
)
def test_a_short_history_adapts_only_where_a_plan_says_so(adapt, rows, expected):
    assert following(adapt, rows) == expected


def test_a_bundle_that_does_not_adapt_says_nothing_of_it():
    scoring = scoring_of(Plan("pca", adapt="off"), LAG, [0, 0])
    assert "adapt" not in msgspec.to_builtins(scoring)  # older agents refuse fields they do not know
    assert msgspec.json.decode(msgspec.json.encode(scoring), type=Scoring) == scoring


@pytest.mark.parametrize("bad", [{"hold_windows": 0}, {"rate": 0.5}, {"bound": 0}, {"hold_share": 2}, {"speed": 1}])
def test_options_out_of_bounds_and_unknown_ones_are_refused(bad):
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(bad, Adapt)
