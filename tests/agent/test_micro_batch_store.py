"""The note and the record on the disk, over deaths, damage and disks that are full."""

import logging
from pathlib import Path

import pytest

from agent.micro_batch import Record, Setting
from agent.micro_batch_store import MicroBatches, note_file

WORK = "w"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "proc/sys/kernel/random").mkdir(parents=True)
    (root / "proc/sys/kernel/random/boot_id").write_text("b")
    tell(root, kills=0, available_kb=1000)
    return root


def tell(root: Path, *, kills: int, available_kb: int) -> None:
    (root / "proc/vmstat").write_text(f"oom_kill {kills}\n")
    (root / "proc/meminfo").write_text(f"MemTotal: 9000 kB\nMemAvailable: {available_kb} kB\n")


def begin(known: MicroBatches, *, batch: int = 8) -> Setting:
    return known.begin(
        task_id="train-1", work=WORK, batch=batch, checkpointing=False, training=True
    )


def test_a_task_leaves_a_note_while_it_runs_and_what_it_taught_for_the_next_trainer(
    tmp_path: Path, root: Path
) -> None:
    known = MicroBatches(tmp_path, root=root)
    assert begin(known) == Setting(8, checkpointing=False)
    assert b'"rows":8' in note_file(tmp_path).read_bytes()
    known.lower(Setting(4, checkpointing=False))
    assert b'"rows":4' in note_file(tmp_path).read_bytes()
    known.end(Setting(4, checkpointing=False), out_of_memory=1, done=True)
    assert not note_file(tmp_path).exists()
    assert begin(MicroBatches(tmp_path, root=root)).rows == 4


def test_a_trainer_that_the_kernel_ended_makes_the_next_one_modest(
    tmp_path: Path, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    begin(MicroBatches(tmp_path, root=root))
    tell(root, kills=1, available_kb=1000)
    with caplog.at_level(logging.WARNING):
        after = MicroBatches(tmp_path, root=root)
    assert "ended inside train-1 with 8 examples at once, for memory: 4 now" in caplog.text
    assert after.record.out_of_memory == 1
    assert not note_file(tmp_path).exists()
    assert MicroBatches(tmp_path, root=root).record == after.record, "a note counts once"
    assert begin(after).rows == 4


def test_an_end_without_a_trace_is_told_and_excused_once(
    tmp_path: Path, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    begin(MicroBatches(tmp_path, root=root))
    with caplog.at_level(logging.WARNING):
        second = MicroBatches(tmp_path, root=root)
    assert "the last trainer ended inside train-1" in caplog.text
    assert begin(second).rows == 8
    assert begin(MicroBatches(tmp_path, root=root)).rows == 4


def test_deaths_at_the_least_setting_are_refused_until_more_is_available(
    tmp_path: Path, root: Path
) -> None:
    for kills in range(1, 3):
        begin(MicroBatches(tmp_path, root=root), batch=1)
        tell(root, kills=kills, available_kb=1000)
    known = MicroBatches(tmp_path, root=root)
    assert "stop other programs" in known.refusal(WORK)
    tell(root, kills=2, available_kb=1101)
    assert known.refusal(WORK) == ""


def test_tasks_without_trouble_write_no_record(tmp_path: Path, root: Path) -> None:
    known = MicroBatches(tmp_path, root=root)
    for _ in range(3):
        known.end(begin(known), out_of_memory=0, done=True)
    assert [path.name for path in tmp_path.iterdir()] == ["root"]


def test_without_a_folder_it_remembers_as_long_as_it_lives(root: Path) -> None:
    known = MicroBatches(None, root=root)
    begin(known)
    known.end(Setting(2, checkpointing=False), out_of_memory=2, done=False)
    assert begin(known).rows == 2
    assert MicroBatches(None, root=root).record == Record()


def test_every_damage_to_the_files_is_an_empty_memory(tmp_path: Path, root: Path) -> None:
    known = MicroBatches(tmp_path, root=root)
    begin(known)
    known.end(Setting(2, checkpointing=False), out_of_memory=2, done=True)
    begin(known)
    record_file = tmp_path / "micro_batch.json"
    contents = {path: path.read_bytes() for path in (record_file, note_file(tmp_path))}
    for path, whole in contents.items():
        for length in range(len(whole)):
            path.write_bytes(whole[:length])
            MicroBatches(tmp_path, root=root)
        path.write_bytes(whole)
    record_file.write_text('{"rows": -1}')
    assert MicroBatches(tmp_path, root=root).record.rows == 0


def test_a_disk_that_cannot_be_written_costs_no_task(
    tmp_path: Path, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A file where the folder should be stands for every disk that refuses."""
    (tmp_path / "state").write_text("")
    known = MicroBatches(tmp_path / "state", root=root)
    with caplog.at_level(logging.WARNING):
        begin(known)
        known.end(Setting(2, checkpointing=False), out_of_memory=1, done=True)
    assert "cannot be written" in caplog.text
    assert begin(known).rows == 2
