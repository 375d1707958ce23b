from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agent.data import DataError
from tools.experiment.workloads.opening import WORKLOADS, open_workload


@pytest.mark.parametrize("name", ["med", "code", "lang"])
def test_a_workload_is_split_and_labelled(
    name: str, data_folder: Path, byte_tokenizer: Any
) -> None:
    workload = open_workload(name, data_folder, byte_tokenizer, max_tokens=64)
    assert workload.name == name
    assert workload.train
    assert workload.heldout
    assert workload.questions
    assert all(0 <= item.label < len(workload.classes) for item in workload.items)
    assert not {item.group for item in workload.train} & {item.group for item in workload.heldout}
    assert workload == open_workload(name, data_folder, byte_tokenizer, max_tokens=64)


def test_the_rows_length_moves_no_record_to_the_other_side(
    data_folder: Path, byte_tokenizer: Any
) -> None:
    short, long = (
        open_workload("med", data_folder, byte_tokenizer, max_tokens=n) for n in (16, 256)
    )
    assert len(short.items) > len(long.items)
    assert {i.group for i in short.heldout} == {i.group for i in long.heldout}
    assert short.questions == long.questions


def test_the_standard_library_needs_no_data(byte_tokenizer: Any) -> None:
    assert len(open_workload("stdlib", None, byte_tokenizer, max_tokens=64).classes) == 9


def test_an_unknown_name_is_told_the_known_ones(byte_tokenizer: Any) -> None:
    with pytest.raises(DataError, match=", ".join(WORKLOADS)):
        open_workload("poems", None, byte_tokenizer, max_tokens=64)
