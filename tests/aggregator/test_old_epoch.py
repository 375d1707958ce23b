"""Devices that have followed a later start are told of, and nothing more comes of it."""

from __future__ import annotations

from typing import Any

import pytest

from aggregator.old_epoch import OLD_EPOCH, OldEpoch
from aggregator.stalls import NOTICE_INTERVAL_S
from transport.control import AlertNotice, EvalResponse, TrainResponse

RUN = "a" * 32


def decline(*, epoch: int = 3, run: str = RUN, reason: str = "epoch") -> TrainResponse:
    return TrainResponse(run, 1, accepted=False, reason=reason, epoch=epoch)


@pytest.fixture
def old() -> OldEpoch:
    return OldEpoch(run=RUN, epoch=3)


def notice(outputs: Any) -> AlertNotice:
    (output,) = outputs
    assert output.address == OLD_EPOCH
    assert output.retain
    assert isinstance(output.message, AlertNotice)
    return output.message


def test_the_alert_names_devices_and_says_how_to_mend_it(old: OldEpoch) -> None:
    told = notice(old.answered("d1", decline(), now=0.0))
    assert (told.count, told.severity) == (1, "error")
    for part in ("d1", "epoch 3", "newest copy of the state folder", "new run"):
        assert part in told.text
    assert old.answered("d1", decline(), now=100.0) == []
    for number in range(8):
        assert old.answered(f"e{number}", decline(), now=1.0) == []
    told = notice(old.answered("e8", decline(), now=1.0 + NOTICE_INTERVAL_S))
    assert told.count == 10
    assert "and 5 more" in told.text


def test_the_alert_ends_when_all_follow_again(old: OldEpoch) -> None:
    notice(old.answered("d1", decline(), now=0.0))
    (cleared,) = old.answered("d1", TrainResponse(RUN, 2, accepted=True), now=1.0)
    assert (cleared.address, cleared.message) == (OLD_EPOCH, None)
    assert old.answered("d1", TrainResponse(RUN, 3, accepted=True), now=2.0) == []


def test_an_evaluation_is_declined_alike(old: OldEpoch) -> None:
    report = EvalResponse(RUN, 4, 0.0, 0, 0, "epoch", 3)
    assert not old.is_foreign(report)
    notice(old.answered("d1", report, now=0.0))


def test_what_another_aggregators_command_is_declined_for_is_foreign(old: OldEpoch) -> None:
    assert old.is_foreign(decline(epoch=2))
    assert old.is_foreign(decline(run="b" * 32))
    assert not old.is_foreign(decline())
    assert not old.is_foreign(decline(epoch=-1, reason="stale"))
    assert old.answered("d1", decline(epoch=2), now=0.0) == []
    assert old.answered("d1", decline(run="b" * 32), now=0.0) == []
