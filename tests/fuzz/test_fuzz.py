"""Every decoder is fuzzed for a short time; `FEDFSTQ_FUZZ_S` says how many seconds each gets.

A longer run of some: `python tests/fuzz/run.py frame inbound --seconds 600 --corpus FOLDER`.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SECONDS = float(os.environ.get("FEDFSTQ_FUZZ_S", "1"))
# [s] Python, numpy and the instrumented packages have to be loaded, on a machine that has other
# things to do.
START_S = 120.0

names = re.findall(r'^    "([a-z-]+)": ', (HERE / "targets.py").read_text(), re.MULTILINE)
engines = ["mutations", *(["atheris"] if importlib.util.find_spec("atheris") else [])]


def fuzz(
    *arguments: str, folder: Path, script: Path = HERE / "run.py", limit_s: float = START_S
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(script), *arguments],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=limit_s,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(HERE.parents[1]), "TMPDIR": str(folder)},
        check=False,
    )


@pytest.mark.timeout(START_S + 2 * len(names) * SECONDS + 60)
def test_decoders_let_nothing_out_but_typed_errors(tmp_path: Path) -> None:
    limit_s = START_S + 2 * len(names) * SECONDS
    ended = fuzz("all", "--seconds", str(SECONDS), folder=tmp_path, limit_s=limit_s)
    assert ended.returncode == 0, ended.stdout[-5000:] + ended.stderr[-9000:]
    assert re.findall(r"^([a-z-]+): .* s with", ended.stdout, re.MULTILINE) == names
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("engine", engines)
def test_a_finding_ends_the_run_and_can_be_replayed(engine: str, tmp_path: Path) -> None:
    """With a decoder that lets `struct.error` out, as many do that were written in a hurry."""
    for source in ("run.py", "targets.py", "seeds.py"):
        shutil.copy(HERE / source, tmp_path)
    with (tmp_path / "targets.py").open("a") as file:
        file.write(
            "\ndef _unpack(raw, total):\n    raise struct.error('as it was not meant')\n"
            "bitmap.unpack = _unpack\n"
        )
    script, artifacts = tmp_path / "run.py", tmp_path / "found"
    options = ("bitmap", "--engine", engine)
    ended = fuzz(
        *options, "--seconds", "30", "--artifacts", str(artifacts), folder=tmp_path, script=script
    )
    assert ended.returncode == 1
    assert "FOUND with bitmap" in ended.stdout
    (kept,) = (artifacts / "bitmap").iterdir()
    again = fuzz(*options, "--replay", str(kept), folder=tmp_path, script=script)
    assert "as it was not meant" in again.stderr


def test_every_target_has_true_bytes_to_begin_with() -> None:
    text = (HERE / "seeds.py").read_text()
    assert len(names) > 10
    for name in names:
        assert f'"{name}": ' in text
