from __future__ import annotations

from datetime import time

import pytest
from pydantic import ValidationError

from agent.eligibility import Eligibility, EligibilityConfig, Reading
from agent.pauses import MAX_WORDS, OperatorHold, Pauses


def hot() -> Pauses:
    pauses = Pauses(Eligibility(EligibilityConfig(max_temp_c=85)))
    pauses.observe(Reading(time(12), temp_c=86.0), training=False, now=0.0)
    return pauses


def test_nothing_holds_by_default() -> None:
    pauses = Pauses()
    assert not pauses.is_paused
    assert not pauses.gives_up
    assert pauses.told(round_id=3, waiting=2) == ""


def test_the_device_pauses_by_itself() -> None:
    pauses = hot()
    assert pauses.is_paused
    assert pauses.told() == "temperature: 86 °C, resumes below 80 °C"


def test_great_heat_gives_a_task_up() -> None:
    pauses = hot()
    for now in (1.0, 2.0):
        pauses.observe(Reading(time(12), temp_c=99.0), training=True, now=now)
    assert pauses.gives_up


@pytest.mark.parametrize(
    ("hold", "round_id", "waiting", "told"),
    [
        (OperatorHold(drains=False), 0, 0, "operator"),
        (OperatorHold(drains=False, words="new fan"), 0, 0, "operator: new fan"),
        (OperatorHold(drains=True), 0, 0, "drained"),
        (OperatorHold(drains=True, words="moves"), 0, 2, "drain: moves; 2 updates wait"),
        (
            OperatorHold(drains=True),
            7,
            1,
            "drain; round 7 is finished first; 1 update waits",
        ),
    ],
)
def test_an_operator_holds_it(hold: OperatorHold, round_id: int, waiting: int, told: str) -> None:
    pauses = Pauses(hold=hold)
    assert pauses.is_paused
    assert pauses.told(round_id=round_id, waiting=waiting) == told


def test_the_operator_comes_before_the_sensors() -> None:
    pauses = hot()
    pauses.hold = OperatorHold(drains=False, words="new fan")
    assert pauses.told() == "operator: new fan; temperature: 86 °C, resumes below 80 °C"
    pauses.hold = None
    assert pauses.is_paused


def test_words_are_bounded() -> None:
    with pytest.raises(ValidationError):
        OperatorHold(drains=True, words="x" * (MAX_WORDS + 1))
