from __future__ import annotations

import json
import shlex

import pytest
from typer.testing import CliRunner

from tools.cli import app
from tools.simulate.outbox import Outbox

runner = CliRunner()


def test_seeds_that_keep_every_promise_end_with_0() -> None:
    result = runner.invoke(app, shlex.split("simulate delivery --seeds 3 --rounds 4 --json"))
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert (report["seeds"], report["failure"], report["replay"]) == (3, None, "")
    assert report["rounds"] <= 12
    assert report["tally"]["updates"] > 0


def test_a_failing_seed_ends_with_1_and_says_how_to_play_it_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Outbox, "_leaves", lambda _self, _receipt, _segments: False)
    result = runner.invoke(app, shlex.split("simulate delivery --seeds 60 --rounds 12"))
    assert result.exit_code == 1
    line = next(line for line in result.stdout.splitlines() if line.startswith("again: "))
    again = runner.invoke(app, shlex.split(line.removeprefix("again: fedfstq ")))
    assert again.exit_code == 1
    assert line in again.stdout


def test_a_kind_that_there_is_not_is_told() -> None:
    result = runner.invoke(app, shlex.split("simulate delivery --faults earthquake"))
    assert result.exit_code == 2
    assert "broker-wipe" in result.stderr


def test_a_fleet_that_comes_back_too_fast_ends_with_1() -> None:
    command = "simulate reconnect --agents 5000 --away 1 --seeds 1"
    assert runner.invoke(app, shlex.split(command)).exit_code == 0
    hasty = runner.invoke(app, [*shlex.split(command), "--spread", "0", "--json"])
    assert hasty.exit_code == 1
    assert json.loads(hasty.stdout)[0]["ratio"] > 3
