"""The aggregator's state folder: locked, opened, and read back to where the last process ended."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from aggregator.adapter_folder import (
    Adapter,
    BadAdapter,
    Delta,
    is_whole,
    prune_versions,
    read_adapter,
    read_delta,
    read_delta_lengths,
    read_delta_segments,
    read_digest,
    read_master,
    set_current,
    version_folder,
    write_atomically,
    write_version,
)
from aggregator.budget import BitsSchedule
from aggregator.chain import Chain, DeltaFacts, chain_of
from aggregator.config import MOMENTUM_VERSIONS, AggregatorConfig
from aggregator.outputs import Commit
from aggregator.store import ForeignJournal, Store, StoreUnavailable
from codec.codec import FloatArray
from codec.update import dense_bytes
from transport import control
from transport.crash_points import reach

JOURNAL_FILE = "journal.sqlite3"
ROUNDS_FILE = "rounds.jsonl"
LOCK_FILE = "lock"


class StateFolder:
    """What is durable of one run; made by `open_state_folder`.

    Attributes:
        store: The journal.
        snapshot: What the journal held when the folder was opened.
        version: The newest committed adapter version.
        adapter: That version.
        chain: The deltas by which devices come to it.
    """

    def __init__(self, config: AggregatorConfig) -> None:
        self._path = config.state_dir
        self._keep_versions = config.keep_versions
        self._masters = MOMENTUM_VERSIONS if config.server_momentum else 1
        initial = _initial_adapter(config)
        self.store = Store(self._path / JOURNAL_FILE, identity=_identity(config, initial))
        try:
            self.run = self.store.run
            self.snapshot = self.store.load()
            version = self.snapshot.version
            write_version(self._path, 0, initial, run=self.run.run)
            self.adapter = _read_version(version_folder(self._path, version), initial)
            self.version = version
            self._whole_bytes = dense_bytes(initial.layout, segment_bytes=config.segment_bytes)
            self.chain = self._read_chain(version)
            set_current(self._path, version)
            self._prune(version)
            lines = [control.encode(summary) + b"\n" for summary in self.snapshot.summaries]
            write_atomically(self._path / ROUNDS_FILE, b"".join(lines))
        except BaseException:
            self.store.close()
            raise

    def delta(self, version: int) -> Delta | None:
        """Return how a version came from the one before, None where its folder does not say.

        Read when it is wanted: the master takes as much memory as the adapter.
        """
        folder = version_folder(self._path, version)
        return read_delta(folder, size=self.adapter.layout.size)

    def exact(self, version: int) -> FloatArray | None:
        """Return the server's own adapter of an older version, as it was before it was coded.

        It is the version itself where versions are published whole; None where it is not kept.

        Raises:
            BadAdapter: Its files are damaged.
        """
        folder = version_folder(self._path, version)
        master = read_master(folder, size=self.adapter.layout.size)
        if master is not None:
            return master
        if is_whole(folder) and not read_delta_lengths(folder):
            return self.read(version).flat
        return None

    def read(self, version: int) -> Adapter:
        """Return the newest version, or one of those that `wholes` names.

        Raises:
            BadAdapter: Its files are damaged.
        """
        if version == self.version:
            return self.adapter
        return _read_version(version_folder(self._path, version), self.adapter)

    def digest(self, version: int) -> bytes:
        """Return the SHA-256 of a version of the chain."""
        return read_digest(version_folder(self._path, version))

    def delta_segments(self, version: int) -> tuple[str, tuple[bytes, ...]]:
        """Return the codec and the segments of a delta of the chain."""
        return read_delta_segments(version_folder(self._path, version))

    def wholes(self, chain: Chain, *, newest: int) -> frozenset[int]:
        """Return which older versions are of use to a device, and are whole on disk.

        A device that has half of one fetches the rest, and goes on along the chain.
        """
        if chain.begins_at is None:
            return frozenset()
        kept = {0, *range(newest - self._keep_versions + 1, newest)}
        return frozenset(version for version in kept if chain.begins_at <= version < newest)

    def commit(self, commit: Commit, adapter: Adapter, delta: Delta | None = None) -> None:
        """Make a new adapter version durable: folder, `CURRENT`, journal, and the line for people.

        Raises:
            StoreUnavailable: The disk does not do its work.
        """
        try:
            write_version(self._path, commit.version, adapter, run=self.run.run, delta=delta)
            set_current(self._path, commit.version)
            reach("aggregator-current-written")
            self.store.commit(commit)
            reach("aggregator-committed")
            self.adapter, self.version = adapter, commit.version
            if delta is not None:
                facts = _delta_facts(commit.version, [len(body) for body in delta.segments])
                self.chain = self.chain.extended(facts, whole_bytes=self._whole_bytes)
            self._prune(commit.version)
            with (self._path / ROUNDS_FILE).open("ab") as file:
                file.write(control.encode(commit.summary) + b"\n")
        except OSError as error:
            raise StoreUnavailable(f"{self._path} cannot be written: {error.strerror}") from error

    def close(self) -> None:
        """Close the journal."""
        self.store.close()

    def _read_chain(self, newest: int) -> Chain:
        known = {}
        for folder in (self._path / "adapters").iterdir():
            if folder.name.isdecimal() and (lengths := read_delta_lengths(folder)):
                known[int(folder.name)] = _delta_facts(int(folder.name), lengths)
        return chain_of(known, newest=newest, whole_bytes=self._whole_bytes)

    def _prune(self, newest: int) -> None:
        oldest = self.chain.oldest
        prune_versions(
            self._path,
            newest=newest,
            keep=self._keep_versions,
            deltas_from=oldest,
            masters=self._masters,
        )


@contextmanager
def open_state_folder(config: AggregatorConfig) -> Iterator[StateFolder]:
    """Open the run of the state folder, or begin one where it is empty.

    Raises:
        BadAdapter: The initial or the newest adapter cannot be used.
        ForeignJournal: The folder belongs to another run.
        StoreUnavailable: It cannot be written, or another aggregator uses it.
    """
    path = config.state_dir
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = os.open(path / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreUnavailable(f"{path} cannot be used: {error.strerror}") from error
    try:
        _take(lock, path)
        try:
            state = StateFolder(config)
        except OSError as error:
            raise StoreUnavailable(f"{path} cannot be written: {error.strerror}") from error
        try:
            yield state
        finally:
            state.close()
    finally:
        os.close(lock)


def _take(lock: int, path: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise StoreUnavailable(
            f"another aggregator uses {path}: stop it, or choose another state_dir"
        ) from error


def _initial_adapter(config: AggregatorConfig) -> Adapter:
    """Return version 0: the copy in the state folder, which the configured one must equal."""
    copy = version_folder(config.state_dir, 0)
    if not copy.exists():
        return read_adapter(config.initial_adapter)
    held = read_adapter(copy)
    if config.initial_adapter.exists():
        configured = read_adapter(config.initial_adapter)
        if (configured.sha256, configured.config) != (held.sha256, held.config):
            raise ForeignJournal(
                f"{config.state_dir} holds a run that began from another adapter than "
                f"{config.initial_adapter}: choose another state_dir for a new run"
            )
    return held


def _read_version(folder: Path, initial: Adapter) -> Adapter:
    adapter = read_adapter(folder)
    if (adapter.layout, adapter.base_digest) != (initial.layout, initial.base_digest):
        raise BadAdapter(f"{folder} is of another layout or base model than version 0")
    return adapter


def _delta_facts(version: int, lengths: Sequence[int]) -> DeltaFacts:
    return DeltaFacts(version, sum(lengths), len(lengths))


def _identity(config: AggregatorConfig, initial: Adapter) -> str:
    """Return a digest of everything that rounds of one run must have in common."""
    parts: dict[str, object] = {
        "federation": config.federation,
        "initial_adapter": initial.sha256.hex(),
        "adapter_config": initial.config,
        "layout": initial.layout.digest.hex(),
        "base": initial.base_digest.hex(),
        "codec": config.codec,
        "update_bytes": config.budget_bytes(initial.layout.size, round_id=1),
        "segment_bytes": config.segment_bytes,
    }
    if isinstance(config.bits_per_coordinate, BitsSchedule):
        # Where rounds differ, the number of them decides what each may take.
        parts |= {"bits": config.bits_per_coordinate.model_dump(), "rounds": config.rounds}
    if config.downlink_codec is not None:
        parts |= {
            "downlink": [config.downlink_codec, config.downlink_bytes(initial.layout.size)],
            # It decides the bytes of a delta, which must be the same when it is made again.
            "seed": config.seed,
        }
    if config.error_feedback:
        parts |= {"residual_decay": config.residual_decay}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
