from __future__ import annotations

import base64
import json
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transport import control, frame, limits
from transport.envelope import (
    SIGNATURE_BYTES,
    Sealed,
    join_frame,
    join_json,
    signed_bytes,
    split_frame,
    split_json,
)
from transport.errors import MalformedMessage, MessageError, OversizedMessage
from transport.messages import Receipt, ReceiptState, Want

SIGNATURE = bytes(range(SIGNATURE_BYTES))
RECEIPT = Receipt(5, ReceiptState.PARTIAL, "partial", frozenset({1}), 3)
contents = st.binary(min_size=2, max_size=300).filter(lambda raw: raw[1] != 127)
seals = st.tuples(
    st.binary(min_size=SIGNATURE_BYTES, max_size=SIGNATURE_BYTES),
    st.binary(max_size=limits.MAX_CERTIFICATE_BYTES),
)


def signed_json(seal: bytes) -> bytes:
    return b'{"a":1,"signed":"' + base64.b64encode(seal) + b'"}'


@given(content=contents, seal=seals)
@settings(deadline=None, max_examples=60)
def test_what_is_put_into_a_frame_comes_out_of_it(
    content: bytes, seal: tuple[bytes, bytes]
) -> None:
    sealed = Sealed(content, *seal)
    joined = join_frame(sealed)
    assert split_frame(joined) == sealed
    assert len(joined) == 68 + len(sealed.certificate) + len(content)


@given(text=st.text(), seal=seals)
@settings(deadline=None, max_examples=60)
def test_what_is_put_into_json_comes_out_of_it(text: str, seal: tuple[bytes, bytes]) -> None:
    """Even where the object's own text looks like a signature."""
    sealed = Sealed(json.dumps({"reason": text + ',"signed":"'}).encode(), *seal)
    joined = join_json(sealed)
    assert split_json(joined) == sealed
    assert json.loads(joined) == json.loads(sealed.content) | {
        "signed": base64.b64encode(b"".join(seal)).decode()
    }


def test_every_prefix_of_a_signed_frame_is_no_signed_frame() -> None:
    whole = join_frame(Sealed(frame.encode(RECEIPT), SIGNATURE, b"certificate"))
    for length in range(len(whole)):
        if length < 2:
            assert split_frame(whole[:length]) is None
        elif length < 68 + len(b"certificate") + 2:
            with pytest.raises(MalformedMessage):
                split_frame(whole[:length])
        else:
            sealed = split_frame(whole[:length])
            assert sealed is not None
            with pytest.raises(MalformedMessage):
                frame.decode(Receipt, sealed.content)


def test_every_prefix_of_signed_json_is_not_signed() -> None:
    whole = join_json(Sealed(b'{"a":1}', SIGNATURE, b"certificate"))
    for length in range(len(whole)):
        assert split_json(whole[:length]) is None


def test_what_is_not_signed_is_told_from_what_is() -> None:
    assert split_frame(frame.encode(RECEIPT)) is None
    assert split_frame(b"") is None
    assert split_json(b'{"reason":"x"}') is None
    assert split_json(b'{"reason":"x","signed":"not base64"}') is None
    assert split_json(signed_json(SIGNATURE[:-1])) is None


def test_an_announced_length_is_no_reason_to_allocate() -> None:
    payload = b"\x01\x7f" + SIGNATURE + b"\xff\xff" + b"x"
    tracemalloc.start()
    with pytest.raises(OversizedMessage):
        split_frame(payload)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 16_384


def test_what_is_too_long_is_refused_unread() -> None:
    with pytest.raises(OversizedMessage):
        split_frame(bytes(limits.MAX_FRAME_BYTES + 1))
    with pytest.raises(OversizedMessage):
        split_json(b" " * (control.MAX_JSON_BYTES + 1))
    longest = signed_json(SIGNATURE + bytes(limits.MAX_CERTIFICATE_BYTES))
    assert split_json(longest) is not None
    assert split_json(signed_json(SIGNATURE + bytes(limits.MAX_CERTIFICATE_BYTES + 1))) is None
    with pytest.raises(OversizedMessage):
        split_json(signed_json(SIGNATURE + bytes(limits.MAX_CERTIFICATE_BYTES + 2)))


def test_a_sender_does_not_write_what_no_receiver_takes() -> None:
    with pytest.raises(ValueError, match="certificate of 4097 bytes"):
        join_frame(Sealed(b"\x01\x03\x91\x05", SIGNATURE, bytes(4097)))
    with pytest.raises(ValueError, match="a signed frame takes"):
        join_frame(Sealed(bytes(limits.MAX_FRAME_BYTES), SIGNATURE, b""))
    with pytest.raises(ValueError, match="objects with a key"):
        join_json(Sealed(b"{}", SIGNATURE, b""))
    with pytest.raises(ValueError, match="objects with a key"):
        join_json(Sealed(b"[1,2]", SIGNATURE, b""))
    with pytest.raises(ValueError, match="of JSON"):
        join_json(Sealed(b'{"a":"' + bytes(control.MAX_JSON_BYTES) + b'"}', SIGNATURE, b""))


def test_a_signed_frame_holds_no_signed_frame() -> None:
    inner = join_frame(Sealed(frame.encode(RECEIPT), SIGNATURE, b""))
    with pytest.raises(MalformedMessage, match="within"):
        split_frame(join_frame(Sealed(inner, SIGNATURE, b"")))


def test_domain_topic_and_content_cannot_flow_into_one_another() -> None:
    parts = [("answer", "flx/a", b"b"), ("answer", "flx/ab", b""), ("answerflx", "/a", b"b")]
    assert len({signed_bytes(*part) for part in parts}) == len(parts)
    assert signed_bytes("answer", "t", b"c") == b"fedfstq/v1/answer\0t\0c"


@given(raw=st.binary(max_size=400))
@settings(deadline=None, max_examples=200)
def test_any_bytes_are_refused_by_typed_errors_or_read(raw: bytes) -> None:
    for payload in (raw, b"\x01\x7f" + raw, b'{"a":1,"signed":"' + raw + b'"}'):
        for split in (split_frame, split_json):
            try:
                sealed = split(payload)
            except MessageError:
                continue
            assert sealed is None or len(sealed.signature) == SIGNATURE_BYTES


def test_a_signed_frame_is_described_with_what_is_in_it() -> None:
    told = frame.describe(join_frame(Sealed(frame.encode(Want(5)), SIGNATURE, b"xyz")))
    assert told["kind"] == "Want"
    assert told["epoch"] == 5
    assert told["signed"] is True
    assert told["certificate_bytes"] == 3
    assert told["frame_bytes"] == 68 + 3 + len(frame.encode(Want(5)))
