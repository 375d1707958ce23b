"""What an encoder demands of its caller's arrays and budget before it starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from codec import limits
from codec.errors import InvalidInput

if TYPE_CHECKING:
    from codec.codec import Budget, FloatArray, SumArray
    from codec.layout import Layout


def check_delta(delta: FloatArray, *, layout: Layout) -> None:
    """Raise `InvalidInput` unless `delta` is float32 (layout.size,) and finite."""
    _check_flat("the delta", delta, layout=layout)


def check_fisher(fisher: FloatArray, *, layout: Layout) -> None:
    """Raise `InvalidInput` unless `fisher` is float32 (layout.size,), finite and ≥ 0."""
    _check_flat("the Fisher diagonal", fisher, layout=layout)
    if float(fisher.min()) < 0:
        raise InvalidInput("the Fisher diagonal has a negative value")


def check_budget(budget: Budget) -> None:
    """Raise `InvalidInput` unless a segment of this budget can hold a coordinate."""
    if not limits.MIN_SEGMENT_BYTES <= budget.segment_bytes <= limits.MAX_SEGMENT_BYTES:
        raise InvalidInput(
            f"a segment has {limits.MIN_SEGMENT_BYTES} to {limits.MAX_SEGMENT_BYTES:,} bytes, "
            f"not {budget.segment_bytes:,}"
        )
    if budget.update_bytes is not None and budget.update_bytes < limits.MIN_SEGMENT_BYTES:
        raise InvalidInput(
            f"an update has at least {limits.MIN_SEGMENT_BYTES} bytes, not {budget.update_bytes:,}"
        )


def byte_budget(budget: Budget, *, codec: str) -> int:
    """Return how many bytes an update may take, for a codec whose size is not the layout's alone.

    Raises:
        InvalidInput: There is no such number, or the budget cannot hold a coordinate.
    """
    check_budget(budget)
    if budget.update_bytes is None:
        raise InvalidInput(f"codec {codec} needs a budget of bytes per update")
    return budget.update_bytes


def weighted_budget(
    delta: FloatArray, fisher: FloatArray | None, *, layout: Layout, budget: Budget, codec: str
) -> int:
    """Return how many bytes a Fisher-weighted update of these may take.

    Raises:
        InvalidInput: It cannot be made of them.
    """
    check_delta(delta, layout=layout)
    if fisher is not None:
        check_fisher(fisher, layout=layout)
    return byte_budget(budget, codec=codec)


def check_sum(total: SumArray | FloatArray, *, weight: float, layout: Layout) -> None:
    """Raise `InvalidInput` unless `total` is a float array (layout.size,) and `weight` finite."""
    if total.shape != (layout.size,) or total.dtype not in (np.float64, np.float32):
        raise InvalidInput(
            f"the sum is {total.dtype} {total.shape}, wanted float64 or float32 ({layout.size},)"
        )
    if not np.isfinite(weight):
        raise InvalidInput(f"a weight is finite, not {weight}")


def _check_flat(what: str, array: FloatArray, *, layout: Layout) -> None:
    if array.shape != (layout.size,) or array.dtype != np.float32:
        raise InvalidInput(
            f"{what} is {array.dtype} {array.shape}, wanted float32 ({layout.size},)"
        )
    # One infinite or NaN value makes the sum of all of them so, without a mask of n bytes; a sum
    # that only overflows is looked at again.
    with np.errstate(over="ignore", invalid="ignore"):
        suspicious = not np.isfinite(array.sum())
    if suspicious and not np.isfinite(array).all():
        raise InvalidInput(f"{what} has a value that is NaN or infinite")
