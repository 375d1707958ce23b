"""Scripted federations on a virtual clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tools.simulate.campaign import quiet
from tools.simulate.faults import Fault
from tools.simulate.line import Network
from tools.simulate.scenario import Scenario, configuration, names
from tools.simulate.trainer import Traits
from tools.simulate.world import Outcome, World

Script = Callable[..., Scenario]


@pytest.fixture
def script() -> Script:
    """Return a maker of scenarios: a healthy fleet, and the faults that are named."""

    def make(
        *faults: Fault,
        devices: int = 3,
        rounds: int = 5,
        goal: int = 2,
        quorum: int = 1,
        traits: dict[str, dict[str, Any]] | None = None,
        networks: dict[str, Network] | None = None,
        hostile: frozenset[str] = frozenset(),
        wire: bool = False,
        seed: int = 1,
        **config: Any,
    ) -> Scenario:
        fleet = {name: Traits() for name in names(devices)}
        for name, changes in (traits or {}).items():
            fleet[name] = replace(fleet[name], **changes)
        return Scenario(
            seed=seed,
            config=configuration(rounds=rounds, goal=goal, quorum=quorum, **config),
            traits=fleet,
            networks=networks or {},
            faults=faults,
            hostile=hostile,
            wire=wire,
        )

    return make


@pytest.fixture
def play() -> Callable[[Scenario], Outcome]:
    """Return what runs a scenario, and sees that all promises were kept."""

    def run(scenario: Scenario) -> Outcome:
        with quiet():
            outcome = World(scenario).run()
        assert outcome.violation == "", outcome.text
        assert outcome.rounds == scenario.config.rounds
        return outcome

    return run
