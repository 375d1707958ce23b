"""Makes a base model: `python -m tools.make_base --out tools/base`, the demo's.

A byte-level BPE tokenizer and a small Llama-architecture model, trained from nothing on the
text of the standard library that belongs to none of the demo's clients, and for a larger model
(`--size 12m`) on that of the installed packages, too.
"""

import copy
import json
import platform
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import Enum
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from tools.corpus import CLIENT_PACKAGES, ClientCorpus, base_texts, client_groups
from tools.package_texts import package_texts, text_digest
from tools.pretraining import WINDOW_TOKENS, Recipe, StableRecipe, Training

POSITIONS_MAX = 512
EOS = "<|endoftext|>"  # begins, ends and separates documents
PAD = "<|pad|>"

_HELDOUT_EVERY = 40  # one document in 40 is never trained on
_HELDOUT_WINDOWS_MAX = 64
_EVALUATION_ROWS = 16
_IGNORED = -100  # a label that torch's cross-entropy leaves out
_CHECKPOINT_S = 240.0
_SAY_EVERY = 20  # steps
_STATE = "training.safetensors"
_FINISH = "finish"


@dataclass(frozen=True, slots=True)
class Shape:
    """How large a model is. All have heads of grouped queries and tied embeddings."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    # The default, 0.02, suits widths above 1000: at 192 it costs 0.3 nats after 600 steps.
    initializer_range: float


@dataclass(frozen=True, slots=True)
class Corpus:
    """The documents to train on, every fortieth kept to measure with.

    Attributes:
        texts: The documents.
        clients: What else to measure on; none of it is trained on.
        packages: "name==version" of the packages that the documents come from, beside Python.
    """

    texts: tuple[str, ...]
    clients: tuple[ClientCorpus, ...]
    packages: tuple[str, ...] = ()


class Size(str, Enum):
    """What the command can make."""

    DEMO = "demo"
    LARGER = "12m"


_FOLDERS = {Size.DEMO: "base", Size.LARGER: "base-12m"}

SHAPES = {
    Size.DEMO: Shape(
        vocab_size=2048,
        hidden_size=192,
        intermediate_size=576,
        num_hidden_layers=5,
        num_attention_heads=6,
        num_key_value_heads=2,
        initializer_range=0.05,
    ),
    Size.LARGER: Shape(
        vocab_size=4096,
        hidden_size=384,
        intermediate_size=1024,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=2,
        initializer_range=0.035,
    ),
}


def train_tokenizer(texts: Sequence[str], *, vocab_size: int) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE tokenizer: the same texts, the same tokenizer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
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


def new_model(tokenizer: PreTrainedTokenizerFast, shape: Shape, *, seed: int) -> LlamaForCausalLM:
    """Returns an untrained Llama, its weights drawn by the seed."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            **asdict(shape),
            max_position_embeddings=POSITIONS_MAX,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def split_documents(texts: Sequence[str]) -> tuple[list[str], list[str]]:
    """Returns the documents to train on, and every fortieth, which is kept to measure with."""
    heldout = list(texts[_HELDOUT_EVERY - 1 :: _HELDOUT_EVERY])
    train = [text for i, text in enumerate(texts) if i % _HELDOUT_EVERY != _HELDOUT_EVERY - 1]
    return train, heldout


def token_stream(texts: Sequence[str], tokenizer: PreTrainedTokenizerFast) -> torch.Tensor:
    """Returns all texts as one row of token ids, int64, each text ended by the end token."""
    ids: list[int] = []
    for text in texts:
        ids += tokenizer.backend_tokenizer.encode(text).ids
        ids.append(tokenizer.eos_token_id)
    return torch.tensor(ids)


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


def make_base(
    out: Path,
    *,
    size: Size,
    recipe: Recipe,
    corpus: Corpus,
    compiled: bool = False,
) -> None:
    """Trains tokenizer and model, and writes a folder that loads offline.

    A usable model is written every few minutes, so that a run that is stopped early leaves one;
    the same call takes it up again where it was.

    Args:
        out: the folder; files of an earlier model are replaced one by one. A file `finish` in it
            makes a recipe that can end early do so.
        size: of the model.
        recipe: steps, seed and rates.
        corpus: what to train and to measure on.
        compiled: whether torch compiles the step.
    """
    transformers_logging.disable_progress_bar()  # one shard is written at once
    tokenizer = train_tokenizer(corpus.texts, vocab_size=SHAPES[size].vocab_size)
    model = new_model(tokenizer, SHAPES[size], seed=recipe.seed)
    train_texts, heldout_texts = split_documents(corpus.texts)
    stream = token_stream(train_texts, tokenizer)
    heldout = token_stream(heldout_texts, tokenizer).unfold(0, WINDOW_TOKENS, WINDOW_TOKENS)
    base_rows = {"base": heldout[:: max(1, len(heldout) // _HELDOUT_WINDOWS_MAX)]}
    all_rows = base_rows | {c.client_id: passage_rows(c.heldout, tokenizer) for c in corpus.clients}
    typer.echo(f"{len(corpus.texts)} documents, {len(stream)} training tokens")
    training = Training(model, stream, recipe, compiled=compiled)
    state = out / _STATE
    if state.exists():
        training.restore(state)
        typer.echo(f"taken up at step {training.steps_done}")
    first, saved = training.steps_done, time.monotonic()
    started = saved
    for loss in _steps(training, out / _FINISH):
        now, step = time.monotonic(), training.steps_done
        last = step >= training.recipe.steps
        if last or step % _SAY_EVERY == 0:
            seconds = (now - started) / (step - first)
            typer.echo(_progress_line(training, loss=loss, step_s=seconds))
        if last or now - saved >= _CHECKPOINT_S:
            rows = all_rows if last else base_rows
            _write(out, model, tokenizer, _provenance(model, rows, training, size, corpus))
            training.store(state)
            saved = time.monotonic()
    state.unlink(missing_ok=True)
    (out / _FINISH).unlink(missing_ok=True)


def _steps(training: Training, finish: Path) -> Iterator[float]:
    """Trains to the recipe's end, or to an earlier one from when the file is there."""
    asked = False
    while training.steps_done < training.recipe.steps:
        if not asked and finish.exists():
            asked = True
            training.recipe = training.recipe.finished_at(training.steps_done)
        yield training.step()


def _progress_line(training: Training, *, loss: float, step_s: float) -> str:
    step, recipe = training.steps_done, training.recipe
    rate = recipe.batch_windows * WINDOW_TOKENS / step_s
    left_s = step_s * (recipe.steps - step)
    return f"step {step}/{recipe.steps}  loss {loss:.3f}  {rate:.0f} tokens/s  {left_s:.0f} s left"


def _stored(model: LlamaForCausalLM) -> LlamaForCausalLM:
    """Returns the model as it is stored: bfloat16, which trains without overflow if kept so."""
    return copy.deepcopy(model).to(torch.bfloat16)


def _provenance(
    model: LlamaForCausalLM,
    rows: dict[str, torch.Tensor],
    training: Training,
    size: Size,
    corpus: Corpus,
) -> dict[str, Any]:
    """Measures the model as stored and says how it came to be; says so on the terminal, too."""
    stored = _stored(model).to(torch.float32)
    losses = {name: round(mean_loss(stored, ids), 4) for name, ids in rows.items()}
    typer.echo("held-out loss  " + "  ".join(f"{name} {loss:.3f}" for name, loss in losses.items()))
    recipe, steps_done = training.recipe, training.steps_done
    sized = "" if size is Size.DEMO else f"--size {size.value} "
    return {
        "command": f"python -m tools.make_base {sized}--out tools/{_FOLDERS[size]} "
        f"--steps {recipe.steps} --threads {torch.get_num_threads()} --seed {recipe.seed}",
        "recipe": asdict(recipe),
        "steps_done": steps_done,
        "tokens_seen": steps_done * recipe.batch_windows * WINDOW_TOKENS,
        "parameters": model.num_parameters(),
        "texts": {
            "documents": len(corpus.texts),
            "digest": text_digest(corpus.texts),
            "packages": list(corpus.packages),
        },
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


def demo_corpus() -> Corpus:
    """Returns the standard library's text that belongs to no client."""
    return Corpus(tuple(base_texts()), tuple(client_groups(len(CLIENT_PACKAGES))))


def larger_corpus() -> Corpus:
    """Returns the demo's base text and that of the installed packages, none of a client's in it."""
    base = demo_corpus()
    measured = [text for client in base.clients for text in client.train + client.heldout]
    found = package_texts(seen=[*base.texts, *measured])
    return Corpus(base.texts + found.texts, base.clients, found.packages)


def main(
    out: Annotated[Path, typer.Option(help="Folder to write the model to.")],
    size: Annotated[Size, typer.Option(help="Of the model and of its text.")] = Size.DEMO,
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps.")] = 6000,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 2,
    seed: Annotated[int, typer.Option(help="Of the weights and of the data's order.")] = 0,
) -> None:
    """Train a tokenizer and a base model from text that every installation has."""
    torch.set_num_threads(threads)
    match size:
        case Size.DEMO:
            recipe, corpus = Recipe(steps=steps, seed=seed), demo_corpus()
        case Size.LARGER:
            recipe, corpus = StableRecipe(steps=steps, seed=seed), larger_corpus()
    # A third faster where it can be done, once it has taken its minute.
    compiled = size is Size.LARGER and shutil.which("c++") is not None
    make_base(out, size=size, recipe=recipe, corpus=corpus, compiled=compiled)


if __name__ == "__main__":
    typer.run(main)
