from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from transport.messages import Have, Manifest, Receipt, ReceiptState, Want
from transport.sender import Sender, SenderOutput, SendManifest, SendSegment, Settled
from transport.transfer_policy import TransferPolicy

UID = "00" * 16
POLICY = TransferPolicy(jitter=0.0)
STEADY = TransferPolicy(jitter=0.0, window_first=2)
TWO = TransferPolicy(jitter=0.0, window_first=2, window_max=2)
MANIFEST = SendManifest(UID)


@pytest.fixture
def make_sender(make_manifest: Callable[..., Manifest]) -> Callable[..., Sender]:
    def make(segments: int = 10, policy: TransferPolicy = STEADY, seed: int = 0) -> Sender:
        bodies = [index.to_bytes(2, "little") for index in range(segments)]
        return Sender(UID, make_manifest(*bodies), policy=policy, rng=random.Random(seed))

    return make


def sends(*indices: int) -> list[SenderOutput]:
    return [SendSegment(UID, index, resend=False) for index in indices]


def resends(*indices: int) -> list[SenderOutput]:
    return [SendSegment(UID, index, resend=True) for index in indices]


def have(accepted: Iterable[int], total: int = 10, epoch: int = 1) -> Have:
    return Have(epoch, frozenset(accepted), total)


def receipt(state: ReceiptState = ReceiptState.ACCEPTED, **changes: Any) -> Receipt:
    accepted = frozenset(range(10)) if state is ReceiptState.ACCEPTED else frozenset()
    fields: dict[str, Any] = {
        "epoch": 1,
        "state": state,
        "reason": "",
        "accepted": accepted,
        "total": 10,
    }
    return Receipt(**fields | changes)


def uploading(sender: Sender) -> Sender:
    """Connected at 0 and answered at 1: segments 0 and 1 are in flight."""
    assert sender.connected(0.0) == [MANIFEST]
    assert sender.receive(have([], sender.total), now=1.0) == sends(0, 1)
    return sender


def test_nothing_happens_before_the_first_connection(make_sender: Callable[..., Sender]) -> None:
    sender = make_sender()
    assert sender.next_wakeup() is None
    assert sender.tick(1e9) == []
    assert sender.stalled_s(1e9) == 0.0


def test_the_manifest_goes_first_and_segments_wait_for_its_answer(
    make_sender: Callable[..., Sender],
) -> None:
    sender = make_sender()
    assert sender.connected(0.0) == [MANIFEST]
    assert sender.receive(have([]), now=0.3) == sends(0, 1)


def test_segments_that_the_journal_holds_are_not_sent(make_sender: Callable[..., Sender]) -> None:
    sender = make_sender()
    sender.connected(0.0)
    assert sender.receive(have([0, 1, 3]), now=0.3) == sends(2, 4)
    assert sender.accepted == {0, 1, 3}


def test_without_an_answer_segments_follow_after_the_announce_wait(
    make_sender: Callable[..., Sender],
) -> None:
    sender = make_sender()
    sender.connected(0.0)
    assert sender.next_wakeup() == 2.0
    assert sender.tick(1.9) == []
    assert sender.tick(2.0) == sends(0, 1)


def widths_of(sender: Sender, *, wait_s: float, rounds: int = 12) -> list[int]:
    """How many segments each answer lets go, when all that is in flight is answered at once."""
    sender.connected(0.0)
    now, accepted, widths = 0.0, 0, []
    in_flight = len(sender.receive(have([], sender.total), now=now))
    for _ in range(rounds):
        widths.append(in_flight)
        now += wait_s
        accepted += in_flight
        in_flight = len(sender.receive(have(range(accepted), sender.total), now=now))
    return widths


def test_the_window_begins_in_between_and_widens_by_what_was_accepted(
    make_sender: Callable[..., Sender],
) -> None:
    assert widths_of(make_sender(200, POLICY), wait_s=0.5)[:4] == [4, 8, 8, 8]
    assert widths_of(make_sender(200), wait_s=0.5)[:4] == [2, 4, 8, 8]


def test_the_window_never_leaves_its_bounds(make_sender: Callable[..., Sender]) -> None:
    narrow = TransferPolicy(jitter=0.0, window_min=1, window_first=4, window_max=3)
    assert set(widths_of(make_sender(200, narrow), wait_s=0.5)) == {3}
    wide = TransferPolicy(jitter=0.0, window_min=6, window_first=4, window_max=8)
    assert widths_of(make_sender(200, wide), wait_s=0.5)[0] == 6


def test_on_a_slow_link_the_window_shrinks_to_what_travels_in_seconds(
    make_sender: Callable[..., Sender],
) -> None:
    assert widths_of(make_sender(200, POLICY), wait_s=5.0)[-1] == 4
    assert widths_of(make_sender(200, POLICY), wait_s=20.0)[-1] == 2


def test_after_a_silence_the_window_is_half_and_widens_again(
    make_sender: Callable[..., Sender],
) -> None:
    """A silence of 20 s is an outage, and no reason to keep little in flight afterwards."""
    sender = make_sender(200, POLICY)
    sender.connected(0.0)
    accepted = len(sender.receive(have([], 200), now=0.0))
    assert sender.tick(20.0) == [MANIFEST]
    in_flight = len(sender.receive(have(range(accepted), 200), now=20.1))
    assert in_flight == 2 + accepted
    accepted += in_flight
    assert len(sender.receive(have(range(accepted), 200), now=20.5)) == 8


def test_a_gap_is_filled_once_per_round_trip(make_sender: Callable[..., Sender]) -> None:
    sender = uploading(make_sender(policy=TWO))
    # 1 arrived, and 0 was sent before it: lost.
    assert sender.receive(have([1]), now=2.0) == [*resends(0), *sends(2)]
    assert sender.receive(have([1]), now=2.1) == []  # the same answer says nothing new
    # 2 was sent after the repetition of 0 and arrived: lost again.
    assert sender.receive(have([1, 2]), now=3.0) == [*resends(0), *sends(3)]
    assert sender.receive(have([0, 1, 2]), now=4.0) == sends(4)
    assert sender.resent == 2


def test_accepted_repetitions_prove_no_gap(make_sender: Callable[..., Sender]) -> None:
    """Which of its sends arrived is unknown, so what was sent between them is not lost yet."""
    sender = uploading(make_sender(policy=TWO))
    sender.receive(have([0, 1]), now=2.0)  # 2 and 3 are in flight
    assert sender.receive(have([0, 1, 3], epoch=2), now=3.0) == [*resends(2), *sends(4)]
    assert sender.receive(have([0, 1, 2, 3], epoch=2), now=4.0) == sends(5)
    assert sender.resent == 1


def test_an_answer_in_order_repeats_nothing(make_sender: Callable[..., Sender]) -> None:
    sender = uploading(make_sender(policy=TWO))
    assert sender.receive(have([0]), now=2.0) == sends(2)
    assert sender.resent == 0


def test_silence_asks_with_growing_and_capped_waits(make_sender: Callable[..., Sender]) -> None:
    """What is in flight may still be on its way; only now and then its oldest goes again."""
    sender = uploading(make_sender())
    waits = []
    now = 1.0
    for _ in range(40):
        wakeup = sender.next_wakeup()
        assert wakeup is not None
        waits.append(wakeup - now)
        now = wakeup
        assert sender.tick(now - 0.001) == []
        outputs = sender.tick(now)
        assert outputs[-1] == MANIFEST
        assert outputs[:-1] in ([], resends(0), resends(1))
        assert sender.tick(now) == []
    assert waits[:6] == [8.0, 16.0, 32.0, 60.0, 60.0, 60.0]
    assert sender.sent == 2 + sender.resent
    assert 10 <= sender.resent <= 30


def test_the_first_silence_repeats_no_segment(make_sender: Callable[..., Sender]) -> None:
    for seed in range(20):
        assert uploading(make_sender(seed=seed)).tick(9.0) == [MANIFEST]


def test_what_the_answer_to_a_probe_lacks_was_lost(make_sender: Callable[..., Sender]) -> None:
    sender = uploading(make_sender())
    sender.tick(9.0)
    assert sender.receive(have([]), now=9.2) == resends(0, 1)
    assert sender.receive(have([]), now=9.3) == []  # one probe, one answer
    assert sender.resent == 2


def test_what_was_sent_after_a_probe_is_not_judged_by_its_answer(
    make_sender: Callable[..., Sender],
) -> None:
    sender = uploading(make_sender(policy=TWO))
    sender.tick(9.0)
    assert sender.receive(have([0]), now=9.1) == sends(2)
    assert sender.receive(have([0]), now=9.2) == resends(1)


def test_a_probe_that_came_too_early_costs_nothing(make_sender: Callable[..., Sender]) -> None:
    """The segments arrive after all, before the probe that stands behind them is answered."""
    sender = uploading(make_sender())
    sender.tick(9.0)
    sender.receive(have([0, 1]), now=9.5)
    sender.receive(have([0, 1]), now=9.6)
    assert sender.resent == 0


def test_a_link_that_moves_with_another_update_is_not_silent(
    make_sender: Callable[..., Sender],
) -> None:
    sender = uploading(make_sender())
    sender.spare(8.5)
    assert sender.next_wakeup() == 8.5 + 8.0
    assert sender.tick(9.0) == []
    idle = make_sender()
    idle.spare(1.0)
    assert idle.next_wakeup() is None


def test_progress_resets_the_wait(make_sender: Callable[..., Sender]) -> None:
    sender = uploading(make_sender())
    sender.tick(9.0)
    sender.tick(25.0)
    sender.receive(have([0]), now=26.0)
    wakeup = sender.next_wakeup()
    assert wakeup is not None
    assert wakeup - 26.0 <= 60.0
    quick = uploading(make_sender())
    quick.receive(have([0]), now=1.5)
    assert quick.next_wakeup() == 1.5 + 8.0


def test_the_wait_follows_the_measured_time_and_its_deviation(
    make_sender: Callable[..., Sender],
) -> None:
    """RFC 6298: the first sample R gives R + 4 · R/2."""
    sender = uploading(make_sender())
    sender.receive(have([0]), now=1.0 + 6.0)
    assert sender.next_wakeup() == 7.0 + 18.0


def test_a_long_segment_has_its_time_on_a_slow_link(
    make_manifest: Callable[..., Manifest],
) -> None:
    """64 KiB take 13 s at 40 kbit/s: 8 s of silence mean nothing."""
    manifest = make_manifest(bytes(65_536), b"1")
    sender = Sender(UID, manifest, policy=STEADY, rng=random.Random(0))
    sender.connected(0.0)
    sender.receive(have([], 2), now=0.0)
    assert sender.next_wakeup() == 65_536 * 8 / 20_000


def test_a_long_manifest_has_its_time_too(make_sender: Callable[..., Sender]) -> None:
    sender = make_sender(2000)
    sender.connected(0.0)
    wakeup = sender.next_wakeup()
    assert wakeup is not None
    assert wakeup == pytest.approx(2000 * 36 * 8 / 20_000, rel=0.01)


def test_has_sent_knows_this_start_alone(make_sender: Callable[..., Sender]) -> None:
    sender = make_sender()
    sender.connected(0.0)
    sender.receive(have([0]), now=1.0)
    assert [sender.has_sent(index) for index in range(4)] == [False, True, True, False]


def test_time_without_connection_is_not_measured(make_sender: Callable[..., Sender]) -> None:
    sender = uploading(make_sender())
    sender.disconnected(2.0)
    sender.connected(1000.0)
    sender.receive(have([]), now=1000.1)
    sender.receive(have([0]), now=1000.2)
    assert sender.next_wakeup() == 1000.2 + 8.0


def test_an_unanswered_connection_repeats_the_manifest(
    make_sender: Callable[..., Sender],
) -> None:
    sender = make_sender()
    sender.connected(0.0)
    assert sender.tick(2.0) == sends(0, 1)
    assert sender.tick(10.0) == [MANIFEST]


def test_a_reconnection_announces_again_and_repeats_only_what_is_missing(
    make_sender: Callable[..., Sender],
) -> None:
    sender = uploading(make_sender())
    sender.disconnected(2.0)
    assert sender.next_wakeup() is None
    assert sender.tick(100.0) == []
    assert sender.connected(200.0) == [MANIFEST]
    assert sender.receive(have([0]), now=200.2) == [*resends(1), *sends(2)]


def test_a_connection_without_a_disconnection_before_it_starts_over(
    make_sender: Callable[..., Sender],
) -> None:
    sender = uploading(make_sender())
    assert sender.connected(5.0) == [MANIFEST]
    assert sender.tick(7.0) == resends(0, 1)


def test_flapping_repeats_at_most_two_windows_each_time(
    make_sender: Callable[..., Sender],
) -> None:
    sender = uploading(make_sender(100))
    in_flight, accepted = 2, 0
    for now in range(2, 12):
        accepted += in_flight
        in_flight = len(sender.receive(have(range(accepted), 100), now=float(now)))
    before = sender.resent
    sender.disconnected(20.0)
    sender.connected(30.0)
    outputs = sender.tick(32.5) + sender.receive(have(range(accepted), 100), now=33.0)
    assert len(outputs) <= 16
    assert sender.resent - before <= 16


def test_when_all_is_accepted_it_asks_for_the_receipt_ever_more_rarely(
    make_sender: Callable[..., Sender],
) -> None:
    sender = uploading(make_sender())
    assert sender.receive(have(range(10)), now=2.0) == []
    assert sender.complete
    waits, now = [], 2.0
    for _ in range(7):
        wakeup = sender.next_wakeup()
        assert wakeup is not None
        waits.append(wakeup - now)
        now = wakeup
        assert sender.tick(now) == [MANIFEST]
        assert sender.receive(have(range(10)), now=now + 0.1) == []
        assert sender.next_wakeup() != now + 15.1  # an answer that says nothing new resets nothing
    assert waits == [15.0, 30.0, 60.0, 120.0, 240.0, 300.0, 300.0]


def test_a_reconnection_while_all_is_accepted_asks_at_once(
    make_sender: Callable[..., Sender],
) -> None:
    sender = uploading(make_sender())
    sender.receive(have(range(10)), now=2.0)
    assert sender.connected(50.0) == [MANIFEST]
    assert sender.tick(52.0) == []
    assert sender.next_wakeup() == 52.0 + 15.0


@pytest.mark.parametrize("state", ReceiptState)
@pytest.mark.parametrize("moment", ["offline", "announced", "sending", "awaiting"])
def test_a_receipt_settles_in_every_state_and_ends_all_timers(
    state: ReceiptState, moment: str, make_sender: Callable[..., Sender]
) -> None:
    sender = make_sender()
    if moment != "offline":
        sender.connected(0.0)
    if moment in {"sending", "awaiting"}:
        sender.receive(have([]), now=1.0)
    if moment == "awaiting":
        sender.receive(have(range(10)), now=2.0)
    last = receipt(state)
    assert sender.receive(last, now=3.0) == [Settled(UID, last)]
    assert sender.settled == last
    assert sender.next_wakeup() is None
    assert sender.stalled_s(1e6) == 0.0
    assert sender.receive(last, now=4.0) == []
    assert sender.receive(have([]), now=4.0) == []
    assert sender.receive(Want(9), now=4.0) == []
    assert sender.connected(5.0) == []
    sender.disconnected(6.0)
    assert sender.tick(7.0) == []


def test_a_refusal_settles_whatever_total_it_knows(make_sender: Callable[..., Sender]) -> None:
    sender = uploading(make_sender())
    refusal = receipt(ReceiptState.REFUSED, total=0, reason="layout")
    assert sender.receive(refusal, now=2.0) == [Settled(UID, refusal)]


def test_a_receipt_for_another_number_of_segments_is_ignored(
    make_sender: Callable[..., Sender],
) -> None:
    sender = uploading(make_sender())
    assert sender.receive(receipt(accepted=frozenset(range(9)), total=9), now=2.0) == []
    assert sender.settled is None


def test_an_answer_for_another_number_of_segments_is_ignored(
    make_sender: Callable[..., Sender],
) -> None:
    sender = uploading(make_sender())
    assert sender.receive(have([0, 1], total=11), now=2.0) == []
    assert sender.accepted == frozenset()


def test_answers_of_a_lower_epoch_are_ignored(make_sender: Callable[..., Sender]) -> None:
    sender = uploading(make_sender())
    sender.receive(have([0], epoch=5), now=2.0)
    for message in (have([0, 1], epoch=4), Want(4), receipt(epoch=4)):
        assert sender.receive(message, now=3.0) == []
    assert sender.accepted == {0}
    assert sender.settled is None


def test_a_late_answer_of_the_same_epoch_takes_nothing_back(
    make_sender: Callable[..., Sender],
) -> None:
    sender = uploading(make_sender())
    sender.receive(have([0, 1]), now=2.0)
    sender.receive(have([0]), now=2.1)
    assert sender.accepted == {0, 1}


def test_a_newer_aggregator_with_an_older_journal_gets_the_rest_again(
    make_sender: Callable[..., Sender],
) -> None:
    sender = uploading(make_sender())
    sender.receive(have(range(10)), now=2.0)
    assert sender.complete
    outputs = sender.receive(have(range(8), epoch=2), now=20.0)
    assert outputs == [SendSegment(UID, 8, resend=False), SendSegment(UID, 9, resend=False)]
    assert sender.accepted == set(range(8))


def test_what_a_newer_aggregator_has_lost_is_sent_again(
    make_sender: Callable[..., Sender],
) -> None:
    sender = uploading(make_sender())
    sender.receive(have([0, 1]), now=2.0)
    sender.receive(have([0, 1, 2, 3, 4]), now=3.0)  # 5, 6 and 7 are in flight
    outputs = sender.receive(have([0, 2, 4, 5, 6, 7], epoch=2), now=4.0)
    assert outputs[:2] == resends(1, 3)


def test_a_want_announces_again_and_forgets_what_was_accepted(
    make_sender: Callable[..., Sender],
) -> None:
    sender = uploading(make_sender())
    sender.receive(have([0, 1]), now=2.0)
    assert sender.receive(Want(1), now=3.0) == [MANIFEST]
    assert sender.accepted == frozenset()
    assert sender.receive(Want(1), now=3.1) == []  # the manifest is on its way
    assert sender.receive(have([]), now=3.2) == resends(0, 1, 2, 3)


def test_a_want_is_answered_with_the_manifest_until_the_aggregator_knows_the_update(
    make_sender: Callable[..., Sender],
) -> None:
    """Segments of an update that it does not know would be dropped."""
    sender = uploading(make_sender())
    sender.receive(Want(1), now=2.0)
    now = 2.0
    for wait_s in (2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0):
        assert sender.next_wakeup() == now + wait_s
        now += wait_s
        assert sender.tick(now) == [MANIFEST]
        assert sender.receive(Want(1), now=now) == []
    assert sender.receive(have([]), now=now) == resends(0, 1)
    assert sender.next_wakeup() == now + 8.0


def test_a_want_while_the_manifest_is_on_its_way_does_not_repeat_it_at_once(
    make_sender: Callable[..., Sender],
) -> None:
    sender = make_sender()
    sender.connected(0.0)
    assert sender.receive(Want(1), now=0.1) == []
    assert sender.tick(2.1) == [MANIFEST]


def test_answers_while_offline_are_left_to_the_next_announcement(
    make_sender: Callable[..., Sender],
) -> None:
    sender = uploading(make_sender())
    sender.disconnected(2.0)
    assert sender.receive(have([0, 1]), now=2.1) == []
    assert sender.receive(Want(1), now=2.1) == []
    assert sender.connected(3.0) == [MANIFEST]


def test_stalled_counts_from_the_last_progress(make_sender: Callable[..., Sender]) -> None:
    sender = uploading(make_sender())
    assert sender.stalled_s(5.0) == 5.0
    sender.receive(have([0]), now=10.0)
    assert sender.stalled_s(12.0) == 2.0
    sender.receive(have([0]), now=20.0)
    sender.disconnected(25.0)
    sender.connected(30.0)
    assert sender.stalled_s(32.0) == 22.0


def test_a_single_segment_is_an_update(make_sender: Callable[..., Sender]) -> None:
    sender = make_sender(1)
    sender.connected(0.0)
    assert sender.receive(have([], total=1), now=1.0) == sends(0)
    assert sender.receive(have([0], total=1), now=2.0) == []
    assert sender.complete


@pytest.mark.parametrize("seed", range(5))
def test_timers_of_two_devices_do_not_move_in_step(
    seed: int, make_sender: Callable[..., Sender]
) -> None:
    first, second = (make_sender(policy=TransferPolicy(), seed=seed + n) for n in (0, 100))
    for sender in (first, second):
        sender.connected(0.0)
    assert first.next_wakeup() != second.next_wakeup()
