"""Lines for a person are readable and can be copied; the JSON keeps its keys."""

from __future__ import annotations

import json

from tools.doctor.finding import fail, has_failed, ok, skip, warn
from tools.doctor.report import as_json, lines, summary


def test_a_line_has_state_name_and_text_and_below_it_what_mends() -> None:
    shown = lines(warn("swap", "none", "swapon /swapfile"), width=100, coloured=False)
    assert shown[0] == "WARN  swap               none"
    assert shown[1].strip() == "mend: swapon /swapfile"
    assert shown[1].index("mend") == shown[0].index("none")


def test_a_long_text_is_wrapped_and_a_command_is_not() -> None:
    command = "x" * 200 + " -y " + "z" * 50
    shown = lines(fail("disk", "word " * 40, command), width=80, coloured=False)
    assert all(len(line) <= 80 for line in shown[:-1])
    assert shown[-1].endswith(command)


def test_colours_go_to_terminals_alone() -> None:
    finding = ok("disk", "there")
    assert "\x1b" in lines(finding, width=80, coloured=True)[0]
    assert "\x1b" not in lines(finding, width=80, coloured=False)[0]


def test_an_empty_text_is_a_line_nevertheless() -> None:
    assert len(lines(ok("disk", ""), width=80, coloured=False)) == 1


def test_the_json_is_a_list_of_four_keys_each() -> None:
    findings = [ok("a", "x"), fail("b", "ü", "m"), skip("c", "y")]
    assert json.loads(as_json(findings)) == [
        {"check": "a", "state": "OK", "text": "x", "mend": ""},
        {"check": "b", "state": "FAIL", "text": "ü", "mend": "m"},
        {"check": "c", "state": "SKIP", "text": "y", "mend": ""},
    ]


def test_the_summary_counts_each_state_and_only_failures_fail() -> None:
    findings = [ok("a", ""), ok("b", ""), warn("c", "", "")]
    assert summary(findings) == "2 OK, 1 WARN"
    assert summary([]) == "nothing was checked"
    assert not has_failed(findings)
    assert has_failed([*findings, fail("d", "", "")])
