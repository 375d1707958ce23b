"""`fedfstq simulate replay`: a trial's messages over real links. Heavy imports wait."""
# ruff: noqa: FBT002, PLC0415, PLR0917  # typer's options; `--help` loads no lab

from __future__ import annotations

import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from tools.bench.terminal import fail
from transport.exit_codes import ExitCode


def replay(
    trials: Annotated[list[Path], typer.Argument(help="Files that `simulate experiment` wrote.")],
    link: Annotated[
        list[str] | None,
        typer.Option(help="lte-20 or lte-mixed, may be repeated; both by default."),
    ] = None,
    devices: Annotated[
        int, typer.Option(min=1, max=50, help="Of the first cohort, the slowest.")
    ] = 1,
    rounds: Annotated[int, typer.Option(min=1, max=100, help="That are measured.")] = 3,
    out: Annotated[
        Path, typer.Option(help="Folder for replay.json and the processes' logs.")
    ] = Path("replay-out"),
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Play trials' first rounds over real links, and compare the time model; needs root."""
    from tools.bench import figures_file
    from tools.experiment.replay import NotReplayable, ReplayRow, read_trial
    from tools.experiment.replay import replay as play
    from tools.experiment.timing import LinkProfile
    from tools.netem.errors import NetemError
    from tools.soak.fleet import FleetStuck, NoMosquitto

    def tell(line: str) -> None:
        print(line, file=sys.stderr)  # noqa: T201  # progress

    try:
        profiles = [LinkProfile(each) for each in link or [each.value for each in LinkProfile]]
    except ValueError:
        known = ", ".join(profile.value for profile in LinkProfile)
        fail(ExitCode.USAGE, f"--link {' '.join(link or ())}: known are {known}")
    rows: list[ReplayRow] = []
    try:
        for path in trials:
            trial = read_trial(path)
            for profile in profiles:
                sent = trial.slowest(devices, profile=profile)
                folder = out / "fleets" / f"{len(rows)}"
                shutil.rmtree(folder, ignore_errors=True)
                tell(f"{sent.name} over {profile.value}")
                rows.append(play(sent, folder, profile=profile, rounds=rounds, tell=tell))
                # Each at once: what is interrupted later keeps its rows.
                figures_file.write(out / "replay.json", figures_file.document("replay", rows))
                tell(f"modelled {rows[-1].modelled_s:.2f} s, measured {rows[-1].measured_s:.2f} s")
    except NotReplayable as error:
        fail(ExitCode.USAGE, str(error))
    except (FleetStuck, NoMosquitto) as error:
        fail(ExitCode.FAILED, str(error))
    except NetemError as error:
        fail(error.exit_code, str(error))
    if as_json:
        print((out / "replay.json").read_text(encoding="utf-8"), end="")  # noqa: T201  # the answer
        return
    for row in rows:
        for key, value in asdict(row).items():
            print(f"{key:24}{value}")  # noqa: T201  # the answer
        print()  # noqa: T201  # the same
