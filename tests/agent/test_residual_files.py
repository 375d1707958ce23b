from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.residual_files import left_behind, merge_residuals, write_residual
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


def test_residuals_add_up_and_a_damaged_one_is_left_out(tmp_path: Path, delta: Any) -> None:
    paths = [tmp_path / name for name in "abc"]
    write_residual(paths[0], delta)
    write_residual(paths[1], delta[:-1])
    write_residual(paths[2], delta)
    np.testing.assert_array_equal(merge_residuals(paths), delta + delta)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]
