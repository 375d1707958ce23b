from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transport import frame, limits
from transport.errors import MalformedMessage, MessageError, OversizedMessage
from transport.messages import (
    AdapterManifest,
    AdapterWant,
    Evaluation,
    Have,
    Manifest,
    Message,
    Receipt,
    ReceiptState,
    SegmentEntry,
    Want,
)
from transport.schemas import SCHEMAS

COUNTS = st.integers(0, limits.MAX_COUNT)
POSITIVE = st.integers(1, limits.MAX_COUNT)
MEASURES = st.floats(0, allow_nan=False, allow_infinity=False)
DIGESTS = st.binary(min_size=32, max_size=32)
NAMES = st.from_regex(r"[a-z0-9](?:[a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True)
RUNS = st.from_regex(r"[0-9a-f]{32}", fullmatch=True)
ENTRIES = st.lists(
    st.builds(SegmentEntry, st.integers(1, limits.MAX_SEGMENT_BYTES), DIGESTS), min_size=1
).map(tuple)
EVALUATIONS = st.builds(Evaluation, MEASURES, POSITIVE, st.just(0))
MANIFESTS = st.builds(
    Manifest,
    run=RUNS,
    round_id=POSITIVE,
    base_version=COUNTS,
    base_digest=DIGESTS,
    layout_digest=DIGESTS,
    client_id=NAMES,
    seq=POSITIVE,
    codec=NAMES,
    num_examples=POSITIVE,
    segments=ENTRIES,
    train_loss=MEASURES,
    steps=COUNTS,
    train_s=MEASURES,
    evaluation=st.none() | EVALUATIONS,
)
TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=40)
LAYOUTS = st.dictionaries(
    TEXTS.filter(bool),
    st.lists(st.integers(1, 1 << 20), max_size=8).map(tuple),
    min_size=1,
).map(lambda tensors: tuple(tensors.items()))
ADAPTER_MANIFESTS = st.builds(
    AdapterManifest,
    run=RUNS,
    version=COUNTS,
    base_digest=DIGESTS,
    layout=LAYOUTS,
    codec=NAMES,
    segments=ENTRIES,
    sha256=DIGESTS,
    adapter_config=TEXTS,
)


@st.composite
def answers(draw: st.DrawFn) -> Message:
    total = draw(st.integers(1, limits.MAX_SEGMENTS))
    accepted = draw(st.frozensets(st.integers(0, total - 1)))
    kind = draw(st.sampled_from(["have", "partial", "want"]))
    if kind == "have":
        return Have(draw(COUNTS), accepted, total)
    if kind == "partial":
        return Receipt(draw(COUNTS), ReceiptState.PARTIAL, draw(NAMES), accepted, total)
    return AdapterWant(accepted)


@settings(deadline=None, max_examples=100)
@given(message=MANIFESTS | ADAPTER_MANIFESTS | answers())
def test_every_legal_message_survives_its_bytes(message: Any) -> None:
    assert frame.decode(type(message), frame.encode(message)) == message


@pytest.mark.parametrize(
    "change",
    [
        {"run": "0123"},
        {"run": "0123456789ABCDEF" * 2},
        {"run": "0123456789abcdef" * 2 + "\n"},
        {"round_id": 0},
        {"round_id": True},
        {"round_id": 1.0},
        {"base_version": -1},
        {"base_digest": b"short"},
        {"base_digest": bytes(33)},
        {"base_digest": "0" * 32},
        {"layout_digest": None},
        {"client_id": "Dev 1"},
        {"client_id": "../up"},
        {"client_id": ""},
        {"client_id": 5},
        {"seq": 0},
        {"codec": "a/b"},
        {"num_examples": 0},
        {"num_examples": limits.MAX_COUNT + 1},
        {"segments": ()},
        {"segments": (SegmentEntry(0, bytes(32)),)},
        {"segments": (SegmentEntry(limits.MAX_SEGMENT_BYTES + 1, bytes(32)),)},
        {"segments": (SegmentEntry(-1, bytes(32)),)},
        {"segments": (SegmentEntry(1, bytes(31)),)},
        {"train_loss": math.nan},
        {"train_loss": math.inf},
        {"train_loss": -0.5},
        {"steps": -1},
        {"train_s": math.inf},
        {"evaluation": Evaluation(math.nan, 1, 0)},
        {"evaluation": Evaluation(1.0, 0, 0)},
        {"evaluation": Evaluation(1.0, 5, 6)},
    ],
)
def test_an_illegal_manifest_is_not_written(
    change: dict[str, Any], make_manifest: Callable[..., Manifest]
) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        frame.encode(make_manifest(b"one", **change))


FIELDS: dict[type[Any], list[Any]] = {
    Manifest: [
        "0123456789abcdef" * 2, 1, 0, bytes(32), bytes(32), "dev", 1, "fp32", 1,
        b"\x01\0\0\0" + bytes(32), 1.0, 1, 1.0, None,
    ],
    AdapterManifest: [
        "0123456789abcdef" * 2, 0, bytes(32), b"\x01w\x01\x02\0\0\0", "fp32",
        b"\x01\0\0\0" + bytes(32), bytes(32), "{}",
    ],
    Have: [1, b"\x05", 3],
    Receipt: [1, "partial", "deadline", b"\x05", 3],
    AdapterWant: [b"\x05"],
    Want: [1],
}  # fmt: skip


@pytest.mark.parametrize("kind", FIELDS)
def test_the_fields_of_these_tests_are_legal(kind: type[Any]) -> None:
    assert isinstance(SCHEMAS[kind].read(FIELDS[kind]), kind)


@pytest.mark.parametrize(
    "junk", [None, True, -1, 1.5, math.nan, "", "\ud800", b"", b"\xff" * 9, [], [1], {}, 1 << 70]
)
@pytest.mark.parametrize("kind", FIELDS)
def test_no_junk_in_any_field_raises_anything_but_a_message_error(
    kind: type[Any], junk: object
) -> None:
    refused = 0
    for position in range(len(FIELDS[kind])):
        fields = [*FIELDS[kind]]
        fields[position] = junk
        try:
            SCHEMAS[kind].read(fields)
        except MessageError:
            refused += 1
    assert refused or kind is AdapterWant  # any bits name segments


@pytest.mark.parametrize(
    ("kind", "position", "value", "error"),
    [
        (Manifest, 0, "0" * 65, OversizedMessage),
        (Manifest, 5, "x" * 65, OversizedMessage),
        (Manifest, 9, bytes(35), MalformedMessage),
        (Manifest, 9, bytes(36 * (limits.MAX_SEGMENTS + 1)), OversizedMessage),
        (Manifest, 9, b"\0\0\0\0" + bytes(32), MalformedMessage),
        (Manifest, 13, [1.0, 2], MalformedMessage),
        (Manifest, 13, [1, 2, 1], MalformedMessage),
        (Manifest, 13, [math.inf, 2, 1], MalformedMessage),
        (Manifest, 13, [1.0, 2, 3], MalformedMessage),
        (AdapterManifest, 3, b"", MalformedMessage),
        (AdapterManifest, 3, b"\x01w", MalformedMessage),
        (AdapterManifest, 3, b"\x01w\x01\x02\0\0", MalformedMessage),
        (AdapterManifest, 3, b"\x00\x01\x02\0\0\0", MalformedMessage),
        (AdapterManifest, 3, b"\x01\xff\x01\x02\0\0\0", MalformedMessage),
        (AdapterManifest, 3, b"\x01w\x01\0\0\0\0", MalformedMessage),
        (AdapterManifest, 3, b"\x01w\x01\xff\xff\xff\xff", MalformedMessage),
        (AdapterManifest, 3, b"\x01w\x00" * 2, MalformedMessage),
        (AdapterManifest, 3, b"\x01w\x09" + bytes(36), OversizedMessage),
        (AdapterManifest, 3, b"\x01w\x00" * (limits.MAX_TENSORS + 1), OversizedMessage),
        (AdapterManifest, 7, "x" * (limits.MAX_ADAPTER_CONFIG_BYTES + 1), OversizedMessage),
        (Have, 1, b"\x05\0", MalformedMessage),
        (Have, 1, b"\x08", MalformedMessage),
        (Have, 2, 0, MalformedMessage),
        (Have, 2, limits.MAX_SEGMENTS + 1, MalformedMessage),
        (Receipt, 1, "perhaps", MalformedMessage),
        (Receipt, 1, "accepted", MalformedMessage),
        (Receipt, 1, "late", MalformedMessage),
        (Receipt, 1, "refused", MalformedMessage),
        (Receipt, 2, "Not an identifier", MalformedMessage),
        (Receipt, 2, None, MalformedMessage),
        (AdapterWant, 0, bytes(351), OversizedMessage),
        (AdapterWant, 0, "all", MalformedMessage),
    ],
)
def test_what_is_wrong_is_told_by_the_error(
    kind: type[Any], position: int, value: object, error: type[MessageError]
) -> None:
    fields = [*FIELDS[kind]]
    fields[position] = value
    with pytest.raises(error):
        SCHEMAS[kind].read(fields)


def test_a_want_for_a_segment_that_no_adapter_has_is_oversized() -> None:
    """The bitmap's length alone allows some more bits than there may be segments."""
    bits = bytearray((limits.MAX_SEGMENTS + 7) // 8)
    bits[-1] = 0x80
    if limits.MAX_SEGMENTS % 8:
        with pytest.raises(OversizedMessage):
            SCHEMAS[AdapterWant].read([bytes(bits)])
    else:
        assert SCHEMAS[AdapterWant].read([bytes(bits)]) == AdapterWant(
            frozenset({limits.MAX_SEGMENTS - 1})
        )


@pytest.mark.parametrize(
    "layout",
    [
        (),
        (("", (1,)),),
        (("x" * 256, (1,)),),
        (("w", (0,)),),
        (("w", (1 << 29,)),),
        (("w", (-1,)),),
        (("w", (1,) * 9),),
        (("w", (1,)), ("w", (1,))),
        (("\ud800", (1,)),),
    ],
)
def test_an_illegal_layout_is_not_written(
    layout: Any, make_adapter_manifest: Callable[..., AdapterManifest]
) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        frame.encode(make_adapter_manifest(b"one", layout=layout))


def test_indices_beyond_the_total_are_not_written() -> None:
    with pytest.raises(ValueError, match="not one of"):
        frame.encode(Have(1, frozenset({3}), 3))


def test_a_receipt_says_accepted_only_of_a_whole_update() -> None:
    whole = Receipt(1, ReceiptState.ACCEPTED, "", frozenset({0, 1}), 2)
    assert frame.decode(Receipt, frame.encode(whole)) == whole
    with pytest.raises(ValueError, match="not every segment"):
        frame.encode(replace(whole, accepted=frozenset({0})))


def test_every_kind_has_a_number_of_its_own() -> None:
    numbers = [schema.kind for schema in SCHEMAS.values()]
    assert sorted(numbers) == list(range(1, 8))
