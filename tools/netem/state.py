"""What earlier commands made on this machine: one small file each, until it is undone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from tools.netem.errors import Unavailable

_NAME: Final = "fedfstq-netem"
_STRICT = ConfigDict(extra="forbid", frozen=True)


class Owner(BaseModel):
    """A process: its number, and when it started, since numbers come again.

    Attributes:
        pid: Its number.
        started_ticks: Clock ticks from the machine's start to the process's.
    """

    model_config = _STRICT

    pid: int
    started_ticks: int

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return _started_ticks(self.pid) == self.started_ticks


class InterfaceState(BaseModel):
    """An interface whose link is a profile's.

    Attributes:
        ifb: The device that its incoming packets wait in; None where only the outgoing do.
        owner: The process that goes through its phases, or ends it; None where it just stays.
    """

    model_config = _STRICT

    interface: str
    profile: str
    ifb: str | None
    owner: Owner | None


class LabState(BaseModel):
    """The namespaces of a lab, and the process that it belongs to."""

    model_config = _STRICT

    namespaces: tuple[str, ...]
    owner: Owner


S = TypeVar("S", bound=BaseModel)


def this_process() -> Owner:
    """Return the process that asks."""
    return Owner(pid=os.getpid(), started_ticks=_started_ticks(os.getpid()) or 0)


def state_folder() -> Path:
    """Return the folder of the state files; it need not exist.

    Raises:
        Unavailable: There is none for a user who is not root.
    """
    if os.geteuid() == 0:
        return Path("/run") / _NAME
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if not runtime:
        raise Unavailable("XDG_RUNTIME_DIR is not set: run this as root, or in a login session")
    return Path(runtime) / _NAME


class StateFiles(Generic[S]):
    """The state files of one kind: `interface-eth0.json`, `lab-1a2b.json`."""

    def __init__(self, kind: type[S], folder: Path) -> None:
        self._kind = kind
        self._prefix = f"{kind.__name__.removesuffix('State').lower()}-"
        self._folder = folder

    def write(self, name: str, state: S) -> None:
        """Keep a state under this name, whole or not at all."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o755)
        path = self._path(name)
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_text(state.model_dump_json(), encoding="utf-8")
        temporary.replace(path)

    def read(self, name: str) -> S | None:
        """Return the state of this name, None where there is none that can be read."""
        try:
            return self._kind.model_validate_json(self._path(name).read_text(encoding="utf-8"))
        except (FileNotFoundError, ValidationError):
            return None

    def names(self) -> tuple[str, ...]:
        """Return the names of all states, sorted."""
        paths = self._folder.glob(f"{self._prefix}*.json")
        return tuple(sorted(path.stem[len(self._prefix) :] for path in paths))

    def remove(self, name: str) -> None:
        """Forget a state; nothing happens where there is none."""
        self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self._folder / f"{self._prefix}{name}.json"


def _started_ticks(pid: int) -> int | None:
    """Return when a process started, None where there is none of this number."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name, in parentheses, may hold anything; the start is the 20th field after it.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] == "Z" else int(fields[19])
