"""Whatever it is given, a decoder gives a value or one line; see engine.py, and decoders.py for which."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz.decoders import DECODERS
from fuzz.engine import EXAMPLES, PROFILE, Written, hold, nearly

WRITTEN = Written()
SLOW = 10  # times fewer examples


@pytest.mark.timeout(3600 if EXAMPLES else 120)
@pytest.mark.parametrize("decoder", DECODERS, ids=[one.name for one in DECODERS])
def test_a_decoder_gives_a_value_or_one_line_and_leaves_the_rest_alone(decoder, tmp_path):
    if decoder.name in ("mavlink", "tlog"):
        pytest.importorskip("pymavlink")
    seeds = decoder.seeds(tmp_path)
    for seed in seeds:  # a right example is no error, but for those that are made to be empty
        hold(decoder.decode, tmp_path, seed, WRITTEN)
    profile = (
        PROFILE if not decoder.slow else type(PROFILE)(PROFILE, max_examples=max(15, PROFILE.max_examples // SLOW))
    )

    @profile
    @given(st.data())
    def check(data):
        hold(decoder.decode, tmp_path, data.draw(nearly(seeds)), WRITTEN)

    check()
