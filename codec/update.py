"""A whole update from any part of its segments, and what it would cost dense."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from codec.reference.dense import dense_bytes
from codec.registry import codec_named

if TYPE_CHECKING:
    from collections.abc import Mapping

    from codec.codec import FloatArray
    from codec.layout import Layout

__all__ = ["decode", "dense_bytes"]


def decode(
    codec_name: str, segments: Mapping[int, bytes], *, layout: Layout, segment_count: int
) -> FloatArray:
    """Return the delta that these segments stand for, float32 (layout.size,).

    Args:
        codec_name: Which codec wrote them.
        segments: Segment index → bytes, any subset; none at all stands for zeros.
        layout: The layout that the update was made for.
        segment_count: How many segments the whole update has.

    Raises:
        UnknownCodec: No codec has this name.
        CodecError: Bytes that are truncated, damaged, of another layout or not finite.
    """
    total = np.zeros(layout.size, dtype=np.float64)
    codec_named(codec_name).accumulate(
        segments, layout=layout, segment_count=segment_count, weight=1.0, total=total
    )
    return total.astype(np.float32)
