"""Adapters: what is refused, how they are laid out, and that PEFT reads them bit by bit."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from agent.adapter import (
    AdaptedModel,
    AdapterError,
    checked_options,
    make_initial_adapter,
    read_adapter_file,
)
from agent.base import BaseError, base_digest
from codec.layout import Layout

pytestmark = pytest.mark.torch
BASE = Path(__file__).parents[2] / "tools" / "base"


def tiny() -> Any:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=31,
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    return LlamaForCausalLM(config).eval().requires_grad_(requires_grad=False)


def config_text(**changes: Any) -> str:
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "bias": "none",
        "r": 2,
        "lora_alpha": 4,
        "lora_dropout": 0.0,
        "target_modules": ["model.layers.0.self_attn.q_proj", "model.layers.1.mlp.up_proj"],
        "init_lora_weights": True,
    }
    return json.dumps({**config, **changes})


def test_layout_has_the_names_of_pefts_file() -> None:
    model = AdaptedModel(tiny(), config_text())
    prefix = "base_model.model.model.layers"
    assert model.layout == Layout.from_shapes(
        {
            f"{prefix}.0.self_attn.q_proj.lora_A.weight": (2, 8),
            f"{prefix}.0.self_attn.q_proj.lora_B.weight": (8, 2),
            f"{prefix}.1.mlp.up_proj.lora_A.weight": (2, 8),
            f"{prefix}.1.mlp.up_proj.lora_B.weight": (12, 2),
        }
    )
    assert all(parameter.dtype is torch.float32 for parameter in model.parameters)


def test_only_the_adapter_is_trained_and_it_is_float32_on_a_bfloat16_base() -> None:
    base = tiny().to(torch.bfloat16)
    model = AdaptedModel(base, config_text())
    trained = [p for p in base.parameters() if p.requires_grad]
    assert {id(p) for p in trained} == {id(p) for p in model.parameters}
    assert all(p.dtype is torch.float32 for p in trained)


def test_flat_values_come_back_bit_by_bit() -> None:
    model = AdaptedModel(tiny(), config_text())
    flat = np.random.default_rng(0).normal(size=model.layout.size).astype(np.float32)
    flat[:3] = [-0.0, 1e-45, 3.4e38]
    model.load_flat(flat)
    assert model.read_flat().tobytes() == flat.tobytes()
    tensors = model.layout.unflatten(flat)
    query = model.base.model.layers[0].self_attn.q_proj
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    np.testing.assert_array_equal(query.lora_A["default"].weight.detach().numpy(), tensors[name])


def test_flat_values_that_do_not_fit_are_refused() -> None:
    model = AdaptedModel(tiny(), config_text())
    size = model.layout.size
    for wrong in (np.zeros(size), np.zeros(1, np.float32), np.zeros((1, size), np.float32)):
        with pytest.raises(AdapterError, match="the layout float32"):
            model.load_flat(wrong)
    with pytest.raises(AdapterError, match="not finite"):
        model.load_flat(np.full(size, np.nan, dtype=np.float32))


def test_detached_base_is_as_before_and_takes_another_adapter() -> None:
    base = tiny()
    ids = torch.tensor([[1, 2, 3]])
    before = base(input_ids=ids).logits
    model = AdaptedModel(base, config_text())
    model.load_flat(np.ones(model.layout.size, dtype=np.float32))
    assert not torch.equal(base(input_ids=ids).logits, before)
    detached = model.detach()
    assert torch.equal(detached(input_ids=ids).logits, before)
    assert not [name for name, _ in detached.named_parameters() if "lora" in name]
    again = AdaptedModel(detached, config_text(r=3))
    assert again.layout.size == model.layout.size // 2 * 3


def test_modules_that_the_model_has_not_are_refused_and_leave_it_usable() -> None:
    base = tiny()
    with pytest.raises(AdapterError, match="does not fit the model"):
        AdaptedModel(base, config_text(target_modules=["no.such.module"]))
    assert AdaptedModel(base, config_text()).layout.size == 72


def test_a_module_that_cannot_be_adapted_leaves_those_before_it_as_they_were() -> None:
    """PEFT finds out in the middle; what it left there was in the way of every later adapter."""
    base = tiny()
    ids = torch.tensor([[1, 2, 3]])
    before, names = base(input_ids=ids).logits, [name for name, _ in base.named_modules()]
    targets = [name for name in names if name.endswith("q_proj")]
    with pytest.raises(AdapterError, match="not supported"):
        AdaptedModel(base, config_text(target_modules=[*targets, "act_fn"]))
    assert [name for name, _ in base.named_modules()] == names
    assert torch.equal(base(input_ids=ids).logits, before)
    assert AdaptedModel(base, config_text()).layout.size == 72


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({"task_type": None}, "task_type is None"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"r": 0}, "r is 0"),
        ({"r": True}, "r is True"),
        ({"r": 10**9}, "r is 1000000000"),
        ({"lora_alpha": -1}, "lora_alpha is -1"),
        ({"lora_alpha": float("nan")}, "lora_alpha is nan"),
        ({"lora_alpha": "16"}, "lora_alpha is '16'"),
        ({"lora_dropout": 1.0}, "lora_dropout is 1.0"),
        ({"fan_in_fan_out": 1}, "fan_in_fan_out is 1"),
        ({"target_modules": "all-linear"}, "target_modules is no list"),
        ({"target_modules": ".*"}, "target_modules is no list"),
        ({"target_modules": []}, "target_modules is no list"),
        ({"target_modules": ["a(b+)+"]}, "no module's name"),
        ({"target_modules": [3]}, "no module's name"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'"),
        ({"init_lora_weights": "loftq"}, "init_lora_weights is 'loftq'"),
        ({"init_lora_weights": "eva"}, "init_lora_weights is 'eva'"),
        ({"init_lora_weights": 1}, "init_lora_weights is 1"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save is set"),
        ({"use_rslora": True}, "use_rslora is set"),
        ({"use_dora": True}, "use_dora is set"),
        ({"rank_pattern": {"a": 1}}, "rank_pattern is set"),
        ({"layer_replication": [[0, 2]]}, "layer_replication is set"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices is set"),
        ({"an_option_of_a_later_version": 1}, "an_option_of_a_later_version is set"),
    ],
)
def test_configuration_that_could_change_more_than_the_adapter_is_refused(
    changes: dict[str, Any], expected: str
) -> None:
    with pytest.raises(AdapterError, match=expected.replace("(", r"\(")):
        checked_options(config_text(**changes))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "not JSON"),
        ("[]", "no JSON object"),
        ("[" * 100_000, "not JSON"),
        (" " * (1 << 21), "too long"),
        ("{}", "peft_type is None"),
    ],
)
def test_configuration_that_is_none_is_refused(text: str, expected: str) -> None:
    with pytest.raises(AdapterError, match=expected):
        checked_options(text)


def test_what_only_informs_is_not_handed_on() -> None:
    options = checked_options(
        config_text(base_model_name_or_path="x", peft_version="0.99", use_dora=False, loftq={})
    )
    assert sorted(options) == [
        *("bias", "fan_in_fan_out", "lora_alpha", "lora_dropout"),
        *("r", "target_modules", "task_type"),
    ]


def test_adapter_file_must_have_the_layouts_length_and_finite_values(tmp_path: Path) -> None:
    layout = Layout.from_shapes({"a": (2, 2)})
    path = tmp_path / "a.f32"
    values = np.array([1, 2, 3, 4], dtype="<f4")
    values.tofile(path)
    assert read_adapter_file(path, layout).tolist() == [1, 2, 3, 4]
    path.write_bytes(values.tobytes()[:-1])
    with pytest.raises(AdapterError, match="has 15 bytes, the layout says 16"):
        read_adapter_file(path, layout)
    path.write_bytes(np.array([1, np.inf, 3, 4], dtype="<f4").tobytes())
    with pytest.raises(AdapterError, match="not finite"):
        read_adapter_file(path, layout)


@pytest.fixture(scope="module")
def initial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("initial") / "0"
    make_initial_adapter(str(BASE), out, rank=4, alpha=8, target_modules="all-linear", seed=7)
    modes = {path.stat().st_mode for path in out.iterdir()}
    assert len(modes) == 1, "a file that its owner alone may read"
    return out


def test_initial_adapter_is_loaded_by_peft_bit_by_bit(initial: Path) -> None:
    reference = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    loaded = PeftModel.from_pretrained(reference, initial)
    model = AdaptedModel(
        AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32),
        (initial / "adapter_config.json").read_text(),
    )
    tensors = load_file(initial / "adapter_model.safetensors")
    flat = model.layout.flatten(tensors)
    model.load_flat(flat)
    assert model.read_flat().tobytes() == flat.tobytes()
    by_name = dict(loaded.named_parameters())
    for tensor in model.layout.tensors:
        name = tensor.name.removesuffix(".weight") + ".default.weight"
        assert by_name[name].detach().numpy().tobytes() == tensors[tensor.name].tobytes()
    ids = torch.tensor([[1, 2, 3]])
    torch.testing.assert_close(model.base(input_ids=ids).logits, loaded(input_ids=ids).logits)


def test_initial_adapter_leaves_the_base_model_as_it_is(initial: Path) -> None:
    tensors = load_file(initial / "adapter_model.safetensors")
    assert all(not tensors[name].any() for name in tensors if ".lora_B." in name)
    for name, tensor in tensors.items():
        if ".lora_A." in name:
            bound = 1 / np.sqrt(tensor.shape[1])
            assert np.abs(tensor).max() <= bound
            assert np.abs(tensor).max() > 0.9 * bound
            assert np.unique(tensor).size > 0.9 * tensor.size


def test_initial_adapter_names_every_module_in_full_and_its_base(initial: Path) -> None:
    config = json.loads((initial / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(BASE)
    assert config["target_modules"] == sorted(config["target_modules"])
    assert "model.layers.0.self_attn.q_proj" in config["target_modules"]
    assert not [name for name in config["target_modules"] if "lm_head" in name]
    origin = json.loads((initial / "fedfstq.json").read_text())
    assert origin == {"base_model": str(BASE), "base_digest": base_digest(BASE).hex()}


def test_same_seed_same_bytes(initial: Path, tmp_path: Path) -> None:
    names = ["adapter_config.json", "adapter_model.safetensors", "fedfstq.json"]
    for seed, same in ((7, True), (8, False)):
        out = tmp_path / str(seed)
        make_initial_adapter(
            str(BASE), out, rank=4, alpha=8, target_modules="all-linear", seed=seed
        )
        equal = [(out / name).read_bytes() == (initial / name).read_bytes() for name in names]
        assert equal == [True, same, True]


def test_initial_adapter_for_chosen_modules(tmp_path: Path) -> None:
    out = tmp_path / "0"
    make_initial_adapter(
        str(BASE), out, rank=2, alpha=4, target_modules=["v_proj", "q_proj"], seed=0
    )
    config = json.loads((out / "adapter_config.json").read_text())
    assert config["target_modules"] == sorted(
        f"model.layers.{layer}.self_attn.{name}"
        for layer in range(5)
        for name in ("q_proj", "v_proj")
    )
    with pytest.raises(AdapterError, match="does not fit the model"):
        make_initial_adapter(str(BASE), out, rank=2, alpha=4, target_modules=["none"], seed=0)
    with pytest.raises(BaseError, match="there is no such folder"):
        make_initial_adapter("/none", out, rank=2, alpha=4, target_modules="all-linear", seed=0)
