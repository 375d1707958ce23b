"""Examples are counted and looked over, and nothing of them is said."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.config import AgentConfig, DataConfig
from agent.data import Conversation, Example, Turn
from tools.doctor.context import Context
from tools.doctor.data_lint import Look, judge_amount, judge_quality, look_over, masked
from tools.doctor.finding import Finding, State
from transport.control import RunAnnouncement

Examine = Callable[..., dict[str, Finding]]
FINE = Look(
    train=100,
    heldout=10,
    duplicates=0,
    shared=0,
    empty=0,
    median_tokens=50,
    cut=0.0,
    is_exact=True,
)
SECRET = "Mrs Robinson"


def _look(**changes: object) -> Look:
    fields = {name: getattr(FINE, name) for name in Look.__dataclass_fields__}
    return Look(**fields | changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, State.OK),
        ({"train": 5}, State.WARN),
        ({"heldout": 0}, State.WARN),
        ({"train": 30, "empty": 30}, State.FAIL),
    ],
)
def test_there_must_be_enough(changes: dict[str, object], state: State) -> None:
    assert judge_amount(_look(**changes)).state is state


@pytest.mark.parametrize(
    ("changes", "state", "said"),
    [
        ({}, State.OK, "50 tokens in the median, 0% cut at 16 tokens; 0 repeated, 0 empty"),
        ({"cut": None, "is_exact": False}, State.OK, "about 50 tokens"),
        ({"shared": 1}, State.WARN, "also stand in data.train"),
        ({"empty": 11}, State.WARN, "nothing to learn"),
        ({"duplicates": 11}, State.WARN, "more than once"),
        ({"cut": 0.5}, State.WARN, "50% are longer"),
    ],
)
def test_a_flaw_is_named(changes: dict[str, object], state: State, said: str) -> None:
    found = judge_quality(_look(**changes), max_tokens=16)
    assert found.state is state
    assert said in found.text


def test_examples_are_counted() -> None:
    talk = Conversation((Turn("user", "hi"), Turn("assistant", "ho")))
    mute = Conversation((Turn("user", "hi"), Turn("assistant", " ")))
    train = [Example("", "a b c"), Example("", "a b c"), Example("q", ""), talk, mute]
    look = look_over(train, [Example("", "a b c")], count=len, max_tokens=4)
    assert (look.train, look.heldout, look.duplicates) == (5, 1, 1)
    assert (look.shared, look.empty) == (1, 2)
    assert look.cut == pytest.approx(0.8)
    assert look_over([], [], count=None, max_tokens=4).median_tokens == 0


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("f:3: 'instruction' is a number, a string was expected", True),
        (f"f (record '{SECRET}'): the record is null", False),
        (f"f:1: a message has the role '{SECRET}', known are system", False),
        (f"f:1: no known form has the keys '{SECRET}', 'b' (known are alpaca: instruction)", False),
    ],
)
def test_an_error_keeps_its_place_and_loses_what_is_private(text: str, *, kept: bool) -> None:
    assert (masked(text) == text) is kept
    assert SECRET not in masked(text)
    assert masked(text).startswith("f")


@pytest.mark.parametrize(
    "content",
    [
        f'{{"text": "{SECRET}"}}\n{{"text": 5, "x": "{SECRET}"}}\n',
        f'{{"{SECRET}": "x"}}\n',
        f'{{"messages": [{{"role": "{SECRET}", "content": "x"}}]}}\n',
        f'{{"text": "{SECRET}"\n',
        "",
    ],
)
def test_a_file_that_cannot_be_read_is_found_and_not_quoted(
    content: str,
    tmp_path: Path,
    agent_config: Callable[..., AgentConfig],
    examine: Examine,
) -> None:
    file = tmp_path / "private.jsonl"
    file.write_text(content)
    found = examine("data", Context(agent_config(data=DataConfig(train=file))))
    assert found["data"].state is State.FAIL
    assert str(file) in found["data"].text
    assert SECRET not in found["data"].text
    assert found["data-quality"].state is State.SKIP


def test_the_base_models_tokenizer_counts(
    tmp_path: Path,
    agent_config: Callable[..., AgentConfig],
    examine: Examine,
    run: RunAnnouncement,
) -> None:
    pytest.importorskip("tokenizers")
    base = Path(__file__).parents[3] / "tools" / "base"
    context = Context(agent_config(model=str(base)))
    context.known.run = run
    found = examine("data", context)
    assert found["data"].state is State.OK
    assert "about" not in found["data-quality"].text
    broken = tmp_path / "model"
    broken.mkdir()
    (broken / "tokenizer.json").write_text("{")
    found = examine("data", Context(agent_config(model=str(broken))))
    assert "about" in found["data-quality"].text


def test_held_out_examples_of_their_own_are_compared_with_the_others(
    tmp_path: Path, agent_config: Callable[..., AgentConfig], examine: Examine
) -> None:
    held = tmp_path / "held.jsonl"
    held.write_text("".join(json.dumps({"text": f"example number {i}"}) + "\n" for i in range(9)))
    data = DataConfig(train=agent_config().data.train, heldout=held)
    found = examine("data", Context(agent_config(data=data)))
    assert found["data"].text == "100 examples to learn, 9 held out"
    assert "9 held-out examples also stand" in found["data-quality"].text
