from __future__ import annotations

from aggregator.repair import Repair

WHOLE, DELTA = (1, False), (1, True)


def test_each_segment_is_repeated_once_per_interval() -> None:
    repair = Repair()
    assert repair.due(WHOLE, [0, 1], count=3, now=10.0) == {0, 1}
    assert repair.due(WHOLE, [1, 2], count=3, now=11.0) == {2}
    assert repair.due(WHOLE, [0, 1, 2], count=3, now=12.0) == {0, 1}


def test_segments_that_there_are_not_are_ignored() -> None:
    assert Repair().due(WHOLE, [2, 3, 99], count=3, now=0.0) == {2}


def test_every_form_of_every_version_has_its_own_interval() -> None:
    repair = Repair()
    assert repair.due(WHOLE, [0], count=3, now=10.0) == {0}
    assert repair.due(DELTA, [0], count=3, now=10.0) == {0}
    assert repair.due((2, True), [0], count=3, now=10.0) == {0}
    assert repair.due(DELTA, [0], count=3, now=11.9) == frozenset()


def test_what_was_sent_long_ago_is_forgotten() -> None:
    repair = Repair()
    for version in range(1000):
        repair.due((version, True), range(10), count=10, now=float(version))
    assert len(repair._sent_at) <= 3
