from __future__ import annotations

import pytest

from transport import errors, topics


def test_every_message_error_has_a_reason_that_topics_can_carry() -> None:
    kinds = errors.MessageError.__subclasses__()
    assert len(kinds) >= 4
    for kind in kinds:
        assert topics.identifier(kind.reason) == kind.reason
    assert len({kind.reason for kind in kinds}) == len(kinds)


@pytest.mark.parametrize(
    "kind",
    [errors.LinkLost, errors.BrokerUnreachable, errors.LoginRefused, errors.SessionTakenOver],
)
def test_what_the_world_does_is_a_link_error(kind: type[Exception]) -> None:
    assert issubclass(kind, errors.LinkError)
    assert not issubclass(kind, errors.MessageError | ValueError)


@pytest.mark.parametrize("kind", [errors.InvalidIdentifier, errors.BadLinkConfig])
def test_what_the_caller_does_is_a_value_error(kind: type[Exception]) -> None:
    assert issubclass(kind, ValueError)
