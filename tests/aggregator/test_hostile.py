"""What devices may do wrong, and that it stays their own loss."""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from aggregator import quotas
from aggregator.admission import Refusal
from codec.segment import HEADER_BYTES
from transport import control, frame
from transport.control import AlertNotice, EvalResponse
from transport.messages import (
    AdapterWant,
    Evaluation,
    Have,
    Receipt,
    ReceiptState,
    Segment,
    SegmentEntry,
    Want,
)
from transport.topics import (
    Alert,
    DeviceTopic,
    Down,
    ModelSegment,
    ModelWant,
    Response,
    UpManifest,
    UpSegment,
)

BAD_MANIFESTS = {
    Refusal.RUN: {"run": "0" * 32},
    Refusal.ROUND: {"round_id": 2},
    Refusal.BASE_VERSION: {"base_version": 7},
    Refusal.BASE_MODEL: {"base_digest": bytes(32)},
    Refusal.LAYOUT: {"layout_digest": bytes(32)},
    Refusal.CODEC: {"codec": "fstq"},
    Refusal.METRICS: {"train_loss": 1e9},
    Refusal.OVERSIZED: {"segments": (SegmentEntry(257, bytes(32)),)},
    Refusal.IDENTITY: {"client_id": "a"},
}


@pytest.fixture
def rig(make_rig: Any) -> Any:
    """A round of three in which `evil` was asked, and the other two still owe their updates."""
    rig = make_rig(goal=3, quorum=2, min_devices=3, rounds=1).start()
    for device in rig.add("a", "b", "evil"):
        device.most_segments = 0
        device.silent = device.client_id == "evil"
        device.join()
    rig.settle()
    return rig


def honest_rounds_end_well(rig: Any) -> None:
    for name in ("a", "b"):
        rig.devices[name].most_segments = None
    rig.finish()
    deltas = [rig.devices[name].updates[1].delta.astype(np.float64) for name in ("a", "b")]
    wanted = rig.initial + sum(deltas) / 2
    np.testing.assert_allclose(rig.adapter(1), wanted, rtol=0, atol=1e-7)
    assert rig.summaries()[0]["participants"] == 2


def answers(rig: Any, uid: Any) -> Any:
    kinds = {3: Want, 4: Have}

    return [
        frame.decode(kinds.get(payload[1], Receipt), payload)
        for _, payload in rig.said(Down, client_id="evil", uid=uid)
    ]


@pytest.mark.parametrize("reason", BAD_MANIFESTS, ids=lambda reason: reason.value)
def test_a_manifest_that_does_not_belong_is_refused_with_its_reason(
    rig: Any, update_maker: Any, reason: Any
) -> None:
    changes = {"client_id": "evil", "run": rig.state.run.run, "round_id": 1}
    update = update_maker(**changes)
    manifest = replace(update.manifest, **BAD_MANIFESTS[reason])
    uid = frame.uid(manifest)
    rig.say(UpManifest("evil", uid), manifest)
    rig.settle()
    (receipt,) = answers(rig, uid)
    assert (receipt.state, receipt.reason) == (ReceiptState.REFUSED, reason.value)
    (_, payload) = rig.said(Alert, code=f"refused-{reason.value}")[-1]
    notice = control.decode(AlertNotice, payload)
    assert (notice.count, notice.client_id) == (1, "evil")
    honest_rounds_end_well(rig)
    assert rig.summaries()[0]["refused"][reason.value] == 1


def test_a_manifest_whose_uid_is_not_its_hash_is_refused(rig: Any, update_maker: Any) -> None:
    update = update_maker(client_id="evil", run=rig.state.run.run, round_id=1)
    rig.say(UpManifest("evil", "0" * 32), update.manifest)
    rig.settle()
    (receipt,) = answers(rig, "0" * 32)
    assert receipt.reason == "uid"
    honest_rounds_end_well(rig)


def test_a_device_that_was_not_asked_is_refused(rig: Any, update_maker: Any) -> None:
    update = update_maker(client_id="stranger", run=rig.state.run.run, round_id=1)
    rig.say(UpManifest("stranger", update.uid), update.manifest)
    rig.settle()
    assert rig.said(Alert, code="refused-not-selected")
    honest_rounds_end_well(rig)


def test_a_second_update_for_the_same_round_is_refused_and_the_first_one_counts(
    rig: Any, update_maker: Any
) -> None:
    for seq in (1, 2):
        update = update_maker(client_id="evil", run=rig.state.run.run, round_id=1, seq=seq)
        rig.say(UpManifest("evil", update.uid), update.manifest)
        rig.settle()
    assert answers(rig, update.uid)[-1].reason == "second-update"


def test_the_weight_that_a_device_claims_is_capped(make_rig: Any) -> None:
    rig = make_rig(rounds=1, max_examples=10).start()
    a, b = rig.add("a", "b")
    b.num_examples = 999_999
    a.join()
    b.join()
    rig.finish()
    mean = (a.updates[1].delta.astype(np.float64) + b.updates[1].delta) / 2
    np.testing.assert_allclose(rig.adapter(1), rig.initial + mean, rtol=0, atol=1e-7)


@pytest.mark.parametrize(
    "payload",
    [b"", b"\x01", b"\x02\x01\x90", b"\x01\x01\xc1", bytes(200_000)],
    ids=["empty", "short", "other-version", "no-msgpack", "oversized"],
)
@pytest.mark.parametrize("address", [UpManifest("evil", "1" * 32), UpSegment("evil", "1" * 32, 0)])
def test_bytes_that_are_no_frame_are_counted_and_the_round_goes_on(
    rig: Any, address: Any, payload: Any
) -> None:
    rig.say(address, payload)
    rig.settle()
    honest_rounds_end_well(rig)
    assert sum(rig.summaries()[0]["refused"].values()) == 1


def test_bits_that_flip_on_the_way_are_refused_and_nothing_else_happens(
    rig: Any, update_maker: Any
) -> None:
    update = update_maker(client_id="evil", run=rig.state.run.run, round_id=1)
    payload = frame.encode(update.manifest)
    rng = np.random.default_rng(5)
    for _ in range(300):
        damaged = bytearray(payload)
        damaged[rng.integers(len(payload))] ^= 1 << int(rng.integers(8))
        rig.say(UpManifest("evil", update.uid), bytes(damaged))
    rig.settle()
    honest_rounds_end_well(rig)
    assert sum(rig.summaries()[0]["refused"].values()) == 300


@pytest.mark.parametrize(
    ("topic_message", "reason"),
    [
        ((DeviceTopic("evil", "status"), b'{"state": "sleepy"}'), "malformed"),
        ((DeviceTopic("evil", "status"), b"\xff\xfe"), "malformed"),
        ((Response("evil", "train", "1"), b"[1, 2]"), "malformed"),
        ((Response("evil", "eval", "1"), b'{"loss": NaN}'), "malformed"),
        ((ModelWant("evil", 0), b"\x01\x07\xff"), "malformed"),
        ((DeviceTopic("evil", "status"), b" " * 70_000), "oversized"),
    ],
)
def test_control_messages_that_are_none_are_counted(
    rig: Any, topic_message: Any, reason: Any
) -> None:
    rig.say(*topic_message)
    rig.settle()
    honest_rounds_end_well(rig)
    assert rig.summaries()[0]["refused"] == {reason: 1}


def test_a_segment_with_a_wrong_digest_is_refused_and_the_right_one_still_counts(rig: Any) -> None:
    a = rig.devices["a"]
    update = a.updates[1]
    wrong = bytearray(update.bodies[0])
    wrong[-1] ^= 1
    rig.say(UpSegment("a", update.uid, 0), Segment(bytes(wrong)))
    rig.say(UpSegment("a", update.uid, 1), Segment(update.bodies[1][:-1]))
    rig.say(UpSegment("a", update.uid, 999), Segment(b"far out"))
    rig.settle()
    honest_rounds_end_well(rig)
    assert rig.summaries()[0]["refused"] == {"digest": 1, "length": 1, "index": 1}


def test_segments_in_another_device_s_name_are_refused(rig: Any) -> None:
    update = rig.devices["a"].updates[1]
    rig.say(UpSegment("evil", update.uid, 0), Segment(update.bodies[0]))
    rig.settle()
    honest_rounds_end_well(rig)
    assert rig.summaries()[0]["refused"] == {"identity": 1}


def test_out_of_order_and_duplicate_segments_are_taken_once(rig: Any) -> None:
    a = rig.devices["a"]
    update = a.updates[1]
    for index in [*reversed(range(len(update.bodies))), *range(len(update.bodies))]:
        rig.say(UpSegment("a", update.uid, index), Segment(update.bodies[index]))
    rig.batch = 3
    rig.settle()
    honest_rounds_end_well(rig)


def test_segments_that_no_manifest_names_are_answered_seldom(rig: Any) -> None:
    for index in range(50):
        rig.say(UpSegment("evil", "2" * 32, index), Segment(b"what is this"))
    rig.settle()
    assert len(answers(rig, "2" * 32)) == 1
    honest_rounds_end_well(rig)


def undecodable(kind: Any) -> Any:
    """Return a maker of updates whose manifest is right and whose contents are not."""

    def make(update_maker: Any, **script: Any) -> Any:
        update = update_maker(**script)

        bodies = [bytearray(body) for body in update.bodies]
        if kind == "corrupt":
            bodies[0][-1] ^= 1
        if kind == "non-finite":
            delta = update.delta.copy()
            bodies = [bytearray(body) for body in update.bodies]
            bodies[0] = reseal(bodies[0], b"\x00\x00\xc0\x7f")
        entries = tuple(SegmentEntry(len(body), hashlib.sha256(body).digest()) for body in bodies)
        if kind == "magnitude":
            delta = np.full_like(update.delta, 1e30)
            return update_maker(**script, delta=delta)
        manifest = replace(update.manifest, segments=entries)
        return replace(
            update,
            uid=frame.uid(manifest),
            manifest=manifest,
            bodies=tuple(bytes(body) for body in bodies),
        )

    return make


def reseal(body: Any, last_value: Any) -> bytearray:
    """Change the last float of an fp32 segment and mend its checksum: a sender that lies well."""

    damaged = bytearray(body)
    damaged[-4:] = last_value
    head, payload = bytes(damaged[: HEADER_BYTES - 4]), bytes(damaged[HEADER_BYTES:])
    damaged[HEADER_BYTES - 4 : HEADER_BYTES] = struct.pack(
        "<I", zlib.crc32(payload, zlib.crc32(head))
    )
    return damaged


@pytest.mark.parametrize("kind", ["corrupt", "non-finite", "magnitude"])
def test_an_update_that_does_not_decode_is_left_out_of_the_mean(
    rig: Any, update_maker: Any, kind: Any
) -> None:
    evil = rig.devices["evil"]
    evil.silent, evil.most_segments = False, None
    evil.make = lambda **script: undecodable(kind)(update_maker, **script)
    evil.lose()
    evil.come_back()
    honest_rounds_end_well(rig)
    (receipt,) = evil.receipts.values()
    assert (receipt.state, receipt.reason) == (ReceiptState.REFUSED, kind)
    assert rig.summaries()[0]["refused"] == {kind: 1}


def test_a_round_without_a_quorum_of_decodable_updates_is_opened_again(
    make_rig: Any, update_maker: Any
) -> None:
    rig = make_rig(goal=2, quorum=2, min_devices=2, rounds=1).start()
    a, evil = rig.add("a", "evil")
    evil.make = lambda **script: undecodable("corrupt")(update_maker, **script)
    a.join()
    evil.join()
    rig.run_until(lambda: bool(evil.receipts))
    assert rig.current() == 0
    assert rig.said(Alert, code="refused-corrupt")
    (honest,) = rig.add("late-but-honest")
    honest.join()
    rig.finish()
    assert rig.summaries()[0]["participants"] == 2
    assert a.trained == [1]
    mean = (a.updates[1].delta.astype(np.float64) + honest.updates[1].delta) / 2
    np.testing.assert_allclose(rig.adapter(1), rig.initial + mean, rtol=0, atol=1e-7)


def test_a_device_whose_update_did_not_decode_cannot_spoil_the_round_again(
    make_rig: Any, update_maker: Any
) -> None:
    rig = make_rig(goal=2, quorum=2, min_devices=2, rounds=1).start()
    a, evil = rig.add("a", "evil")
    evil.make = lambda **script: undecodable("corrupt")(update_maker, **script)
    a.join()
    evil.join()
    rig.run_until(lambda: bool(evil.receipts))
    again = undecodable("corrupt")(
        update_maker, client_id="evil", run=rig.state.run.run, round_id=1, seq=2
    )
    rig.say(UpManifest("evil", again.uid), again.manifest)
    rig.settle()
    assert answers(rig, again.uid)[-1].reason == "not-selected"


def test_one_alert_per_reason_and_second_tells_how_many_there_were(rig: Any) -> None:
    for _ in range(100):
        rig.say(UpManifest("evil", "3" * 32), b"junk")
    rig.batch = 1
    rig.settle()
    assert (
        len(rig.said(Alert, code="refused-malformed"))
        + len(rig.said(Alert, code="refused-version"))
        == 1
    )
    rig.advance(1.0)
    (_, payload) = rig.said(Alert)[-1]
    assert json.loads(payload)["count"] == 100


@pytest.mark.parametrize(("tokens", "correct"), [(10, 11), (10**400, 1), (10**18, 1)])
def test_an_evaluation_that_is_none_does_not_reach_the_mean(
    make_rig: Any, tokens: Any, correct: Any
) -> None:
    rig = make_rig(rounds=1).start()
    a, b = rig.add("a", "b")
    a.join()
    b.join()

    def lie(command: Any) -> None:
        report = EvalResponse(command.run, command.version, 1.0, tokens, correct)
        rig.say(Response("b", "eval", "1"), report)

    b._evaluate = lie
    rig.run_until(lambda: bool(rig.said(Alert, code="refused-metrics")))
    rig.finish()


def test_evaluations_in_manifests_are_checked_as_well(rig: Any, update_maker: Any) -> None:
    update = update_maker(
        client_id="evil",
        run=rig.state.run.run,
        round_id=1,
        evaluation=Evaluation(loss=1e7, tokens=1, correct=0),
    )
    rig.say(UpManifest("evil", update.uid), update.manifest)
    rig.settle()
    assert answers(rig, update.uid)[0].reason == "metrics"


def test_missing_adapter_segments_are_repeated_at_most_once_per_interval(rig: Any) -> None:

    before = len(rig.said(ModelSegment, version=0))
    for _ in range(10):
        rig.say(ModelWant("a", 0), AdapterWant(frozenset({1, 2, 500})))
        rig.say(ModelWant("b", 0), AdapterWant(frozenset({2})))
        rig.say(ModelWant("b", 9), AdapterWant(None))
    rig.settle()
    again = [address.index for address, _ in rig.said(ModelSegment, version=0)[before:]]
    assert again == [1, 2]
    rig.say(ModelWant("b", 0), AdapterWant(None))
    rig.settle()
    assert len(rig.said(ModelSegment, version=0)) > before + 2


def test_a_flood_is_refused_before_it_is_unpacked_and_costs_nobody_else_anything(
    make_rig: Any,
) -> None:
    rig = make_rig(
        goal=2, quorum=2, rounds=1, quota_segments_per_s=5.0, quota_burst_segments=40
    ).start()
    for device in rig.add("a", "b"):
        device.join()
    evil = rig.add("evil")[0]
    evil.online = True
    for index in range(200):
        rig.say(UpSegment("evil", "0" * 32, index), b"no frame")
    rig.finish()
    refused = rig.summaries()[0]["refused"]
    assert refused["quota-rate"] == 160
    assert rig.summaries()[0]["participants"] == 2
    assert rig.said(Alert, code="refused-quota-rate")


def test_an_honest_device_that_meets_a_quota_loses_time_and_nothing_else(make_rig: Any) -> None:
    """Even its manifest may be kept out: there is no receipt that would free the update."""
    rig = make_rig(
        goal=2,
        quorum=2,
        rounds=1,
        deadline_s=5000.0,
        quota_segments_per_s=0.05,
        quota_burst_segments=2,
    ).start()
    a, b = rig.add("a", "b")
    a.join()
    b.join()
    rig.finish()
    rig.advance(700.0)
    for device in (a, b):
        (receipt,) = device.receipts.values()
        assert receipt.state is ReceiptState.ACCEPTED
    assert rig.summaries()[0]["refused"]["quota-rate"] > 0


def test_more_bytes_than_a_round_s_updates_can_take_are_refused(
    make_rig: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quotas, "MIN_ROUND_BYTES", 1)
    rig = make_rig(goal=2, quorum=1, rounds=1, min_devices=2, quota_round_factor=2.0).start()
    a, b = rig.add("a", "b")
    b.silent = True
    a.most_segments = 3
    a.join()
    b.join()
    rig.settle()
    update = a.updates[1]
    for _ in range(200):
        rig.say(UpSegment("a", update.uid, 0), Segment(update.bodies[0]))
    rig.run_until(lambda: rig.service._coordinator.state.value != "training")
    assert rig.summaries()[0]["refused"]["quota-bytes"] > 100
    assert rig.summaries()[0]["partial"] == 1


@pytest.mark.parametrize("policy", ["clip", "refuse"])
def test_an_update_far_longer_than_those_before_is_clipped_or_refused(
    make_rig: Any, update_maker: Any, crash: Any, policy: str
) -> None:
    """And a crash between the freezing and the commit makes the same bytes again."""
    rigs = []
    for crashes in (False, True):
        rig = make_rig(goal=4, quorum=3, min_devices=4, rounds=4, norm_policy=policy).start()

        def grown(*, round_id: int, **script: Any) -> Any:
            update = update_maker(round_id=round_id, **script)
            if round_id < 4:
                return update
            return update_maker(round_id=round_id, **script, delta=update.delta * 90)

        for device in rig.add("a", "b", "c", "evil"):
            device.make = grown if device.client_id == "evil" else update_maker
            device.join()

        def crash_at(where: str, rig: Any = rig) -> None:
            if where == "after store.freeze" and 4 in rig.frozen:
                raise crash

        if crashes:
            rig.crash_at = crash_at
            with pytest.raises(crash):
                rig.finish()
            rig.crash_at = lambda _: None
            rig.restart()
        rig.finish()
        rig.advance(400.0)
        rigs.append(rig)
    whole, again = rigs
    # The run's id differs, and with it the order of the sum.
    np.testing.assert_allclose(whole.adapter(4), again.adapter(4), rtol=0, atol=1e-8)
    summary = whole.summaries()[3]
    step = np.linalg.norm(whole.adapter(4) - whole.adapter(3))
    receipt = whole.devices["evil"].receipts[whole.devices["evil"].updates[4].uid]
    if policy == "clip":
        assert (summary["participants"], summary["clipped"]) == (4, 1)
        assert receipt.state is ReceiptState.ACCEPTED
        assert step < 10 * 0.15
    else:
        assert (summary["participants"], summary["refused"]) == (3, {"norm": 1})
        assert (receipt.state, receipt.reason) == (ReceiptState.REFUSED, "norm")
        assert step < 0.2
