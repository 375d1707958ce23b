from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from aggregator.tensor_bits import can_tell, subset_bits, tensor_bits
from codec.codec import Budget
from codec.layout import Layout
from codec.registry import CODECS, codec_named

SPARSE = ["fstq", "fstq-percentile", "fstq+", "fstq-r"]
DENSE = ["fp32", "fp16", "bf16"]


@pytest.fixture
def layout() -> Layout:
    return Layout.from_shapes({"a": (40, 100), "b": (100, 80), "c": (16, 64), "d": (30,)})


def encoded(name: str, layout: Layout, *, keep: float = 1.0) -> tuple[Any, dict[int, bytes], int]:
    """Return a codec, some segments of an update of which the second tensor holds most."""
    codec, rng = codec_named(name), np.random.default_rng(7)
    delta = rng.normal(size=layout.size).astype(np.float32)
    loud = layout.tensors[1]
    delta[loud.offset : loud.end] *= 30
    update_bytes = None if codec.dense else 3000
    segments = codec.encode(delta, None, layout=layout, budget=Budget(update_bytes, 600), seed=3)
    kept = range(math.ceil(keep * len(segments)))
    return codec, {index: segments[index] for index in kept}, len(segments)


def attributed(name: str, layout: Layout, *, keep: float = 1.0) -> tuple[Any, int]:
    codec, segments, count = encoded(name, layout, keep=keep)
    delta = np.zeros(layout.size)
    codec.accumulate(segments, layout=layout, segment_count=count, weight=1.0, total=delta)
    bits = tensor_bits(codec, segments, delta, layout=layout, segment_count=count)
    return bits, 8 * sum(map(len, segments.values()))


@pytest.mark.parametrize("keep", [1.0, 0.5])
@pytest.mark.parametrize("name", [*SPARSE, *DENSE])
def test_tensors_have_most_of_the_payload_and_never_more(
    layout: Layout, name: str, keep: float
) -> None:
    bits, payload = attributed(name, layout, keep=keep)
    assert bits.dtype == np.int64
    assert bits.shape == (4,)
    assert (bits >= 0).all()
    assert 0.5 * payload < bits.sum() <= payload


@pytest.mark.parametrize("name", SPARSE)
def test_the_tensor_that_holds_most_has_most(layout: Layout, name: str) -> None:
    bits, _ = attributed(name, layout)
    assert bits.argmax() == 1
    assert bits[1] > 0.5 * bits.sum()


@pytest.mark.parametrize(("name", "width"), [("fp32", 32), ("fp16", 16), ("bf16", 16)])
def test_a_dense_payload_is_its_coordinates_and_headers(
    layout: Layout, name: str, width: int
) -> None:
    bits, payload = attributed(name, layout)
    assert bits.tolist() == [width * tensor.size for tensor in layout.tensors]
    assert payload > bits.sum()


def test_it_is_the_ideal_codes_length() -> None:
    """Three of eight coordinates are sent, two with one magnitude, one with another."""
    layout = Layout.from_shapes({"a": (8,)})
    delta = np.array([0, 1.0, 0, -1.0, 2.0, 0, 0, 0])
    codec, segments = codec_named("fstq+"), {0: b"x" * 100}
    (bits,) = tensor_bits(codec, segments, delta, layout=layout, segment_count=1)
    magnitudes = -(2 / 3 * math.log2(2 / 3) + 1 / 3 * math.log2(1 / 3))
    assert bits == math.floor(math.log2(56) + 3 * (1 + magnitudes))


def test_a_claim_beyond_the_payload_is_scaled_down_to_it() -> None:
    layout = Layout.from_shapes({"a": (64,), "b": (64,)})
    delta = np.arange(1.0, 129.0)
    codec, segments = codec_named("fstq+"), {0: b"x" * 5}
    bits = tensor_bits(codec, segments, delta, layout=layout, segment_count=1)
    assert bits.tolist() == [20, 20]


@pytest.mark.parametrize(("size", "count", "ways"), [(8, 0, 1), (8, 8, 1), (8, 3, 56), (1, 1, 1)])
def test_subsets_are_counted(size: int, count: int, ways: int) -> None:
    assert subset_bits(size, count) == pytest.approx(math.log2(ways), abs=1e-9)


def test_a_codec_that_cannot_tell_says_so() -> None:
    assert not can_tell(codec_named("eden"))
    assert all(can_tell(codec_named(name)) for name in (*SPARSE, *DENSE))
    assert sum(can_tell(codec_named(name)) for name in CODECS) < len(CODECS)
