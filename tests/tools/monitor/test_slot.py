from __future__ import annotations

import sys
import uuid

import pytest

from tools.monitor.slot import MAX_SLOTS, Slot


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere every program has the first number")
def test_numbers_are_had_once_and_given_back() -> None:
    name = uuid.uuid4().hex
    first, second = Slot(name), Slot(name)
    assert (first.number, second.number) == (1, 2)
    first.release()
    first.release()
    again = Slot(name)
    assert again.number == 1
    for one in (again, second):
        one.release()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere every program has the first number")
def test_where_all_are_had_the_first_is_shared() -> None:
    name = uuid.uuid4().hex
    slots = [Slot(name) for _ in range(MAX_SLOTS + 1)]
    assert slots[-1].number == 1
    for one in slots:
        one.release()


def test_another_system_has_no_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert Slot("anything").number == 1
