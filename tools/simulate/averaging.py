"""The next adapter version of the model: a digest of what counts, in the order of the real one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from aggregator.closing import Aggregated
from aggregator.config import AggregatorConfig
from aggregator.outputs import Aggregate
from tools.simulate import adapters, payloads
from tools.simulate.journal import Journal


@dataclass(frozen=True, slots=True)
class Candidate:
    """A version that is computed and not yet written.

    Attributes:
        result: What the coordinator is told of it.
        content: The adapter itself, 32 bytes.
    """

    result: Aggregated
    content: bytes


def average(
    aggregate: Aggregate,
    *,
    journal: Journal,
    contents: Mapping[int, bytes],
    config: AggregatorConfig,
    check: Callable[[str, int, bytes], None],
) -> Candidate:
    """Make the next version of a frozen set; the same set gives the same bytes.

    Args:
        aggregate: The frozen set.
        journal: Where the segments are.
        contents: Version → content, for those that were made.
        config: The run's.
        check: Called with uid, index and body of everything that counts.
    """
    included: list[str] = []
    frozen: list[tuple[str, float, tuple[bytes, ...]]] = []
    refused: dict[str, str] = {}
    for update in aggregate.updates:
        indices = sorted(update.accepted)
        bodies = journal.bodies(update.uid, indices)
        if any(body.startswith(payloads.UNDECODABLE) for body in bodies):
            refused[update.uid] = "non-finite"
            continue
        for index, body in zip(indices, bodies, strict=True):
            check(update.uid, index, body)
        included.append(update.uid)
        frozen.append((update.uid, update.weight, bodies))
    content = payloads.next_digest(contents[aggregate.base_version], frozen)
    facts = adapters.facts_of(aggregate.base_version + 1, content, config=config)
    norms = dict.fromkeys(included, 1.0)
    return Candidate(Aggregated(facts, included, refused, norms=norms), content)
