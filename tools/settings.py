"""One YAML file per service becomes one checked, frozen configuration, or one clear line.

Values come from the file, then from the environment (`FEDFSTQ__BROKER__HOST=…`), then from the
command line (`--set broker.host=…`); the later wins. What is unknown is an error with a hint: a
misspelt key that is silently ignored is found on the day on which it would have mattered.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

ENVIRONMENT_PREFIX = "FEDFSTQ__"

M = TypeVar("M", bound=BaseModel)


class SettingsError(Exception):
    """The configuration cannot be used; the text says where, what, and how to mend it."""


def load(
    model: type[M],
    path: Path,
    *,
    overrides: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
) -> M:
    """Return the configuration in a YAML file, overridden by environment and command line.

    Args:
        model: The service's configuration class.
        path: The YAML file.
        overrides: `a.b=c` each, c in YAML's notation.
        environ: Environment variables; those named `FEDFSTQ__A__B` set `a.b`.

    Raises:
        SettingsError: The file cannot be read, is no YAML, or does not fit the class.
    """
    values = _read(path)
    for name, text in sorted((environ or {}).items()):
        if name.startswith(ENVIRONMENT_PREFIX):
            keys = name[len(ENVIRONMENT_PREFIX) :].lower().split("__")
            _put(values, keys, text, source=f"environment variable {name}")
    for override in overrides:
        name, equals, text = override.partition("=")
        if not equals:
            raise SettingsError(f"--set {override}: write --set key=value, or --set a.b=value")
        _put(values, name.strip().split("."), text, source=f"--set {override}")
    try:
        return model.model_validate(values)
    except ValidationError as error:
        lines = [_explain(model, detail) for detail in error.errors()]
        raise SettingsError(f"{path}: " + "; ".join(lines)) from error


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, which also refuses a key that stands twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002  # PyYAML's own signature
        seen: set[object] = set()
        for key_of, _ in node.value:
            key = self.construct_object(key_of, deep=True)
            if not isinstance(key, str):
                mark = key_of.start_mark
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} is no name", mark)
            if key in seen:
                mark = key_of.start_mark
                raise yaml.constructor.ConstructorError(None, None, f"{key} stands twice", mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise SettingsError(f"{path}: cannot be read: {reason}") from error
    try:
        values = yaml.load(text, Loader=_Loader)  # noqa: S506  # a SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}, column {mark.column + 1}:" if mark else ""
        problem = getattr(error, "problem", None) or "no YAML"
        raise SettingsError(f"{path}:{where} {problem}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise SettingsError(f"{path}: expected `key: value` lines, found a {_kind(values)}")
    return values


def _put(values: dict[str, Any], keys: Sequence[str], text: str, *, source: str) -> None:
    try:
        value = yaml.load(text, Loader=_Loader)  # noqa: S506  # a SafeLoader
    except yaml.YAMLError as error:
        raise SettingsError(f"{source}: the value is no YAML") from error
    for key in keys[:-1]:
        inner = values.setdefault(key, {})
        if not isinstance(inner, dict):
            raise SettingsError(f"{source}: {key} holds a {_kind(inner)}, not further keys")
        values = inner
    values[keys[-1]] = value


def _explain(model: type[BaseModel], detail: ErrorDetails) -> str:
    where = ".".join(str(part) for part in detail["loc"])
    match detail["type"]:
        case "extra_forbidden" | "unexpected_keyword_argument":
            return f"{where}: unknown key{_hint(model, detail['loc'])}"
        case "missing":
            return f"{where}: missing"
        case _:
            message = detail["msg"][:1].lower() + detail["msg"][1:]
            return f"{where}: {message}" if where else message


def _hint(model: type[BaseModel], location: tuple[int | str, ...]) -> str:
    known = _fields_at(model, location[:-1])
    close = difflib.get_close_matches(str(location[-1]), known, n=1)
    if close:
        return f", did you mean {close[0]}?"
    return f" (known: {', '.join(known)})" if known else ""


def _fields_at(model: type[Any], location: tuple[int | str, ...]) -> list[str]:
    """Return the keys that are legal at a place of the configuration, [] where none is known."""
    kind: Any = model
    for part in location:
        fields = _fields(kind)
        if part not in fields:
            return []
        annotation = fields[str(part)]
        kind = next((arg for arg in (annotation, *get_args(annotation)) if _fields(arg)), None)
    return sorted(_fields(kind))


def _fields(kind: Any) -> dict[str, Any]:
    fields = getattr(kind, "model_fields", None) or getattr(kind, "__pydantic_fields__", None) or {}
    return {name: field.annotation for name, field in fields.items()}


def _kind(value: object) -> str:
    return {list: "list", dict: "mapping", str: "text", bool: "yes/no"}.get(type(value), "number")
