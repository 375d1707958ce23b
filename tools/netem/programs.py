"""Running the machine's programs: where they are, what they said, and one line where they fail."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from tools.netem.commands import Command, render
from tools.netem.errors import NetemError, NoNetem, Unavailable

# Debian puts these where only root's PATH looks.
_SBIN: Final = "/usr/sbin:/usr/local/sbin:/sbin"
_CAP_NET_ADMIN: Final = 12
_TIMEOUT_S: Final = 60.0


class CommandFailed(NetemError):
    """A program ended with an error; the text holds its command line and its last words."""


def find(program: str) -> str | None:
    """Return the path of a program, None where it is not installed."""
    return shutil.which(program, path=os.environ.get("PATH", "") + os.pathsep + _SBIN)


def need(program: str, package: str) -> str:
    """Return the path of a program.

    Raises:
        Unavailable: It is not installed.
    """
    path = find(program)
    if path is None:
        raise Unavailable(f"{program} is not installed: apt-get install {package}")
    return path


def output_of(*command: str, missing: str | None = None) -> str:
    """Return what a program writes, without the last line's end.

    Args:
        command: Its argv.
        missing: Returned where the program is not there or fails.

    Raises:
        CommandFailed: It failed, and there is no `missing`.
        Unavailable: It is not installed, and there is no `missing`.
    """
    program = find(command[0])
    if program is None:
        if missing is None:
            raise Unavailable(f"{command[0]} is not installed")
        return missing
    done = subprocess.run(  # noqa: S603  # our own commands, no shell
        (program, *command[1:]), capture_output=True, text=True, check=False, timeout=_TIMEOUT_S
    )
    if done.returncode:
        if missing is not None:
            return missing
        words = " ".join((done.stderr or done.stdout).split())
        raise CommandFailed(f"`{render(command)}` failed: {words or f'status {done.returncode}'}")
    return done.stdout.rstrip("\n")


def run_all(commands: Iterable[Command]) -> None:
    """Run commands one after the other, up to the first that fails.

    Raises:
        NoNetem: The kernel has no netem.
        CommandFailed: One failed for another reason.
    """
    for command in commands:
        try:
            output_of(*command)
        except CommandFailed as error:
            if "netem" in command and _is_unknown(str(error)):
                raise no_netem() from error
            raise


def no_netem() -> NoNetem:
    """Return the error that tells what to do where the kernel has no netem."""
    return NoNetem(
        "this machine's kernel has no sch_netem: load it (modprobe sch_netem; Fedora:"
        " kernel-modules-extra), or use `fedfstq netem lab`, which brings a kernel of its own"
    )


def kernel_has_netem() -> bool:
    """Whether this kernel has netem; tried in a network namespace that is gone at once."""
    probe = ("tc", "qdisc", "add", "dev", "lo", "root", "netem", "limit", "10")
    return bool(
        output_of("unshare", "--net", "sh", "-c", f"{render(probe)} && echo yes", missing="")
    )


def may_administer() -> bool:
    """Whether this process may change network interfaces (root has CAP_NET_ADMIN mostly)."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> _CAP_NET_ADMIN & 1)
    return False


def _is_unknown(text: str) -> bool:
    return "unknown" in text or "not found" in text
