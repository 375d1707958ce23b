"""`fedfstq simulate experiment`: whole federated runs, one per trial. Heavy imports wait."""
# ruff: noqa: FBT002, PLC0415, PLR0917  # typer's options; `--help` loads no numpy and no torch

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tools.bench.terminal import fail
from transport.exit_codes import ExitCode

if TYPE_CHECKING:
    from tools.experiment.campaign import Findings

File = Annotated[
    Path, typer.Argument(metavar="FILE.yaml", help="The experiment; docs/examples/experiments.")
]


def experiment(
    file: File,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the trials' files; experiment-out/NAME by default. What is finished"
            " there is not run again."
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="Only trials with this workload, alpha, clients, dropout, seed, method or trial;"
            " may be repeated: of one key, any value; of several keys, all.",
        ),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, max=256, help="Processes, of one core each.")] = 1,
    data: Annotated[
        Path | None,
        typer.Option(help="Folder of the data sets; FEDFSTQ_DATA, or the file's, by default."),
    ] = None,
    limit_minutes: Annotated[
        float | None, typer.Option(min=0, help="Begin no other trial after so many minutes.")
    ] = None,
    reuse: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="DIR",
            help="Take trials that another experiment has played from its folder, or from the"
            " archives in it (docs/evidence), where they are the same in everything; may be"
            " repeated.",
        ),
    ] = None,
    retry: Annotated[bool, typer.Option("--retry", help="Run trials again that failed.")] = False,
    listing: Annotated[
        bool, typer.Option("--list", help="Only say which trials there are, and how far.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Compare methods in whole federated runs, with the agents' and the aggregator's own classes.

    Ctrl-C ends after the round; the same command goes on where this one stopped.
    """
    from agent.data import DataError
    from tools.experiment.campaign import Campaign, run, states
    from tools.experiment.spec import ExperimentError

    try:
        campaign = Campaign.of(
            file,
            out=out,
            only=only or (),
            data=data,
            environ=os.environ,
            retry=retry,
            reuse=reuse or (),
        )
        if listing:
            _list({trial.id: state.value for trial, state in states(campaign)}, as_json=as_json)
            return
        limit_s = None if limit_minutes is None else 60 * limit_minutes
        findings = run(campaign, workers=workers, limit_s=limit_s)
    except (ExperimentError, DataError) as error:
        fail(ExitCode.CONFIG, str(error))
    except KeyboardInterrupt:
        fail(ExitCode.INTERRUPTED, "stopped; the same command goes on from here")
    _tell(findings, as_json=as_json)
    if findings.broken:
        raise typer.Exit(int(ExitCode.FAILED))


def _list(states: dict[str, str], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(states, indent=2))  # noqa: T201  # what was asked for
        return
    for trial, state in states.items():
        print(f"{state:6}  {trial}")  # noqa: T201  # what was asked for


def _tell(findings: Findings, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(findings.described(), indent=2))  # noqa: T201  # what was asked for
        return
    print(findings.sentence(), file=sys.stderr)  # noqa: T201  # a command's last word
