"""A recording scored row by row by a bundle that adapts: the alarm of a new level ends, the threshold column stays."""

from __future__ import annotations

import msgspec
import numpy as np

from covey.bundle import Adapt, read_bundle
from edge.loading import choose_runtime
from edge.scoring.rows import score_rows
from edge.scoring.runtimes import open_runtime
from edge.scoring.scorer import Scorer
from edge.sources import Recording
from edge_bundles import CHANNELS, make_bundle


def test_rows_of_a_new_level_are_in_alarm_until_the_hold_is_over(tmp_path):
    make_bundle(tmp_path / "m.covey")
    bundle = read_bundle(tmp_path / "m.covey")
    scoring = msgspec.structs.replace(bundle.manifest.scoring, adapt=Adapt(hold_windows=40, hold_share=0.0))
    manifest = msgspec.structs.replace(bundle.manifest, scoring=scoring)
    runtime = choose_runtime(bundle, ())
    network = open_runtime(runtime, bundle.model(runtime))
    samples = np.random.default_rng(0).standard_normal((4000, 2)).astype(np.float32) * 0.5
    samples[400:] += 3.0
    recording = Recording("r", CHANNELS, 1.0, samples, ((0, len(samples)),))
    static = score_rows(recording, Scorer(manifest, network, runtime, None))
    own = score_rows(recording, Scorer(manifest, network, runtime, None, adaptive=True))
    assert static.alarm[420:].all()
    assert not own.alarm[:400].any()
    # 43 windows of 4 rows fill the count of 40, about as many more as are not above
    assert own.alarm[420 : 400 + 4 * 42].all()
    assert not own.alarm[400 + 4 * 80 :].any()
    assert own.threshold == static.threshold
    assert next(iter(own.lines())) == "row,score,threshold,alarm\n"
