"""Stalls are found by progress alone, and named with their cause."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from aggregator.stalls import MAX_NAMED, NOTICE_INTERVAL_S, PAUSE_PER_DEVICE_S, STALLED, Stalls
from transport.control import DeviceState

S = DeviceState


def review(stalls: Stalls, now: float, states: dict[str, Any], *, silent: Any = ()) -> list[Any]:
    awaited = [name for name in states if name not in silent]
    published = stalls.review(now, awaited=awaited, silent=silent, state_of=states.get)
    assert all(output.address == STALLED and output.retain for output in published)
    return [output.message for output in published]


def asked(*names: str, now: float = 0.0, stall_s: float = 60.0) -> Stalls:
    stalls = Stalls(stall_s=stall_s)
    for name in names:
        stalls.moved(name, now)
    return stalls


@pytest.mark.parametrize(
    ("state", "cause"),
    [
        (S.OFFLINE, "offline"),
        (S.LOST, "offline"),
        (None, "offline"),
        (S.FETCHING, "fetching"),
        (S.TRAINING, "training"),
        (S.UPLOADING, "uploading"),
        (S.AWAITING_RECEIPT, "uploading"),
        (S.PAUSED, "paused"),
        (S.IDLE, "idle"),
    ],
)
def test_a_device_without_progress_is_named_with_what_it_last_did(state: Any, cause: str) -> None:
    stalls = asked("a")
    assert stalls.next_wakeup() == 60.0
    assert review(stalls, 59.9, {"a": state}) == []
    (notice,) = review(stalls, 60.0, {"a": state})
    assert notice.text == f"no progress: a {cause}"
    assert (notice.count, notice.client_id, stalls.count) == (1, "a", 1)


def test_no_device_stalls_while_its_bytes_move_however_long_it_takes() -> None:
    stalls = asked("a")
    for minute in range(100):
        stalls.moved("a", 50.0 * minute)
        assert review(stalls, 50.0 * minute + 49.0, {"a": S.UPLOADING}) == []
    assert stalls.next_wakeup() == 50.0 * 99 + 60.0


def test_a_device_that_moves_again_clears_the_alert_at_once() -> None:
    stalls = asked("a")
    review(stalls, 60.0, {"a": S.UPLOADING})
    assert stalls.next_wakeup() is None
    stalls.moved("a", 61.0)
    assert stalls.next_wakeup() == 61.0
    assert review(stalls, 61.0, {"a": S.UPLOADING}) == [None]
    assert stalls.next_wakeup() == 61.0 + 60.0


def test_a_silent_device_is_named_as_soon_as_the_round_counts_it_out() -> None:
    stalls = asked("a", "b")
    assert review(stalls, 60.0, {"a": S.IDLE, "b": S.TRAINING}, silent=("a",))[0].text == (
        "no progress: a silent, b training"
    )


def test_many_are_counted_and_a_few_are_named() -> None:
    names = [f"d{number}" for number in range(MAX_NAMED + 3)]
    stalls = asked(*names)
    (notice,) = review(stalls, 60.0, dict.fromkeys(names, S.TRAINING))
    assert notice.count == MAX_NAMED + 3
    assert notice.text.endswith("and 3 more")


def test_a_fleet_that_stalls_one_after_the_other_is_told_of_seldom_and_completely() -> None:
    stalls = Stalls(stall_s=60.0)
    for number in range(4):
        stalls.moved(f"d{number}", float(number))
    states = {f"d{number}": S.TRAINING for number in range(4)}
    said = []
    now = 0.0
    while (moment := stalls.next_wakeup()) is not None:
        now = max(now, moment)
        said += [notice.count for notice in review(stalls, now, states)]
    assert said == [1, 4]
    assert now == 60.0 + NOTICE_INTERVAL_S


def test_a_round_that_is_over_leaves_nobody_stalled() -> None:
    stalls = asked("a")
    stalls.over(1.0)
    assert stalls.next_wakeup() == 60.0  # nothing was told
    review(stalls, 60.0, {"a": S.LOST})
    stalls.over(70.0)
    assert review(stalls, 70.0, {}) == [None]
    assert stalls.next_wakeup() is None
    assert stalls.count == 0


def test_who_is_not_awaited_does_not_stall() -> None:
    stalls = asked("a", "b")
    (notice,) = review(stalls, 60.0, {"b": S.UPLOADING})
    assert notice.text == "no progress: b uploading"


def test_a_fleet_that_stalls_and_moves_one_by_one_is_not_looked_at_for_each() -> None:
    names = [f"d{number}" for number in range(400)]
    stalls = Stalls(stall_s=60.0)
    for number, name in enumerate(names):
        stalls.moved(name, number / 100)
    looks: list[float] = []
    states = dict.fromkeys(names, S.TRAINING)
    for step in range(2_000):  # to the end of the 80th second
        now = 60.0 + step / 100
        if now >= 70.0 and step - 1_000 < len(names):
            stalls.moved(names[step - 1_000], now)
        due = stalls.next_wakeup()
        if due is not None and due <= now:
            looks.append(now)
            review(stalls, now, states)
    assert stalls.count == 0
    pause_s = len(names) * PAUSE_PER_DEVICE_S
    assert all(b - a >= pause_s - 1e-9 for a, b in pairwise(looks))
    assert 20 <= len(looks) <= 8.0 / pause_s + 2  # in 8 seconds, one device in each hundredth
