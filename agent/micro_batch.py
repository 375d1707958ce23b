"""How many examples go through the model at once: what earlier tasks taught this device.

Pure. Memory that runs out inside a step is an exception, and `agent.memory` halves the micro-batch
on the spot. Here is what outlives the task: the micro-batch that worked, and what to make of a
trainer that the kernel ended without an exception. No chain of such deaths goes on for ever: each
halves the micro-batch, then gradient checkpointing is switched on, and then tasks are refused until
more memory is available than when the last of them began.

Smaller micro-batches change a result by rounding only. After some trainings without trouble a
larger one is tried; a trial that fails doubles the wait for the next.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as checked_dataclass

_STRICT = ConfigDict(extra="forbid", strict=True)
_Count = Annotated[int, Field(ge=0)]

# Trainings without trouble before a larger micro-batch is tried, at first and at most.
FIRST_PATIENCE = 8
MOST_PATIENCE = 256
# A trainer that ends without a trace may be a power cut or an operator's kill, and keeps its
# micro-batch; when it happens again, memory is to blame.
_EXCUSED_ENDS = 1
# What must be available, as a multiple of what did not suffice, before the least is tried again.
_MORE = 1.1
_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Setting:
    """How a task uses memory.

    Attributes:
        rows: The micro-batch: examples that go through the model at once.
        checkpointing: Whether activations are computed again in the backward pass.
    """

    rows: int
    checkpointing: bool


@checked_dataclass(frozen=True, slots=True, config=_STRICT)
class Record:
    """What is remembered between tasks.

    Attributes:
        work: What it was learnt on: base model, precision, adapter and length of the examples.
        rows: The largest micro-batch that is taken without a trial; 0 where no bound is known.
        checkpointing: Whether it needs gradient checkpointing too.
        clean: Trainings since the last trouble or trial.
        patience: How many of these a trial waits for.
        out_of_memory: How often memory ran out on this device, of whatever work.
        ends: Trainers in a row that ended inside a task without a trace.
        short_bytes: So much was available when the least setting did not suffice; 0 where it did.
    """

    work: str = ""
    rows: _Count = 0
    checkpointing: bool = False
    clean: _Count = 0
    patience: Annotated[int, Field(ge=1, le=MOST_PATIENCE)] = FIRST_PATIENCE
    out_of_memory: _Count = 0
    ends: _Count = 0
    short_bytes: _Count = 0


@checked_dataclass(frozen=True, slots=True, config=_STRICT)
class Note:
    """What lies on the disk while a task runs, and tells of it should nobody else be able to.

    Attributes:
        boot: Names the kernel's start.
        oom_kills: Processes that the kernel had ended for memory when the task began.
        available_bytes: Memory that was available then.
    """

    task_id: str
    work: str
    rows: Annotated[int, Field(ge=1)]
    checkpointing: bool
    boot: str
    oom_kills: int | None
    available_bytes: int | None

    @property
    def setting(self) -> Setting:
        """How the task used memory."""
        return Setting(self.rows, self.checkpointing)


def first_setting(
    record: Record, *, work: str, batch: int, checkpointing: bool, training: bool
) -> Setting:
    """Return how a task begins.

    Args:
        record: What is remembered.
        work: What it is to be compared with.
        batch: The plan's batch size, the largest micro-batch of all.
        checkpointing: Whether the plan asks for it.
        training: Only trainings try a larger micro-batch.
    """
    if record.work != work or not record.rows:
        return Setting(batch, checkpointing)
    known = Setting(min(record.rows, batch), checkpointing or record.checkpointing)
    if not training or record.clean < record.patience:
        return known
    if known.rows < batch:
        return Setting(min(2 * known.rows, batch), known.checkpointing)
    return Setting(batch, checkpointing)


def refusal(record: Record, *, work: str, available_bytes: int | None) -> str:
    """Return why a task is not begun, "" where it is: it would only be ended again."""
    if record.work != work or not record.short_bytes or available_bytes is None:
        return ""
    wanted = int(_MORE * record.short_bytes)
    if available_bytes >= wanted:
        return ""
    return (
        f"the kernel ended the trainer for memory with one example at once, and {_mib(wanted)} are "
        f"wanted before it is tried again ({_mib(available_bytes)} are available); stop other "
        "programs, lower max_tokens or take a smaller base model"
    )


def after_task(
    record: Record, *, note: Note, last: Setting, batch: int, out_of_memory: int, trained: bool
) -> Record:
    """Return what is remembered after a task that ended by itself, well or not.

    Args:
        record: What was remembered before.
        note: How it began.
        last: How it used memory in the end.
        batch: The plan's batch size.
        out_of_memory: How often memory ran out on the way.
        trained: It was a training, and it is done.
    """
    known = replace(_known(record, note.work), ends=0)
    if out_of_memory:
        return replace(
            known,
            rows=last.rows,
            checkpointing=last.checkpointing,
            clean=0,
            patience=_patience(known),
            out_of_memory=known.out_of_memory + out_of_memory,
        )
    if not trained or not known.rows:
        return known
    known = replace(known, short_bytes=0)
    if known.clean < known.patience:
        return replace(known, clean=known.clean + 1)
    lifted = known.rows >= batch  # the trial was the last one: without a bound of our own
    return replace(
        known,
        rows=0 if lifted else last.rows,
        checkpointing=last.checkpointing and not lifted,
        clean=0,
    )


def after_death(record: Record, *, note: Note, boot: str, oom_kills: int | None) -> Record:
    """Return what is remembered of a trainer whose note is still there: it ended inside a task.

    Args:
        record: What was remembered before.
        note: How the task ran.
        boot: Names the kernel's start now.
        oom_kills: Processes that it has ended for memory by now.
    """
    known = _known(record, note.work)
    known = replace(known, ends=known.ends + 1)
    counted = None not in (oom_kills, note.oom_kills) and note.boot == boot
    killed = counted and (oom_kills or 0) > (note.oom_kills or 0)
    if not killed and known.ends <= _EXCUSED_ENDS:
        return known
    least = note.rows == 1 and note.checkpointing
    return replace(
        known,
        rows=(note.rows + 1) // 2,
        checkpointing=note.checkpointing or note.rows == 1,
        clean=0,
        patience=_patience(known),
        out_of_memory=known.out_of_memory + 1,
        short_bytes=(note.available_bytes or 0) if least else 0,
    )


def _known(record: Record, work: str) -> Record:
    """Return what the record says of this work: of another, only that memory ever ran out."""
    if record.work == work:
        return record
    return Record(work=work, out_of_memory=record.out_of_memory)


def _patience(known: Record) -> int:
    """Return how long to wait for the next trial: twice as long where one has just failed."""
    trial = known.rows > 0 and known.clean >= known.patience
    return min(MOST_PATIENCE, 2 * known.patience) if trial else known.patience


def _mib(count: int) -> str:
    return f"{count // _MIB} MiB"
