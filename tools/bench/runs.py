"""The learning experiment's files: one JSON Lines file per method and seed.

The first line says what was run, with what, and where; then one line per round, the first for
round 0, before anything was sent:

    {"kind": "run", "format": 1, "method": "fstq@2", "seed": 0, "settings": {...},
     "codec": "5f0e...", "machine": "...", "versions": {...}}
    {"kind": "round", "round": 0, "loss": 3.0691, "bytes_up": 0, "seconds": 0.4}

A file is finished when the lines of all rounds are there. One that is not is begun anew, and so is
one whose codec did something else than it does now: "codec" is `tools.bench.fingerprint`'s.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from tools.bench.experiment import Point
from tools.bench.json_lines import LineWriter, parsed
from tools.bench.methods import Method, parse_method
from transport.control import TrainingPlan

FORMAT: Final = 1

# A client's eight steps take 0.6 s on one core. At 1e-3 the loss of dense FedAvg falls through all
# 40 rounds; at 2e-3 it hardly does in the last ten, and a target there would be one of noise.
PLAN: Final = TrainingPlan(local_steps=8, batch_size=4, max_tokens=64, learning_rate=1e-3)


class RunsError(Exception):
    """The folder of runs cannot be used; the line says why and what to do."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What every run of an experiment shares.

    Attributes:
        rounds: Adapter versions to make.
        clients: In the fleet.
        cohort: Clients per round.
        rank: LoRA's r, on every linear layer.
        alpha: LoRA's alpha.
        segment_bytes: Most bytes that one segment has.
        heldout_rows: Of each client, which every adapter version is evaluated on.
        plan: The local training.
    """

    rounds: int = 40
    clients: int = 9
    cohort: int = 5
    rank: int = 16
    alpha: int = 32
    segment_bytes: int = 32_768
    heldout_rows: int = 8
    plan: TrainingPlan = PLAN


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run: the points of rounds 0 to the last."""

    method: Method
    seed: int
    points: tuple[Point, ...]
    seconds: float


def run_path(folder: Path, method: Method, seed: int) -> Path:
    """Return the file of a method and seed; no two methods share one."""
    name = str(method).replace(",", "_").replace(":", "~")
    return folder / f"{name}_seed={seed}.jsonl"


def read_run(path: Path, settings: Settings, *, codec: str) -> Run | None:
    """Return a finished run, None where there is none, or none of this codec.

    Args:
        path: The run's file.
        settings: With which it must have been made.
        codec: The codec's fingerprint.

    Raises:
        RunsError: The run was made with other settings, or the file is none of ours.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RunsError(f"{path}: cannot be read: {error.strerror}") from error
    if not lines:
        return None
    header = parsed(lines[0])
    if header is None or header.get("kind") != "run" or header.get("format") != FORMAT:
        raise RunsError(f"{path}: no run of this version's; move it away, or name another --out")
    _check_settings(path, header.get("settings"), settings)
    rounds = [parsed(line) for line in lines[1:]]
    if len(rounds) <= settings.rounds or None in rounds or header.get("codec") != codec:
        return None
    try:
        method, seed = parse_method(header["method"]), int(header["seed"])
        points = tuple(
            Point(int(line["round"]), float(line["loss"]), int(line["bytes_up"]))
            for line in rounds
            if line is not None
        )
        seconds = sum(float(line["seconds"]) for line in rounds if line is not None)
    except (KeyError, TypeError, ValueError) as error:
        raise RunsError(f"{path}: damaged; remove it, and it is run again") from error
    return Run(method, seed, points, seconds)


class RunWriter(LineWriter):
    """Writes a run's lines as they come, so that a person can watch them."""

    def point(self, point: Point, *, seconds: float) -> None:
        """Append the line of one round."""
        self.write({"kind": "round", **asdict(point), "seconds": round(seconds, 3)})

    def header(
        self,
        method: Method,
        *,
        seed: int,
        settings: Settings,
        codec: str,
        machine: str,
        versions: Mapping[str, str],
    ) -> None:
        """Write the first line."""
        self.write(
            {
                "kind": "run",
                "format": FORMAT,
                "method": str(method),
                "seed": seed,
                "settings": asdict(settings),
                "codec": codec,
                "machine": machine,
                "versions": dict(versions),
            }
        )


@contextmanager
def writing(path: Path) -> Iterator[RunWriter]:
    """Open a run's file anew.

    Raises:
        RunsError: It cannot be written.
    """
    try:
        with path.open("w", encoding="utf-8") as file:
            yield RunWriter(file)
    except OSError as error:
        raise RunsError(f"{path}: cannot be written: {error.strerror}") from error


def _check_settings(path: Path, found: object, settings: Settings) -> None:
    wanted = asdict(settings)
    if found == wanted:
        return
    differing = (
        sorted(key for key in wanted if found.get(key) != wanted[key]) or ["others"]
        if isinstance(found, dict)
        else ["all"]
    )
    raise RunsError(
        f"{path}: was run with other settings ({', '.join(differing)}); name another --out"
    )
