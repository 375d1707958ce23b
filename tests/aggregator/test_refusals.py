from __future__ import annotations

import logging
from typing import Any

import pytest

from aggregator.refusals import Refusals
from transport.topics import Alert


def record(refusals: Any, now: Any, reason: Any = "round", client_id: Any = "dev") -> Any:
    return refusals.record(reason, client_id=client_id, text="because", now=now)


def test_the_first_refusal_is_told_at_once() -> None:
    (notice,) = record(Refusals(), 5.0)
    assert notice.address == Alert("refused-round")
    assert notice.retain
    assert (notice.message.count, notice.message.client_id) == (1, "dev")


def test_more_within_a_second_are_told_together_when_it_is_over() -> None:
    refusals = Refusals()
    record(refusals, 5.0)
    assert refusals.next_wakeup() is None
    assert [record(refusals, 5.0 + number / 100, client_id="evil") for number in range(50)] == [
        []
    ] * 50
    assert refusals.next_wakeup() == 6.0
    assert refusals.tick(5.99) == []
    (notice,) = refusals.tick(6.0)
    assert (notice.message.count, notice.message.client_id) == (51, "evil")
    assert refusals.tick(100.0) == []
    assert refusals.next_wakeup() is None


def test_each_reason_has_its_own_second() -> None:
    refusals = Refusals()
    assert record(refusals, 5.0)
    assert record(refusals, 5.0, reason="codec")


def test_a_flood_is_one_line_of_the_log_per_second(caplog: pytest.LogCaptureFixture) -> None:
    refusals = Refusals()
    with caplog.at_level(logging.WARNING):
        for number in range(300):
            record(refusals, 5.0 + number / 100)
    assert len(caplog.records) == 3
    assert "client=dev reason=round" in caplog.text
