"""`fedfstq simulate`: the whole protocol on a virtual clock, with faults. Heavy imports wait."""
# ruff: noqa: FBT002, PLC0415, PLR0917  # typer's options; `--help` loads no machine

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from transport.exit_codes import ExitCode

if TYPE_CHECKING:
    from tools.simulate.campaign import Campaign, Findings
    from tools.simulate.faults import Kind

simulate = typer.Typer(
    name="simulate",
    help="Play the protocol with faults on a virtual clock, and compare methods in whole runs.",
    no_args_is_help=True,
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

# [s] Between two lines of progress.
_TELL_EVERY_S = 2.0
_ALL_KINDS = "all"
_NO_KINDS = "none"


@simulate.callback()
def _simulate() -> None:
    """Simulate the protocol, or whole runs."""


@simulate.command()
def delivery(
    seeds: Annotated[int, typer.Option(min=1, help="How many simulations.")] = 200,
    first_seed: Annotated[int, typer.Option(min=0, help="The first of them.")] = 1,
    devices: Annotated[
        int | None,
        typer.Option(min=1, max=20_000, help="In each fleet; the seed chooses 2 to 5 by default."),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, max=100_000, help="Of each run.")] = 25,
    faults: Annotated[
        str,
        typer.Option(
            metavar="KIND,…",
            help="What may go wrong: all, none, or some of loss, reorder, cut, blackout, flapping,"
            " broker-kill, broker-wipe, broker-restore, session-expired, overflow, agent-crash,"
            " aggregator-crash, trainer-crash, never-return, slow, clock, hostile,"
            " two-aggregators, clone.",
        ),
    ] = _ALL_KINDS,
    jobs: Annotated[int, typer.Option(min=1, max=256, help="Processes.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Play seeds until one breaks a promise of the delivery protocol; exit 1 where one does."""
    from tools.simulate.campaign import Campaign, run

    campaign = Campaign(seeds, first_seed, devices, rounds, _kinds(faults))
    findings = run(campaign, jobs=jobs, tell=_progress(seeds))
    print(file=sys.stderr)  # noqa: T201  # ends the line of progress
    print(_report(findings, campaign, faults, as_json=as_json))  # noqa: T201  # what was asked for
    if findings.failure is not None:
        raise typer.Exit(1)


@simulate.command()
def reconnect(
    agents: Annotated[int, typer.Option(min=1, max=1_000_000, help="Devices.")] = 5_000,
    away: Annotated[
        list[float] | None,
        typer.Option(help="Seconds without a broker; may be repeated. 1, 10, 60, 600 by default."),
    ] = None,
    spread: Annotated[
        float | None,
        typer.Option(min=0.0, help="The agents' reconnect_spread_s; their default by default."),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many times; the worst is told.")] = 20,
    most: Annotated[
        float, typer.Option(help="Exit 1 where the busiest second is above so many means.")
    ] = 3.0,
    as_json: AsJson = False,
) -> None:
    """Let a fleet lose its broker at one moment, and count how it comes back."""
    from agent.config import AgentConfig
    from tools.simulate.reconnect import come_back

    spread_s = spread
    if spread_s is None:
        spread_s = float(AgentConfig.model_fields["reconnect_spread_s"].default)
    worst = []
    for away_s in away or (1.0, 10.0, 60.0, 600.0):
        returns = [
            come_back(agents=agents, away_s=away_s, spread_s=spread_s, seed=seed)
            for seed in range(1, seeds + 1)
        ]
        worst.append(max(returns, key=lambda one: one.ratio))
        print(f"\rbroker away for {away_s:g} s: done ", end="", file=sys.stderr, flush=True)  # noqa: T201  # progress
    print(file=sys.stderr)  # noqa: T201  # ends the line of progress
    if as_json:
        print(json.dumps([asdict(one) | {"ratio": round(one.ratio, 2)} for one in worst], indent=2))  # noqa: T201  # what was asked for
    else:
        print(f"{agents} devices, spread {spread_s:g} s, the worst of {seeds} seeds")  # noqa: T201  # what was asked for
        for one in worst:
            print(  # noqa: T201  # what was asked for
                f"  away {one.away_s:6g} s: busiest second {one.peak_per_s:6.0f}/s ="
                f" {one.ratio:.2f} times the mean over 120 s; back after {one.mean_s:.0f} s in the"
                f" mean, {one.last_s:.0f} s at the latest"
            )
    if any(one.ratio > most for one in worst):
        raise typer.Exit(1)


def _kinds(text: str) -> frozenset[Kind]:
    from tools.simulate.faults import ALL, Kind

    if text == _ALL_KINDS:
        return ALL
    if text == _NO_KINDS:
        return frozenset()
    try:
        return frozenset(Kind(name) for name in text.split(","))
    except ValueError as error:
        known = ", ".join(kind.value for kind in Kind)
        print(f"fedfstq: --faults: {error}; there are {known}", file=sys.stderr)  # noqa: T201  # a command's last word
        raise typer.Exit(int(ExitCode.USAGE)) from error


def _progress(seeds: int) -> Callable[[int, int], None]:
    started = time.monotonic()
    told_at = started

    def tell(done: int, rounds: int) -> None:
        nonlocal told_at
        now = time.monotonic()
        if now < told_at + _TELL_EVERY_S and done < seeds:
            return
        told_at = now
        left_s = (now - started) / done * (seeds - done)
        line = f"\r{done} of {seeds} seeds, {rounds} rounds, {left_s:.0f} s left "
        print(line, end="", file=sys.stderr, flush=True)  # noqa: T201  # progress

    return tell


def replay(findings: Findings, campaign: Campaign, faults: str) -> str:
    """Return the command that plays the failing seed again."""
    assert findings.failure is not None
    devices = "" if campaign.devices is None else f" --devices {campaign.devices}"
    return (
        f"fedfstq simulate delivery --seeds 1 --first-seed {findings.failure.seed}"
        f"{devices} --rounds {campaign.rounds} --faults {faults}"
    )


def _report(findings: Findings, campaign: Campaign, faults: str, *, as_json: bool) -> str:
    failure, seconds = findings.failure, max(findings.seconds, 1e-9)
    facts: dict[str, object] = {
        "seeds": len(findings.outcomes),
        "rounds": findings.rounds,
        "virtual_hours": round(sum(one.virtual_s for one in findings.outcomes) / 3600, 1),
        "seconds": round(findings.seconds, 1),
        "rounds_per_s": round(findings.rounds / seconds, 1),
        "failure": asdict(failure) if failure else None,
        "replay": replay(findings, campaign, faults) if failure else "",
        "tally": findings.tally(),
    }
    if as_json:
        return json.dumps(facts, indent=2)
    lines = [
        (
            f"{facts['seeds']} seeds, {facts['rounds']} rounds, {facts['virtual_hours']} h of a"
            f" fleet's time in {facts['seconds']} s"
        )
    ]
    lines += [f"  {count:>9}  {name}" for name, count in findings.tally().items()]
    if failure is None:
        lines.append("every update is accounted for, and none counts twice")
    else:
        lines += [f"seed {failure.seed}: {failure.text}", f"again: {facts['replay']}"]
    return "\n".join(lines)
