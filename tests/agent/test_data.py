"""Every form is read, and what cannot be read is named by file and line."""

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.data import (
    Conversation,
    DataError,
    Example,
    Turn,
    load_examples,
    split_heldout,
)


def lines(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        load_examples(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_alpaca_with_and_without_input(tmp_path: Path) -> None:
    path = lines(
        tmp_path / "a.jsonl",
        {"instruction": "Add.", "input": "1 2", "output": "3", "response": "ignored"},
        {"instruction": "Greet.", "input": "<noinput>", "output": "Hi"},
        {"instruction": "Greet.", "input": None, "output": "Hi"},
    )
    with_input, without, null = load_examples(path)
    assert with_input == Example(
        "### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:\n", "3"
    )
    assert without == null == Example("### Instruction:\nGreet.\n\n### Response:\n", "Hi")


def test_prompt_and_completion(tmp_path: Path) -> None:
    path = lines(tmp_path / "p.jsonl", {"prompt": "2+2=", "completion": "4"})
    assert load_examples(path) == [Example("2+2=", "4")]


def test_messages(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]
    path = lines(tmp_path / "m.jsonl", {"messages": turns})
    assert load_examples(path) == [Conversation((Turn("user", "Hi"), Turn("assistant", "Ho")))]


def test_plain_text_is_learnt_whole(tmp_path: Path) -> None:
    assert load_examples(lines(tmp_path / "t.jsonl", {"text": "abc"})) == [Example("", "abc")]


def test_pubmedqa_is_an_object_of_records(tmp_path: Path) -> None:
    path = tmp_path / "ori_pqal.json"
    record = {"QUESTION": "Does it?", "CONTEXTS": ["One.", "Two."], "LONG_ANSWER": "It does."}
    for indent in (None, 1):
        path.write_text(json.dumps({"101": record, "102": record}, indent=indent))
        first, second = load_examples(path)
        assert first == Example("One.\nTwo.\n\nQuestion: Does it?\nAnswer: ", "It does.")
        assert second.place.endswith("(record '102')")


def test_json_array_and_one_record_over_several_lines(tmp_path: Path) -> None:
    array = tmp_path / "a.json"
    array.write_text('\n [ {"text": "a"}\n,\n{"text": "b"} ]\n')
    assert [example.place.rsplit("/", 1)[1] for example in load_examples(array)] == [
        "a.json:2 (record 1)",
        "a.json:4 (record 2)",
    ]
    single = tmp_path / "s.json"
    single.write_text('{\n "text": "a"\n}')
    assert load_examples(single) == [Example("", "a")]


def test_one_json_line_in_a_json_file(tmp_path: Path) -> None:
    assert load_examples(lines(tmp_path / "one.json", {"text": "a"})) == [Example("", "a")]


def test_folder_is_read_in_the_order_of_names_each_file_in_its_form(tmp_path: Path) -> None:
    lines(tmp_path / "b.jsonl", {"prompt": "p", "completion": "c"})
    lines(tmp_path / "a.jsonl", {"text": "t"})
    (tmp_path / "README.md").write_text("not data")
    assert load_examples(tmp_path) == [Example("", "t"), Example("p", "c")]


def test_byte_order_mark_windows_lines_and_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "w.jsonl"
    path.write_bytes('\ufeff{"text": "ä"}\r\n\r\n{"text": "b"}\r\n'.encode())
    assert load_examples(path) == [Example("", "ä"), Example("", "b")]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "the file is empty"),
        (b" \n\n", "the file is empty"),
        (b"[]", "the file holds no records"),
        (b'{"text": "a"}\n{"text": \n', ":2: not JSON"),
        (b'{"text": "a"}\n[1]\n', ":2: the record is a list"),
        (b'{"text": "a"}\n{"txt": "b"}\n', ":2: the record has no 'text'"),
        (b'{"text": "a"}\n{"text": 3}\n', ":2: 'text' is a number, a string was expected"),
        (b'{"text": "a"}\n{"text": "\xff"}\n', ":2: not UTF-8"),
        (b'{"text": "a"}\n{"text": "\\ud800"}\n', ":2: 'text' holds half of a surrogate pair"),
        (b'{"text": " "}\n', ":1: 'text' is empty"),
        (b'{"question": "a", "answer": 1}\n', ":1: no known form has the keys 'question'"),
        (b"{}\n", ":1: no known form has the keys none"),
        (b"instruction,output\na,b\n", ":1: not JSON"),
        (b'{"prompt": "", "completion": ""}\n', ":1: the record is empty"),
        (b'{"prompt": null, "completion": ""}\n', ":1: 'prompt' is null"),
        (b'{"prompt": true, "completion": ""}\n', ":1: 'prompt' is true or false"),
        (b'{"messages": []}\n', ":1: 'messages' is an empty list"),
        (b'{"messages": ["a"]}\n', ":1: a message is a string"),
        (b'{"messages": [{"role": "user"}]}\n', ":1: 'content' is absent"),
        (b'{"messages": [{"role": "bot", "content": ""}]}\n', ":1: a message has the role 'bot'"),
        (b'{"messages": [{"role": "user", "content": ""}]}\n', ":1: no message is the assistant"),
        (b'[{"text": "a"},\n{"text": }]', ":2 (record 2): not JSON"),
        (b'[{"text": "a"}\n{"text": "b"}]', ":2: not JSON: ',' or ']' expected after record 1"),
        (b'[{"text": "a"}', "',' or ']' expected after record 1"),
        (b'[{"text": "a"}]\n]', ":2: there is more after the array's end"),
        (b'[{"text": "a"}, null]', "(record 2): the record is null"),
        (b'{\n"text": \n', ":3: not JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{\n"a":' * 100_000, "nested too deeply"),
        (
            b'{"QUESTION": "", "CONTEXTS": "a", "LONG_ANSWER": ""}\n',
            ":1: 'CONTEXTS' is a string, a list of strings was expected",
        ),
    ],
)
def test_what_cannot_be_read_is_named_in_one_line(
    tmp_path: Path, content: bytes, expected: str
) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    assert expected in refusal(path)
    assert str(path) in refusal(path)


def test_missing_file_and_folder_without_data(tmp_path: Path) -> None:
    assert "cannot be read: No such file" in refusal(tmp_path / "absent.jsonl")
    assert "holds no file ending in .json" in refusal(tmp_path)


@given(st.binary(max_size=200))
@settings(deadline=None, max_examples=200)
def test_any_bytes_give_examples_or_a_data_error(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.json"
        path.write_bytes(content)
        try:
            assert load_examples(path)
        except DataError as error:
            assert str(path) in str(error)  # noqa: PT017  # either way is right


@given(
    st.lists(st.text(max_size=4), min_size=2, max_size=60).filter(lambda t: len(set(t)) > 1),
    st.floats(0.01, 0.99),
)
@settings(deadline=None, max_examples=100)
def test_heldout_split_covers_all_and_shares_no_text(texts: list[str], share: float) -> None:
    examples = [Example("", text) for text in texts]
    train, heldout = split_heldout(examples, share=share)
    assert train
    assert heldout
    assert sorted(e.text for e in [*train, *heldout]) == sorted(e.text for e in examples)
    assert not {e.text for e in train} & {e.text for e in heldout}


def test_heldout_split_does_not_depend_on_order_or_on_other_examples() -> None:
    examples = [Example("", f"text {number}") for number in range(1000)]
    _, heldout = split_heldout(examples, share=0.2)
    _, reversed_heldout = split_heldout(examples[::-1], share=0.2)
    assert {e.text for e in heldout} == {e.text for e in reversed_heldout}
    assert 150 < len(heldout) < 250
    _, of_half = split_heldout(examples[:500], share=0.2)
    assert {e.text for e in of_half} == {e.text for e in heldout} & {e.text for e in examples[:500]}


def test_no_share_holds_nothing_out_and_one_text_is_trained_on() -> None:
    examples = [Example("", "a"), Example("", "b")]
    assert split_heldout(examples, share=0.0) == (examples, [])
    assert split_heldout(examples[:1], share=0.5)[0] == examples[:1]
    with pytest.raises(ValueError, match="held-out share"):
        split_heldout(examples, share=1.0)


def test_conversation_text_tells_conversations_apart() -> None:
    one = Conversation((Turn("user", "ab"), Turn("assistant", "c")))
    other = Conversation((Turn("user", "a"), Turn("assistant", "bc")))
    assert one.text != other.text
