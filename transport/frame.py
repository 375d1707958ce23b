"""Messages under `flx/` ↔ bytes; the only file that imports msgpack and zstandard.

A frame is one byte of protocol version, one byte of kind (its highest bit says that the rest is
compressed), then a msgpack array of the fields that `transport.schemas` names, in order.
"""

from __future__ import annotations

import hashlib
import io
from typing import TypeVar, cast

import msgpack
import zstandard

from transport import checks, envelope, limits
from transport.errors import MalformedMessage, MessageError, OversizedMessage, UnsupportedMessage
from transport.messages import (
    PROTOCOL,
    AdapterManifest,
    AdapterWant,
    Evaluation,
    Have,
    Manifest,
    Message,
    Receipt,
    ReceiptState,
    Segment,
    SegmentEntry,
    Want,
)
from transport.schemas import SCHEMAS, Fields, Schema

M = TypeVar("M", Manifest, Segment, Want, Have, Receipt, AdapterManifest, AdapterWant)

_HEADER_BYTES = 2
_COMPRESSED = 0x80
_ZSTD_LEVEL = 3
# Below this share of the plain length, compression is worth its time on a device.
_WORTH_COMPRESSING = 0.98
# A decoder's window is the memory that a frame can make it take.
_MAX_WINDOW_BYTES = 8 << 20


def encode(message: Message) -> bytes:
    """Return the frame of a message.

    Raises:
        ValueError: The message breaks its own rules or does not fit a packet; a fault of this side.
    """
    schema = SCHEMAS[type(message)]
    plain = _pack(schema, message)
    head = bytes((PROTOCOL, schema.kind))
    if schema.compressible:
        small = zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(plain)
        if len(small) <= len(plain) * _WORTH_COMPRESSING:
            head, plain = bytes((PROTOCOL, schema.kind | _COMPRESSED)), small
    if len(head) + len(plain) > limits.MAX_FRAME_BYTES:
        raise ValueError(
            f"{type(message).__name__} takes {len(head) + len(plain)} bytes, "
            f"a frame at most {limits.MAX_FRAME_BYTES}"
        )
    return head + plain


def decode(kind: type[M], payload: bytes) -> M:
    """Return the message of this kind that the payload holds.

    Args:
        kind: The message's class, as the topic implies it.
        payload: Bytes from elsewhere; nothing about them is trusted.

    Raises:
        UnsupportedMessage: Another protocol version.
        OversizedMessage: The payload, or what it announces, is over the limits.
        MalformedMessage: Truncated, damaged, of another kind, or with fields of wrong types,
            ranges or lengths.
    """
    schema = SCHEMAS[kind]
    if len(payload) > limits.MAX_FRAME_BYTES:
        raise OversizedMessage(f"a frame of {len(payload)} bytes, at most {limits.MAX_FRAME_BYTES}")
    compressed = _read_header(schema, kind.__name__, payload)
    plain = payload[_HEADER_BYTES:]
    if compressed:
        plain = _decompress(plain, most=schema.max_bytes)
    elif len(plain) > schema.max_bytes:
        raise OversizedMessage(f"a {kind.__name__} of {len(plain)} bytes")
    message = schema.read(_unpack(schema, plain))
    assert isinstance(message, kind)
    return message


def canonical(manifest: Manifest) -> bytes:
    """Return the bytes that name an update: its manifest's frame, which is never compressed."""
    return encode(manifest)


def uid(manifest: Manifest) -> str:
    """Return the first 32 hexadecimal digits of the SHA-256 of the canonical manifest."""
    return hashlib.sha256(canonical(manifest)).hexdigest()[:32]


def describe(payload: bytes) -> dict[str, object]:
    """Return what any frame says, for people: digests as hex, segments as count and bytes.

    Of a signed one also how long the certificate beside it is; whether the signature is right is
    not looked at.

    Raises:
        MessageError: The payload is no frame of this protocol.
    """
    sealed = envelope.split_frame(payload)
    if sealed is not None:
        signed = {"signed": True, "certificate_bytes": len(sealed.certificate)}
        return {**describe(sealed.content), **signed, "frame_bytes": len(payload)}
    if len(payload) < _HEADER_BYTES:
        raise MalformedMessage(f"a frame of {len(payload)} bytes has no header")
    number = payload[1] & ~_COMPRESSED
    kinds = {schema.kind: kind for kind, schema in SCHEMAS.items()}
    if payload[0] == PROTOCOL and number not in kinds:
        raise MalformedMessage(f"there is no kind {number} of message")
    kind = kinds.get(number, Want)
    message = decode(kind, payload)
    return {
        "kind": kind.__name__,
        "frame_bytes": len(payload),
        "compressed": bool(payload[1] & _COMPRESSED),
        **{field: _readable(getattr(message, field)) for field in message.__dataclass_fields__},
    }


def _readable(value: object) -> object:
    match value:
        case bytes() if len(value) == checks.DIGEST_BYTES:
            return value.hex()
        case bytes():
            return f"{len(value)} bytes, SHA-256 {hashlib.sha256(value).hexdigest()[:16]}…"
        case frozenset():
            return sorted(value)
        case (SegmentEntry(), *_):
            entries = cast("tuple[SegmentEntry, ...]", value)
            return {"count": len(entries), "bytes": sum(entry.length for entry in entries)}
        case Evaluation(loss, tokens, correct):
            return {"loss": loss, "tokens": tokens, "correct": correct}
        case ReceiptState():
            return value.value
        case _:
            return value


def _read_header(schema: Schema, name: str, payload: bytes) -> bool:
    if len(payload) < _HEADER_BYTES:
        raise MalformedMessage(f"a frame of {len(payload)} bytes has no header")
    if payload[0] != PROTOCOL:
        raise UnsupportedMessage(f"protocol version {payload[0]}, this side knows {PROTOCOL}")
    if payload[1] & ~_COMPRESSED != schema.kind:
        raise MalformedMessage(f"kind {payload[1] & ~_COMPRESSED} is no {name}")
    compressed = bool(payload[1] & _COMPRESSED)
    if compressed and not schema.compressible:
        raise MalformedMessage(f"a {name} is never compressed")
    return compressed


def _pack(schema: Schema, message: Message) -> bytes:
    fields = schema.write(message)
    try:
        schema.read(fields)  # what no receiver would take must not leave
        plain: bytes = msgpack.packb(fields, use_bin_type=True)
    except MessageError as error:
        raise ValueError(f"{type(message).__name__}: {error}") from error
    if len(plain) > schema.max_bytes:
        raise ValueError(f"{type(message).__name__} takes {len(plain)} of {schema.max_bytes} bytes")
    return plain


def _unpack(schema: Schema, plain: bytes) -> Fields:
    try:
        fields = msgpack.unpackb(
            plain,
            raw=False,
            max_array_len=schema.fields,
            max_map_len=0,
            max_ext_len=0,
            max_bin_len=schema.max_bytes,
            max_str_len=schema.max_bytes,
        )
    except (ValueError, msgpack.UnpackException) as error:  # broken UTF-8 is a ValueError as well
        raise MalformedMessage(f"no msgpack of this schema: {error}") from error
    if type(fields) is not list or len(fields) != schema.fields:
        raise MalformedMessage(f"not an array of {schema.fields} fields")
    return fields


def _decompress(body: bytes, *, most: int) -> bytes:
    """Return what one zstd frame holds, never allocating more than it may announce."""
    try:
        parameters = zstandard.get_frame_parameters(body)
    except zstandard.ZstdError as error:
        raise MalformedMessage(f"no zstd frame: {error}") from error
    size = parameters.content_size
    if size == zstandard.CONTENTSIZE_UNKNOWN:
        raise MalformedMessage("the zstd frame does not say how much it holds")
    if size > most or parameters.window_size > _MAX_WINDOW_BYTES:
        raise OversizedMessage(f"the zstd frame announces {size} bytes, at most {most} are read")
    if parameters.dict_id or _zstd_length(body, checksum=parameters.has_checksum) != len(body):
        raise MalformedMessage(
            "the zstd frame is truncated, followed by more, or uses a dictionary"
        )
    # decompress() trusts the header over any cap, a bounded stream trusts nobody.
    reader = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW_BYTES).stream_reader(
        io.BytesIO(body)
    )
    try:
        plain = reader.read(size + 1)
    except zstandard.ZstdError as error:
        raise MalformedMessage(f"damaged zstd frame: {error}") from error
    if len(plain) != size:
        raise MalformedMessage("the zstd frame does not hold what it announces")
    return plain


def _zstd_length(body: bytes, *, checksum: bool) -> int | None:
    """Return where the zstd frame ends by its block headers; None when it is truncated.

    A stream reader says neither that bytes follow the frame nor that its checksum is missing.

    Source: RFC 8878, section 3.1.1.2.
    """
    position = zstandard.frame_header_size(body)
    while position + 3 <= len(body):
        header = int.from_bytes(body[position : position + 3], "little")
        is_rle = header >> 1 & 3 == 1
        position += 3 + (1 if is_rle else header >> 3)
        if header & 1:
            return position + (4 if checksum else 0)
    return None
