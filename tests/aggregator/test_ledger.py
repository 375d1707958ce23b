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
    ledger.count_refused("round")
    ledger.count_refused("round")
    ledger.bar(("x", "y"))
    assert ledger.record.tally == Tally(11, 7, 0.0, 1, {"round": 2})
    assert ledger.record.barred == ("x", "y")
    assert ledger.mark(RoundState.FROZEN, now=1.0).state is RoundState.FROZEN
    assert ledger.leave(1.0).state is RoundState.OPEN
