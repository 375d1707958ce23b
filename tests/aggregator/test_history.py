"""Which earlier rounds still matter to the open one, before and after a restart."""

from __future__ import annotations

from typing import Any

import pytest

from aggregator.announcements import Announcer, RunFacts
from aggregator.history import History
from aggregator.journal import EARLIER_ROUNDS, RoundRecord


@pytest.fixture
def announcer_for(make_rig: Any, layout: Any, base_digest: Any) -> Any:
    def build(**changes: Any) -> Announcer:
        values = {"codec": "fstq-r", "bits_per_coordinate": {"first": 8, "last": 64}}
        config = make_rig(rounds=20, **(values | changes)).config
        return Announcer(config, RunFacts("a" * 32, 1, "s", "tiny", base_digest, layout), "0")

    return build


def record(round_id: int, *, norms: Any = ()) -> RoundRecord:
    return RoundRecord(round_id, invited=(f"d{round_id}", "x"), barred=("x",), norms=norms)


def test_a_late_update_is_judged_by_the_terms_of_its_own_round(announcer_for: Any) -> None:
    announcer = announcer_for(max_staleness=2)
    history = History(announcer, [record(1)])
    for round_id in (2, 3, 4):
        history.committed(record(round_id))
    restored = History(announcer, [record(round_id) for round_id in (1, 2, 3, 4)])
    for each in (history, restored):
        terms = each.terms(record(5))
        assert sorted(terms.earlier) == [3, 4]
        own = terms.of(3)
        assert own is not None
        assert (own.round_id, own.invited) == (3, {"d3"})
        assert own.update_bytes < terms.update_bytes
        assert terms.of(2) is terms.of(6) is None
        assert terms.of(5) is terms


@pytest.mark.parametrize("late", ["merge", "drop"])
def test_other_policies_take_nothing_from_earlier_rounds(announcer_for: Any, late: str) -> None:
    history = History(announcer_for(late=late), [record(4)])
    assert history.terms(record(5)).earlier == {}
    assert history.oldest_taken(5) == 5


def test_after_the_last_round_there_is_nothing_to_take_part_in(announcer_for: Any) -> None:
    history = History(announcer_for(), [record(19), record(20)])
    assert history.oldest_taken(20) == 16
    assert history.oldest_taken(21) == 21
    assert history.terms(record(21)).earlier == {}


def test_the_bound_follows_the_norms_of_the_newest_rounds(announcer_for: Any) -> None:
    rounds = [record(n, norms=(float(n), float(n))) for n in range(1, 11)]
    history = History(announcer_for(norm_factor=3.0), rounds)
    assert history.norm_bound() == 3.0 * 6.5  # rounds 3 to 10
    assert History(announcer_for(norm_factor=None), rounds).norm_bound() is None


def test_only_so_many_rounds_are_kept(announcer_for: Any) -> None:
    history = History(announcer_for(), [record(n) for n in range(1, 40)])
    assert len(history._records) == EARLIER_ROUNDS
