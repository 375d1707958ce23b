from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tools.report.figures import WIRE, document_of
from tools.report.reading import Round

Make = Callable[..., Any]


def test_sums_shares_and_quotients_are_those_of_the_rounds(run_of: Make, round_of: Make) -> None:
    document = document_of(run_of(round_of(1), round_of(2)))
    json.dumps(document, allow_nan=False)
    totals = document["totals"]
    assert (totals["rounds"], totals["updates"], totals["bytes_up"]) == (2, 4, 2000)
    assert (totals["saved_bytes"], totals["saved_share"]) == (14000, 0.875)
    assert totals["refused"] == {"round": 2}
    wire = dict(zip(WIRE, (1400, 200, 160, 200, 40, 0), strict=True))
    assert totals["wire"] == wire
    assert sum(wire.values()) == totals["bytes_up"]
    assert totals["bits_per_moved"] == 8 * 4 * 350 / 1200
    assert document["rounds"][0]["bits_per_coordinate"] == 8 * 700 / (2 * 400)


def test_a_device_has_its_sums_and_its_last_losses(run_of: Make, round_of: Make) -> None:
    later: Round = round_of(2)
    first, second = later.contributions
    later = replace(
        later,
        contributions=(replace(first, trained_for=1, train_loss=1.5, eval_loss=None), second),
    )
    run = run_of(round_of(1), later, receipts={("dev-1", "accepted"): 2, ("gone", "late"): 1})
    one, two, gone = document_of(run)["devices"]
    assert (one["device"], one["asked"], one["rounds"], one["stale"]) == ("dev-1", 2, 2, 1)
    assert (one["bytes_up"], one["repeated_bytes"], one["repeated_share"]) == (1000, 100, 0.1)
    assert (one["examples"], one["weight_share"], one["train_s"]) == (40, 0.5, 60.0)
    assert (one["last_train_loss"], one["last_eval_loss"], one["energy_j"]) == (1.5, 3.0, 100.0)
    assert (one["accepted"], one["late"], two["accepted"]) == (2, 0, 0)
    assert (gone["device"], gone["late"], gone["rounds"], gone["energy_j"]) == ("gone", 1, 0, None)


def test_a_tensor_has_its_share_of_what_moved_and_of_the_energy(
    run_of: Make, round_of: Make
) -> None:
    small, large = document_of(run_of(round_of(1), round_of(2)))["tensors"]
    assert (small["moved"], small["moved_share"], small["share_of_moved"]) == (300, 0.75, 0.25)
    assert (large["energy"], large["energy_share"]) == (1.5, 0.75)
    assert small["rms_step"] == pytest.approx((0.5 / 200) ** 0.5)


def test_what_is_not_in_the_journal_is_said(run_of: Make, round_of: Make) -> None:
    before = replace(round_of(1), committed_at=None, devices=(), contributions=(), tensors=None)
    restarted = round_of(2, bytes_up=1500)
    document = document_of(run_of(before, restarted, open_round=(3, 12)))
    assert [each["wire"]["unsplit"] for each in document["rounds"]] == [1000, 500]
    notes = document["notes"]
    assert [note.split(":")[0] for note in notes[:2]] == ["Round 1", "Round 2"]
    assert "Round 3 is not committed" in notes[2]
    assert document["run"]["open_bytes_up"] == 12


def test_many_rounds_are_named_briefly(run_of: Make, round_of: Make) -> None:
    def note(*numbers: int) -> str:
        rounds = [replace(round_of(number), committed_at=None) for number in numbers]
        return str(document_of(run_of(*rounds))["notes"][0])

    assert note(1, 2, 3).startswith("Rounds 1 to 3:")
    assert note(1, 3).startswith("Rounds 1, 3:")
    assert note(*range(1, 60, 2)).startswith("Rounds 1, 3, 5")
    assert ", …:" in note(*range(1, 60, 2))


def test_an_adapter_that_cannot_be_read_leaves_its_tensors_out(
    run_of: Make, round_of: Make
) -> None:
    document = document_of(run_of(round_of(1), layout=()))
    assert document["tensors"] == []
    assert document["rounds"][0]["bits_per_coordinate"] is None
