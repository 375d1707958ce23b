"""A group yields one finding per name, whatever its function does."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from tools.doctor.context import Context, Role
from tools.doctor.finding import Finding, State, fail, ok
from tools.doctor.runner import Group, as_who_may, is_named, one_line, run_group, selected


def _states(group: Group) -> list[tuple[str, str]]:
    return [(one.check, one.state.value) for one in run_group(group, Context())]


def test_findings_come_in_their_order() -> None:
    group = Group("all", ("a", "b"), lambda _: iter([ok("a", ""), ok("b", "")]))
    assert _states(group) == [("a", "OK"), ("b", "OK")]


def test_a_check_that_raises_fails_in_one_line_and_ends_only_its_own_group() -> None:
    def examine(_context: Context) -> Iterator[Finding]:
        yield ok("a", "")
        raise ValueError("of two\nlines")

    found = list(run_group(Group("g", ("a", "b", "c"), examine), Context()))
    assert [one.state for one in found] == [State.OK, State.FAIL, State.SKIP]
    assert found[1].text == "ValueError: of two lines"
    assert found[2].text == "not looked at: first mend b"


def test_a_check_that_raises_after_its_last_finding_is_not_silent() -> None:
    def examine(_context: Context) -> Iterator[Finding]:
        yield ok("a", "")
        raise OSError

    assert _states(Group("g", ("a",), examine)) == [("a", "OK"), ("a", "FAIL")]


def test_a_check_that_hangs_fails_after_its_time() -> None:
    release = threading.Event()

    def examine(_context: Context) -> Iterator[Finding]:
        release.wait(60)
        yield ok("a", "")

    found = list(run_group(Group("g", ("a", "b"), examine, limit_s=0.05), Context()))
    release.set()
    assert [one.state for one in found] == [State.FAIL, State.SKIP]
    assert "no answer within" in found[0].text


def test_what_ends_early_names_what_to_mend_first() -> None:
    group = Group("g", ("a", "b"), lambda _: iter([fail("a", "x", "y")]))
    assert [one.text for one in run_group(group, Context())] == [
        "x",
        "not looked at: first mend a",
    ]
    group = Group("g", ("a", "b"), lambda _: iter([ok("a", "")]))
    assert [one.text for one in run_group(group, Context())] == ["", "not looked at"]


@pytest.mark.parametrize(
    ("check", "only", "expected"),
    [
        ("acl-read", [], True),
        ("acl-read", ["acl"], True),
        ("acl-read", ["acl-read"], True),
        ("acl-read", ["ac"], False),
        ("disk", ["acl", "disk"], True),
    ],
)
def test_a_name_stands_for_itself_and_all_that_begin_with_it(
    check: str, only: list[str], *, expected: bool
) -> None:
    assert is_named(check, only) is expected


def _nothing(_context: Context) -> Iterator[Finding]:
    return iter(())


@pytest.fixture
def chosen() -> Callable[..., list[str]]:
    groups = (
        Group("always", ("a",), _nothing),
        Group("online", ("run",), _nothing, roles=frozenset({Role.AGENT}), online=True),
        Group("later", ("model",), _nothing, roles=frozenset({Role.AGENT}), after="run"),
    )

    def choose(
        *, role: Role | None = Role.AGENT, only: tuple[str, ...] = (), offline: bool = False
    ) -> list[str]:
        return [group.title for group in selected(groups, role=role, only=only, offline=offline)]

    return choose


def test_groups_are_chosen_by_role_name_and_network(chosen: Callable[..., list[str]]) -> None:
    assert chosen() == ["always", "online", "later"]
    assert chosen(role=None) == ["always"]
    assert chosen(role=Role.AGGREGATOR) == ["always"]
    assert chosen(offline=True) == ["always", "later"]
    assert chosen(only=("a",)) == ["always"]


def test_what_a_check_compares_with_is_found_out_before(chosen: Callable[..., list[str]]) -> None:
    assert chosen(only=("model",)) == ["online", "later"]
    assert chosen(only=("model",), offline=True) == ["later"]


def test_an_error_is_one_bounded_line() -> None:
    assert len(one_line(ValueError("x" * 1000))) == 300
    assert one_line(KeyError()) == "KeyError"


def test_what_is_closed_to_this_user_is_mended_by_another_user() -> None:
    closed = fail("a", "x cannot be read: Permission denied", "make it anew")
    assert as_who_may(closed, is_root=True) == closed
    assert "as root" in as_who_may(closed, is_root=False).mend
    other = fail("a", "x has ended", "make it anew")
    assert as_who_may(other, is_root=False) == other
