from __future__ import annotations

from aggregator.repair import Repair


def test_each_segment_is_repeated_once_per_interval() -> None:
    repair = Repair()
    assert repair.due(1, [0, 1], count=3, now=10.0) == {0, 1}
    assert repair.due(1, [1, 2], count=3, now=11.0) == {2}
    assert repair.due(1, [0, 1, 2], count=3, now=12.0) == {0, 1}


def test_segments_that_there_are_not_are_ignored() -> None:
    assert Repair().due(1, [2, 3, 99], count=3, now=0.0) == {2}


def test_a_new_version_starts_anew() -> None:
    repair = Repair()
    repair.due(1, [0], count=3, now=10.0)
    assert repair.due(2, [0], count=3, now=10.0) == {0}
