"""Made-up client updates and adapter versions: a few bytes each, and every byte can be checked.

A segment's body names its device, round, training and index, so that a body that counts for another
update is seen. What an update is worth is a set of *units*, one per segment; the units that a
receipt leaves behind ride on the segments of the device's next update, as a residual does. A unit
may count once, and may not get lost.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from transport.messages import AdapterManifest, Evaluation, Manifest, SegmentEntry

BASE_DIGEST = hashlib.sha256(b"base").digest()
CONFIG_TEXT = "{}"
# A body that begins like this decodes to nothing good; the aggregator's shell says so.
UNDECODABLE = b"!"

Unit = int


@dataclass(frozen=True, slots=True)
class Payload:
    """What the trainer leaves on the disk for one round.

    Attributes:
        nonce: Which training of the round it is: two give different bytes.
        leftovers_used: Numbers of the leftovers whose units ride on it.
        own: The unit of each segment's own part.
        cargo: The units of each segment, those of leftovers included.
    """

    client_id: str
    run: str
    round_id: int
    nonce: int
    bodies: tuple[bytes, ...]
    leftovers_used: tuple[int, ...]
    own: tuple[Unit, ...]
    cargo: tuple[tuple[Unit, ...], ...]


def bodies_of(client_id: str, round_id: int, *, nonce: int, segments: int) -> tuple[bytes, ...]:
    """Return the segments of a training."""
    head = f"{client_id}/{round_id}/{nonce}/"
    return tuple(f"{head}{index}".encode() for index in range(segments))


def load(own: tuple[Unit, ...], left: list[Unit]) -> tuple[tuple[Unit, ...], ...]:
    """Return the units of each segment, where what is left over is dealt out to all in turn."""
    if not left:
        return tuple((unit,) for unit in own)
    count = len(own)
    return tuple((unit, *left[index::count]) for index, unit in enumerate(own))


def entries_of(bodies: tuple[bytes, ...]) -> tuple[SegmentEntry, ...]:
    """Return what a manifest says of these segments."""
    return tuple(SegmentEntry(len(body), hashlib.sha256(body).digest()) for body in bodies)


def manifest_of(
    payload: Payload,
    *,
    layout_digest: bytes,
    codec: str,
    seq: int,
    num_examples: int,
    evaluation: Evaluation | None,
) -> Manifest:
    """Return the manifest of a payload."""
    return Manifest(
        run=payload.run,
        round_id=payload.round_id,
        base_version=payload.round_id - 1,
        base_digest=BASE_DIGEST,
        layout_digest=layout_digest,
        client_id=payload.client_id,
        seq=seq,
        codec=codec,
        num_examples=num_examples,
        segments=entries_of(payload.bodies),
        train_loss=2.0,
        steps=8,
        train_s=1.5,
        evaluation=evaluation,
    )


def next_digest(before: bytes, frozen: list[tuple[str, float, tuple[bytes, ...]]]) -> bytes:
    """Return the next adapter version's content: a function of the one before and what counts.

    Args:
        before: The adapter version before, 32 bytes.
        frozen: uid, weight and bodies of each update, in the order in which they are averaged.
    """
    digest = hashlib.sha256(before)
    for uid, weight, bodies in frozen:
        digest.update(f"{uid}/{weight}/".encode())
        for body in bodies:
            digest.update(body)
    return digest.digest()


def cut(content: bytes, *, segments: int) -> tuple[bytes, ...]:
    """Return an adapter version's content in so many segments."""
    size = -(-len(content) // segments)
    return tuple(content[begin : begin + size] for begin in range(0, len(content), size))


def difference(content: bytes, base: bytes) -> bytes:
    """Return what makes one version of the other; applied twice, it gives the other back."""
    return bytes(a ^ b for a, b in zip(content, base, strict=True))


def adapter_manifest(
    content: bytes, bodies: tuple[bytes, ...], *, run: str, version: int, codec: str
) -> AdapterManifest:
    """Return what the aggregator says of an adapter version, or of its delta."""
    return AdapterManifest(
        run=run,
        version=version,
        base_digest=BASE_DIGEST,
        layout=(("a", (4, 4)),),
        codec=codec,
        segments=entries_of(bodies),
        sha256=content,
        adapter_config=CONFIG_TEXT,
    )
