"""What a summary says, worked by hand."""

import math

import numpy as np
import pytest

from covey import wire
from covey.sketch import Sketch
from edge.scoring.summary import SummaryBuilder

REPORTED = wire.Reported(1, "a" * 64, "onnx")
HEALTH = wire.Health(1, 0.5, 0, 0, 0, 0)


def builder(p50=2.0):
    reference = Sketch()
    reference.extend([p50] * 9)
    return SummaryBuilder(reference)


def build(one, now_s=99.0):
    return one.build(now_s, 4.0, REPORTED, HEALTH, ["x"], "f")


def test_a_period_is_counted_and_measured():
    one = builder()
    for n, score in enumerate((1.0, 4.0, 4.0, 9.0)):
        z = np.array([1.0 if n % 2 else -1.0, 3.0], np.float32)
        one.add(score, z, 10.0 + n, 11.0 + n, alarmed=score > 4)
    summary = build(one)
    assert (summary.windows, summary.alarmed_windows, summary.start_s, summary.end_s) == (4, 1, 10.0, 14.0)
    assert summary.score.max == 9.0
    assert summary.score.p50 == pytest.approx(4.0, rel=0.02)
    # features: mean z is 0 and 3, so the mean of |mean z| is 1.5; the median is twice the reference's
    assert summary.drift.input == pytest.approx(1.5)
    assert summary.drift.score == pytest.approx(2.0, rel=0.03)
    assert wire.decode(wire.Summary, wire.encode(summary)) == summary


def test_the_next_period_begins_anew():
    one = builder()
    one.add(5.0, np.ones(2, np.float32), 1.0, 2.0, alarmed=True)
    build(one)
    summary = build(one, 50.0)
    assert (summary.windows, summary.alarmed_windows, summary.start_s, summary.end_s) == (0, 0, 50.0, 50.0)
    assert (summary.score.max, summary.drift.input, summary.drift.score) == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_a_score_that_is_no_number_is_the_greatest_there_is(score):
    one = builder()
    one.add(score, np.zeros(2, np.float32), 0.0, 1.0, alarmed=True)
    summary = build(one)
    assert summary.score.max == 1e12
    assert wire.decode(wire.Summary, wire.encode(summary)) == summary


def test_a_quantile_is_never_above_the_maximum():
    one = builder()
    for _ in range(10):
        one.add(1.2345, np.zeros(2, np.float32), 0.0, 1.0, alarmed=False)
    summary = build(one)
    assert summary.score.p50 <= summary.score.p99 <= summary.score.max == 1.2345


def test_sketches_of_two_periods_add_up():
    one = builder()
    for n in range(20):
        one.add(float(n), np.zeros(2, np.float32), n, n + 1, alarmed=False)
        if n == 9:
            first = build(one)
    merged = Sketch.from_wire(first.score.sketch)
    merged.merge(Sketch.from_wire(build(one).score.sketch))
    assert merged.count == 20
    assert merged.quantile(0.5) == pytest.approx(9.0, rel=0.02)


def test_a_summary_is_about_a_kilobyte():
    one = builder()
    scores = np.random.default_rng(0).gamma(2.0, 1.0, 100)
    for score in scores:
        one.add(float(score), np.zeros(11, np.float32), 0.0, 1.0, alarmed=False)
    assert len(wire.make_event(wire.Identity("d1", "0" * 16, 1), "summary", 0.0, build(one))) < 2000
