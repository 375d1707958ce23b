"""Pages end with what is so, however seldom they take what they are offered."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tools.dashboard.stream import MAX_PAGES, Feed, Page, TooManyPages, event, merged
from tools.monitor.document import Changes

FIELDS = ("step", "state", "temp_c")


class Screen:
    """A page as a browser keeps it."""

    def __init__(self, feed: Feed) -> None:
        self.feed = feed
        self.woken = 0
        self.place: Page = feed.open(self._wake)
        self.document: dict[str, Any] = {}

    def _wake(self) -> None:
        self.woken += 1

    def take(self) -> bytes:
        told = self.place.take(self.feed.snapshot_event)
        if told:
            name, _, rest = told.decode().partition("\n")
            value = json.loads(rest.removeprefix("data: "))
            if name == "event: snapshot":
                self.document = value
            else:
                self._apply(value)
        return told

    def _apply(self, changes: Changes) -> None:
        for path, value in changes.items():
            section, _, key = path.partition(".")
            if not key:
                self.document[section] = value
            elif value is None:
                self.document[section].pop(key, None)
            else:
                self.document[section].setdefault(key, {}).update(value)


def begun(**devices: Any) -> Feed:
    feed = Feed()
    assert not feed.is_ready
    feed.begin({"now_s": 1.0, "round": {"round_id": 1}, "devices": devices})
    assert feed.is_ready
    return feed


def test_a_page_is_sent_a_snapshot_and_then_changes() -> None:
    feed = begun(a={"step": 1, "state": "idle"})
    screen = Screen(feed)
    feed.offer({"now_s": 2.0})  # it has no snapshot yet, which will have this
    assert screen.woken == 0
    assert screen.take().startswith(b"event: snapshot\n")
    assert screen.document["now_s"] == 2.0
    assert screen.take() == b""
    feed.offer({"now_s": 3.0})
    assert screen.woken == 1
    assert screen.take() == b'event: changes\ndata: {"now_s":3.0}\n\n'


def test_of_a_row_only_the_changed_fields_are_sent() -> None:
    feed = begun(a={"step": 1, "state": "idle"})
    screen = Screen(feed)
    screen.take()
    feed.offer({"devices.a": {"step": 2, "state": "idle"}, "devices.b": {"step": 1, "state": ""}})
    told = json.loads(screen.take().split(b"data: ")[1])
    assert told == {"devices.a": {"step": 2}, "devices.b": {"step": 1, "state": ""}}


def test_what_has_not_changed_is_not_sent() -> None:
    feed = begun(a={"step": 1})
    screen = Screen(feed)
    screen.take()
    feed.offer({"now_s": 1.0, "devices.a": {"step": 1}})
    assert screen.woken == 0
    assert screen.take() == b""


def test_one_encoding_serves_all_pages() -> None:
    feed = begun()
    screens = [Screen(feed) for _ in range(3)]
    for screen in screens:
        screen.take()
    feed.offer({"now_s": 5.0})
    first, *others = [screen.take() for screen in screens]
    assert all(other is first for other in others)


def test_there_is_an_end_to_pages() -> None:
    feed = begun()
    screens = [Screen(feed) for _ in range(MAX_PAGES)]
    with pytest.raises(TooManyPages):
        feed.open(lambda: None)
    feed.close(screens[3].place)
    assert feed.pages == MAX_PAGES - 1
    feed.open(lambda: None)


def test_events_have_one_line_of_data_whatever_stands_in_them() -> None:
    told = event("changes", {"alerts.x": {"text": "a\nb\r\n\u2028data: é"}})
    assert told.count(b"\n") == 3
    with pytest.raises(ValueError, match="JSON"):
        event("changes", {"now_s": float("nan")})


def test_merged_changes_are_bounded_by_the_document() -> None:
    changes: Changes = {}
    for step in range(1000):
        changes = merged(changes, {"devices.a": {"step": step}, "now_s": float(step)})
    assert changes == {"devices.a": {"step": 999}, "now_s": 999.0}


_rows = st.fixed_dictionaries({name: st.integers(0, 2) for name in FIELDS})
_batches = st.dictionaries(
    st.sampled_from(["devices.a", "devices.b", "devices.c"]), st.none() | _rows, max_size=3
)


@settings(max_examples=80, deadline=None)
@given(steps=st.lists(st.tuples(_batches, st.booleans(), st.booleans()), max_size=12))
def test_pages_agree_with_the_document_however_slowly_they_read(
    steps: list[tuple[Changes, bool, bool]],
) -> None:
    feed = begun(a=dict.fromkeys(FIELDS, 0))
    quick, slow = Screen(feed), Screen(feed)
    truth: dict[str, Any] = {"a": dict.fromkeys(FIELDS, 0)}
    for number, (batch, quick_takes, slow_takes) in enumerate(steps):
        feed.offer({**copy.deepcopy(batch), "round": {"round_id": number}})
        for path, row in batch.items():
            key = path.partition(".")[2]
            truth.pop(key, None)
            if row is not None:
                truth[key] = row
        if quick_takes:
            quick.take()
        if slow_takes and number % 3 == 0:
            slow.take()
    for screen in (quick, slow):
        while screen.take():
            pass
        assert screen.document["devices"] == truth
