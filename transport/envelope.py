"""A signature around a message, as bytes: what is signed, and where signature and signer travel.

Pure, and blind to whether a signature is right (`transport.signing` knows). What is inside of an
envelope is byte for byte the message that is sent where nobody signs.

    frame   u8 protocol version, u8 127, 64 bytes signature, u16 length of the certificate, the
            certificate, then the frame itself
    JSON    the object itself, with one more key at its end: "signed", the base64 of signature and
            certificate
"""

from __future__ import annotations

import base64
import binascii
import struct
from dataclasses import dataclass
from typing import Final

from transport import control, limits
from transport.errors import MalformedMessage, OversizedMessage
from transport.messages import PROTOCOL

# The kind of a frame that is an envelope: the highest, far from those that messages count up to.
SEALED_KIND: Final = 127
SIGNATURE_BYTES: Final = 64
_HEAD: Final = struct.Struct(f"<BB{SIGNATURE_BYTES}sH")
_FRAME_HEADER_BYTES: Final = 2
_JSON_MARK: Final = b',"signed":"'
_JSON_END: Final = b'"}'
_MAX_BASE64_BYTES: Final = (SIGNATURE_BYTES + limits.MAX_CERTIFICATE_BYTES + 2) // 3 * 4


@dataclass(frozen=True, slots=True)
class Sealed:
    """A message and what stands for it.

    Attributes:
        content: The message as it is without a signature; these bytes are signed.
        signature: 64 bytes of Ed25519; nothing says yet that they are right.
        certificate: The signer's, X.509 in DER; empty where the receiver knows it already.
    """

    content: bytes
    signature: bytes
    certificate: bytes


def signed_bytes(domain: str, topic: str, content: bytes) -> bytes:
    """Return what a signature is over: neither part can be taken for a part of another message.

    Args:
        domain: What kind of message it is.
        topic: Where it is published: federation, device, update, round or version stand there.
        content: The message as it is without a signature.
    """
    return b"\0".join((f"fedfstq/v1/{domain}".encode(), topic.encode(), content))


def join_frame(sealed: Sealed) -> bytes:
    """Return the envelope of a frame.

    Raises:
        ValueError: The certificate is too long, or all of it for one packet; a fault of this side.
    """
    if len(sealed.certificate) > limits.MAX_CERTIFICATE_BYTES:
        raise ValueError(f"a certificate of {len(sealed.certificate)} bytes")
    head = _HEAD.pack(PROTOCOL, SEALED_KIND, sealed.signature, len(sealed.certificate))
    payload = head + sealed.certificate + sealed.content
    if len(payload) > limits.MAX_FRAME_BYTES:
        raise ValueError(
            f"a signed frame takes {len(payload)} bytes, a frame at most {limits.MAX_FRAME_BYTES}"
        )
    return payload


def split_frame(payload: bytes) -> Sealed | None:
    """Return what an envelope holds, None where this is no envelope.

    Raises:
        OversizedMessage: The payload, or the certificate that it announces, is over the limits.
        MalformedMessage: The envelope is truncated.
    """
    if len(payload) > limits.MAX_FRAME_BYTES:
        raise OversizedMessage(f"a frame of {len(payload)} bytes, at most {limits.MAX_FRAME_BYTES}")
    if payload[:_FRAME_HEADER_BYTES] != bytes((PROTOCOL, SEALED_KIND)):
        return None
    if len(payload) < _HEAD.size:
        raise MalformedMessage(f"a signed frame of {len(payload)} bytes has no signature")
    _, _, signature, length = _HEAD.unpack_from(payload)
    if length > limits.MAX_CERTIFICATE_BYTES:
        raise OversizedMessage(
            f"a certificate of {length} bytes, at most {limits.MAX_CERTIFICATE_BYTES} are read"
        )
    content = payload[_HEAD.size + length :]
    if len(content) < _FRAME_HEADER_BYTES:
        raise MalformedMessage("a signed frame ends before what is signed")
    if content[1] == SEALED_KIND:
        raise MalformedMessage("a signed frame within a signed frame")
    return Sealed(content, signature, payload[_HEAD.size : _HEAD.size + length])


def join_json(sealed: Sealed) -> bytes:
    """Return a JSON object with its signature as its last key.

    Raises:
        ValueError: The content is no object with a key, or too long; a fault of this side.
    """
    if not sealed.content.endswith(b"}") or len(sealed.content) <= len(b"{}"):
        raise ValueError("only JSON objects with a key are signed")
    seal = base64.b64encode(sealed.signature + sealed.certificate)
    payload = sealed.content[:-1] + _JSON_MARK + seal + _JSON_END
    if len(payload) > control.MAX_JSON_BYTES:
        raise ValueError(f"{len(payload)} bytes of JSON, at most {control.MAX_JSON_BYTES}")
    return payload


def split_json(payload: bytes) -> Sealed | None:
    """Return what a signed JSON object holds, None where its last key is no signature.

    Raises:
        OversizedMessage: The payload, or the certificate in it, is over the limits.
    """
    control.check_size(payload)
    head, mark, tail = payload.rpartition(_JSON_MARK)
    if not mark or not tail.endswith(_JSON_END):
        return None
    text = tail[: -len(_JSON_END)]
    if len(text) > _MAX_BASE64_BYTES:
        raise OversizedMessage(
            f"a certificate above {limits.MAX_CERTIFICATE_BYTES} bytes, which are the most"
        )
    try:
        seal = base64.b64decode(text, validate=True)
    except binascii.Error:
        return None
    if not SIGNATURE_BYTES <= len(seal) <= SIGNATURE_BYTES + limits.MAX_CERTIFICATE_BYTES:
        return None
    return Sealed(head + b"}", seal[:SIGNATURE_BYTES], seal[SIGNATURE_BYTES:])
