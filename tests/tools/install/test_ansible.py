"""The Ansible role: what it runs exists, and what it needs is documented."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

FOLDER = Path(__file__).parents[3] / "tools" / "ansible"
ROLE = FOLDER / "roles" / "fedfstq"
INSTALL = (FOLDER.parent / "install.sh").read_text()


def _yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


@pytest.mark.parametrize("file", sorted(FOLDER.rglob("*.yml")), ids=lambda path: path.stem)
def test_every_file_is_yaml_that_is_not_empty(file: Path) -> None:
    assert _yaml(file)


def test_every_option_that_the_role_uses_is_one_of_install_sh() -> None:
    options = set(re.findall(r"--[a-z][a-z-]+", (ROLE / "tasks" / "main.yml").read_text()))
    assert options >= {"--bundle", "--torch", "--no-start", "--watch-s"}
    for option in options:
        assert re.search(rf"^ +(.*\| )?{option}( \||\))", INSTALL, re.MULTILINE), option


def test_what_install_sh_says_when_nothing_changed_is_what_the_role_looks_for() -> None:
    (task,) = [
        task
        for block in _yaml(ROLE / "tasks" / "main.yml")
        for task in block.get("block", ())
        if "ansible.builtin.command" in task
    ]
    words = re.fullmatch(r"'([^']+)' not in .*", task["changed_when"])
    assert words is not None
    assert f'say "{words[1]}"' in INSTALL


def test_every_variable_of_the_role_is_in_the_readme() -> None:
    own = set(_yaml(ROLE / "vars" / "main.yml")) | {
        "fedfstq_there",
        "fedfstq_wanted",
        "fedfstq_command",
        "fedfstq_installed",
        "fedfstq_status",
        "fedfstq_folder",
    }
    text = "".join(path.read_text() for path in ROLE.rglob("*.yml"))
    readme = (FOLDER / "README.md").read_text()
    for name in set(re.findall(r"\bfedfstq_[a-z_]+", text)) - own:
        assert f"`{name}`" in readme, name


def test_a_key_is_taken_away_whatever_happens_and_a_rollout_stops_at_the_first_failure() -> None:
    (block,) = [task for task in _yaml(ROLE / "tasks" / "main.yml") if "block" in task]
    assert [task["ansible.builtin.file"]["state"] for task in block["always"]] == ["absent"]
    devices = _yaml(FOLDER / "site.yml")[-1]
    assert devices["serial"][0] == 1
    assert devices["max_fail_percentage"] == 0
