from __future__ import annotations

from tools.simulate.clock import Clock


def test_calls_come_in_order_and_equal_moments_keep_theirs() -> None:
    clock, seen = Clock(), []
    clock.at(2.0, seen.append, "c")
    clock.at(1.0, seen.append, "a")
    clock.at(1.0, seen.append, "b")
    while clock.step():
        pass
    assert seen == ["a", "b", "c"]
    assert clock.now == 2.0


def test_a_moment_that_is_past_comes_next() -> None:
    clock, seen = Clock(), []
    clock.at(5.0, seen.append, 1)
    assert clock.step()
    clock.at(1.0, seen.append, 2)
    clock.after(0.0, seen.append, 3)
    assert len(clock) == 2
    while clock.step():
        pass
    assert (seen, clock.now) == ([1, 2, 3], 5.0)
