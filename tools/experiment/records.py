"""A trial's file: JSON Lines, from what was asked for to how it ended.

    {"kind": "trial", "format": 1, "experiment": "uplink", "trial": {"workload": "med", ...},
     "fingerprint": "5f0e...", "command": "fedfstq simulate experiment ...", "machine": "...",
     "versions": {...}, "git": "<sha>[-dirty]", "started": "2026-11-23T10:00:00Z"}
    {"kind": "round", "round": 0, "loss": 3.07, "accuracy": 0.41, "bytes_up": 0, "wire_up": 0,
     "bytes_down": 0, "seconds": 0.4}
    {"kind": "round", "round": 1, ..., "clients": [{"id": "c03", "bytes": ..., "wire": ...,
     "train_s": ..., "encode_s": ..., "arrived": true, "examples": ...}], "seconds": 3.1}
    {"kind": "quality", "rouge_l": ..., "token_order": [17, 4, ...]}
    {"kind": "end", "ok": true}     or     {"kind": "end", "ok": false, "why": "diverged: ..."}

Bytes are cumulative and of updates that arrived; loss and accuracy are null in rounds without an
evaluation. The token order is that of `tools.experiment.local.token_order`. A file without its last
line is begun anew, and so is one whose codec did something else than it does now. How a trial
failed is its result.
"""

from __future__ import annotations

import fcntl
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from enum import Enum
from pathlib import Path
from typing import Any, Final

from tools.bench.json_lines import LineWriter, parsed
from tools.bench.machine import versions
from tools.experiment.rounds import Point
from tools.experiment.spec import ExperimentError, Trial

FORMAT: Final = 1
SUFFIX: Final = ".jsonl"

_PACKAGES: Final = ("fedfstq", "numpy", "peft", "tokenizers", "torch", "transformers")
_REPOSITORY: Final = Path(__file__).resolve().parents[2]
_GIT_S: Final = 20


class State(str, Enum):
    """How far a trial's file is."""

    ABSENT = "absent"  # or not finished, or made by another codec
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Origin:
    """What made a trial's lines, beside the trial itself.

    Attributes:
        base_digest: Of the base model, hexadecimal.
        fingerprint: What the codec does, as `tools.bench.fingerprint` says.
        command: The one command that runs the trial again.
        git: Revision of the source, "-dirty" where files differ from it; "" outside a checkout.
    """

    base_digest: str
    fingerprint: str
    command: str
    git: str


class Busy(Exception):
    """Another process writes this trial."""


def trial_path(folder: Path, trial: Trial) -> Path:
    """Return a trial's file; no two trials of an experiment share one."""
    return folder / f"{trial.id}{SUFFIX}"


def described(trial: Trial, *, base_digest: str) -> dict[str, Any]:
    """Return the first line's "trial"."""
    return {**trial.described(), "base_digest": base_digest}


def state_of(path: Path, trial: Trial, origin: Origin) -> State:
    """Return how far a trial's file is.

    Raises:
        ExperimentError: It was run with other settings, or is none of ours.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return State.ABSENT
    except OSError as error:
        raise ExperimentError(f"{path}: cannot be read: {error.strerror}") from error
    header = parsed(lines[0]) if lines else None
    if header is None:
        return State.ABSENT
    if header.get("kind") != "trial" or header.get("format") != FORMAT:
        raise ExperimentError(f"{path}: no trial of this version; move it, or name another --out")
    _check_settings(path, header.get("trial"), described(trial, base_digest=origin.base_digest))
    end = parsed(lines[-1])
    if end is None or end.get("kind") != "end" or header.get("fingerprint") != origin.fingerprint:
        return State.ABSENT
    return State.DONE if end.get("ok") is True else State.FAILED


class TrialWriter(LineWriter):
    """Writes a trial's lines as they come, so that a person can watch them."""

    def header(self, trial: Trial, origin: Origin, *, machine: str) -> None:
        """Write the first line."""
        now = datetime.now(timezone.utc)
        self.write(
            {
                "kind": "trial",
                "format": FORMAT,
                "experiment": trial.experiment,
                "trial": described(trial, base_digest=origin.base_digest),
                "fingerprint": origin.fingerprint,
                "command": origin.command,
                "machine": machine,
                "versions": versions(_PACKAGES),
                "git": origin.git,
                "started": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
            }
        )

    def point(self, point: Point, *, seconds: float) -> None:
        """Write the line of one round."""
        evaluation = point.evaluation
        line = {
            "kind": "round",
            "round": point.round,
            "loss": None if evaluation is None else evaluation.loss,
            "accuracy": None if evaluation is None else evaluation.accuracy,
            "bytes_up": point.bytes_up,
            "wire_up": point.wire_up,
            "bytes_down": point.bytes_down,
        }
        if point.clients:
            line["clients"] = [
                {
                    **asdict(each),
                    "train_s": round(each.train_s, 4),
                    "encode_s": round(each.encode_s, 4),
                }
                for each in point.clients
            ]
        self.write({**line, "seconds": round(seconds, 3)})

    def quality(self, scores: Mapping[str, Any]) -> None:
        """Write how good the last adapter's answers are."""
        self.write({"kind": "quality", **scores})

    def end(self, *, failure: str = "") -> None:
        """Write the last line."""
        end = {"kind": "end", "ok": not failure}
        self.write({**end, "why": failure} if failure else end)


@contextmanager
def writing(path: Path) -> Iterator[TrialWriter]:
    """Open a trial's file anew, for this process alone.

    Raises:
        Busy: Another process writes it.
        ExperimentError: It cannot be written.
    """
    try:
        with path.open("a", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise Busy(str(path)) from error
            file.truncate(0)
            yield TrialWriter(file)
    except OSError as error:
        raise ExperimentError(f"{path}: cannot be written: {error.strerror}") from error


def revision(folder: Path = _REPOSITORY) -> str:
    """Return the source's git revision, "-dirty" where files differ from it; "" without git."""
    command = ["git", "-C", str(folder), "describe", "--always", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(  # noqa: S603  # a fixed command
            [*command, "--dirty"], capture_output=True, text=True, timeout=_GIT_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def _check_settings(path: Path, found: object, wanted: dict[str, Any]) -> None:
    if found == wanted:
        return
    differing = ["all"]
    if isinstance(found, dict):
        keys = wanted.keys() | found.keys()
        differing = sorted(str(key) for key in keys if found.get(key) != wanted.get(key))
    raise ExperimentError(
        f"{path}: was run with other settings ({', '.join(differing)}); name another --out"
    )
