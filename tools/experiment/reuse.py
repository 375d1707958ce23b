"""Takes over trials that another experiment has played: the same run is not made twice."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tools.bench.json_lines import parsed
from tools.experiment.records import FORMAT, described, trial_path, writing
from tools.experiment.trials import Job

Line = dict[str, Any]


def take_over(job: Job, folders: Sequence[Path]) -> bool:
    """Write a job's file from another experiment's that ended; return whether there is one.

    It must be the same trial in everything that decides how it goes: settings, base model, and what
    the codec does. Whether answers were scored decides nothing; where they are not asked for, they
    are left out. Machine, versions, revision and time stay those of the run, and `reused` says the
    experiment that it was made for.

    Args:
        job: A trial that is still to be played.
        folders: Of trials' files, looked through in this order.

    Raises:
        Busy: Another process writes the job's file.
        ExperimentError: It cannot be written.
    """
    for folder in folders:
        lines = _played(trial_path(folder, job.trial), job)
        if lines:
            with writing(trial_path(job.folder, job.trial)) as file:
                for line in lines:
                    file.write(line)
            return True
    return False


def _played(path: Path, job: Job) -> list[Line]:
    """Return the lines of the same trial as the job's, [] where there is none that ended."""
    try:
        texts = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    lines = [line for text in texts if (line := parsed(text)) is not None]
    if len(lines) != len(texts) or not lines or lines[-1].get("kind") != "end":
        return []
    header = lines[0]
    wanted = described(job.trial, base_digest=job.origin.base_digest)
    if header.get("format") != FORMAT or not _same(header.get("trial"), wanted):
        return []
    if header.get("fingerprint") != job.origin.fingerprint:
        return []
    own = {"experiment": job.trial.experiment, "trial": wanted, "command": job.origin.command}
    reused = {"reused": header.get("reused", header.get("experiment"))}
    wants_quality = job.trial.quality
    rest = [line for line in lines[1:] if wants_quality or line.get("kind") != "quality"]
    return [{**header, **own, **reused}, *rest]


def _same(found: object, wanted: Line) -> bool:
    """Whether a trial that was found answers for the one that is wanted."""
    if not isinstance(found, dict) or (wanted["quality"] and not found.get("quality")):
        return False
    return {**wanted, "quality": None} == {**found, "quality": None}
