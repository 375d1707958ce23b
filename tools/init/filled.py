"""A commented YAML file with other values: its comments stay, for newcomers read them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

Path = tuple[str, ...]

_LINE = re.compile(r"(?P<indent> *)(?P<key>\w+):(?P<value> [^#]*?)??(?P<comment> +#.*)?\Z")


def filled(text: str, values: Mapping[Path, object]) -> str:
    """Return a YAML file with some values replaced or added, everything else as it was.

    Args:
        text: Block mappings of scalars, one key per line, comments behind them or between them.
        values: Place → value; a place that the file lacks is added to its mapping, or at the end.

    Raises:
        ValueError: The file is not laid out so that this place can be found.
    """
    lines = text.splitlines()
    wanted = yaml.safe_load(text) or {}
    for place, value in values.items():
        _put(wanted, place, value)
        lines = _with(lines, place, value)
    result = "\n".join(lines) + "\n"
    if yaml.safe_load(result) != wanted:
        raise ValueError(f"the template has no room for {'.'.join('/'.join(p) for p in values)}")
    return result


def _put(values: dict[str, Any], place: Path, value: object) -> None:
    for key in place[:-1]:
        inner = values.get(key)
        values[key] = inner if isinstance(inner, dict) else {}
        values = values[key]
    values[place[-1]] = value


def _with(lines: Sequence[str], place: Path, value: object) -> list[str]:
    begin, end, indent = 0, len(lines), 0
    for depth, key in enumerate(place):
        at = _find(lines, key, begin=begin, end=end, indent=indent)
        if at is None or (depth + 1 < len(place) and _end_of(lines, at) == at + 1):
            return _added(lines, place[depth:], value, at=at, end=end, indent=indent)
        if depth + 1 == len(place):
            behind = _end_of(lines, at)
            # What stands behind a mapping's name speaks of what is in it.
            line = lines[at] if behind == at + 1 else lines[at].partition(" #")[0].rstrip()
            return [*lines[:at], _replaced(line, value), *lines[behind:]]
        begin, end = at + 1, _end_of(lines, at)
        indent = _indent(next(line for line in lines[begin:end] if _is_key(line)))
    raise AssertionError("a place has at least one key")


def _find(lines: Sequence[str], key: str, *, begin: int, end: int, indent: int) -> int | None:
    for number in range(begin, end):
        match = _LINE.match(lines[number])
        if match and match["key"] == key and len(match["indent"]) == indent:
            return number
    return None


def _end_of(lines: Sequence[str], at: int) -> int:
    """Return the line behind the last key below the one in line `at`."""
    indent, end = _indent(lines[at]), at + 1
    for number in range(at + 1, len(lines)):
        if _is_key(lines[number]):
            if _indent(lines[number]) <= indent:
                break
            end = number + 1
    return end


def _added(
    lines: Sequence[str], keys: Path, value: object, *, at: int | None, end: int, indent: int
) -> list[str]:
    """Return the lines with one more: behind a mapping's last, or in place of a key's scalar."""
    for key in reversed(keys[1:]):
        value = {key: value}
    line = f"{' ' * indent}{keys[0]}: {_flow(value)}"
    if at is not None:
        return [*lines[:at], line, *lines[at + 1 :]]
    gap = [""] if indent == 0 and end and lines[end - 1] else []
    return [*lines[:end], *gap, line, *lines[end:]]


def _replaced(line: str, value: object) -> str:
    match = _LINE.match(line)
    assert match is not None
    written = f"{match['indent']}{match['key']}: {_flow(value)}"
    comment = match["comment"]
    if comment is None:
        return written
    # In the column where it stood, if there is room.
    column = len(line) - len(comment.lstrip())
    return f"{written.ljust(column - 2)}  {comment.lstrip()}"


def _flow(value: object) -> str:
    text: str = yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")


def _is_key(line: str) -> bool:
    return bool(_LINE.match(line))


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(" "))
