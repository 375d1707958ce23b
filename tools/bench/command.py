"""`fedfstq bench`: measures codecs, adapters and other projects. Heavy imports wait."""
# ruff: noqa: FBT002, PLC0415, PLR0917  # typer's options; `--help` loads no numpy and no torch

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tools.bench.cost_command import inference, overhead
from tools.bench.terminal import fail, progress, show
from transport.exit_codes import ExitCode

if TYPE_CHECKING:
    from tools.bench.recording import Recording
    from transport.control import TrainingPlan

bench = typer.Typer(
    name="bench",
    help="Measure codecs, adapters and other projects' compression on this machine.",
    no_args_is_help=True,
)

bench.command()(overhead)
bench.command()(inference)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
AsMarkdown = Annotated[bool, typer.Option("--markdown", help="Print tables for a page.")]
RecordingFile = Annotated[
    Path | None,
    typer.Option(help="What `bench record` wrote; recorded anew, in a minute, by default."),
]

# How the updates are recorded that codecs are measured on, where no file is named.
_ROUNDS = 2
_CLIENTS = 4


@bench.command()
def record(
    out: Annotated[Path, typer.Option(help="The .npz file to write.")],
    config: Annotated[
        list[Path] | None,
        typer.Option(help="A device's agent.yaml, may be repeated; the demo's clients by default."),
    ] = None,
    adapter: Annotated[
        Path | None, typer.Option(help="With --config: the adapter version's folder to start from.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, max=1000, help="Rounds to play and keep.")] = 3,
    clients: Annotated[
        int | None, typer.Option(min=1, max=64, help="Of the demo, 9 by default; all take part.")
    ] = None,
    local_steps: Annotated[int, typer.Option(min=1, max=10_000, help="Per round.")] = 8,
    batch_size: Annotated[int, typer.Option(min=1, max=4096, help="Examples per step.")] = 8,
    max_tokens: Annotated[int, typer.Option(min=2, max=1 << 20, help="Per example.")] = 128,
    optimizer: Annotated[str, typer.Option(help="adamw (the agents' own) or sgd.")] = "adamw",
    learning_rate: Annotated[
        float | None,
        typer.Option(min=1e-9, max=1.0, help="The demo's; a run's own with --config; 1 for sgd."),
    ] = None,
) -> None:
    """Record clients' deltas and Fisher diagonals: the demo's, or those of real devices."""
    from dataclasses import replace

    from tools.bench.recording import save
    from tools.demo.options import PLAN
    from transport.control import TrainingPlan

    if not out.parent.is_dir():
        fail(ExitCode.USAGE, f"--out {out}: there is no folder {out.parent}")
    if bool(config) != (adapter is not None):
        fail(ExitCode.USAGE, "--config and --adapter belong together: a device and what it starts"
              " from, such as adapters/0 in the aggregator's state_dir")  # fmt: skip
    if config and (clients is not None or optimizer != "adamw"):
        fail(ExitCode.USAGE, "--clients and --optimizer are the demo's: with --config every file"
              " is a client, and its agent trains with adamw")  # fmt: skip
    default_rate = (TrainingPlan() if config else PLAN).learning_rate
    plan = replace(
        PLAN,
        local_steps=local_steps,
        batch_size=batch_size,
        max_tokens=max_tokens,
        learning_rate=learning_rate or (1.0 if optimizer == "sgd" else default_rate),
    )
    with progress() as on_progress:
        if config and adapter:
            recording = _record_devices(config, adapter, plan, rounds, on_progress)
        else:
            recording = _record(
                plan=plan,
                rounds=rounds,
                clients=clients or 9,
                optimizer=optimizer,
                on_progress=on_progress,
            )
    try:
        save(recording, out)
    except OSError as error:
        fail(ExitCode.USAGE, f"--out {out}: cannot be written: {error.strerror}")
    print(f"wrote {out}: {recording.deltas.size:,} coordinates and their Fisher diagonal")  # noqa: T201  # the answer


@bench.command()
def deltas(
    files: Annotated[
        list[Path] | None, typer.Argument(help="Recordings; the study's own by default.")
    ] = None,
    record_anew: Annotated[
        bool, typer.Option("--record", help="Record the study: ten minutes on one core.")
    ] = False,
    save_to: Annotated[
        Path | None, typer.Option("--save", help="A folder to keep the study's recordings in.")
    ] = None,
    as_json: AsJson = False,
    as_markdown: AsMarkdown = False,
) -> None:
    """Show what real adapters' deltas and Fisher statistics look like, by kind of matrix."""
    from tools.bench import deltas as study
    from tools.bench.recording import save

    if bool(files) == record_anew:
        fail(ExitCode.USAGE, "name recordings, or ask for --record")
    with progress() as on_progress:
        if files:
            recordings = [_load(file) for file in files]
        else:
            _one_thread()
            recordings = study.record_study(on_progress)
        if save_to:
            save_to.mkdir(parents=True, exist_ok=True)
            for each in recordings:
                save(each, save_to / f"{each.optimizer}-{each.local_steps}.npz")
        found = study.findings(recordings, on_progress=on_progress)
    show(study.to_json(found), study.tables(found), as_json=as_json, as_markdown=as_markdown)


@bench.command(name="codec")
def codecs(
    layout: Annotated[
        str | None,
        typer.Option(
            help="Layout of the speed table; llama2-7b-r16-all by default, or recorded for"
            " that of the recording."
        ),
    ] = None,
    curve_layout: Annotated[
        str | None,
        typer.Option(
            help="Layout of the error curves; qwen2.5-0.5b-r8-all by default, or recorded."
        ),
    ] = None,
    codec: Annotated[
        list[str] | None, typer.Option(help="A codec, may be repeated; all by default.")
    ] = None,
    bits: Annotated[
        list[float] | None,
        typer.Option(help="A budget of the speed table in bits per coordinate, may be repeated."),
    ] = None,
    recording: RecordingFile = None,
    svg: Annotated[Path | None, typer.Option(help="Draw the error curves into this file.")] = None,
    as_json: AsJson = False,
    as_markdown: AsMarkdown = False,
) -> None:
    """Measure every codec's speed, memory, size and error on real updates, on one core."""
    from tools.bench import codecs as benchmark
    from tools.bench.codec_tables import tables
    from tools.bench.recording import RecordingError

    defaults = benchmark.Options()
    options = benchmark.Options(
        layout=_layout(layout or defaults.layout, benchmark.RECORDED),
        curve_layout=_layout(curve_layout or defaults.curve_layout, benchmark.RECORDED),
        codecs=_codecs(codec) or defaults.codecs,
        bits=tuple(bits or defaults.bits),
    )
    with progress() as on_progress:
        recorded = _recorded(recording, on_progress)
        try:
            results = benchmark.measure(recorded, options, on_progress=on_progress)
        except RecordingError as error:
            own = f"--layout {benchmark.RECORDED} --curve-layout {benchmark.RECORDED}"
            fail(ExitCode.CONFIG, f"{error}: {own} measures what was recorded")
    if svg:
        try:
            benchmark.draw(results, svg)
        except ModuleNotFoundError:
            fail(ExitCode.CONFIG, "--svg needs matplotlib: pip install 'fedfstq[bench]'")
        except OSError as error:
            fail(ExitCode.USAGE, f"--svg {svg}: cannot be written: {error.strerror}")
    show(
        benchmark.to_json(results),
        tables(results),
        as_json=as_json,
        as_markdown=as_markdown,
    )


@bench.command()
def peers(
    venv: Annotated[
        Path, typer.Option(help="Virtual environment for the others' packages; made on first use.")
    ],
    layout: Annotated[str, typer.Option(help="Layout of the update.")] = "qwen2.5-0.5b-r8-all",
    codec: Annotated[
        list[str] | None, typer.Option(help="A codec of ours, may be repeated.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="A part of a peer's name, may be repeated.")
    ] = None,
    python: Annotated[
        str | None, typer.Option(help="The Python to make the environment with, 3.10 to 3.12.")
    ] = None,
    recording: RecordingFile = None,
    as_json: AsJson = False,
    as_markdown: AsMarkdown = False,
) -> None:
    """Measure OpenFL's and NVIDIA FLARE's compression, and ours at no more bytes."""
    from tools.bench import peers as benchmark
    from tools.bench.measure import Update
    from tools.bench.tiling import tile
    from tools.layouts import layout_named

    shape = layout_named(_layout(layout))
    chosen = _codecs(codec) or benchmark.OURS
    with progress() as on_progress:
        try:
            executable = benchmark.install(
                venv.absolute(),
                python=python or benchmark.default_python(),
                on_progress=on_progress,
            )
            results = benchmark.compare(
                Update(shape, *tile(_recorded(recording, on_progress), shape, seed=0)),
                layout_name=layout,
                executable=executable,
                codecs=chosen,
                segment_bytes=32_768,
                only=only or (),
                on_progress=on_progress,
            )
        except benchmark.PeersError as error:
            fail(ExitCode.FAILED, str(error))
    show(
        benchmark.to_json(results),
        [benchmark.table(results)],
        as_json=as_json,
        as_markdown=as_markdown,
    )


@bench.command()
def learning(
    codec: Annotated[
        list[str] | None,
        typer.Option(
            metavar="METHOD",
            help="NAME[@BITS[:LAST]][,ef[=DECAY]][,step=STEP|auto][,momentum=M], as"
            " fstq+@0.25,ef; may be repeated; a list of all codecs by default.",
        ),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, max=10_000, help="Rounds per run.")] = 40,
    seeds: Annotated[int, typer.Option(min=1, max=1000, help="Runs per method.")] = 3,
    out: Annotated[
        Path, typer.Option(help="Folder of the runs; what is finished there is not run again.")
    ] = Path("learning-out"),
    workers: Annotated[int, typer.Option(min=1, max=256, help="Processes, of one core each.")] = 1,
    as_json: AsJson = False,
    as_markdown: AsMarkdown = False,
) -> None:
    """Train the demo's fleet through every codec, and compare loss with the bytes it took."""
    from tools.bench.learning import Form, LearningOptions, run_learning
    from tools.bench.methods import BadMethod
    from tools.bench.runs import RunsError

    options = LearningOptions(
        methods=tuple(codec or ()),
        rounds=rounds,
        seeds=seeds,
        out=out,
        workers=workers,
        form=Form.JSON if as_json else Form.MARKDOWN if as_markdown else Form.TABLE,
    )
    try:
        code = run_learning(options)
    except BadMethod as error:
        fail(ExitCode.USAGE, f"--codec: {error}")
    except RunsError as error:
        fail(ExitCode.USAGE, str(error))
    except KeyboardInterrupt:
        fail(ExitCode.INTERRUPTED, f"stopped; what is finished in {out} is kept")
    raise typer.Exit(int(code))


def _record(
    *,
    plan: TrainingPlan,
    rounds: int,
    clients: int,
    optimizer: str,
    on_progress: Callable[[str, float], None],
) -> Recording:
    from agent.train import TrainingDiverged
    from tools.bench.fleet import open_fleet
    from tools.bench.fleet import record as record_rounds
    from tools.bench.local import LocalOptimizer

    if optimizer not in set(LocalOptimizer):
        fail(ExitCode.USAGE, f"--optimizer {optimizer}: adamw or sgd")
    _one_thread()
    on_progress("loading the demo's model and text", 0.0)
    try:
        return record_rounds(
            open_fleet(clients, max_tokens=plan.max_tokens),
            plan=plan,
            optimizer=LocalOptimizer(optimizer),
            rounds=range(rounds),
            on_progress=on_progress,
        )
    except ValueError as error:
        fail(ExitCode.USAGE, f"--clients {clients}: {error}")
    except TrainingDiverged as error:
        fail(ExitCode.FAILED, str(error))


def _record_devices(
    files: Sequence[Path],
    adapter: Path,
    plan: TrainingPlan,
    rounds: int,
    on_progress: Callable[[str, float], None],
) -> Recording:
    from agent.config import AgentConfig
    from agent.train import TrainingDiverged
    from tools import settings
    from tools.bench.device import DeviceError, record_devices

    try:
        return record_devices(
            [settings.load(AgentConfig, file, environ=os.environ) for file in files],
            adapter,
            plan=plan,
            rounds=rounds,
            on_progress=on_progress,
        )
    except (settings.SettingsError, DeviceError) as error:
        fail(ExitCode.CONFIG, str(error))
    except TrainingDiverged as error:
        fail(ExitCode.FAILED, str(error).replace("the learning rate", "--learning-rate"))


def _recorded(file: Path | None, on_progress: Callable[[str, float], None]) -> Recording:
    if file:
        return _load(file)
    from tools.demo.options import PLAN

    return _record(
        plan=PLAN, rounds=_ROUNDS, clients=_CLIENTS, optimizer="adamw", on_progress=on_progress
    )


def _load(file: Path) -> Recording:
    from tools.bench.recording import RecordingError, load

    try:
        return load(file)
    except RecordingError as error:
        fail(ExitCode.CONFIG, str(error))
    except OSError as error:
        fail(ExitCode.CONFIG, f"{file}: cannot be read: {error.strerror}")


def _one_thread() -> None:
    """Threads that wait for each other on cores that others use as well take ten times as long."""
    import torch

    torch.set_num_threads(1)


def _layout(name: str, *others: str) -> str:
    from tools.layouts import layout_named

    try:
        if name not in others:
            layout_named(name)
    except ValueError as error:
        fail(ExitCode.USAGE, str(error))
    return name


def _codecs(names: Sequence[str] | None) -> tuple[str, ...]:
    from codec.errors import UnknownCodec
    from codec.registry import codec_named

    try:
        return tuple(codec_named(name).name for name in names or ())
    except UnknownCodec as error:
        fail(ExitCode.USAGE, str(error))
