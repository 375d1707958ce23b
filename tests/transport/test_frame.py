from __future__ import annotations

import contextlib
import hashlib
import random
import struct
import tracemalloc
from collections.abc import Callable
from typing import Any

import msgpack
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from transport import frame, limits
from transport.errors import MalformedMessage, MessageError, OversizedMessage, UnsupportedMessage
from transport.messages import (
    AdapterManifest,
    AdapterWant,
    Have,
    Manifest,
    Message,
    Receipt,
    Segment,
    SegmentEntry,
    Want,
)

KINDS = (Manifest, Segment, Want, Have, Receipt, AdapterManifest, AdapterWant)
SEGMENT_ZSTD = bytes((1, 0x82))


def zstd_segment(body: bytes) -> bytes:
    """A compressed segment frame with this array of fields, honestly announced."""
    return SEGMENT_ZSTD + zstandard.ZstdCompressor().compress(msgpack.packb([body]))


def test_golden_bytes_are_read_as_what_was_written(
    golden_message: Message, golden_bytes: bytes
) -> None:
    assert frame.decode(type(golden_message), golden_bytes) == golden_message


def test_golden_bytes_are_still_written(
    golden_name: str, golden_message: Message, golden_bytes: bytes
) -> None:
    """Compressed frames are left out: another zstd may find another form of the same."""
    if golden_name.endswith("zstd"):
        assert frame.decode(type(golden_message), frame.encode(golden_message)) == golden_message
    else:
        assert frame.encode(golden_message) == golden_bytes


def test_every_prefix_of_a_frame_is_malformed(golden_message: Message, golden_bytes: bytes) -> None:
    for length in range(len(golden_bytes)):
        with pytest.raises(MalformedMessage):
            frame.decode(type(golden_message), golden_bytes[:length])


def test_anything_after_a_frame_is_malformed(golden_message: Message, golden_bytes: bytes) -> None:
    for tail in (b"\0", b"\xc0", golden_bytes):
        with pytest.raises(MalformedMessage):
            frame.decode(type(golden_message), golden_bytes + tail)


def test_every_bit_flip_is_refused_or_gives_another_message(
    golden_message: Message, golden_bytes: bytes
) -> None:
    """Damage raises MessageError and nothing else; what it turns into is never the original."""
    for position in range(len(golden_bytes) * 8):
        damaged = bytearray(golden_bytes)
        damaged[position // 8] ^= 1 << position % 8
        try:
            read = frame.decode(type(golden_message), bytes(damaged))
        except MessageError:
            continue
        if not golden_bytes[1] & 0x80:  # zstd has bits that say the same in two ways
            assert read != golden_message


@pytest.mark.parametrize("seed", range(8))
def test_many_bit_flips_at_once_are_refused_or_read(
    seed: int, golden_message: Message, golden_bytes: bytes
) -> None:
    rng = random.Random(seed)
    for _ in range(50):
        damaged = bytearray(golden_bytes)
        for _ in range(rng.randint(2, 12)):
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        try:
            frame.decode(type(golden_message), bytes(damaged))
        except MessageError:
            continue


@settings(deadline=None, max_examples=300)
@given(kind=st.sampled_from(KINDS), body=st.binary(max_size=200), header=st.booleans())
def test_random_bytes_are_refused_or_read(kind: Any, body: bytes, *, header: bool) -> None:
    number = KINDS.index(kind) + 1
    with contextlib.suppress(MessageError):
        frame.decode(kind, bytes((1, number)) + body if header else body)


def test_each_kind_is_refused_as_every_other(golden_message: Message, golden_bytes: bytes) -> None:
    for kind in KINDS:
        if kind is not type(golden_message):
            with pytest.raises(MalformedMessage):
                frame.decode(kind, golden_bytes)


@pytest.mark.parametrize("version", [0, 2, 255])
def test_another_protocol_version_is_unsupported(version: int) -> None:
    with pytest.raises(UnsupportedMessage) as caught:
        frame.decode(Want, bytes((version,)) + frame.encode(Want(1))[1:])
    assert caught.value.reason == "version"


def test_a_frame_longer_than_a_packet_is_oversized() -> None:
    with pytest.raises(OversizedMessage):
        frame.decode(Segment, b"\x01\x02" + bytes(limits.MAX_FRAME_BYTES))


def test_a_plain_frame_longer_than_its_kind_allows_is_oversized() -> None:
    with pytest.raises(OversizedMessage):
        frame.decode(Want, b"\x01\x03" + bytes(10_000))


def test_a_compressed_frame_of_a_kind_that_never_is_is_malformed() -> None:
    with pytest.raises(MalformedMessage, match="never compressed"):
        frame.decode(Want, b"\x01\x83" + zstandard.compress(msgpack.packb([1])))


def test_a_zstd_frame_that_does_not_say_its_size_is_malformed() -> None:
    compressor = zstandard.ZstdCompressor(write_content_size=False)
    with pytest.raises(MalformedMessage, match="does not say"):
        frame.decode(Segment, SEGMENT_ZSTD + compressor.compress(msgpack.packb([b"body" * 99])))


def test_a_zstd_bomb_is_oversized_before_it_is_read() -> None:
    bomb = zstandard.compress(bytes(200 << 20))
    assert len(bomb) < limits.MAX_FRAME_BYTES
    with pytest.raises(OversizedMessage):
        frame.decode(Segment, SEGMENT_ZSTD + bomb)


BLOCK_BYTES = 128 << 10


def lying(announced: int, blocks: int) -> bytes:
    """A zstd frame that announces one size and holds another: blocks of 128 KiB in 4 bytes each."""
    head = struct.pack("<IBBI", 0xFD2FB528, 0b1000_0000, 10 << 3, announced)  # window of 1 MiB
    block = struct.pack("<I", 1 << 1 | BLOCK_BYTES << 3)[:3] + b"a"
    return head + block * blocks + struct.pack("<I", 1)[:3]  # an empty raw block ends the frame


def peak_bytes(call: Callable[[], object]) -> int:
    """The most memory that Python objects took during a call."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_the_lying_frame_of_these_tests_is_a_zstd_frame() -> None:
    honest = lying(2 * BLOCK_BYTES, 2)
    assert zstandard.decompress(honest) == b"a" * 2 * BLOCK_BYTES


@pytest.mark.parametrize(
    ("announced", "blocks"), [(100, 1), (BLOCK_BYTES - 1, 1), (BLOCK_BYTES, 0), (100, 20_000)]
)
def test_a_zstd_frame_that_lies_about_its_size_is_malformed_and_costs_little(
    announced: int, blocks: int
) -> None:
    def read() -> None:
        with pytest.raises(MalformedMessage, match=r"damaged zstd|does not hold"):
            frame.decode(Segment, SEGMENT_ZSTD + lying(announced, blocks))

    assert peak_bytes(read) < 8 << 20


def test_a_zstd_frame_with_too_large_a_window_is_oversized() -> None:
    parameters = zstandard.ZstdCompressionParameters(window_log=24)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj(size=64)
    body = compressor.compress(bytes(64)) + compressor.flush()
    if zstandard.get_frame_parameters(body).window_size <= 8 << 20:
        # A small content is stored as a single segment; announce the window by hand.
        body = struct.pack("<IBBB", 0xFD2FB528, 0b0100_0000, 14 << 3, 0) + b"\0" + b"\x01\0\0"
    assert zstandard.get_frame_parameters(body).window_size > 8 << 20
    with pytest.raises(OversizedMessage):
        frame.decode(Segment, SEGMENT_ZSTD + body)


def test_bytes_after_the_zstd_frame_are_malformed() -> None:
    for tail in (b"\0", zstandard.compress(b"more")):
        with pytest.raises(MalformedMessage, match="followed by more"):
            frame.decode(Segment, zstd_segment(b"body " * 99) + tail)


def test_a_zstd_frame_with_a_checksum_is_read() -> None:
    compressor = zstandard.ZstdCompressor(write_checksum=True)
    payload = SEGMENT_ZSTD + compressor.compress(msgpack.packb([b"body " * 99]))
    assert frame.decode(Segment, payload) == Segment(b"body " * 99)
    with pytest.raises(MalformedMessage):
        frame.decode(Segment, payload[:-1] + bytes((payload[-1] ^ 1,)))


@pytest.mark.parametrize(
    "array",
    [
        [],
        [1, 2],
        {},
        7,
        [[1]],
        [{}],
        [True],
        [1.0],
        [None],
        ["1"],
        [-1],
        [limits.MAX_COUNT + 1],
        [1 << 63],
    ],
)
def test_a_want_of_another_schema_is_malformed(array: object) -> None:
    with pytest.raises(MalformedMessage):
        frame.decode(Want, b"\x01\x03" + msgpack.packb(array))


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"\xdd\xff\xff\xff\xff", "max_array_len"),
        (b"\x91" * 1200, "."),  # nested beyond msgpack's stack
        (b"\xdf\xff\xff\xff\xff", "max_map_len"),
        (b"\x91\x81\x01\x02", "max_map_len"),
        (b"\x91\xc6\xff\xff\xff\xff", "incomplete"),
        (b"\x91\xdb\xff\xff\xff\xff", "incomplete"),
        (b"\x91\xd6\xff\0\0\0\0", "max_ext_len"),
        (b"\x91\xa2\xff\xff", "utf-8"),
        (b"\xc1", "."),  # the byte that msgpack never uses
    ],
)
def test_hostile_msgpack_is_malformed(raw: bytes, text: str) -> None:
    for kind, number in ((Segment, 2), (Receipt, 5), (AdapterManifest, 6)):
        with pytest.raises(MalformedMessage, match=text):
            frame.decode(kind, bytes((1, number)) + raw)  # type: ignore[type-var]


def test_arrays_in_arrays_cost_little_memory() -> None:
    """Each header of 3 bytes announces 65,535 slots, which msgpack would allocate at once."""
    plain = b"\xdc\xff\xff" * 900 + bytes(limits.MAX_ADAPTER_MANIFEST_BYTES - 2700)
    payload = b"\x01\x86" + zstandard.compress(plain)
    assert len(payload) < 10_000

    def read() -> None:
        with pytest.raises(MalformedMessage):
            frame.decode(AdapterManifest, payload)

    assert peak_bytes(read) < 8 << 20


def test_a_segment_is_compressed_only_where_it_helps() -> None:
    noise = random.Random(0).randbytes(32_768)
    assert frame.encode(Segment(noise))[1] == 2
    assert frame.encode(Segment(bytes(32_768)))[1] == 0x82
    assert len(frame.encode(Segment(noise))) == len(noise) + 6


def test_the_largest_segment_fits_a_frame_and_a_packet() -> None:
    largest = random.Random(0).randbytes(limits.MAX_SEGMENT_BYTES)
    payload = frame.encode(Segment(largest))
    assert len(payload) + 200 <= limits.MAX_FRAME_BYTES
    assert frame.decode(Segment, payload).body == largest


@pytest.mark.parametrize("body", [b"", bytes(limits.MAX_SEGMENT_BYTES + 1)])
def test_an_empty_or_overlong_segment_is_not_written(body: bytes) -> None:
    with pytest.raises(ValueError, match="Segment"):
        frame.encode(Segment(body))


def test_a_manifest_of_the_most_segments_fits_a_packet(
    make_manifest: Callable[..., Manifest],
) -> None:
    entries = (SegmentEntry(limits.MAX_SEGMENT_BYTES, bytes(32)),) * limits.MAX_SEGMENTS
    payload = frame.encode(make_manifest(segments=entries))
    assert len(payload) < limits.MAX_FRAME_BYTES - 1024
    assert frame.decode(Manifest, payload).segments == entries
    with pytest.raises(ValueError, match="segments"):
        frame.encode(make_manifest(segments=(*entries, entries[0])))


def test_an_adapter_manifest_of_a_deep_model_fits_a_packet(
    make_adapter_manifest: Callable[..., AdapterManifest],
) -> None:
    """126 layers with 14 tensors each, all target modules spelled out, the most segments."""
    modules = [f"base_model.model.model.layers.{i}.{j}_proj" for i in range(126) for j in range(7)]
    layout = tuple(
        (f"{module}.lora_{side}.weight", (16_384, 16)) for module in modules for side in "AB"
    )
    rng = random.Random(0)
    message = make_adapter_manifest(
        layout=layout,
        adapter_config=str(modules),
        segments=tuple(SegmentEntry(32_768, rng.randbytes(32)) for _ in range(limits.MAX_SEGMENTS)),
    )
    payload = frame.encode(message)
    assert len(payload) < limits.MAX_FRAME_BYTES - 1024
    assert frame.decode(AdapterManifest, payload) == message


def test_an_adapter_manifest_that_outgrows_a_packet_is_not_written(
    make_adapter_manifest: Callable[..., AdapterManifest],
) -> None:
    noise = random.Random(0).randbytes(120_000).hex()
    with pytest.raises(ValueError, match="a frame at most"):
        frame.encode(make_adapter_manifest(b"one", adapter_config=noise))
    with pytest.raises(ValueError, match="adapter_config"):
        frame.encode(make_adapter_manifest(b"one", adapter_config="x" * (300 << 10)))


def test_an_array_longer_than_its_kind_allows_is_not_written(
    make_adapter_manifest: Callable[..., AdapterManifest],
) -> None:
    layout = tuple((f"{'x' * 200}{i}", (8,)) for i in range(5000))
    with pytest.raises(ValueError, match="AdapterManifest"):
        frame.encode(make_adapter_manifest(b"one", layout=layout))


def test_the_canonical_manifest_is_its_frame_and_names_it(
    make_manifest: Callable[..., Manifest],
) -> None:
    manifest = make_manifest(b"same" * 99, b"same" * 99)
    assert frame.canonical(manifest) == frame.encode(manifest)
    assert frame.canonical(manifest)[1] == 1
    assert frame.uid(manifest) == hashlib.sha256(frame.encode(manifest)).hexdigest()[:32]


def test_whole_numbers_as_floats_name_the_same_update(
    make_manifest: Callable[..., Manifest],
) -> None:
    whole, decimal = (
        make_manifest(b"a", train_loss=2, train_s=3),
        make_manifest(b"a", train_loss=2.0, train_s=3.0),
    )
    assert frame.uid(whole) == frame.uid(decimal)


def test_describe_tells_every_field(golden_message: Message, golden_bytes: bytes) -> None:
    told = frame.describe(golden_bytes)
    assert told["kind"] == type(golden_message).__name__
    assert told["frame_bytes"] == len(golden_bytes)
    assert set(golden_message.__dataclass_fields__) <= told.keys()


def test_describe_shortens_what_people_cannot_read(
    make_manifest: Callable[..., Manifest],
) -> None:
    told = frame.describe(frame.encode(make_manifest(b"one", b"three")))
    assert told["segments"] == {"count": 2, "bytes": 8}
    assert told["base_digest"] == bytes(range(32)).hex()
    assert told["evaluation"] == {"loss": 2.5, "tokens": 1000, "correct": 420}
    assert told["compressed"] is False
    assert "bytes" in str(frame.describe(frame.encode(Segment(b"abc")))["body"])


@pytest.mark.parametrize("payload", [b"", b"\x01", b"\x01\x00", b"\x01\x7f\x90", b"\x01\x03"])
def test_describe_refuses_what_is_no_frame(payload: bytes) -> None:
    with pytest.raises(MalformedMessage):
        frame.describe(payload)


def test_describe_names_another_version() -> None:
    with pytest.raises(UnsupportedMessage):
        frame.describe(b"\x02\x7f\x90")
