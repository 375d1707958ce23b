"""What of an experiment is to be played, and playing it with progress on standard error."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from agent.base import BaseError, base_digest, locate_base
from codec.registry import codec_named
from tools.bench.fingerprint import fingerprint
from tools.experiment.jobs import play_all
from tools.experiment.methods import Method, parse_method
from tools.experiment.opening import open_trial
from tools.experiment.records import Origin, State, revision, state_of, trial_path
from tools.experiment.reuse import Shelf, take_over
from tools.experiment.server import arrivals_digest
from tools.experiment.spec import (
    ExperimentError,
    ExperimentSpec,
    Trial,
    chosen,
    data_folder,
    read_spec,
)
from tools.experiment.trials import Ended, Event, Job, OpenFleet, Outcome, Played
from tools.units import bytes_text, count_text

_OUT: Final = Path("experiment-out")


@dataclass(frozen=True, slots=True)
class Campaign:
    """The trials that were asked for, in the order in which they are begun."""

    spec: ExperimentSpec
    folder: Path
    jobs: tuple[Job, ...]
    retry: bool
    shelf: Shelf = field(default_factory=Shelf)

    @classmethod
    def of(
        cls,
        file: Path,
        *,
        out: Path | None,
        only: Sequence[str],
        data: Path | None,
        environ: Mapping[str, str],
        retry: bool,
        reuse: Sequence[Path] = (),
    ) -> Campaign:
        """Return the campaign of an experiment's file.

        Raises:
            ExperimentError: The file, a filter, a folder to take from, or the base model cannot be
                used.
        """
        shelf = Shelf.of(reuse)
        spec = read_spec(file)
        trials = chosen(spec.trials(), only)
        try:
            digest = base_digest(locate_base(spec.model)).hex()
        except BaseError as error:
            raise ExperimentError(f"model: {error}") from error
        git = revision()
        prints = _fingerprints(trials)
        folder = out or _OUT / spec.name
        where = data_folder(spec, data, environ)
        jobs = tuple(
            Job(
                trial,
                folder,
                where,
                Origin(digest, prints[trial.id], _command(file, trial, data), git),
            )
            for trial in trials
        )
        return cls(spec, folder, jobs, retry, shelf)


@dataclass(slots=True)
class Findings:
    """How a campaign ended.

    Attributes:
        folder: Where the trials' files are.
        there: Trials whose files were finished before.
        reused: Trials that were taken over from another experiment.
        done: Trials that were finished now.
        failed: Trials that ended in a failure of their own now, and it.
        broken: Trials that a fault of ours ended, and it.
        left: Trials that are still to be played.
    """

    folder: Path
    there: int
    reused: list[str] = field(default_factory=list)
    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)
    left: int = 0

    def described(self) -> dict[str, Any]:
        """Return it as JSON's types."""
        return {
            "folder": str(self.folder),
            "there": self.there,
            "reused": self.reused,
            "done": self.done,
            "failed": self.failed,
            "broken": self.broken,
            "left": self.left,
        }

    def sentence(self) -> str:
        """Return it as one line."""
        parts = [f"{self.there} were there"]
        parts += [f"{len(self.reused)} reused"] if self.reused else []
        parts += [f"{len(self.done)} done"]
        parts += [f"{len(self.failed)} failed"] if self.failed else []
        parts += [f"{len(self.broken)} broken"] if self.broken else []
        parts += [f"{self.left} left"] if self.left else []
        return f"trials: {', '.join(parts)}; files in {self.folder}"


def states(campaign: Campaign) -> list[tuple[Trial, State]]:
    """Return every trial and how far its file is.

    Raises:
        ExperimentError: A file was made with other settings, or cannot be read.
    """
    return [
        (job.trial, state_of(trial_path(job.folder, job.trial), job.trial, job.origin))
        for job in campaign.jobs
    ]


def run(
    campaign: Campaign,
    *,
    workers: int,
    limit_s: float | None,
    open_fleet: OpenFleet = open_trial,
    console: Console | None = None,
) -> Findings:
    """Play what is not there yet, with progress on standard error.

    Args:
        campaign: What was asked for.
        workers: Processes.
        limit_s: Seconds after which no other trial is begun.
        open_fleet: Opens a trial's fleet, in whichever process.
        console: Where progress goes.

    Raises:
        ExperimentError: Files cannot be written or were made with other settings.
    """
    notes = console or Console(stderr=True, highlight=False)
    try:
        campaign.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExperimentError(f"--out {campaign.folder}: {error.strerror}") from error
    there = [state for _, state in states(campaign)]
    wanted = {State.ABSENT, State.FAILED} if campaign.retry else {State.ABSENT}
    jobs = [job for job, state in zip(campaign.jobs, there, strict=True) if state in wanted]
    findings = Findings(campaign.folder, there=len(there) - len(jobs))
    absent = [job for job, state in zip(campaign.jobs, there, strict=True) if state is State.ABSENT]
    findings.reused = [job.trial.id for job in absent if take_over(job, campaign.shelf)]
    jobs = [job for job in jobs if job.trial.id not in findings.reused]
    notes.print(
        f"{campaign.spec.name}: {count_text(len(jobs), 'trial')} of {len(there)} to play, of"
        f" {count_text(campaign.spec.rounds, 'round')} each; files in {campaign.folder}",
        markup=False,
    )
    events = play_all(jobs, workers=workers, limit_s=limit_s, open_fleet=open_fleet)
    _follow(events, findings, rounds=(campaign.spec.rounds + 1) * len(jobs), console=notes)
    findings.left = len(jobs) - len(findings.done) - len(findings.failed)
    return findings


def _follow(events: Iterable[Event], findings: Findings, *, rounds: int, console: Console) -> None:
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        everything = progress.add_task("all rounds", total=rounds)
        bars: dict[str, TaskID] = {}
        last: dict[str, str] = {}
        for event in events:
            name = event.job.trial.id
            match event:
                case Played(job=job, point=point):
                    if name not in bars:
                        bars[name] = progress.add_task(name, total=job.trial.rounds + 1)
                    text = f"{name}, {bytes_text(point.bytes_up)}"
                    if point.evaluation is not None:
                        text += f", loss {point.evaluation.loss:.4f}"
                    last[name] = text
                    progress.update(bars[name], advance=1, description=text)
                    progress.advance(everything)
                case Ended():
                    if name in bars:
                        progress.remove_task(bars.pop(name))
                    _ended(event, last.pop(name, name), findings, console)


def _ended(event: Ended, text: str, findings: Findings, console: Console) -> None:
    name = event.job.trial.id
    match event.outcome:
        case Outcome.DONE:
            findings.done.append(name)
            console.print(text, markup=False, soft_wrap=True)
        case Outcome.FAILED:
            findings.failed[name] = event.why
            console.print(f"{text}: {event.why}", markup=False, style="yellow", soft_wrap=True)
        case Outcome.BROKEN:
            findings.broken[name] = event.why
            console.print(f"{text}: {event.why}", markup=False, style="red", soft_wrap=True)
        case Outcome.ELSEWHERE:
            console.print(f"{name}: another process has it", markup=False, soft_wrap=True)


def _command(file: Path, trial: Trial, data: Path | None) -> str:
    words = ["fedfstq", "simulate", "experiment", str(file)]
    words += ["--data", str(data)] if data else []
    return shlex.join([*words, "--only", f"trial={trial.id}"])


def _fingerprints(trials: Sequence[Trial]) -> dict[str, str]:
    """Return by trial what changes with what its codecs do, and its steps where updates get lost.

    The digest of a codec is taken once per method; the other is nothing beside it.
    """
    of_codecs = {text: _of_codecs(parse_method(text)) for text in {each.method for each in trials}}
    return {
        trial.id: "-".join(filter(None, (of_codecs[trial.method], _of_steps(trial))))
        for trial in trials
    }


def _of_codecs(method: Method) -> str:
    up = fingerprint(method.uplink, codec_named(method.codec))
    if method.down is None:
        return up
    return f"{up}-{fingerprint(method.down, codec_named(method.down.codec))}"


def _of_steps(trial: Trial) -> str:
    method = trial.parsed
    order = codec_named(method.codec).order
    return arrivals_digest(method, goal=trial.cohort, order=order) if trial.dropout else ""
