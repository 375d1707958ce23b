"""A booted systemd for tests, in a container that is this machine's file system once more.

The container's root is an overlay: everything that is installed here is there at the same path,
and what is written there is gone afterwards. Two folders are empty in it, /tmp and /run. Its
network is a loopback of its own. Mounts and processes live in namespaces that end with the process
that booted it; the next boot removes the empty folders that a killed test run leaves.

Needs root, systemd-nspawn (Debian: systemd-container) and util-linux.
"""

from __future__ import annotations

import io
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = (
    "systemd-nspawn",
    "systemctl",
    "unshare",
    "nsenter",
    "setpriv",
    "mount",
    "tar",
    "timeout",
)
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
}
BOOT_S = 90.0
POWER_OFF_S = 20.0
# What the container, and each unit with PrivateTmp, has of its own.
HIDDEN = ("/tmp/", "/var/tmp/", "/run/")
KILLED = (137, -9)  # what `timeout --signal=KILL` and nsenter above it say

# $1 is an empty folder, $2 the machine id; the rest is what to boot. systemd takes a new machine id
# for a first boot, on which it would enable whatever the distribution presets. The own cgroup of
# each old (v1) controller lets the limits of units work there, below those of this process.
_START = """
set -eu
folder=$1 id=$2; shift 2
mount -t proc proc /proc
mount -t tmpfs -o size=4G,mode=755 box "$folder"
mkdir "$folder/upper" "$folder/work" "$folder/root"
mount -t overlay -o "lowerdir=/,upperdir=$folder/upper,workdir=$folder/work" box "$folder/root"
printf '%s\\n' "$id" >"$folder/root/etc/machine-id"
for own in $FEDFSTQ_BOX_CGROUPS; do mkdir "$own"; echo $$ >"$own/cgroup.procs"; done
unset FEDFSTQ_BOX_CGROUPS
exec systemd-nspawn --quiet --directory="$folder/root" --machine=fedfstq-box --register=no \
  --keep-unit --notify-ready=yes --private-network --link-journal=no --boot "$@"
"""


class BoxError(RuntimeError):
    """The container did not boot, or a command in it did not do what was asked."""


def impossible() -> str | None:
    """Says why no container can be booted here; None where one can."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        return f"needs {', '.join(missing)} (Debian: systemd-container, util-linux)"
    if os.geteuid() != 0:
        return "needs root"
    if subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True).returncode:
        return "this root may not mount anything"
    if "\toverlay\n" not in Path("/proc/filesystems").read_text():
        return "this kernel has no overlay file system"
    for seen in (str(Path(__file__).resolve()), f"{sys.prefix}/"):
        if seen.startswith(HIDDEN):
            return f"services cannot see {seen}: clone the project below /opt or /srv"
    return None


@dataclass(frozen=True, slots=True)
class Box:
    """A running container.

    Attributes:
        leader: Its systemd's process id, as seen from here.
    """

    leader: int

    def run(
        self, command: str, *, check: bool = True, limit_s: float = 120.0, stdin: bytes = b""
    ) -> subprocess.CompletedProcess[str]:
        """Runs a line of shell in the container, as root with a bare environment.

        Args:
            command: For `sh -c`.
            check: Whether an exit code other than 0 is an error.
            limit_s: Seconds after which the command is killed, which is an error always.
            stdin: What the command reads.

        Raises:
            BoxError: With the command's output.
        """
        variables = [f"{name}={value}" for name, value in ENVIRONMENT.items()]
        inside = ["timeout", "--signal=KILL", str(limit_s), "sh", "-c", command]
        enter = ["nsenter", "--all", f"--target={self.leader}"]
        # Files, for a pipe would stay open as long as a daemon that the command leaves behind.
        with (
            tempfile.TemporaryFile() as given,
            tempfile.TemporaryFile("w+", errors="replace") as out,
            tempfile.TemporaryFile("w+", errors="replace") as err,
        ):
            given.write(stdin)
            given.seek(0)
            code = subprocess.run(
                [*enter, "env", "-i", *variables, *inside],
                check=False,
                stdin=given,
                stdout=out,
                stderr=err,
            ).returncode
            out.seek(0)
            err.seek(0)
            done = subprocess.CompletedProcess(command, code, out.read(), err.read())
        if code in KILLED:
            raise BoxError(f"{command}\nkilled after {limit_s} s\n{done.stdout}{done.stderr}")
        if check and code:
            raise BoxError(f"{command}\nexit {code}\n{done.stdout}{done.stderr}")
        return done

    def write(self, path: str, text: str, *, mode: int = 0o644, owner: str = "root:root") -> None:
        """Writes a file in the container, with the folders above it."""
        user, group = owner.split(":")
        self.run(
            f"install -D -m {mode:o} -o {user} -g {group} /dev/stdin {shlex.quote(path)}",
            stdin=text.encode(),
        )

    def read(self, path: str) -> str:
        """Returns a file of the container."""
        return self.run(f"cat {shlex.quote(path)}").stdout

    def copy(self, source: Path, target: str) -> None:
        """Puts a file or folder of this machine at `target`; a folder joins one that is there."""
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            archive.add(source, arcname=Path(target).name)
        above = shlex.quote(str(Path(target).parent))
        self.run(
            f"mkdir -p {above} && tar --extract --no-same-owner --directory={above}",
            stdin=packed.getvalue(),
        )

    def journal(self, unit: str) -> str:
        """Returns what a unit has logged since the boot, without times and names."""
        return self.run(f"journalctl --no-pager --output=cat --unit={shlex.quote(unit)}").stdout

    def show(self, unit: str, name: str) -> str:
        """Returns one property of a unit, as `systemctl show` has it."""
        line = f"systemctl show --value --property={shlex.quote(name)} {shlex.quote(unit)}"
        return self.run(line).stdout.strip()

    def wait(self, condition: Callable[[], bool], what: str, *, limit_s: float = 60.0) -> None:
        """Returns as soon as the condition holds.

        Raises:
            BoxError: It did not within `limit_s`; the message says `what` was awaited.
        """
        give_up = time.monotonic() + limit_s
        while not condition():
            if time.monotonic() > give_up:
                raise BoxError(f"waited {limit_s} s for {what}")
            time.sleep(0.05)


@contextmanager
def boot(target: str = "basic.target") -> Iterator[Box]:
    """Boots a container and powers it off in the end.

    `basic.target` starts nothing that is only enabled here, such as this machine's own mosquitto.
    `systemctl enable --now` works as everywhere.

    Raises:
        BoxError: It did not come up; the message ends with what the container said.
    """
    outside = Path(tempfile.mkdtemp(prefix=f"fedfstq-box-{os.getpid()}-"))
    process: subprocess.Popen[bytes] | None = None
    cgroups = _own_cgroups(outside.name)
    _sweep(outside.parent)
    try:
        (outside / "mounts").mkdir()
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notes,
            (outside / "console").open("w+b") as console,
        ):
            notes.bind(str(outside / "notify"))
            process = _start(outside, target=target, console=console, cgroups=cgroups.values())
            leader = _await_ready(process, notes, outside / "console")
        # The socket is closed by now: systemd says each state of a long job there, and would hang
        # as soon as its queue is full.
        box = Box(leader)
        if cgroups:
            _open_cgroups(box, cgroups)
        yield box
    finally:
        if process is not None:
            _stop(process)
        _remove(outside)


def _sweep(above: Path) -> None:
    """Removes what boots of processes that have been killed have left."""
    for left in above.glob("fedfstq-box-*-*"):
        owner = left.name.split("-")[2]
        if not Path("/proc", owner).exists():
            _remove(left)


def _remove(outside: Path) -> None:
    for own in _own_cgroups(outside.name).values():
        for folder, _, _ in os.walk(own, topdown=False):
            with suppress(OSError):
                Path(folder).rmdir()
    shutil.rmtree(outside, ignore_errors=True)


def _start(
    outside: Path, *, target: str, console: io.BufferedRandom, cgroups: Iterable[Path]
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        # Killed with us, and with it all that is in its process namespace.
        [
            *("setpriv", "--pdeathsig=KILL", "unshare", "--mount", "--propagation=private"),
            *("--pid", "--fork", "--kill-child"),
            *("sh", "-c", _START, "box", str(outside / "mounts"), uuid.uuid4().hex),
            f"systemd.unit={target}",
        ],
        stdin=subprocess.DEVNULL,
        stdout=console,
        stderr=subprocess.STDOUT,
        env={
            **ENVIRONMENT,
            "NOTIFY_SOCKET": str(outside / "notify"),
            "FEDFSTQ_BOX_CGROUPS": " ".join(map(str, cgroups)),
        },
    )


def _await_ready(process: subprocess.Popen[bytes], notes: socket.socket, console: Path) -> int:
    """Returns the process id of the container's systemd, once it has started everything."""
    notes.settimeout(0.2)
    give_up = time.monotonic() + BOOT_S
    said: list[str] = []
    while "READY=1" not in said:
        if process.poll() is not None or time.monotonic() > give_up:
            tail = console.read_text(errors="replace")[-3000:]
            raise BoxError(f"the container did not boot (exit {process.poll()}):\n{tail}")
        with suppress(TimeoutError):
            said += notes.recv(4096).decode().splitlines()
    (leader,) = [child for child in _children(_nspawn(process)) if _is_first(child)]
    return leader


def _nspawn(process: subprocess.Popen[bytes]) -> int:
    return next(iter(_children(process.pid)))


def _children(parent: int) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def _is_first(pid: int) -> bool:
    """Whether a process is number 1 of its namespace."""
    ids = re.search(r"^NSpid:(.*)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return ids is not None and ids[1].split()[-1] == "1"


def _stop(process: subprocess.Popen[bytes]) -> None:
    try:
        # systemd-nspawn takes SIGTERM for an orderly power-off.
        os.kill(_nspawn(process), signal.SIGTERM)
        process.wait(POWER_OFF_S)
    except (StopIteration, OSError, subprocess.TimeoutExpired):
        process.kill()
        process.wait()


def _own_cgroups(name: str) -> dict[Path, Path]:
    """Returns a folder to make below each old hierarchy; none where there is only v2."""
    own = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, above = line.split(":", 2)
        mounted = Path("/sys/fs/cgroup") / controllers
        if {"memory", "pids", "cpu"} & set(controllers.split(",")) and mounted.is_dir():
            own[mounted] = mounted / above.lstrip("/") / name
    return own


def _open_cgroups(box: Box, mounted: Iterable[Path]) -> None:
    # systemd-nspawn mounts them read-only, and systemd looks only when it starts.
    for hierarchy in mounted:
        box.run(f"mount -o remount,bind,rw {hierarchy}")
    box.run("systemctl daemon-reexec")
