"""CodeAlpaca as a workload: instructions and programs, by what is asked for."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from agent.data import DataError, Example, load_examples
from tools.experiment.quality.programs import is_program
from tools.experiment.workloads.records import Record, find_files
from tools.experiment.workloads.workload import Question

PATTERNS = ("codealpaca*.json", "new_codealpaca.json", "code_alpaca*.json")
FETCH = "fetch data/new_codealpaca.json from github.com/sahil280114/codealpaca"

# Kind → what an instruction that asks for it says; the first kind that is named counts.
KINDS: tuple[tuple[str, str], ...] = (
    ("c++", r"c\+\+"),
    ("c#", r"c#|\.net\b"),
    ("java", r"\bjava\b"),
    ("javascript", r"javascript|\bjs\b|node\.?js|typescript|jquery|\breact\b"),
    ("shell", r"\bshell\b|\bbash\b|\blinux\b|\bunix\b|command[- ]line"),
    ("php", r"\bphp\b"),
    ("web", r"\bhtml\b|\bcss\b|web ?page|website"),
    ("sql", r"\bsql\b|mysql|sqlite|database query"),
    ("c", r"\bc (?:program|function|code|language)\b|\bin c\b"),
    ("python", r"python|\bdjango\b|\bpandas\b|\bnumpy\b"),
    ("explain", r"\b(?:what|why|explain|describe|identify|output)\b"),
)
OTHER = "other"


def code_records(data: Path | None) -> list[Record]:
    """Return CodeAlpaca's records in the agent's own Alpaca form.

    Raises:
        DataError: There is no such file, or it is not in the Alpaca format.
    """
    files = find_files("code", data, patterns=PATTERNS, fetch=FETCH)
    return [_record(example) for file in files for example in _examples(file)]


def kind(prompt: str) -> str:
    """Return what an instruction asks for: a language that it names, else whether to explain."""
    asked = prompt.lower()
    return next((name for name, says in KINDS if re.search(says, asked)), OTHER)


def _examples(file: Path) -> Sequence[Example]:
    examples = [each for each in load_examples(file) if isinstance(each, Example)]
    if not examples or not examples[0].prompt.startswith("### Instruction:"):
        raise DataError(f"{file}: not in the Alpaca format: no 'instruction' and 'output'")
    return examples


def _record(example: Example) -> Record:
    label = kind(example.prompt)
    instruction = example.prompt.split("\n### ")[0].strip().lower()
    given = example.prompt.partition("### Input:\n")[2].removesuffix("\n\n### Response:\n")
    question = Question(
        example.prompt,
        example.completion,
        python=label == "python" and is_program(example.completion),
        given=given,
    )
    return Record(example.prompt, example.completion, label, instruction, question)
