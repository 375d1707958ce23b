from __future__ import annotations

from aggregator.journal import RoundRecord, RoundState, Tally
from aggregator.ledger import Ledger


def test_seconds_pass_only_while_the_round_is_on() -> None:
    ledger = Ledger(RoundRecord(1, tally=Tally(seconds=5.0)))
    assert ledger.current(100.0).tally.seconds == 5.0
    ledger.run(100.0)
    assert ledger.current(103.0).tally.seconds == 8.0
    assert ledger.leave(104.0).tally.seconds == 9.0
    assert ledger.current(200.0).tally.seconds == 9.0


def test_an_attempt_asks_a_fresh_cohort_and_remembers_everybody_who_was_ever_asked() -> None:
    ledger = Ledger(RoundRecord(1))
    ledger.attempt(("b", "a"))
    ledger.decline("b")
    ledger.decline("a")
    ledger.accept("a")
    ledger.ask(("c",))
    assert ledger.record.cohort == ("a", "b", "c")
    assert ledger.record.declined == ("b",)
    ledger.leave(1.0)
    assert (ledger.record.cohort, ledger.record.declined) == ((), ())
    ledger.attempt(("d",))
    assert (ledger.record.attempt, ledger.record.cohort) == (2, ("d",))
    assert ledger.record.invited == ("a", "b", "c", "d")


def test_everything_is_counted() -> None:
    ledger = Ledger(RoundRecord(1))
    ledger.count_up(5)
    ledger.count_up(6)
    ledger.count_down(7)
    ledger.count_late()
    ledger.count_late(updates=3, dropped=2)
    ledger.keep_norms([2.5, 0.5])
    ledger.count_refused("round")
    ledger.count_refused("round")
    ledger.bar(("x", "y"))
    assert ledger.record.tally == Tally(11, 7, 0.0, 4, {"round": 2}, 2)
    assert ledger.record.norms == (2.5, 0.5)
    assert ledger.record.barred == ("x", "y")
    assert ledger.mark(RoundState.FROZEN, now=1.0).state is RoundState.FROZEN
    assert ledger.leave(1.0).state is RoundState.OPEN


def test_an_attempt_has_seconds_of_its_own_and_a_restart_gets_what_is_left() -> None:
    ledger = Ledger(RoundRecord(1))
    ledger.attempt(("a",))
    ledger.run(100.0)
    assert ledger.current(140.0).attempt_s == 40.0
    assert ledger.left_s(200.0) == 160.0
    assert ledger.left_s(45.0) == 30.0  # devices need the time to come back
    assert ledger.left_s(20.0) == 20.0
    ledger.leave(150.0)
    ledger.attempt(("a",))
    assert (ledger.record.attempt_s, ledger.record.tally.seconds) == (0.0, 50.0)


def test_a_round_is_saved_often_enough() -> None:
    ledger = Ledger(RoundRecord(1))
    assert ledger.next_save() is None
    assert not ledger.is_save_due(1e9)
    ledger.run(100.0)
    due = ledger.next_save()
    assert due == 130.0
    assert not ledger.is_save_due(129.0)
    assert ledger.is_save_due(due)
    ledger.current(due)
    assert ledger.next_save() == 160.0
