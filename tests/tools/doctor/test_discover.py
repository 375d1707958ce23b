"""Finding the configuration, and whose it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.doctor.context import Role
from tools.doctor.discover import SeveralFound, find, read, role_of
from tools.doctor.finding import State

EXAMPLES = Path(__file__).parents[3] / "docs" / "examples"


def test_the_examples_are_told_apart() -> None:
    for file, role in (("agent.yaml", "agent nano-01"), ("aggregator.yaml", "aggregator coord")):
        config, finding = read(EXAMPLES / file, environ={}, looked=True)
        assert config is not None
        assert finding.state is State.OK
        assert role in finding.text
        assert "found there" in finding.text


@pytest.mark.parametrize(
    ("values", "role"),
    [
        ({"data": {}}, Role.AGENT),
        ({"initial_adapter": "x"}, Role.AGGREGATOR),
        ({"federation": "x"}, None),
        (None, None),
        ([], None),
    ],
)
def test_a_role_is_told_by_its_key(values: object, role: Role | None) -> None:
    assert role_of(values) is role


def test_one_file_is_found_several_must_be_named(tmp_path: Path) -> None:
    assert find(tmp_path) is None
    folder = tmp_path / "etc/fedfstq"
    folder.mkdir(parents=True)
    (folder / "agent-a.yaml").touch()
    assert find(tmp_path) == folder / "agent-a.yaml"
    (folder / "aggregator.yaml").touch()
    with pytest.raises(SeveralFound, match=r"agent-a.yaml, .*aggregator.yaml"):
        find(tmp_path)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("data: {", "line 1: expected"),
        ("x: 1", "neither an agent's"),
        ("data: {train: /x}\n", "federation: missing"),
        ("initial_adapter: /x\nfederation: f\nstate_dir: /s\nroundz: 3\n", "roundz"),
    ],
)
def test_a_wrong_file_is_one_line(tmp_path: Path, content: str, said: str) -> None:
    file = tmp_path / "x.yaml"
    file.write_text(content)
    config, finding = read(file, environ={}, looked=False)
    assert config is None
    assert finding.state is State.FAIL
    assert said in finding.text
    assert "\n" not in finding.text


def test_no_file_and_one_that_is_not_there_differ(tmp_path: Path) -> None:
    assert read(None, environ={}, looked=True)[1].state is State.WARN
    absent = read(tmp_path / "x", environ={}, looked=False)[1]
    assert absent.state is State.FAIL
    assert "No such file" in absent.text
