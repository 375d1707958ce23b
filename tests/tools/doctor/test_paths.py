"""What a configuration names must be there, readable, and secret where it is a secret."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from agent.config import AgentConfig, DataConfig
from aggregator.config import AggregatorConfig
from tools.doctor import owner
from tools.doctor.context import Context
from tools.doctor.finding import Finding, State
from tools.doctor.paths import (
    judge_handed_over,
    judge_paths,
    judge_secrets,
    named,
    secrets,
)

Examine = Callable[..., dict[str, Finding]]


def test_all_that_is_named_is_looked_at(
    agent_config: Callable[..., AgentConfig],
    aggregator_config: Callable[..., AggregatorConfig],
    tmp_path: Path,
) -> None:
    data = DataConfig(train=tmp_path / "a", heldout=tmp_path / "b")
    options = {"username": "x", "password_file": tmp_path / "p"}
    context = Context(agent_config(model="~/base", data=data, broker_options=options))
    assert set(named(context)) == {
        *("data.train", "data.heldout", "model"),
        *("broker.tls.ca_file", "broker.tls.cert_file"),
    }
    assert set(secrets(context)) == {"broker.tls.key_file", "broker.password_file"}
    assert "model" not in named(Context(agent_config(model="Qwen/Qwen2.5-0.5B")))
    context = Context(aggregator_config())
    assert "initial_adapter" in named(context)
    (context.aggregator.state_dir / "adapters/0").mkdir(parents=True)
    assert "initial_adapter" not in named(context)


def test_a_right_configuration_is_right(
    agent_config: Callable[..., AgentConfig], examine: Examine
) -> None:
    found = examine("paths", Context(agent_config()))
    assert {one.state for one in found.values()} == {State.OK}


def test_all_that_is_absent_is_named_at_once() -> None:
    paths = {"data.train": Path("/no/a"), "model": Path("/no/b")}
    found = judge_paths(paths, why_not=lambda _: "", hidden=False)
    assert found.state is State.FAIL
    assert "data.train /no/a, model /no/b" in found.text


def test_what_the_service_may_not_read_is_named(tmp_path: Path) -> None:
    found = judge_paths({"model": tmp_path}, why_not=lambda path: f"{path} closed", hidden=False)
    assert found.text == f"model: {tmp_path} closed"
    assert "chmod" in found.mend


def test_a_home_is_hidden_from_units() -> None:
    paths = {"model": Path("/root")}
    assert judge_paths(paths, why_not=lambda _: "", hidden=False).state is State.OK
    assert "home folder" in judge_paths(paths, why_not=lambda _: "", hidden=True).text


KEY = Path("/etc/fedfstq/certs/x.key")


@pytest.mark.parametrize(
    ("found", "state"),
    [
        ({}, State.OK),
        ({"key": (KEY, "root", 0o600)}, State.OK),
        ({"key": (KEY, "fedfstq", 0o400)}, State.OK),
        ({"key": (KEY, "root", 0o640)}, State.WARN),
        ({"key": (KEY, "root", 0o604)}, State.FAIL),
        ({"key": (KEY, "somebody", 0o600)}, State.FAIL),
        ({"key": "it is not there"}, State.FAIL),
        ({"a": (KEY, "root", 0o640), "b": (KEY, "root", 0o644)}, State.FAIL),
    ],
)
def test_a_key_is_its_owners_alone(
    found: dict[str, tuple[Path, str, int] | str], state: State
) -> None:
    assert judge_secrets(found, owners={"root", "fedfstq"}).state is state


def test_a_key_that_is_not_there_comes_with_the_bundle(
    agent_config: Callable[..., AgentConfig], examine: Examine
) -> None:
    found = examine("paths", Context(agent_config(name="dev-without-files")))
    assert found["secrets"].state is State.FAIL
    assert "bundle" in found["secrets"].mend


def test_a_secret_must_be_handed_over_or_readable(tmp_path: Path) -> None:
    for name in ("dev-1.key", "password"):
        (tmp_path / name).touch()
    paths = {"broker.tls.key_file": tmp_path / "dev-1.key"}
    assert judge_handed_over(paths, name="dev-1", why_not=lambda _: "closed") is None
    paths["broker.password_file"] = tmp_path / "password"
    assert judge_handed_over(paths, name="dev-1", why_not=lambda _: "") is None
    found = judge_handed_over(paths, name="dev-1", why_not=lambda path: f"{path.name} is closed")
    assert found is not None
    assert found.text.startswith("broker.password_file: password is closed")
    absent = {"broker.password_file": tmp_path / "absent"}
    assert judge_handed_over(absent, name="dev-1", why_not=lambda _: "absent") is None


def test_under_the_unit_the_services_own_user_is_asked(
    tmp_path: Path,
    agent_config: Callable[..., AgentConfig],
    examine: Examine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody else's rights count: the data of this test is closed to everybody but its owner."""
    units = tmp_path / "etc/systemd/system"
    units.mkdir(parents=True)
    (units / "fedfstq-agent@.service").touch()
    monkeypatch.setattr(owner, "SERVICE_USER", "nobody")
    tmp_path.chmod(0o700)
    found = examine("paths", Context(agent_config(), root=tmp_path))
    assert found["paths"].state is State.FAIL
    assert "closed to user nobody" in found["paths"].text
