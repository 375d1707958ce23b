"""The next published adapter, where versions are published as deltas.

The server keeps its exact adapter, the master. A version is by definition what the version before
and the decoded delta give, so that devices which hold that one come to the same bits. The delta
encodes master - published, so what its codec drops is in the next delta again: error feedback
(Karimireddy et al., ICML 2019) without a state of its own, and it ends the run within one delta's
error of the master.
"""

from __future__ import annotations

import hashlib

import numpy as np

from aggregator.adapter_folder import Adapter, Delta
from aggregator.config import AggregatorConfig
from codec.codec import Budget, FloatArray
from codec.layout import Layout
from codec.registry import codec_named
from codec.update import move


def next_version(
    published: Adapter, master: FloatArray, *, config: AggregatorConfig, version: int
) -> tuple[FloatArray, Delta]:
    """Return the flat adapter of this version, and the delta that makes it from the one before.

    A pure function: a crash and another try give the same bytes.

    Args:
        published: The version before, as devices have it.
        master: float32 (n,), the server's exact adapter of this version.
        config: Names the downlink codec and its budget.
        version: The version that is made, ≥ 1.

    Raises:
        OverflowError: The result does not fit float32.
    """
    assert config.downlink_codec is not None
    flat, segments = moved_towards(
        master,
        published.flat,
        layout=published.layout,
        codec=config.downlink_codec,
        budget=Budget(config.downlink_bytes(published.layout.size), config.segment_bytes),
        seed=config.seed,
        version=version,
    )
    return flat, Delta(config.downlink_codec, segments, master)


def moved_towards(
    master: FloatArray,
    published: FloatArray,
    *,
    layout: Layout,
    codec: str,
    budget: Budget,
    seed: int,
    version: int,
) -> tuple[FloatArray, tuple[bytes, ...]]:
    """Return what devices have once they hold a version's delta, and the delta's segments.

    Args:
        master: float32 (layout.size,), the server's exact adapter of this version.
        published: float32 (layout.size,), the version before, as devices have it.
        layout: The adapter's.
        codec: The downlink codec's name; an ordered one.
        budget: The delta's.
        seed: The run's.
        version: The version that is made, ≥ 1.

    Raises:
        OverflowError: The result does not fit float32.
    """
    digest = hashlib.sha256(f"{seed}/downlink/{version}".encode()).digest()
    with np.errstate(over="ignore"):
        way = master - published
    _check_finite(way)
    segments = codec_named(codec).encode(
        way,
        None,
        layout=layout,
        budget=budget,
        seed=int.from_bytes(digest[:8], "little") >> 1,
    )
    flat = published.copy()
    move(codec, dict(enumerate(segments)), base=flat, layout=layout)
    _check_finite(flat)
    return flat, segments


def _check_finite(flat: FloatArray) -> None:
    if not np.isfinite(flat).all():
        raise OverflowError("the new adapter does not fit float32: lower server_step")
