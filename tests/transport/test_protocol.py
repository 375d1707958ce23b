"""docs/protocol.md against the code: kinds, fields in order, limits, timers, reasons."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

import transport.errors
from aggregator.admission import Refusal, Terms, admit
from codec.errors import CodecError
from transport import frame, limits
from transport.errors import MessageError
from transport.messages import PROTOCOL, Evaluation, Manifest, ReceiptState, SegmentEntry
from transport.schemas import SCHEMAS
from transport.topics import Topics
from transport.transfer import TransferPolicy

TEXT = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text(encoding="utf-8")
KINDS = {kind.__name__: kind for kind in SCHEMAS}


def table(heading: str) -> list[list[str]]:
    """Return the cells of the first table under a heading, without its head."""
    section = re.split(r"^#+ ", TEXT[TEXT.index(f"# {heading}\n") + 2 :], flags=re.MULTILINE)[0]
    rows = re.findall(r"^\| (.*) \|$", section, flags=re.MULTILINE)
    assert len(rows) > 2, heading
    return [[cell.strip() for cell in row.split(" | ")] for row in rows[2:]]


def test_the_frame_begins_with_the_protocol_version() -> None:
    assert table("Frames")[0][3] == str(PROTOCOL)


def test_the_kinds_are_those_of_the_code() -> None:
    assert [
        (int(kind), name, int(fields), int(most), compressed)
        for kind, name, _, _, fields, most, compressed in table("Kinds")
    ] == [
        (
            schema.kind,
            kind.__name__,
            schema.fields,
            schema.max_bytes,
            "may be" if schema.compressible else "never",
        )
        for kind, schema in SCHEMAS.items()
    ]


def test_the_topics_of_the_kinds_mean_something() -> None:
    for _, _, cell, *_ in table("Kinds"):
        for topic in re.findall(r"`(.*?)`", cell):
            filled = topic.replace("<dev>", "nano-01").replace("<uid>", "0" * 32)
            filled = filled.replace("<v>", "3").replace("<i>", "7")
            assert Topics("lab").parse(f"flx/v1/lab/{filled}")


@pytest.mark.parametrize("name", list(KINDS))
def test_the_fields_of_a_message_are_those_of_the_code_in_order(name: str) -> None:
    rows = table(name)
    assert [int(number) for number, *_ in rows] == list(range(1, SCHEMAS[KINDS[name]].fields + 1))
    names = [field.strip("`") for _, field, *_ in rows]
    assert names == [field.name for field in dataclasses.fields(KINDS[name])]


def test_the_parts_of_an_evaluation_are_named_in_order() -> None:
    names = re.findall(r"`(\w+)` \(", table("Manifest")[-1][2])
    assert names == [field.name for field in dataclasses.fields(Evaluation)]


def test_the_states_of_a_receipt_are_all_there() -> None:
    states = re.findall(r"`(\w+)`:", table("Receipt")[1][3])
    assert states == [state.value for state in ReceiptState]


def test_the_limits_are_those_of_the_code() -> None:
    told = {name.strip("`"): int(value) for name, value, _ in table("Limits")}
    known = {name: value for name, value in vars(limits).items() if name.startswith("MAX_")}
    # Not of the protocol: which publications this side's link repeats by itself.
    known.pop("MAX_CONTROL_BYTES")
    assert told == known


def test_numbers_in_the_text_are_limits() -> None:
    """A limit that changes must not live on in a sentence."""
    known = {value for name, value in vars(limits).items() if name.startswith("MAX_")}
    known |= {schema.max_bytes for schema in SCHEMAS.values()}
    told = {int(number) for number in re.findall(r"\b\d{4,}\b", TEXT)}
    assert told - {2119, 8032} <= known  # RFC 2119, RFC 8032


def test_the_timers_are_those_of_the_policy() -> None:
    policy = TransferPolicy()
    caps = {
        "announce_wait_s": policy.resend_cap_s,
        "resend_s": policy.resend_cap_s,
        "receipt_s": policy.receipt_cap_s,
        "have_delay_s": policy.have_delay_s,
        "fetch_s": policy.fetch_cap_s,
    }
    for name, first, cap, _ in table("Timers of a transfer"):
        timer = name.strip("`")
        assert (float(first), float(cap)) == (getattr(policy, timer), caps.pop(timer))
    assert caps == {}


def test_every_reason_is_told_and_no_other() -> None:
    told = {
        reason
        for heading in (
            "A frame, by every receiver",
            "A message of an upload, before it is unpacked",
            "A manifest, by the aggregator",
            "A segment, by the aggregator",
            "An update, when its round is closed",
        )
        for *_, reasons in table(heading)
        for reason in reasons.split(", ")
    }
    frames = {
        error.reason
        for error in vars(transport.errors).values()
        if isinstance(error, type) and issubclass(error, MessageError)
    }
    contents = {error.reason for error in CodecError.__subclasses__()}
    segments = {"index", "length", "digest"}
    assert told == frames | contents | segments | {refusal.value for refusal in Refusal}


def test_a_manifest_is_checked_in_the_order_of_the_table() -> None:
    """One manifest has every fault; each is mended after it was the one that was named."""
    faults: dict[str, Any] = {
        "identity": {"client_id": "other"},
        "run": {"run": "b" * 32},
        "round": {"round_id": 9},
        "base-version": {"base_version": 7},
        "base-model": {"base_digest": bytes(32)},
        "layout": {"layout_digest": bytes(32)},
        "codec": {"codec": "another"},
        "non-finite": {"train_s": float("inf")},
        "examples": {"num_examples": 0},
        "metrics": {"train_loss": 1e9},
        "segments": {"segments": ()},
        "oversized": {"segments": (SegmentEntry(65, bytes(32)),)},
    }
    right = Manifest(
        run="a" * 32,
        round_id=3,
        base_version=2,
        base_digest=b"b" * 32,
        layout_digest=b"l" * 32,
        client_id="dev",
        seq=1,
        codec="fp32",
        num_examples=1,
        segments=(SegmentEntry(64, bytes(32)),),
        train_loss=1.0,
        steps=1,
        train_s=1.0,
        evaluation=None,
    )
    terms = Terms(
        run="a" * 32,
        round_id=3,
        invited=frozenset(),
        base_digest=b"b" * 32,
        layout_digest=b"l" * 32,
        codec="fp32",
        update_bytes=100,
        segment_bytes=64,
        max_examples=10,
        max_open=1,
        cloned=frozenset({"dev"}),
    )
    uid, held_uid, numbered_uid, open_updates = "0" * 32, "1" * 32, "2" * 32, 1
    for number, _, reason in table("A manifest, by the aggregator"):
        wrong = dict(item for fault in reversed(faults.values()) for item in fault.items())
        manifest = dataclasses.replace(right, **wrong)
        refusal = admit(
            manifest,
            uid=uid,
            client_id="dev",
            held_uid=held_uid,
            numbered_uid=numbered_uid,
            open_updates=open_updates,
            terms=terms,
        )
        assert refusal is not None, number
        assert refusal.value == reason
        faults.pop(reason, None)
        if reason == "twin":
            numbered_uid = uid
        if reason == "cloned":
            terms = dataclasses.replace(terms, cloned=frozenset())
        if reason == "not-selected":
            terms = dataclasses.replace(terms, invited=frozenset({"dev"}))
        if reason == "second-update":
            held_uid = uid
        if reason == "quota-open":
            open_updates = 0
        if reason == "uid":
            uid = held_uid = numbered_uid = frame.uid(right)
    assert not admit(
        right,
        uid=uid,
        client_id="dev",
        held_uid=held_uid,
        numbered_uid=numbered_uid,
        open_updates=0,
        terms=terms,
    )
