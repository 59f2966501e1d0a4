"""The player: recordings in order, in time, again when asked to, with the battery beside the model's channels."""

import numpy as np
import pytest

from covey.errors import DataError
from edge.sources.player import Begin, End, Player, Samples


@pytest.fixture
def files(tmp_path):
    (tmp_path / "a.csv").write_text("x;y;battery\n" + "".join(f"{i};{2 * i};3.7\n" for i in range(6)))
    (tmp_path / "b.csv").write_text("x;y\n" + "".join(f"{i};0\n" for i in range(3)))
    return [str(tmp_path / "a.csv"), str(tmp_path / "b.csv")]


def play(player, until):
    """Everything handed out up to `until` seconds, one step a tenth of a second."""
    out = []
    for step in range(round(until * 10) + 1):
        out += player.take(step / 10, 1000.0 + step / 10)
    return out


def test_recordings_come_in_order_and_end(files):
    out = play(Player(files, 0, 1.0), 2.0)
    assert [type(item) for item in out] == [Begin, Samples, End, Begin, Samples, End]
    assert [item.name for item in out if isinstance(item, End)] == files


def test_nothing_is_handed_out_before_its_time(files):
    player = Player(files[:1], 2.0, 1.0)  # rows are 1 s apart: at twice the speed, row n is due at n / 2
    given = [(t / 10, len(i.rows)) for t in range(40) for i in player.take(t / 10, 0.0) if isinstance(i, Samples)]
    assert given == [(0.0, 1), (0.5, 1), (1.0, 1), (1.5, 1), (2.0, 1), (2.5, 1)]


def test_a_repeated_playlist_begins_again_and_its_clock_goes_on(files):
    player = Player(files, 0, 1.0, 5000.0, repeat=True)
    starts = [i.start_s for i in play(player, 1.0) if isinstance(i, Samples)]
    # a: 6 s and 1 s between, b: 3 s and 1 s between
    assert starts[:4] == [5000.0, 5007.0, 5011.0, 5018.0]
    assert not player.done


def test_extra_channels_come_behind_where_a_recording_has_them(files):
    player = Player(files, 0, 0.0)
    player.columns, player.extras = ("y", "x"), ("battery",)
    out = play(player, 1.0)
    assert [i.channels for i in out if isinstance(i, Begin)] == [("y", "x", "battery"), ("y", "x")]
    first = next(i for i in out if isinstance(i, Samples))
    np.testing.assert_allclose(first.rows[1], [2.0, 1.0, 3.7], rtol=1e-6)


def test_what_is_missing_is_told_before_and_while_playing(files, tmp_path):
    with pytest.raises(DataError, match=r"no such file: .*none\.csv"):
        Player([*files, str(tmp_path / "none.csv")], 0, 0.0)
    player = Player(files, 0, 0.0)
    player.columns, player.extras = ("z",), ("battery",)
    with pytest.raises(DataError, match="z"):
        player.take(0.0, 0.0)


def test_portions_that_follow_each_other_are_joined_and_a_gap_stays_one():
    import numpy as np

    from edge.sources import End, Samples, joined

    rows = np.arange(12, dtype=np.float32).reshape(6, 2)
    one = joined([Samples(rows[:2], 10.0, gap=True)], [Samples(rows[2:4], 12.0, gap=False)])
    one = joined(one, [Samples(rows[4:], 20.0, gap=True), End("f")])
    assert [(type(item).__name__, getattr(item, "start_s", None), getattr(item, "gap", None)) for item in one] == [
        ("Samples", 10.0, True),
        ("Samples", 20.0, True),
        ("End", None, None),
    ]
    assert one[0].rows.tolist() == rows[:4].tolist()
