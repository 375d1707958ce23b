"""Which of the adapter's tensors an update stands for: all, or LoRA's B alone. Pure."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt

from codec.codec import FloatArray, SumArray
from codec.layout import Layout

F = TypeVar("F", np.float32, np.float64)

_FROZEN_A = ".lora_A.weight"


class Sent:
    """The coordinates that are sent, and their own layout, which the codec is given.

    Args:
        whole: The adapter's layout.
        freeze_a: Whether LoRA's A is never sent, since no client trains it (FFA-LoRA: Sun et al.,
            "Improving LoRA in Privacy-preserving Federated Learning", ICLR 2024).

    Raises:
        ValueError: Nothing would be sent.
    """

    def __init__(self, whole: Layout, *, freeze_a: bool) -> None:
        kept = [each for each in whole.tensors if not (freeze_a and each.name.endswith(_FROZEN_A))]
        if not kept:
            raise ValueError("nothing is sent where A is frozen and the adapter has no B")
        self._whole = whole
        self._parts = None
        self.layout = whole
        if len(kept) < len(whole.tensors):
            self.layout = Layout.from_shapes({each.name: each.shape for each in kept})
            self._parts = np.concatenate([np.arange(each.offset, each.end) for each in kept])

    def of(self, flat: npt.NDArray[F]) -> npt.NDArray[F]:
        """Return the coordinates that are sent, (layout.size,), of a flat array of all."""
        return flat if self._parts is None else flat[self._parts]

    def spread(self, sent: SumArray | FloatArray) -> SumArray:
        """Return float64 of all coordinates, zero where nothing is sent."""
        if self._parts is None:
            return sent.astype(np.float64)
        flat = np.zeros(self._whole.size)
        flat[self._parts] = sent
        return flat
