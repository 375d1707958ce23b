"""Says what a file of this system's bytes holds: a frame, a segment, or a device's payload."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from agent import payload
from codec import limits, segment
from codec.errors import CodecError
from codec.registry import name_of
from transport import frame
from transport.errors import MessageError

# The largest thing that is read whole: a frame or a segment. A payload is read by its header.
_MAX_BYTES = 4 * limits.MAX_SEGMENT_BYTES


class InspectionError(Exception):
    """The file cannot be read, or holds nothing of this system's."""


def inspect_file(path: Path) -> dict[str, Any]:
    """Return what a file holds; `kind` says what it is.

    Raises:
        InspectionError: It cannot be read, or is truncated, damaged or foreign; the text says how.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise InspectionError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        if content.startswith(payload.MAGIC[:-1]):
            header = asdict(payload.read_header(path))
            return {"kind": "payload", **header, "segment_bytes": sum(header["lengths"])}
        if len(content) > _MAX_BYTES:
            raise InspectionError(f"{path}: longer than any frame or segment")
        if content.startswith(segment.MAGIC):
            return _describe_segment(content)
        return frame.describe(content)
    except (payload.PayloadError, CodecError, MessageError) as error:
        raise InspectionError(f"{path}: {error}") from error


def render(description: dict[str, Any], *, as_json: bool) -> str:
    """Return a description as JSON or as aligned lines."""
    if as_json:
        return json.dumps(description, indent=2)
    width = max(len(key) for key in description)
    return "\n".join(f"{key:<{width}}  {_shown(value)}" for key, value in description.items())


def _describe_segment(content: bytes) -> dict[str, Any]:
    parsed = segment.parse(content)
    return {
        "kind": "segment",
        "format_version": segment.FORMAT_VERSION,
        "codec": name_of(parsed.codec_id),
        "index": parsed.index,
        "count": parsed.count,
        "layout_digest_prefix": parsed.layout_prefix.hex(),
        "payload_bytes": len(parsed.payload),
    }


def _shown(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)
