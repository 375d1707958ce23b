"""What holds for every codec that lets importance alone decide."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from codec.by_importance import BLOCK, FstqByImportance, scalable_blocks
from codec.codec import Budget
from codec.errors import InvalidInput
from codec.fstq_percentile import FstqPercentile
from codec.layout import Layout
from codec.reference.fstq_paper import FstqPaper

LayoutOf = Callable[[Sequence[int]], Layout]
Draw = Callable[[int, int], tuple[np.ndarray, np.ndarray]]

pytestmark = pytest.mark.parametrize("codec", [FstqPaper(), FstqPercentile()])


def test_nothing_is_left_to_chance(codec: FstqByImportance, layout_of: LayoutOf) -> None:
    layout = layout_of([300, 20])
    delta = np.ones(layout.size, np.float32)
    first, second = (
        codec.encode(delta, None, layout=layout, budget=Budget(100, 100), seed=seed)
        for seed in (1, 2)
    )
    assert first == second


def test_segments_go_by_the_error_avoided_per_byte(
    codec: FstqByImportance, layout_of: LayoutOf, draw: Draw
) -> None:
    layout = layout_of([400, 400, 400])
    delta, fisher = draw(layout.size, 1)
    delta[400:800] *= 100
    budget = Budget(600, 100)
    segments = codec.encode(delta, fisher, layout=layout, budget=budget, seed=0)
    assert len(segments) > 2
    total = np.zeros(layout.size)
    codec.accumulate(
        {0: segments[0]}, layout=layout, segment_count=len(segments), weight=1, total=total
    )
    sent = np.flatnonzero(total)
    assert ((sent >= 400) & (sent < 800)).all()


def test_wrong_input_is_refused(codec: FstqByImportance, layout_of: LayoutOf) -> None:
    layout = layout_of([5])
    good = np.ones(5, np.float32)
    for fisher, budget in ((-good, Budget(100, 100)), (good, Budget(None, 100))):
        with pytest.raises(InvalidInput):
            codec.encode(good, fisher, layout=layout, budget=budget, seed=0)


def test_blocks_leave_out_tensors_whose_scales_would_be_subnormal(
    codec: FstqByImportance, layout_of: LayoutOf
) -> None:
    layout = layout_of([8, 8, BLOCK + 1])
    delta = np.array([1e-35] * 8 + [1.0] * (9 + BLOCK), np.float32)
    found = [(block.start, block.stop) for block in scalable_blocks(delta, layout)]
    assert found == [(8, 16), (16, 16 + BLOCK), (16 + BLOCK, layout.size)]
    decoded = np.zeros(layout.size)
    segments = codec.encode(delta, None, layout=layout, budget=Budget(5000, 5000), seed=0)
    codec.accumulate(
        dict(enumerate(segments)),
        layout=layout,
        segment_count=len(segments),
        weight=1,
        total=decoded,
    )
    assert not decoded[:8].any()
    assert decoded.any()
