"""Keeps on the disk what `agent.micro_batch` remembers, and a note while a task runs."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from agent.headroom import available_bytes, boot_id, oom_kills
from agent.micro_batch import (
    Note,
    Record,
    Setting,
    after_death,
    after_task,
    first_setting,
    refusal,
)
from agent.payload import TEMPORARY_SUFFIX, sync_folder

_LOG = logging.getLogger(__name__)
_RECORD = TypeAdapter(Record)
_NOTE = TypeAdapter(Note)


class MicroBatches:
    """What one trainer knows of its device's memory, task by task.

    A disk that cannot be written costs the memory of it, and no task.
    """

    def __init__(self, folder: Path | None, *, root: Path = Path("/")) -> None:
        """Read what is remembered, and what a note says of the trainer before.

        Args:
            folder: The state folder; None remembers nothing beyond this object.
            root: Where the kernel's files are.
        """
        self._record_file = folder / "micro_batch.json" if folder else None
        self._note_file = note_file(folder) if folder else None
        self._root = root
        self._note: Note | None = None
        self._batch = 0
        self._training = False
        self.record: Record = _read(self._record_file, _RECORD) or Record()
        left = _read(self._note_file, _NOTE)
        if left:
            self._learn_of_death(left)
        self._forget_note()

    def refusal(self, work: str) -> str:
        """Return why a task of this work is not begun now, "" where it is."""
        available = available_bytes(self._root)
        return refusal(self.record, work=work, available_bytes=available)

    def begin(
        self, *, task_id: str, work: str, batch: int, checkpointing: bool, training: bool
    ) -> Setting:
        """Return how a task begins, with a note of it on the disk; `end` follows.

        Args:
            task_id: The task's.
            work: What is remembered of other work does not count.
            batch: The plan's batch size.
            checkpointing: Whether the plan asks for gradient checkpointing.
            training: Whether it trains, or only evaluates.
        """
        setting = first_setting(
            self.record, work=work, batch=batch, checkpointing=checkpointing, training=training
        )
        self._batch, self._training = batch, training
        self._write_note(
            Note(
                task_id=task_id,
                work=work,
                rows=setting.rows,
                checkpointing=setting.checkpointing,
                boot=boot_id(self._root),
                oom_kills=oom_kills(self._root),
                available_bytes=available_bytes(self._root),
            )
        )
        return setting

    def lower(self, setting: Setting) -> None:
        """Note that the task goes on with less."""
        assert self._note is not None
        self._write_note(
            replace(self._note, rows=setting.rows, checkpointing=setting.checkpointing)
        )

    def end(self, last: Setting, *, out_of_memory: int, done: bool) -> None:
        """Learn from a task that has ended, and take its note away.

        Args:
            last: How it used memory in the end.
            out_of_memory: How often memory ran out.
            done: It gave what was asked for.
        """
        assert self._note is not None
        learnt = after_task(
            self.record,
            note=self._note,
            last=last,
            batch=self._batch,
            out_of_memory=out_of_memory,
            trained=done and self._training,
        )
        self._remember(learnt)
        self._forget_note()

    def _learn_of_death(self, left: Note) -> None:
        before = self.record.out_of_memory
        kills = oom_kills(self._root)
        learnt = after_death(self.record, note=left, boot=boot_id(self._root), oom_kills=kills)
        self._remember(learnt)
        if learnt.out_of_memory == before:
            _LOG.warning("the last trainer ended inside %s", left.task_id)
            return
        _LOG.warning(
            "the last trainer was ended inside %s with %d examples at once, for memory: %d now",
            left.task_id,
            left.rows,
            learnt.rows,
        )

    def _remember(self, record: Record) -> None:
        if record == self.record:
            return
        # Work without trouble is not worth a write: what it taught is what an empty record says.
        worth = replace(record, work="") != replace(self.record, work="") or self.record.rows
        self.record = record
        if worth:
            _write(self._record_file, _RECORD.dump_json(record))

    def _write_note(self, note: Note) -> None:
        self._note = note
        _write(self._note_file, _NOTE.dump_json(note))

    def _forget_note(self) -> None:
        self._note = None
        if self._note_file:
            try:
                self._note_file.unlink(missing_ok=True)
            except OSError as error:
                _LOG.warning("%s: %s", self._note_file, error)


def note_file(folder: Path) -> Path:
    """Return where the note of a running task lies: whoever ends a trainer in order removes it."""
    return folder / "micro_batch.running.json"


def _read(path: Path | None, kind: TypeAdapter[Any]) -> Any:
    try:
        return kind.validate_json(path.read_bytes()) if path else None
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        _LOG.warning("%s: forgotten, it cannot be read: %s", path, str(error).splitlines()[0])
        return None


def _write(path: Path | None, content: bytes) -> None:
    """Write so that a power cut leaves the old content or the new one."""
    if path is None:
        return
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fdatasync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        _LOG.warning("%s: cannot be written: %s", path, error.strerror)
