"""systemd's units by what systemctl tells of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from agent.config import AgentConfig
from aggregator.config import AggregatorConfig
from tools.doctor.context import Answer, Context
from tools.doctor.finding import Finding, State
from tools.doctor.units import (
    judge_old_units,
    judge_open_files,
    judge_systemd,
    judge_units,
    judge_watchdog,
    parse_properties,
)

RUNS = {
    "LoadState": "loaded",
    "ActiveState": "active",
    "SubState": "running",
    "UnitFileState": "enabled",
    "NRestarts": "0",
    "ExecMainStatus": "0",
    "WatchdogUSec": "1min",
}


@pytest.mark.parametrize(
    ("version", "state"),
    [
        ("systemd 252 (252.39)", State.OK),
        ("systemd 249 (249.11)", State.OK),
        ("systemd 245 (245.4)", State.WARN),
        ("systemd 237", State.FAIL),
        ("", State.SKIP),
    ],
)
def test_systemd_must_know_the_units_options(version: str, state: State) -> None:
    assert judge_systemd(version).state is state


@pytest.mark.parametrize(
    ("changes", "state", "said"),
    [
        ({}, State.OK, "comes back at boot"),
        ({"UnitFileState": "disabled"}, State.WARN, "not started at boot"),
        ({"ActiveState": "inactive", "SubState": "dead"}, State.WARN, "does not run"),
        ({"ActiveState": "failed"}, State.FAIL, "failed"),
        ({"ActiveState": "failed", "ExecMainStatus": "77"}, State.FAIL, "refused its login"),
        ({"ActiveState": "inactive", "ExecMainStatus": "78"}, State.FAIL, "configuration"),
        ({"NRestarts": "40"}, State.WARN, "restarted 40 times"),
        ({"NRestarts": ""}, State.OK, ""),
    ],
)
def test_a_unit_is_judged_by_its_state(changes: dict[str, str], state: State, said: str) -> None:
    found = judge_units({"fedfstq-agent@x.service": RUNS | changes}, installed=True)
    assert found.state is state
    assert said in found.text


def test_a_unit_that_is_not_installed_comes_with_the_installer() -> None:
    found = judge_units({"fedfstq-agent@x.service": {}}, installed=False)
    assert found.state is State.WARN
    assert "install.sh" in found.mend
    assert judge_watchdog({}, installed=False).state is State.SKIP


def test_a_watchdog_must_be_on() -> None:
    assert judge_watchdog(RUNS, installed=True).state is State.OK
    assert judge_watchdog({"WatchdogUSec": "0"}, installed=True).state is State.WARN
    assert judge_watchdog({}, installed=True).state is State.WARN


def test_units_of_devices_that_are_gone_are_named() -> None:
    instances = {"fedfstq-agent@a.service": "a", "fedfstq-agent@b.service": "b"}
    found = judge_old_units(instances, {"a"})
    assert found.mend == "systemctl disable --now fedfstq-agent@b.service"
    assert judge_old_units(instances, {"a", "b"}).state is State.OK


@pytest.mark.parametrize(
    ("soft", "state"),
    [("", State.OK), ("1024", State.OK), ("256", State.WARN), ("100", State.FAIL)],
)
def test_a_broker_needs_a_file_for_each_device(soft: str, state: State) -> None:
    assert judge_open_files(soft, cohort=100).state is state


def test_properties_are_read_line_by_line() -> None:
    assert parse_properties("A=1\nB=x=y\n\nnothing\n") == {"A": "1", "B": "x=y"}


def _system(root: Path, told: dict[str, dict[str, str]]) -> Callable[[Sequence[str]], Answer]:
    (root / "run/systemd/system").mkdir(parents=True)
    folder = root / "etc/systemd/system"
    folder.mkdir(parents=True)
    for unit in ("fedfstq-agent@.service", "fedfstq-aggregator.service"):
        (folder / unit).touch()
    wants = folder / "multi-user.target.wants"
    wants.mkdir()
    (wants / "fedfstq-agent@old.service").touch()

    def ask(command: Sequence[str]) -> Answer:
        if "--version" in command:
            return Answer(0, "systemd 252 (252.1)\n")
        properties = told.get(command[2], {})
        return Answer(0, "".join(f"{name}={value}\n" for name, value in properties.items()))

    return ask


def test_a_device_under_systemd(
    tmp_path: Path,
    agent_config: Callable[..., AgentConfig],
    examine: Callable[..., dict[str, Finding]],
    states: Callable[[dict[str, Finding]], dict[str, str]],
) -> None:
    units = ("agent@dev-1.service", "trainer@dev-1.service", "trainer@dev-1.socket")
    told = {f"fedfstq-{unit}": dict(RUNS) for unit in units}
    # It waits until it is asked.
    told["fedfstq-trainer@dev-1.service"]["ActiveState"] = "inactive"
    ask = _system(tmp_path, told)
    context = Context(agent_config(trainer="service"), root=tmp_path, ask=ask)
    assert states(examine("unit", context)) == {"old-units": "WARN"}
    told["fedfstq-trainer@dev-1.socket"]["ActiveState"] = "inactive"
    assert examine("unit", context)["unit"].mend == ("systemctl start fedfstq-trainer@dev-1.socket")


def test_an_aggregator_beside_its_broker(
    tmp_path: Path,
    aggregator_config: Callable[..., AggregatorConfig],
    examine: Callable[..., dict[str, Finding]],
) -> None:
    told = {
        "fedfstq-aggregator.service": RUNS,
        "mosquitto.service": {"LoadState": "loaded", "LimitNOFILESoft": "70"},
    }
    context = Context(aggregator_config(goal=20), root=tmp_path, ask=_system(tmp_path, told))
    found = examine("unit", context)
    assert found["unit"].state is State.OK
    assert found["open-files"].state is State.FAIL


def test_a_machine_without_systemd_is_skipped(
    tmp_path: Path,
    agent_config: Callable[..., AgentConfig],
    examine: Callable[..., dict[str, Finding]],
) -> None:
    found = examine("unit", Context(agent_config(), root=tmp_path))
    assert found["systemd"].state is State.SKIP
    assert found["old-units"].state is State.OK
