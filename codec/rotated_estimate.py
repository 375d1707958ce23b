"""An estimate of each tensor from whatever segments of an `fstq-r` update there are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from codec.codings import Coding
from codec.errors import CorruptSegment
from codec.hadamard import unrotate
from codec.operating_points import BIASES
from codec.rotated_payload import RAW, Head, Share, parse_head, parse_shares
from codec.scale_codes import scale_of
from codec.shares import Deal, share_sizes
from codec.splitmix import Use, stream_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    import numpy.typing as npt

    from codec.codec import FloatArray
    from codec.layout import Layout

    PlaceArray = npt.NDArray[np.int32]

_NOTHING: Final[tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]] = (
    np.empty(0, dtype=np.int32),
    np.empty(0, dtype=np.float32),
)


@dataclass(frozen=True, slots=True, eq=False)
class _Piece:
    """What one segment adds to one tensor.

    Attributes:
        share: The number of its share.
        rotated: int32, places within the rotated share, and float32 what stands there.
        plain: int32, places within the share of the tensor itself, and float32 what stands there.
    """

    share: int
    rotated: tuple[PlaceArray, FloatArray]
    plain: tuple[PlaceArray, FloatArray]

    @classmethod
    def of(cls, held: Share, head: Head, *, share: int, factor: float) -> _Piece:
        """Return the piece of a share that counts so many times."""
        scale = np.ldexp(
            factor * scale_of(held.code, mantissa_bits=head.mantissa_bits), head.exponent
        )
        if held.number == RAW:
            values = (held.values * scale).astype(np.float32)
            return cls(share, _NOTHING, (np.arange(held.size, dtype=np.int32), values))
        values = held.levels.astype(np.float32)
        # Level m stands for m - 1 + b.
        values -= np.copysign(np.float32(1) - BIASES[held.number], values)
        values *= np.float32(scale)
        peels = (held.peeled.astype(np.int32), held.peels * np.float32(factor))
        return cls(share, (held.places.astype(np.int32), values), peels)


class Estimates:
    """The tensors that some segments of an update tell of; they are checked when this is made."""

    def __init__(
        self,
        payloads: Mapping[int, memoryview],
        *,
        layout: Layout,
        segment_count: int,
        coding: Coding = Coding.GOLOMB,
    ) -> None:
        """Parse the payloads of these segments, at least one.

        Raises:
            CodecError: A payload is not legal, or they are not of one update.
        """
        opened = {index: parse_head(payload, coding=coding) for index, payload in payloads.items()}
        deal = _deal_of((head for head, _ in opened.values()), layout, segment_count)
        arrived = np.bincount([deal.group_of(index) for index in opened], minlength=deal.groups)
        groups_factor = deal.groups / int(np.count_nonzero(arrived))
        members = deal.members(layout)
        sizes = np.array([tensor.size for tensor in layout.tensors], dtype=np.int64)
        self._seed = deal.seed
        self._shares = deal.shares
        self._layout = layout
        self._pieces: dict[int, list[_Piece]] = {}
        for index, (head, reader) in opened.items():
            group, share = deal.group_of(index), deal.share_of(index)
            held = share_sizes(sizes[members[group]], share=share, shares=deal.shares)
            factor = groups_factor * deal.shares / int(arrived[group])
            for each in parse_shares(reader, head, members=members[group], sizes=held):
                piece = _Piece.of(each, head, share=share, factor=factor)
                self._pieces.setdefault(each.tensor, []).append(piece)

    def tensors(self) -> Iterator[tuple[int, FloatArray]]:
        """Yield the first flat coordinate of each tensor that is told of, and its estimate."""
        for place in sorted(self._pieces):
            tensor = self._layout.tensors[place]
            values = np.zeros(tensor.size, dtype=np.float32)
            pieces = self._pieces[place]
            for piece in pieces:
                values[piece.share :: self._shares][piece.rotated[0]] = piece.rotated[1]
            if any(piece.rotated[0].size for piece in pieces):
                stream = stream_of(Use.ROTATION, place=place)
                unrotate(values, seed=self._seed, stream=stream)
            for piece in pieces:
                values[piece.share :: self._shares][piece.plain[0]] += piece.plain[1]
            yield tensor.offset, values


def _deal_of(heads: Iterable[Head], layout: Layout, segment_count: int) -> Deal:
    deals = {(head.seed, head.groups) for head in heads}
    if len(deals) > 1:
        raise CorruptSegment("segments of different updates: their seeds or groups differ")
    ((seed, groups),) = deals
    if groups > len(layout.tensors) or segment_count % groups:
        raise CorruptSegment(
            f"{groups:,} groups in {segment_count:,} segments of {len(layout.tensors):,} tensors"
        )
    return Deal(seed, groups, segment_count // groups)
