from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator import cohort
from aggregator.cohort import Presence, cohort_size, sample_cohort
from transport.control import DeviceState, DeviceStatus

NAMES = [f"dev-{number}" for number in range(10)]


def status(state: Any, session: Any = "s") -> DeviceStatus:
    return DeviceStatus(state, session)


@pytest.mark.parametrize(
    ("goal", "over_selection", "size"), [(10, 1.3, 13), (1, 1.0, 1), (3, 1.34, 5), (10, 1.1, 11)]
)
def test_over_selection_rounds_up_but_not_past_float_noise(
    goal: Any, over_selection: Any, size: Any
) -> None:
    assert cohort_size(goal, over_selection=over_selection) == size


def test_a_device_arrives_when_it_comes_online_resumes_or_restarts() -> None:
    presence = Presence()
    assert presence.receive("a", status(DeviceState.IDLE))
    assert not presence.receive("a", status(DeviceState.TRAINING))
    assert not presence.receive("a", status(DeviceState.PAUSED))
    assert presence.receive("a", status(DeviceState.IDLE))
    assert presence.receive("a", status(DeviceState.IDLE, "after a restart"))
    assert not presence.receive("a", status(DeviceState.LOST, "after a restart"))
    assert presence.receive("a", status(DeviceState.IDLE, "after a restart"))


def test_only_those_that_are_online_and_not_paused_may_train() -> None:
    presence = Presence()
    for name, state in zip(NAMES, DeviceState, strict=False):
        presence.receive(name, status(state))
    states = dict(zip(NAMES, DeviceState, strict=False))
    gone = {DeviceState.PAUSED, DeviceState.OFFLINE, DeviceState.LOST}
    assert presence.eligible() == tuple(
        sorted(name for name, state in states.items() if state not in gone)
    )
    left = {name for name in NAMES if presence.has_left(name)}
    assert {states[name] for name in left} == {DeviceState.OFFLINE, DeviceState.LOST}


def test_a_device_whose_status_is_cleared_is_forgotten() -> None:
    presence = Presence()
    presence.receive("a", status(DeviceState.IDLE))
    assert not presence.receive("a", None)
    assert presence.eligible() == ()
    assert not presence.has_left("a")
    presence.receive("b", status(DeviceState.IDLE))
    presence.forget()
    assert presence.eligible() == ()


def test_the_number_of_devices_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cohort, "MAX_DEVICES", 2)
    presence = Presence()
    assert [presence.receive(name, status(DeviceState.IDLE)) for name in "abc"] == [
        True,
        True,
        False,
    ]
    assert presence.eligible() == ("a", "b")


@given(st.sets(st.sampled_from(NAMES)), st.integers(-1, 12), st.integers(0, 99))
@settings(deadline=None, max_examples=60)
def test_a_sample_is_of_the_eligible_and_the_same_for_the_same_seed(
    eligible: Any, size: Any, seed: Any
) -> None:
    def sample() -> tuple[str, ...]:
        return sample_cohort(eligible, size=size, seed=seed, round_id=1, attempt=1)

    assert sample() == sample()
    assert set(sample()) <= eligible
    assert len(sample()) == min(max(size, 0), len(eligible))


def test_every_device_is_sampled_about_as_often() -> None:
    counts = Counter()
    for round_id in range(2000):
        counts.update(sample_cohort(NAMES, size=3, seed=1, round_id=round_id, attempt=1))
    assert all(abs(counts[name] - 600) < 100 for name in NAMES)  # 5 standard deviations


def test_seed_round_and_attempt_each_change_the_sample() -> None:
    def sample(seed: Any, round_id: Any, attempt: Any) -> tuple[str, ...]:
        return sample_cohort(NAMES, size=5, seed=seed, round_id=round_id, attempt=attempt)

    first = sample(1, 1, 1)
    for change in range(3):
        others = {sample(*(1 + (number if at == change else 0) for at in range(3)))
                  for number in range(1, 9)}  # fmt: skip
        assert others != {first}


def test_a_newcomer_moves_nobody_who_was_excluded_before() -> None:
    first = sample_cohort(NAMES[:5], size=3, seed=1, round_id=1, attempt=1)
    more = sample_cohort(NAMES, size=2, seed=1, round_id=1, attempt=1, exclude=first)
    assert not set(first) & set(more)


def test_those_that_come_last_are_chosen_only_where_others_are_few() -> None:
    last = NAMES[:6]
    for size in range(11):
        chosen = sample_cohort(NAMES, size=size, seed=1, round_id=1, attempt=1, last=last)
        assert len(set(chosen) - set(last)) == min(size, 4)
        assert len(chosen) == size


def test_a_silent_device_stays_eligible_and_arrives_with_its_next_status() -> None:
    presence = Presence()
    presence.receive("a", status(DeviceState.IDLE))
    presence.fell_silent(("a",))
    assert (presence.silent, presence.eligible()) == ({"a"}, ("a",))
    assert presence.receive("a", status(DeviceState.IDLE))
    assert not presence.silent
    assert not presence.receive("a", status(DeviceState.IDLE))


def test_any_message_is_a_sign_of_life_and_a_new_connection_a_new_start() -> None:
    presence = Presence()
    presence.fell_silent(("a", "b"))
    assert presence.heard("a")
    assert not presence.heard("a")
    presence.forget()
    assert not presence.silent


gone_or_not = st.sampled_from([*DeviceState, None])
changes = st.one_of(
    st.tuples(st.sampled_from(NAMES[:4]), gone_or_not, st.sampled_from(["s1", "s2"])), st.none()
)


@given(st.lists(changes, max_size=60))
@settings(deadline=None, max_examples=200)
def test_who_is_eligible_is_what_the_last_statuses_say(script: list[Any]) -> None:
    """Against the plain definition, with clones and lost connections."""
    presence = Presence()
    for step in script:
        if step is None:
            presence.forget()
        else:
            client_id, state, session = step
            presence.receive(client_id, status(state, session) if state else None)
        plain = tuple(
            name
            for name, seen in sorted(presence._seen.items())
            if seen.takes_part and name not in presence.cloned
        )
        assert (presence.eligible(), presence.eligible_count) == (plain, len(plain))
