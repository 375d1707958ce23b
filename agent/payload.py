r"""The payload file: one trained and encoded client update, durable before anything is sent.

    offset  bytes  field
    0       8      magic b"FSTQUPD\x02" (the last byte is the version)
    8       4      n, length of the header in bytes, little-endian
    12      n      header: JSON of `PayloadHeader`
    12+n    4      CRC-32 of everything before it, little-endian
    16+n    …      each segment's body, followed by its CRC-32
    …       …      where the header names coordinates: what was encoded, that is the delta with the
                   residuals added, as little-endian float32, followed by its CRC-32

A receipt decides what of an update stays on the device. Segments and what they were made from are
one file, so that no crash can leave one of them without the other.

Agent and trainer both import this file, so it needs no torch.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked_dataclass

from codec import limits
from transport.crash_points import reach
from transport.messages import Evaluation

MAGIC = b"FSTQUPD\x02"
# [bytes] The lengths of the most segments that there may be, 8 digits each, and a kilobyte.
MAX_HEADER_BYTES = 8 * limits.MAX_SEGMENTS + 1024
TEMPORARY_SUFFIX = ".tmp"

_PREFIX = struct.Struct("<8sI")
_CHECKSUM = struct.Struct("<I")
_FLOAT = np.dtype("<f4")

_HexDigest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Length = Annotated[int, Field(ge=1, le=limits.MAX_SEGMENT_BYTES)]


class PayloadError(Exception):
    """The payload file is truncated, damaged or of another version: the disk is wrong."""


@checked_dataclass(
    frozen=True, slots=True, config=ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)
)
class PayloadHeader:
    """What the trainer says of the update that it left: a manifest but for who sends it.

    Attributes:
        run: The run's id.
        base_digest: SHA-256 of the base model, hexadecimal.
        layout_digest: SHA-256 of the layout, hexadecimal.
        num_examples: Examples that training drew from: the update's weight.
        train_loss: Mean training loss over the local steps in nats.
        train_s: Seconds of training.
        evaluation: How `base_version` does on the held-out text; None where there is none.
        lengths: Bytes of each segment, in the order of sending.
        leftovers_used: Numbers of the leftovers that went into this update.
        coordinates: How many float32 values of what was encoded follow the segments; 0 where the
            run does not feed the error of encoding back.
    """

    run: str
    round_id: Annotated[int, Field(ge=1)]
    base_version: Annotated[int, Field(ge=0)]
    base_digest: _HexDigest
    layout_digest: _HexDigest
    codec: str
    num_examples: Annotated[int, Field(ge=1)]
    train_loss: float
    steps: Annotated[int, Field(ge=0)]
    train_s: Annotated[float, Field(ge=0)]
    evaluation: Evaluation | None
    lengths: Annotated[tuple[_Length, ...], Field(min_length=1, max_length=limits.MAX_SEGMENTS)]
    leftovers_used: tuple[Annotated[int, Field(ge=1)], ...]
    coordinates: Annotated[int, Field(ge=0, le=limits.MAX_COORDINATES)]


_HEADER = TypeAdapter(PayloadHeader)


def write_payload(
    path: Path,
    header: PayloadHeader,
    segments: Sequence[bytes],
    *,
    encoded: npt.NDArray[np.float32] | None = None,
) -> None:
    """Write an update so that it is there whole or not at all, whatever crashes when.

    Args:
        path: Where it goes.
        header: What it says of itself.
        segments: Their bytes, in the order of sending.
        encoded: float32 (header.coordinates,), what they were made from; None where that is 0.

    Raises:
        ValueError: Segments or coordinates are not those that the header announces.
        OSError: The disk is full or cannot be written.
    """
    if tuple(len(body) for body in segments) != header.lengths:
        raise ValueError("the header's lengths are not those of the segments")
    if header.coordinates != (0 if encoded is None else encoded.size):
        raise ValueError("the header's coordinates are not those that were encoded")
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    reach("trainer-file-before")
    with temporary.open("wb") as file:
        file.write(_encode_header(header))
        for body in segments:
            file.write(body)
            file.write(_CHECKSUM.pack(zlib.crc32(body)))
        if encoded is not None:
            values = encoded.astype(_FLOAT, copy=False).view(np.uint8).data
            file.write(values)
            file.write(_CHECKSUM.pack(zlib.crc32(values)))
        file.flush()
        os.fdatasync(file.fileno())
    reach("trainer-file-written")
    temporary.replace(path)
    sync_folder(path.parent)
    reach("trainer-file-renamed")


def read_header(path: Path) -> PayloadHeader:
    """Return the header of a payload file whose length is the one that it announces.

    Raises:
        PayloadError: The file is truncated, damaged, too long or of another version.
        OSError: The file is missing or cannot be read.
    """
    with path.open("rb") as file:
        prefix = file.read(_PREFIX.size)
        if len(prefix) < _PREFIX.size:
            raise PayloadError(f"{path.name}: ends inside its first {_PREFIX.size} bytes")
        magic, length = _PREFIX.unpack(prefix)
        if magic != MAGIC:
            raise PayloadError(f"{path.name}: is no payload file of this version")
        if length > MAX_HEADER_BYTES:
            raise PayloadError(f"{path.name}: announces a header of {length} bytes")
        body = file.read(length)
        checksum = file.read(_CHECKSUM.size)
        size = os.fstat(file.fileno()).st_size
    if checksum != _CHECKSUM.pack(zlib.crc32(prefix + body)):
        raise PayloadError(f"{path.name}: its header is truncated or damaged")
    try:
        header = _HEADER.validate_json(body)
    except ValidationError as error:
        raise PayloadError(f"{path.name}: its header has wrong fields") from error
    expected = _segment_offset(length, header, len(header.lengths))
    if header.coordinates:
        expected += header.coordinates * _FLOAT.itemsize + _CHECKSUM.size
    if size != expected:
        raise PayloadError(f"{path.name}: has {size} bytes, its header announces {expected}")
    return header


def read_segment(path: Path, header: PayloadHeader, index: int) -> bytes:
    """Return one segment's body.

    Raises:
        PayloadError: The file ends before it, or its bytes are not those that were written.
        OSError: The file is missing or cannot be read.
    """
    assert 0 <= index < len(header.lengths)
    with path.open("rb") as file:
        prefix = file.read(_PREFIX.size)
        if len(prefix) < _PREFIX.size:
            raise PayloadError(f"{path.name}: ends inside its first {_PREFIX.size} bytes")
        file.seek(_segment_offset(_PREFIX.unpack(prefix)[1], header, index))
        body = file.read(header.lengths[index])
        checksum = file.read(_CHECKSUM.size)
    if len(body) < header.lengths[index] or checksum != _CHECKSUM.pack(zlib.crc32(body)):
        raise PayloadError(f"{path.name}: segment {index} is truncated or damaged")
    return body


def read_encoded(path: Path, header: PayloadHeader) -> npt.NDArray[np.float32]:
    """Return what the segments were made from, float32 (header.coordinates,), read only.

    It is mapped from the file, so that it takes the kernel's cache and no memory of this process.

    Raises:
        PayloadError: It is not there, or damaged.
        OSError: The file is missing or cannot be read.
    """
    if not header.coordinates:
        raise PayloadError(f"{path.name}: holds nothing but segments")
    with path.open("rb") as file:
        _, header_bytes = _PREFIX.unpack(file.read(_PREFIX.size))
        offset = _segment_offset(header_bytes, header, len(header.lengths))
        file.seek(offset + header.coordinates * _FLOAT.itemsize)
        checksum = file.read(_CHECKSUM.size)
    octets = np.memmap(
        path, dtype=np.uint8, mode="r", offset=offset, shape=(header.coordinates * _FLOAT.itemsize,)
    )
    if checksum != _CHECKSUM.pack(zlib.crc32(octets.data)):
        raise PayloadError(f"{path.name}: what was encoded is damaged")
    return np.asarray(octets).view(_FLOAT)


def sync_folder(folder: Path) -> None:
    """Make a rename in this folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _encode_header(header: PayloadHeader) -> bytes:
    body = _HEADER.dump_json(header)
    assert len(body) <= MAX_HEADER_BYTES
    start = _PREFIX.pack(MAGIC, len(body)) + body
    return start + _CHECKSUM.pack(zlib.crc32(start))


def _segment_offset(header_bytes: int, header: PayloadHeader, index: int) -> int:
    before = header.lengths[:index]
    return _PREFIX.size + header_bytes + _CHECKSUM.size + sum(before) + len(before) * _CHECKSUM.size
