"""Weighted federated averaging as a pure function of the frozen set.

McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data" (2017),
with the weights renormalised over the updates that arrived (arXiv 2604.25421, server step):
mean = Σ_k N_k · Δ̃_k / Σ_k N_k.

A part of an exchangeable update is an unbiased, noisier estimate of the whole, and weighs less.
Let p_k be the weights, Σ p_k = 1. Given what arrived, E[Σ p_k Δ̃_k] = Σ p_k Δ_k for every choice of
p that does not look at the values, so the choice is free to make the variance Σ p_k² Var(Δ̃_k)
small. A delta that N_k examples made has a variance in proportion to 1 / N_k about the fleet's, and
decoding a share s_k of it multiplies that by 1 / s_k: Var(Δ̃_k) = v / (N_k s_k). By Lagrange
2 p_k v / (N_k s_k) = λ for all k, that is p_k ∝ N_k · s_k: as if only a share of the examples had
been there. Devices whose links are always slow count less for it, as they do with ordered codecs,
where what did not arrive counts as nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from aggregator.admission import Refusal
from aggregator.norms import NormPolicy, update_norm
from aggregator.tensor_bits import can_tell, tensor_bits
from aggregator.tensors import Counts, count_moved
from codec.codec import Codec, Order, SumArray
from codec.errors import CodecError
from codec.layout import Layout


@dataclass(frozen=True, slots=True)
class ClientUpdate:
    """What counts of one client update.

    Attributes:
        uid: The update's name.
        weight: N_k, the capped number of examples, ≥ 1; over √(1 + staleness) where it is late.
        segment_count: Segments that the whole update has.
        segments: Index → bytes of those that were accepted.
    """

    uid: str
    weight: float
    segment_count: int
    segments: Mapping[int, bytes]


@dataclass(frozen=True, slots=True)
class Average:
    """The mean of a frozen set.

    Attributes:
        mean: float64 (layout.size,); zeros where nothing could be decoded.
        included: The uids that are in the mean, ascending.
        refused: The uids that are not, each with its typed reason.
        norms: uid → norm, as it went into the mean, for those that are in it.
        clipped: The uids that were scaled down to the bound.
        moved: int64 (tensors,), coordinates that are not zero, summed over those in the mean.
        bits: int64 (tensors,), each tensor's own bits of their payload; None where the codec
            cannot tell.
        payload_bytes: Of the segments of those in the mean.
        arrived: How many are in the mean, parts of exchangeable updates counted as parts.
        bits_per_coordinate: Of one of them with all its segments, in the mean; 0 without any.
    """

    mean: SumArray
    included: tuple[str, ...]
    refused: Mapping[str, str]
    norms: Mapping[str, float]
    clipped: tuple[str, ...]
    moved: Counts
    bits: Counts | None
    payload_bytes: int
    arrived: float
    bits_per_coordinate: float


def federated_average(
    updates: Iterable[ClientUpdate],
    *,
    codec: Codec,
    layout: Layout,
    max_delta_abs: float,
    norm_bound: float | None = None,
    norm_policy: NormPolicy = NormPolicy.CLIP,
) -> Average:
    """Return the weighted mean of the updates that decode; the same input gives the same bytes.

    Weights are the examples, times the share that arrived where the codec is exchangeable.

    One update is held at a time, beside two float64 arrays of the layout's size. An update with a
    segment that does not decode, or that moves a coordinate further than `max_delta_abs`, is left
    out whole: what else its sender says cannot be trusted either.

    Args:
        updates: In strictly ascending order of uid, which fixes the order of the float sums.
        codec: The run's codec.
        layout: The run's layout.
        max_delta_abs: Largest |Δ̃| that is believed.
        norm_bound: Largest norm that an update may have, None for any.
        norm_policy: What becomes of a longer one.
    """
    total = np.zeros(layout.size, dtype=np.float64)
    scratch = np.empty(layout.size, dtype=np.float64)
    moved = np.zeros(len(layout.tensors), dtype=np.int64)
    bits = np.zeros(len(layout.tensors), dtype=np.int64) if can_tell(codec) else None
    payload_bytes = 0
    whole_bytes = weights = arrived = 0.0
    norms: dict[str, float] = {}
    clipped: list[str] = []
    refused: dict[str, str] = {}
    last_uid = ""
    for update in updates:
        assert update.uid > last_uid, "the frozen set is summed in ascending order of uid"
        last_uid = update.uid
        reason = _decode(update, scratch, codec=codec, layout=layout, max_delta_abs=max_delta_abs)
        if reason is not None:
            refused[update.uid] = reason
            continue
        share = len(update.segments) / update.segment_count
        norm = update_norm(scratch, order=codec.order, share=share)
        if norm_bound is not None and norm > norm_bound:
            if norm_policy is NormPolicy.REFUSE:
                refused[update.uid] = Refusal.NORM.value
                continue
            clipped.append(update.uid)
            scratch *= norm_bound / norm
            norm = norm_bound
        moved += count_moved(scratch, layout)
        update_bytes = sum(map(len, update.segments.values()))
        payload_bytes += update_bytes
        whole_bytes += update_bytes / share if share else 0.0
        if bits is not None:
            bits += tensor_bits(
                codec, update.segments, scratch, layout=layout, segment_count=update.segment_count
            )
        part = share if codec.order is Order.EXCHANGEABLE else 1.0
        arrived += part
        weight = update.weight * part
        scratch *= weight
        total += scratch
        weights += weight
        norms[update.uid] = norm
    if weights:
        total /= weights
    return Average(
        mean=total,
        included=tuple(norms),
        refused=refused,
        norms=norms,
        clipped=tuple(clipped),
        moved=moved,
        bits=bits,
        payload_bytes=payload_bytes,
        arrived=arrived,
        bits_per_coordinate=8 * whole_bytes / (layout.size * max(1, len(norms))),
    )


def _decode(
    update: ClientUpdate, delta: SumArray, *, codec: Codec, layout: Layout, max_delta_abs: float
) -> str | None:
    """Write the update's delta into `delta`, or return the reason why it is refused."""
    delta.fill(0.0)
    try:
        codec.accumulate(
            update.segments,
            layout=layout,
            segment_count=update.segment_count,
            weight=1.0,
            total=delta,
        )
    except CodecError as error:
        return error.reason
    largest = max(float(delta.max()), -float(delta.min()))
    if not np.isfinite(largest):
        return Refusal.NON_FINITE.value
    return Refusal.MAGNITUDE.value if largest > max_delta_abs else None
