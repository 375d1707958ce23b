from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codec.codec import Budget
from codec.errors import CorruptSegment
from codec.layout import Layout
from codec.reference.flasc import FLASC
from codec.reference.sparse import (
    Sent,
    SentRun,
    SparseCodec,
    check_apart,
    cut_runs,
    fit,
    most_that_fit,
    sent_once,
)
from codec.reference.top_k import TOP_K
from codec.segment import HEADER_BYTES

LayoutOf = Callable[[Sequence[int]], Layout]
Draw = Callable[[int, int], tuple[np.ndarray, np.ndarray]]


def sized(size_of: Callable[[int], int]) -> Callable[[int], list[bytes]]:
    return lambda count: [bytes(max(0, size_of(count) - HEADER_BYTES))]


@settings(deadline=None, max_examples=100)
@given(st.integers(100, 100_000), st.integers(50, 400), st.integers(50, 400))
def test_a_budget_is_used_up_even_where_the_estimate_is_wrong(
    update_bytes: int, per_hundred: int, estimated: int
) -> None:
    def size(count: int) -> int:
        return 40 + count * per_hundred // 100

    payloads = fit(
        sized(size),
        lambda count: 40 + count * estimated // 100,
        update_bytes=update_bytes,
        most=50_000,
    )
    taken = HEADER_BYTES + len(payloads[0])
    assert taken <= update_bytes
    assert taken >= min(0.99 * update_bytes - 8, size(50_000))


def test_where_more_hardly_cost_more_something_is_still_sent() -> None:
    payloads = fit(
        sized(lambda count: 40 + min(count, 500) + count // 1000),
        lambda count: 40 + min(count, 400),
        update_bytes=500,
        most=2000,
    )
    assert 300 < HEADER_BYTES + len(payloads[0]) <= 500


def test_where_nothing_fits_nothing_is_sent() -> None:
    payloads = fit(
        sized(lambda count: 1000 if count else 40), lambda count: count, update_bytes=64, most=9
    )
    assert HEADER_BYTES + len(payloads[0]) == 40


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(0, 9), max_size=30), st.integers(0, 150))
def test_the_most_that_fit_are_found(steps: list[int], room: int) -> None:
    costs = [0, *np.cumsum(steps).tolist()]
    expected = max(number for number, cost in enumerate(costs) if cost <= room)
    assert most_that_fit(lambda number: costs[number], room=room, most=len(steps)) == expected


def test_a_coordinate_that_comes_twice_is_refused() -> None:
    layout = Layout.from_shapes({"a": [6]})
    parts = [
        Sent(np.array(places, dtype=np.int64), np.ones(len(places), np.float32))
        for places in ([0, 3], [1, 5], [3])
    ]
    check_apart(parts[:2], layout=layout)
    with pytest.raises(CorruptSegment, match="same coordinate"):
        check_apart(parts, layout=layout)


@settings(deadline=None, max_examples=100)
@given(st.sets(st.integers(0, 300)), st.integers(4, 60))
def test_runs_are_as_long_as_their_room_and_end_with_what_is_sent(
    chosen: set[int], room: int
) -> None:
    places = np.array(sorted(chosen), dtype=np.int64)

    def cost(begin: int, run: slice) -> int:
        return 2 + len(places[run]) + (int(places[run.stop - 1]) - begin) // 300

    runs = list(cut_runs(places, cost, room=room))
    assert np.concatenate([places[:0], *(places[run] for _, run in runs)]).tolist() == sorted(
        chosen
    )
    begins = [begin for begin, _ in runs]
    assert begins == [0, *(int(places[run.stop - 1]) + 1 for _, run in runs)][: len(runs)]
    for begin, run in runs:
        assert cost(begin, run) <= room
        if run.stop < places.size:
            assert cost(begin, slice(run.start, run.stop + 1)) > room


def test_what_two_runs_share_is_refused() -> None:
    sent = Sent(np.array([3], dtype=np.int64), np.ones(1, np.float32))
    assert sent_once([SentRun(4, 6, sent), SentRun(0, 4, sent)]) == [sent, sent]
    with pytest.raises(CorruptSegment):
        sent_once([SentRun(0, 4, sent), SentRun(3, 6, sent)])


@pytest.mark.parametrize(("codec", "kind"), [(TOP_K, np.float16), (FLASC, np.float32)])
@pytest.mark.parametrize("update_bytes", [64, 500, 4000, 30_000])
def test_the_largest_magnitudes_are_sent(
    codec: SparseCodec, kind: type, update_bytes: int, layout_of: LayoutOf, draw: Draw
) -> None:
    layout = layout_of([5000, 1, 999])
    delta, _ = draw(layout.size, 1)
    budget = Budget(update_bytes, 1024)
    segments = codec.encode(delta, None, layout=layout, budget=budget, seed=0)
    decoded = np.zeros(layout.size)
    codec.accumulate(
        dict(enumerate(segments)),
        layout=layout,
        segment_count=len(segments),
        weight=1,
        total=decoded,
    )
    sent = np.flatnonzero(decoded)
    expected = np.sort(np.argsort(-np.abs(delta), kind="stable")[: sent.size])
    np.testing.assert_array_equal(sent, expected)
    np.testing.assert_array_equal(decoded[sent], delta[sent].astype(kind))
    size = sum(map(len, segments))
    assert size <= update_bytes
    assert sent.size == layout.size or size > 0.95 * update_bytes - 8
