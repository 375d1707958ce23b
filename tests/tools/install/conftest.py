"""Wheels of a few lines, and bundles made by hand."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

CHECKOUT = Path(__file__).parents[3]


def _wheel(
    folder: Path, name: str, version: str, files: dict[str, str], requires: str = ""
) -> Path:
    about = f"{name}-{version}.dist-info"
    files = {
        **files,
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{requires}",
        f"{about}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for inside, text in files.items():
            archive.writestr(inside, text)
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=")
            record += f"{inside},sha256={digest.decode()},{len(text.encode())}\n"
        archive.writestr(f"{about}/RECORD", record + f"{about}/RECORD,,\n")
    return path


TORCH = (
    "class version:\n    cuda = {cuda!r}\n__version__ = {version!r}\ndef from_numpy(a): return a\n"
)


@dataclass(frozen=True, slots=True)
class Wheels:
    """A folder of wheels whose `fedfstq` does nothing but say its version."""

    folder: Path

    def release(self, version: str, *, starts: bool = True) -> Path:
        """Puts a version of fedfstq there in the place of all others."""
        for old in self.folder.glob("fedfstq-*.whl"):
            old.unlink()
        body = f"    print('fedfstq {version}')\n" if starts else "    raise SystemExit('broken')\n"
        about = f"fedfstq-{version}.dist-info"
        return _wheel(
            self.folder,
            "fedfstq",
            version,
            {
                "fedfstq_stub.py": f"def main():\n{body}",
                f"{about}/entry_points.txt": "[console_scripts]\nfedfstq = fedfstq_stub:main\n",
            },
            "Requires-Dist: numpy\nProvides-Extra: agent\n"
            "Requires-Dist: torch>=2.4; extra == 'agent'\n",
        )

    def torch(self, version: str, *, cuda: str | None = None) -> Path:
        """Adds a torch."""
        source = TORCH.format(cuda=cuda, version=version)
        return _wheel(self.folder, "torch", version, {"torch/__init__.py": source})


@pytest.fixture
def wheels(tmp_path: Path) -> Wheels:
    """A folder with fedfstq 1.0, torch 2.9 and a numpy that fits."""
    made = Wheels(tmp_path / "wheels")
    made.folder.mkdir()
    _wheel(made.folder, "numpy", "2.2", {"numpy.py": "def zeros(n, kind): return [0.0] * n\n"})
    made.torch("2.9.0")
    made.release("1.0")
    return made


def _tar(path: Path, files: dict[str, str]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, text in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(text.encode()), 0o600
            archive.addfile(entry, io.BytesIO(text.encode()))
    path.chmod(0o600)
    return path


@pytest.fixture
def bundle(tmp_path: Path) -> Callable[..., Path]:
    """Makes a bundle from names and texts; keywords add to or replace a device's files."""

    def make(device: str = "nano-01", /, **other: str) -> Path:
        files = {
            f"agent-{device}.yaml": f"client_id: {device}\n",
            f"{device}.crt": "certificate\n",
            f"{device}.key": "key\n",
            "ca.crt": "authority\n",
        }
        return _tar(tmp_path / f"{device}.tar", {**files, **other})

    return make


@pytest.fixture
def tar() -> Callable[[Path, dict[str, str]], Path]:
    """Makes a tar file from names and texts."""
    return _tar


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source folder with what install.sh needs of one."""
    folder = tmp_path_factory.mktemp("source")
    shutil.copytree(CHECKOUT / "tools" / "install", folder / "tools" / "install")
    shutil.copytree(CHECKOUT / "systemd", folder / "systemd")
    shutil.copy(CHECKOUT / "tools" / "install.sh", folder / "tools")
    (folder / "pyproject.toml").write_text('[project]\nname = "fedfstq"\n')
    return folder


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python whose `-m venv` copies one that was made once: making one takes seconds."""
    folder = tmp_path_factory.mktemp("python")
    subprocess.run([sys.executable, "-I", "-m", "venv", folder / "made"], check=True)
    base = Path(sys.executable).resolve()
    script = folder / "python"
    script.write_text(
        "#!/bin/sh\n"
        'if [ "$2 $3" = "-m venv" ]; then\n'
        f'  for last; do :; done; exec cp -a "{folder}/made" "$last"\n'
        f'fi\nexec "{base}" "$@"\n'
    )
    script.chmod(0o755)
    return script


@dataclass(frozen=True, slots=True)
class Machine:
    """A folder that install.sh takes for a machine's root."""

    root: Path
    wheels: Path
    python: Path
    source: Path

    def install(self, *arguments: str | Path, **variables: str) -> Any:
        """Runs install.sh; `stdout` holds all that it said."""
        return subprocess.run(
            [
                *("bash", str(self.source / "tools" / "install.sh"), *map(str, arguments)),
                *("--root", str(self.root), "--wheels", str(self.wheels)),
                *("--python", str(self.python)),
            ],
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **variables},
        )

    def version(self) -> str:
        """What the environment in use says."""
        command = [str(self.root / "opt/fedfstq/venv/bin/fedfstq")]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    def environments(self) -> list[str]:
        """Returns their numbers."""
        folder = self.root / "opt/fedfstq/venvs"
        return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []

    def tree(self) -> dict[str, tuple[int, str]]:
        """Returns modes and contents of all files outside of environments."""
        return {
            str(path.relative_to(self.root)): (path.stat().st_mode & 0o777, path.read_text())
            for path in sorted(self.root.rglob("*"))
            if path.is_file() and "opt" not in path.relative_to(self.root).parts
        }


@pytest.fixture
def machine(tmp_path: Path, wheels: Wheels, python: Path, source: Path) -> Machine:
    """A machine on which nothing is installed."""
    return Machine(tmp_path / "root", wheels.folder, python, source)
