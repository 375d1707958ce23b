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
    VOCAB_SIZE,
    WINDOW_TOKENS,
    Recipe,
    mean_loss,
    new_model,
    passage_rows,
    split_documents,
    token_stream,
    train,
    train_tokenizer,
    training_batches,
)

BASE = Path(make_base.__file__).parent / "base"
TEXTS = base_texts()[:80]
CLIENT = ClientCorpus("email", ("email",), train=(TEXTS[0],), heldout=(TEXTS[1], "short text"))

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def tokenizer() -> make_base.PreTrainedTokenizerFast:
    return train_tokenizer(TEXTS)


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
    again = train_tokenizer(TEXTS)
    assert again.backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()
    assert len(tokenizer) == VOCAB_SIZE
    assert tokenizer.eos_token_id == tokenizer.bos_token_id != tokenizer.pad_token_id


def test_the_model_is_small_and_its_weights_follow_from_the_seed(
    tokenizer: make_base.PreTrainedTokenizerFast,
) -> None:
    one, same, other = (new_model(tokenizer, seed=seed) for seed in (1, 1, 2))
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


def test_batches_follow_from_the_seed_and_go_through_all_windows() -> None:
    """A second pass cuts the stream elsewhere; the ids here are positions."""
    stream = torch.arange(WINDOW_TOKENS * 10)
    recipe = Recipe(steps=1, batch_windows=4)
    batches, again = training_batches(stream, recipe), training_batches(stream, recipe)
    first_pass = [next(batches) for _ in range(3)]
    assert all(torch.equal(batch, next(again)) for batch in first_pass)
    starts = torch.cat(first_pass)[:, 0].sort().values
    assert torch.equal(starts, starts[0] + WINDOW_TOKENS * torch.arange(len(starts)))
    assert int(next(batches)[0, 0]) % WINDOW_TOKENS != int(starts[0]) % WINDOW_TOKENS
    other = next(training_batches(stream, Recipe(steps=1, seed=1, batch_windows=4)))
    assert not torch.equal(other, first_pass[0])


def test_the_rate_warms_up_and_falls_to_a_twentieth() -> None:
    recipe = Recipe(steps=1000, learning_rate=1.0, warmup_steps=100)
    rates = [recipe.learning_rate_at(step) for step in range(1000)]
    assert rates[0] == pytest.approx(0.01)
    assert max(rates) == rates[99] == rates[100] == 1.0
    assert rates[100:] == sorted(rates[100:], reverse=True)
    assert rates[-1] == pytest.approx(0.05, abs=1e-3)


def test_padding_does_not_change_the_loss(tokenizer: make_base.PreTrainedTokenizerFast) -> None:
    model = new_model(tokenizer, seed=0)
    long, short = "import os\nimport sys\nimport re\n", "import os\n"
    apart = [
        (mean_loss(model, rows), rows.shape[1] - 1)
        for rows in (passage_rows((text,), tokenizer) for text in (long, short))
    ]
    together = mean_loss(model, passage_rows((long, short), tokenizer))
    tokens = sum(count for _, count in apart)
    assert together == pytest.approx(sum(loss * count for loss, count in apart) / tokens, rel=1e-5)


def test_training_lowers_the_loss(tokenizer: make_base.PreTrainedTokenizerFast) -> None:
    model = new_model(tokenizer, seed=0)
    stream = token_stream(TEXTS[:20], tokenizer)
    losses = list(train(model, stream, Recipe(steps=8, batch_windows=4, warmup_steps=1)))
    assert losses[0] == pytest.approx(math.log(VOCAB_SIZE), abs=0.5)
    assert losses[-1] < losses[0] - 0.5


@pytest.mark.usefixtures("offline")
def test_a_short_run_writes_a_folder_that_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a checkpoint after every step, over an earlier model, and nothing left beside it."""
    monkeypatch.setattr(make_base, "_CHECKPOINT_S", 0.0)
    out = tmp_path / "base"
    make_base.make_base(out, recipe=Recipe(steps=2, batch_windows=2), texts=TEXTS, clients=[CLIENT])
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


def test_the_command_trains_on_the_librarys_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(make_base, "base_texts", lambda: TEXTS)
    monkeypatch.setattr(make_base, "client_groups", lambda _: [CLIENT])
    app = make_base.typer.Typer()
    app.command()(make_base.main)
    result = CliRunner().invoke(
        app, ["--out", str(tmp_path), "--steps", "1", "--threads", "1", "--seed", "3"]
    )
    assert result.exit_code == 0, result.output
    assert "step 1/1" in result.output
    provenance = json.loads((tmp_path / "base.json").read_text(encoding="utf-8"))
    assert "--steps 1 --threads 1 --seed 3" in provenance["command"]


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
