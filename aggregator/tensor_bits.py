"""What of an update's payload is each tensor's own, which codecs do not keep apart. Pure.

Codecs write the support of several tensors as one set and their levels as one field, so that no
byte is of one tensor alone. A tensor is given what its own coordinates would take at the least in
an ideal code that knows its counts: log2 C(n, k) bits for which k of its n coordinates are sent, a
bit for each sign, and the entropy of its magnitudes for each of them. Values that are sent as they
are count with their width. What the payload has beyond that is shared: headers, scales, the tables
that say which tensors are there, and what the real code loses against the ideal one.

The ideal code knows each tensor's density, and the real one that of all tensors of a set, so that
the sum is hardly ever more than the payload; where it is, all are scaled down to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import lgamma, log
from typing import Final

import numpy as np
import numpy.typing as npt

from codec.codec import Codec, SumArray
from codec.layout import Layout
from codec.rotated_payload import RAW, Share, parse_head, parse_shares
from codec.segment import open_all
from codec.shares import Deal, share_sizes

Counts = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

# Codecs whose decoded coordinates are what they have sent: levels, or zero.
_LEVELLED: Final = frozenset(
    {"fstq", "fstq-percentile", "fstq-random", "fstq-magnitude", "fstq-uniform", "fstq+"}
    | {"qsgd", "fedpaq", "stc", "sign"}
)
# [bits] Codecs that send every coordinate as it is.
_WIDTHS: Final = {"fp32": 32, "fp16": 16, "bf16": 16}
_ROTATED: Final = "fstq-r"
_HALF_BITS, _FLOAT_BITS = 16, 32
# [values] So many of a tensor tell the entropy of its magnitudes.
_SAMPLE: Final = 1 << 16
_BITS: Final = 8


def can_tell(codec: Codec) -> bool:
    """Say whether a codec's payload can be attributed to tensors."""
    return codec.name in _LEVELLED or codec.name in _WIDTHS or codec.name == _ROTATED


def tensor_bits(
    codec: Codec,
    segments: Mapping[int, bytes],
    delta: SumArray,
    *,
    layout: Layout,
    segment_count: int,
) -> Counts:
    """Return the bits of these segments that are each tensor's own, int64 (tensors,).

    Args:
        codec: One that `can_tell`.
        segments: Of one update, all legal, headers counted.
        delta: float64 (layout.size,), what they decode to, times any factor.
        layout: Of the update.
        segment_count: How many segments the whole update has.
    """
    assert can_tell(codec)
    if codec.name == _ROTATED:
        claims = _of_shares(codec, segments, layout=layout, segment_count=segment_count)
    elif width := _WIDTHS.get(codec.name):
        is_whole = len(segments) == segment_count
        sent = (
            tensor.size if is_whole else np.count_nonzero(delta[tensor.offset : tensor.end])
            for tensor in layout.tensors
        )
        claims = np.array([float(width * count) for count in sent])
    else:
        parts = (np.abs(delta[tensor.offset : tensor.end]) for tensor in layout.tensors)
        claims = np.array([_levelled(part) for part in parts])
    bits = _BITS * sum(map(len, segments.values()))
    claimed = float(claims.sum())
    if claimed > bits:
        claims *= bits / claimed
    whole: Counts = np.floor(claims).astype(np.int64)
    # Of floats that add up to the payload, their sum may be one bit more.
    whole[int(whole.argmax())] -= max(0, int(whole.sum()) - bits)
    return whole


def _levelled(magnitudes: SumArray) -> float:
    sent = magnitudes[magnitudes > 0]
    return subset_bits(magnitudes.size, sent.size) + sent.size * (1.0 + _entropy(sent))


def _of_shares(
    codec: Codec, segments: Mapping[int, bytes], *, layout: Layout, segment_count: int
) -> FloatArray:
    payloads = open_all(segments, codec_id=codec.codec_id, count=segment_count, layout=layout)
    sizes = np.array([tensor.size for tensor in layout.tensors], dtype=np.int64)
    shares: dict[int, list[Share]] = {}
    for index, payload in payloads.items():
        head, reader = parse_head(payload)
        deal = Deal(head.seed, head.groups, segment_count // head.groups)
        members = deal.members(layout)[deal.group_of(index)]
        held = share_sizes(sizes[members], share=deal.share_of(index), shares=deal.shares)
        for share in parse_shares(reader, head, members=members, sizes=held):
            shares.setdefault(share.tensor, []).append(share)
    claims = np.zeros(sizes.size)
    for tensor, several in shares.items():
        claims[tensor] = _rotated(several)
    return claims


def _rotated(shares: Sequence[Share]) -> float:
    """Return the claim of a tensor by its shares; each segment says anew what it sends of it."""
    bits = 0.0
    for share in shares:
        if share.number == RAW:
            bits += _HALF_BITS * share.size
        else:
            bits += subset_bits(share.size, share.places.size)
            bits += subset_bits(share.size, share.peeled.size) + _FLOAT_BITS * share.peeled.size
    magnitudes = np.abs(np.concatenate([share.levels for share in shares]))
    return bits + float(magnitudes.size) * (1.0 + _entropy(magnitudes))


def subset_bits(size: int, count: int) -> float:
    """Return log2 of how many sets of `count` of `size` places there are."""
    return (lgamma(size + 1) - lgamma(count + 1) - lgamma(size - count + 1)) / log(2.0)


def _entropy(values: npt.NDArray[np.generic]) -> float:
    """Return the entropy of a value, in bits, from a sample of them in even steps."""
    if not values.size:
        return 0.0
    sample = values[:: -(-values.size // _SAMPLE)]
    shares = np.unique(sample, return_counts=True)[1] / sample.size
    return abs(float(-(shares * np.log2(shares)).sum()))
