from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest

from tools.report.figures import document_of
from tools.report.page import page_of
from tools.report.reading import Round, Run

Make = Callable[..., Any]
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\"'&"
VOID = {"meta", "br"}


class Reader(HTMLParser):
    """Collects tags, and insists that they are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.scripts.append(data)


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return reader


@pytest.mark.parametrize("count", [0, 1, 2, 30])
def test_a_page_is_sound_whatever_the_rounds(run_of: Make, round_of: Make, count: int) -> None:
    document = document_of(run_of(*(round_of(number) for number in range(1, count + 1))))
    reader = read(page_of(document))
    assert json.loads(reader.scripts[0]) == json.loads(json.dumps(document))
    assert not re.search(r"\bNone\b|\bnan\b", page_of(document))


def test_a_page_asks_for_nothing_from_outside(run_of: Make, round_of: Make) -> None:
    page = page_of(document_of(run_of(round_of(1))))
    reader = read(page)
    assert not [attrs for _, attrs in reader.seen if {"src", "href"} & attrs.keys()]
    assert "http" not in page.replace("http-equiv", "")
    (policy,) = [a["content"] for t, a in reader.seen if t == "meta" and "http-equiv" in a]
    assert policy is not None
    assert policy.startswith("default-src 'none'")


def test_hostile_names_are_text(run_of: Make, round_of: Make) -> None:
    """Device names, reasons, tensors and the run's own words may say anything."""
    run: Run = run_of(
        round_of(1, names=(HOSTILE,), refused={HOSTILE: 2}),
        layout=((HOSTILE, 100), ("b", 300)),
        about={"codec": HOSTILE, "federation": HOSTILE, "rounds": 1},
        base_model=HOSTILE,
    )
    page = page_of(document_of(run))
    reader = read(page)
    tags = [tag for tag, _ in reader.seen]
    assert tags.count("script") == 2
    assert "img" not in tags
    assert not [attrs for _, attrs in reader.seen if any(name.startswith("on") for name in attrs)]
    assert {row["device"] for row in json.loads(reader.scripts[0])["devices"]} >= {HOSTILE}


def test_identities_are_unique_and_tables_have_scopes(run_of: Make, round_of: Make) -> None:
    reader = read(page_of(document_of(run_of(round_of(1), round_of(2)))))
    identities = [attrs["id"] for _, attrs in reader.seen if "id" in attrs]
    assert len(identities) == len(set(identities))
    assert all("scope" in attrs for tag, attrs in reader.seen if tag == "th")
    plots = [attrs for tag, attrs in reader.seen if tag == "svg"]
    assert len(plots) >= 6
    assert all(attrs["role"] == "img" for attrs in plots)


def test_a_run_without_evaluations_or_energy_says_so(run_of: Make, round_of: Make) -> None:
    each: Round = round_of(1, eval_loss=None, train_loss=None, bytes_up=0, bytes_up_fp32=0)
    page = page_of(document_of(run_of(each, evaluation=None)))
    assert "no device has evaluated anything" in page
    assert "Energy per round" not in page


def test_energy_is_drawn_where_it_was_told(run_of: Make, round_of: Make) -> None:
    rounds = [
        round_of(1, energy_j=40_000.0, energy_above_idle_j=10_000.0, energy_devices=2),
        round_of(2, energy_j=40.0, energy_devices=1),
        round_of(3),
    ]
    page = page_of(document_of(run_of(*rounds)))
    assert "Energy per round" in page
    assert "11.1 Wh" in page
