from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.residual_files import left_behind, read_residual, write_residual
from codec.codec import Budget
from codec.errors import InvalidInput
from codec.registry import codec_named


@pytest.fixture
def delta(small: Any) -> Any:
    return np.random.default_rng(1).normal(size=small.LAYOUT.size).astype(np.float32)


@pytest.mark.parametrize("codec", ["fp32", "fstq"])
def test_what_was_accepted_and_what_stays_make_the_whole(
    small: Any, delta: Any, codec: str
) -> None:
    budget = Budget(None if codec == "fp32" else 400, small.SEGMENT_BYTES)
    bodies = codec_named(codec).encode(delta, None, layout=small.LAYOUT, budget=budget, seed=0)
    segments = dict(enumerate(bodies))
    options: dict[str, Any] = {"codec": codec, "layout": small.LAYOUT, "decay": 1.0}
    everything = left_behind(segments, accepted=(), **options)
    rest = left_behind(segments, accepted=(0,), **options)
    others = left_behind(segments, accepted=range(1, len(bodies)), **options)
    assert everything is not None
    assert rest is not None
    assert others is not None
    np.testing.assert_array_equal(rest + others, everything)
    assert left_behind(segments, accepted=range(len(bodies)), **options) is None


def test_a_codec_that_nobody_knows_is_the_callers_fault(small: Any) -> None:
    with pytest.raises(InvalidInput):
        left_behind({}, accepted=(), codec="zip", layout=small.LAYOUT, decay=1.0)


def test_a_residual_is_read_whole_and_finite_or_not_at_all(tmp_path: Path, delta: Any) -> None:
    path = tmp_path / "a"
    write_residual(path, delta)
    read = read_residual(path, size=len(delta))
    assert read is not None
    np.testing.assert_array_equal(read, delta)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert read_residual(path, size=len(delta) - 1) is None
    path.write_bytes(delta.tobytes() + b"\0")
    assert read_residual(path, size=len(delta)) is None
    delta[3] = np.nan
    write_residual(path, delta)
    assert read_residual(path, size=len(delta)) is None
    assert read_residual(tmp_path / "missing", size=len(delta)) is None
