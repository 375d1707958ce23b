from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from aggregator.admission import Refusal, Terms, admit, is_measurement, is_too_late
from transport import frame
from transport.messages import Evaluation, Manifest, SegmentEntry
from transport.topics import identifier

RUN = "a" * 32


@pytest.fixture
def manifest(update_maker: Any) -> Manifest:
    return update_maker(client_id="dev", run=RUN, round_id=3).manifest


@pytest.fixture
def terms(layout: Any, base_digest: Any) -> Terms:
    return Terms(
        run=RUN,
        round_id=3,
        invited=frozenset({"dev", "other"}),
        base_digest=base_digest,
        layout_digest=layout.digest,
        codec="fp32",
        update_bytes=10_000,
        segment_bytes=256,
        max_examples=5,
        max_open=3,
    )


def verdict(
    manifest: Any,
    terms: Any,
    *,
    client_id: Any = "dev",
    uid: Any = None,
    held_uid: Any = None,
    numbered_uid: Any = None,
    open_updates: Any = 0,
) -> Refusal | None:
    return admit(
        manifest,
        uid=frame.uid(manifest) if uid is None else uid,
        client_id=client_id,
        held_uid=held_uid,
        numbered_uid=numbered_uid,
        open_updates=open_updates,
        terms=terms,
    )


def test_what_belongs_is_let_in(manifest: Any, terms: Any) -> None:
    assert verdict(manifest, terms) is None
    assert verdict(manifest, terms, held_uid=frame.uid(manifest)) is None
    assert verdict(replace(manifest, evaluation=None), terms) is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"client_id": "other"}, Refusal.IDENTITY),
        ({"run": "b" * 32}, Refusal.RUN),
        ({"round_id": 4}, Refusal.ROUND),
        ({"base_version": 1}, Refusal.BASE_VERSION),
        ({"base_digest": bytes(32)}, Refusal.BASE_MODEL),
        ({"layout_digest": bytes(32)}, Refusal.LAYOUT),
        ({"codec": "fstq"}, Refusal.CODEC),
        ({"num_examples": 0}, Refusal.EXAMPLES),
        ({"train_loss": float("nan")}, Refusal.NON_FINITE),
        ({"train_s": float("inf")}, Refusal.NON_FINITE),
        ({"evaluation": Evaluation(float("nan"), 1, 1)}, Refusal.NON_FINITE),
        ({"evaluation": Evaluation(1.0, 1, 2)}, Refusal.METRICS),
        ({"train_loss": -1.0}, Refusal.METRICS),
        ({"steps": -1}, Refusal.METRICS),
        ({"train_s": 1e9}, Refusal.METRICS),
        ({"segments": ()}, Refusal.SEGMENTS),
        ({"segments": (SegmentEntry(0, bytes(32)),)}, Refusal.SEGMENTS),
        ({"segments": (SegmentEntry(257, bytes(32)),)}, Refusal.OVERSIZED),
        ({"segments": (SegmentEntry(256, bytes(32)),) * 40}, Refusal.OVERSIZED),
    ],
)
def test_what_does_not_belong_is_refused_with_its_reason(
    manifest: Any, terms: Any, changes: Any, reason: Any
) -> None:
    changed = replace(manifest, **changes)
    uid = "0" * 32  # the hash is the costliest check and comes last
    assert verdict(changed, terms, uid=uid) is reason


def test_a_device_that_was_not_asked_is_refused(manifest: Any, terms: Any) -> None:
    assert verdict(manifest, replace(terms, invited=frozenset())) is Refusal.NOT_SELECTED


def test_another_update_of_the_same_device_is_refused(manifest: Any, terms: Any) -> None:
    assert verdict(manifest, terms, held_uid="1" * 32) is Refusal.SECOND_UPDATE


def test_another_update_with_its_number_is_refused_even_in_a_quarantine(
    manifest: Any, terms: Any
) -> None:
    assert verdict(manifest, terms, numbered_uid="1" * 32) is Refusal.TWIN
    assert verdict(manifest, terms, numbered_uid=frame.uid(manifest)) is None
    quarantined = replace(terms, cloned=frozenset({"dev"}))
    assert verdict(manifest, quarantined, numbered_uid="1" * 32) is Refusal.TWIN
    assert verdict(manifest, quarantined) is Refusal.CLONED


def test_a_device_with_too_many_open_updates_waits(manifest: Any, terms: Any) -> None:
    assert verdict(manifest, terms, open_updates=3) is Refusal.QUOTA_OPEN
    assert verdict(manifest, terms, open_updates=2) is None


def test_only_quotas_and_a_quarantine_pass() -> None:
    assert {refusal.value for refusal in Refusal if refusal.passes} == {
        "quota-rate",
        "quota-bytes",
        "quota-open",
        "quota-disk",
        "cloned",
    }


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"invited": frozenset({"other"})}, Refusal.NOT_SELECTED),
        ({"update_bytes": 600}, Refusal.OVERSIZED),
    ],
)
def test_a_late_update_is_admitted_by_the_terms_of_its_own_round(
    manifest: Any, terms: Any, changes: Any, reason: Any
) -> None:
    open_terms = replace(terms, round_id=5, invited=frozenset(), update_bytes=500)
    assert verdict(manifest, open_terms) is Refusal.ROUND
    assert is_too_late(manifest, client_id="dev", terms=open_terms)
    taking = replace(open_terms, earlier={3: replace(terms, **changes)})
    assert verdict(manifest, taking) is reason
    assert not is_too_late(manifest, client_id="dev", terms=taking)
    assert verdict(replace(manifest, base_version=4), taking) in {reason, Refusal.BASE_VERSION}
    assert verdict(manifest, taking, held_uid="1" * 32) in {reason, Refusal.SECOND_UPDATE}


@pytest.mark.parametrize("staleness", [0, 1, 3])
def test_staleness_takes_weight_as_fedbuff_does(manifest: Any, terms: Any, staleness: int) -> None:
    later = replace(terms, round_id=3 + staleness)
    assert later.weight(replace(manifest, num_examples=4)) == 4 / math.sqrt(1 + staleness)


def test_a_uid_that_is_not_the_manifest_s_is_refused(manifest: Any, terms: Any) -> None:
    assert verdict(manifest, terms, uid="0" * 32) is Refusal.UID


def test_only_earlier_rounds_of_this_run_are_late(manifest: Any, terms: Any) -> None:
    earlier = replace(manifest, round_id=2)
    assert is_too_late(earlier, client_id="dev", terms=terms)
    assert not is_too_late(manifest, client_id="dev", terms=terms)
    assert not is_too_late(earlier, client_id="other", terms=terms)
    assert not is_too_late(replace(earlier, run="b" * 32), client_id="dev", terms=terms)


def test_the_claim_of_examples_is_capped(manifest: Any, terms: Any) -> None:
    assert terms.weight(replace(manifest, num_examples=4)) == 4
    assert terms.weight(replace(manifest, num_examples=400)) == 5


def test_a_measurement_is_finite_and_counts_tokens() -> None:
    assert is_measurement(0.0, tokens=1, correct=0)
    assert not is_measurement(float("nan"), tokens=1, correct=0)
    assert not is_measurement(1.0, tokens=0, correct=0)
    assert not is_measurement(-0.1, tokens=1, correct=0)


def test_every_reason_can_stand_in_a_topic() -> None:
    for reason in Refusal:
        assert identifier(f"refused-{reason.value}")
