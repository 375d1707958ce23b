from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from codec.codec import Budget, Order
from codec.layout import Layout
from codec.reference.fstq_paper import FstqPaper
from codec.registry import codec_named, name_of

LayoutOf = Callable[[Sequence[int]], Layout]
Draw = Callable[[int, int], tuple[np.ndarray, np.ndarray]]
CODEC = FstqPaper()


def decoded_of(
    delta: np.ndarray, fisher: np.ndarray | None, layout: Layout, update_bytes: int
) -> np.ndarray:
    segments = CODEC.encode(delta, fisher, layout=layout, budget=Budget(update_bytes, 4096), seed=0)
    total = np.zeros(layout.size)
    CODEC.accumulate(
        dict(enumerate(segments)), layout=layout, segment_count=len(segments), weight=1, total=total
    )
    return total


def test_it_writes_the_papers_format() -> None:
    assert (CODEC.name, CODEC.codec_id, CODEC.order) == ("fstq-paper", 2, Order.ORDERED)
    assert codec_named(name_of(CODEC.codec_id)).name == "fstq"


def test_importance_alone_decides_what_is_sent(layout_of: LayoutOf, draw: Draw) -> None:
    layout = layout_of([3000, 1000])
    delta, fisher = draw(layout.size, 1)
    fisher *= fisher
    decoded = decoded_of(delta, fisher, layout, 1500)
    importance = fisher.astype(np.float64) * delta.astype(np.float64) ** 2
    # Of 16 bits, which come back as float16: those of most importance and no others.
    halves = decoded == delta.astype(np.float16)
    assert 10 < np.count_nonzero(halves) < 1000
    assert importance[halves].min() > np.median(importance)
    sent = np.flatnonzero(decoded)
    ranks = np.argsort(np.argsort(-importance))
    # Those below half their group's largest of 2 bits are sent as zeros: the paper's scale.
    assert ranks[sent].max() < 0.9 * layout.size
    assert importance[sent].sum() > 0.8 * importance.sum()


def test_widths_follow_the_error_that_a_bit_divides_by_four(layout_of: LayoutOf) -> None:
    layout = layout_of([400])
    delta = np.repeat(np.array([1.1, 4.4, 42.0, 0.9], np.float32), 100)
    seen = set()
    for update_bytes in range(150, 500, 2):
        decoded = decoded_of(delta, None, layout, update_bytes)
        seen.add(tuple(bool(decoded[start : start + 100].all()) for start in range(0, 400, 100)))
    assert (False, True, True, False) in seen
    assert (True, True, True, False) in seen
    assert (True, False, True, False) not in seen


def test_an_unbounded_budget_sends_all_as_float16(layout_of: LayoutOf, draw: Draw) -> None:
    layout = layout_of([70, 1])
    delta, fisher = draw(layout.size, 2)
    decoded = decoded_of(delta, fisher, layout, 4000)
    np.testing.assert_array_equal(decoded, delta.astype(np.float16))


def test_a_tensor_whose_scale_would_be_subnormal_is_not_sent(layout_of: LayoutOf) -> None:
    layout = layout_of([8, 8])
    delta = np.array([1e-35] * 8 + [1.0] * 8, np.float32)
    decoded = decoded_of(delta, None, layout, 500)
    np.testing.assert_array_equal(decoded, [0.0] * 8 + [1.0] * 8)
