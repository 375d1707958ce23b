from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tools.monitor.document import MAX_CHANGED, Document, apply, merge


def document() -> Document:
    return Document({"round": 0}, keyed=("devices",))


def test_only_what_is_new_has_changed() -> None:
    one = document()
    one.put("round", 0)
    assert one.take_changes() == {}
    one.put("round", 7)
    one.put("devices", {"id": "a"}, key="a")
    assert one.take_changes() == {"round": 7, "devices.a": {"id": "a"}}
    one.put("devices", {"id": "a"}, key="a")
    assert one.take_changes() == {}
    assert one.value("round") == 7


def test_what_is_removed_becomes_null() -> None:
    one = document()
    one.put("devices", 1, key="a")
    one.take_changes()
    one.clear("devices")
    one.remove("devices", "never-there")
    assert one.take_changes() == {"devices.a": None}
    assert one.snapshot() == {"round": 0, "devices": {}}


def test_a_snapshot_stays_as_it_was() -> None:
    one = document()
    before = one.snapshot()
    one.put("devices", 1, key="a")
    assert before["devices"] == {}


def test_who_never_asks_costs_no_memory() -> None:
    """Keys that come and go are told as one change of the whole section."""
    one = document()
    seen = one.snapshot()
    for number in range(3 * MAX_CHANGED):
        one.put("devices", number, key=str(number))
        one.remove("devices", str(number))
    one.put("devices", 1, key="last")
    changes = one.take_changes()
    assert len(changes) <= MAX_CHANGED
    apply(seen, changes)
    assert seen == one.snapshot() == {"round": 0, "devices": {"last": 1}}


_STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from("abc"), st.integers(0, 3)),
        st.tuples(st.just("remove"), st.sampled_from("abc"), st.just(0)),
        st.tuples(st.just("value"), st.just(""), st.integers(0, 3)),
        st.tuples(st.just("take"), st.just(""), st.just(0)),
    )
)


@settings(deadline=None, max_examples=100)
@given(_STEPS)
def test_replayed_changes_are_the_snapshot(steps: list[tuple[str, str, int]]) -> None:
    """However often they are taken, and however many of them wait for a slow reader."""
    one = document()
    at_once, late = one.snapshot(), one.snapshot()
    waiting: dict[str, object] = {}
    for what, key, value in [*steps, ("take", "", 0)]:
        match what:
            case "put":
                one.put("devices", value, key=key)
            case "remove":
                one.remove("devices", key)
            case "value":
                one.put("round", value)
            case _:
                changes = one.take_changes()
                apply(at_once, changes)
                merge(waiting, changes)
    apply(late, waiting)
    assert at_once == late == one.snapshot()


def test_a_whole_section_does_not_undo_what_came_after_it() -> None:
    waiting: dict[str, object] = {"devices.a": 1}
    merge(waiting, {"devices": {"a": 2}})
    merge(waiting, {"devices.a": 3})
    seen = {"round": 0, "devices": {}}
    apply(seen, waiting)
    assert seen["devices"] == {"a": 3}
