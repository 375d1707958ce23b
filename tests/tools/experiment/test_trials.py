from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from codec.codec import FloatArray
from codec.layout import Layout
from tools.experiment.campaign import Campaign, Findings, run, states
from tools.experiment.fleet import Control, Evaluation, LocalUpdate, TrialFailed
from tools.experiment.jobs import play_all
from tools.experiment.local_options import LocalOptions
from tools.experiment.records import Origin, State, state_of, trial_path, writing
from tools.experiment.spec import ExperimentError, ExperimentSpec, Trial
from tools.experiment.trials import Ended, Event, Job, Opened, Outcome, Played, play_job

SPEC = ExperimentSpec(
    name="small",
    workloads=("stdlib",),
    clients=(2,),
    cohort=1,
    rounds=2,
    seeds=(0,),
    methods=("eden@2", "top-k@2,ef"),
)
ORIGIN = Origin("ab", "cd", "fedfstq …", "")


class Quiet:
    """Clients that all move every coordinate by one, until one of them diverges."""

    layout = Layout.from_shapes({"a": (16, 16)})
    client_ids = ("a", "b")

    def __init__(self, diverges_at: float = 99.0) -> None:
        self._diverges_at = diverges_at

    def start(self) -> FloatArray:
        return np.zeros(256, dtype=np.float32)

    def train(
        self,
        client_id: str,
        adapter: FloatArray,
        *,
        seed: int,  # noqa: ARG002  # the fleet's own signature
        options: LocalOptions,  # noqa: ARG002  # the fleet's own signature
        control: Control | None,  # noqa: ARG002  # the fleet's own signature
    ) -> LocalUpdate:
        if adapter[0] >= self._diverges_at:
            raise TrialFailed(f"diverged: {client_id}")
        return LocalUpdate(np.ones(256, dtype=np.float32), None, 10, 0.1)

    def evaluate(self, adapter: FloatArray) -> Evaluation:
        return Evaluation(10.0 - float(adapter[0]), 0.5)


def scores(adapter: FloatArray) -> Mapping[str, Any]:
    return {"exact": float(adapter[0])}


def opened(_: Trial, __: Path) -> Opened:
    return Opened(Quiet(), scores)


def diverging(_: Trial, __: Path) -> Opened:
    return Opened(Quiet(diverges_at=1.0), scores)


def job(folder: Path, trial: Trial | None = None) -> Job:
    return Job(trial or SPEC.trials()[0], folder, Path("data"), ORIGIN)


def lines(folder: Path, trial: Trial) -> list[dict[str, Any]]:
    text = trial_path(folder, trial).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def played(events: list[Event]) -> list[float]:
    return [
        event.point.evaluation.loss
        for event in events
        if isinstance(event, Played) and event.point.evaluation is not None
    ]


def test_a_trial_tells_of_every_round_and_leaves_a_finished_file(tmp_path: Path) -> None:
    it = job(tmp_path)
    events = list(play_job(it, open_fleet=opened))
    assert played(events) == [10.0, 9.0, 8.0]
    assert events[-1] == Ended(it, Outcome.DONE)
    assert [line["kind"] for line in lines(tmp_path, it.trial)] == ["trial", *["round"] * 3, "end"]
    assert state_of(trial_path(tmp_path, it.trial), it.trial, ORIGIN) is State.DONE


def test_a_trial_opens_its_own_fleet(tmp_path: Path) -> None:
    asked = []

    def opening(trial: Trial, data: Path) -> Opened:
        asked.append((trial, data))
        return opened(trial, data)

    it = job(tmp_path)
    list(play_job(it, open_fleet=opening))
    assert asked == [(it.trial, Path("data"))]


def test_a_trial_that_diverges_is_a_result(tmp_path: Path) -> None:
    it = job(tmp_path)
    events = list(play_job(it, open_fleet=diverging))
    assert events[-1] == Ended(it, Outcome.FAILED, "diverged: a")
    assert lines(tmp_path, it.trial)[-1] == {"kind": "end", "ok": False, "why": "diverged: a"}


@pytest.mark.parametrize("answers", [True, False])
def test_the_last_adapter_is_scored_where_so_asked(tmp_path: Path, *, answers: bool) -> None:
    trial = replace(SPEC.trials()[0], quality=True)
    fleet = Opened(Quiet(), scores if answers else lambda _: {})
    list(play_job(job(tmp_path, trial), open_fleet=lambda *_: fleet))
    found = [line for line in lines(tmp_path, trial) if line["kind"] == "quality"]
    assert found == ([{"kind": "quality", "exact": 2.0}] if answers else [])


def test_what_another_process_plays_or_has_played_is_left_alone(tmp_path: Path) -> None:
    it = job(tmp_path)
    with writing(trial_path(tmp_path, it.trial)):
        assert list(play_job(it, open_fleet=opened)) == [Ended(it, Outcome.ELSEWHERE)]
    list(play_job(it, open_fleet=opened))
    before = trial_path(tmp_path, it.trial).read_bytes()
    assert list(play_job(it, open_fleet=opened)) == [Ended(it, Outcome.ELSEWHERE)]
    assert trial_path(tmp_path, it.trial).read_bytes() == before


def test_a_trial_that_is_broken_off_is_begun_anew(tmp_path: Path) -> None:
    it = job(tmp_path)
    events: Iterator[Event] = play_job(it, open_fleet=opened)
    next(events)
    events.close()  # type: ignore[attr-defined]  # a generator
    assert state_of(trial_path(tmp_path, it.trial), it.trial, ORIGIN) is State.ABSENT
    assert played(list(play_job(it, open_fleet=opened))) == [10.0, 9.0, 8.0]


def test_a_fault_of_ours_ends_one_trial_and_not_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    jobs = [job(tmp_path, trial) for trial in SPEC.trials()]

    def faulty(trial: Trial, data: Path) -> Opened:
        if trial.method == "eden@2":
            raise ZeroDivisionError("ours")
        return opened(trial, data)

    events = list(play_all(jobs, workers=1, limit_s=None, open_fleet=faulty))
    ends = [(event.outcome, event.why) for event in events if isinstance(event, Ended)]
    assert ends == [
        (Outcome.DONE, ""),
        (Outcome.BROKEN, "ZeroDivisionError: ours"),
        (Outcome.DONE, ""),
    ]
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert state_of(trial_path(tmp_path, jobs[1].trial), jobs[1].trial, ORIGIN) is State.ABSENT


def test_data_that_is_not_there_ends_everything(tmp_path: Path) -> None:
    def missing(_: Trial, __: Path) -> Opened:
        raise ExperimentError("fetch it")

    with pytest.raises(ExperimentError, match="fetch it"):
        list(play_all([job(tmp_path)], workers=1, limit_s=None, open_fleet=missing))


def test_after_the_limit_no_other_trial_is_begun(tmp_path: Path) -> None:
    assert not list(play_all([job(tmp_path)], workers=1, limit_s=0, open_fleet=opened))
    assert not list(
        play_all([job(tmp_path), job(tmp_path)], workers=2, limit_s=0, open_fleet=opened)
    )
    assert not list(tmp_path.iterdir())


def campaign(folder: Path, *only: str, retry: bool = False) -> Campaign:
    file = folder / "small.yaml"
    document = {**SPEC.model_dump(mode="json"), "local": {}}
    del document["data"]
    file.write_text(json.dumps(document), encoding="utf-8")
    return Campaign.of(file, out=folder / "out", only=only, data=None, environ={}, retry=retry)


def summary(findings: Findings) -> tuple[int, int, int, int]:
    return findings.there, len(findings.done), len(findings.failed), findings.left


def test_a_campaign_goes_on_where_it_stopped(tmp_path: Path) -> None:
    first = run(campaign(tmp_path, "method=fp32"), workers=1, limit_s=None, open_fleet=opened)
    assert summary(first) == (0, 1, 0, 0)
    second = run(campaign(tmp_path), workers=1, limit_s=None, open_fleet=opened)
    assert summary(second) == (1, 2, 0, 0)
    assert {state for _, state in states(campaign(tmp_path))} == {State.DONE}
    assert "1 were there, 2 done" in second.sentence()
    assert second.described()["left"] == 0


def test_a_campaign_retries_failures_only_where_so_asked(tmp_path: Path) -> None:
    first = run(campaign(tmp_path), workers=1, limit_s=None, open_fleet=diverging)
    assert summary(first) == (0, 0, 3, 0)
    assert "3 failed" in first.sentence()
    again = run(campaign(tmp_path), workers=1, limit_s=None, open_fleet=opened)
    assert summary(again) == (3, 0, 0, 0)
    retried = run(campaign(tmp_path, retry=True), workers=1, limit_s=None, open_fleet=opened)
    assert summary(retried) == (0, 3, 0, 0)


def test_a_campaign_counts_what_is_left_after_its_limit(tmp_path: Path) -> None:
    findings = run(campaign(tmp_path), workers=1, limit_s=0, open_fleet=opened)
    assert summary(findings) == (0, 0, 0, 3)
    assert "3 left" in findings.sentence()


def test_a_trials_command_names_it_alone(tmp_path: Path) -> None:
    jobs = campaign(tmp_path).jobs
    commands = [each.origin.command for each in jobs]
    assert len(set(commands)) == len(commands) == 3
    assert commands[0] == (
        f"fedfstq simulate experiment {tmp_path}/small.yaml --only {'trial=' + jobs[0].trial.id}"
    )


def test_a_campaign_without_a_base_model_says_so(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(
        f"name: x\nmodel: {tmp_path}/none\nworkloads: [stdlib]\nmethods: [fp32]\n", encoding="utf-8"
    )
    with pytest.raises(ExperimentError, match="model: no base model"):
        Campaign.of(file, out=None, only=(), data=None, environ={}, retry=False)


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    it = campaign(tmp_path)
    (tmp_path / "out").write_text("a file", encoding="utf-8")
    with pytest.raises(ExperimentError, match="--out"):
        run(it, workers=1, limit_s=None, open_fleet=opened)
