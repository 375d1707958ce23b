"""How the demo's base model is made, and that the committed one keeps its promises."""

import json
import math
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM
from typer.testing import CliRunner

from tools import make_base
from tools.corpus import ClientCorpus, base_texts
from tools.make_base import (
    SHAPES,
    Corpus,
    Shape,
    Size,
    mean_loss,
    new_model,
    passage_rows,
    split_documents,
    token_stream,
    train_tokenizer,
)
from tools.package_texts import PackageTexts, text_digest
from tools.pretraining import WINDOW_TOKENS, Recipe, StableRecipe, Training

BASE = Path(make_base.__file__).parent / "base"
TEXTS = base_texts()[:80]
SHAPE = SHAPES[Size.DEMO]
VOCAB_SIZE = SHAPE.vocab_size
CLIENT = ClientCorpus("email", ("email",), train=(TEXTS[0],), heldout=(TEXTS[1], "short text"))
CORPUS = Corpus(tuple(TEXTS), (CLIENT,))

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def tokenizer() -> make_base.PreTrainedTokenizerFast:
    return train_tokenizer(TEXTS, vocab_size=VOCAB_SIZE)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any attempt to reach a hub fails at once."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def refuse(*_: object) -> None:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr("socket.socket.connect", refuse)


def load(folder: Path) -> tuple[LlamaForCausalLM, make_base.PreTrainedTokenizerFast]:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model, AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize(
    "text", ["def f(x):\n    return x  # é, 漢字 and 🙂\n", "\t two  spaces \r\n\n", "\x00\x7f", ""]
)
def test_the_tokenizer_gives_every_text_back(
    tokenizer: make_base.PreTrainedTokenizerFast, text: str
) -> None:
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_the_tokenizer_depends_on_the_texts_alone(
    tokenizer: make_base.PreTrainedTokenizerFast,
) -> None:
    again = train_tokenizer(TEXTS, vocab_size=VOCAB_SIZE)
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
    assert len(tokenizer) == VOCAB_SIZE
    assert tokenizer.eos_token_id == tokenizer.bos_token_id != tokenizer.pad_token_id


def test_the_model_is_small_and_its_weights_follow_from_the_seed(
    tokenizer: make_base.PreTrainedTokenizerFast,
) -> None:
    one, same, other = (new_model(tokenizer, SHAPE, seed=seed) for seed in (1, 1, 2))
    assert one.num_parameters() <= 3_000_000
    weights = [model.model.layers[0].mlp.up_proj.weight for model in (one, same, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_every_fortieth_document_is_kept_to_measure_with() -> None:
    texts = [str(i) for i in range(100)]
    kept_for_training, heldout = split_documents(texts)
    assert heldout == ["39", "79"]
    assert sorted(kept_for_training + heldout) == sorted(texts)


def test_documents_are_joined_by_the_end_token(
    tokenizer: make_base.PreTrainedTokenizerFast,
) -> None:
    stream = token_stream(["import os\n", "import re\n"], tokenizer)
    assert stream.dtype == torch.int64
    eos = tokenizer.eos_token
    assert tokenizer.decode(stream.tolist()) == f"import os\n{eos}import re\n{eos}"


def test_padding_does_not_change_the_loss(tokenizer: make_base.PreTrainedTokenizerFast) -> None:
    model = new_model(tokenizer, SHAPE, seed=0)
    long, short = "import os\nimport sys\nimport re\n", "import os\n"
    apart = [
        (mean_loss(model, rows), rows.shape[1] - 1)
        for rows in (passage_rows((text,), tokenizer) for text in (long, short))
    ]
    together = mean_loss(model, passage_rows((long, short), tokenizer))
    tokens = sum(count for _, count in apart)
    assert together == pytest.approx(sum(loss * count for loss, count in apart) / tokens, rel=1e-5)


def test_training_lowers_the_loss(tokenizer: make_base.PreTrainedTokenizerFast) -> None:
    model = new_model(tokenizer, SHAPE, seed=0)
    stream = token_stream(TEXTS[:20], tokenizer)
    recipe = Recipe(steps=8, batch_windows=4, warmup_steps=1)
    training = Training(model, stream, recipe, compiled=False)
    losses = [training.step() for _ in range(recipe.steps)]
    assert losses[0] == pytest.approx(math.log(VOCAB_SIZE), abs=0.5)
    assert losses[-1] < losses[0] - 0.5


@pytest.mark.usefixtures("offline")
def test_a_short_run_writes_a_folder_that_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a checkpoint after every step, over an earlier model, and nothing left beside it."""
    monkeypatch.setattr(make_base, "_CHECKPOINT_S", 0.0)
    out = tmp_path / "base"
    recipe = Recipe(steps=2, batch_windows=2)
    make_base.make_base(out, size=Size.DEMO, recipe=recipe, corpus=CORPUS)
    model, tokenizer = load(out)
    assert model.dtype == torch.float32
    assert len(tokenizer) == VOCAB_SIZE
    assert [path.name for path in tmp_path.iterdir()] == ["base"]
    provenance = json.loads((out / "base.json").read_text(encoding="utf-8"))
    assert provenance["steps_done"] == 2
    assert provenance["tokens_seen"] == 2 * 2 * WINDOW_TOKENS
    rows = passage_rows(CLIENT.heldout, tokenizer)
    assert provenance["heldout_loss"]["email"] == pytest.approx(mean_loss(model, rows), abs=1e-3)
    assert capsys.readouterr().out.count("held-out loss") == 2


TINY = Shape(
    vocab_size=512,
    hidden_size=32,
    intermediate_size=32,
    num_hidden_layers=1,
    num_attention_heads=2,
    num_key_value_heads=1,
    initializer_range=0.05,
)


class Stopped(Exception):
    """The run was killed."""


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """The larger size is tiny, written after every step, and said every step."""
    monkeypatch.setitem(make_base.SHAPES, Size.LARGER, TINY)
    monkeypatch.setattr(make_base, "_CHECKPOINT_S", 0.0)
    monkeypatch.setattr(make_base, "_SAY_EVERY", 1)


def make_larger(out: Path, *, steps: int) -> None:
    recipe = StableRecipe(steps=steps, batch_windows=2, decay_steps=2, warmup_steps=1)
    make_base.make_base(out, size=Size.LARGER, recipe=recipe, corpus=CORPUS)


@pytest.mark.usefixtures("tiny")
def test_a_run_that_was_killed_is_taken_up_and_ends_with_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_larger(tmp_path / "whole", steps=4)
    step = Training.step

    def killed(training: Training) -> float:
        if training.steps_done == 2:
            raise Stopped
        return step(training)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "step", killed)
        with pytest.raises(Stopped):
            make_larger(tmp_path / "cut", steps=4)
    make_larger(tmp_path / "cut", steps=4)
    assert "taken up at step 2" in capsys.readouterr().out
    weights = [(tmp_path / run / "model.safetensors").read_bytes() for run in ("whole", "cut")]
    assert weights[0] == weights[1]
    assert not list(tmp_path.glob("*/training*"))


@pytest.mark.usefixtures("tiny")
def test_a_file_named_finish_ends_a_run_early_with_its_decay(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "finish").touch()
    make_larger(tmp_path, steps=1000)
    assert "step 2/2" in capsys.readouterr().out
    assert not (tmp_path / "finish").exists()
    provenance = json.loads((tmp_path / "base.json").read_text(encoding="utf-8"))
    assert provenance["recipe"]["steps"] == provenance["steps_done"] == 2
    assert "--size 12m" in provenance["command"]


@pytest.mark.parametrize("size", ["demo", "12m"])
@pytest.mark.usefixtures("tiny")
def test_the_command_trains_on_the_text_of_its_size(
    size: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = PackageTexts(("A page of a package, which is not in the library.\n" * 20,), ("a==1",))
    monkeypatch.setattr(make_base, "base_texts", lambda: TEXTS)
    monkeypatch.setattr(make_base, "client_groups", lambda _: [CLIENT])
    monkeypatch.setattr(make_base, "package_texts", lambda *, seen: found if seen else None)
    monkeypatch.setattr(make_base.shutil, "which", lambda _: None)
    app = make_base.typer.Typer()
    app.command()(make_base.main)
    options = f"--out {tmp_path} --size {size} --steps 1 --threads 1 --seed 3"
    result = CliRunner().invoke(app, options.split())
    assert result.exit_code == 0, result.output
    assert "step 1/1" in result.output
    provenance = json.loads((tmp_path / "base.json").read_text(encoding="utf-8"))
    assert "--steps 1 --threads 1 --seed 3" in provenance["command"]
    texts = [*TEXTS, *found.texts] if size == "12m" else TEXTS
    assert provenance["texts"]["digest"] == text_digest(texts)
    assert provenance["texts"]["packages"] == (["a==1"] if size == "12m" else [])


def test_the_larger_model_has_ten_to_twelve_million_parameters() -> None:
    with torch.device("meta"):
        model = LlamaForCausalLM(
            make_base.LlamaConfig(**make_base.asdict(SHAPES[Size.LARGER]), tie_word_embeddings=True)
        )
    assert 10_000_000 <= model.num_parameters() <= 12_000_000


def test_the_committed_folder_fits_its_budget_and_names_no_machine() -> None:
    assert sum(path.stat().st_size for path in BASE.iterdir()) <= 6_000_000
    for path in BASE.glob("*.json"):
        assert "/home/" not in path.read_text(encoding="utf-8")
        assert "/root/" not in path.read_text(encoding="utf-8")


@pytest.mark.usefixtures("offline")
def test_the_committed_model_loads_offline_and_knows_its_text() -> None:
    """An untrained model's loss is ln(2048) = 7.6 nats per token."""
    model, tokenizer = load(BASE)
    assert model.num_parameters() <= 3_000_000
    _, heldout = split_documents(base_texts())
    rows = token_stream(heldout, tokenizer).unfold(0, WINDOW_TOKENS, WINDOW_TOKENS)[:16]
    assert mean_loss(model, rows) < 5.0
