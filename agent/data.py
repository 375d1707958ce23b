"""Reads a device's examples from JSON and JSON Lines, in the forms that people have them in.

A file's form is told by the keys of its first record; all its records then have that form:

    alpaca      {"instruction": ..., "input": ..., "output": ...}      ("input" may be absent)
    prompt      {"prompt": ..., "completion": ...}
    messages    {"messages": [{"role": "user", "content": ...}, ...]}
    text        {"text": ...}
    pubmedqa    {"QUESTION": ..., "CONTEXTS": [...], "LONG_ANSWER": ...}

A file is JSON Lines (one record a line), a JSON array of records, or a JSON object whose values
are records (as PubMedQA is published). Other keys of a record are ignored.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from json.decoder import WHITESPACE  # type: ignore[attr-defined]
from pathlib import Path
from typing import Any, NoReturn

_ROLES = ("system", "user", "assistant", "tool")
_SUFFIXES = (".json", ".jsonl", ".ndjson")
# "input" that says that there is none, as several Alpaca sets write it.
_NO_INPUT = frozenset({"", "<noinput>", "noinput", "none", "n/a"})


class DataError(Exception):
    """The examples cannot be read; the one line says where, what is wrong and what was expected."""


@dataclass(frozen=True, slots=True)
class Example:
    """A text to learn, and what stands before it without being learnt.

    Attributes:
        prompt: What is given; no loss is taken on it. Empty for plain text.
        completion: What is learnt, with the end of the sequence after it.
        place: Where it was read, for messages to people.
    """

    prompt: str
    completion: str
    place: str = field(default="", compare=False)

    @property
    def text(self) -> str:
        """All of it, as what it is told from others by."""
        return f"{self.prompt}\0{self.completion}"


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side of a conversation says."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns in their order; what the assistant says is learnt.

    Attributes:
        turns: At least one of them is the assistant's.
        place: Where it was read, for messages to people.
    """

    turns: tuple[Turn, ...]
    place: str = field(default="", compare=False)

    @property
    def text(self) -> str:
        """All of it, as what it is told from others by."""
        return "\0".join(f"{turn.role}\0{turn.content}" for turn in self.turns)


AnyExample = Example | Conversation


@dataclass(frozen=True, slots=True)
class _Form:
    """One form: the keys that tell it, and how a record of it becomes an example."""

    name: str
    keys: tuple[str, ...]
    read: Callable[[dict[str, Any], str], AnyExample]


def load_examples(path: Path) -> list[AnyExample]:
    """Return all examples of a file, or of the .json, .jsonl and .ndjson files of a folder.

    Args:
        path: The file or folder; a folder's files are read in the order of their names.

    Raises:
        DataError: There is no such file, or a record of it cannot be read.
    """
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in _SUFFIXES)
        if not files:
            raise DataError(f"{path}: the folder holds no file ending in {', '.join(_SUFFIXES)}")
        return [example for file in files for example in _load_file(file)]
    return _load_file(path)


def split_heldout(
    examples: Sequence[AnyExample], *, share: float
) -> tuple[list[AnyExample], list[AnyExample]]:
    """Return (examples to train on, examples to measure with), told apart by their text's hash.

    The same text always falls on the same side, wherever it stands and however often, so that
    neither a restart nor a duplicate moves an example into its own test. Where there are two texts
    and `share` is above 0, neither side is empty; a single text is trained on.

    Args:
        examples: What to split.
        share: The share to hold out, at least 0 and below 1.
    """
    if not 0 <= share < 1:
        raise ValueError(f"the held-out share is {share}, it must be at least 0 and below 1")
    keys = [_hash64(example.text) for example in examples]
    limit = 0
    if share > 0 and len(set(keys)) > 1:
        limit = min(max(int(share * 2**64), min(keys) + 1), max(keys))
    sides = list(zip(examples, keys, strict=True))
    return (
        [example for example, key in sides if key >= limit],
        [example for example, key in sides if key < limit],
    )


def _hash64(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def _load_file(path: Path) -> list[AnyExample]:
    text = _read_text(path)
    form: _Form | None = None
    examples: list[AnyExample] = []
    for record, place in _records(text, path):
        if not isinstance(record, dict):
            _refuse(place, f"the record is {_kind(record)}, an object was expected")
        form = form or _detect(record, place)
        missing = [key for key in form.keys if key not in record]
        if missing:
            _refuse(
                place,
                f"the record has no {missing[0]!r}; the file's first has the {form.name} form",
            )
        examples.append(form.read(record, place))
    if not examples:
        raise DataError(f"{path}: the file holds no records")
    return examples


def _read_text(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    try:
        return content.decode("utf-8-sig")  # some editors put a byte order mark first
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}:{line}: not UTF-8 text; save the file as UTF-8") from error


def _records(text: str, path: Path) -> Iterator[tuple[Any, str]]:
    """Yield each record with the place where it begins."""
    match text.lstrip()[:1]:
        case "":
            raise DataError(f"{path}: the file is empty; JSON Lines or a JSON array was expected")
        case "[":
            yield from _array_records(text, path)
        case _:
            if not _is_json_lines(text, path):
                yield from _object_records(text, path)
            else:
                for number, line in enumerate(text.split("\n"), start=1):
                    if line.strip():
                        yield _parse_line(line, f"{path}:{number}"), f"{path}:{number}"


def _is_json_lines(text: str, path: Path) -> bool:
    """Tell JSON Lines from one object over many lines, or one whose values are the records."""
    if path.suffix.lower() in {".jsonl", ".ndjson"}:
        return True
    first, *rest = text.strip().split("\n", 1)
    try:
        record = json.loads(first)
    except (ValueError, RecursionError):
        return not first.rstrip().endswith("{")
    if rest or not isinstance(record, dict) or not record:
        return True
    return not all(isinstance(value, dict) for value in record.values())


def _parse_line(line: str, place: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise DataError(f"{place}: not JSON: {error.msg} at column {error.colno}") from error
    except RecursionError as error:
        raise DataError(f"{place}: not JSON that can be read: it is nested too deeply") from error


def _array_records(text: str, path: Path) -> Iterator[tuple[Any, str]]:
    """Yield an array's records one by one, so that each knows the line that it begins in."""
    decoder = json.JSONDecoder()
    at = _skip(text, text.index("[") + 1)
    line, counted = 1, 0
    number = 0
    while text[at : at + 1] != "]":
        line, counted = line + text.count("\n", counted, at), at
        number += 1
        place = f"{path}:{line} (record {number})"
        try:
            record, at = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            raise DataError(
                f"{path}:{error.lineno} (record {number}): {_not_json(error)}"
            ) from error
        except RecursionError as error:
            raise DataError(f"{place}: the record is nested too deeply to be read") from error
        yield record, place
        at = _skip(text, at)
        if text[at : at + 1] == ",":
            at = _skip(text, at + 1)
        elif text[at : at + 1] != "]":
            line += text.count("\n", counted, at)
            raise DataError(f"{path}:{line}: not JSON: ',' or ']' expected after record {number}")
    after = _skip(text, at + 1)
    if after < len(text):
        line += text.count("\n", counted, after)
        raise DataError(f"{path}:{line}: there is more after the array's end")


def _object_records(text: str, path: Path) -> Iterator[tuple[Any, str]]:
    try:
        records = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: {_not_json(error)}") from error
    except RecursionError as error:
        raise DataError(f"{path}: the file is nested too deeply to be read") from error
    if not all(isinstance(record, dict) for record in records.values()):
        yield records, f"{path}:1"  # one record over several lines
        return
    for key, record in records.items():
        yield record, f"{path} (record {key!r})"


def _skip(text: str, at: int) -> int:
    return int(WHITESPACE.match(text, at).end())


def _not_json(error: json.JSONDecodeError) -> str:
    return f"not JSON: {error.msg} at column {error.colno}"


def _detect(record: dict[str, Any], place: str) -> _Form:
    for form in _FORMS:
        if all(key in record for key in form.keys):
            return form
    known = "; ".join(f"{form.name}: {', '.join(form.keys)}" for form in _FORMS)
    found = ", ".join(repr(key)[:40] for key in list(record)[:6]) or "none"
    raise DataError(f"{place}: no known form has the keys {found} (known are {known})")


def _alpaca(record: dict[str, Any], place: str) -> Example:
    instruction = _string(record, "instruction", place)
    given = _string(record, "input", place) if record.get("input") is not None else ""
    question = f"### Instruction:\n{instruction}\n\n"
    if given.strip().lower() not in _NO_INPUT:
        question += f"### Input:\n{given}\n\n"
    return _example(f"{question}### Response:\n", _string(record, "output", place), place)


def _prompt_completion(record: dict[str, Any], place: str) -> Example:
    prompt = _string(record, "prompt", place)
    return _example(prompt, _string(record, "completion", place), place)


def _text(record: dict[str, Any], place: str) -> Example:
    text = _string(record, "text", place)
    if not text.strip():
        _refuse(place, "'text' is empty")
    return _example("", text, place)


def _pubmedqa(record: dict[str, Any], place: str) -> Example:
    contexts = record["CONTEXTS"]
    if not isinstance(contexts, list) or not all(isinstance(part, str) for part in contexts):
        _refuse(place, f"'CONTEXTS' is {_kind(contexts)}, a list of strings was expected")
    question = _string(record, "QUESTION", place)
    prompt = "\n".join([*contexts, f"\nQuestion: {question}", "Answer: "])
    _encodable(prompt, "CONTEXTS", place)
    return _example(prompt, _string(record, "LONG_ANSWER", place), place)


def _messages(record: dict[str, Any], place: str) -> Conversation:
    messages = record["messages"]
    if not isinstance(messages, list) or not messages:
        _refuse(place, f"'messages' is {_kind(messages)}, a list with a message was expected")
    turns: list[Turn] = []
    for message in messages:
        if not isinstance(message, dict):
            _refuse(place, f"a message is {_kind(message)}, an object was expected")
        role = _string(message, "role", place)
        if role not in _ROLES:
            _refuse(place, f"a message has the role {role[:40]!r}, known are {', '.join(_ROLES)}")
        turns.append(Turn(role, _string(message, "content", place)))
    if all(turn.role != "assistant" for turn in turns):
        _refuse(place, "no message is the assistant's, so that there is nothing to learn")
    return Conversation(tuple(turns), place)


# The order decides where a record has the keys of several forms.
_FORMS = (
    _Form("alpaca", ("instruction", "output"), _alpaca),
    _Form("prompt", ("prompt", "completion"), _prompt_completion),
    _Form("messages", ("messages",), _messages),
    _Form("text", ("text",), _text),
    _Form("pubmedqa", ("QUESTION", "CONTEXTS", "LONG_ANSWER"), _pubmedqa),
)


def _example(prompt: str, completion: str, place: str) -> Example:
    if not prompt.strip() and not completion.strip():
        _refuse(place, "the record is empty: neither a prompt nor a completion")
    return Example(prompt, completion, place)


def _string(record: dict[str, Any], key: str, place: str) -> str:
    value = record.get(key)
    if not isinstance(value, str):
        found = _kind(value) if key in record else "absent"
        _refuse(place, f"{key!r} is {found}, a string was expected")
    return _encodable(value, key, place)


def _encodable(value: str, key: str, place: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        # JSON can spell half of a surrogate pair, which is no character of any text.
        _refuse(place, f"{key!r} holds half of a surrogate pair (\\ud800 to \\udfff)")
    return value


def _kind(value: object) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case int() | float():
            return "a number"
        case str():
            return "a string"
        case list():
            return "a list" if value else "an empty list"
        case _:
            return "an object"


def _refuse(place: str, what: str) -> NoReturn:
    raise DataError(f"{place}: {what}")
