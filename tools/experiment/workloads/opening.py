"""Opens a workload by its name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from agent.data import DataError
from agent.tokens import Tokenizer
from tools.experiment.workloads.code import code_records
from tools.experiment.workloads.lang import lang_records
from tools.experiment.workloads.med import med_records
from tools.experiment.workloads.records import Record, assemble
from tools.experiment.workloads.stdlib import stdlib_records
from tools.experiment.workloads.workload import Workload

WORKLOADS: dict[str, Callable[[Path | None], list[Record]]] = {
    "med": med_records,
    "code": code_records,
    "lang": lang_records,
    "stdlib": stdlib_records,
}


def open_workload(
    name: str, data: Path | None, tokenizer: Tokenizer, *, max_tokens: int
) -> Workload:
    """Return a workload, the same for the same files and tokenizer.

    Args:
        name: One of `WORKLOADS`.
        data: The folder of the data sets; `stdlib` needs none.
        tokenizer: The base model's, which says how much text fits into a row.
        max_tokens: The rows' length that items are cut for.

    Raises:
        DataError: There is no such workload, its files are missing (the line says what to fetch
            from where), or they are not what they should be.
    """
    if name not in WORKLOADS:
        raise DataError(f"there is no workload {name!r}; known are {', '.join(WORKLOADS)}")
    return assemble(name, WORKLOADS[name](data), tokenizer=tokenizer, max_tokens=max_tokens)
