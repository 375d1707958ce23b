from __future__ import annotations

from aggregator.bulletin import Bulletin


def test_nothing_is_due_while_nothing_changes() -> None:
    bulletin = Bulletin()
    assert not bulletin.is_due(10.0)
    assert bulletin.next_wakeup() is None


def test_changes_are_told_at_most_once_per_second() -> None:
    bulletin = Bulletin()
    bulletin.changed()
    assert bulletin.is_due(10.0)
    bulletin.told(10.0)
    assert not bulletin.is_due(11.5)
    bulletin.changed()
    assert not bulletin.is_due(10.9)
    assert bulletin.next_wakeup() == 11.0
    assert bulletin.is_due(11.0)
