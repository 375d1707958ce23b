"""The `fedfstq` command: what an operator types. Heavy imports wait until a command needs them."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Annotated, NoReturn, TypeVar

import typer
from pydantic import BaseModel

from tools.bench.command import bench
from tools.dashboard.command import dashboard as dashboard_command
from tools.doctor.command import doctor
from tools.experiment.command import experiment
from tools.experiment.replay_command import replay
from tools.init.command import init
from tools.monitor.command import watch
from tools.netem.command import netem
from tools.operate.command import command
from tools.report.group import report
from tools.settings import SettingsError, load
from tools.simulate.command import simulate
from transport.exit_codes import ExitCode

M = TypeVar("M", bound=BaseModel)

app = typer.Typer(
    name="fedfstq",
    help="Federated LoRA fine-tuning over MQTT, with updates chosen and quantised by Fisher.",
    epilog="Exit codes: 0 ok, 1 the result is not what was asked for, 2 usage, 69 broker"
    " unreachable, 75 try again, 77 login refused, 78 bad configuration, model or data.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(bench)
app.add_typer(init)
app.add_typer(netem)
app.command()(command)
app.command("dashboard")(dashboard_command)
app.command()(doctor)
app.command()(watch)
simulate.command()(experiment)
simulate.command()(replay)
app.add_typer(report)
app.add_typer(simulate)

# What the aggregator does without.
_AGENT_EXTRA = frozenset({"torch", "transformers", "peft"})

ConfigFile = Annotated[Path, typer.Option("--config", "-c", help="The service's YAML file.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="a.b=c", help="Override one value of the file; may be repeated."),
]


def fail(code: ExitCode, text: str) -> NoReturn:
    """Print one line to stderr and end the process with this exit code."""
    print(f"fedfstq: {text}", file=sys.stderr)  # noqa: T201  # this is a command's last word
    raise typer.Exit(int(code))


def _start_log(level: str) -> None:
    logging.basicConfig(
        level=level.upper(),
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )


def _print_version(value: bool) -> None:  # noqa: FBT001  # typer's own callback signature
    if value:
        print(f"fedfstq {installed_version('fedfstq')}")  # noqa: T201  # what was asked for
        raise typer.Exit


@app.callback()
def options(
    _: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Federated LoRA fine-tuning over MQTT."""


def _settings(model: type[M], config: Path, overrides: list[str] | None) -> M:
    try:
        return load(model, config, overrides=overrides or (), environ=os.environ)
    except SettingsError as error:
        fail(ExitCode.CONFIG, str(error))


@app.command()
def agent(config: ConfigFile, overrides: Overrides = None) -> None:
    """Run the agent of one device: network, outbox and session; the trainer is its child."""
    from agent.config import AgentConfig
    from agent.runtime import run

    settings = _settings(AgentConfig, config, overrides)
    _start_log(settings.log_level)
    raise typer.Exit(run(settings))


@app.command()
def trainer(config: ConfigFile, overrides: Overrides = None) -> None:
    """Run the trainer of one device as a service of its own (`trainer: service` in the file)."""
    from agent.config import AgentConfig
    from agent.trainer import refuse_everyone, serve

    try:
        settings = load(AgentConfig, config, overrides=overrides or (), environ=os.environ)
    except SettingsError as error:
        refuse_everyone(str(error))
        fail(ExitCode.CONFIG, str(error))
    _start_log(settings.log_level)
    raise typer.Exit(serve(settings, stdin_is_leash=False))


@app.command()
def aggregator(config: ConfigFile, overrides: Overrides = None) -> None:
    """Run the aggregator: rounds, averaging and adapter versions. Needs no torch."""
    from aggregator.config import AggregatorConfig
    from aggregator.runtime import run

    settings = _settings(AggregatorConfig, config, overrides)
    _start_log(settings.log_level)
    raise typer.Exit(run(settings))


@app.command()
def adapter(
    model: Annotated[str, typer.Option(help="Base model: a local folder or a hub id.")],
    out: Annotated[Path, typer.Option(help="Folder to write; must not exist yet.")],
    rank: Annotated[int, typer.Option(min=1, max=1024, help="LoRA rank r.")] = 16,
    alpha: Annotated[int, typer.Option(min=1, help="LoRA scaling alpha.")] = 32,
    target: Annotated[
        list[str] | None,
        typer.Option(help="A module to adapt, may be repeated; every linear layer by default."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Seeds the initial values.")] = 0,
) -> None:
    """Make the initial adapter of a run, which its aggregator is given."""
    from agent.adapter import AdapterError, make_initial_adapter
    from agent.base import BaseError
    from agent.quantized import hide_others

    hide_others(None)  # no base model is held in few bits for this

    warnings.filterwarnings("ignore", category=FutureWarning)  # libraries to each other
    if out.exists():
        fail(ExitCode.USAGE, f"{out} exists: name a new folder, or remove it first")
    try:
        make_initial_adapter(
            model, out, rank=rank, alpha=alpha, target_modules=target or "all-linear", seed=seed
        )
    except (AdapterError, BaseError) as error:
        fail(ExitCode.CONFIG, str(error))
    print(f"wrote {out}: set initial_adapter to it in the aggregator's file")  # noqa: T201


@app.command()
def demo(
    agents: Annotated[int, typer.Option(min=1, max=64, help="Devices in the fleet.")] = 4,
    rounds: Annotated[int, typer.Option(min=1, max=1000, help="Rounds to play.")] = 5,
    data: Annotated[
        Path | None,
        typer.Option(
            help="JSON or JSONL instead of the standard library's text: a folder holds one file"
            " per device, a file is cut into as many shares."
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Base model: a local folder or a hub id.")
    ] = None,
    broker: Annotated[
        str,
        typer.Option(help="auto, mosquitto, embedded, or HOST[:PORT] of a broker that is running."),
    ] = "auto",
    codec: Annotated[str, typer.Option(help="Codec of the client updates.")] = "fstq-r",
    bits: Annotated[
        str | None,
        typer.Option(
            metavar="N[:N]",
            help="Bits per coordinate of an update; two numbers, as 0.1:0.5, for the first and the"
            " last round. 0.15:0.8 by default; none for dense codecs.",
        ),
    ] = None,
    downlink: Annotated[
        str,
        typer.Option(
            metavar="CODEC[:N]",
            help="Publish each adapter version as a delta in this codec, as fp16 or fstq+:4 (with"
            " bits per coordinate), to the devices that hold the one before; whole: as it is.",
        ),
    ] = "fstq+:4",
    compare: Annotated[
        str | None,
        typer.Option(
            metavar="CODEC",
            help="Run it again with this codec, as fp32, and say what both took to the same loss.",
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder for report.json, the adapter and the logs.")
    ] = Path("demo-out"),
    dashboard: Annotated[
        bool, typer.Option(help="Serve the fleet's page to a browser meanwhile.")
    ] = True,
    slow: Annotated[
        float | None,
        typer.Option(
            min=1.0,
            metavar="KBIT_S",
            help="Let the last device send no faster, as 8: see who waits.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Fine-tune one adapter with a whole fleet on this machine, and show what it gave and cost."""
    from tools.demo.errors import DemoError
    from tools.demo.options import DemoOptions
    from tools.demo.run import run_demo

    settings = DemoOptions(
        agents=agents,
        rounds=rounds,
        data=data,
        model=model,
        broker=broker,
        codec=codec,
        bits=bits,
        downlink=downlink,
        compare=compare,
        out=out.absolute(),
        as_json=as_json,
        dashboard=dashboard,
        slow_kbit_s=slow,
    )
    try:
        code = run_demo(settings)
    except DemoError as error:
        fail(error.exit_code, str(error))
    except KeyboardInterrupt:
        fail(ExitCode.INTERRUPTED, "stopped; every process has ended")
    raise typer.Exit(int(code))


@app.command()
def soak(
    case: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only this case; may be repeated. All by default."),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="The short form of each case.")] = False,
    out: Annotated[
        Path, typer.Option(help="Folder for soak.json, soak.md, and what failed cases leave.")
    ] = Path("soak-out"),
    write: Annotated[
        Path | None,
        typer.Option(help="A page with markers that gets the table, as docs/resilience.md."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Kill, wipe, fill and slow down real fleets; exit 1 where a figure is not reached."""
    from tools.soak.command import SoakOptions, SoakRefused, run_soak

    options = SoakOptions(tuple(case or ()), quick, as_json, out.absolute(), write)
    try:
        code = run_soak(options)
    except SoakRefused as error:
        fail(ExitCode.USAGE, str(error))
    except KeyboardInterrupt:
        fail(ExitCode.INTERRUPTED, "stopped; every process has ended")
    raise typer.Exit(int(code))


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(help="A frame, a segment, or an update's payload.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print what a file of this system's bytes holds."""
    from tools.inspection import InspectionError, inspect_file, render

    try:
        description = inspect_file(file)
    except InspectionError as error:
        fail(ExitCode.CONFIG, str(error))
    print(render(description, as_json=as_json))  # noqa: T201  # what was asked for


def main() -> None:
    """Run the command line."""
    try:
        app()
    except ModuleNotFoundError as error:
        if error.name not in _AGENT_EXTRA:
            raise
        print(  # noqa: T201  # this is a command's last word
            f"fedfstq: this command needs {error.name}: pip install 'fedfstq[agent]', or on a"
            " Jetson its vendor's torch",
            file=sys.stderr,
        )
        sys.exit(ExitCode.CONFIG)


if __name__ == "__main__":
    main()
