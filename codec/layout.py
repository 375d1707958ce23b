"""Ordered tensor names and shapes ↔ flat coordinates, and the digest that both sides compare."""

from __future__ import annotations

import hashlib
import math
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from codec import limits
from codec.errors import CorruptSegment, InvalidInput, LimitExceeded

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

# Starts the canonical description, so that its hash can stand for nothing else.
DIGEST_DOMAIN = b"fedfstq layout\x00\x01"


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor of the adapter and where its coordinates lie.

    Attributes:
        name: Its key in the adapter's safetensors file.
        shape: Its dimensions, each ≥ 1; () is a single number.
        offset: Its first flat coordinate; its elements follow in C order.
    """

    name: str
    shape: tuple[int, ...]
    offset: int

    @property
    def size(self) -> int:
        """How many coordinates it has."""
        return math.prod(self.shape)

    @property
    def end(self) -> int:
        """The flat coordinate that follows its last."""
        return self.offset + self.size


@dataclass(frozen=True, slots=True)
class Layout:
    """The order in which an adapter's tensors become one flat array; made by `from_shapes`.

    Attributes:
        tensors: Sorted by name, without gaps.
        size: How many coordinates all tensors have together.
        digest: 32 bytes, SHA-256 of the canonical description that `SPEC.md` defines.
    """

    tensors: tuple[TensorSpec, ...]
    size: int = field(init=False)
    digest: bytes = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", self.tensors[-1].end)
        object.__setattr__(self, "digest", _digest(self.tensors))

    @classmethod
    def from_shapes(cls, shapes: Mapping[str, Sequence[int]]) -> Layout:
        """Return the layout of tensors with these names and shapes, whatever their order here.

        Raises:
            InvalidInput: No tensor, an empty or overlong name, a dimension below 1, or more
                tensors, dimensions or coordinates than `codec.limits` allows.
        """
        if not 1 <= len(shapes) <= limits.MAX_TENSORS:
            raise InvalidInput(
                f"a layout has 1 to {limits.MAX_TENSORS:,} tensors, not {len(shapes):,}"
            )
        tensors: list[TensorSpec] = []
        offset = 0
        for name in sorted(shapes):
            shape = tuple(int(dimension) for dimension in shapes[name])
            _check_tensor(name, shape)
            tensors.append(TensorSpec(name, shape, offset))
            offset = tensors[-1].end
            if offset > limits.MAX_COORDINATES:
                raise InvalidInput(f"a layout has at most {limits.MAX_COORDINATES:,} coordinates")
        return cls(tuple(tensors))

    @classmethod
    def from_json(cls, value: object) -> Layout:
        """Return the layout that a peer describes as `to_json` does.

        Args:
            value: Decoded JSON or msgpack from elsewhere; nothing about it is trusted.

        Raises:
            CorruptSegment: Not a list of [name, [dimensions]], a repeated name, a bad dimension.
            LimitExceeded: More tensors, dimensions or coordinates than `codec.limits` allows.
        """
        if not isinstance(value, (list, tuple)) or not value:
            raise CorruptSegment("a layout is a list of [name, [dimensions]] that is not empty")
        if len(value) > limits.MAX_TENSORS:
            raise LimitExceeded(
                f"a layout has at most {limits.MAX_TENSORS:,} tensors, not {len(value):,}"
            )
        shapes: dict[str, tuple[int, ...]] = {}
        coordinates = 0
        for entry in value:
            name, shape = _parse_tensor(entry)
            if name in shapes:
                raise CorruptSegment(f"the layout names tensor {name!r} twice")
            shapes[name] = shape
            coordinates += math.prod(shape)
            if coordinates > limits.MAX_COORDINATES:
                raise LimitExceeded(f"a layout has at most {limits.MAX_COORDINATES:,} coordinates")
        try:
            return cls.from_shapes(shapes)
        except InvalidInput as error:
            raise CorruptSegment(str(error)) from error

    def to_json(self) -> list[list[str | list[int]]]:
        """Return [name, [dimensions]] per tensor, in the layout's order."""
        return [[tensor.name, list(tensor.shape)] for tensor in self.tensors]

    def flatten(self, tensors: Mapping[str, npt.NDArray[np.generic]]) -> npt.NDArray[np.float32]:
        """Return the tensors as one new float32 (size,) array.

        Raises:
            InvalidInput: A name is missing or unknown, a shape differs, a dtype is not a number.
        """
        if tensors.keys() != {tensor.name for tensor in self.tensors}:
            wrong = sorted(tensors.keys() ^ {tensor.name for tensor in self.tensors})
            raise InvalidInput(f"tensors and layout differ in {len(wrong)} names, as {wrong[0]!r}")
        flat = np.empty(self.size, dtype=np.float32)
        for tensor in self.tensors:
            array = np.asarray(tensors[tensor.name])
            # numpy broadcasts (1,) into anything without a word, so shapes are compared exactly.
            if array.shape != tensor.shape:
                raise InvalidInput(
                    f"{tensor.name!r} has shape {array.shape}, the layout says {tensor.shape}"
                )
            if array.dtype.kind not in "fiu":
                raise InvalidInput(f"{tensor.name!r} has dtype {array.dtype}, which is no number")
            flat[tensor.offset : tensor.end] = array.reshape(-1)
        return flat

    def unflatten(self, flat: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[np.float32]]:
        """Return each tensor as a copy of its own, writable and in C order.

        Raises:
            InvalidInput: `flat` is not float32 (size,).
        """
        if flat.shape != (self.size,) or flat.dtype != np.float32:
            raise InvalidInput(f"wanted float32 ({self.size},), not {flat.dtype} {flat.shape}")
        return {
            tensor.name: flat[tensor.offset : tensor.end].reshape(tensor.shape).copy()
            for tensor in self.tensors
        }


def _check_tensor(name: str, shape: tuple[int, ...]) -> None:
    # JSON can carry lone surrogates, which have no UTF-8 form that a digest could be made of.
    encoded = name.encode(errors="ignore")
    if not 1 <= len(encoded) <= limits.MAX_NAME_BYTES or encoded.decode() != name:
        raise InvalidInput(f"a tensor's name has 1 to {limits.MAX_NAME_BYTES} bytes: {name!r:.80}")
    if len(shape) > limits.MAX_DIMENSIONS or any(dimension < 1 for dimension in shape):
        raise InvalidInput(
            f"{name!r} has shape {shape}: at most {limits.MAX_DIMENSIONS} dimensions, each ≥ 1"
        )


def _parse_tensor(entry: object) -> tuple[str, tuple[int, ...]]:
    match entry:
        case [str(name), list() | tuple() as dimensions]:
            pass
        case _:
            raise CorruptSegment("an entry of the layout is not [name, [dimensions]]")
    if len(dimensions) > limits.MAX_DIMENSIONS:
        raise LimitExceeded(f"a tensor has at most {limits.MAX_DIMENSIONS} dimensions")
    if len(name) > limits.MAX_NAME_BYTES:
        raise LimitExceeded(f"a tensor's name has at most {limits.MAX_NAME_BYTES} bytes")
    for dimension in dimensions:
        if type(dimension) is not int or dimension < 1:
            raise CorruptSegment(f"a dimension of {name!r} is not an integer ≥ 1")
        if dimension > limits.MAX_COORDINATES:
            raise LimitExceeded(f"a dimension of {name!r} is over {limits.MAX_COORDINATES:,}")
    return name, tuple(dimensions)


def _digest(tensors: tuple[TensorSpec, ...]) -> bytes:
    digest = hashlib.sha256(DIGEST_DOMAIN)
    digest.update(struct.pack("<I", len(tensors)))
    for tensor in tensors:
        name = tensor.name.encode()
        digest.update(struct.pack("<H", len(name)) + name)
        digest.update(struct.pack(f"<B{len(tensor.shape)}I", len(tensor.shape), *tensor.shape))
    return digest.digest()
