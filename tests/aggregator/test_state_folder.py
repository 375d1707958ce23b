from __future__ import annotations

import json
import shutil
from typing import Any

import pytest

from aggregator.adapter_folder import BadAdapter
from aggregator.config import AggregatorConfig
from aggregator.state_folder import open_state_folder
from aggregator.store import ForeignJournal, StoreUnavailable


@pytest.fixture
def config(tmp_path: Any, initial_adapter: Any) -> AggregatorConfig:
    return AggregatorConfig(
        federation="lab",
        state_dir=tmp_path / "deep" / "state",
        initial_adapter=initial_adapter,
        rounds=1,
        goal=1,
        quorum=1,
        deadline_s=60,
    )


def test_a_fresh_folder_begins_a_run_at_version_zero(config: Any) -> None:
    with open_state_folder(config) as state:
        assert (state.snapshot.version, state.run.epoch) == (0, 1)
    assert (config.state_dir / "CURRENT").read_text() == "0\n"
    assert (config.state_dir / "adapters" / "0" / "adapter_config.json").exists()
    assert (config.state_dir / "rounds.jsonl").read_text() == ""


def test_the_initial_adapter_is_needed_only_once(config: Any) -> None:
    with open_state_folder(config) as state:
        run = state.run.run
    shutil.rmtree(config.initial_adapter)
    with open_state_folder(config) as state:
        assert (state.run.run, state.run.epoch) == (run, 2)


def test_another_initial_adapter_is_another_run(config: Any) -> None:
    with open_state_folder(config):
        pass
    (config.initial_adapter / "adapter_config.json").write_text("{}")
    with pytest.raises(ForeignJournal, match="choose another state_dir"), open_state_folder(config):
        pass


def test_a_newest_version_of_another_base_model_is_refused(make_rig: Any) -> None:
    rig = make_rig(rounds=1).start()
    for device in rig.add("a", "b"):
        device.join()
    rig.finish()
    rig.kill()
    path = rig.config.state_dir / "adapters" / "1" / "fedfstq.json"
    facts = json.loads(path.read_text()) | {"base_digest": "0" * 64}
    path.write_text(json.dumps(facts))
    with pytest.raises(BadAdapter, match="base model"), open_state_folder(rig.config):
        pass


def test_two_aggregators_cannot_share_a_folder(config: Any) -> None:
    with (
        open_state_folder(config),
        pytest.raises(StoreUnavailable, match="another aggregator"),
        open_state_folder(config),
    ):
        pass
    with open_state_folder(config):
        pass


def test_a_folder_that_cannot_be_made_is_named(config: Any, tmp_path: Any) -> None:
    (tmp_path / "deep").write_text("a file in the way")
    with pytest.raises(StoreUnavailable, match="deep"), open_state_folder(config):
        pass


def test_a_folder_that_cannot_be_written_is_named(config: Any) -> None:
    config.state_dir.mkdir(parents=True)
    (config.state_dir / "adapters").write_text("a file in the way")
    with pytest.raises(StoreUnavailable, match="state"), open_state_folder(config):
        pass


def test_a_commit_that_the_disk_refuses_is_the_world_s_fault(make_rig: Any) -> None:
    rig = make_rig(rounds=1).start()
    for device in rig.add("a", "b"):
        device.join()
    shutil.rmtree(rig.config.state_dir / "adapters")
    (rig.config.state_dir / "adapters").write_text("a file in the way")
    with pytest.raises(StoreUnavailable, match="state"):
        rig.finish()


def test_old_adapter_versions_leave_the_disk_and_a_restart_goes_on(make_rig: Any) -> None:
    rig = make_rig(rounds=3, keep_versions=2).start()
    for device in rig.add("a", "b"):
        device.join()
    rig.finish()
    adapters = rig.config.state_dir / "adapters"
    assert sorted(path.name for path in adapters.iterdir()) == ["0", "2", "3"]
    rig.config = rig.config.model_copy(update={"rounds": 4})
    rig.restart()
    rig.finish()
    assert sorted(path.name for path in adapters.iterdir()) == ["0", "3", "4"]
    assert rig.current() == 4
