"""Programs that fail say so in one line, with their command."""

from __future__ import annotations

import os

import pytest

from tools.netem import programs
from tools.netem.errors import NoNetem, Unavailable
from tools.netem.programs import CommandFailed, output_of, run_all


def test_output_comes_back_without_its_last_line_end() -> None:
    assert output_of("sh", "-c", "echo one; echo two") == "one\ntwo"


def test_a_failure_is_told_in_one_line() -> None:
    with pytest.raises(CommandFailed) as caught:
        output_of("sh", "-c", "echo first >&2; echo second >&2; exit 3")
    assert str(caught.value).endswith("failed: first second")
    with pytest.raises(CommandFailed, match="status 3"):
        output_of("sh", "-c", "exit 3")


def test_a_failure_may_have_a_stand_in() -> None:
    assert output_of("sh", "-c", "exit 3", missing="none") == "none"
    assert output_of("no-such-program", missing="none") == "none"
    with pytest.raises(Unavailable, match="no-such-program is not installed"):
        output_of("no-such-program")


def test_a_kernel_without_netem_is_told_from_other_failures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    texts = {
        "eth0": "Error: Specified qdisc kind is unknown.",
        "eth1": "Cannot find device",
    }

    def fail(*command: str) -> str:
        raise CommandFailed(texts[command[4]])

    monkeypatch.setattr(programs, "output_of", fail)
    with pytest.raises(NoNetem, match="netem lab"):
        run_all([("tc", "qdisc", "add", "dev", "eth0", "root", "netem")])
    with pytest.raises(CommandFailed):
        run_all([("tc", "qdisc", "add", "dev", "eth1", "root", "netem")])
    with pytest.raises(CommandFailed):
        run_all([("tc", "qdisc", "add", "dev", "eth0", "root", "htb")])


def test_rights_are_read_from_the_process() -> None:
    if os.geteuid() == 0:
        assert isinstance(programs.may_administer(), bool)
    else:
        assert not programs.may_administer()
