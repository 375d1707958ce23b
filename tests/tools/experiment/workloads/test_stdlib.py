from __future__ import annotations

from collections import Counter

from tools.corpus import CLIENT_PACKAGES
from tools.experiment.workloads.stdlib import stdlib_records


def test_every_package_group_has_passages_on_both_sides_and_none_on_two() -> None:
    records = stdlib_records(None)
    names = [name for name, _ in CLIENT_PACKAGES]
    counts = Counter((record.label, record.heldout) for record in records)
    assert all(counts[name, False] >= 32 and counts[name, True] >= 8 for name in names)
    sides = [{r.answer for r in records if r.heldout is side} for side in (True, False)]
    assert sum(map(len, sides)) > 1000


def test_all_of_a_passage_is_learnt_and_its_second_half_asked_for() -> None:
    for record in stdlib_records(None)[::50]:
        assert not record.prompt
        assert record.question.prompt + record.question.answer == record.answer
        assert record.question.prompt
        assert len(record.question.answer) >= len(record.answer) // 2
