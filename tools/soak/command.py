"""`fedfstq soak`: runs cases one after the other, and says which figures are reached."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.soak.cases import CASES, CaseEntry, case_named
from tools.soak.outcome import Outcome
from tools.soak.report import NoMarkers, Played, document, table, write_into
from transport.exit_codes import ExitCode

_MARKER = ".fedfstq-soak"


class SoakRefused(Exception):
    """The soak cannot begin; the text says why and how to mend it."""


@dataclass(frozen=True, slots=True)
class SoakOptions:
    """What the command was asked for.

    Attributes:
        cases: Names; none means all.
        out: Folder for `soak.json`, `soak.md`, and the logs and states of what failed.
        write: A page with markers, which the table goes into.
    """

    cases: tuple[str, ...]
    quick: bool
    as_json: bool
    out: Path
    write: Path | None


def run_soak(options: SoakOptions) -> ExitCode:
    """Run the cases, write the result, and return the exit code.

    Raises:
        SoakRefused: An unknown case, a folder that is no soak's, or a page without markers.
    """
    entries = _chosen(options)
    _prepare(options.out)
    if options.write is not None:
        _try_page(options.write)
    played = [_play(entry, options) for entry in entries]
    (options.out / "soak.json").write_text(document(played), encoding="utf-8")
    (options.out / "soak.md").write_text(table(played), encoding="utf-8")
    if options.write is not None:
        write_into(options.write, played)
    print(document(played) if options.as_json else table(played), end="")  # noqa: T201  # the answer
    return ExitCode.OK if all(one.outcome.reached for one in played) else ExitCode.FAILED


def _chosen(options: SoakOptions) -> Sequence[CaseEntry]:
    try:
        entries = [case_named(name) for name in options.cases] or list(CASES)
    except ValueError as error:
        raise SoakRefused(str(error)) from error
    return [entry for entry in entries if entry.has_quick or not options.quick]


def _prepare(out: Path) -> None:
    if out.exists() and any(out.iterdir()) and not (out / _MARKER).exists():
        raise SoakRefused(f"--out {out}: not empty, and not of an earlier soak; name another")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    (out / _MARKER).touch()


def _try_page(page: Path) -> None:
    try:
        write_into(page, [])
    except (NoMarkers, OSError) as error:
        raise SoakRefused(f"--write {page}: {error}") from error


def _play(entry: CaseEntry, options: SoakOptions) -> Played:
    began = time.monotonic()

    def tell(line: str) -> None:
        seconds = time.monotonic() - began
        print(f"{entry.name} {seconds:6.1f} s: {line}", file=sys.stderr, flush=True)  # noqa: T201  # progress

    tell(entry.promise)
    folder = options.out / entry.name
    folder.mkdir()
    try:
        outcome = entry.load(quick=options.quick)(folder, tell=tell)
    except Exception as error:  # noqa: BLE001  # one case that breaks off must not hide the others
        text = f"{type(error).__name__}: {error}"
        outcome = Outcome(entry.name, entry.promise, f"broke off: {text}", reached=False)
    tell(f"{'reached' if outcome.reached else 'NOT REACHED'}: {outcome.measured}")
    return Played(outcome, quick=options.quick, seconds=time.monotonic() - began)
