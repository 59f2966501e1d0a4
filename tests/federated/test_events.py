"""Lines of a run: numbered without gaps, whole after a power cut, one writer, and what people see of them."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from covey import wire
from covey.errors import AggregationError, UsageError
from covey.rounds import Progress, table
from federated import events
from federated.checkpoint import Round, figures_of
from federated.events import Events, follow, read
from federated.strategy import Answers


def test_lines_are_numbered_without_gaps_over_two_processes_lives(tmp_path):
    with Events(tmp_path) as first:
        first.say("started", detail="pca local")
        run = first.run
    with Events(tmp_path) as second:
        second.say("resumed")
    assert [(one.seq, one.kind, one.run) for one in read(tmp_path / events.NAME)] == [
        (1, "started", run),
        (2, "resumed", run),
    ]


def test_a_line_cut_short_is_cut_off(tmp_path):
    with Events(tmp_path) as one:
        one.say("started")
        one.say("asked", phase="describe")
    path = tmp_path / events.NAME
    path.write_bytes(path.read_bytes()[:-9])
    with Events(tmp_path) as again:
        again.say("resumed")
    assert [(one.seq, one.kind) for one in read(path)] == [(1, "started"), (2, "resumed")]


def test_a_folder_has_one_writer_and_shows_that_it_has(tmp_path):
    assert not events.at_work(tmp_path)
    with Events(tmp_path):
        assert events.at_work(tmp_path)
        with pytest.raises(UsageError, match="another run works in it"):
            Events(tmp_path)
    assert not events.at_work(tmp_path)


def test_a_run_that_is_not_to_go_on_leaves_a_used_folder_as_it_is(tmp_path):
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(UsageError, match="give --resume"):
        Events(tmp_path, resume=False)
    assert not (tmp_path / events.NAME).exists()


def test_what_ends_a_run_is_its_last_line(tmp_path):
    def end():
        with Events(tmp_path) as one:
            one.say("started")
            raise AggregationError("round 1: too few")

    with pytest.raises(AggregationError):
        end()
    last = events.read_last(tmp_path / events.NAME)
    assert last is not None
    assert (last.kind, last.detail) == ("failed", "round 1: too few")
    events.tell_failure(tmp_path, "said twice")
    assert len(read(tmp_path / events.NAME)) == 2


def test_every_device_asked_has_a_line(tmp_path):
    with Events(tmp_path) as one:
        one.answers("round 2", Answers({"b": {}, "a": {}}, {"c": "norm"}, ["d"], 1.0), 2)
    assert [(e.kind, e.device, e.round, e.phase) for e in read(tmp_path / events.NAME)] == [
        ("answered", "a", 2, "round 2"),
        ("answered", "b", 2, "round 2"),
        ("refused", "c", 2, "round 2"),
        ("missing", "d", 2, "round 2"),
    ]


def test_a_follower_gets_whole_lines_only_and_all_of_them(tmp_path):
    path, stop = tmp_path / events.NAME, threading.Event()
    path.write_bytes(b'{"a":1}\n{"b"')
    got = []
    lines = follow(path, 0, stop)
    got.append(next(lines))
    with path.open("ab") as file:
        file.write(b":2}\n")
    stop.set()
    got += list(lines)
    assert got == [b'{"a":1}', b'{"b":2}']


def test_a_loss_is_the_mean_over_windows():
    # 10 windows at 1.0 and 30 at 3.0: (10 + 90) / 40
    updates = {
        "a": {"loss": np.array([1.0]), "windows": np.array([10])},
        "b": {"loss": np.array([3.0]), "windows": np.array([30])},
    }
    record = Round(1, 2, {}, [], 40, 5, 6, 0.5)
    assert figures_of(record, updates)["loss"] == 2.5
    assert "loss" not in figures_of(record, {"a": {"windows": np.array([10])}})


def event(seq, kind, **fields):
    return wire.RoundEvent("0" * 16, seq, 0.0, kind, **fields)


def test_the_table_shows_progress_and_who_is_left_out():
    seen = [
        event(1, "started", detail="pca flower", figures={"rounds": 2.0}),
        event(2, "asked", round=1, phase="round 1", figures={"devices": 3.0}),
        event(3, "answered", round=1, device="a"),
        event(4, "missing", round=1, device="b", detail="no answer in time"),
        event(5, "round", round=1, figures={"clients": 1.0, "missing": 1.0, "windows": 7.0, "seconds": 2.0}),
        event(6, "asked", round=2, phase="round 2", figures={"devices": 3.0}),
        event(7, "answered", round=2, device="a"),
    ]
    lines = table(seen, at_work=True)
    assert "1 of 2 rounds" in lines[0]
    assert lines[2].split() == ["1", "1", "1", "7", "-", "2.00"]
    assert lines[3].strip() == "b: no answer in time"
    assert lines[-1] == "round 2: 1 of 3 devices have answered"
    assert "killed?" in table(seen, at_work=False)[-1]
    over = Progress()
    for one in [*seen, event(8, "failed", detail="round 2: too few")]:
        over.take(one)
    assert over.over
    assert over.lines(at_work=False)[-1] == "failed: round 2: too few"
