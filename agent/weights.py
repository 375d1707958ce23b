"""How much memory a base model's weights take, told from the headers of its files."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path

# [bytes] The format's own bound on a header.
_MAX_HEADER_BYTES = 100_000_000
# Two-dimensional weights that quantisation leaves as they are: embeddings and output layers.
_KEPT = ("embed", "lm_head", "wte", "wpe", "output_layer")
# [bytes per number] 4 bits and an 8-bit scale for each 64; 8 bits and a scale for each output.
_PACKED_BYTES = {"bitsandbytes": 0.52, "torchao": 1.02}


@dataclass(frozen=True, slots=True)
class Weights:
    """How many numbers a model has.

    Attributes:
        linear: In the weights of linear layers, which can be quantised.
        other: In all others.
    """

    linear: int
    other: int

    def needed_bytes(self, *, library: str, itemsize: int) -> int:
        """Return what they take.

        Args:
            library: What quantises the linear layers, "" where nothing does.
            itemsize: Bytes of each number that is not quantised.
        """
        per_number = _PACKED_BYTES.get(library, float(itemsize))
        return int(self.linear * per_number) + self.other * itemsize


def count_weights(folder: Path) -> Weights | None:
    """Return how many numbers the safetensors files hold, None where one of them is damaged."""
    linear = other = 0
    try:
        for path in folder.glob("*.safetensors"):
            for name, shape in _shapes(path).items():
                size = math.prod(shape)
                if len(shape) == 2 and not any(part in name for part in _KEPT):  # noqa: PLR2004  # a matrix
                    linear += size
                else:
                    other += size
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error):
        return None  # loading says what is wrong with it
    return Weights(linear, other)


def _shapes(path: Path) -> dict[str, list[int]]:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > _MAX_HEADER_BYTES:
            raise ValueError(length)
        header = json.loads(file.read(length))
    return {name: entry["shape"] for name, entry in header.items() if name != "__metadata__"}
