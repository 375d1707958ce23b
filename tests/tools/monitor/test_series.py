from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from tools.monitor.series import LIMIT, Series


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(0.001, 100.0), max_size=300))
def test_it_is_bounded_in_order_and_begins_at_the_beginning(pauses: list[float]) -> None:
    series, moment = Series(limit=20), 0.0
    for pause in pauses:
        moment += pause
        series.add(moment, moment)
    points = series.points()
    assert len(points) <= 20
    assert points == sorted(points)
    if pauses:
        assert points[0][0] == round(pauses[0], 1)


def test_a_day_is_kept_as_a_whole_and_evenly() -> None:
    series = Series()
    for second in range(0, 86_400, 10):
        series.add(float(second), 1.0)
    moments = [moment for moment, _ in series.points()]
    assert LIMIT / 2 <= len(moments) <= LIMIT
    assert moments[0] == 0
    assert moments[-1] > 85_000
    gaps = [later - earlier for earlier, later in itertools.pairwise(moments)]
    assert max(gaps) <= 4 * min(gaps)


def test_what_is_not_known_is_no_point() -> None:
    series = Series()
    series.add(1.0, None)
    series.add(2.0, 12345.678)
    assert series.points() == [[2.0, 12350.0]]
