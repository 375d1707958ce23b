"""What the codec's tests share: layouts, deltas, and segments sealed with a right checksum."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import pytest

from codec.layout import Layout

Floats = npt.NDArray[np.float32]


@pytest.fixture(scope="session")
def layout_of() -> Callable[[Sequence[int]], Layout]:
    """Return a function that makes a layout of flat tensors of the given sizes."""
    return lambda sizes: Layout.from_shapes(
        {f"layers.{place:03}.weight": [size] for place, size in enumerate(sizes)}
    )


@pytest.fixture(scope="session")
def draw() -> Callable[[int, int], tuple[Floats, Floats]]:
    """Return a function that draws a normal delta and a skewed Fisher diagonal from a seed."""

    def drawn(size: int, seed: int) -> tuple[Floats, Floats]:
        random = np.random.default_rng(seed)
        delta = (random.standard_normal(size) * 1e-2).astype(np.float32)
        return delta, random.lognormal(0, 2, size).astype(np.float32)

    return drawn


@pytest.fixture(scope="session")
def reseal() -> Callable[[bytes], bytes]:
    """Return a function that mends payload length and checksum of a segment that was changed."""

    def sealed(segment: bytes) -> bytes:
        fields = segment[:24] + struct.pack("<I", len(segment) - 32)
        checksum = zlib.crc32(fields + segment[32:])
        return fields + struct.pack("<I", checksum) + segment[32:]

    return sealed
