from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tools.experiment.archive import SUFFIX, pack
from tools.experiment.fleet import Evaluation
from tools.experiment.records import Origin, State, state_of, trial_path, writing
from tools.experiment.reuse import Shelf, take_over
from tools.experiment.rounds import Point
from tools.experiment.spec import ExperimentError, ExperimentSpec
from tools.experiment.trials import Job

SPEC = ExperimentSpec(
    name="first", workloads=("stdlib",), methods=("eden@1",), quality=True, rounds=2
)
ORIGIN = Origin(base_digest="ab", fingerprint="5f0e", command="again the first", git="1234")


def job_of(folder: Path, *, name: str, quality: bool, **changes: Any) -> Job:
    trial = replace(SPEC.trials()[1], experiment=name, quality=quality, **changes)
    return Job(trial, folder, folder, replace(ORIGIN, command=f"again {name}"))


def played(folder: Path, *, failure: str = "", ended: bool = True) -> Path:
    """Write the first experiment's trial as if it had been played."""
    folder.mkdir()
    job = job_of(folder, name="first", quality=True)
    path = trial_path(folder, job.trial)
    with writing(path) as file:
        file.header(job.trial, job.origin, machine="the first machine")
        file.point(Point(0, Evaluation(2.5, 0.5), 0, 0, 0), seconds=1.0)
        file.quality({"rouge_l": 0.5})
        if ended:
            file.end(failure=failure)
    return path


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("quality", [True, False])
@pytest.mark.parametrize("failure", ["", "diverged: no"])
def test_the_same_trial_of_another_experiment_is_taken_as_it_was_played(
    tmp_path: Path, *, quality: bool, failure: str
) -> None:
    old = played(tmp_path / "old", failure=failure)
    job = job_of(tmp_path, name="second", quality=quality)
    assert take_over(job, Shelf.of([tmp_path, old.parent]))

    new = trial_path(tmp_path, job.trial)
    expected = State.FAILED if failure else State.DONE
    assert state_of(new, job.trial, job.origin) is expected
    was, now = lines(old), lines(new)
    assert now[0] == {
        **was[0],
        "experiment": "second",
        "trial": {**was[0]["trial"], "quality": quality},
        "command": "again second",
        "reused": "first",
    }
    assert now[1:] == [line for line in was[1:] if quality or line["kind"] != "quality"]


def test_what_was_taken_over_can_be_taken_again_and_says_who_played_it(tmp_path: Path) -> None:
    old = played(tmp_path / "old")
    (tmp_path / "second").mkdir()
    second = job_of(tmp_path / "second", name="second", quality=True)
    third = job_of(tmp_path, name="third", quality=False)
    assert take_over(second, Shelf.of([old.parent]))
    assert take_over(third, Shelf.of([second.folder]))
    assert lines(trial_path(tmp_path, third.trial))[0]["reused"] == "first"
    fourth = job_of(tmp_path / "second", name="fourth", quality=True)
    assert not take_over(fourth, Shelf.of([tmp_path])), "the third has no answers scored"


@pytest.mark.parametrize(
    "changes", [{"rounds": 3}, {"cohort": 5}, {"lora_alpha": 8}, {"baseline": "fp16"}]
)
def test_a_trial_that_differs_in_anything_is_played(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    old = played(tmp_path / "old")
    job = job_of(tmp_path, name="second", quality=False, **changes)
    assert not take_over(job, Shelf.of([old.parent]))
    assert not trial_path(tmp_path, job.trial).exists()


@pytest.mark.parametrize("changes", [{"fingerprint": "another"}, {"base_digest": "another"}])
def test_another_codec_or_base_model_is_played(tmp_path: Path, changes: dict[str, str]) -> None:
    old = played(tmp_path / "old")
    job = job_of(tmp_path, name="second", quality=True)
    assert not take_over(
        replace(job, origin=replace(job.origin, **changes)), Shelf.of([old.parent])
    )


def packed(folder: Path, *files: Path) -> Path:
    """Return a folder of one archive of these files, which are gone."""
    folder.mkdir()
    content = pack([each.read_text(encoding="utf-8").splitlines() for each in files])
    (folder / f"first{SUFFIX}").write_bytes(content)
    for each in files:
        each.unlink()
    return folder


@pytest.mark.parametrize("quality", [True, False])
def test_an_archive_s_trials_are_taken_as_files_are(tmp_path: Path, *, quality: bool) -> None:
    job = job_of(tmp_path / "old", name="first", quality=True)
    old = played(tmp_path / "old")
    whole = lines(old)
    another = tmp_path / "old" / "another.jsonl"
    with writing(another) as file:
        file.header(replace(job.trial, seed=9), job.origin, machine="the first machine")
        file.end(failure="")
    shelf = Shelf.of([packed(tmp_path / "archives", another, old)])

    wanted = job_of(tmp_path, name="second", quality=quality)
    assert take_over(wanted, shelf)
    found = lines(trial_path(tmp_path, wanted.trial))
    assert found[0]["reused"] == "first"
    assert found[1:] == [line for line in whole[1:] if quality or line["kind"] != "quality"]

    changed = replace(job, origin=replace(job.origin, fingerprint="another"))
    assert not take_over(changed, shelf)
    assert not take_over(job_of(tmp_path, name="second", quality=True, rounds=3), shelf)


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    folder = packed(tmp_path / "archives", played(tmp_path / "old"))
    archive = folder / f"first{SUFFIX}"
    archive.write_bytes(archive.read_bytes()[:-1])
    with pytest.raises(ExperimentError, match=r"--reuse .*first\.jsonl\.zst: it is no archive"):
        Shelf.of([folder])


def test_no_prefix_of_a_file_is_taken(tmp_path: Path) -> None:
    old = played(tmp_path / "old")
    whole = old.read_bytes()
    job = job_of(tmp_path, name="second", quality=True)
    for length in range(len(whole) - 1):
        old.write_bytes(whole[:length])
        assert not take_over(job, Shelf.of([old.parent])), length
    old.write_bytes(whole)
    assert take_over(job, Shelf.of([old.parent]))
