from __future__ import annotations

import math
from pathlib import Path

import pytest
import yaml

from tools.experiment.spec import ExperimentError, ExperimentSpec, chosen, data_folder, read_spec

SMALL = {
    "name": "small",
    "workloads": ["med", "code"],
    "alphas": [0.1, math.inf],
    "clients": [10, 30],
    "dropout": [0.0, 0.3],
    "seeds": [0, 1],
    "methods": ["eden@1", "fstq-r@0.15:0.8,mask=hard"],
}


def spec(**changes: object) -> ExperimentSpec:
    return ExperimentSpec.model_validate({**SMALL, **changes})


def written(folder: Path, **changes: object) -> Path:
    path = folder / "experiment.yaml"
    path.write_text(yaml.safe_dump({**SMALL, **changes}), encoding="utf-8")
    return path


def test_an_experiment_crosses_all_that_it_lists_and_adds_the_baseline() -> None:
    trials = spec().trials()
    assert len(trials) == 2 * 2 * 2 * 2 * 2 * 3
    assert {trial.method for trial in trials} == {
        "fp32",
        "eden@1",
        "fstq-r@0.15:0.8,mask=hard",
    }


def test_methods_of_one_setting_come_together_the_baseline_first() -> None:
    trials = spec().trials()
    for first in range(0, len(trials), 3):
        group = trials[first : first + 3]
        assert group[0].method == "fp32"
        settings = {(t.workload, t.alpha, t.clients, t.dropout, t.seed) for t in group}
        assert len(settings) == 1
    assert [trial.seed for trial in trials] == sorted(trial.seed for trial in trials)


def test_some_methods_have_more_seeds_and_the_baseline_has_them_too() -> None:
    usual = spec().trials()
    trials = spec(more_seeds={"seeds": [7, 5], "methods": ["eden@1.0"]}).trials()
    assert trials[: len(usual)] == usual
    more = trials[len(usual) :]
    assert len(more) == 2 * 2 * 2 * 2 * 2 * 2
    assert [trial.method for trial in more] == ["fp32", "eden@1"] * 32
    assert [trial.seed for trial in more] == [7] * 32 + [5] * 32


def test_no_two_trials_have_one_id_and_none_needs_quoting_in_a_path() -> None:
    ids = [trial.id for trial in spec().trials()]
    assert len(set(ids)) == len(ids)
    assert not any(set(each) & set('/\\:*?"<>| ,') for each in ids)


def test_an_id_is_readable_and_does_not_change() -> None:
    trial = chosen(
        spec().trials(),
        ["workload=med", "alpha=0.1", "clients=30", "dropout=0.3", "seed=1"],
    )[-1]
    assert trial.id == "med-a0.1-n30-drop0.3-s1-fstq-r@0.15~0.8_mask=hard"
    assert str(trial) == trial.id


def test_a_trial_says_everything_in_jsons_types() -> None:
    trial = spec(alphas=[math.inf], target_modules=["q_proj"]).trials()[0]
    found = trial.described()
    assert found["alpha"] == "inf"
    assert found["target_modules"] == ["q_proj"]
    assert found["local"]["local_steps"] == 4
    assert found["slowdown"] == {"share": 0.0, "factor": [1.0, 1.0]}
    assert found["target_share"] == 0.5
    assert "experiment" not in found


def test_methods_are_kept_in_their_shortest_text() -> None:
    assert spec(methods=["eden@1.0,step=1"]).methods == ("eden@1",)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"methodz": []}, "methodz: unknown key, did you mean methods"),
        ({"methods": ["foo@1"]}, "no codec is named 'foo'"),
        ({"methods": ["eden"]}, "name the bits per coordinate"),
        ({"methods": ["eden@1", "eden@1.0"]}, "stands twice in methods"),
        ({"baseline": "eden@x"}, "baseline: .*no number"),
        ({"cohort": 11}, "11 is more than 10 clients"),
        ({"local": {"stepz": 1}}, "unknown key 'stepz'; known are local_steps"),
        ({"local": {"mask": "hard"}}, "mask belongs to a method"),
        ({"local": {"local_steps": 0}}, "local_steps: .*greater than or equal to 1"),
        ({"local": 3}, "local: "),
        ({"seeds": [0, 0]}, "0 stands twice in seeds"),
        ({"alphas": [0]}, "alphas.0"),
        ({"name": "Has Space"}, "name: "),
        ({"more_seeds": {"seeds": [2], "methods": ["eden@2"]}}, "eden@2 is none of methods"),
        ({"more_seeds": {"seeds": [1], "methods": ["eden@1"]}}, "1 is one of seeds already"),
        ({"more_seeds": {"seeds": [2, 2], "methods": ["eden@1"]}}, "2 stands twice in seeds"),
        ({"more_seeds": {"seeds": [2], "methods": ["foo"]}}, "no codec is named 'foo'"),
        ({"slowdown": {"shar": 1}}, "slowdown.shar: unknown key, did you mean share"),
    ],
)
def test_what_is_wrong_is_named_with_its_key(
    tmp_path: Path, changes: dict[str, object], complaint: str
) -> None:
    with pytest.raises(ExperimentError, match=complaint):
        read_spec(written(tmp_path, **changes))


def test_a_plan_keeps_the_small_defaults_where_it_says_nothing(tmp_path: Path) -> None:
    found = read_spec(written(tmp_path, local={"local_steps": 7})).local
    assert (found.local_steps, found.batch_size, found.max_tokens) == (7, 4, 64)


def test_of_one_filter_key_any_value_and_of_several_keys_all() -> None:
    trials = spec().trials()
    some = chosen(trials, ["seed=0", "method=fp32", "method=eden@1.0", "alpha=inf"])
    assert {(t.seed, t.method, t.alpha) for t in some} == {
        (0, "fp32", math.inf),
        (0, "eden@1", math.inf),
    }
    assert len(some) == 2 * 2 * 2 * 2
    assert chosen(trials, [f"trial={trials[5].id}"]) == (trials[5],)
    assert chosen(trials, []) == trials


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("seed", "write key=value"),
        ("rounds=3", "one of workload"),
        ("seed=7", "the experiment has 0 1"),
        ("seed=x", "no number"),
        ("method=fp32,foo", "none of ef"),
        ("trial=x", "the experiment has code-a0.1"),
    ],
)
def test_a_filter_that_lets_nothing_through_is_said(text: str, complaint: str) -> None:
    with pytest.raises(ExperimentError, match=complaint):
        chosen(spec().trials(), [text])


def test_device_and_dtype_are_said_where_they_are_not_the_usual_ones() -> None:
    """Files from before they could be chosen go on counting."""
    plain, other = spec().trials()[0], spec(device="cuda", dtype="bfloat16").trials()[0]
    assert not {"device", "dtype"} & plain.described().keys()
    assert (other.described()["device"], other.described()["dtype"]) == ("cuda", "bfloat16")


def test_the_data_folder_is_the_options_the_environments_or_the_files() -> None:
    environ = {"FEDFSTQ_DATA": "/environment"}
    experiment = spec(data="/file")
    assert data_folder(experiment, Path("/option"), environ) == Path("/option")
    assert data_folder(experiment, None, environ) == Path("/environment")
    assert data_folder(experiment, None, {}) == Path("/file")
    assert data_folder(spec(), None, {}) == Path("data")
