"""Nothing that we run reads a format whose reading can run code of whoever wrote it.

Pickle and its kin do, and so do the readers that fall back on it: `torch.load` without
`weights_only=True`, numpy's `load` with `allow_pickle=True`, pandas' and joblib's.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = ("agent", "aggregator", "codec", "transport", "tools")

# Modules that do nothing else, or that do it behind a door of another name.
MODULES = frozenset(
    {"pickle", "_pickle", "cPickle", "cloudpickle", "copyreg", "dill", "joblib", "jsonpickle"}
    | {"marshal", "shelve", "dbm", "pickletools", "hickle", "klepto", "pyarrow.plasma"}
)
# Attributes and functions that unpickle, whatever they belong to.
NAMES = frozenset(
    {"Unpickler", "Pickler", "read_pickle", "to_pickle", "unsafe_load", "full_load"}
    | {"recv_pickle", "recv_pyobj", "send_pyobj", "__reduce__", "__reduce_ex__", "__setstate__"}
)
# YAML's loaders that make any object; `safe_load` and `SafeLoader` do not.
UNSAFE_LOADERS = frozenset({"Loader", "UnsafeLoader", "FullLoader", "CLoader", "CFullLoader"})


def breaches(source: str) -> Iterator[tuple[int, str]]:
    """Yield the line and the name of everything in a source that may unpickle."""
    tree = ast.parse(source)
    safe = {"SafeLoader", "CSafeLoader"} | {
        place.name
        for place in ast.walk(tree)
        if isinstance(place, ast.ClassDef)
        and [ast.unparse(base) for base in place.bases] == ["yaml.SafeLoader"]
    }
    for place in ast.walk(tree):
        match place:
            case ast.Import(names=names):
                for alias in names:
                    if _is_forbidden(alias.name):
                        yield place.lineno, alias.name
            case ast.ImportFrom(module=module, names=names):
                if _is_forbidden(module or ""):
                    yield place.lineno, module or ""
                for alias in names:
                    if alias.name in MODULES | NAMES or (
                        module == "yaml" and alias.name in UNSAFE_LOADERS | {"load"}
                    ):
                        yield place.lineno, f"{module}.{alias.name}"
            case ast.Attribute(attr=name) if name in NAMES:
                yield place.lineno, name
            case ast.FunctionDef(name=name) if name in NAMES:
                yield place.lineno, name
            case ast.Call():
                yield from ((place.lineno, reason) for reason in _call(place, safe))


def _call(call: ast.Call, safe: set[str]) -> Iterator[str]:
    keywords = {keyword.arg: keyword.value for keyword in call.keywords}
    name = ast.unparse(call.func)
    if "allow_pickle" in keywords and not _is(keywords["allow_pickle"], value=False):
        yield f"{name}(allow_pickle=…)"
    if name.endswith(("np.load", "numpy.load")) and len(call.args) > 2:
        yield f"{name} with allow_pickle by position"
    if name.endswith("torch.load") and not _is(keywords.get("weights_only"), value=True):
        yield "torch.load without weights_only=True"
    if name.endswith("yaml.load") and _loader(call, keywords) not in safe:
        yield "yaml.load without SafeLoader"
    if name in {"__import__", "import_module", "importlib.import_module"}:
        for argument in call.args[:1]:
            if isinstance(argument, ast.Constant) and _is_forbidden(str(argument.value)):
                yield str(argument.value)


def _loader(call: ast.Call, keywords: dict[str | None, ast.expr]) -> str:
    loader = keywords.get("Loader", call.args[1] if len(call.args) > 1 else None)
    return "" if loader is None else ast.unparse(loader).rsplit(".", maxsplit=1)[-1]


def _is(expression: ast.expr | None, *, value: bool) -> bool:
    return isinstance(expression, ast.Constant) and expression.value is value


def _is_forbidden(module: str) -> bool:
    return module in MODULES or module.split(".", maxsplit=1)[0] in MODULES


def test_nothing_that_we_run_unpickles() -> None:
    files = sorted(file for floor in FLOORS for file in (ROOT / floor).rglob("*.py"))
    assert {file.relative_to(ROOT).parts[0] for file in files} == set(FLOORS)
    found = [
        f"{file.relative_to(ROOT)}:{line}: {what}"
        for file in files
        for line, what in breaches(file.read_text(encoding="utf-8"))
    ]
    assert found == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import os, pickle as p",
        "def f():\n    import cloudpickle",
        "from pickle import loads",
        "from dill import load",
        "from multiprocessing.reduction import pickle",
        "import marshal",
        "import shelve",
        "import joblib.numpy_pickle",
        "__import__('pickle')",
        "import importlib\nimportlib.import_module('dill')",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "torch.load(path, weights_only=flag)",
        "np.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=flag)",
        "numpy.load(path, None, True)",
        "np.savez(path, a=a, allow_pickle=True)",
        "pandas.read_pickle(path)",
        "frame.to_pickle(path)",
        "from pandas import read_pickle",
        "yaml.load(text)",
        "yaml.load(text, Loader=yaml.Loader)",
        "yaml.load(text, yaml.UnsafeLoader)",
        "yaml.unsafe_load(text)",
        "from yaml import load, SafeLoader",
        "class L(yaml.Loader): ...\nyaml.load(text, Loader=L)",
        "class A:\n    def __reduce__(self):\n        return 1",
        "x.Unpickler(file)",
    ],
)
def test_a_breach_is_found(source: str) -> None:
    assert len(list(breaches(source))) >= 1


@pytest.mark.parametrize(
    "source",
    [
        "# import pickle\nTEXT = 'import pickle'",
        "torch.load(path, weights_only=True)",
        "np.load(path)",
        "np.load(path, allow_pickle=False)",
        "json.load(file)",
        "yaml.safe_load(text)",
        "yaml.load(text, Loader=yaml.SafeLoader)",
        "class L(yaml.SafeLoader): ...\nyaml.load(text, Loader=L)",
        "model.load(path)",
    ],
)
def test_an_honest_reader_is_no_breach(source: str) -> None:
    assert list(breaches(source)) == []
