"""What is done when memory runs out: fewer rows at once, and the same result more slowly."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")
_LOG = logging.getLogger(__name__)
# torch's CPU allocator, and CUDA through drivers that torch gives no type of its own.
_PHRASES = ("can't allocate memory", "out of memory", "NvMapMemAlloc", "CUBLAS_STATUS_ALLOC_FAILED")


class OutOfMemory(Exception):
    """A single row does not fit into memory."""


class RowsAtOnce:
    """How many rows go through the model at once: halved each time that they do not fit."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    def run(self, work: Callable[[int], T]) -> T:
        """Return what `work` gives for as many rows at once as fit.

        It is begun anew after each halving.

        Raises:
            OutOfMemory: Not even one row fits.
        """
        while True:
            try:
                return work(self.rows)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if self.rows == 1:
                    raise OutOfMemory(
                        "a single example does not fit into memory; lower max_tokens, switch on "
                        "gradient_checkpointing or take a smaller base model"
                    ) from error
            # Out of the except block, so that the error's frames no longer hold their tensors.
            self.rows = (self.rows + 1) // 2
            _LOG.warning("out of memory: going on with %d examples at once", self.rows)
            gc.collect()
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory ran out."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(phrase in str(error) for phrase in _PHRASES)
