"""What stays on the device once a receipt has named the segments that were accepted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from codec.codec import Order
from codec.errors import InvalidInput
from codec.inputs import check_delta

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from codec.codec import Codec, FloatArray, SumArray
    from codec.layout import Layout


def residual_after(
    delta: FloatArray,
    *,
    encoded: Mapping[int, bytes],
    accepted: Collection[int],
    codec: Codec,
    layout: Layout,
    feedback: bool,
    decay: float,
) -> FloatArray:
    """Return what the next update has to make up for, float32 (layout.size,).

    An exchangeable codec leaves nothing: what arrived stands for the whole. An ordered one leaves
    what was encoded and not accepted; with feedback also what encoding itself dropped, so that
    residual + decoded(accepted) = delta where the decay is 1.

    Args:
        delta: float32 (layout.size,), what was encoded.
        encoded: Segment index → bytes, every segment of the update.
        accepted: Indices of the segments that the receipt names.
        codec: The codec that wrote them.
        layout: The update's layout.
        feedback: Whether the error of encoding is fed back.
        decay: 0 to 1, what a residual with feedback is multiplied by, since it grows stale.

    Raises:
        InvalidInput: A receipt for segments that were never encoded, or a decay out of range.
        CodecError: The encoded bytes were damaged where they were kept.

    Source: error feedback, Seide et al., Interspeech 2014; Karimireddy et al., ICML 2019.
    """
    check_delta(delta, layout=layout)
    if not 0 <= decay <= 1:
        raise InvalidInput(f"a residual's decay is 0 to 1, not {decay}")
    if not set(accepted) <= encoded.keys():
        unknown = sorted(set(accepted) - encoded.keys())
        raise InvalidInput(f"the receipt names segments that were never sent, as {unknown[0]}")
    if codec.order is Order.EXCHANGEABLE:
        return np.zeros(layout.size, dtype=np.float32)
    arrived = set(accepted)
    if feedback:
        rest = delta.astype(np.float64)
        chosen = {index: encoded[index] for index in arrived}
        _accumulate(chosen, codec, layout, count=len(encoded), weight=-1.0, total=rest)
        rest *= decay
    else:
        rest = np.zeros(layout.size, dtype=np.float64)
        chosen = {index: encoded[index] for index in encoded.keys() - arrived}
        _accumulate(chosen, codec, layout, count=len(encoded), weight=1.0, total=rest)
    return rest.astype(np.float32)


def _accumulate(
    segments: Mapping[int, bytes],
    codec: Codec,
    layout: Layout,
    *,
    count: int,
    weight: float,
    total: SumArray,
) -> None:
    codec.accumulate(segments, layout=layout, segment_count=count, weight=weight, total=total)
