"""What `fedfstq bench overhead` and `bench inference` say, write, and refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tools.bench.command import bench

run = CliRunner().invoke


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["overhead", "--model", "gpt9"], 2, "known are demo, llama-30m"),
        (["inference", "--ratio", "1.5"], 2, "above 0 and at most 1"),
        (["inference", "--workload", "poems"], 78, "no workload 'poems'"),
        (["inference", "--model", "/nowhere"], 78, "no base model at /nowhere"),
    ],
)
def test_what_cannot_be_measured_is_one_line(arguments: list[str], code: int, said: str) -> None:
    result = run(bench, arguments)
    assert result.exit_code == code
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.torch
def test_overhead_is_written_with_what_it_was_measured_on(tmp_path: Path) -> None:
    out = tmp_path / "new" / "overhead.json"
    arguments = ["--model", "demo", "--turns", "2", "--batch-size", "1", "--max-tokens", "16"]
    result = run(bench, ["overhead", *arguments, "--out", str(out), "--json"])
    assert result.exit_code == 0, result.stderr
    document = json.loads(out.read_text())
    assert document == json.loads(result.stdout)
    assert (document["kind"], document["format"], len(document["rows"])) == ("overhead", 1, 3)
    assert {"date", "machine", "versions", "command"} <= set(document)
