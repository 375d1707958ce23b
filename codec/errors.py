"""What can be wrong with bytes or arrays given to the codec, by who is wrong."""

from __future__ import annotations


class CodecError(Exception):
    """Bytes from elsewhere cannot be decoded: the sender is wrong, or the bytes were damaged.

    A subclass's `reason` is the typed reason that receipts, counters and events carry.
    """

    reason: str = "corrupt"


class TruncatedSegment(CodecError):
    """The segment ends before what its header announces."""

    reason = "truncated"


class CorruptSegment(CodecError):
    """The segment's checksum, magic, reserved bits or field values are not legal."""

    reason = "corrupt"


class UnsupportedVersion(CodecError):
    """The segment was written by a format version or codec that this reader does not know."""

    reason = "version"


class LayoutMismatch(CodecError):
    """The segment belongs to another layout than the one it is decoded against."""

    reason = "layout"


class LimitExceeded(CodecError):
    """The segment announces more than `codec.limits` allows."""

    reason = "oversized"


class NonFinite(CodecError):
    """A decoded value or scale is NaN or infinite."""

    reason = "non-finite"


class InvalidInput(ValueError):
    """The caller gave arrays or options that no update can be made of (a fault of this side)."""


class UnknownCodec(InvalidInput):
    """No codec has this name."""
