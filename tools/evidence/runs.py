"""What was run: every run's hyperparameters, what failed, and what cannot be used. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from tools.evidence.commands import axes_of, command_of
from tools.evidence.contest import Contest
from tools.evidence.reading import Folder, Trial
from tools.evidence.sheets import Sheet, varying
from tools.evidence.words import label, value_text
from tools.report.tables import Column

_COMMAND: Final = Column("command", "Run again with", is_text=True, optional=True)
# What a machine's description says of one moment: its date, and how busy it was.
_OF_THE_MOMENT: Final = re.compile(r"^\d{4}-\d\d-\d\d, |, load average.*$")


def shared_sheet(trials: Sequence[Trial]) -> Sheet:
    """Return what all runs have in common."""
    rows = [_facts(trial) for trial in trials]
    keys = dict.fromkeys(key for row in rows for key in row)
    different = set(varying(rows, list(keys)))
    return Sheet(
        "The same in every run",
        (Column("key", "Setting"), Column("value", "Value", value_text, is_text=True)),
        tuple(
            {"key": label(key), "value": value_text(rows[0].get(key))}
            for key in keys
            if rows and key not in different and key not in {"method", "seed"}
        ),
    )


def hyperparameters_sheet(trials: Sequence[Trial]) -> Sheet:
    """Return one row per configuration and setting: all that differs between runs."""
    rows = [_facts(trial) for trial in trials]
    keys = dict.fromkeys(key for row in rows for key in row if key not in {"method", "seed"})
    different = varying(rows, list(keys))
    groups: dict[tuple[str, ...], list[Trial]] = {}
    for trial, row in zip(trials, rows, strict=True):
        place = (*(value_text(row.get(key)) for key in different), trial.method)
        groups.setdefault(place, []).append(trial)
    axes = axes_of(trials)
    shown = []
    for several in groups.values():
        facts = _facts(several[0])
        line: dict[str, Any] = {
            "configuration": several[0].method,
            **{key: facts.get(key) for key in different},
            "seeds": ", ".join(str(trial.seed) for trial in several),
            "failed": sum(bool(trial.failure) for trial in several) or None,
            "command": command_of(several, axes),
        }
        shown.append(line)
    columns = (
        Column("configuration", "Configuration"),
        *(Column(key, label(key), value_text, is_text=True) for key in different),
        Column("seeds", "Seeds", is_text=True),
        Column("failed", "Failed", optional=True),
        _COMMAND,
    )
    return Sheet("Every run", columns, tuple(shown))


def failures_sheet(folder: Folder, contests: Sequence[Contest]) -> Sheet:
    """Return what failed or could not be compared, and why; files that cannot be read too."""
    rows = [_failure(trial, trial.failure) for trial in folder.trials if trial.failure]
    for contest in contests:
        baseline = contest.comparison.baseline
        rows += [
            _failure(
                trial,
                f"no target: with this seed {baseline} is missing, or got no lower than the start",
            )
            for trial in contest.comparison.untargeted
        ]
    rows += [{"what": name, "why": why} for name, why in folder.damaged]
    rows += [
        {"what": name, "why": "unfinished: run the experiment's command again"}
        for name in folder.unfinished
    ]
    rows += [
        {"what": name, "why": "the same trial was run again later; that file counts"}
        for name in folder.superseded
    ]
    columns = (
        Column("what", "Run or file"),
        Column("why", "What happened", is_text=True),
        _COMMAND,
    )
    return Sheet("What failed or does not count", columns, tuple(rows))


def _failure(trial: Trial, why: str) -> dict[str, Any]:
    name = f"{trial.workload}, {trial.method}, seed {trial.seed}"
    return {"what": name, "why": why, "command": trial.command}


def _facts(trial: Trial) -> dict[str, Any]:
    """Return all of a run's settings, nested ones spelt out, and what ran it."""
    facts: dict[str, Any] = {}
    for key, value in trial.settings.items():
        if isinstance(value, dict):
            facts |= {f"{key}: {label(name)}": each for name, each in value.items()}
        else:
            facts[key] = value
    facts |= {"experiment": trial.experiment, "git": trial.git}
    facts["machine"] = _OF_THE_MOMENT.sub("", trial.machine)
    facts |= {f"version of {name}": each for name, each in trial.versions.items()}
    return facts
