"""Makes the demo's base model: `python -m tools.make_base --out tools/base`.

A byte-level BPE tokenizer and a small Llama-architecture model, trained from nothing on the
text of the standard library that belongs to none of the demo's clients.
"""

import copy
import json
import math
import platform
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from tools.corpus import CLIENT_PACKAGES, ClientCorpus, base_texts, client_groups

VOCAB_SIZE = 2048
WINDOW_TOKENS = 256
POSITIONS_MAX = 512
EOS = "<|endoftext|>"  # begins, ends and separates documents
PAD = "<|pad|>"

_HELDOUT_EVERY = 40  # one document in 40 is never trained on
_HELDOUT_WINDOWS_MAX = 64
_EVALUATION_ROWS = 16
_IGNORED = -100  # a label that torch's cross-entropy leaves out
_CHECKPOINT_S = 240.0
_SAY_EVERY = 20  # steps


@dataclass(frozen=True, slots=True)
class Recipe:
    """How long and how fast to train; the best of four settings tried on 1.2 M tokens each."""

    steps: int
    seed: int = 0
    batch_windows: int = 8
    learning_rate: float = 3e-3
    warmup_steps: int = 200
    weight_decay: float = 0.1
    gradient_norm_max: float = 1.0

    def learning_rate_at(self, step: int) -> float:
        """Returns the rate of a step: linear warm-up, then a cosine down to a twentieth."""
        warmup = min(self.warmup_steps, max(1, self.steps // 10))
        if step < warmup:
            return self.learning_rate * (step + 1) / warmup
        progress = (step - warmup) / max(1, self.steps - warmup)
        return self.learning_rate * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * progress)))


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE tokenizer of 2048 tokens: the same texts, the same tokenizer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[EOS, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=EOS,
        eos_token=EOS,
        pad_token=PAD,
        model_max_length=POSITIONS_MAX,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )


def new_model(tokenizer: PreTrainedTokenizerFast, *, seed: int) -> LlamaForCausalLM:
    """Returns an untrained Llama of 2.5 M parameters, with grouped queries and tied embeddings."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCAB_SIZE,
            hidden_size=192,
            intermediate_size=576,
            num_hidden_layers=5,
            num_attention_heads=6,
            num_key_value_heads=2,
            max_position_embeddings=POSITIONS_MAX,
            # The default, 0.02, suits widths above 1000: here it costs 0.3 nats after 600 steps.
            initializer_range=0.05,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def split_documents(texts: list[str]) -> tuple[list[str], list[str]]:
    """Returns the documents to train on, and every fortieth, which is kept to measure with."""
    heldout = texts[_HELDOUT_EVERY - 1 :: _HELDOUT_EVERY]
    train = [text for i, text in enumerate(texts) if i % _HELDOUT_EVERY != _HELDOUT_EVERY - 1]
    return train, heldout


def token_stream(texts: list[str], tokenizer: PreTrainedTokenizerFast) -> torch.Tensor:
    """Returns all texts as one row of token ids, int64, each text ended by the end token."""
    ids: list[int] = []
    for text in texts:
        ids += tokenizer.backend_tokenizer.encode(text).ids
        ids.append(tokenizer.eos_token_id)
    return torch.tensor(ids)


def training_batches(stream: torch.Tensor, recipe: Recipe) -> Iterator[torch.Tensor]:
    """Yields batches of windows, int64 [batch_windows, WINDOW_TOKENS], without end.

    Every pass over the stream cuts it at another offset and shuffles the windows; the order
    follows from the seed alone.
    """
    random = torch.Generator().manual_seed(recipe.seed)
    while True:
        offset = int(torch.randint(WINDOW_TOKENS, (1,), generator=random))
        windows = stream[offset:].unfold(0, WINDOW_TOKENS, WINDOW_TOKENS)
        order = torch.randperm(len(windows), generator=random)
        for start in range(0, len(order), recipe.batch_windows):
            yield windows[order[start : start + recipe.batch_windows]]


def mean_loss(model: LlamaForCausalLM, rows: torch.Tensor) -> float:
    """Returns the mean cross-entropy per token in nats over rows of ids; -100 is padding."""
    model.eval()
    total, count = 0.0, 0
    with torch.inference_mode():
        for start in range(0, len(rows), _EVALUATION_ROWS):
            batch = rows[start : start + _EVALUATION_ROWS]
            counted = int((batch[:, 1:] != _IGNORED).sum())
            loss = model(
                input_ids=batch.clamp(min=0), attention_mask=(batch >= 0).long(), labels=batch
            ).loss
            total += float(loss) * counted
            count += counted
    return total / count


def passage_rows(texts: tuple[str, ...], tokenizer: PreTrainedTokenizerFast) -> torch.Tensor:
    """Returns one row of ids per text, cut to a window and padded with -100 to the longest."""
    encoded = [tokenizer.backend_tokenizer.encode(text).ids[:WINDOW_TOKENS] for text in texts]
    longest = max(len(ids) for ids in encoded)
    return torch.tensor([ids + [_IGNORED] * (longest - len(ids)) for ids in encoded])


def train(model: LlamaForCausalLM, stream: torch.Tensor, recipe: Recipe) -> Iterator[float]:
    """Trains in place with AdamW under bfloat16 autocast; yields the loss of every step."""
    optimizer = torch.optim.AdamW(
        model.parameters(), betas=(0.9, 0.95), weight_decay=recipe.weight_decay
    )
    batches = training_batches(stream, recipe)
    for step in range(recipe.steps):
        model.train()
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate_at(step)
        batch = next(batches)
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.gradient_norm_max)
        optimizer.step()
        optimizer.zero_grad()
        yield float(loss.detach())


def make_base(out: Path, *, recipe: Recipe, texts: list[str], clients: list[ClientCorpus]) -> None:
    """Trains tokenizer and model, and writes a folder that loads offline.

    A usable model is written every few minutes, so that a run that is stopped early leaves one.

    Args:
        out: the folder; files of an earlier model are replaced one by one.
        recipe: steps, seed and rates.
        texts: the documents; every fortieth is kept to measure with.
        clients: what else to measure on; none of it is trained on.
    """
    transformers_logging.disable_progress_bar()  # one shard is written at once
    tokenizer = train_tokenizer(texts)
    model = new_model(tokenizer, seed=recipe.seed)
    train_texts, heldout_texts = split_documents(texts)
    stream = token_stream(train_texts, tokenizer)
    heldout = token_stream(heldout_texts, tokenizer).unfold(0, WINDOW_TOKENS, WINDOW_TOKENS)
    rows = {"base": heldout[:_HELDOUT_WINDOWS_MAX]}
    rows |= {client.client_id: passage_rows(client.heldout, tokenizer) for client in clients}
    typer.echo(f"{len(texts)} documents, {len(stream)} training tokens")
    saved = started = time.monotonic()
    for step, loss in enumerate(train(model, stream, recipe), start=1):
        now = time.monotonic()
        last = step == recipe.steps
        if last or step % _SAY_EVERY == 0:
            typer.echo(_progress_line(step, recipe, loss=loss, elapsed_s=now - started))
        if last or now - saved >= _CHECKPOINT_S:
            _write(out, model, tokenizer, _provenance(model, rows, recipe, steps_done=step))
            saved = time.monotonic()


def _progress_line(step: int, recipe: Recipe, *, loss: float, elapsed_s: float) -> str:
    rate = step * recipe.batch_windows * WINDOW_TOKENS / elapsed_s
    left_s = elapsed_s / step * (recipe.steps - step)
    return f"step {step}/{recipe.steps}  loss {loss:.3f}  {rate:.0f} tokens/s  {left_s:.0f} s left"


def _stored(model: LlamaForCausalLM) -> LlamaForCausalLM:
    """Returns the model as it is stored: bfloat16, which trains without overflow if kept so."""
    return copy.deepcopy(model).to(torch.bfloat16)


def _provenance(
    model: LlamaForCausalLM, rows: dict[str, torch.Tensor], recipe: Recipe, *, steps_done: int
) -> dict[str, Any]:
    """Measures the model as stored and says how it came to be; says so on the terminal, too."""
    stored = _stored(model).to(torch.float32)
    losses = {name: round(mean_loss(stored, ids), 4) for name, ids in rows.items()}
    typer.echo("held-out loss  " + "  ".join(f"{name} {loss:.3f}" for name, loss in losses.items()))
    return {
        "command": "python -m tools.make_base --out tools/base "
        f"--steps {recipe.steps} --threads {torch.get_num_threads()} --seed {recipe.seed}",
        "recipe": asdict(recipe),
        "steps_done": steps_done,
        "tokens_seen": steps_done * recipe.batch_windows * WINDOW_TOKENS,
        "parameters": model.num_parameters(),
        "heldout_loss": losses,
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("tokenizers", "torch", "transformers")},
    }


def _write(
    out: Path,
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    provenance: dict[str, Any],
) -> None:
    """Writes beside the folder first, so that a stop in the middle leaves the earlier model."""
    out.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    _stored(model).save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    _name_tokenizer_class(partial / "tokenizer_config.json")
    (partial / "base.json").write_text(json.dumps(provenance, indent=2) + "\n", encoding="utf-8")
    for file in partial.iterdir():
        file.replace(out / file.name)
    partial.rmdir()


def _name_tokenizer_class(path: Path) -> None:
    """Names the class by its name in transformers 4, which 5 knows too, but not the reverse."""
    config = json.loads(path.read_text(encoding="utf-8"))
    config.pop("backend", None)
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def main(
    out: Annotated[Path, typer.Option(help="Folder to write the model to.")],
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps of 2048 tokens.")] = 6000,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 2,
    seed: Annotated[int, typer.Option(help="Of the weights and of the data's order.")] = 0,
) -> None:
    """Train the demo's tokenizer and base model from the standard library's text."""
    torch.set_num_threads(threads)
    clients = client_groups(len(CLIENT_PACKAGES))
    make_base(out, recipe=Recipe(steps=steps, seed=seed), texts=base_texts(), clients=clients)


if __name__ == "__main__":
    typer.run(main)
