"""Residuals on disk: little-endian float32, flat, in layout order."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from agent.payload import TEMPORARY_SUFFIX, sync_folder
from codec.layout import Layout
from codec.registry import codec_named
from codec.residual import residual_after

_FLOAT = np.dtype("<f4")


def left_behind(
    segments: Mapping[int, bytes],
    *,
    accepted: Collection[int],
    codec: str,
    layout: Layout,
    decay: float,
) -> npt.NDArray[np.float32] | None:
    """Return what an update's receipt leaves to the next one, None where that is nothing.

    It is what was encoded and not accepted. What encoding dropped is gone: keeping that as well
    would need the delta itself, which the payload does not hold.

    Args:
        segments: Segment index → bytes, all of the update's.
        accepted: Indices that the receipt names.
        codec: The codec's name.
        layout: The update's layout.
        decay: 0 to 1, what the residual is multiplied by.

    Raises:
        CodecError: The segments are damaged.
        InvalidInput: The receipt names segments that there are not, or the codec is unknown.
    """
    residual = residual_after(
        np.zeros(layout.size, dtype=np.float32),
        encoded=segments,
        accepted=accepted,
        codec=codec_named(codec),
        layout=layout,
        feedback=False,
        decay=1.0,
    )
    residual *= np.float32(decay)
    return residual if residual.any() else None


def write_residual(path: Path, residual: npt.NDArray[np.float32]) -> None:
    """Write a residual so that it is there whole or not at all."""
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    with temporary.open("wb") as file:
        file.write(residual.astype(_FLOAT, copy=False).tobytes())
        file.flush()
        os.fdatasync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def read_residual(path: Path, *, size: int) -> npt.NDArray[np.float32] | None:
    """Return float32 (size,), None where the file is gone, of another length or not finite."""
    try:
        residual = np.fromfile(path, dtype=_FLOAT).astype(np.float32, copy=False)
        whole = path.stat().st_size == residual.nbytes and residual.shape == (size,)
    except FileNotFoundError:
        return None
    return residual if whole and np.isfinite(residual).all() else None
