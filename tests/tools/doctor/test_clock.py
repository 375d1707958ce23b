"""The clock: kept, not kept, impossible."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tools.doctor.clock import judge_clock
from tools.doctor.context import Context
from tools.doctor.finding import Finding, State

NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("now", "synchronised", "state"),
    [
        (NOW, True, State.OK),
        (NOW, False, State.WARN),
        (NOW, None, State.SKIP),
        (NOW - 1e8, True, State.FAIL),
        (0.0, False, State.FAIL),
    ],
)
def test_a_clock_is_judged_by_who_keeps_it(
    now: float, state: State, *, synchronised: bool | None
) -> None:
    assert judge_clock(now, synchronised=synchronised, installed=NOW - 86_400).state is state


def test_the_kernel_is_asked(examine: Callable[..., dict[str, Finding]]) -> None:
    assert examine("clock", Context())["clock"].state is not State.FAIL
