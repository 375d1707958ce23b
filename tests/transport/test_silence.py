from __future__ import annotations

import random
from dataclasses import dataclass, replace

import pytest

from transport.silence import Silence, TcpView, Verdict

CALM = TcpView(
    outstanding=0,
    is_drained=True,
    acknowledged_ago_s=0.1,
    received_ago_s=0.1,
    rtt_s=0.1,
    rtt_deviation_s=0.02,
)
LOOK_S = 0.25
NEVER = 1e9


@dataclass
class Watched:
    """A connection whose TCP is told by moments; each look is a quarter of a second later."""

    view: TcpView = CALM
    transfer_at: float = 0.0
    acknowledged_at: float = 0.0
    received_at: float = 0.0
    now: float = 0.0

    def __post_init__(self) -> None:
        self.silence = Silence()

    def until(self, moment: float) -> list[tuple[float, Verdict]]:
        """Return what was not KEEP, with its moments."""
        verdicts: list[tuple[float, Verdict]] = []
        while self.now < moment:
            self.now += LOOK_S
            tcp = replace(
                self.view,
                acknowledged_ago_s=self.now - self.acknowledged_at,
                received_ago_s=self.now - self.received_at,
            )
            verdict = self.silence.look(
                tcp, transfer_ago_s=self.now - self.transfer_at, now=self.now
            )
            if verdict is not Verdict.KEEP:
                verdicts.append((self.now, verdict))
            if verdict.ends:
                break
        return verdicts

    def hear(self) -> None:
        self.acknowledged_at = self.received_at = self.now

    def send(self, packets: int = 20) -> None:
        self.view = replace(self.view, outstanding=packets, is_drained=False)

    def drain(self) -> None:
        self.view = replace(self.view, outstanding=0, is_drained=True)
        self.acknowledged_at = self.now


def test_a_link_that_acknowledges_nothing_for_six_seconds_is_left() -> None:
    watched = Watched()
    watched.send()
    assert watched.until(60) == [(6.25, Verdict.UNACKNOWLEDGED)]


@pytest.mark.parametrize("packets", [1, 7])
def test_a_message_that_is_alone_has_one_try_more(packets: int) -> None:
    watched = Watched()
    watched.send(packets)
    assert watched.until(60) == [(10.25, Verdict.UNACKNOWLEDGED)]


def test_an_hour_of_idleness_before_the_first_byte_is_no_silence() -> None:
    watched = Watched(transfer_at=-NEVER)
    assert watched.until(3600) == []
    watched.send()
    assert watched.until(3606) == []
    assert watched.until(3620) == [(3606.25, Verdict.UNACKNOWLEDGED)]


def test_a_slow_link_that_acknowledges_now_and_then_is_kept() -> None:
    """A full minute to drain, with five seconds between acknowledgements."""
    watched = Watched()
    watched.send()
    for second in range(5, 64, 5):
        assert watched.until(second) == []
        watched.acknowledged_at = watched.now


@pytest.mark.parametrize(
    ("rtt_s", "deviation_s", "patience_s"),
    [(0.1, 0.05, 6.0), (0.6, 0.3, 6.0), (3.6, 0.6, 18.0), (20.0, 20.0, 30.0)],
)
def test_long_round_trips_get_more_patience_within_bounds(
    rtt_s: float, deviation_s: float, patience_s: float
) -> None:
    view = replace(CALM, outstanding=20, rtt_s=rtt_s, rtt_deviation_s=deviation_s)
    assert view.patience_s == pytest.approx(patience_s)


def test_a_transfer_that_waits_asks_every_four_seconds_for_half_a_minute() -> None:
    watched = Watched()
    verdicts = watched.until(120)
    assert {verdict for _, verdict in verdicts} == {Verdict.ASK}
    assert [moment for moment, _ in verdicts] == [4.0, 8.0, 12.0, 16.0, 20.0, 24.0, 28.0]


def test_an_idle_connection_asks_nothing() -> None:
    assert Watched(transfer_at=-NEVER).until(600) == []


def test_nothing_is_asked_while_bytes_are_on_their_way() -> None:
    """A PINGREQ would stand behind them."""
    watched = Watched()
    watched.send()
    for second in range(60):
        assert watched.until(second) == []
        watched.acknowledged_at = watched.now


def test_a_busy_broker_is_not_left() -> None:
    """Its kernel acknowledges every PINGREQ, its program answers none: all devices see that."""
    watched = Watched()
    asked = 0
    for moment in range(1, 60):
        verdicts = watched.until(moment)
        asked += len(verdicts)
        assert all(verdict is Verdict.ASK for _, verdict in verdicts)
        if verdicts:
            watched.acknowledged_at = watched.now
    assert asked == 7


def test_a_broker_that_stays_silent_after_an_outage_is_left() -> None:
    """PINGREQ is lost in the outage and comes through after it; PINGRESP waits for the broker."""
    watched = Watched()
    assert watched.until(4) == [(4.0, Verdict.ASK)]
    watched.send()
    assert watched.until(9) == []
    watched.drain()
    assert watched.until(30) == [(12.25, Verdict.UNANSWERED)]


def test_an_answer_after_an_outage_keeps_the_connection() -> None:
    watched = Watched()
    watched.until(4)
    watched.send()
    watched.until(9)
    watched.drain()
    watched.until(11)
    watched.hear()
    watched.transfer_at = -NEVER
    assert watched.until(60) == []


def test_an_outage_without_a_question_asks_first() -> None:
    watched = Watched(transfer_at=-NEVER)
    watched.send()
    watched.until(5)
    watched.drain()
    assert watched.until(30) == [(5.25, Verdict.ASK), (8.25, Verdict.UNANSWERED)]


def test_an_answer_over_a_long_way_has_four_round_trips() -> None:
    watched = Watched(view=replace(CALM, rtt_s=3.0), transfer_at=-NEVER)
    watched.send()
    watched.until(5)
    watched.drain()
    assert watched.until(60) == [(5.25, Verdict.ASK), (17.25, Verdict.UNANSWERED)]


def test_what_is_lost_now_and_then_is_no_outage() -> None:
    """Random waits below three seconds, acknowledged each time: nothing ever ends."""
    rng = random.Random(1)
    watched = Watched()
    for _ in range(300):
        watched.send()
        assert watched.until(watched.now + rng.uniform(0.25, 2.5)) == []
        watched.drain()
        watched.until(watched.now + rng.uniform(0.25, 1.0))
        watched.hear()
