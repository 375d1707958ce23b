"""A router in a small virtual machine, whose kernel has the netem that this machine's lacks.

Its serial port is the kernel's console, and goes to a log. Requests (lines of shell) and answers
take a virtio port: an emulated serial line would need half a second for what changes 20 links.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from tools.netem.commands import Command, render
from tools.netem.errors import LabBroken
from tools.netem.initramfs import router_system
from tools.netem.programs import need

# [s] Software emulation boots in 3 to 10 s; on a machine with ten times too much to do, in minutes.
_BOOT_S: Final = 180.0
_ANSWER_S: Final = 120.0
_MEMORY_MB: Final = 192
_PR_SET_PDEATHSIG: Final = 1
_MARK: Final = b"=== "
# Nothing may join packets on their way to netem, or one loss would take dozens of them.
_OFFLOADS: Final = (
    *("csum", "gso", "guest_csum", "guest_tso4", "guest_tso6", "guest_ufo"),
    *("host_tso4", "host_tso6", "host_ufo", "guest_ecn", "host_ecn"),
)


class RouterVm:
    """The virtual machine; its interface eth0 is the first tap, eth1 the second."""

    interfaces = ("eth0", "eth1")

    def __init__(self, *, namespace: str, taps: Sequence[str], log: Path) -> None:
        """Start to boot it.

        Args:
            namespace: The network namespace that the taps are in.
            taps: Their names.
            log: A file for the kernel's messages.

        Raises:
            Unavailable: A program is missing, or the kernel cannot be fetched.
        """
        system = router_system()
        qemu = need("qemu-system-x86_64", "qemu-system-x86")
        command = ["ip", "netns", "exec", namespace, qemu, "-nodefaults", "-no-user-config"]
        command += ["-M", "q35", "-accel", "tcg", "-cpu", "max"]
        command += ["-m", str(_MEMORY_MB), "-display", "none", "-no-reboot"]
        command += ["-serial", f"file:{log}", "-chardev", "stdio,id=control,signal=off"]
        command += ["-device", "virtio-serial-pci", "-device", "virtserialport,chardev=control"]
        command += ["-kernel", str(system.kernel), "-initrd", str(system.initramfs)]
        command += ["-append", "console=ttyS0 loglevel=3 panic=-1 mitigations=off"]
        for number, tap in enumerate(taps):
            command += ["-netdev", f"tap,id=n{number},ifname={tap},script=no,downscript=no"]
            offloads = ",".join(f"{name}=off" for name in _OFFLOADS)
            device = f"virtio-net-pci,netdev=n{number},romfile=,{offloads}"
            command += ["-device", device]
        is_main = threading.current_thread() is threading.main_thread()
        self._log = log
        self._lock = threading.Lock()
        self._unread = b""
        with log.with_suffix(".errors").open("wb") as errors:
            self._process = subprocess.Popen(  # noqa: S603  # our own command, no shell
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                start_new_session=True,
                # The kernel ends it with the thread that starts it, so only the main one asks.
                preexec_fn=_die_with_parent if is_main else None,  # noqa: PLW1509  # one libc call
            )

    def wait_booted(self) -> None:
        """Return when the router answers.

        Raises:
            LabBroken: It does not; the text holds its last words.
        """
        self._answer(_BOOT_S)

    def run(self, commands: Iterable[Command]) -> str:
        """Run commands in the router, up to the first that fails, and return what they wrote.

        Raises:
            LabBroken: One failed, or the router is gone.
        """
        return self.script(_script(commands))

    def script(self, text: str) -> str:
        """Run lines of shell in the router, up to the first that fails."""
        with self._lock:
            stdin = self._process.stdin
            assert stdin is not None
            try:
                stdin.write(f"{text}\n.\n".encode())
                stdin.flush()
            except OSError as error:
                raise LabBroken(f"the router is gone: {self._last_words()}") from error
            answer, status = self._answer(_ANSWER_S)
        if status:
            words = " ".join(answer.split())
            raise LabBroken(f"the router cannot do `{text}`: {words or status}")
        return answer

    def close(self) -> None:
        """Switch it off."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()

    def _answer(self, timeout_s: float) -> tuple[str, int]:
        """Return what came up to the next mark, and the status that stands in it."""
        stdout = self._process.stdout
        assert stdout is not None
        deadline = time.monotonic() + timeout_s
        while True:
            before, mark, after = self._unread.partition(_MARK)
            if mark and b"\n" in after:
                status, _, self._unread = after.partition(b"\n")
                return before.decode(errors="replace"), int(status)
            left_s = max(0.0, deadline - time.monotonic())
            ready, _, _ = select.select([stdout], [], [], left_s)
            came = os.read(stdout.fileno(), 65_536) if ready else b""
            if not came:
                why = "it ended" if ready else f"no answer within {timeout_s:.0f} s"
                raise LabBroken(f"the router does not work: {why}: {self._last_words()}")
            self._unread += came

    def _last_words(self) -> str:
        words = b""
        for path in (self._log.with_suffix(".errors"), self._log):
            with contextlib.suppress(OSError):
                words += path.read_bytes()[-300:]
        return " ".join(words.decode(errors="replace").split()) or "it said nothing"


def _script(commands: Iterable[Command]) -> str:
    """Return commands as a script; what runs of the same program can share starts only once."""
    lines = []
    for program, group in itertools.groupby(commands, key=lambda command: command[0]):
        calls = list(group)
        if len(calls) == 1:
            lines.append(render(calls[0]))
        else:  # emulated, a process takes 25 ms, and a fade of 200 ms shall reach 20 devices
            arguments = (" ".join(call[1:]) for call in calls)
            lines += [f"{program} -batch - <<'END'", *arguments, "END"]
    return "\n".join(lines)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
