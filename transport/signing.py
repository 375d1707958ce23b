"""Signatures over what must not be forged by a broker that was broken into.

A message's topic says what it is and who alone may have signed it; both go into what is signed, so
that nothing can be taken for another message, of another device, update, round or federation. What
is not listed here is not signed, and docs/protocol.md says what that leaves to a broker.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from pydantic import BaseModel, ConfigDict, model_validator

from transport.broker import BrokerConfig
from transport.credentials import credential
from transport.envelope import (
    Sealed,
    join_frame,
    join_json,
    signed_bytes,
    split_frame,
    split_json,
)
from transport.errors import BadLinkConfig, BadSignature, BadTopic
from transport.messages import Have, Want
from transport.schemas import SCHEMAS
from transport.topics import (
    Address,
    Command,
    CoordRun,
    CoordStatus,
    Down,
    Model,
    ModelManifest,
    Response,
    Topics,
    UpManifest,
)

if TYPE_CHECKING:
    from transport.trust import Key, Trust

log = logging.getLogger(__name__)

# The commands that an aggregator gives; people give others, and sign nothing.
SIGNED_COMMANDS: Final = frozenset({"train", "eval"})
# Frequent and small, so that they come without the certificate: whoever gets them has it from what
# was published before them.
_BARE_KINDS: Final = frozenset({SCHEMAS[Have].kind, SCHEMAS[Want].kind})


class SigningMode(str, Enum):
    """What a service does about signatures."""

    OFF = "off"  # signs nothing, looks at no signature
    SIGN = "sign"  # signs, and believes what is not signed: on the way to REQUIRED
    REQUIRED = "required"  # signs, and believes nothing that is not rightly signed


class SigningConfig(BaseModel):
    """How a service signs; a word alone is the mode.

    Attributes:
        mode: Off, sign or required.
        cert_file: None takes `broker.tls`'s, and so with the others.
        key_file: Ed25519.
        ca_file: Whose certificates count.
        crl_file: Which of them do not; read again whenever it changes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    mode: SigningMode = SigningMode.OFF
    cert_file: Path | None = None
    key_file: Path | None = None
    ca_file: Path | None = None
    crl_file: Path | None = None

    @model_validator(mode="before")
    @classmethod
    def _word(cls, value: object) -> object:
        fields = value if isinstance(value, Mapping) else {"mode": value}
        # In YAML a plain `off` is a boolean.
        match fields.get("mode"):
            case bool(is_on):
                return {**fields, "mode": SigningMode.REQUIRED if is_on else SigningMode.OFF}
        return fields


class Seals(Protocol):
    """Signs what leaves, and checks what comes."""

    def seal(self, topic: str, payload: bytes) -> bytes:
        """Return what is published there instead: the same where nobody signs that.

        Raises:
            ValueError: With its signature it fits no packet.
        """
        ...

    def unseal(self, topic: str, payload: bytes) -> bytes:
        """Return the message that came there, without its signature.

        Raises:
            MessageError: It is not signed as it must be.
        """
        ...


class Unsigned:
    """Signs nothing, and takes signatures off what comes with one."""

    def seal(self, topic: str, payload: bytes) -> bytes:  # noqa: ARG002 - a `Seals`
        """Return the message itself."""
        return payload

    def unseal(self, topic: str, payload: bytes) -> bytes:
        """Return the message without its signature, right or not."""
        return _bare(topic, payload)


class Signatures:
    """Signs with one key, and believes the keys of one authority."""

    def __init__(
        self,
        topics: Topics,
        *,
        aggregator: str,
        key: Key,
        certificate: bytes,
        trust: Trust,
        mode: SigningMode = SigningMode.REQUIRED,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Sign for one service.

        Args:
            topics: The federation's.
            aggregator: The aggregator's name.
            key: This service's.
            certificate: Of that key, DER.
            trust: Whose certificates count.
            mode: Whether what is not signed is believed.
            clock: Unix seconds.
        """
        self._topics = topics
        self._aggregator = aggregator
        self._key = key
        self._certificate = certificate
        self._trust = trust
        self._mode = mode
        self._clock = clock
        self._known: dict[str, bytes] = {}  # name → the certificate that it signed with last

    def seal(self, topic: str, payload: bytes) -> bytes:
        """Return the signed message; an empty one, which clears a topic, stays empty.

        Raises:
            ValueError: With its signature it fits no packet.
        """
        claim = _claim(self._topics.parse(topic), self._aggregator) if payload else None
        if claim is None:
            return payload
        domain, _ = claim
        signature = self._key.sign(signed_bytes(domain, topic, payload))
        if not _is_frame(topic):
            return join_json(Sealed(payload, signature, self._certificate))
        certificate = b"" if payload[1] in _BARE_KINDS else self._certificate
        return join_frame(Sealed(payload, signature, certificate))

    def unseal(self, topic: str, payload: bytes) -> bytes:
        """Return the message, which is signed by whom its topic names.

        Raises:
            BadSignature: It is not, or nobody can tell.
            MessageError: It is no envelope either.
        """
        if self._mode is not SigningMode.REQUIRED:
            return _bare(topic, payload)
        try:
            claim = _claim(self._topics.parse(topic), self._aggregator) if payload else None
        except BadTopic:
            return payload  # whoever reads it says so
        if claim is None:
            return payload
        domain, name = claim
        sealed = split_frame(payload) if _is_frame(topic) else split_json(payload)
        if sealed is None:
            raise BadSignature(f"{name} must sign this, and it has no signature")
        certificate = sealed.certificate or self._known.get(name)
        if certificate is None:
            raise BadSignature(f"no certificate of {name} has come yet")
        signer = self._trust.signer(certificate, name=name, now_s=self._clock())
        signer.verify(sealed.signature, signed_bytes(domain, topic, sealed.content))
        self._known[name] = certificate
        return sealed.content


def load_seals(
    config: SigningConfig,
    *,
    broker: BrokerConfig,
    topics: Topics,
    name: str,
    aggregator: str,
    clock: Callable[[], float] = time.time,
) -> Seals:
    """Return what a service signs and checks with.

    Args:
        config: The service's.
        broker: Its certificates are taken where `config` names none.
        topics: The federation's.
        name: The service's: the common name of its certificate.
        aggregator: The aggregator's.
        clock: Unix seconds.

    Raises:
        BadLinkConfig: A file is missing, or is none that can be signed or checked with.
    """
    if config.mode is SigningMode.OFF:
        return Unsigned()
    # Takes 10 MB, which a service that signs nothing does without.
    from transport import trust  # noqa: PLC0415

    tls = broker.tls
    cert_file = config.cert_file or (tls and tls.cert_file)
    key_file = config.key_file or (tls and tls.key_file)
    ca_file = config.ca_file or (tls and tls.ca_file)
    for field, path in (("cert_file", cert_file), ("key_file", key_file), ("ca_file", ca_file)):
        if path is None:
            raise BadLinkConfig(
                f"signing is {config.mode.value} and has no {field}: set signing.{field}, or "
                f"broker.tls.{field}"
            )
    assert cert_file and key_file and ca_file  # noqa: PT018 - for the type checker
    authorities = trust.load_authorities(ca_file)
    certificate, key = trust.load_certificate(cert_file), trust.load_key(credential(key_file))
    try:
        own = trust.read_signer(certificate, authorities)
    except BadSignature as error:
        raise BadLinkConfig(f"signing.cert_file {cert_file} signs nothing: {error}") from error
    if own.name != name:
        raise BadLinkConfig(
            f"signing.cert_file {cert_file} is of {own.name!r}, and this service is {name!r}"
        )
    if own.key != key.public_key():
        raise BadLinkConfig(f"signing.cert_file {cert_file} is not of the key in {key_file}")
    ended = clock() > own.ends_s
    log.log(
        logging.WARNING if ended else logging.INFO,
        "signing is %s: %s signs with a certificate that %s on %s",
        config.mode.value,
        name,
        "ended" if ended else "ends",
        trust.date_of(own.ends_s),
    )
    return Signatures(
        topics,
        aggregator=aggregator,
        key=key,
        certificate=certificate,
        trust=trust.Trust(authorities, config.crl_file),
        mode=config.mode,
        clock=clock,
    )


def _claim(address: Address, aggregator: str) -> tuple[str, str] | None:
    """Return what kind of message an address has and who signs it, None where nobody does."""
    match address:
        case UpManifest(client_id):
            return "update", client_id
        case Response(client_id, name) if name in SIGNED_COMMANDS:
            return "response", client_id
        case Down():
            return "answer", aggregator
        case ModelManifest():
            return "adapter", aggregator
        case Command(_, name) if name in SIGNED_COMMANDS:
            return "command", aggregator
        case CoordStatus():
            return "status", aggregator
        case CoordRun():
            return "run", aggregator
        case Model():
            return "model", aggregator
    return None


def _is_frame(topic: str) -> bool:
    return topic.startswith("flx/")


def _bare(topic: str, payload: bytes) -> bytes:
    # A signature in JSON is a key that nobody reads.
    sealed = split_frame(payload) if _is_frame(topic) else None
    return payload if sealed is None else sealed.content
