"""Trial files → typed trials. What is damaged or unfinished is named, and stops nothing.

A trial is one JSON Lines file: its header (`kind: trial`), a line per round from 0, perhaps one of
`quality`, and `end`; an archive (`tools.experiment.archive`) holds many of them. Of several files
of one trial of an experiment the one that was started last counts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tools.experiment.archive import SUFFIX, unpack
from tools.experiment.quality.token_recall import TOKEN_ORDER

FORMAT: Final = 1

# What may differ between the trials that one table compares; all else is their setting.
_OF_THE_METHOD: Final = frozenset({"method", "seed", "experiment"})


class NoEvidence(Exception):
    """A folder holds nothing to report; the line says what is wrong."""


class Damaged(Exception):
    """A file is no trial's, or its lines cannot be read; the line says which."""


@dataclass(frozen=True, slots=True)
class ClientRecord:
    """What one client of a cohort did in a round.

    Attributes:
        client_id: Its name.
        wire_up: Of its update, whole messages with their topics.
        train_s: Of local training, measured.
        encode_s: Of encoding, measured.
        arrived: Whether its update came.
    """

    client_id: str
    wire_up: int
    train_s: float
    encode_s: float
    arrived: bool


@dataclass(frozen=True, slots=True)
class RoundRecord:
    """One round; bytes are cumulative from the first.

    Attributes:
        round: 0 is before anything was sent.
        loss: Held-out, in nats; None where it was not evaluated, infinite where it is no number.
        accuracy: Held-out token accuracy; None where it was not evaluated.
        bytes_up: Of segments.
        wire_up: Of whole framed messages with their topics.
        bytes_down: Of adapter versions.
        clients: The cohort.
    """

    round: int
    loss: float | None
    accuracy: float | None
    bytes_up: float
    wire_up: float
    bytes_down: float
    clients: tuple[ClientRecord, ...]


@dataclass(frozen=True, slots=True)
class Trial:
    """One run of one method in one setting with one seed, which has ended.

    Attributes:
        settings: Everything of the header's `trial`.
        experiment: The name of the experiment it was run for.
        command: What runs it again.
        machine: What ran it.
        versions: Of libraries.
        git: Revision of the code.
        started: Date and time, ISO 8601.
        rounds: From 0, ascending.
        quality: Metric → value of the last adapter; empty where none was taken.
        token_order: Ids of held-out targets, those first that its mask keeps; perhaps empty.
        failure: Why it failed; "" where it did not.
        path: Its file, or its place in an archive.
    """

    settings: Mapping[str, Any]
    experiment: str
    command: str
    machine: str
    versions: Mapping[str, str]
    git: str
    started: str
    rounds: tuple[RoundRecord, ...]
    quality: Mapping[str, float]
    token_order: tuple[int, ...]
    failure: str
    path: Path

    @property
    def method(self) -> str:
        """The method's text."""
        return str(self.settings["method"])

    @property
    def seed(self) -> int:
        """The seed of everything that was drawn."""
        return int(self.settings["seed"])

    @property
    def workload(self) -> str:
        """What was learnt."""
        return str(self.settings["workload"])

    @property
    def setting(self) -> dict[str, Any]:
        """Everything of the header that is not the method or the seed."""
        return {key: self.settings[key] for key in self.settings if key not in _OF_THE_METHOD}

    @property
    def setting_key(self) -> str:
        """One text per setting."""
        return canonical(self.setting)

    @property
    def evaluated(self) -> tuple[tuple[RoundRecord, float], ...]:
        """The rounds whose loss is known, each with it; empty only where none was evaluated."""
        return tuple((each, each.loss) for each in self.rounds if each.loss is not None)


@dataclass(frozen=True, slots=True)
class Folder:
    """Everything that a folder of experiments holds.

    Attributes:
        trials: Those that have ended, by experiment, setting, method and seed.
        unfinished: Files without a last line, relative to the folder.
        damaged: (file, why) of those that cannot be read.
        superseded: Files of trials that another file holds, started later.
        companions: Measurements beside the trials: file name without its ending → its object.
    """

    trials: tuple[Trial, ...]
    unfinished: tuple[str, ...]
    damaged: tuple[tuple[str, str], ...]
    superseded: tuple[str, ...]
    companions: Mapping[str, Mapping[str, Any]]


def canonical(value: object) -> str:
    """Return JSON that is the same text for the same value; infinity is `Infinity`."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def read_folder(folder: Path) -> Folder:
    """Read a folder with all that is below it.

    Raises:
        NoEvidence: It is none, or holds nothing that could be reported.
    """
    if not folder.is_dir():
        raise NoEvidence(f"{folder} is no folder: name the --out of `fedfstq simulate experiment`")
    trials: list[Trial] = []
    unfinished: list[str] = []
    damaged: list[tuple[str, str]] = []
    for path, lines in trial_lines(folder, damaged):
        name = path.relative_to(folder).as_posix()
        try:
            trial = _parse(lines, path)
        except Damaged as error:
            damaged.append((name, str(error)))
            continue
        if trial is None:
            unfinished.append(name)
        else:
            trials.append(trial)
    companions = dict(_companions(folder, damaged))
    if not trials and not companions:
        raise NoEvidence(
            f"{folder} holds no trial that has ended"
            + (f" ({len(unfinished)} are unfinished)" if unfinished else "")
            + (f" ({len(damaged)} cannot be read)" if damaged else "")
        )
    kept, superseded = _latest(trials)
    return Folder(
        trials=tuple(kept),
        unfinished=tuple(unfinished),
        damaged=tuple(damaged),
        superseded=tuple(sorted(each.relative_to(folder).as_posix() for each in superseded)),
        companions=companions,
    )


def read_trial(path: Path) -> Trial | None:
    """Return the trial of a file, None where it has not ended.

    Raises:
        Damaged: It cannot be read, or is no trial's.
    """
    return _parse(_lines(path), path)


def trial_lines(folder: Path, damaged: list[tuple[str, str]]) -> Iterator[tuple[Path, list[str]]]:
    """Yield place and lines of everything below a folder that may be a trial.

    Args:
        folder: Of experiments.
        damaged: Takes in (file, why) of what cannot be read.
    """
    for path in sorted((*folder.rglob(f"*{SUFFIX}"), *folder.rglob("*.jsonl"))):
        try:
            if not path.name.endswith(SUFFIX):
                yield path, _lines(path)
                continue
            for number, lines in enumerate(unpack(path.read_bytes())):
                yield path / str(number), lines
        except (Damaged, OSError, ValueError) as error:
            damaged.append((path.relative_to(folder).as_posix(), str(error)))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise Damaged(f"cannot be read: {error}") from error


def _parse(lines: list[str], path: Path) -> Trial | None:
    objects = list(_objects(lines))
    if not objects or objects[0].get("kind") != "trial":
        raise Damaged("its first line is no trial's header")
    header = objects[0]
    if header.get("format") != FORMAT:
        raise Damaged(f"its format is {header.get('format')!r:.20}, not {FORMAT}")
    try:
        return _trial(header, objects[1:], path)
    except (KeyError, TypeError, ValueError) as error:
        raise Damaged(f"a line lacks or misstates {error!s:.80}") from error


def _objects(lines: list[str]) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(lines, start=1):
        try:
            value = json.loads(line)
        except ValueError:
            if number == len(lines):
                return  # broken off while it was written: the trial has not ended
            raise Damaged(f"line {number} is no JSON") from None
        if not isinstance(value, dict):
            raise Damaged(f"line {number} is no object")
        yield value


def _trial(header: dict[str, Any], lines: list[dict[str, Any]], path: Path) -> Trial | None:
    end = next((line for line in lines if line.get("kind") == "end"), None)
    if end is None:
        return None
    rounds = tuple(_round(line) for line in lines if line.get("kind") == "round")
    if [each.round for each in rounds] != list(range(len(rounds))):
        raise Damaged("its rounds do not follow one another")
    settings = dict(header["trial"])
    failure = "" if end["ok"] else str(end.get("why") or "it does not say why")
    _check(settings, rounds, failure=failure)
    quality = next((line for line in lines if line.get("kind") == "quality"), {})
    return Trial(
        settings=settings,
        experiment=str(header.get("experiment", "")),
        command=str(header.get("command", "")),
        machine=str(header.get("machine", "")),
        versions={str(key): str(value) for key, value in (header.get("versions") or {}).items()},
        git=str(header.get("git", "")),
        started=str(header.get("started", "")),
        rounds=rounds,
        quality={
            key: float(value)
            for key, value in quality.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        },
        token_order=tuple(int(each) for each in quality.get(TOKEN_ORDER, ())),
        failure=failure,
        path=path,
    )


def _check(settings: dict[str, Any], rounds: tuple[RoundRecord, ...], *, failure: str) -> None:
    str(settings["method"]), int(settings["seed"]), str(settings["workload"])
    planned = int(settings["rounds"])
    share = float(settings["target_share"])
    if planned < 1 or not 0 < share <= 1:
        raise Damaged(f"it has {planned} rounds and a target after {share} of them")
    if failure:
        return
    if len(rounds) != planned + 1:
        raise Damaged(f"it ended well after {len(rounds) - 1} of {planned} rounds")
    for at, name in ((0, "first"), (-1, "last")):
        if rounds[at].loss is None or not math.isfinite(rounds[at].loss or 0.0):
            raise Damaged(f"it ended well without a loss of its {name} round")


def _round(line: dict[str, Any]) -> RoundRecord:
    bytes_up = float(line["bytes_up"])
    return RoundRecord(
        round=int(line["round"]),
        loss=_loss(line.get("loss")),
        accuracy=None if line.get("accuracy") is None else float(line["accuracy"]),
        bytes_up=bytes_up,
        wire_up=float(line.get("wire_up", bytes_up)),
        bytes_down=float(line.get("bytes_down", 0)),
        clients=tuple(
            ClientRecord(
                client_id=str(each["id"]),
                wire_up=int(each.get("wire", each["bytes"])),
                train_s=float(each["train_s"]),
                encode_s=float(each.get("encode_s", 0.0)),
                arrived=bool(each.get("arrived", True)),
            )
            for each in line.get("clients", ())
        ),
    )


def _loss(value: object) -> float | None:
    if value is None:
        return None
    loss = float(value) if isinstance(value, int | float | str) else math.nan
    return loss if math.isfinite(loss) else math.inf


def _latest(trials: Iterable[Trial]) -> tuple[list[Trial], list[Path]]:
    """Return one trial of each kind, and the files of the others."""
    kept: dict[str, Trial] = {}
    superseded = []
    for trial in sorted(trials, key=lambda each: (each.started, each.path)):
        key = canonical([trial.experiment, dict(trial.settings)])
        if key in kept:
            superseded.append(kept[key].path)
        kept[key] = trial
    order = sorted(
        kept.values(), key=lambda each: (each.experiment, each.setting_key, each.method, each.seed)
    )
    return order, superseded


def _companions(
    folder: Path, damaged: list[tuple[str, str]]
) -> Iterator[tuple[str, dict[str, Any]]]:
    for path in sorted(folder.rglob("*.json")):
        name = path.relative_to(folder).as_posix()
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            damaged.append((name, f"cannot be read: {error!s:.80}"))
            continue
        if isinstance(value, dict):
            yield path.stem, value
