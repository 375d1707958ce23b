"""Random faults by seed: whatever is lost, repeated or late, every device counts once."""

from __future__ import annotations

import math
import random
from typing import Any

import numpy as np
import pytest

from transport.control import TrainResponse
from transport.messages import ReceiptState, Segment
from transport.topics import Response, UpManifest, UpSegment

NAMES = ("a", "b", "c", "d")


def disturb(rig: Any, rng: random.Random) -> None:
    """Let one thing go wrong, or right again."""
    device = rig.devices[rng.choice(NAMES)]
    run = rig.state.run.run
    match rng.randrange(10):
        case 0:
            device.lose()
        case 1 | 2:
            device.come_back()
        case 3:
            device.silent = not device.silent
        case 4:
            device.session += "'"
            device.join()
        case 5:
            for update in device.updates.values():  # all of it once more, backwards
                for index in reversed(range(len(update.bodies))):
                    body = Segment(update.bodies[index])
                    rig.say(UpSegment(device.client_id, update.uid, index), body)
                rig.say(UpManifest(device.client_id, update.uid), update.manifest)
        case 6:
            device.most_segments = rng.choice((0, 1, 3, None))
        case 7:
            rig.say(
                Response(device.client_id, "train", "1"),
                TrainResponse(run, rng.randint(1, 5), accepted=rng.random() < 0.5),
            )
        case 8:
            rig.lose_link()
            rig.now += rng.uniform(0, 30)
            rig.regain_link()
        case 9:
            rig.restart()


def hinder(device: Any, rng: random.Random) -> None:
    device.silent = rng.random() < 0.4
    device.most_segments = rng.choice((0, 0, 1, 3))


def heal(rig: Any) -> None:
    for device in rig.devices.values():
        device.silent, device.most_segments = False, None
        device.come_back()


@pytest.mark.parametrize("seed", range(20))
def test_any_faults_end_with_a_finished_run_that_counts_every_device_once(
    make_rig: Any, seed: int
) -> None:
    rng = random.Random(seed)
    late = ("stale", "stale", "merge", "drop")[seed % 4]
    rig = make_rig(
        rounds=5,
        goal=3,
        quorum=2,
        over_selection=1.3,
        answer_timeout_s=20.0,
        late=late,
        max_staleness=2,
    ).start()
    for device in rig.add(*NAMES):
        hinder(device, rng)
        device.join()
    for _ in range(60):
        rig.batch = rng.choice((1, 2, 128))
        disturb(rig, rng)
        # One round at a time: devices that nothing hinders would finish the run at once.
        version = rig.current()
        rig.settle()
        if rig.current() > version:
            for device in rig.devices.values():
                hinder(device, rng)
        rig.advance(rng.choice((0.0, 0.3, 5.0, 25.0)))
    heal(rig)
    rig.finish()
    rig.advance(700.0)  # lost receipts are asked for again
    flat = rig.initial
    for summary in rig.summaries():
        flat = flat + mean_of(rig, summary)
    np.testing.assert_allclose(rig.adapter(5), flat, rtol=0, atol=1e-6)
    everybody_was_told_what_counts(rig, late)


def updates_of(rig: Any) -> dict[str, tuple[Any, int, Any]]:
    """uid → device, round and update, of all that were ever made."""
    return {
        update.uid: (device, round_id, update)
        for device in rig.devices.values()
        for round_id, update in device.updates.items()
    }


def mean_of(rig: Any, summary: Any) -> np.ndarray:
    """The mean over the frozen set, from what the devices had encoded."""
    deltas, weights, stale = [], [], 0
    known = updates_of(rig)
    for frozen in rig.frozen[summary["round_id"]]:
        _, round_id, update = known[frozen.uid]
        staleness = summary["round_id"] - round_id
        assert 0 <= staleness <= 2
        stale += staleness > 0
        delta = np.zeros_like(update.delta)
        each = (len(update.bodies[0]) - 36) // 4
        for index in frozen.accepted:
            delta[index * each : (index + 1) * each] = update.delta[
                index * each : (index + 1) * each
            ]
        deltas.append(delta)
        weights.append(10 / math.sqrt(1 + staleness))
    assert (len(deltas), stale) == (summary["participants"], summary["stale"])
    assert len(deltas) - stale >= 2, "a quorum is one of updates of the round"
    return np.average(np.stack(deltas).astype(np.float64), axis=0, weights=weights)


def everybody_was_told_what_counts(rig: Any, late: str) -> None:
    """Each update has one last word, and its segments are in one mean or in none."""
    counted = {update.uid: update.accepted for updates in rig.frozen.values() for update in updates}
    assert sum(len(updates) for updates in rig.frozen.values()) == len(counted)
    reason = "dropped" if late == "drop" else "late"
    for uid, (device, _, update) in updates_of(rig).items():
        receipt = device.receipts[uid]
        assert receipt.accepted == counted.get(uid, frozenset())
        if uid not in counted:
            assert (receipt.state, receipt.reason) == (ReceiptState.LATE, reason)
        else:
            complete = len(receipt.accepted) == len(update.bodies)
            assert receipt.state is (ReceiptState.ACCEPTED if complete else ReceiptState.PARTIAL)
    if late != "stale":
        assert not any(summary["stale"] for summary in rig.summaries())
    dropped = sum(summary["dropped"] for summary in rig.summaries())
    assert dropped == 0 or late == "drop"
