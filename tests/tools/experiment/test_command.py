"""The command, end to end, with the demo's own model and the standard library's text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tools.cli import app

TINY = """
name: tiny
model: {model}
workloads: [stdlib]
clients: [3]
cohort: 2
dropout: [0.0]
rank: 4
local: {{local_steps: 1, batch_size: 2, max_tokens: 24}}
rounds: 2
seeds: [0]
heldout_rows: 4
methods: ["fstq-r@2,mask=hard"]
"""
BASE = Path(__file__).resolve().parents[3] / "tools" / "base"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(TINY.format(model=BASE), encoding="utf-8")
    return path


def command(*words: object) -> Any:
    return CliRunner().invoke(app, ["simulate", "experiment", *map(str, words)])


def losses(path: Path) -> list[float]:
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert lines[-1] == {"kind": "end", "ok": True}
    return [line["loss"] for line in lines if line["kind"] == "round"]


@pytest.mark.torch
def test_an_experiment_runs_end_to_end(file: Path, tmp_path: Path) -> None:
    result = command(file, "--out", tmp_path / "out", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["there"], found["left"], found["failed"]) == (0, 0, {})
    paths = sorted((tmp_path / "out").iterdir())
    assert [path.name for path in paths] == [
        "stdlib-a0.1-n3-s0-fp32.jsonl",
        "stdlib-a0.1-n3-s0-fstq-r@2_mask=hard.jsonl",
    ]
    dense, few = map(losses, paths)
    assert len(dense) == len(few) == 3
    assert dense[0] == few[0]
    assert dense[-1] != few[-1] != few[0]


def test_the_list_says_how_far_each_trial_is(file: Path, tmp_path: Path) -> None:
    result = command(file, "--out", tmp_path / "out", "--list")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "absent  stdlib-a0.1-n3-s0-fp32",
        "absent  stdlib-a0.1-n3-s0-fstq-r@2_mask=hard",
    ]
    as_json = command(file, "--out", tmp_path / "out", "--list", "--json", "--only", "method=fp32")
    assert json.loads(as_json.stdout) == {"stdlib-a0.1-n3-s0-fp32": "absent"}
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "complaint"),
    [(["--only", "seed=9"], "--only seed=9"), (["--only", "x"], "write key=value")],
)
def test_what_cannot_be_done_is_said_in_one_line(
    file: Path, words: list[str], complaint: str
) -> None:
    result = command(file, *words)
    assert result.exit_code == 78
    assert complaint in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_workload_that_is_not_there_is_said_in_one_line(file: Path, tmp_path: Path) -> None:
    text = file.read_text(encoding="utf-8").replace("stdlib", "med")
    file.write_text(text, encoding="utf-8")
    result = command(file, "--out", tmp_path / "out", "--data", tmp_path / "none")
    assert result.exit_code == 78
    assert "fedfstq: med: " in result.stderr


def test_a_file_that_is_not_there_is_said_in_one_line(tmp_path: Path) -> None:
    result = command(tmp_path / "none.yaml")
    assert result.exit_code == 78
    assert "cannot be read" in result.stderr


@pytest.mark.torch
def test_trials_of_another_experiment_are_not_played_again(file: Path, tmp_path: Path) -> None:
    first = command(file, "--out", tmp_path / "one", "--json", "--only", "method=fp32")
    assert first.exit_code == 0, first.output
    file.write_text(file.read_text(encoding="utf-8").replace("tiny", "other"), encoding="utf-8")
    (tmp_path / "two").mkdir()
    whole = (tmp_path / "one" / "stdlib-a0.1-n3-s0-fp32.jsonl").read_bytes()
    (tmp_path / "two" / "stdlib-a0.1-n3-s0-fp32.jsonl").write_bytes(whole[: len(whole) // 2])
    result = command(file, "--out", tmp_path / "two", "--reuse", tmp_path / "one", "--json")
    found = json.loads(result.stdout)
    assert found["reused"] == ["stdlib-a0.1-n3-s0-fp32"]
    assert found["done"] == ["stdlib-a0.1-n3-s0-fstq-r@2_mask=hard"]
    again = command(file, "--out", tmp_path / "two", "--json")
    assert json.loads(again.stdout)["there"] == 2
    nowhere = command(file, "--out", tmp_path / "two", "--reuse", tmp_path / "none")
    assert nowhere.exit_code == 78
    assert "none: no folder" in nowhere.stderr
