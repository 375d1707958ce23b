"""What is tried: nothing twice, nothing that anybody hears, nothing that is no topic."""

from __future__ import annotations

import pytest

from tools.doctor.acl_trial import Trial, forbidden_topics, own_topics
from tools.doctor.context import Role
from transport.topics import Topics

REAL = Topics("clinics")
NOBODYS = Trial("dev-1", "doctor-other-1", Topics("doctor-1"))
IN_REAL = Trial("dev-1", "doctor-other-1", REAL, is_real=True)


@pytest.mark.parametrize("role", Role)
def test_nothing_is_tried_both_ways(role: Role) -> None:
    for trial in (NOBODYS, IN_REAL):
        assert not set(own_topics(trial, role)) & set(forbidden_topics(trial, role))


@pytest.mark.parametrize("role", Role)
def test_only_topics_that_nobody_listens_to_are_written(role: Role) -> None:
    """In the real federation no service subscribes to what is tried; elsewhere there is none."""
    for name in own_topics(NOBODYS, role) + forbidden_topics(NOBODYS, role):
        assert name.split("/")[2] == "doctor-1"
    heard = [*REAL.aggregator_filters(), *REAL.agent_filters("dev-1"), *REAL.agent_filters("dev-2")]
    for name in own_topics(IN_REAL, role) + forbidden_topics(IN_REAL, role):
        assert not any(_matches(name, topic_filter) for topic_filter in heard)


def _matches(name: str, topic_filter: str) -> bool:
    levels, wanted = name.split("/"), topic_filter.split("/")
    return len(levels) == len(wanted) and all(
        want in {"+", level} for level, want in zip(levels, wanted, strict=True)
    )


def test_every_topic_that_is_tried_is_one_of_the_systems() -> None:
    for role in Role:
        for trial in (NOBODYS, IN_REAL):
            for name in own_topics(trial, role) + forbidden_topics(trial, role):
                trial.fleet.parse(name)
