"""A Jetson's power mode (nvpmodel): from the files that nvpmodel itself keeps, without root."""

from __future__ import annotations

import re
from pathlib import Path

from agent.short_process import ShortProcess
from agent.sysfs import Files

_STATUS = re.compile(r"pmode:0*([0-9]{1,4})\b", re.ASCII)
_MODEL = re.compile(r"<\s*POWER_MODEL\s+ID=0*([0-9]{1,4})\s+NAME=([\w.+-]{1,40})", re.ASCII)
_ANSWER = re.compile(r"NV Power Mode:\s*([\w.+-]{1,40})", re.ASCII)

# nvpmodel is asked this seldom, since a mode hardly ever changes, and given so long to answer.
_ASK_EVERY_S = 600.0
_ANSWER_S = 10.0
_PROGRAM = Path("usr/sbin/nvpmodel")


def parse_status(status: str, config: str) -> str:
    """Return the name of the mode in nvpmodel's status file, "" where there is none.

    Args:
        status: /var/lib/nvpmodel/status, such as "pmode:0002".
        config: /etc/nvpmodel.conf, which names the modes of this board.
    """
    found = _STATUS.search(status)
    if not found:
        return ""
    names = dict(_MODEL.findall(config))
    return str(names.get(found[1], f"mode {found[1]}"))


def parse_answer(text: str) -> str:
    """Return the name of the mode in what `nvpmodel -q` prints, "" where there is none."""
    found = _ANSWER.search(text)
    return found[1] if found else ""


def read_mode(files: Files) -> str:
    """Return the mode's name as nvpmodel's own files tell it, "" where they do not."""
    status = files.text("var/lib/nvpmodel/status")
    return parse_status(status, files.text("etc/nvpmodel.conf")) if status else ""


class PowerMode:
    """Knows the power mode; asks nvpmodel, without waiting, where its files do not tell."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._answer = ""
        self._asked: ShortProcess | None = None
        self._ask_at = float("-inf")

    def read(self, now: float) -> str | None:
        """Return the mode's name, None where nothing tells it or not yet."""
        return read_mode(self._files) or self._ask(now) or None

    def close(self) -> None:
        """End a question that is not answered yet."""
        if self._asked:
            self._asked.close()

    def _ask(self, now: float) -> str:
        if self._asked:
            for line in self._asked.lines(now) or ():
                self._answer = parse_answer(line) or self._answer
        program = self._files.root / _PROGRAM
        if now >= self._ask_at and program.exists():
            self._ask_at = now + _ASK_EVERY_S
            self.close()
            try:
                self._asked = ShortProcess((str(program), "-q"), life_s=_ANSWER_S, now=now)
            except OSError:
                self._asked = None
        return self._answer
