"""Both forms of the rules follow from the template; tests/broker_config asks real brokers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tools.init.access import Rule, access_list, dynamic_security, rules
from tools.init.service_files import template

ACL = template("acl")


def _of(acl: str, user: str) -> set[tuple[str, str]]:
    return {(rule.access, rule.topic) for rule in rules(acl) if rule.user == user}


def test_the_template_is_the_acl_of_a_fleet_with_its_first_people(make_record: Any) -> None:
    assert access_list(ACL, make_record()) == ACL


def test_a_person_has_her_roles_rules_under_her_own_name(make_record: Any) -> None:
    fleet = make_record()
    more = {"alice": fleet.names["operator"], "bob": fleet.names["viewer"]}
    acl = access_list(ACL, fleet.with_names(more))
    for name, role in (("alice", "operator"), ("bob", "viewer")):
        expected = {
            (access, topic.replace(f"/{role}/", f"/{name}/")) for access, topic in _of(ACL, role)
        }
        assert _of(acl, name) == expected
        assert ("deny", f"fl/v1/+/d/{name}/#") in expected
    assert _of(acl, "operator") == _of(ACL, "operator")
    assert acl.count("user ") == ACL.count("user ") + 2


@pytest.mark.parametrize("name", ["nano-01", "operator", "coord"])
def test_who_is_revoked_is_denied_everything_and_allowed_nothing(
    make_record: Any, name: str
) -> None:
    acl = access_list(ACL, make_record(revoked=(name,)))
    assert _of(acl, name) == {("deny", "#")}


def test_rules_are_read_with_the_user_of_their_block() -> None:
    acl = "pattern read a/%u\n\n# x\nuser u\ntopic deny b/#\n"
    assert list(rules(acl)) == [Rule(None, "read", "a/%u"), Rule("u", "deny", "b/#")]


def test_dynamic_security_knows_exactly_who_is_in_the_fleet(make_record: Any) -> None:
    made = json.loads(dynamic_security(ACL, make_record(revoked=("nano-02", "viewer"))))
    assert {one["username"] for one in made["clients"]} == {"coord", "operator", "nano-01"}
    grouped = {one["groupname"]: one["clients"] for one in made["groups"]}
    assert grouped["viewer"] == []
    assert grouped["device"] == [{"username": "nano-01"}]
    assert "nano-02" not in json.dumps(made)


def test_dynamic_security_denies_what_nothing_allows_and_leaves_no_pattern(
    make_record: Any,
) -> None:
    text = dynamic_security(ACL, make_record())
    assert "%u" not in text
    default = json.loads(text)["defaultACLAccess"]
    assert not default["publishClientSend"]
    assert not default["publishClientReceive"]


def test_operators_alone_change_dynamic_security(make_record: Any) -> None:
    made = json.loads(dynamic_security(ACL, make_record()))
    controlling = {
        role["rolename"]
        for role in made["roles"]
        if any(one["topic"].startswith("$CONTROL") for one in role["acls"])
    }
    assert controlling == {"operator"}


def test_a_template_with_an_unknown_word_is_a_mistake_of_ours(make_record: Any) -> None:
    with pytest.raises(AssertionError, match="frobnicate"):
        dynamic_security("user operator\ntopic frobnicate x\n", make_record())
