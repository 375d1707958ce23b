"""Starts, restarts and stops the demo's processes, as systemd does on a real fleet.

A process that dies is started again after a short pause, except where its exit code says that
only a person can mend it. Nothing outlives the demo: children are stopped in reverse order, and
on Linux the kernel ends them when the demo itself is killed.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from transport.exit_codes import ExitCode

# systemd's RestartSec in our units is seconds; a demo's spectators wait less.
RESTART_AFTER_S = 0.5
# A process that dies at every start is a bug that restarting hides.
MAX_RESTARTS = 10
STOP_TIMEOUT_S = 8.0

_FINAL = frozenset({ExitCode.OK, ExitCode.USAGE, ExitCode.REFUSED, ExitCode.CONFIG})
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Ended:
    """A process ended for good.

    Attributes:
        words: The last line it wrote to its log.
    """

    name: str
    code: int
    words: str


@dataclass(slots=True)
class _Child:
    name: str
    command: tuple[str, ...]
    log: Path
    process: subprocess.Popen[bytes]
    restarts: int = 0
    restart_at: float | None = None


@dataclass(slots=True)
class Processes:
    """The demo's processes by name; `pids.json` in the log folder always names those alive."""

    folder: Path
    environ: Mapping[str, str] = field(default_factory=dict)
    _children: dict[str, _Child] = field(default_factory=dict)

    def start(self, name: str, command: tuple[str, ...]) -> None:
        """Start a process whose output goes to `<folder>/<name>.log`."""
        log = self.folder / f"{name}.log"
        self._children[name] = _Child(name, command, log, self._spawn(command, log))
        self._write_pids()

    def watch(self) -> list[Ended]:
        """Restart what died and return what ended for good since the last call."""
        ended = []
        now = time.monotonic()
        for child in list(self._children.values()):
            code = child.process.poll()
            if code is None:
                continue
            if code in _FINAL or child.restarts >= MAX_RESTARTS:
                del self._children[child.name]
                ended.append(Ended(child.name, code, _last_line(child.log)))
            elif child.restart_at is None:
                child.restart_at = now + RESTART_AFTER_S
            elif now >= child.restart_at:
                child.restart_at = None
                child.restarts += 1
                child.process = self._spawn(child.command, child.log)
                self._write_pids()
        return ended

    def running(self, name: str) -> bool:
        """Tell whether a process lives, or will be started again."""
        return name in self._children

    def restarts(self) -> dict[str, int]:
        """Return how often each process that is not gone has been started again."""
        return {child.name: child.restarts for child in self._children.values() if child.restarts}

    def stop(self) -> None:
        """Stop every process: asked first, killed if need be; the first started is the last asked.

        What was started first is what the others talk to: with it gone, none could say goodbye.
        """
        first, *others = self._children.values() or (None,)
        self._children.clear()
        self._end(others)
        self._end([first] if first else [])
        self._write_pids()

    @staticmethod
    def _end(chosen: Sequence[_Child]) -> None:
        for child in chosen:
            if child.process.poll() is None:
                child.process.send_signal(signal.SIGTERM)
        until = time.monotonic() + STOP_TIMEOUT_S
        for child in chosen:
            try:
                child.process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                os.killpg(child.process.pid, signal.SIGKILL)
                child.process.wait()

    def _spawn(self, command: tuple[str, ...], log: Path) -> subprocess.Popen[bytes]:
        with log.open("ab") as output:
            return subprocess.Popen(  # noqa: S603  # our own commands, no shell
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.environ},
                # Ctrl-C reaches the demo alone, which then stops the others in order.
                start_new_session=True,
                preexec_fn=die_with_parent if sys.platform == "linux" else None,  # noqa: PLW1509  # one libc call, no locks
            )

    def pids(self) -> dict[str, int]:
        """Return each process's id by its name."""
        return {child.name: child.process.pid for child in self._children.values()}

    def _write_pids(self) -> None:
        pids = self.pids()
        temporary = self.folder / "pids.json.new"
        temporary.write_text(json.dumps(pids), encoding="utf-8")
        temporary.replace(self.folder / "pids.json")


def die_with_parent() -> None:
    """Have the kernel end this process when the one that started it is killed (Linux)."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1] if lines else ""
