"""The report of a real run says what its journal says, number by number."""

from __future__ import annotations

import csv
import io
import json
import os
import random
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from codec.update import decode
from tools.report.command import _csv_files
from tools.report.figures import document_of
from tools.report.page import page_of
from tools.report.reading import NoRun, read_run
from transport import control
from transport.control import EnergyReport, RoundSummary
from transport.topics import DeviceTopic, UpManifest, UpSegment

MakeRig = Callable[..., Any]


@pytest.fixture
def rig(make_rig: MakeRig) -> Any:
    """Three rounds of four devices: one sends things twice, one is slow, one sends rubbish."""
    rig = make_rig(
        rounds=3, goal=4, quorum=2, codec="fstq+", bits_per_coordinate=4.0, over_selection=1.0
    ).start()
    say, rng = rig.say, random.Random(3)

    def noisy(address: Any, message: Any, *, retain: bool = False) -> None:
        say(address, message, retain=retain)
        match address:
            case UpManifest("b", _):
                energy = EnergyReport(
                    message.run, message.round_id, 80.5, 40.0, 2.0, 0.0, 80.5, 0.0, 30.0, 0.0, "ina"
                )
                say(DeviceTopic("b", "energy"), energy)
            case UpSegment("c", _, _):
                say(address, message)
                if rng.random() < 0.7:
                    say(address, message)
            case UpManifest("d", uid):
                say(UpSegment("d", uid, 0), b"rubbish")

    rig.say = noisy
    for number, device in enumerate(rig.add("a", "b", "c", "d", codec="fstq+")):
        device.num_examples = 5 + number
        device.join()
    rig.finish()
    return rig


def journal_rows(folder: Path, query: str) -> list[tuple[Any, ...]]:
    uri = f"file:{folder / 'journal.sqlite3'}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True)) as connection:
        return connection.execute(query).fetchall()


def test_the_rounds_of_a_report_are_the_journals(rig: Any) -> None:
    folder = rig.config.state_dir
    page = page_of(document_of(read_run(folder)))
    (figures,) = re.findall(r'<script type="application/json" id="figures">(.*?)</script>', page)
    document = json.loads(figures)
    (table,) = (
        content for path, content in _csv_files(document, Path("x")) if path.name == "rounds.csv"
    )
    lines = list(csv.DictReader(io.StringIO(table)))
    rows = journal_rows(folder, "SELECT summary, record FROM rounds ORDER BY round_id")
    assert len(rows) == len(document["rounds"]) == len(lines) == 3
    for (summary_bytes, record), shown, line in zip(rows, document["rounds"], lines, strict=True):
        summary = control.decode(RoundSummary, summary_bytes)
        for name in RoundSummary.__dataclass_fields__:
            if name != "run":
                assert shown[name] == getattr(summary, name), name
            if name not in {"run", "refused"}:
                wanted = getattr(summary, name)
                assert line[name] == ("" if wanted is None else str(wanted)), name
        assert shown["attempts"] == json.loads(record)["attempt"]
        assert sum(shown["wire"].values()) == summary.bytes_up
        assert shown["wire"]["unsplit"] == 0
        assert [int(line[f"wire_{kind}_bytes"]) for kind in shown["wire"]] == list(
            shown["wire"].values()
        )
    totals = document["totals"]
    for key in ("bytes_up", "bytes_up_fp32", "bytes_up_payload", "bytes_down"):
        assert totals[key] == sum(json.loads(row[0])[key] for row in rows)


def test_the_devices_of_a_report_are_the_journals_and_what_the_devices_did(rig: Any) -> None:
    folder = rig.config.state_dir
    document = document_of(read_run(folder))
    devices = {each["device"]: each for each in document["devices"]}
    assert sorted(devices) == ["a", "b", "c", "d"]
    for name, shown in devices.items():
        (sums,) = journal_rows(
            folder,
            "SELECT sum(payload_bytes), sum(framing_bytes), sum(mqtt_bytes), sum(repeated_bytes), "
            f"sum(refused_bytes), sum(packets) FROM traffic WHERE client_id = '{name}'",
        )
        keys = ("payload", "framing", "mqtt", "repeated", "refused")
        assert sums[:5] == tuple(shown[f"{key}_bytes"] for key in keys)
        assert sums[5] == shown["packets"]
        sent = rig.devices[name].updates.values()
        assert shown["payload_bytes"] == sum(len(body) for each in sent for body in each.bodies)
        assert shown["examples"] == 3 * rig.devices[name].num_examples
        assert (shown["rounds"], shown["accepted"], shown["train_s"]) == (3, 3, 4.5)
        assert shown["last_train_loss"] == 2.0
    assert devices["b"]["energy_j"] == pytest.approx(3 * 80.5)
    assert devices["a"]["energy_j"] is None
    assert devices["c"]["repeated_packets"] > 0
    assert devices["d"]["refused_bytes"] > 0
    assert devices["a"]["repeated_bytes"] == devices["a"]["refused_bytes"] == 0
    assert sum(each["bytes_up"] for each in devices.values()) == document["totals"]["bytes_up"]


def test_the_tensors_of_a_report_are_what_the_adapter_did(rig: Any, layout: Any) -> None:
    document = document_of(read_run(rig.config.state_dir))
    deltas = [
        decode("fstq+", dict(enumerate(each.bodies)), layout=layout, segment_count=len(each.bodies))
        for device in rig.devices.values()
        for each in device.updates.values()
    ]
    steps = [rig.adapter(number + 1) - rig.adapter(number) for number in range(3)]
    for tensor, shown in zip(layout.tensors, document["tensors"], strict=True):
        part = slice(tensor.offset, tensor.end)
        assert shown["tensor"] == tensor.name
        assert shown["moved"] == sum(int(np.count_nonzero(delta[part])) for delta in deltas)
        energy = sum(float(np.sum(step[part].astype(float) ** 2)) for step in steps)
        assert shown["energy"] == pytest.approx(energy, rel=1e-4)


@pytest.mark.parametrize("codec", ["fstq+", "fstq-r", "eden"])
def test_the_tensors_bits_and_what_they_share_are_the_journals_payload(
    make_rig: MakeRig, codec: str
) -> None:
    rig = make_rig(rounds=2, codec=codec, bits_per_coordinate=9).start()
    for device in rig.add("a", "b", codec=codec):
        device.join()
    rig.finish()
    folder = rig.config.state_dir
    document = document_of(read_run(folder))
    ((payload_bytes,),) = journal_rows(folder, "SELECT sum(payload_bytes) FROM contributions")
    payload = document["tensor_payload"]
    assert payload["payload_bits"] == 8 * payload_bytes
    assert payload["payload_bits"] == 8 * document["totals"]["bytes_up_payload"]
    (table,) = (
        content for path, content in _csv_files(document, Path("x")) if path.name == "tensors.csv"
    )
    lines = list(csv.DictReader(io.StringIO(table)))
    told = [int(line["payload_bits"] or 0) for line in lines]
    assert sum(told) == 8 * payload_bytes
    if codec == "eden":
        assert payload["untold_bits"] == 8 * payload_bytes
        assert lines[-1]["tensor"] == "(not told apart)"
        assert "this codec does not tell" in page_of(document)
    else:
        assert payload["own_bits"] == sum(told[:-1]) > 0
        assert (lines[-1]["tensor"], told[-1]) == ("(shared)", payload["shared_bits"])
        assert f">{payload['shared_bits']:,}<" in page_of(document)


def test_a_journal_is_read_while_its_aggregator_runs_and_nothing_is_touched(rig: Any) -> None:
    """The rig still has the journal open, as an aggregator has it."""

    def all_files() -> dict[str, bytes]:
        # SQLite's readers mark in the -shm file where they read.
        files = (path for path in folder.iterdir() if path.is_file())
        return {path.name: path.read_bytes() for path in files if path.suffix != ".sqlite3-shm"}

    folder = rig.config.state_dir
    assert (folder / "journal.sqlite3-wal").exists()
    before = all_files()
    assert document_of(read_run(folder))["run"]["finished"]
    assert all_files() == before
    rig.kill()
    before = all_files()
    assert "journal.sqlite3-wal" not in before
    assert document_of(read_run(folder))["run"]["finished"]
    assert all_files() == before


@pytest.mark.parametrize("is_known", [True, False])
def test_bytes_before_a_restart_are_told_apart_where_the_journal_has_their_kinds(
    make_rig: MakeRig, *, is_known: bool
) -> None:
    rig = make_rig(rounds=1, goal=2, quorum=2).start()
    first, second = rig.add("a", "b")
    first.join()
    second.join()
    second.most_segments = 0
    rig.run_until(lambda: bool(first.senders) and rig.now > 1001.0)
    rig.kill()
    if not is_known:  # software of before kept them in memory alone
        with closing(sqlite3.connect(rig.config.state_dir / "journal.sqlite3")) as connection:
            connection.execute("DROP TABLE open_traffic")
    rig.restart()
    second.most_segments = None
    rig.finish()
    document = document_of(read_run(rig.config.state_dir))
    (only,) = document["rounds"]
    assert (only["wire"]["unsplit"] == 0) is is_known
    assert sum(only["wire"].values()) == only["bytes_up"]
    assert ["started again" in note for note in document["notes"]] == [True] * (not is_known)
    assert journal_rows(rig.config.state_dir, "SELECT * FROM open_traffic") == []


def test_a_journal_of_before_has_a_report_without_devices(rig: Any) -> None:
    rig.kill()
    folder = rig.config.state_dir
    with closing(sqlite3.connect(folder / "journal.sqlite3")) as connection:
        for table in ("accounts", "traffic", "contributions"):
            connection.execute(f"DROP TABLE {table}")
        connection.commit()
    document = document_of(read_run(folder))
    assert document["notes"][0].startswith("Rounds 1 to 3: no account")
    assert [each["accepted"] for each in document["devices"]] == [3, 3, 3, 3]
    page_of(document)
    rig.start()  # an aggregator makes the tables that are missing
    assert journal_rows(folder, "SELECT count(*) FROM accounts") == [(0,)]


def test_a_folder_that_holds_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(NoRun, match="name the state_dir"):
        read_run(tmp_path)
    (tmp_path / "journal.sqlite3").write_bytes(b"no database, but long enough to be one" * 99)
    with pytest.raises(NoRun, match="cannot be read"):
        read_run(tmp_path)
    (tmp_path / "journal.sqlite3").unlink()
    with closing(sqlite3.connect(tmp_path / "journal.sqlite3")) as connection:
        connection.execute("PRAGMA user_version = 99")
    with pytest.raises(NoRun, match="schema 99"):
        read_run(tmp_path)


def test_a_damaged_journal_is_an_error_and_an_adapter_that_is_gone_is_not(rig: Any) -> None:
    rig.kill()
    folder = rig.config.state_dir
    for path in (folder / "adapters" / "0").iterdir():
        path.write_bytes(b"?")
    run = read_run(folder)
    assert (run.layout, run.base_model) == ((), "")
    assert document_of(run)["run"]["base_model"] == "tiny"  # as the accounts have it
    with closing(sqlite3.connect(folder / "journal.sqlite3")) as connection:
        connection.execute("UPDATE rounds SET summary = x'00'")
        connection.commit()
    with pytest.raises(NoRun, match="damaged"):
        read_run(folder)


def test_a_report_needs_neither_torch_nor_a_broker(rig: Any, tmp_path: Path) -> None:
    script = (
        "import sys; from tools.cli import app\n"
        f"try: app(['report', {str(rig.config.state_dir)!r}, '-o', 'r.html'])\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "assert not {'torch', 'paho', 'matplotlib'} & sys.modules.keys()"
    )
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, check=True)
    assert (tmp_path / "r.html").stat().st_size > 10_000
