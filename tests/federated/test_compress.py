"""Weights in few bytes: what a message loses comes with the next, both ways, and the two ends never disagree."""

from __future__ import annotations

import numpy as np
import pytest

from covey.errors import AggregationError, BundleError, DataError
from federated.compress import kept, packed, shapes_of, squeeze, unsqueeze, wire_shapes
from federated.config import Plan
from federated.views import Views, graph_received, graph_whole, received

RNG = np.random.default_rng(3)


def weights(scale=1.0):
    return {
        "b0": (RNG.standard_normal(5) * scale).astype(np.float32),
        "w0": (RNG.standard_normal((5, 7)) * scale).astype(np.float32),
    }


def plan(how, keep=0.1):
    return Plan("dense-ae", compress=how, keep=keep)


def flat(arrays):
    return np.concatenate([arrays[name].ravel() for name in sorted(arrays)])


def test_int8_is_within_half_a_step_of_each_array():
    step = weights()
    wire = squeeze(step, "int8", 1.0)
    assert (wire["delta"].dtype, wire["delta"].shape) == (np.int8, (40,))
    back = unsqueeze(wire, shapes_of(step), "int8", 1.0)
    for name, values in step.items():
        assert np.abs(back[name] - values).max() <= np.abs(values).max() / 127 / 2 * 1.001


def test_topk_sends_the_largest_and_their_places():
    step = {"a": np.array([0.1, -4.0, 0.2], np.float32), "b": np.array([[2.0, -0.3]], np.float32)}
    wire = squeeze(step, "topk", 0.4)
    assert {name: values.nbytes for name, values in wire.items()} == {"mask": 1, "delta": 2, "scales": 4}
    back = unsqueeze(wire, shapes_of(step), "topk", 0.4)
    np.testing.assert_allclose(flat(back), [0, -4.0, 0, 2.0, 0], atol=4 / 127 / 2)


@pytest.mark.parametrize(("how", "size"), [("none", 160), ("float16", 80), ("int8", 40 + 8), ("topk", 5 + 4 + 4)])
def test_how_many_bytes_travel(how, size):
    assert sum(values.nbytes for values in squeeze(weights(), how, 0.1).values()) == size


@pytest.mark.parametrize("how", ["none", "float16", "int8", "topk"])
def test_what_is_squeezed_has_the_shapes_that_are_expected(how):
    step = weights()
    wire = squeeze(step, how, 0.1)
    shapes = wire_shapes(shapes_of(step), how, 0.1)
    assert {name: values.shape for name, values in wire.items()} == {
        name: shape.shape for name, shape in shapes.items()
    }
    assert all(values.dtype.kind in shapes[name].kinds for name, values in wire.items())


@pytest.mark.parametrize("how", ["none", "float16", "int8", "topk"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e39])
def test_numbers_that_are_not_finite_do_not_get_through(how, bad):
    step = {"w": np.array([1.0, bad, 2.0])}
    with np.errstate(over="ignore"):
        wire = squeeze(step, how, 0.5)
    with pytest.raises(AggregationError, match="finite numbers expected"):
        unsqueeze(wire, shapes_of(step), how, 0.5)


def test_a_mask_with_other_bits_than_values_is_refused():
    step = weights()
    wire = squeeze(step, "topk", 0.1)
    wire["mask"] = wire["mask"] | np.uint8(255)
    with pytest.raises(AggregationError, match="mask: 4 bits expected, 40 came"):
        unsqueeze(wire, shapes_of(step), "topk", 0.1)


def test_zeros_stay_zeros():
    step = {"w": np.zeros((2, 3))}
    for how in ("int8", "topk"):
        assert not flat(unsqueeze(squeeze(step, how, 0.5), shapes_of(step), how, 0.5)).any()


@pytest.mark.parametrize(("how", "keep"), [("int8", 1.0), ("topk", 0.1)])
def test_over_rounds_nothing_is_lost(how, keep):
    memory, sent, total = {}, np.zeros(40), np.zeros(40)
    for number in range(1, 30):
        update = weights(0.1)
        wire, memory = packed(plan(how, keep), update, memory, number, 7)
        sent = sent + flat(unsqueeze(wire, shapes_of(update), how, keep))
        total = total + flat(update)
    np.testing.assert_allclose(sent + memory["rest.a"], total, atol=1e-4)
    assert np.abs(total - sent).max() < np.abs(total).max()  # and what is left does not grow with the rounds


def test_a_round_that_is_asked_again_starts_from_the_rest_of_the_one_before():
    updates = [weights() for _ in range(3)]
    memory = {}
    for number in (1, 2):
        _, memory = packed(plan("topk"), updates[number - 1], memory, number, 7)
    third, after = packed(plan("topk"), updates[2], memory, 3, 7)
    again, after_again = packed(plan("topk"), updates[2], after, 3, 7)
    np.testing.assert_array_equal(third["delta"], again["delta"])
    np.testing.assert_array_equal(third["mask"], again["mask"])
    np.testing.assert_array_equal(after["rest.a"], after_again["rest.a"])


def test_another_runs_rest_is_not_this_ones():
    update = weights()
    fresh, _ = packed(plan("topk"), update, {}, 2, 8)
    _, memory = packed(plan("topk"), weights(), {}, 1, 7)
    other, _ = packed(plan("topk"), update, memory, 2, 8)
    np.testing.assert_array_equal(fresh["delta"], other["delta"])


def test_a_device_that_diverged_says_so_instead_of_sending():
    with pytest.raises(DataError, match="finite numbers expected"):
        packed(plan("int8"), {"w": np.array([np.inf])}, {}, 1, 7)


@pytest.mark.parametrize(("how", "keep"), [("int8", 1.0), ("topk", 0.2)])
def test_a_device_that_follows_every_round_holds_the_servers_view_bit_for_bit(how, keep):
    views, memory, state = Views(plan(how, keep), {}), {}, weights()
    for number in range(1, 12):
        views.next(state)
        wire = views.to(5)
        assert ("delta" in wire) == (number > 1)
        held, memory = received(plan(how, keep), wire, memory, number, 9)
        for name, values in held.items():
            np.testing.assert_array_equal(values, views.view[name].astype(np.float32))
        views.answered([5])
        state = {
            name: values + 0.05 * RNG.standard_normal(values.shape).astype(np.float32) for name, values in state.items()
        }
    apart = np.abs(flat(views.view).astype(np.float64) - flat(state)).max()
    assert apart < 0.5  # of steps of .05 over twelve rounds: the view follows


def test_a_view_arrives_when_the_weights_hold_still():
    views, state = Views(plan("topk", 0.1), {}), weights()
    views.next({name: np.zeros_like(values) for name, values in state.items()})
    for _ in range(40):  # a tenth of 40 weights at a time, some of them again for what int8 left over
        views.next(state)
    np.testing.assert_allclose(flat(views.view), flat(state), atol=2e-3)


def test_who_missed_a_round_is_sent_everything():
    views, state = Views(plan("int8"), {}), weights()
    for number in (1, 2, 3):
        views.next(state)
        whole = {node: "delta" not in views.to(node) for node in (1, 2)}
        assert whole == {1: number == 1, 2: number != 2}
        views.answered([1] if number == 2 else [1, 2])


def test_a_device_that_lost_its_memory_says_so():
    views, state = Views(plan("int8"), {}), weights()
    views.next(state)
    views.answered([1])
    _, memory = received(plan("int8"), views.to(1), {}, 1, 9)
    views.next(state)
    with pytest.raises(DataError, match="weights of round 1 expected to add the change to, the device holds none"):
        received(plan("int8"), views.to(1), {}, 2, 9)
    with pytest.raises(DataError, match="weights of round 1 expected"):
        received(plan("int8"), views.to(1), memory, 2, 10)  # another run's
    received(plan("int8"), views.to(1), memory, 2, 9)


def test_a_resumed_run_sends_everything_and_it_is_the_same_view():
    one, state = Views(plan("int8"), {}), weights()
    one.next(state)
    one.answered([1])
    two = Views(plan("int8"), one.kept())
    later = {name: values * 1.1 for name, values in state.items()}
    one.next(later)
    two.next(later)
    assert "delta" in one.to(1)
    assert "delta" not in two.to(1)
    np.testing.assert_array_equal(flat(one.view), flat(two.to(1)))


def test_at_least_one_value_travels():
    assert [kept(size, 0.1) for size in (1, 10, 11, 100)] == [1, 1, 2, 10]


@pytest.mark.parametrize("how", ["int8", "topk"])
def test_the_first_view_costs_a_byte_a_weight_and_both_ends_hold_the_same_bits(how):
    views, state = Views(plan(how), {}), weights()
    views.next(state)
    wire = views.to(1)
    assert sum(values.nbytes for values in wire.values()) == 40 + 2 * 4
    held, _ = received(plan(how), wire, {}, 1, 9)
    for name, values in held.items():
        np.testing.assert_array_equal(values, views.view[name].astype(np.float32))
        # Half a step of int8, and what float16 cannot say of it.
        assert np.abs(values - state[name]).max() <= np.abs(state[name]).max() * (0.5 / 127 + 2**-11)


def test_what_the_first_view_left_out_is_in_the_next_difference():
    views, state = Views(plan("int8"), {}), weights()
    views.next(state)
    before = np.abs(flat(views.view) - flat(state)).max()
    views.next(state)
    assert np.abs(flat(views.view) - flat(state)).max() < before / 5


def test_first_weights_that_are_no_bytes_with_scales_are_refused():
    views = Views(plan("int8"), {})
    views.next(weights())
    wire = views.to(1)
    with pytest.raises(DataError, match="2 int8 arrays with a scale each expected"):
        received(plan("int8"), {**wire, "scales": wire["scales"][:1]}, {}, 1, 9)
    with pytest.raises(DataError, match="2 int8 arrays with a scale each expected"):
        received(plan("int8"), {**wire, "w0": wire["w0"].astype(np.float32)}, {}, 1, 9)
    with pytest.raises(DataError, match="finite numbers expected"):
        received(plan("int8"), {**wire, "scales": np.array([np.nan, 1], np.float32)}, {}, 1, 9)


@pytest.mark.parametrize("how", ["int8", "topk"])
def test_a_graph_travels_as_a_change_to_who_holds_the_view_and_whole_to_others(how):
    views, state = Views(plan(how), {}), weights()
    views.next(state)
    _, memory = received(plan(how), views.to(1), {}, 1, 9)
    views.answered([1])
    views.next({name: values + np.float32(0.1) for name, values in state.items()})
    graph = {**views.view, "r0": np.array([1], np.uint8)}
    small, whole = views.graph_to(1, graph), graph_whole(graph)
    assert views.graph_to(2, graph) is None
    assert sum(values.nbytes for values in small.values()) <= 40 + 2 * 4 + 1
    for told, kept_before in ((small, memory), (whole, {})):
        got, _ = graph_received(plan(how), told, kept_before, 2, 9)
        assert got.keys() == graph.keys()
        for name, values in graph.items():
            np.testing.assert_array_equal(got[name], values)
    with pytest.raises(DataError, match="the device holds none of them"):
        graph_received(plan(how), small, {}, 2, 9)


def test_a_graph_of_other_weights_than_the_view_travels_whole():
    views, state = Views(plan("int8"), {}), weights()
    views.next(state)
    views.answered([1])
    views.next(state)
    graph = {**views.view, "b0": views.view["b0"] + np.float16(1), "r0": np.array([1], np.uint8)}
    assert views.graph_to(1, graph) is None


def test_a_graph_of_zeros_costs_little_and_what_is_no_graph_is_refused():
    graph = {"w0": np.zeros((300, 300), np.float16), "b0": np.ones(300, np.float16), "r0": np.array([0], np.uint8)}
    wire = graph_whole(graph)
    assert sum(values.nbytes for values in wire.values()) < 2_000  # of 180,000
    with pytest.raises(BundleError, match="graph: a deflated bundle expected"):
        graph_received(plan("none"), {"graph": wire["graph"] ^ np.uint8(255)}, {}, 1, 9)
    with pytest.raises(DataError, match="graph: one, or a change of the weights expected, w0 came"):
        graph_received(plan("none"), {"w0": graph["w0"]}, {}, 1, 9)
