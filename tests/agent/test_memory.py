"""Rows at once are halved until they fit."""

import logging

import pytest
import torch

from agent.memory import OutOfMemory, RowsAtOnce, is_out_of_memory


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
        (RuntimeError("size mismatch"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_which_errors_say_that_memory_ran_out(error: Exception, *, expected: bool) -> None:
    assert is_out_of_memory(error) is expected
