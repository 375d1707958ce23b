"""What is remembered of memory: lowered at once, raised slowly, and never a loop of deaths."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.micro_batch import (
    FIRST_PATIENCE,
    MOST_PATIENCE,
    Note,
    Record,
    Setting,
    after_death,
    after_task,
    first_setting,
    refusal,
)

MIB = 1 << 20
WORK = "base 256"
BATCH = 8


def begin(
    record: Record,
    *,
    work: str = WORK,
    batch: int = BATCH,
    checkpointing: bool = False,
    training: bool = True,
) -> Setting:
    return first_setting(
        record, work=work, batch=batch, checkpointing=checkpointing, training=training
    )


def note_of(setting: Setting, *, work: str = WORK, available: int | None = 500 * MIB) -> Note:
    return Note("t", work, setting.rows, setting.checkpointing, "boot", 3, available)


def finish(
    record: Record, last: Setting | None = None, *, ooms: int = 0, trained: bool = True
) -> Record:
    setting = begin(record)
    note = note_of(setting)
    return after_task(
        record,
        note=note,
        last=last or setting,
        batch=BATCH,
        out_of_memory=ooms,
        trained=trained,
    )


def die(record: Record, *, killed: bool, note: Note | None = None, boot: str = "boot") -> Record:
    note = note or note_of(begin(record))
    return after_death(record, note=note, boot=boot, oom_kills=4 if killed else 3)


def test_without_trouble_whole_batches_are_taken_and_nothing_is_learnt() -> None:
    record = finish(Record())
    assert begin(record) == Setting(BATCH, checkpointing=False)
    assert record == Record(work=WORK)


def test_what_worked_is_where_the_next_task_begins() -> None:
    record = finish(Record(), Setting(2, checkpointing=False), ooms=2)
    assert begin(record) == Setting(2, checkpointing=False)
    assert record.out_of_memory == 2
    assert begin(record, batch=1) == Setting(1, checkpointing=False)


def test_other_work_begins_anew_but_what_ran_out_stays_counted() -> None:
    record = finish(Record(), Setting(2, checkpointing=False), ooms=2)
    assert begin(record, work="other") == Setting(BATCH, checkpointing=False)
    note = note_of(Setting(BATCH, checkpointing=False), work="other")
    learnt = after_task(
        record, note=note, last=note.setting, batch=BATCH, out_of_memory=0, trained=True
    )
    assert learnt == Record(work="other", out_of_memory=2)


def test_a_larger_micro_batch_is_tried_after_some_trainings_only() -> None:
    record = finish(Record(), Setting(2, checkpointing=False), ooms=1)
    for _ in range(FIRST_PATIENCE):
        assert begin(record).rows == 2
        record = finish(record)
        record = finish(record, trained=False)  # evaluations and failures prove nothing
    assert begin(record).rows == 4
    assert begin(record, training=False).rows == 2
    record = finish(record)
    assert (record.rows, record.clean) == (4, 0)


def test_a_trial_that_fails_doubles_the_wait_for_the_next() -> None:
    record = finish(Record(), Setting(2, checkpointing=False), ooms=1)
    waits = []
    for _ in range(7):
        tasks = 0
        while begin(record).rows == 2:
            record = finish(record)
            tasks += 1
        waits.append(tasks)
        record = finish(record, Setting(2, checkpointing=False), ooms=1)
    assert waits == [8, 16, 32, 64, 128, 256, 256]
    assert record.patience == MOST_PATIENCE


def test_the_bound_is_lifted_once_whole_batches_work_without_checkpointing() -> None:
    record = Record(work=WORK, rows=BATCH, checkpointing=True, clean=FIRST_PATIENCE)
    assert begin(record) == Setting(BATCH, checkpointing=False)
    lifted = finish(record)
    assert (lifted.rows, lifted.checkpointing) == (0, False)
    again = finish(record, Setting(BATCH, checkpointing=True), ooms=1)
    assert (again.rows, again.checkpointing, again.patience) == (BATCH, True, 16)


def test_the_plans_checkpointing_stays_on() -> None:
    record = Record(work=WORK, rows=2, checkpointing=False, clean=FIRST_PATIENCE)
    assert begin(record, checkpointing=True) == Setting(4, checkpointing=True)
    assert begin(Record(), checkpointing=True) == Setting(BATCH, checkpointing=True)


def test_a_kernels_kill_halves_then_saves_activations_then_refuses() -> None:
    record = Record()
    seen = []
    for _ in range(5):
        setting = begin(record)
        seen.append((setting.rows, setting.checkpointing))
        assert refusal(record, work=WORK, available_bytes=500 * MIB) == ""
        record = die(record, killed=True)
    assert seen == [(8, False), (4, False), (2, False), (1, False), (1, True)]
    text = refusal(record, work=WORK, available_bytes=500 * MIB)
    assert "550 MiB are wanted" in text
    assert "500 MiB are available" in text
    assert refusal(record, work=WORK, available_bytes=551 * MIB) == ""
    assert refusal(record, work=WORK, available_bytes=None) == ""
    assert refusal(record, work="other", available_bytes=1) == ""
    assert finish(record).short_bytes == 0
    assert record.out_of_memory == 5


@pytest.mark.parametrize("boot", ["boot", "after a power cut"])
def test_one_end_without_a_trace_is_excused_and_two_are_not(boot: str) -> None:
    first = die(Record(), killed=False, boot=boot)
    assert begin(first).rows == BATCH
    assert first.out_of_memory == 0
    second = die(first, killed=False, boot=boot)
    assert begin(second).rows == BATCH // 2
    assert die(finish(first), killed=False).rows == 0  # a task that ended well lies between


def test_counters_of_another_start_of_the_kernel_prove_nothing() -> None:
    assert die(Record(), killed=True, boot="later").rows == 0
    unknown = Note(
        "t", WORK, 8, checkpointing=False, boot="boot", oom_kills=None, available_bytes=1
    )
    assert die(Record(), killed=True, note=unknown).rows == 0
    counted = note_of(Setting(8, checkpointing=False))
    assert after_death(Record(), note=counted, boot="boot", oom_kills=None).rows == 0


def test_a_killed_trial_goes_back_and_waits_longer() -> None:
    record = Record(work=WORK, rows=2, clean=FIRST_PATIENCE)
    assert begin(record).rows == 4
    record = die(record, killed=True)
    assert (record.rows, record.clean, record.patience) == (2, 0, 16)


def test_without_knowing_what_was_available_nothing_is_refused() -> None:
    record = Record(work=WORK, rows=1, checkpointing=True)
    note = note_of(Setting(1, checkpointing=True), available=None)
    assert refusal(die(record, killed=True, note=note), work=WORK, available_bytes=1) == ""


@settings(deadline=None, max_examples=60)
@given(
    fits=st.sampled_from([0, 1, 2, 3, 5, 8, 64]),
    batch=st.integers(1, 64),
    killed=st.booleans(),
    tasks=st.integers(1, 80),
)
def test_deaths_are_few_whatever_fits(fits: int, batch: int, *, killed: bool, tasks: int) -> None:
    """A device on which `fits` examples fit, and the kernel ends all that takes more."""
    record, deaths, done = Record(), 0, 0
    for _ in range(tasks):
        if refusal(record, work=WORK, available_bytes=100):
            continue
        setting = begin(record, batch=batch)
        note = note_of(setting, available=100)
        if setting.rows > fits:
            deaths += 1
            record = after_death(record, note=note, boot="boot", oom_kills=4 if killed else 3)
        else:
            done += 1
            record = after_task(
                record, note=note, last=setting, batch=batch, out_of_memory=0, trained=True
            )
        assert 0 <= record.rows <= batch
    # Halvings, one that is excused, one for checkpointing and one before it is refused; then trials
    # that wait 8, 16, 32 and so on.
    assert deaths <= 6 + 1 + 2 + 4 + (0 if killed else 4)
    assert done + deaths == tasks or fits == 0
