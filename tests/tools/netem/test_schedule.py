"""A lab's links in time, on a virtual clock."""

from __future__ import annotations

from tools.netem.profile import Direction, Phase, Profile
from tools.netem.schedule import LinkChange, Schedule

STEADY = Profile(title="steady", up=Direction(delay_ms=1))
FLAPPING = Profile(title="flapping", phases=(Phase(for_s=20), Phase(for_s=10, cut=True)))


def numbers(changes: list[LinkChange]) -> dict[int, bool]:
    return {change.number: change.link.cut for change in changes}


def test_a_new_profile_begins_at_once_and_only_once() -> None:
    schedule = Schedule()
    schedule.apply([1, 2], STEADY, now=5.0)
    assert schedule.changes(5.0) == [
        LinkChange(number, STEADY.link, is_new=True) for number in (1, 2)
    ]
    assert schedule.changes(6.0) == []
    assert schedule.next_wakeup(6.0) is None


def test_phases_count_from_the_moment_they_were_applied() -> None:
    schedule = Schedule()
    schedule.apply([1], FLAPPING, now=100.0)
    schedule.apply([2], FLAPPING, now=105.0)
    schedule.changes(105.0)
    assert schedule.next_wakeup(105.0) == 120.0
    assert numbers(schedule.changes(120.0)) == {1: True}
    assert schedule.next_wakeup(120.0) == 125.0
    assert numbers(schedule.changes(125.0)) == {2: True}
    assert numbers(schedule.changes(130.0)) == {1: False}


def test_a_cut_by_hand_lasts_until_it_is_restored_whatever_the_phases_do() -> None:
    schedule = Schedule()
    schedule.apply([1], FLAPPING, now=0.0)
    schedule.changes(0.0)
    schedule.cut([1])
    assert numbers(schedule.changes(1.0)) == {1: True}
    assert schedule.changes(31.0) == []
    schedule.restore([1])
    assert numbers(schedule.changes(32.0)) == {1: False}


def test_a_cut_outlives_a_change_of_profile() -> None:
    schedule = Schedule()
    schedule.apply([1], STEADY, now=0.0)
    schedule.cut([1])
    schedule.changes(0.0)
    schedule.apply([1], FLAPPING, now=1.0)
    (change,) = schedule.changes(1.0)
    assert change.link.cut
    assert change.is_new


def test_the_same_profile_again_begins_again() -> None:
    schedule = Schedule()
    schedule.apply([1], FLAPPING, now=0.0)
    schedule.changes(25.0)
    schedule.apply([1], FLAPPING, now=25.0)
    (change,) = schedule.changes(25.0)
    assert change.is_new
    assert not change.link.cut
