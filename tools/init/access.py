"""The broker's rules for one fleet: Mosquitto's ACL file, and the same as a dynamic-security file.

Both follow from the template `acl`, which says what each role may do, so that they cannot differ.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tools.init.fleet import AGGREGATOR, PEOPLE, Fleet, Role

_SHUT_OUT = "# --- Shut out ".ljust(97, "-")

# A denial stands above what a wider rule allows.
_ALLOWS, _DENIES = 0, 1

# What Mosquitto's plugin listens to, and so what one who revokes at run time needs.
_CONTROL = "$CONTROL/dynamic-security/#"


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of an ACL: for one user, or as a pattern for every login.

    Attributes:
        user: Whose block it stands in; None for a pattern.
        access: `read`, `write` or `deny`.
        topic: What it is about, with %u for the user's name in a pattern.
    """

    user: str | None
    access: str
    topic: str


def rules(acl: str) -> Iterator[Rule]:
    """Yield the rules of an ACL file."""
    user: str | None = None
    for line in acl.splitlines():
        match line.split():
            case ["user", name]:
                user = name
            case ["topic", access, topic]:
                yield Rule(user, access, topic)
            case ["pattern", access, topic]:
                yield Rule(None, access, topic)


def access_list(template: str, fleet: Fleet) -> str:
    """Return the ACL file of a fleet: a block per person, and one per name that is shut out.

    Args:
        template: The ACL of a fleet whose people are `operator` and `viewer`.
        fleet: Whose names it is for.
    """
    paragraphs = template.rstrip("\n").split("\n\n")
    shut_out = fleet.shut_out()
    blocks: list[str] = []
    for paragraph in paragraphs:
        user = _user_of(paragraph)
        if user in {role.value for role in PEOPLE}:
            names = [name for name, _ in fleet.having(Role(user))]
            blocks += [
                _renamed(paragraph, user, name, with_comment=number == 0)
                for number, name in enumerate(names)
            ]
        elif user is None or user not in shut_out:
            blocks.append(paragraph)
    if shut_out:
        blocks.append(_SHUT_OUT)
        blocks += [f"user {name}\ntopic deny #" for name in shut_out]
    return "\n\n".join(blocks) + "\n"


def _user_of(paragraph: str) -> str | None:
    return next(
        (line.split()[1] for line in paragraph.splitlines() if line.startswith("user ")), None
    )


def _renamed(paragraph: str, user: str, name: str, *, with_comment: bool) -> str:
    lines = []
    for line in paragraph.splitlines():
        if line.startswith("#"):
            lines += [line] if with_comment else []
            continue
        words = [
            "/".join(name if level == user else level for level in word.split("/"))
            for word in line.split(" ")
        ]
        lines.append(" ".join(words))
    return "\n".join(lines)


def dynamic_security(template: str, fleet: Fleet) -> str:
    """Return the same rules as JSON for Mosquitto's dynamic-security plugin.

    Every login has a role of its own, since the plugin of Mosquitto 2.0 knows no %u. Who is not in
    the file may neither read nor write. Operators may also change it while the broker runs.
    """
    parsed = list(rules(template))
    everybody = [rule for rule in parsed if rule.user is None and "%u" not in rule.topic]
    own = [rule for rule in parsed if rule.user is None and "%u" in rule.topic]
    groups = {
        role.value: [name for name, _ in fleet.having(role)]
        for role in (Role.AGGREGATOR, *PEOPLE, Role.DEVICE)
    }
    others = [name for name, _ in fleet.having(Role.AGGREGATOR, *PEOPLE)]
    content = {
        "defaultACLAccess": {
            "publishClientSend": False,
            "publishClientReceive": False,
            "subscribe": True,
            "unsubscribe": True,
        },
        "clients": [
            {"username": name, "roles": [{"rolename": f"own-{name}"}]}
            for names in groups.values()
            for name in names
        ],
        "groups": [_group(group, names) for group, names in groups.items()],
        "roles": [
            _role("everybody", everybody),
            _role("aggregator", _of(parsed, AGGREGATOR)),
            _role("operator", _of(parsed, "operator"), controls=True),
            _role("viewer", _of(parsed, "viewer")),
            *(_role(f"own-{name}", own, name=name) for name in groups[Role.DEVICE.value]),
            *(_role(f"own-{name}", _no_device(parsed, name)) for name in others),
        ],
    }
    return json.dumps(content, indent=2) + "\n"


def _of(parsed: Sequence[Rule], user: str) -> list[Rule]:
    """Return what a user's block says to all who have its role."""
    return [rule for rule in parsed if rule.user == user and not _is_about(rule, user)]


def _no_device(parsed: Sequence[Rule], name: str) -> list[Rule]:
    """Return what keeps somebody with a wider role from acting as a device of the same name."""
    return [
        Rule(name, rule.access, rule.topic.replace(f"/{AGGREGATOR}/", f"/{name}/"))
        for rule in parsed
        if rule.user == AGGREGATOR and _is_about(rule, AGGREGATOR)
    ]


def _is_about(rule: Rule, user: str) -> bool:
    return rule.access == "deny" and user in rule.topic.split("/")


def _group(group: str, names: Sequence[str]) -> dict[str, object]:
    roles = ["everybody"] if group == Role.DEVICE.value else [group, "everybody"]
    return {
        "groupname": group,
        "roles": [{"rolename": role} for role in roles],
        "clients": [{"username": name} for name in names],
    }


def _role(
    role: str, its: Sequence[Rule], *, name: str = "", controls: bool = False
) -> dict[str, object]:
    access: list[dict[str, object]] = []
    for rule in its:
        topic = rule.topic.replace("%u", name)
        match rule.access:
            case "read":
                access.append(_access("publishClientReceive", topic))
            case "write":
                access.append(_access("publishClientSend", topic))
            case "deny":
                access.append(_access("publishClientSend", topic, allow=False))
                access.append(_access("publishClientReceive", topic, allow=False))
            case unknown:
                raise AssertionError(f"the ACL template says {unknown!r}")
    if controls:
        kinds = ("publishClientSend", "publishClientReceive", "subscribePattern")
        access += [_access(kind, _CONTROL) for kind in kinds]
    return {"rolename": role, "acls": access}


def _access(kind: str, topic: str, *, allow: bool = True) -> dict[str, object]:
    priority = _ALLOWS if allow else _DENIES
    return {"acltype": kind, "topic": topic, "priority": priority, "allow": allow}
