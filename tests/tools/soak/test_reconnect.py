"""The case states the worst return, and can miss its figure."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.simulate.reconnect import come_back
from tools.soak import reconnect


def test_the_default_spread_reaches_the_figure(tmp_path: Path) -> None:
    outcome = reconnect.quick(tmp_path, tell=lambda _: None)
    assert outcome.reached, outcome.measured
    assert len(outcome.details["worst"]) == 3


def test_a_fleet_without_a_spread_misses_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def at_once(**settings: object) -> object:
        return come_back(**{**settings, "spread_s": 0.0})  # type: ignore[arg-type]

    monkeypatch.setattr(reconnect, "come_back", at_once)
    assert not reconnect.quick(tmp_path, tell=lambda _: None).reached
