from __future__ import annotations

from tools.evidence.verdicts import Verdict, sentences, verdicts_sheet


def test_a_goal_is_reached_where_it_is_everywhere_it_was_measured() -> None:
    verdicts = [
        Verdict("a", "x", reached=True, found="2", span="1 to 3", t_p=0.0004, note="why"),
        Verdict("a", "y", reached=True, found="3", t_p=0.04),
        Verdict("b", "x", reached=True, found="4"),
        Verdict("b", "y", reached=False, found="1"),
        Verdict("c", "x", reached=False, found="0"),
        Verdict("d", "x", reached=None),
        Verdict("e", "x", reached=True, found="9"),
        Verdict("e", "y", reached=None),
    ]
    assert sentences(verdicts) == [
        (
            "Goal reached in all of 2 settings: a. x: 2 (95 % interval 1 to 3, p < 0.001), why;"
            " y: 3 (p = 0.040)."
        ),
        "Goal **not reached** everywhere, but in 1 of 2 settings: b. x: 4; y: 1.",
        "Goal **not reached**: c. x: 0.",
        "Goal not measured: d. x: not measured.",
        "Goal reached: e. x: 9; y: not measured.",
    ]


def test_a_table_has_a_row_per_place() -> None:
    rows = verdicts_sheet(
        [Verdict("a", "x", reached=False, note="by `c`"), Verdict("a", "y", reached=None)]
    ).rows
    assert rows[0]["note"] == "by c"
    assert [row["reached"] for row in rows] == ["not reached", "not measured"]
    assert rows[0]["found"] is None
