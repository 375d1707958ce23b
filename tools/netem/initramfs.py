"""The router's whole system: a stock Debian kernel, and an initramfs of a few megabytes.

The kernel package is fetched with apt once and kept in the cache folder; nothing is installed.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tools.netem.errors import Unavailable
from tools.netem.programs import need, output_of

# What the router cannot do without, and what an interface's own link is made of, so that those
# commands can be tried in it; what these depend on comes along.
_MODULES: Final = (
    *("virtio_pci", "virtio_console", "virtio_net", "sch_htb", "cls_u32", "sch_netem"),
    *("ifb", "sch_ingress", "cls_matchall", "act_mirred"),
)
_KERNEL_PACKAGE: Final = "linux-image-cloud-amd64"
_EXECUTABLE: Final = 0o100755
_REGULAR: Final = 0o100644
_FOLDER: Final = 0o040755
_CPIO_END: Final = "TRAILER!!!"

# A request is lines of shell and a line with a dot; the answer's last line holds the exit status.
INIT: Final = """\
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in $(cat /modules/order); do insmod "/modules/$module.ko"; done
/sbin/ip link set lo up
echo 1 > /proc/sys/net/ipv4/ip_forward
# busybox's shell takes its own ip and tc before any others.
echo 'ip() { /sbin/ip "$@"; }; tc() { /sbin/tc "$@"; }' > /prelude
while ! [ -c /dev/vport0p1 ]; do sleep 0.1; done
exec 3<> /dev/vport0p1
exec <&3 >&3 2>&1
echo "=== 0"
while true; do
  cp /prelude /request
  while read -r line && [ "$line" != "." ]; do echo "$line" >> /request; done
  sh -e /request
  echo "=== $?"
done
"""


@dataclass(frozen=True, slots=True)
class RouterSystem:
    """What the router boots.

    Attributes:
        kernel: A compressed kernel image.
        initramfs: A compressed cpio archive.
    """

    kernel: Path
    initramfs: Path


@dataclass(frozen=True, slots=True)
class _Entry:
    """One file or folder of the archive."""

    path: str
    mode: int
    body: bytes = b""


def cache_folder() -> Path:
    """Return where the kernel and the initramfs are kept."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "fedfstq" / "netem"


def router_system() -> RouterSystem:
    """Return the router's system, from the cache where it is there already.

    Raises:
        Unavailable: A program is missing, or the kernel cannot be fetched.
    """
    folder = cache_folder()
    kernel = _kernel(folder)
    entries = [*_programs(), *_modules(kernel / "lib/modules"), _Entry("init", _EXECUTABLE,
               INIT.encode())]  # fmt: skip
    archive = newc((entry.path, entry.mode, entry.body) for entry in _with_folders(entries))
    initramfs = folder / f"initramfs-{hashlib.sha256(archive).hexdigest()[:16]}.gz"
    if not initramfs.exists():
        temporary = initramfs.with_suffix(f".{os.getpid()}")
        temporary.write_bytes(gzip.compress(archive, compresslevel=1, mtime=0))
        temporary.replace(initramfs)
    return RouterSystem(next(kernel.glob("boot/vmlinuz-*")), initramfs)


def newc(entries: Iterable[tuple[str, int, bytes]]) -> bytes:
    """Return a cpio archive, as a kernel unpacks it, of (path, mode, content) in this order.

    Source: the kernel's Documentation/driver-api/early-userspace/buffer-format.rst.
    """
    archive = bytearray()
    for inode, (path, mode, body) in enumerate((*entries, (_CPIO_END, 0, b"")), start=1):
        name = path.encode() + b"\0"
        # inode, mode, uid, gid, links, mtime, size, four device numbers, name's length, check
        numbers = (inode, mode, 0, 0, 1, 0, len(body), 0, 0, 0, 0, len(name), 0)
        archive += b"070701" + b"".join(b"%08x" % number for number in numbers) + name
        archive += bytes(-len(archive) % 4) + body
        archive += bytes(-len(archive) % 4)
    return bytes(archive)


def dependencies(module: bytes) -> tuple[str, ...]:
    """Return the modules that a kernel module (the bytes of its .ko file) names as needed."""
    found = re.search(rb"\0depends=([\w,-]*)\0", module)
    return tuple(name for name in (found[1].decode().split(",") if found else ()) if name)


def _kernel(cache: Path) -> Path:
    """Return the folder of an unpacked kernel package."""
    folder = cache / "kernel"
    if any(folder.glob("boot/vmlinuz-*")):
        return folder
    if output_of("uname", "-m") != "x86_64":
        raise Unavailable("the lab's router is a machine for x86_64 only: use a kernel with netem")
    depends = output_of(need("apt-cache", "apt"), "depends", _KERNEL_PACKAGE, missing="")
    package = re.search(r"Depends: (linux-image-\S+)", depends)
    if not package:
        raise Unavailable(
            f"apt knows no {_KERNEL_PACKAGE}, the router's kernel: run `apt-get update`"
        )
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as name:
        work = Path(name)
        work.chmod(0o755)
        download = (need("apt-get", "apt"), "download", "-qq", package[1])
        fetched = subprocess.run(download, cwd=work, capture_output=True, text=True, check=False)  # noqa: S603  # our own command, no shell
        files = list(work.glob("*.deb"))
        if fetched.returncode or not files:
            reason = (fetched.stderr.strip().splitlines() or ["no answer"])[-1]
            raise Unavailable(
                f"apt cannot fetch {package[1]}, the router's kernel ({reason}):"
                " is there a network? try `apt-get update`"
            )
        output_of(need("dpkg-deb", "dpkg"), "-x", str(files[0]), str(work / "unpacked"))
        shutil.rmtree(folder, ignore_errors=True)
        (work / "unpacked").replace(folder)
    return folder


def _modules(folder: Path) -> list[_Entry]:
    """Return the modules and the order to load them in."""
    paths = {path.stem.replace("-", "_"): path for path in folder.rglob("*.ko")}
    ordered: dict[str, bytes] = {}

    def take(name: str) -> None:
        path = paths.get(name.replace("-", "_"))
        if name in ordered or path is None:  # what is no file is built into the kernel
            return
        body = path.read_bytes()
        for needed in dependencies(body):
            take(needed)
        ordered[name] = body

    for name in _MODULES:
        take(name)
    order = "\n".join(ordered) + "\n"
    files = [_Entry(f"modules/{name}.ko", _REGULAR, body) for name, body in ordered.items()]
    return [*files, _Entry("modules/order", _REGULAR, order.encode())]


def _programs() -> list[_Entry]:
    """Return busybox, ip and tc with the libraries that they load."""
    busybox = Path(need("busybox", "busybox-static"))
    if "dynamically linked" in output_of("file", "-L", str(busybox), missing=""):
        raise Unavailable("busybox is not static: apt-get install busybox-static")
    entries = [_Entry("bin/busybox", _EXECUTABLE, busybox.read_bytes())]
    libraries: set[str] = set()
    for program in ("ip", "tc"):
        path = need(program, "iproute2")
        entries.append(_Entry(f"sbin/{program}", _EXECUTABLE, Path(path).read_bytes()))
        libraries.update(re.findall(r"(/\S+\.so\S*)", output_of("ldd", path)))
    for library in sorted(libraries):
        body = Path(os.path.realpath(library)).read_bytes()
        entries.append(_Entry(library.lstrip("/"), _EXECUTABLE, body))
    return entries


def _with_folders(entries: Iterable[_Entry]) -> list[_Entry]:
    """Return the entries with every folder before what is in it."""
    entries = list(entries)
    parents = {
        str(parent)
        for entry in entries
        for parent in Path(entry.path).parents
        if str(parent) != "."
    }
    parents |= {"proc", "sys", "dev", "tmp"}
    return [*(_Entry(path, _FOLDER) for path in sorted(parents)), *entries]
