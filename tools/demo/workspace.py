"""Lays out the demo's folder: each device's text, and one YAML file per service."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from agent.data import AnyExample, Conversation, DataError, load_examples
from tools.corpus import client_groups
from tools.demo.broker import BrokerChoice
from tools.demo.errors import BadInput, BadOptions
from tools.demo.options import FEDERATION, PLAN, SEGMENT_BYTES, DemoOptions

# What `prepare_folder` may remove: a folder that an earlier demo made.
_MARKER = ".fedfstq-demo"
_SUFFIXES = (".jsonl", ".json")


@dataclass(frozen=True, slots=True)
class Device:
    """One device of the demo's fleet: its name and its text."""

    client_id: str
    about: str
    train: Path
    heldout: Path


@dataclass(frozen=True, slots=True)
class Workspace:
    """The demo's folder."""

    root: Path

    @property
    def logs(self) -> Path:
        """Each process's log, and `pids.json`."""
        return self.root / "logs"

    @property
    def broker(self) -> Path:
        """The broker's configuration and database."""
        return self.root / "broker"

    @property
    def initial_adapter(self) -> Path:
        """The adapter of version 0, a PEFT folder."""
        return self.root / "initial-adapter"

    @property
    def adapter(self) -> Path:
        """The trained adapter, a PEFT folder."""
        return self.root / "adapter"

    @property
    def report(self) -> Path:
        """What the demo found."""
        return self.root / "report.json"

    def config(self, service: str) -> Path:
        """Return the YAML file of a service."""
        return self.root / "config" / f"{service}.yaml"

    def state(self, service: str) -> Path:
        """Return the state folder of a service."""
        return self.root / "state" / service


def prepare_folder(root: Path) -> Workspace:
    """Return an empty workspace; an earlier demo's is removed first.

    Raises:
        BadOptions: The folder holds something that no demo made, or cannot be written.
    """
    if root.exists() and not root.is_dir():
        raise BadOptions(f"--out {root}: a file is there; name a folder")
    if root.is_dir() and any(root.iterdir()) and not (root / _MARKER).exists():
        raise BadOptions(f"--out {root}: not empty, and not of an earlier demo; name another")
    try:
        shutil.rmtree(root, ignore_errors=True)
        workspace = Workspace(root)
        for folder in (root, workspace.logs, root / "config", root / "data", root / "state"):
            folder.mkdir(parents=True, exist_ok=True)
        (root / _MARKER).touch()
    except OSError as error:
        raise BadOptions(f"--out {root}: cannot be written: {error.strerror}") from error
    return workspace


def lay_out_data(workspace: Workspace, options: DemoOptions) -> list[Device]:
    """Write each device's training and held-out text, and return the devices.

    Raises:
        BadOptions: More devices than there is text for.
        BadInput: `--data` cannot be read; the text names file and line.
    """
    folder = workspace.root / "data"
    if options.data is None:
        try:
            groups = client_groups(options.agents)
        except ValueError as error:
            raise BadOptions(f"--agents {options.agents}: {error}") from error
        return [
            _device(
                folder,
                group.client_id,
                about=", ".join(group.packages),
                train=[{"text": text} for text in group.train],
                heldout=[{"text": text} for text in group.heldout],
            )
            for group in groups
        ]
    return [
        _device(folder, f"device-{number}", about=about, train=records[:cut], heldout=records[cut:])
        for number, (about, records) in enumerate(_shares(options), start=1)
        for cut in [max(1, len(records) * 4 // 5)]
    ]


def write_configs(
    workspace: Workspace,
    options: DemoOptions,
    *,
    devices: Sequence[Device],
    broker: BrokerChoice,
    slow_port: int | None = None,
) -> None:
    """Write one YAML file per service.

    Args:
        workspace: Where.
        options: What was asked for.
        devices: All of them.
        broker: Where they connect.
        slow_port: Of a slow link to the broker on this machine, for the last device.
    """
    address = {"host": broker.host, "port": broker.port, "mqtt_version": broker.mqtt_version}
    aggregator: dict[str, Any] = {
        "federation": FEDERATION,
        "broker": address,
        "state_dir": str(workspace.state("aggregator")),
        "initial_adapter": str(workspace.initial_adapter),
        "rounds": options.rounds,
        "goal": len(devices),
        "quorum": max(1, len(devices) // 2),
        "min_devices": len(devices),
        "over_selection": 1.0,
        "deadline_s": 60.0,
        # A device answers when its trainer is loaded, which four at a time on two cores takes long.
        "answer_timeout_s": 60.0,
        "codec": options.codec,
        "bits_per_coordinate": options.bits_per_coordinate,
        **options.downlink_settings,
        "segment_bytes": SEGMENT_BYTES,
        "plan": asdict(PLAN),
        "final_eval_timeout_s": 20.0,
        "exit_when_finished": True,
    }
    _write_yaml(workspace.config("aggregator"), aggregator)
    for device in devices:
        is_slow = slow_port is not None and device is devices[-1]
        slowly = {"host": "127.0.0.1", "port": slow_port} if is_slow else {}
        agent = {
            "federation": FEDERATION,
            "client_id": device.client_id,
            "broker": {**address, **slowly},
            "state_dir": str(workspace.state(device.client_id)),
            "model": options.base_model,
            "data": {"train": str(device.train), "heldout": str(device.heldout)},
            "device": "cpu",
            # All devices share this machine's cores; more threads would only get in the way.
            "threads": 1,
            "telemetry_interval_s": 2.0,
        }
        _write_yaml(workspace.config(device.client_id), agent)


def _write_yaml(path: Path, values: dict[str, Any]) -> None:
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")


def _device(
    folder: Path, client_id: str, *, about: str, train: list[Any], heldout: list[Any]
) -> Device:
    paths = [folder / f"{client_id}.{part}.jsonl" for part in ("train", "heldout")]
    for path, records in zip(paths, (train, heldout), strict=True):
        lines = (json.dumps(record, ensure_ascii=False) for record in records)
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return Device(client_id, about, *paths)


def _records(path: Path) -> list[Any]:
    """Return a file's examples as agents read them, so that a bad line is named at once."""
    try:
        return [_record(example) for example in load_examples(path)]
    except DataError as error:
        raise BadInput(str(error)) from error


def _record(example: AnyExample) -> dict[str, Any]:
    if isinstance(example, Conversation):
        return {"messages": [asdict(turn) for turn in example.turns]}
    if example.prompt:
        return {"prompt": example.prompt, "completion": example.completion}
    return {"text": example.completion}


def _shares(options: DemoOptions) -> list[tuple[str, list[Any]]]:
    """Return each device's share of `--data`: what it is, and its records."""
    assert options.data is not None
    if options.data.is_dir():
        files = sorted(path for path in options.data.iterdir() if path.suffix in _SUFFIXES)
        if len(files) < options.agents:
            raise BadOptions(
                f"--data {options.data} holds {len(files)} .jsonl or .json files, too few for"
                f" --agents {options.agents}: a folder gives each device one file"
            )
        shares = [(path.name, _records(path)) for path in files[: options.agents]]
    else:
        records = _records(options.data)
        size, name = len(records) // options.agents, options.data.name
        shares = [
            (
                f"{name}, part {part + 1} of {options.agents}",
                records[part * size : (part + 1) * size],
            )
            for part in range(options.agents)
        ]
    if min(len(records) for _, records in shares) < 2:  # noqa: PLR2004  # one to train, one held out
        raise BadOptions(f"--data {options.data}: each device needs 2 records at least")
    return shares
