"""What a frozen set becomes, and when it is there."""

from __future__ import annotations

from typing import Any

import pytest

from aggregator.outputs import Aggregate, Commit


@pytest.mark.parametrize("downlink", [None, "fstq+"])
def test_the_same_frozen_set_gives_the_same_version_and_nothing_stands_before_its_commit(
    make_rig: Any, downlink: str | None
) -> None:
    rig = make_rig(goal=2, quorum=2, rounds=2, downlink_codec=downlink).start()
    averaging = rig.service._averaging
    make, commit = averaging.aggregate, averaging.commit
    made: list[str] = []
    worked: list[None] = []
    averaging._works = lambda: worked.append(None)

    def make_twice(aggregate: Aggregate) -> Any:
        first, again = make(aggregate), make(aggregate)
        assert first == again
        assert averaging._published.facts.version == aggregate.base_version
        return again

    def commit_once(output: Commit) -> Any:
        facts = commit(output)
        made.append(facts.sha256)
        with pytest.raises(AssertionError):
            commit(output)
        return facts

    averaging.aggregate, averaging.commit = make_twice, commit_once
    for device in rig.add("a", "b"):
        device.join()
    rig.finish()
    assert rig.current() == len(made) == 2
    assert averaging._published.facts.sha256 == made[-1]
    assert len(worked) == 8, "each of two updates, twice a round"
