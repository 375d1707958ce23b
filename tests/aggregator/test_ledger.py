from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.journal import RoundRecord, RoundState, Tally
from aggregator.ledger import Ledger


def test_seconds_pass_only_while_the_round_is_on() -> None:
    ledger = Ledger(RoundRecord(1, tally=Tally(seconds=5.0)))
    assert ledger.current(100.0).tally.seconds == 5.0
    ledger.run(100.0)
    assert ledger.current(103.0).tally.seconds == 8.0
    assert ledger.seconds(103.5) == 8.5
    assert ledger.leave(104.0).tally.seconds == 9.0
    assert ledger.seconds(150.0) == 9.0
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


names = st.sets(st.sampled_from("abcdef"), max_size=4)
name = st.sampled_from("abcdef")
counts = st.integers(0, 99)
steps = st.one_of(
    st.tuples(st.sampled_from(["attempt", "ask", "bar"]), names),
    st.tuples(st.sampled_from(["decline", "accept"]), name),
    st.tuples(st.sampled_from(["count_up", "count_down", "wait", "count_late"]), counts),
    st.tuples(st.just("count_refused"), st.sampled_from(["round", "uid"])),
)


def plainly(record: RoundRecord, step: str, value: Any) -> RoundRecord:
    """What a step does to a record, by definition."""
    tally = record.tally
    match step:
        case "attempt":
            fresh = replace(
                record, attempt=record.attempt + 1, attempt_s=0.0, cohort=(), declined=()
            )
            return plainly(fresh, "ask", value)
        case "ask":
            cohort = tuple(sorted({*record.cohort, *value}))
            invited = tuple(sorted({*record.invited, *value}))
            return replace(record, cohort=cohort, invited=invited)
        case "bar":
            return replace(record, barred=tuple(sorted({*record.barred, *value})))
        case "decline":
            return replace(record, declined=tuple(sorted({*record.declined, value})))
        case "accept":
            declined = tuple(sorted({*record.declined} - {value}))
            return replace(record, declined=declined)
        case "count_up":
            tally = replace(tally, bytes_up=tally.bytes_up + value)
        case "count_down":
            tally = replace(tally, bytes_down=tally.bytes_down + value)
        case "count_late":
            tally = replace(tally, late=tally.late + value, dropped=tally.dropped + value)
        case "count_refused":
            refused = {**tally.refused, value: tally.refused.get(value, 0) + 1}
            tally = replace(tally, refused=refused)
        case "wait":
            record = replace(record, attempt_s=record.attempt_s + value)
            tally = replace(tally, seconds=tally.seconds + value)
    return replace(record, tally=tally)


@given(st.lists(steps, max_size=40))
@settings(deadline=None, max_examples=200)
def test_the_record_is_what_all_steps_together_make_of_it(script: list[tuple[str, Any]]) -> None:
    record = RoundRecord(1, invited=("a", "c"), barred=("c",), tally=Tally(bytes_up=5))
    ledger, now = Ledger(record), 0.0
    ledger.run(now)
    for step, value in script:
        record = plainly(record, step, value)
        if step == "wait":
            now += value
            assert ledger.current(now) == record
        elif step == "count_late":
            ledger.count_late(updates=value, dropped=value)
        else:
            getattr(ledger, step)(value)
        assert ledger.may_deliver == {*record.invited} - {*record.barred}
        assert ledger.has_declined("b") is ("b" in record.declined)
        if len(script) % 2:  # else the record falls behind for many steps
            assert ledger.record == record
    assert ledger.record == record


def test_a_record_that_was_given_out_does_not_change() -> None:
    ledger = Ledger(RoundRecord(1))
    ledger.count_refused("uid")
    before = ledger.current(0.0)
    ledger.count_up(5)
    ledger.count_refused("uid")
    assert (before.tally.bytes_up, before.tally.refused) == (0, {"uid": 1})
    assert (ledger.record.tally.bytes_up, ledger.record.tally.refused) == (5, {"uid": 2})
