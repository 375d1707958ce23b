from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.agenda import Agenda

names = st.sampled_from("abcde")
moments = st.integers(0, 9).map(float)
steps = st.one_of(
    st.tuples(st.just("put"), names, st.none() | moments),
    st.tuples(st.just("take"), st.none(), moments),
)


@given(st.lists(steps, max_size=60))
@settings(deadline=None, max_examples=200)
def test_it_is_a_dict_whose_least_value_is_asked_for(
    script: list[tuple[str, str | None, float | None]],
) -> None:
    agenda, plain = Agenda(), dict[str, float]()
    for step, name, moment in script:
        if name is not None:
            agenda.put(name, moment)
            plain.pop(name, None)
            if moment is not None:
                plain[name] = moment
        elif moment is not None:
            due = sorted((at, name) for name, at in plain.items() if at <= moment)
            assert agenda.take(moment) == [name for _, name in due], step
            plain = {name: at for name, at in plain.items() if at > moment}
        assert agenda.next() == min(plain.values(), default=None)
        assert len(agenda) == len(plain)


def test_what_was_put_off_for_long_takes_no_memory() -> None:
    agenda = Agenda()
    agenda.put("first", 0.0)  # ahead of everything that is overruled
    for moment in range(10_000):
        agenda.put("second", 1.0 + moment)
    assert len(agenda._heap) <= 65
    assert agenda.take(10_000.0) == ["first", "second"]
    assert agenda.next() is None
