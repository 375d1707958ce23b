"""A clock that is ahead of the simulation's shows a wakeup when it is due, never a hair before."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tools.simulate.clock import moment_of


@given(wakeup=st.floats(0.0, 1e6), offset=st.floats(-1e3, 1e5))
def test_who_is_woken_sees_that_it_is_time(wakeup: float, offset: float) -> None:
    moment = moment_of(wakeup, offset)
    assert moment + offset >= wakeup
    assert abs(moment - (wakeup - offset)) < 1e-9
