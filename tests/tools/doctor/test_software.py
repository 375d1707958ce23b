"""Python and packages: what is too old, missing or right."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tools.doctor.context import Context
from tools.doctor.finding import Finding, State
from tools.doctor.software import judge_packages, judge_python, requirements_of


@pytest.mark.parametrize(
    ("version", "state"),
    [
        ((3, 9, 1), State.FAIL),
        ((3, 10, 0), State.OK),
        ((3, 13, 9), State.OK),
        ((3, 14, 0), State.FAIL),
    ],
)
def test_python_3_10_to_3_13_is_right(version: tuple[int, int, int], state: State) -> None:
    assert judge_python(version, "/usr/bin/python3").state is state


LINES = (
    "paho-mqtt>=2.2",
    "torch>=2.4; extra == 'agent'",
    "fedfstq[agent]; extra == 'demo'",
    "rich",
)


def test_requirements_are_those_of_the_role() -> None:
    assert requirements_of(LINES, with_agent=False) == [("paho-mqtt", (2, 2)), ("rich", (0,))]
    assert ("torch", (2, 4)) in requirements_of(LINES, with_agent=True)


@pytest.mark.parametrize(
    ("installed", "state", "said"),
    [
        ({"paho-mqtt": "2.2.0", "rich": "13"}, State.OK, "all 2"),
        ({"paho-mqtt": "2.10", "rich": "13"}, State.OK, "all 2"),
        ({"paho-mqtt": "1.6.1", "rich": "13"}, State.FAIL, "paho-mqtt 1.6.1 is older than 2.2"),
        ({"paho-mqtt": "2.2rc1", "rich": "13"}, State.OK, "all 2"),
        ({"rich": "13"}, State.FAIL, "paho-mqtt is missing"),
    ],
)
def test_packages_are_compared_by_number(
    installed: dict[str, str], state: State, said: str
) -> None:
    found = judge_packages([("paho-mqtt", (2, 2)), ("rich", (0,))], installed.get)
    assert found.state is state
    assert said in found.text
    assert ("'paho-mqtt>=2.2'" in found.mend) == (state is State.FAIL)


def test_this_very_environment_is_right(
    examine: Callable[..., dict[str, Finding]],
) -> None:
    found = examine("python", Context())
    assert {one.state for one in found.values()} == {State.OK}
