"""Recordings with truth are found by what is in them, wherever they lie; what is not of the set is passed over or told."""

from __future__ import annotations

import numpy as np
import pytest

from covey.errors import DataError, UsageError
from federated.evaluation.sets import flights, prefix_rows, servers, skab_files

MANIFEST = "file,drone,condition,label,family,motors,total_cut_mm\n"


def skab(path, rows=410, header="datetime;P;Q;anomaly;changepoint"):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"2020-01-01 00:00:{n % 60:02d};{n}.0;1.5;{int(n >= 405)}.0;0.0" for n in range(rows)]
    if "anomaly" not in header:
        lines = [line.rsplit(";", 2)[0] for line in lines]
    path.write_text("\n".join([header, *lines]) + "\n")


def server(path, width=3, rows=40, label_rows=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    x = np.ones((rows, width), np.float32)
    label = np.zeros(label_rows or rows, np.uint8)
    label[-3:] = 1
    np.savez_compressed(path, train=x, test=2 * x, label=label)


def test_skab_files_are_found_at_any_depth_in_natural_order(tmp_path):
    for name in ("data/valve2/10.csv", "data/valve2/2.csv", "data/other/1.csv", "data/.hidden/3.csv"):
        skab(tmp_path / name)
    skab(tmp_path / "data/anomaly-free/anomaly-free.csv", header="datetime;P;Q")
    (tmp_path / "realTweets.csv").write_text("timestamp,value\n2015-01-01 00:00:00,3\n")
    found, notes = skab_files(tmp_path)
    assert [one.name for one in found] == ["data/other/1", "data/valve2/2", "data/valve2/10"]
    assert notes == []
    one = found[0]
    assert one.channels == ["P", "Q"]
    assert one.normal.rows == (0, 400)
    assert one.judged_from == 400
    assert one.label.nonzero()[0].tolist() == [405, 406, 407, 408, 409]
    assert one.normal.read(one.channels).samples.shape == (400, 2)


def test_a_skab_file_with_nothing_to_judge_is_told_and_left_out(tmp_path):
    skab(tmp_path / "1.csv")
    skab(tmp_path / "2.csv", rows=400)
    found, notes = skab_files(tmp_path)
    assert [one.name for one in found] == ["1"]
    assert "2.csv: more than 400 rows" in notes[0]


def test_servers_of_one_width_are_one_fleet(tmp_path):
    for name, width in (("asd/omi-10", 19), ("asd/omi-9", 19), ("deep/er/machine-1-1", 38), ("mine", 3)):
        server(tmp_path / f"{name}.npz", width)
    np.savez(tmp_path / "weights.npz", w=np.ones(3))
    fleets = servers(tmp_path)
    assert {name: [one.name for one in fleet] for name, fleet in fleets.items()} == {
        "asd": ["asd/omi-9", "asd/omi-10"],
        "smd": ["deep/er/machine-1-1"],
        "fleet of 3 channels": ["mine"],
    }
    assert fleets["asd"][0].normal.read(None).samples[0, 0] == 1.0
    assert fleets["asd"][0].test.read(None).samples[0, 0] == 2.0
    assert fleets["asd"][0].judged_from == 0


def test_the_prefix_is_that_of_the_published_file_names():
    # 065_SMD_id_9_..._tr_737_1st_837 (machine-1-7), 063 tr_5923_1st_6506 (machine-2-1), 078 tr_500_1st_326.
    for rows, first, learned in ((23_697, 837, 737), (23_694, 6506, 5923), (23_703, 326, 500), (28_706, 10_609, 7176)):
        label = np.zeros(rows, bool)
        label[first : first + 20] = True
        assert prefix_rows(label) == learned


def test_with_prefix_a_server_learns_from_its_test_rows(tmp_path):
    server(tmp_path / "m.npz", rows=3000)
    (fleet,) = servers(tmp_path, prefix=True).values()
    assert fleet[0].normal.rows == (0, 750)
    assert fleet[0].judged_from == 750
    assert fleet[0].normal.read(None).samples[0, 0] == 2.0


def test_a_label_of_another_length_is_refused(tmp_path):
    server(tmp_path / "m.npz", label_rows=39)
    with pytest.raises(DataError, match=r"m\.npz: a label of 40 rows expected"):
        servers(tmp_path)


def test_flights_are_what_the_manifest_names(tmp_path):
    folder = tmp_path / "data" / "pad"
    (folder / "cut").mkdir(parents=True)
    (folder / "cut" / "E8_log1").write_bytes(b"\xbc")
    (folder / "manifest.csv").write_text(
        f"{MANIFEST}cut/E8_log1,E8,cut_M3_2mm,1,cut,M3,2.5\ncut/E8_log2,E8,cut,1,cut,M1+M3,3\n"
    )
    found, notes = flights(tmp_path)
    assert [(one.drone, one.healthy, one.rotor, one.cut_mm) for one in found] == [("E8", False, 2, 2.5)]
    assert "line 3: no file cut/E8_log2" in notes[0]
    (folder / "manifest.csv").write_text(f"{MANIFEST}cut/E8_log1,E8,cut,yes,cut,M3,2.5\n")
    with pytest.raises(DataError, match="line 2: a flight expected"):
        flights(tmp_path)


def test_a_folder_without_the_set_is_one_clear_line(tmp_path):
    for find in (skab_files, servers, flights):
        with pytest.raises(UsageError, match="expected"):
            find(tmp_path)
        with pytest.raises(UsageError, match="a folder expected, none there"):
            find(tmp_path / "nowhere")


def test_a_loop_of_links_is_walked_once(tmp_path):
    skab(tmp_path / "a" / "1.csv")
    (tmp_path / "a" / "again").symlink_to(tmp_path)
    found, _ = skab_files(tmp_path)
    assert len(found) == 1
