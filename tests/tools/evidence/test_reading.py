from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tools.evidence.reading import Damaged, NoEvidence, read_folder, read_trial

Write = Callable[..., Path]


def test_a_trial_is_read_with_all_that_its_lines_say(tmp_path: Path, trial_file: Write) -> None:
    path = trial_file(
        tmp_path,
        method="eden@1",
        seed=3,
        frames=300,
        quality={"rouge_l": 0.4, "rows": 12},
    )
    trial = read_trial(path)
    assert trial is not None
    assert (trial.method, trial.seed, trial.workload) == ("eden@1", 3, "med")
    assert len(trial.rounds) == 21
    assert trial.rounds[2].bytes_up == 2 * 3 * 12_500
    assert trial.rounds[2].wire_up == 2 * 3 * 12_800
    assert trial.rounds[2].clients[0].wire_up == 12_800
    assert [client.client_id for client in trial.rounds[1].clients] == ["c01", "c02", "c03"]
    assert trial.quality == {"rouge_l": 0.4, "rows": 12}
    assert not trial.failure
    assert "method" not in trial.setting
    assert trial.setting["alpha"] == 0.1


def test_a_trial_that_failed_is_a_result(tmp_path: Path, trial_file: Write) -> None:
    trial = read_trial(trial_file(tmp_path, failure="diverged: loss is nan"))
    assert trial is not None
    assert trial.failure == "diverged: loss is nan"


def test_every_prefix_of_a_file_is_unfinished_or_damaged_and_never_more(
    tmp_path: Path, trial_file: Write
) -> None:
    path = trial_file(tmp_path, rounds=2)
    whole = path.read_bytes()
    for length in range(len(whole) - 2):
        path.write_bytes(whole[:length])
        try:
            assert read_trial(path) is None
        except Damaged:
            assert length < whole.index(b"\n")  # without a header it is nobody's
    path.write_bytes(whole)
    assert read_trial(path) is not None


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"format": 2}, "format is 2"),
        ({"kind": "run"}, "no trial's header"),
        ({"trial": {"method": "fp32"}}, "'rounds'|'seed'"),
    ],
)
def test_a_wrong_header_is_named(
    tmp_path: Path,
    change: dict[str, Any],
    why: str,
    lines_file: Write,
    head_of: Callable[..., dict[str, Any]],
) -> None:
    path = lines_file(tmp_path / "t.jsonl", [head_of() | change, {"kind": "end", "ok": True}])
    with pytest.raises(Damaged, match=why):
        read_trial(path)


def test_rounds_that_are_missing_are_named(
    tmp_path: Path, trial_file: Write, lines_file: Write
) -> None:
    path = trial_file(tmp_path)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines_file(path, [*lines[:5], *lines[6:]])
    with pytest.raises(Damaged, match="do not follow"):
        read_trial(path)
    lines_file(path, [*lines[:-3], lines[-1]])
    with pytest.raises(Damaged, match="after 18 of 20"):
        read_trial(path)
    lines_file(path, [*lines[:-2], {**lines[-2], "loss": None}, lines[-1]])
    with pytest.raises(Damaged, match="last round"):
        read_trial(path)


def test_a_loss_that_is_no_number_is_infinite_and_one_not_taken_is_none(
    trial_of: Callable[..., Any],
) -> None:
    trial = trial_of([3.0, float("nan"), None, 2.0], [0, 1, 2, 3])
    assert [each.loss for each in trial.rounds] == [3.0, math.inf, None, 2.0]
    assert [each.round for each, _ in trial.evaluated] == [0, 1, 3]


def test_a_folder_names_what_it_leaves_out(
    tmp_path: Path, trial_file: Write, lines_file: Write
) -> None:
    trial_file(tmp_path, seed=0)
    unfinished = trial_file(tmp_path, seed=1)
    unfinished.write_text("\n".join(unfinished.read_text().splitlines()[:-1]))
    lines_file(tmp_path / "x.jsonl", [{"kind": "other"}])
    (tmp_path / "y.json").write_text("[")
    (tmp_path / "overhead.json").write_text('{"kind": "overhead", "rows": []}')
    (tmp_path / "list.json").write_text("[]")
    found = read_folder(tmp_path)
    assert len(found.trials) == 1
    assert [Path(name).name for name in found.unfinished] == [unfinished.name]
    assert [name for name, _ in found.damaged] == ["x.jsonl", "y.json"]
    assert list(found.companions) == ["overhead"]


def test_of_two_files_of_one_trial_the_one_started_last_counts(
    tmp_path: Path, trial_file: Write
) -> None:
    old = trial_file(tmp_path / "a")
    new = trial_file(tmp_path / "b", speed=2.0)
    new.write_text(new.read_text().replace("2026-11-23T10", "2026-11-24T10"))
    found = read_folder(tmp_path)
    assert [trial.path for trial in found.trials] == [new]
    assert found.superseded == (old.relative_to(tmp_path).as_posix(),)


def test_a_folder_without_evidence_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(NoEvidence, match="simulate experiment"):
        read_folder(tmp_path / "none")
    (tmp_path / "x.jsonl").write_text("{")
    with pytest.raises(NoEvidence, match=r"no trial that has ended.*1 cannot be read"):
        read_folder(tmp_path)
