"""Rows at once are halved until they fit."""

import errno
import logging

import pytest
import torch

from agent.memory import OutOfMemory, RowsAtOnce, is_out_of_memory
from agent.micro_batch import Setting


def work_that_fits(most: int) -> tuple[list[int], object]:
    tried: list[int] = []

    def work(rows: int) -> str:
        tried.append(rows)
        if rows > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return f"done by {rows}"

    return tried, work


def test_rows_are_halved_until_they_fit_and_stay_so(caplog: pytest.LogCaptureFixture) -> None:
    tried, work = work_that_fits(2)
    at_once = RowsAtOnce(9)
    with caplog.at_level(logging.WARNING):
        assert at_once.run(work) == "done by 2"  # type: ignore[arg-type]
    assert tried == [9, 5, 3, 2]
    assert at_once.rows == 2
    assert len(caplog.records) == 3


def test_one_row_that_does_not_fit_is_the_end() -> None:
    tried, work = work_that_fits(0)
    with pytest.raises(OutOfMemory, match="lower max_tokens"):
        RowsAtOnce(2).run(work)  # type: ignore[arg-type]
    assert tried == [2, 1]


def test_where_activations_can_be_computed_twice_that_is_tried_last() -> None:
    told: list[Setting] = []
    released: list[int] = []
    at_once = RowsAtOnce(2, on_lower=told.append)

    def work(rows: int) -> str:
        if not at_once.checkpointing:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return f"done by {rows}"

    done = at_once.run(work, release=lambda: released.append(1), may_checkpoint=True)
    assert done == "done by 1"
    assert told == [Setting(1, checkpointing=False), Setting(1, checkpointing=True)]
    assert at_once.setting == told[-1]
    assert at_once.out_of_memory == len(released) == 2
    with pytest.raises(OutOfMemory, match="base_precision"):
        at_once.run(work_that_fits(0)[1], may_checkpoint=True)  # type: ignore[arg-type]
    assert at_once.out_of_memory == 3


def test_other_errors_pass() -> None:
    def work(_rows: int) -> None:
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        RowsAtOnce(4).run(work)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("[enforce fail] not enough memory: you tried to allocate 9 bytes"), True),
        (RuntimeError("NvMapMemAllocInternalTagged: 1075072515 error 12"), True),
        (RuntimeError("NVML_SUCCESS == r INTERNAL ASSERT FAILED at CUDACachingAllocator"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (RuntimeError("size mismatch"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_which_errors_say_that_memory_ran_out(error: Exception, *, expected: bool) -> None:
    assert is_out_of_memory(error) is expected
