"""The quantile sketch keeps its 1 %."""

from __future__ import annotations

import random
import statistics

import pytest

from covey.errors import WireError
from covey.sketch import MAX_BINS, Sketch


def exact(values, q):
    ordered = sorted(values)
    return ordered[int(q * (len(ordered) - 1))]


@pytest.mark.parametrize("seed", range(5))
def test_every_quantile_is_within_one_percent_of_the_exact_one(seed):
    rng = random.Random(seed)
    values = [rng.lognormvariate(0, 2) for _ in range(3000)]
    sketch = Sketch()
    sketch.extend(values)
    for q in (0.01, 0.25, 0.5, 0.9, 0.99, 1.0):
        assert sketch.quantile(q) == pytest.approx(exact(values, q), rel=0.0101)


def test_merging_equals_adding_everything_to_one_in_any_order():
    rng = random.Random(1)
    parts = [[rng.expovariate(1.0) for _ in range(200)] for _ in range(4)]
    whole = Sketch()
    for part in parts:
        whole.extend(part)
    for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
        merged = Sketch()
        for index in order:
            one = Sketch()
            one.extend(parts[index])
            merged.merge(one)
        assert merged == whole


def test_the_wire_form_is_read_back_equal():
    sketch = Sketch()
    sketch.extend([0.0, 0.0, 1.0, 5.0, 5.0, 1e15, float("inf")])
    assert Sketch.from_wire(sketch.to_wire()) == sketch
    assert sketch.count == 7


def test_a_sketch_never_has_more_bins_than_its_bound_and_keeps_the_top():
    sketch = Sketch()
    values = [1e-8 * 1.03**i for i in range(1500)]
    sketch.extend(values)
    assert len(sketch.bins) == MAX_BINS
    assert sketch.count == 1500
    assert sketch.quantile(0.99) == pytest.approx(min(exact(values, 0.99), 1e12), rel=0.011)


@pytest.mark.parametrize("value", [-1.0, float("nan")])
def test_what_is_no_score_is_refused(value):
    with pytest.raises(ValueError, match="score"):
        Sketch().add(value)


@pytest.mark.parametrize("rows", [[], [[1]], [[-1, 0]], [[0, 1]], [[0, 0], [3, 0]], [[0, 0], [3, 1], [3, 1]]])
def test_a_wire_form_that_cannot_be_is_refused(rows):
    with pytest.raises(WireError) as caught:
        Sketch.from_wire(rows)
    assert caught.value.reason == "bad_sketch"


def test_the_median_of_one_to_a_hundred_is_the_one_of_the_textbook():
    sketch = Sketch()
    sketch.extend(range(1, 102))
    assert sketch.quantile(0.5) == pytest.approx(statistics.median(range(1, 102)), rel=0.0101)
