"""From windows to scores, worked by hand with networks of a line each."""

import numpy as np
import pytest

from covey.bundle import read_bundle
from covey.sketch import Sketch
from edge.scoring.scorer import Scorer, Smoother, normalise, raw_scores
from edge.scoring.windows import Cutter
from edge_bundles import D, make_bundle


class Identity:
    def run(self, x):
        return x


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    path = tmp_path_factory.mktemp("b") / "m.covey"
    make_bundle(path)
    return read_bundle(path).manifest


def with_scoring(manifest, **changed):
    import msgspec

    scoring = msgspec.structs.replace(manifest.scoring, **changed)
    return msgspec.structs.replace(manifest, scoring=scoring)


def scorer(manifest):
    return Scorer(manifest, Identity(), next(iter(manifest.defaults.thresholds)), None)


def windows(manifest, samples):
    return Cutter(manifest.inputs).push(np.asarray(samples, np.float32), 0.0)


def test_normalising_is_affine_clipped_and_a_missing_number_is_the_worst():
    phi = np.array([[3.0, -100.0, np.nan, np.inf]], np.float32)
    z = normalise(phi, np.array([1.0, 0, 0, 0]), np.array([4.0, 1, 1, 1]), 8.0)
    assert z.tolist() == [[0.5, -8.0, 8.0, 8.0]]


def test_the_score_is_the_mean_square_of_the_output_or_of_the_residual():
    z, y = np.array([[1.0, 2.0]], np.float32), np.array([[3.0, 4.0]], np.float32)
    assert raw_scores("project", z, y).tolist() == [12.5]
    assert raw_scores("reconstruct", z, y).tolist() == [4.0]


def test_smoothing_is_causal_and_begins_anew_with_each_flight():
    smooth = Smoother(0.5)
    rows = np.array([[4.0], [0.0], [8.0], [2.0]])
    assert smooth(rows, np.array([0, 0, 0, 1]))[:, 0].tolist() == [4.0, 2.0, 5.0, 2.0]
    assert smooth(np.array([[4.0]]), np.array([1]))[0, 0] == 3.0  # the state goes on from call to call


def test_scores_do_not_depend_on_how_windows_are_grouped(manifest):
    manifest = with_scoring(manifest, smoothing=0.3)
    samples = np.random.default_rng(3).standard_normal((40, 2))
    whole = scorer(manifest).score(windows(manifest, samples)).score
    one, cutter = scorer(manifest), Cutter(manifest.inputs)
    parts = [one.score(cutter.push(samples[i : i + 6].astype(np.float32), 0.0)).score for i in range(0, 40, 6)]
    assert np.allclose(np.concatenate(parts), whole)


def test_out_of_range_input_scores_high_though_the_network_is_int8(manifest):
    scored = scorer(manifest).score(windows(manifest, np.full((4, 2), 1e9)))
    assert scored.raw.tolist() == [64.0]  # the clip, squared


def test_the_channel_with_the_greatest_error_is_named_and_shares_add_up(manifest):
    error = np.zeros(D)
    error[1], error[2] = 3.0, 1.0  # feature 1 is of channel ay, 2 of ax
    shares, top = scorer(manifest).attribute(error)
    assert top == "ay"
    assert dict(shares) == pytest.approx({"ay": 0.9, "ax": 0.1})
    shares, _ = scorer(manifest).attribute(np.zeros(D))
    assert [share for _, share in shares] == [0.0, 0.0]


def test_confidence_is_the_share_of_reference_scores_below(manifest):
    import msgspec

    reference = Sketch()
    reference.extend([1.0] * 50 + [3.0] * 49)
    name = next(iter(manifest.defaults.thresholds))
    defaults = msgspec.structs.replace(manifest.defaults, reference={name: reference.to_wire()})
    one = scorer(msgspec.structs.replace(manifest, defaults=defaults))
    assert one.confidence(2.0) == pytest.approx(1 - 50 / 100)
    assert one.confidence(10.0) == pytest.approx(1 - 1 / 100)
    assert one.confidence(0.0) == 0.0


def test_the_empty_batch_has_no_scores(manifest):
    scored = scorer(manifest).score(windows(manifest, np.empty((0, 2))))
    assert (scored.score.shape, scored.z.shape) == ((0,), (0, D))


class Sum:
    """Score = (sum of all features)^2: every channel takes part in every other's score."""

    def run(self, x):
        return x.sum(axis=1, keepdims=True).astype(np.float32)


def test_an_alarm_is_explained_by_trying_each_channel_made_normal(manifest):
    one = Scorer(manifest, Sum(), next(iter(manifest.defaults.thresholds)), None)
    # lags x channels (ax, ay), T = 4: sum over ax 4, over ay 2: raw 36; without ax 4, without ay 16
    z = np.array([1, 0.5] * 4, np.float32)
    shares, top = one.explain(z, z.astype(np.float64))
    assert shares == [("ax", pytest.approx(32 / 52)), ("ay", pytest.approx(20 / 52))]
    assert top == "ax"


def test_what_no_channel_alone_explains_keeps_its_z_scores_shares(manifest):
    one = Scorer(manifest, Sum(), next(iter(manifest.defaults.thresholds)), None)
    z = np.array([1, -1] * 4, np.float32)  # they cancel: nothing to explain
    error = np.array([2.0, 1.0] * 4)
    assert one.explain(z, error) == one.attribute(error)
