from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from transport import control, frame
from transport.broker import BrokerConfig, TlsConfig
from transport.control import ModelStatus, RunAnnouncement, TrainCommand, TrainingPlan
from transport.envelope import Sealed, join_frame, split_frame
from transport.errors import BadLinkConfig, BadSignature, BadTopic, MessageError
from transport.messages import Have, Receipt, ReceiptState, Segment, Want
from transport.signing import (
    Signatures,
    SigningConfig,
    SigningMode,
    Unsigned,
    load_seals,
)
from transport.topics import (
    Address,
    Alert,
    Command,
    CoordRun,
    CoordStatus,
    DeviceTopic,
    Down,
    Model,
    ModelManifest,
    ModelSegment,
    Response,
    Topics,
    UpManifest,
    UpSegment,
)

TOPICS = Topics("lab")
GOLDEN = Path(__file__).parent / "golden"
UID, OTHER_UID = "0" * 32, "1" * 32
RUN = "0123456789abcdef" * 2
RECEIPT = Receipt(5, ReceiptState.PARTIAL, "partial", frozenset({1}), 3)
ANNOUNCEMENT = RunAnnouncement(RUN, "base", "b", "l", "fp32", 3, 1024, TrainingPlan())
COMMAND = TrainCommand(RUN, 1, 2, 1, 60.0, 7, None)


class Party:
    """A service that signs: `coord` or a device."""

    def __init__(self, authority: Any, name: str, **changes: Any) -> None:
        self.login = authority.certify(name, **changes)
        self.now_s = float(authority.BEGINS_S)
        self.seals = self.with_mode("required")

    def with_mode(self, mode: str, **files: Any) -> Signatures:
        seals = load_seals(
            SigningConfig.model_validate(self.login.signing(mode, **files)),
            broker=BrokerConfig(),
            topics=TOPICS,
            name=self.login.name,
            aggregator="coord",
            clock=lambda: self.now_s,
        )
        assert isinstance(seals, Signatures)
        return seals

    def seal(self, address: Address, payload: bytes) -> bytes:
        return self.seals.seal(TOPICS.topic(address), payload)

    def unseal(self, address: Address, payload: bytes) -> bytes:
        return self.seals.unseal(TOPICS.topic(address), payload)


@pytest.fixture
def coord(authority: Any) -> Party:
    return Party(authority, "coord")


@pytest.fixture
def device(authority: Any) -> Party:
    return Party(authority, "dev-1")


def said_by_the_aggregator(make_adapter_manifest: Callable[..., Any]) -> dict[Address, bytes]:
    model = control.encode(ModelStatus(RUN, 1, "0" * 64, 10, 1))
    return {
        CoordStatus(): control.encode(control.ServiceStatus(control.ServiceState.LOST, "s", "1")),
        CoordRun(): control.encode(ANNOUNCEMENT),
        Model(): model,
        Command("dev-1", "train", "2"): control.encode(COMMAND),
        Command("dev-1", "eval", "2"): control.encode(control.EvalCommand(RUN, 1, 2, 60.0)),
        Down("dev-1", UID): frame.encode(RECEIPT),
        ModelManifest(2): frame.encode(make_adapter_manifest(b"one")),
        ModelManifest(2, delta=True): frame.encode(make_adapter_manifest(b"two")),
    }


def said_by_the_device(make_manifest: Callable[..., Any]) -> dict[Address, bytes]:
    answer = control.TrainResponse(RUN, 2, accepted=True)
    report = control.EvalResponse(RUN, 2, 1.0, 10, 1)
    return {
        UpManifest("dev-1", UID): frame.encode(make_manifest(b"one")),
        Response("dev-1", "train", "2"): control.encode(answer),
        Response("dev-1", "eval", "2"): control.encode(report),
    }


def test_what_is_signed_is_believed_and_is_what_was_said(
    coord: Party, device: Party, make_manifest: Any, make_adapter_manifest: Any
) -> None:
    for sender, receiver, said in (
        (coord, device, said_by_the_aggregator(make_adapter_manifest)),
        (device, coord, said_by_the_device(make_manifest)),
    ):
        for address, payload in said.items():
            sealed = sender.seal(address, payload)
            assert sealed != payload
            assert receiver.unseal(address, sealed) == payload


def test_without_a_signature_none_of_it_is_believed(
    coord: Party, device: Party, make_manifest: Any, make_adapter_manifest: Any
) -> None:
    for receiver, said in (
        (device, said_by_the_aggregator(make_adapter_manifest)),
        (coord, said_by_the_device(make_manifest)),
    ):
        for address, payload in said.items():
            with pytest.raises(BadSignature, match="has no signature"):
                receiver.unseal(address, payload)


def test_what_nobody_signs_passes_as_it_is(coord: Party, device: Party) -> None:
    """Segments are named by a signed manifest; statuses and people's commands are not covered."""
    for address in (
        UpSegment("dev-1", UID, 0),
        ModelSegment(1, 0),
        Alert("cloned"),
        DeviceTopic("dev-1", "status"),
        Command("dev-1", "pause", "x"),
        Response("dev-1", "pause", "x"),
    ):
        payload = frame.encode(Segment(b"x"))
        assert coord.seal(address, payload) == payload
        assert device.unseal(address, payload) == payload
    assert coord.seal(CoordRun(), b"") == b""
    assert device.seals.unseal("flx/v1/other/model/1/m", b"x") == b"x"
    with pytest.raises(BadTopic):
        coord.seals.seal("flx/v1/other/model/1/m", b"x")


def test_nothing_can_be_moved_to_another_topic(
    coord: Party, device: Party, make_manifest: Any, make_adapter_manifest: Any
) -> None:
    """Another device, update, version, form, kind or federation: what is signed names them all."""
    receipt = coord.seal(Down("dev-1", UID), frame.encode(RECEIPT))
    manifest = device.seal(UpManifest("dev-1", UID), frame.encode(make_manifest(b"one")))
    adapter = coord.seal(ModelManifest(2), frame.encode(make_adapter_manifest(b"one")))
    command = coord.seal(Command("dev-1", "train", "2"), control.encode(COMMAND))
    for receiver, payload, topic in (
        (device, receipt, TOPICS.topic(Down("dev-1", OTHER_UID))),
        (device, receipt, TOPICS.topic(Down("dev-2", UID))),
        (device, adapter, TOPICS.topic(Down("dev-1", UID))),
        (device, adapter, TOPICS.topic(ModelManifest(3))),
        (device, adapter, TOPICS.topic(ModelManifest(2, delta=True))),
        (device, command, TOPICS.topic(Command("dev-2", "train", "2"))),
        (device, command, TOPICS.topic(Command("dev-1", "train", "3"))),
        (device, command, TOPICS.topic(Command("dev-1", "eval", "2"))),
        (device, command, TOPICS.topic(Model())),
        (coord, manifest, TOPICS.topic(UpManifest("dev-1", OTHER_UID))),
        (coord, manifest, TOPICS.topic(UpManifest("dev-2", UID))),
    ):
        with pytest.raises(BadSignature):
            receiver.seals.unseal(topic, payload)
    elsewhere = Topics("elsewhere")
    device.seals._topics = elsewhere
    with pytest.raises(BadSignature):
        device.seals.unseal(elsewhere.topic(Down("dev-1", UID)), receipt)


@pytest.mark.parametrize(
    "changes",
    [
        {"state": ReceiptState.LATE, "reason": "late", "accepted": frozenset()},
        {"state": ReceiptState.REFUSED, "reason": "layout", "accepted": frozenset()},
        {"reason": "deadline"},
        {"accepted": frozenset({2})},
        {"epoch": 6},
        {"total": 4},
    ],
)
def test_an_altered_receipt_is_not_believed(
    coord: Party, device: Party, changes: dict[str, Any]
) -> None:
    address = Down("dev-1", UID)
    sealed = split_frame(coord.seal(address, frame.encode(RECEIPT)))
    assert sealed is not None
    altered = frame.encode(dataclasses.replace(RECEIPT, **changes))
    with pytest.raises(BadSignature, match="coord has not signed this"):
        device.unseal(address, join_frame(dataclasses.replace(sealed, content=altered)))


@pytest.mark.parametrize(
    "changes",
    [
        {"run": "f" * 32},
        {"round_id": 4, "base_version": 3},
        {"client_id": "dev-2"},
        {"num_examples": 9999},
        {"evaluation": None},
    ],
)
def test_an_altered_manifest_is_not_believed(
    coord: Party, device: Party, make_manifest: Any, changes: dict[str, Any]
) -> None:
    """An altered segment is another digest in it: the segment table is signed as well."""
    address, manifest = UpManifest("dev-1", UID), make_manifest(b"one")
    sealed = split_frame(device.seal(address, frame.encode(manifest)))
    assert sealed is not None
    for altered in (dataclasses.replace(manifest, **changes), make_manifest(b"two")):
        forged = dataclasses.replace(sealed, content=frame.encode(altered))
        with pytest.raises(BadSignature, match="dev-1 has not signed this"):
            coord.unseal(address, join_frame(forged))


def test_nobody_signs_for_another(authority: Any, coord: Party, device: Party) -> None:
    """Each has a true certificate of this authority, and the key that belongs to it."""
    address, other = Down("dev-1", UID), Party(authority, "dev-2")
    for forger in (other, device):
        with pytest.raises(BadSignature, match="not of coord"):
            device.unseal(address, forger.seal(address, frame.encode(RECEIPT)))
    # With the aggregator's certificate, and a key of its own.
    mixed = split_frame(other.seal(address, frame.encode(RECEIPT)))
    assert mixed is not None
    forged = join_frame(dataclasses.replace(mixed, certificate=coord.login.der))
    with pytest.raises(BadSignature, match="coord has not signed this"):
        device.unseal(address, forged)


def test_a_foreign_authority_a_revoked_and_an_expired_certificate_are_refused(
    authority: Any, make_authority: Callable[..., Any], device: Party
) -> None:
    address, payload = UpManifest("dev-1", UID), b"\x01\x01whatever"
    foreign = Party(make_authority("another authority"), "dev-1")
    coord = Party(authority, "coord")
    coord.seals = coord.with_mode("required", crl_file=str(authority.revoke(99)))
    with pytest.raises(BadSignature, match="not trusted here"):
        coord.unseal(address, foreign.seal(address, payload))
    sealed = device.seal(address, payload)
    assert coord.unseal(address, sealed) == payload
    coord.now_s += 110 * 365 * 86_400
    with pytest.raises(BadSignature, match="ended on"):
        coord.unseal(address, sealed)
    coord.now_s = float(authority.BEGINS_S)
    authority.revoke(99, 2)
    with pytest.raises(BadSignature, match="revoked"):
        coord.unseal(address, sealed)


def test_frequent_answers_come_without_the_certificate(coord: Party, device: Party) -> None:
    """It is known from what came before; who knows none believes nothing."""
    address = Down("dev-1", UID)
    for answer in (Have(5, frozenset({0}), 3), Want(5)):
        sealed = coord.seal(address, frame.encode(answer))
        assert len(sealed) == len(frame.encode(answer)) + 68
        with pytest.raises(BadSignature, match="no certificate of coord has come"):
            device.unseal(address, sealed)
    run = control.encode(ANNOUNCEMENT)
    assert device.unseal(CoordRun(), coord.seal(CoordRun(), run)) == run
    assert device.unseal(address, sealed) == frame.encode(Want(5))


def test_a_certificate_is_known_only_once_it_has_signed_something(
    coord: Party, device: Party
) -> None:
    address = Down("dev-1", UID)
    forged = join_frame(Sealed(frame.encode(RECEIPT), bytes(64), coord.login.der))
    for _ in range(2):
        with pytest.raises(BadSignature, match="coord has not signed this"):
            device.unseal(address, forged)
    with pytest.raises(BadSignature, match="no certificate of coord"):
        device.unseal(address, coord.seal(address, frame.encode(Want(5))))


def test_every_prefix_and_every_flipped_bit_is_refused(coord: Party, device: Party) -> None:
    for address, payload in (
        (Down("dev-1", UID), frame.encode(RECEIPT)),
        (CoordRun(), control.encode(ANNOUNCEMENT)),
    ):
        sealed = coord.seal(address, payload)
        for length in range(1, len(sealed)):
            with pytest.raises(MessageError):
                device.unseal(address, sealed[:length])
        for place in range(len(sealed)):
            spoiled = bytearray(sealed)
            spoiled[place] ^= 1 << place % 8
            with pytest.raises(MessageError):
                device.unseal(address, bytes(spoiled))


@given(raw=st.binary(max_size=200))
@settings(
    deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_whatever_comes_is_refused_by_a_typed_error(device: Party, raw: bytes) -> None:
    for address in (Down("dev-1", UID), CoordRun()):
        for payload in (raw, b"\x01\x7f" + raw, b'{"a":1,"signed":"' + raw + b'"}'):
            if payload:
                with pytest.raises(MessageError):
                    device.unseal(address, payload)


def test_on_the_way_to_required_everything_is_signed_and_all_of_it_believed(
    coord: Party, device: Party
) -> None:
    """Services are changed one after the other: a fleet goes on meanwhile."""
    address, receipt = Down("dev-1", UID), frame.encode(RECEIPT)
    middle = coord.with_mode("sign")
    topic = TOPICS.topic(address)
    assert device.unseal(address, middle.seal(topic, receipt)) == receipt
    for lenient in (device.with_mode("sign"), Unsigned()):
        assert lenient.unseal(topic, receipt) == receipt
        assert lenient.unseal(topic, middle.seal(topic, receipt)) == receipt
    assert Unsigned().seal(topic, receipt) == receipt
    run = middle.seal(TOPICS.topic(CoordRun()), control.encode(ANNOUNCEMENT))
    assert control.decode(RunAnnouncement, Unsigned().unseal(TOPICS.topic(CoordRun()), run)) == (
        ANNOUNCEMENT
    )


@pytest.mark.parametrize(
    ("text", "mode"),
    [
        ("off", SigningMode.OFF),
        ("on", SigningMode.REQUIRED),
        ("sign", SigningMode.SIGN),
        ("required", SigningMode.REQUIRED),
        ("{mode: off}", SigningMode.OFF),
        ("{mode: required, crl_file: /x}", SigningMode.REQUIRED),
        ("{}", SigningMode.OFF),
    ],
)
def test_a_word_in_yaml_is_a_mode(text: str, mode: SigningMode) -> None:
    """Which `off` and `on` are not by themselves: YAML makes booleans of them."""
    assert SigningConfig.model_validate(yaml.safe_load(text)).mode is mode


def test_the_broker_s_certificates_are_taken_where_no_others_are_named(authority: Any) -> None:
    login = authority.certify("dev-1")
    tls = TlsConfig(ca_file=login.ca_file, cert_file=login.cert_file, key_file=login.key_file)
    seals = load_seals(
        SigningConfig(mode=SigningMode.REQUIRED),
        broker=BrokerConfig(tls=tls),
        topics=TOPICS,
        name="dev-1",
        aggregator="coord",
    )
    assert isinstance(seals, Signatures)


def test_the_key_is_read_from_systemd_s_credentials_where_they_are(
    authority: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    party = Party(authority, "dev-1")
    folder = tmp_path / "credentials"
    folder.mkdir()
    party.login.key_file.rename(folder / party.login.key_file.name)
    with pytest.raises(BadLinkConfig, match="cannot be read"):
        party.with_mode("required")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    party.with_mode("required")


def test_a_certificate_that_has_ended_is_told_at_the_start(
    authority: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        Party(authority, "dev-1")
        Party(authority, "dev-2", begins_s=0, days=1)
    (first, *_), (second, *_) = ((one.levelname, one.getMessage()) for one in caplog.records)
    assert (first, second) == ("INFO", "WARNING")
    assert "dev-1 signs with a certificate that ends on 2125-12-08 00:00 UTC" in caplog.text
    assert "dev-2 signs with a certificate that ended on 1970-01-02 00:00 UTC" in caplog.text


def test_off_needs_no_files() -> None:
    seals = load_seals(
        SigningConfig(), broker=BrokerConfig(), topics=TOPICS, name="dev-1", aggregator="coord"
    )
    assert isinstance(seals, Unsigned)


def test_what_cannot_sign_is_a_configuration_error(
    authority: Any, make_authority: Callable[..., Any]
) -> None:
    login = authority.certify("dev-1")

    def load(**changes: Any) -> None:
        config = SigningConfig.model_validate(login.signing(**changes))
        load_seals(config, broker=BrokerConfig(), topics=TOPICS, name="dev-1", aggregator="coord")

    load()
    other = authority.certify("dev-2")
    foreign = make_authority("another authority").certify("dev-1")
    for changes, text in (
        ({"key_file": None}, "signing is required and has no key_file"),
        ({"ca_file": None}, "set signing.ca_file, or broker.tls.ca_file"),
        ({"key_file": other.key_file}, "is not of the key in"),
        ({"cert_file": other.cert_file, "key_file": other.key_file}, "of 'dev-2', and this"),
        ({"cert_file": foreign.cert_file}, "signs nothing: the certificate is of an authority"),
    ):
        with pytest.raises(BadLinkConfig, match=text):
            load(**changes)
    short = authority.certify("dev-1", kind="p256")
    with pytest.raises(BadLinkConfig, match="no Ed25519 key"):
        load(key_file=short.key_file, cert_file=short.cert_file)


def test_the_library_is_loaded_only_where_somebody_signs() -> None:
    """It takes some 10 MB, which an idle agent must not have for nothing."""
    code = (
        "import sys, agent.runtime, aggregator.runtime; from transport.signing import *;"
        "load_seals(SigningConfig(), broker=None, topics=None, name='', aggregator='');"
        "sys.exit(any(name.startswith('cryptography') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Append only: what a released version signed is read for ever.
@pytest.mark.parametrize(
    "name", ["signed-manifest.frame", "signed-receipt.frame", "signed-run.json"]
)
def test_golden_signatures_are_believed_and_still_made(
    name: str, coord: Party, device: Party, make_manifest: Any
) -> None:
    """Keys, certificates and signatures are the same in every run: Ed25519 takes no chance."""
    said: dict[str, tuple[Party, Party, Address, bytes]] = {
        "signed-manifest.frame": (
            device,
            coord,
            UpManifest("dev-1", frame.uid(make_manifest(b"one", b"two two"))),
            frame.encode(make_manifest(b"one", b"two two")),
        ),
        "signed-receipt.frame": (coord, device, Down("dev-1", UID), frame.encode(RECEIPT)),
        "signed-run.json": (coord, device, CoordRun(), b'{"run":"0123","rounds":3}'),
    }
    sender, receiver, address, payload = said[name]
    golden = (GOLDEN / name).read_bytes()
    assert receiver.login.ca_file.read_bytes() == (GOLDEN / "signed-authority.crt").read_bytes()
    assert receiver.unseal(address, golden) == payload
    assert sender.seal(address, payload) == golden
