from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.chain import MAX_DELTAS, Chain, DeltaFacts, chain_of


def deltas(*sizes: int) -> dict[int, DeltaFacts]:
    """Return the deltas of versions 1, 2, … with these sizes in bytes."""
    return {version: DeltaFacts(version, size, 1) for version, size in enumerate(sizes, start=1)}


def versions(chain: Chain) -> list[int]:
    return [delta.version for delta in chain.deltas]


def test_a_chain_is_smaller_than_the_whole() -> None:
    known = deltas(30, 30, 30, 30)
    assert versions(chain_of(known, newest=4, whole_bytes=91)) == [2, 3, 4]
    assert versions(chain_of(known, newest=4, whole_bytes=90)) == [3, 4]
    assert chain_of(known, newest=4, whole_bytes=91).begins_at == 1


def test_a_delta_as_large_as_the_whole_is_none() -> None:
    chain = chain_of(deltas(5, 30), newest=2, whole_bytes=30)
    assert (chain.deltas, chain.begins_at) == ((), None)
    assert [delta.version for delta in chain.left] == [1]
    assert chain.oldest == 1


def test_a_chain_has_so_many_deltas_at_the_most() -> None:
    chain = chain_of(deltas(*[1] * 40), newest=40, whole_bytes=1000)
    assert len(chain.deltas) == MAX_DELTAS
    assert [delta.version for delta in chain.left] == [40 - MAX_DELTAS]


def test_a_version_without_delta_ends_the_chain() -> None:
    known = deltas(1, 1, 1, 1)
    del known[2]
    assert versions(chain_of(known, newest=4, whole_bytes=100)) == [3, 4]
    assert chain_of({}, newest=4, whole_bytes=100) == Chain()
    assert Chain().oldest is None


def test_a_large_delta_drives_several_out() -> None:
    chain = chain_of(deltas(10, 10, 10, 85), newest=4, whole_bytes=100)
    assert versions(chain) == [3, 4]
    assert [delta.version for delta in chain.left] == [1, 2]
    assert chain.find(3) == DeltaFacts(3, 10, 1)
    assert chain.find(1) is None


@settings(deadline=None, max_examples=100)
@given(sizes=st.lists(st.integers(1, 50), min_size=1, max_size=40), whole_bytes=st.integers(1, 200))
def test_a_restart_finds_the_chain_that_there_was(sizes: list[int], whole_bytes: int) -> None:
    known = deltas(*sizes)
    chain = Chain()
    for version, delta in known.items():
        chain = chain.extended(delta, whole_bytes=whole_bytes)
        oldest = chain.oldest
        kept = {each: known[each] for each in known if oldest is not None and each >= oldest}
        assert chain_of(kept, newest=version, whole_bytes=whole_bytes) == chain
        assert sum(each.size_bytes for each in chain.deltas) < whole_bytes
        assert versions(chain) == list(range(version - len(chain.deltas) + 1, version + 1))
