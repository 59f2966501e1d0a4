"""When the long run kills what: the kills asked for, spread over all parts and over the whole run."""

from __future__ import annotations

from chaos.million import WEIGHTS, schedule


def test_the_kills_asked_for_are_drawn_and_spread_over_all_parts_and_the_whole_run() -> None:
    moments = schedule(1, 1_000_000, 110)
    parts = [part for due in moments for part in due.parts]
    assert len(parts) == 110
    assert set(parts) == set(WEIGHTS)
    assert min(parts.count(part) for part in WEIGHTS) >= 3
    assert [due.written for due in moments] == sorted(due.written for due in moments)
    tenths = [sum(due.written // 100_000 == n for due in moments) for n in range(10)]
    assert all(tenths)
    assert moments[-1].written <= 980_000
    assert any(len(due.parts) == 2 for due in moments)
    assert all(len(set(due.parts)) == len(due.parts) for due in moments)


def test_a_seed_draws_the_same_moments_and_another_one_others() -> None:
    assert schedule(1, 1_000, 50) == schedule(1, 1_000, 50)
    assert schedule(1, 1_000, 50) != schedule(2, 1_000, 50)
