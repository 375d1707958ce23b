"""What is done when memory runs out: fewer rows at once, and the same result more slowly."""

from __future__ import annotations

import errno
import gc
import logging
from collections.abc import Callable
from typing import TypeVar

import torch

from agent import heap
from agent.micro_batch import Setting

T = TypeVar("T")
_LOG = logging.getLogger(__name__)
# What torch's CPU allocator says, and CUDA's libraries and Jetson's drivers, which torch gives no
# type of its own. The caching allocator of torch's builds for Jetson asks NVML, which is not there,
# for its report of a lack of memory, and fails on that.
_PHRASES = (
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "out of memory",
    "nvmapmemalloc",
    "nvml_success == r",
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
    "cusparse_status_alloc_failed",
    "cusolver_status_alloc_failed",
)


class OutOfMemory(Exception):
    """Even the least does not fit into memory; the text says what would help."""


class RowsAtOnce:
    """How many rows go through the model at once: halved each time that they do not fit.

    Attributes:
        rows: The micro-batch.
        checkpointing: Whether activations are to be computed again in the backward pass, the last
            thing that is tried where one row does not fit.
        out_of_memory: How often memory ran out.
    """

    def __init__(
        self,
        rows: int,
        *,
        checkpointing: bool = False,
        on_lower: Callable[[Setting], None] = lambda _: None,
    ) -> None:
        """Begin with so many.

        Args:
            rows: Of the first try.
            checkpointing: As of the first try.
            on_lower: Told of every change.
        """
        self.rows = rows
        self.checkpointing = checkpointing
        self.out_of_memory = 0
        self._on_lower = on_lower

    @property
    def setting(self) -> Setting:
        """How memory is used now."""
        return Setting(self.rows, self.checkpointing)

    def run(
        self,
        work: Callable[[int], T],
        *,
        release: Callable[[], None] = lambda: None,
        may_checkpoint: bool = False,
    ) -> T:
        """Return what `work` gives for as many rows at once as fit.

        Args:
            work: Begun anew after each halving.
            release: Lets go of what a broken-off try has left.
            may_checkpoint: Whether `work` looks at `checkpointing`.

        Raises:
            OutOfMemory: Not even one row fits.
        """
        while True:
            try:
                return work(self.rows)
            except (RuntimeError, MemoryError, OSError) as error:
                if not is_out_of_memory(error):
                    raise
                self.out_of_memory += 1
                if not self._lower(may_checkpoint=may_checkpoint):
                    raise OutOfMemory(
                        "a single example does not fit into memory; lower max_tokens, stop other "
                        "programs, set base_precision to bitsandbytes or torchao, or take a "
                        "smaller base model"
                    ) from error
            # Out of the except block, so that the error's frames no longer hold their tensors.
            release()
            free_memory()

    def _lower(self, *, may_checkpoint: bool) -> bool:
        """Ask for less, and tell whether that was possible."""
        if self.rows > 1:
            self.rows = (self.rows + 1) // 2
        elif may_checkpoint and not self.checkpointing:
            self.checkpointing = True
        else:
            return False
        _LOG.warning(
            "out of memory: going on with %d examples at once%s",
            self.rows,
            ", activations computed twice" if self.checkpointing else "",
        )
        self._on_lower(self.setting)
        return True


def free_memory() -> None:
    """Give back what nothing refers to any more."""
    gc.collect()
    heap.trim()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory ran out."""
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    text = str(error).lower() if isinstance(error, RuntimeError) else ""
    return any(phrase in text for phrase in _PHRASES)
