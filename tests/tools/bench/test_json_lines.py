from __future__ import annotations

import io

import pytest

from tools.bench.json_lines import LineWriter, parsed


def test_what_is_written_is_read_again() -> None:
    file = io.StringIO()
    LineWriter(file).write({"kind": "round", "loss": 3.07})
    assert file.getvalue().endswith("}\n")
    assert parsed(file.getvalue()) == {"kind": "round", "loss": 3.07}


def test_a_number_that_json_does_not_know_is_refused() -> None:
    with pytest.raises(ValueError, match="JSON"):
        LineWriter(io.StringIO()).write({"loss": float("nan")})


@pytest.mark.parametrize("line", ["", '{"kind": "rou', "[1]", "3"])
def test_a_line_that_is_no_object_is_none(line: str) -> None:
    assert parsed(line) is None
