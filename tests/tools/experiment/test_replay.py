"""A replayed trial: what is read of its file, and how measured rounds are compared."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tools.cli import app
from tools.experiment.replay import CLEAR_ROUNDS, NotReplayable, Sent, compared, read_trial
from tools.experiment.timing import ClientRound, LinkProfile, TimeModel
from tools.layouts import layout_named
from transport.control import RoundSummary

TRIAL = {
    "model": "tools/base",
    "rank": 8,
    "lora_alpha": 16,
    "target_modules": "all-linear",
    "seed": 3,
    "segment_bytes": 32768,
    "method": "fstq-r@0.15:0.8,ef",
}


def client(name: str, *, arrived: bool = True) -> dict[str, Any]:
    return {"id": name, "bytes": 9, "wire": 1000, "train_s": 0.5, "arrived": arrived}


def trial_file(folder: Path, *lines: dict[str, Any]) -> Path:
    path = folder / "trial.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


def summary(round_id: int, seconds: float) -> RoundSummary:
    return RoundSummary(
        run="0" * 32, round_id=round_id, version=round_id, participants=2, complete=2, partial=0,
        late=0, seconds=seconds, bytes_up=500_000, bytes_up_payload=0, bytes_up_fp32=0,
        bytes_down=1_000_000, train_loss=None, eval_version=0, eval_loss=None, eval_accuracy=None,
        eval_tokens=0, refused={},
    )  # fmt: skip


SENT = Sent(
    name="t",
    method="fp32",
    codec="fp32",
    seed=0,
    clients=(ClientRound("a", 1, 0.25), ClientRound("b", 1, 0.5)),
    coordinates=1000,
    segment_bytes=32768,
)


def test_the_first_round_with_arrivals_is_what_is_played(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(Path(__file__).parents[3])
    path = trial_file(
        tmp_path,
        {"kind": "trial", "format": 1, "trial": TRIAL},
        {"kind": "round", "round": 0},
        {"kind": "round", "round": 1, "clients": [client("c1"), client("c2", arrived=False)]},
        {"kind": "round", "round": 2, "clients": [client("c9")]},
        {"kind": "end", "ok": True},
    )
    sent = read_trial(path)
    assert sent.clients == (ClientRound("c1", 1000, 0.5),)
    assert (sent.codec, sent.seed) == ("fstq-r", 3)
    assert sent.coordinates == layout_named("demo-r8-all").size


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [{"kind": "round", "round": 1, "clients": [client("c1")]}],
        [{"kind": "trial", "trial": TRIAL}],
        [
            {"kind": "trial", "trial": TRIAL},
            {"kind": "round", "round": 1, "clients": [client("c", arrived=False)]},
        ],
    ],
)
def test_what_is_no_trial_is_refused(tmp_path: Path, lines: list[dict[str, Any]]) -> None:
    with pytest.raises(NotReplayable, match=r"trial\.jsonl"):
        read_trial(trial_file(tmp_path, *lines))


def test_a_base_model_that_is_not_here_is_said(tmp_path: Path) -> None:
    path = trial_file(
        tmp_path,
        {"kind": "trial", "trial": TRIAL | {"model": str(tmp_path / "no base")}},
        {"kind": "round", "round": 1, "clients": [client("c1")]},
    )
    with pytest.raises(NotReplayable, match="no base model"):
        read_trial(path)


def test_a_file_that_is_no_json_is_one_line_and_exit_2(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text("{")
    result = CliRunner().invoke(app, ["simulate", "replay", str(path)])
    assert result.exit_code == 2
    assert result.stderr.startswith(f"fedfstq: {path} cannot be read as a trial")
    assert result.stderr.count("\n") == 1


def test_a_link_that_there_is_not_is_refused(tmp_path: Path) -> None:
    arguments = ["simulate", "replay", str(tmp_path), "--link", "5g"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert "known are lte-20, lte-mixed" in result.stderr


def test_the_slowest_links_are_played_first() -> None:
    names = [f"c{number:02}" for number in range(30)]
    sent = replace(SENT, clients=tuple(ClientRound(name, 1, 0.0) for name in names))
    model = TimeModel(LinkProfile.LTE_MIXED, seed=0)
    chosen = sent.slowest(2, profile=LinkProfile.LTE_MIXED).clients
    rates = sorted(model.rate_bps(name) for name in names)
    assert [model.rate_bps(each.client_id) for each in chosen] == rates[:2]


def test_rounds_after_the_change_are_compared_with_the_model_of_their_own_bytes() -> None:
    """0.5 s of training, 1.25 MB at 20 Mbit/s are 0.5 s, and three round trips 0.15 s."""
    seconds = [9.0, 0.7, 0.9, 30.0, 1.5, 2.0]
    assert CLEAR_ROUNDS == 3
    summaries = [summary(number, each) for number, each in enumerate(seconds, start=1)]
    row = compared(SENT, summaries, model=TimeModel())
    assert row.rounds == 2
    assert row.modelled_s == pytest.approx(1.15)
    assert (row.measured_s, row.measured_min_s, row.measured_max_s) == (1.75, 1.5, 2.0)
    assert row.difference_s == pytest.approx(0.6)
    assert row.relative_difference == pytest.approx(0.6 / 1.15)
    assert row.clear_s == pytest.approx(0.8)
    assert row.unexplained_s == pytest.approx(0.6 - 0.3)
    assert row.bytes_up_per_client == 250_000
