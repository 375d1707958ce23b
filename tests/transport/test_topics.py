from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paho.mqtt.client import topic_matches_sub

from transport import topics
from transport.errors import BadTopic, InvalidIdentifier
from transport.topics import Topics

FED = Topics("fed-1")
UID = "0123456789abcdef" * 2
ADDRESSES = {
    "flx/v1/fed-1/up/dev-1/" + UID + "/m": topics.UpManifest("dev-1", UID),
    "flx/v1/fed-1/up/dev-1/" + UID + "/s/0": topics.UpSegment("dev-1", UID, 0),
    "flx/v1/fed-1/up/dev-1/" + UID + "/s/2799": topics.UpSegment("dev-1", UID, 2799),
    "flx/v1/fed-1/down/dev-1/" + UID: topics.Down("dev-1", UID),
    "flx/v1/fed-1/model/12/m": topics.ModelManifest(12),
    "flx/v1/fed-1/model/12/s/3": topics.ModelSegment(12, 3),
    "flx/v1/fed-1/want/dev-1/12": topics.ModelWant("dev-1", 12),
    "flx/v1/fed-1/model/12/d/m": topics.ModelManifest(12, delta=True),
    "flx/v1/fed-1/model/12/d/s/3": topics.ModelSegment(12, 3, delta=True),
    "flx/v1/fed-1/want/dev-1/12/d": topics.ModelWant("dev-1", 12, delta=True),
    "fl/v1/fed-1/coord/status": topics.CoordStatus(),
    "fl/v1/fed-1/coord/run": topics.CoordRun(),
    "fl/v1/fed-1/round": topics.RoundNow(),
    "fl/v1/fed-1/round/last": topics.RoundLast(),
    "fl/v1/fed-1/model": topics.Model(),
    "fl/v1/fed-1/alert/refused-layout": topics.Alert("refused-layout"),
    "fl/v1/fed-1/d/dev-1/status": topics.DeviceTopic("dev-1", "status"),
    "fl/v1/fed-1/d/dev-1/info": topics.DeviceTopic("dev-1", "info"),
    "fl/v1/fed-1/d/dev-1/telemetry": topics.DeviceTopic("dev-1", "telemetry"),
    "fl/v1/fed-1/d/dev-1/progress": topics.DeviceTopic("dev-1", "progress"),
    "fl/v1/fed-1/d/dev-1/energy": topics.DeviceTopic("dev-1", "energy"),
    "fl/v1/fed-1/d/dev-1/cmd/train/3": topics.Command("dev-1", "train", "3"),
    "fl/v1/fed-1/d/dev-1/rsp/train/3": topics.Response("dev-1", "train", "3"),
}


@pytest.mark.parametrize("topic", ADDRESSES)
def test_each_address_has_this_topic_and_each_topic_this_address(topic: str) -> None:
    assert FED.topic(ADDRESSES[topic]) == topic
    assert FED.parse(topic) == ADDRESSES[topic]


def test_these_are_all_addresses_that_there_are() -> None:
    assert {type(address) for address in ADDRESSES.values()} == set(topics.Address.__args__)


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "/",
        "fl",
        "fl/v1/fed-1",
        "fl/v1/fed-1/",
        "fl/v2/fed-1/round",
        "fl/v1/fed-2/round",
        "xx/v1/fed-1/round",
        "flx/v1/fed-1/round",
        "fl/v1/fed-1/round/",
        "fl/v1/fed-1/round/next",
        "fl/v1/fed-1/coord/other",
        "fl/v1/fed-1/alert/Bad Code",
        "fl/v1/fed-1/d/dev-1/secrets",
        "fl/v1/fed-1/d/Dev/status",
        "fl/v1/fed-1/d/-dev/status",
        "fl/v1/fed-1/d//status",
        "fl/v1/fed-1/d/+/status",
        "fl/v1/fed-1/d/dev-1/cmd/train",
        "fl/v1/fed-1/d/dev-1/cmd/train/3/4",
        "fl/v1/fed-1/d/dev-1/rsp/Train/3",
        "flx/v1/fed-1/up/dev-1/" + UID,
        "flx/v1/fed-1/up/dev-1/" + UID + "/x",
        "flx/v1/fed-1/up/dev-1/" + UID[:-1] + "/m",
        "flx/v1/fed-1/up/dev-1/" + UID.upper() + "/m",
        "flx/v1/fed-1/up/dev-1/" + UID + "\n/m",
        "flx/v1/fed-1/up/dev-1/" + UID + "/s/-1",
        "flx/v1/fed-1/up/dev-1/" + UID + "/s/01",
        "flx/v1/fed-1/up/dev-1/" + UID + "/s/1_0",
        "flx/v1/fed-1/up/dev-1/" + UID + "/s/1234567890",
        "flx/v1/fed-1/up/dev-1/" + UID + "/s/٣",
        "flx/v1/fed-1/up/dev-1/" + UID + "/s/",
        "flx/v1/fed-1/down/dev-1/" + UID + "/m",
        "flx/v1/fed-1/down/../" + UID,
        "flx/v1/fed-1/model/x/m",
        "flx/v1/fed-1/model/1/s/x",
        "flx/v1/fed-1/model/x/s/1",
        "flx/v1/fed-1/want/dev-1/x",
        "flx/v1/fed-1/want/Dev/1",
        "fl/v1/fed-1/" + "x/" * 1000,
        "�",
    ],
)
def test_every_other_topic_is_bad(topic: str) -> None:
    with pytest.raises(BadTopic):
        FED.parse(topic)


@settings(deadline=None, max_examples=200)
@given(
    levels=st.lists(
        st.sampled_from(
            ["fl", "flx", "v1", "fed-1", "up", "down", "model", "want", "d", "cmd", "m", "s", "0"]
        )
        | st.text(max_size=5),
        max_size=9,
    )
)
def test_whatever_is_parsed_is_built_the_same(levels: list[str]) -> None:
    topic = "/".join(levels)
    try:
        address = FED.parse(topic)
    except BadTopic:
        return
    assert FED.topic(address) == topic


@pytest.mark.parametrize("text", ["a", "0", "a-b", "dev-1", "x" * 64])
def test_identifiers_pass(text: str) -> None:
    assert topics.identifier(text) == text


@pytest.mark.parametrize("text", ["", "-a", "a-", "A", "ä", "a b", "a/b", "a\n", "+", "x" * 65])
def test_other_texts_are_no_identifiers(text: str) -> None:
    with pytest.raises(InvalidIdentifier, match="a-z"):
        topics.identifier(text)


def test_a_federation_is_named_by_an_identifier() -> None:
    with pytest.raises(InvalidIdentifier):
        Topics("My Federation")


def matching(filters: tuple[str, ...]) -> set[type]:
    return {
        type(address)
        for topic, address in ADDRESSES.items()
        if any(topic_matches_sub(one, topic) for one in filters)
    }


def test_the_aggregator_hears_what_devices_say() -> None:
    others = {topics.CoordStatus, topics.CoordRun, topics.Model}  # of another aggregator
    assert matching(FED.aggregator_filters()) == others | {
        topics.UpManifest,
        topics.UpSegment,
        topics.ModelWant,
        topics.DeviceTopic,
        topics.Response,
    }


def test_an_agent_hears_the_aggregator_and_no_other_device() -> None:
    filters = FED.agent_filters("dev-1")
    assert matching(filters) == {topics.CoordRun, topics.Model, topics.Command, topics.Down}
    other = FED.topic(topics.Down("dev-2", UID))
    assert not any(topic_matches_sub(one, other) for one in filters)


def test_model_filters_bring_one_version() -> None:
    filters = FED.model_filters(12)
    assert matching(filters) == {topics.ModelManifest, topics.ModelSegment}
    assert not any(topic_matches_sub(one, "flx/v1/fed-1/model/13/m") for one in filters)


def test_a_version_and_its_delta_are_fetched_apart() -> None:
    whole, delta = FED.model_filters(12), FED.model_filters(12, delta=True)
    for address in (topics.ModelManifest, topics.ModelSegment):
        place = (12,) if address is topics.ModelManifest else (12, 3)
        for is_delta in (False, True):
            topic = FED.topic(address(*place, delta=is_delta))
            assert any(topic_matches_sub(one, topic) for one in delta) is is_delta
            assert any(topic_matches_sub(one, topic) for one in whole) is not is_delta


def test_the_aggregator_hears_what_is_missing_of_a_delta() -> None:
    topic = FED.topic(topics.ModelWant("dev-1", 12, delta=True))
    assert any(topic_matches_sub(one, topic) for one in FED.aggregator_filters())


def test_a_viewer_of_fl_never_gets_bulk() -> None:
    for topic, address in ADDRESSES.items():
        assert topic_matches_sub("fl/#", topic) == topic.startswith(FED.monitoring)
        assert FED.topic(address).startswith((FED.monitoring, FED.bulk))
