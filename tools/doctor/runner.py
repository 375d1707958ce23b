"""Runs groups of checks one by one: each with a time limit, none able to end the others."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from tools.doctor.context import Context, Role
from tools.doctor.finding import Finding, State, fail, skip

_LONGEST_ERROR: Final = 300  # [characters] of one line

Examine = Callable[[Context], Iterator[Finding]]


@dataclass(frozen=True, slots=True)
class Group:
    """Checks that one function makes.

    Attributes:
        title: What is being looked at, for whoever waits.
        names: The names of its findings, in the order in which they come.
        examine: Yields one finding for each name.
        roles: Whose checks these are; empty for checks that need no configuration.
        limit_s: Seconds in which each next finding must come.
        online: It speaks with the broker.
        after: What it compares with is found out by the group that has this name.
    """

    title: str
    names: tuple[str, ...]
    examine: Examine
    roles: frozenset[Role] = frozenset()
    limit_s: float = 20.0
    online: bool = False
    after: str = ""


@dataclass(frozen=True, slots=True)
class _Raised:
    error: Exception


class _End:
    pass


def selected(
    groups: Sequence[Group], *, role: Role | None, only: Collection[str], offline: bool
) -> list[Group]:
    """Return the groups that are to run, in their order.

    Args:
        groups: All there are.
        role: Of the configuration; None leaves only those that need none.
        only: Names of checks or their beginnings, as `acl`; empty for all.
        offline: Leave out what speaks with the broker.
    """
    fitting = [
        group
        for group in groups
        if (not group.roles or role in group.roles) and not (offline and group.online)
    ]
    wanted = [group for group in fitting if any(is_named(name, only) for name in group.names)]
    before = {group.after for group in wanted}
    return [group for group in fitting if group in wanted or before.intersection(group.names)]


def is_named(check: str, only: Collection[str]) -> bool:
    """Tell whether a check is one of these, or begins with one of them and a dash."""
    return not only or any(check == name or check.startswith(f"{name}-") for name in only)


def run_group(group: Group, context: Context) -> Iterator[Finding]:
    """Yield one finding per name of the group, whatever happens to the function that makes them."""
    made: queue.Queue[Finding | _Raised | _End] = queue.Queue()
    thread = threading.Thread(target=_examine, args=(group, context, made), daemon=True)
    thread.start()
    left = list(group.names)
    failed = ""
    while True:
        try:
            got = made.get(timeout=group.limit_s)
        except queue.Empty:
            # The thread is left behind: nothing can end it, and the process soon does.
            if left:
                failed = left.pop(0)
                yield fail(failed, f"no answer within {group.limit_s:.0f} s", _HANGS)
            break
        if isinstance(got, _Raised):
            failed = left.pop(0) if left else group.names[-1]
            raised = fail(failed, one_line(got.error), _REPORT)
            yield as_who_may(raised, is_root=os.geteuid() == 0)
            break
        if isinstance(got, _End):
            break
        if got.check in left:
            left.remove(got.check)
        if got.state is State.FAIL:
            failed = got.check
        yield as_who_may(got, is_root=os.geteuid() == 0)
    for name in left:
        yield skip(name, f"not looked at: first mend {failed}" if failed else "not looked at")


_CLOSED: Final = "Permission denied"
_AS_ROOT: Final = (
    "run the doctor as root, for whom the service's files are open: sudo fedfstq doctor"
)
_HANGS: Final = "look whether the disk or the network hangs, then run this check again with --only"
_REPORT: Final = "the check itself failed: run it again as root; if it stays, report this line"


def as_who_may(finding: Finding, *, is_root: bool) -> Finding:
    """Return the finding, or with another way to mend it: what nobody but root may look at."""
    if is_root or finding.state is not State.FAIL or _CLOSED not in finding.text:
        return finding
    return replace(finding, mend=_AS_ROOT)


def one_line(error: Exception) -> str:
    """Return an error as one line of bounded length."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:_LONGEST_ERROR] if text else type(error).__name__


def _examine(group: Group, context: Context, made: queue.Queue[Finding | _Raised | _End]) -> None:
    try:
        for finding in group.examine(context):
            made.put(finding)
    except Exception as error:  # noqa: BLE001  # whatever it is, it becomes a line of the report
        made.put(_Raised(error))
    else:
        made.put(_End())
