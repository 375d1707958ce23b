"""The experiments in the documentation: they can be run, and they are fair."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from tools.experiment.spec import ExperimentSpec, read_spec

FOLDER = Path(__file__).parents[3] / "docs" / "examples" / "experiments"
FILES = sorted(FOLDER.glob("*.yaml"))


@pytest.fixture(scope="module")
def specs() -> dict[str, ExperimentSpec]:
    return {path.stem: read_spec(path) for path in FILES}


def _untuned(method: str) -> str:
    """Returns a method without its rate, its server's step and the numbers of its options."""
    codec, *options = method.split(",")
    kept = [re.sub(r"=[\d.]+$", "", each) for each in options]
    kept = [each for each in kept if each not in {"step", "momentum"}]
    return ",".join([codec.partition("@")[0], *kept])


def test_there_is_a_file_for_each_part_of_the_evidence(specs: dict[str, ExperimentSpec]) -> None:
    assert {"uplink", "ablation", "network", "quick", "tuning"} <= specs.keys()
    assert {f"sweep-{axis}" for axis in ("alpha", "dropout", "clients")} <= specs.keys()


def test_experiments_have_names_of_their_own(specs: dict[str, ExperimentSpec]) -> None:
    """Else two of them would share a folder."""
    assert len({spec.name for spec in specs.values()}) == len(specs)


def test_every_method_is_tuned_at_least_as_carefully_as_ours(
    specs: dict[str, ExperimentSpec],
) -> None:
    tried = Counter(map(_untuned, specs["tuning"].methods))
    assert min(tried.values()) == tried["fstq+,ef"] == 4
    assert tried["fstq-r"] == tried["eden"] == 9, "the strongest baseline has as many as ours"


def test_what_is_judged_was_tuned_by_another_seed(specs: dict[str, ExperimentSpec]) -> None:
    tuning = specs["tuning"]
    for name in ("uplink", "servers"):
        assert set(specs[name].methods) <= set(tuning.methods), name
    others = [spec for name, spec in specs.items() if name != "tuning"]
    assert not any(set(spec.seeds) & set(tuning.seeds) for spec in others)


def test_training_is_the_same_in_all_small_experiments(specs: dict[str, ExperimentSpec]) -> None:
    small = [spec for spec in specs.values() if spec.model.startswith("tools/base")]
    assert len(small) == len(specs) - 1
    assert len({(spec.local, spec.rank, spec.target_modules) for spec in small}) == 1


def test_the_quick_experiment_needs_no_data(specs: dict[str, ExperimentSpec]) -> None:
    assert specs["quick"].workloads == ("stdlib",)
