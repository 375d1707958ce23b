"""A thread is late when it has been away for longer than it said."""

from __future__ import annotations

from transport.pulse import TURN_S, Pulse


def test_a_thread_that_has_not_begun_is_not_late() -> None:
    assert not Pulse().is_late(1e9)


def test_a_thread_is_late_after_its_time_and_no_more_when_it_is_back() -> None:
    pulse = Pulse()
    pulse.beat(100.0)
    assert not pulse.is_late(100.0 + TURN_S)
    assert pulse.is_late(100.1 + TURN_S)
    pulse.beat(120.0, within_s=45.0)
    assert not pulse.is_late(165.0)
    assert pulse.is_late(165.1)
