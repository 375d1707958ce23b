from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tools.experiment.fleet import Evaluation
from tools.experiment.records import (
    Busy,
    Origin,
    State,
    revision,
    state_of,
    trial_path,
    writing,
)
from tools.experiment.rounds import ClientRound, Point
from tools.experiment.spec import ExperimentError, ExperimentSpec

TRIAL = ExperimentSpec(name="small", workloads=("stdlib",), methods=("eden@1",)).trials()[1]
ORIGIN = Origin(base_digest="ab", fingerprint="5f0e", command="fedfstq …", git="1234-dirty")
CLIENT = ClientRound("c1", 10, 20, train_s=1.23456, encode_s=0.1, arrived=True, examples=7)
POINT = Point(1, Evaluation(2.5, 0.5), 10, 20, 30, (CLIENT,))


def write(path: Path, *, failure: str = "", ended: bool = True) -> None:
    with writing(path) as file:
        file.header(TRIAL, ORIGIN, machine="a machine")
        file.point(POINT, seconds=1.5)
        file.quality({"rouge_l": 0.5})
        if ended:
            file.end(failure=failure)


def test_a_file_says_what_was_run_how_it_went_and_how_it_ended(tmp_path: Path) -> None:
    path = trial_path(tmp_path, TRIAL)
    assert path.name == f"{TRIAL.id}.jsonl"
    write(path)
    header, point, quality, end = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    assert {key: header[key] for key in ("kind", "format", "experiment", "fingerprint")} == {
        "kind": "trial",
        "format": 1,
        "experiment": "small",
        "fingerprint": "5f0e",
    }
    assert header["trial"] == {**TRIAL.described(), "base_digest": "ab"}
    assert header["git"] == "1234-dirty"
    assert header["versions"]["numpy"]
    assert header["started"].endswith("Z")
    assert point == {
        "kind": "round",
        "round": 1,
        "loss": 2.5,
        "accuracy": 0.5,
        "bytes_up": 10,
        "wire_up": 20,
        "bytes_down": 30,
        "clients": [
            {
                "id": "c1",
                "bytes": 10,
                "wire": 20,
                "train_s": 1.2346,
                "encode_s": 0.1,
                "arrived": True,
                "examples": 7,
            }
        ],
        "seconds": 1.5,
    }
    assert quality == {"kind": "quality", "rouge_l": 0.5}
    assert end == {"kind": "end", "ok": True}


def test_a_round_without_evaluation_has_no_loss(tmp_path: Path) -> None:
    with writing(tmp_path / "x") as file:
        file.point(Point(0, None, 0, 0, 0), seconds=0)
    line = json.loads((tmp_path / "x").read_text(encoding="utf-8"))
    assert line["loss"] is None
    assert "clients" not in line


def test_a_failure_is_a_result_that_says_why(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write(path, failure="diverged")
    assert json.loads(path.read_text(encoding="utf-8").splitlines()[-1]) == {
        "kind": "end",
        "ok": False,
        "why": "diverged",
    }
    assert state_of(path, TRIAL, ORIGIN) is State.FAILED


def test_every_broken_off_file_is_as_good_as_none(tmp_path: Path) -> None:
    path = tmp_path / "x"
    assert state_of(path, TRIAL, ORIGIN) is State.ABSENT
    write(path)
    assert state_of(path, TRIAL, ORIGIN) is State.DONE
    whole = path.read_bytes()
    header = whole.index(b"\n")
    for length in {*range(0, len(whole) - 2, 37), header - 1, header, len(whole) - 2}:
        path.write_bytes(whole[:length])
        assert state_of(path, TRIAL, ORIGIN) is State.ABSENT


def test_a_codec_that_does_something_else_now_is_run_anew(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write(path)
    assert state_of(path, TRIAL, replace(ORIGIN, fingerprint="other")) is State.ABSENT
    assert state_of(path, TRIAL, replace(ORIGIN, git="other")) is State.DONE


def test_other_settings_in_the_same_folder_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write(path)
    with pytest.raises(ExperimentError, match=r"other settings \(rank, rounds\); name another"):
        state_of(path, replace(TRIAL, rounds=3, rank=4), ORIGIN)
    with pytest.raises(ExperimentError, match="base_digest"):
        state_of(path, TRIAL, replace(ORIGIN, base_digest="cd"))


@pytest.mark.parametrize("text", ['{"kind": "run"}', '{"kind": "trial", "format": 2}'])
def test_a_file_that_is_none_of_ours_is_not_written_over(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ExperimentError, match="no trial of this version"):
        state_of(path, TRIAL, ORIGIN)


def test_a_folder_in_the_files_place_is_said(tmp_path: Path) -> None:
    with pytest.raises(ExperimentError, match="cannot be read"):
        state_of(tmp_path, TRIAL, ORIGIN)
    with pytest.raises(ExperimentError, match="cannot be written"), writing(tmp_path):
        pass


def test_two_cannot_write_one_file_and_the_second_leaves_it_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with writing(path) as file:
        file.point(POINT, seconds=1)
        before = path.read_bytes()
        with pytest.raises(Busy), writing(path):
            pass
        assert path.read_bytes() == before


def test_a_file_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write(path)
    once = path.read_text(encoding="utf-8").count("\n")
    write(path)
    assert path.read_text(encoding="utf-8").count("\n") == once


def test_the_revision_tells_whether_files_differ_from_it(tmp_path: Path) -> None:
    assert revision(tmp_path) == ""

    def git(*arguments: str) -> None:
        names = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", "-C", tmp_path, *names, *arguments], check=True, capture_output=True)

    git("init")
    (tmp_path / "a").write_text("1", encoding="utf-8")
    git("add", "a")
    git("commit", "-m", "one")
    clean = revision(tmp_path)
    assert len(clean) == 40
    (tmp_path / "a").write_text("2", encoding="utf-8")
    assert revision(tmp_path) == f"{clean}-dirty"
