"""`fedfstq bench overhead` and `fedfstq bench inference`. Heavy imports wait."""
# ruff: noqa: FBT002, PLC0415, PLR0917  # typer's options; `--help` loads no torch

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from tools.bench.terminal import fail, progress
from transport.exit_codes import ExitCode

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def overhead(
    model: Annotated[
        list[str] | None,
        typer.Option(help="demo or llama-30m, may be repeated; both by default."),
    ] = None,
    turns: Annotated[int, typer.Option(min=2, max=10_000, help="Steps of each kind.")] = 30,
    batch_size: Annotated[int, typer.Option(min=1, max=4096, help="Examples per step.")] = 4,
    max_tokens: Annotated[int, typer.Option(min=2, max=512, help="Per example.")] = 64,
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("overhead.json"),
    as_json: AsJson = False,
) -> None:
    """Measure what Fisher scores cost a training step, against training without them."""
    from dataclasses import replace

    import torch

    from tools.bench.hooks import measure
    from tools.bench.subjects import NAMES, open_subject
    from tools.demo.options import PLAN

    names = model or list(NAMES)
    if not set(names) <= set(NAMES):
        fail(ExitCode.USAGE, f"--model {' '.join(names)}: known are {', '.join(NAMES)}")
    torch.set_num_threads(1)  # threads that wait for each other would be measured
    plan = replace(PLAN, batch_size=batch_size, max_tokens=max_tokens)
    rows = []
    with progress() as on_progress:
        for name in names:
            on_progress(f"loading {name}", 0.0)
            subject = open_subject(name, max_tokens=max_tokens)
            rows += measure(subject, plan, turns=turns, on_progress=on_progress)
            _write("overhead", rows, out)  # at once: what is interrupted later keeps its rows
    columns = ("model", "mask", "time_ratio", "time_ratio_low", "time_ratio_high", "memory_ratio")
    _finish("overhead", rows, out, columns=columns, as_json=as_json)


def inference(
    model: Annotated[
        str, typer.Option(help="Folder or hub name of the base model; the demo's by default.")
    ] = "",
    workload: Annotated[str, typer.Option(help="med, code, lang or stdlib.")] = "stdlib",
    data: Annotated[
        Path | None,
        typer.Option(envvar="FEDFSTQ_DATA", help="Folder of the data sets; stdlib needs none."),
    ] = None,
    prompts: Annotated[int, typer.Option(min=2, max=10_000, help="Held-out ones.")] = 32,
    steps: Annotated[int, typer.Option(min=1, max=100_000, help="Of the adapter.")] = 150,
    max_tokens: Annotated[
        int, typer.Option(min=32, max=1 << 16, help="Of a prompt with its answer.")
    ] = 256,
    ratio: Annotated[
        list[float] | None,
        typer.Option(help="Share of tokens to keep, may be repeated; 0.9 to 0.4 by default."),
    ] = None,
    out: Annotated[Path, typer.Option(help="The file to write.")] = Path("inference.json"),
    as_json: AsJson = False,
) -> None:
    """Measure what dropping prompts' tokens gains in latency and costs in quality."""
    from dataclasses import replace

    import torch

    from agent.base import BaseError
    from agent.data import DataError
    from tools.bench.inference import KEEP_RATIOS, measure, reductions
    from tools.bench.reader import train_reader
    from tools.bench.reading import Setting, open_setting, with_steps
    from tools.demo.options import BASE_FOLDER, PLAN

    ratios = tuple(ratio or KEEP_RATIOS)
    if not all(0 < each <= 1 for each in ratios):
        fail(ExitCode.USAGE, "--ratio: above 0 and at most 1")
    torch.set_num_threads(1)  # the same
    plan = with_steps(replace(PLAN, batch_size=4, max_tokens=max_tokens), steps)
    setting = Setting(model or str(BASE_FOLDER), workload, data, prompts, plan)
    try:
        opened = open_setting(setting)
    except (BaseError, DataError) as error:
        fail(ExitCode.CONFIG, str(error))
    with progress() as on_progress:
        reader = train_reader(
            workload,
            setting.name,
            opened.model,
            opened.rows,
            start=opened.start,
            plan=plan,
            on_progress=on_progress,
        )
        rows = measure(reader, opened.prompts, ways=reductions(ratios), on_progress=on_progress)
    columns = (
        *("selection", "span_tokens", "positions", "keep_ratio", "new_tokens"),
        *("end_to_end_speedup", "relative_loss_change", "token_accuracy"),
    )
    _finish("inference", rows, out, columns=columns, as_json=as_json)


def _finish(
    kind: str, rows: Sequence[Any], out: Path, *, columns: Sequence[str], as_json: bool
) -> None:
    from rich.console import Console

    from tools.bench.table import Table

    document = _write(kind, rows, out)
    if as_json:
        print(json.dumps(document, ensure_ascii=False, allow_nan=False))  # noqa: T201  # the answer
        return
    cells = [tuple(_cell(asdict(row)[column]) for column in columns) for row in rows]
    table = Table(f"{kind}: {out}", tuple(columns), tuple(cells))
    Console().print(table.rich())


def _write(kind: str, rows: Sequence[Any], out: Path) -> dict[str, Any]:
    from tools.bench import figures_file

    document = figures_file.document(kind, rows)
    try:
        figures_file.write(out, document)
    except OSError as error:
        fail(ExitCode.USAGE, f"--out {out}: cannot be written: {error.strerror}")
    return document


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
