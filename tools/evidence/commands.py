"""The one command that runs a table's row again. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from tools.evidence.reading import Trial

# What `fedfstq simulate experiment` filters trials by, beside the seed, of which a row has all.
_FILTERS: Final = ("workload", "alpha", "clients", "dropout", "method")
_ONLY: Final = "--only"

# Experiment → what its trials have to be told apart by.
Axes = Mapping[str, Sequence[str]]


def axes_of(trials: Iterable[Trial]) -> dict[str, tuple[str, ...]]:
    """Return what the trials of each experiment differ in."""
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        groups.setdefault(trial.experiment, []).append(trial)
    return {
        experiment: tuple(
            key for key in _FILTERS if len({str(each.settings.get(key)) for each in group}) > 1
        )
        for experiment, group in groups.items()
    }


def command_of(trials: Sequence[Trial], axes: Axes) -> str:
    """Return the command that runs all of some trials of one experiment again.

    A single trial's is its own. For several it is what their own commands say before any filter,
    with filters for what they share; "" where they share no such beginning.

    Args:
        trials: Of one method and setting.
        axes: What trials have to be told apart by.
    """
    beginnings = {_beginning(trial.command) for trial in trials}
    if len(trials) == 1 or len(beginnings) != 1:
        return trials[0].command if len(trials) == 1 else ""
    (beginning,) = beginnings
    if not beginning:
        return ""
    filters: list[str] = []
    for key in axes.get(trials[0].experiment, ()):
        values = {str(trial.settings.get(key)) for trial in trials}
        if len(values) == 1:
            filters += [_ONLY, f"{key}={values.pop()}"]
    return shlex.join([*beginning, *filters])


def _beginning(command: str) -> tuple[str, ...]:
    """Return a command's words without its filters."""
    try:
        words = shlex.split(command)
    except ValueError:
        return ()
    kept = []
    is_filter = False
    for word in words:
        if word == _ONLY:
            is_filter = True
        elif not is_filter or word.startswith("-"):
            is_filter = False
            kept.append(word)
        elif "=" not in word:
            kept.append(word)
    return tuple(kept)
