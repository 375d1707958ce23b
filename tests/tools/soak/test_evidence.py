"""A run is judged by receipts, by the trainers' own lines and by sums done anew."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tools.soak import evidence
from tools.soak.evidence import Evidence, SettledRow, check_exactly_once
from transport.control import RoundSummary
from transport.messages import Receipt, ReceiptState

WHOLE = Receipt(1, ReceiptState.ACCEPTED, "", frozenset({0, 1}), 2)


def summary(round_id: int, *, participants: int = 2) -> RoundSummary:
    return RoundSummary(
        run="r",
        round_id=round_id,
        version=round_id,
        participants=participants,
        complete=participants,
        partial=0,
        late=0,
        seconds=1.0,
        bytes_up=0,
        bytes_up_payload=0,
        bytes_up_fp32=0,
        bytes_down=0,
        train_loss=None,
        eval_version=0,
        eval_loss=None,
        eval_accuracy=None,
        eval_tokens=0,
        refused={},
    )


def row(client_id: str, round_id: int, *, uid: str = "", receipt: Receipt = WHOLE) -> SettledRow:
    return SettledRow(uid or f"{client_id}/{round_id}", round_id, client_id, receipt)


GOOD = Evidence(
    summaries=(summary(1), summary(2)),
    settled=tuple(row(name, number) for name in ("a", "b") for number in (1, 2)),
    trained={"a": (1, 2), "b": (1, 1, 2)},
    waiting={"a": 0, "b": 0},
)


def test_a_whole_run_has_nothing_wrong_even_where_a_round_was_trained_twice() -> None:
    assert check_exactly_once(GOOD, rounds=2) == []
    assert GOOD.accepted == 4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"summaries": (summary(1),)}, "rounds [1] are committed"),
        ({"summaries": (summary(1), summary(2, participants=1))}, "round 2 has 1 participants"),
        ({"settled": (*GOOD.settled, row("a", 1, uid="other"))}, "2 receipts for ('a', 1)"),
        ({"settled": GOOD.settled[1:]}, "a: trained [1, 2], settled [2]"),
        ({"trained": {"a": (1,), "b": (1, 2)}}, "a trained rounds [1]"),
        ({"waiting": {"a": 0, "b": 1}}, "b still waits"),
        (
            {
                "settled": (
                    row("a", 1, receipt=dataclasses.replace(WHOLE, accepted=frozenset({0}))),
                    *GOOD.settled[1:],
                )
            },
            "a round 1 is accepted",
        ),
        (
            {
                "settled": (
                    row("a", 1, receipt=dataclasses.replace(WHOLE, state=ReceiptState.LATE)),
                    *GOOD.settled[1:],
                )
            },
            "a round 1 is late",
        ),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, Any], words: str) -> None:
    assert words in "; ".join(check_exactly_once(dataclasses.replace(GOOD, **change), rounds=2))


@pytest.mark.parametrize("count", [evidence.committed_version, evidence.waiting_updates])
def test_a_service_that_has_not_begun_has_left_nothing(
    count: Callable[[Path], int], tmp_path: Path
) -> None:
    assert count(tmp_path) == 0
    (tmp_path / evidence.JOURNAL_FILE).touch()
    (tmp_path / evidence.OUTBOX_FILE).touch()
    assert count(tmp_path) == 0
