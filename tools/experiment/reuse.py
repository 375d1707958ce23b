"""Takes over trials that another experiment has played: the same run is not made twice."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tools.bench.json_lines import parsed
from tools.experiment.archive import SUFFIX, unpack
from tools.experiment.records import FORMAT, described, trial_path, writing
from tools.experiment.spec import ExperimentError
from tools.experiment.trials import Job

Line = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Shelf:
    """Where trials are that may be taken over.

    Attributes:
        folders: Of trials' files, looked through in this order.
        packed: What decides how a trial goes, as one text → the lines of each trial that the
            folders' archives have of it; looked through afterwards.
    """

    folders: tuple[Path, ...] = ()
    packed: Mapping[str, Sequence[Sequence[str]]] = field(default_factory=dict)

    @classmethod
    def of(cls, folders: Iterable[Path]) -> Shelf:
        """Return the shelf of folders, with the archives that lie in them.

        Raises:
            ExperimentError: A folder is none, or an archive cannot be read.
        """
        folders = tuple(folders)
        packed: dict[str, list[Sequence[str]]] = {}
        for folder in folders:
            if not folder.is_dir():
                raise ExperimentError(f"--reuse {folder}: no folder")
            for path in sorted(folder.glob(f"*{SUFFIX}")):
                try:
                    for lines in unpack(path.read_bytes()):
                        header = parsed(lines[0]) or {}
                        packed.setdefault(_settings(header.get("trial")), []).append(lines)
                except (OSError, ValueError) as error:
                    raise ExperimentError(f"--reuse {path}: {error}") from error
        return cls(folders, packed)

    def candidates(self, job: Job) -> Iterator[Sequence[str]]:
        """Yield the lines of everything that may be a job's trial."""
        for folder in self.folders:
            try:
                yield trial_path(folder, job.trial).read_text(encoding="utf-8").splitlines()
            except (OSError, UnicodeDecodeError):
                continue
        yield from self.packed.get(_settings(_wanted(job)), ())


def take_over(job: Job, shelf: Shelf) -> bool:
    """Write a job's file from another experiment's that ended; return whether there is one.

    It must be the same trial in everything that decides how it goes: settings, base model, what
    the codec does, and the server's step. Whether answers were scored decides nothing; where they
    are not asked for, they are left out. Machine, versions, revision and time stay those of the
    run, and `reused` says the experiment that it was made for.

    Args:
        job: A trial that is still to be played.
        shelf: Where it may be.

    Raises:
        Busy: Another process writes the job's file.
        ExperimentError: It cannot be written.
    """
    for texts in shelf.candidates(job):
        lines = _played(texts, job)
        if lines:
            with writing(trial_path(job.folder, job.trial)) as file:
                for line in lines:
                    file.write(line)
            return True
    return False


def _wanted(job: Job) -> Line:
    return described(job.trial, base_digest=job.origin.base_digest)


def _settings(trial: object) -> str:
    """Return what decides how a trial goes as one text; "" of what is no trial."""
    if not isinstance(trial, dict):
        return ""
    return json.dumps({**trial, "quality": None}, sort_keys=True)


def _played(texts: Sequence[str], job: Job) -> list[Line]:
    """Return the lines of the same trial as the job's, [] where they are another's or not all."""
    lines = [line for text in texts if (line := parsed(text)) is not None]
    if len(lines) != len(texts) or not lines or lines[-1].get("kind") != "end":
        return []
    header, wanted = lines[0], _wanted(job)
    if header.get("format") != FORMAT or _settings(header.get("trial")) != _settings(wanted):
        return []
    if header.get("fingerprint") != job.origin.fingerprint:
        return []
    wants_quality = job.trial.quality
    if wants_quality and not header["trial"].get("quality"):
        return []
    own = {"experiment": job.trial.experiment, "trial": wanted, "command": job.origin.command}
    reused = {"reused": header.get("reused", header.get("experiment"))}
    rest = [line for line in lines[1:] if wants_quality or line.get("kind") != "quality"]
    return [{**header, **own, **reused}, *rest]
