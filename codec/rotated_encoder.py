"""The segments of one `fstq-r` update: rates, scales and payloads, until they fill the budget.

What the coordinates take is known well from the rates, and exactly only once they are packed. So an
update is packed, its size compared with the budget, and the rates' allowance corrected, until
nearly all of the budget is used and nothing is over it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np

from codec.codings import Coding
from codec.errors import InvalidInput
from codec.operating_points import LEVELLED, Points
from codec.peeling import LEAST_PEAK, peeled
from codec.quantize import peak_of, to_half
from codec.rates import PEEL_BITS, Demand, Rates, drawn, fit
from codec.rotated import Cut, RotatedDelta, energy_of
from codec.rotated_payload import (
    MAX_EXPONENT,
    MAX_PEEL,
    MIN_EXPONENT,
    NO_LEVELS,
    NO_PEELS,
    NO_PLACES,
    NO_VALUES,
    RAW,
    Head,
    Share,
    pack_shares,
)
from codec.scale_codes import MAX_CODE, codes_of, rounding_noise, scale_of
from codec.segment import HEADER_BYTES, check_count
from codec.shares import Deal, share_size
from codec.splitmix import Use, stream_of, uniforms

if TYPE_CHECKING:
    import numpy.typing as npt

    from codec.codec import FloatArray, SumArray
    from codec.layout import Layout

    IntArray = npt.NDArray[np.int64]

# [bytes] About what a segment takes besides its tensors: header, payload's head, lists, classes.
_SEGMENT_BYTES: Final = HEADER_BYTES + 40
_LEAST_SEGMENT_BYTES: Final = HEADER_BYTES + 16

# Groups are made where describing all tensors would take more of a segment than this.
_DESCRIBING: Final = 0.005
_TENSOR_BYTES: Final = 1.5

# Of the budget: what an attempt aims at, and what is enough.
_AIM: Final = 0.996
_ENOUGH: Final = 0.987
_SPARE_BYTES: Final = 12

# Of the budget: what is enough where only more and smaller segments would use more of it.
_TOLERABLE: Final = 0.97
_ATTEMPTS: Final = 6
_MOST_ATTEMPTS: Final = 64

# How often an update is dealt into more segments because chance made one of them too large.
_DEALS: Final = 3

# Of all bits, how many coordinates sent apart may take at most.
_PEELED: Final = 0.25

# [coordinates] How many more than twice the usual number pass without being thinned out.
_UNUSUAL: Final = 16

_FINEST_MANTISSA: Final = 10
_COARSEST_MANTISSA: Final = 3

# [bytes of an update's segment] Below this, a byte matters more than the time to try all merges.
_SMALL_SEGMENT: Final = 1 << 14
_MERGES: Final = (1, 2, 4, 8, 16)


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """What is encoded.

    Attributes:
        delta: float32 (layout.size,), contiguous.
        fishers: float64 (tensors,), mean Fisher information of each.
        layout: The delta's layout.
        seed: u32.
    """

    delta: FloatArray
    fishers: SumArray
    layout: Layout
    seed: int


@dataclass(frozen=True, slots=True, eq=False)
class _Plan:
    """How each tensor is sent, all arrays (tensors,) but the head."""

    head: Head
    rates: Rates
    chosen: npt.NDArray[np.bool_]
    cuts: dict[int, Cut]
    codes: IntArray


class Encoder:
    """Packs one update into its budget."""

    def __init__(
        self,
        source: Source,
        *,
        update_bytes: int,
        segment_bytes: int,
        coding: Coding = Coding.GOLOMB,
    ) -> None:
        layout = source.layout
        self._source = source
        self._coding = coding
        self._sizes = np.array([tensor.size for tensor in layout.tensors], dtype=np.int64)
        # No update is larger: every coordinate as a 16-bit float.
        most = 2 * layout.size + 4 * self._sizes.size + 16 + HEADER_BYTES
        self._update_bytes = update_bytes
        self._useful_bytes = min(update_bytes, most + most // 16)
        self._segment_bytes = segment_bytes
        self._most_segments = max(1, self._useful_bytes // _LEAST_SEGMENT_BYTES)

    def payloads(self) -> list[bytes]:
        """Return the payload of each segment.

        Raises:
            InvalidInput: There would be more segments than `limits.MAX_SEGMENTS`.
        """
        count = self._first_count()
        best: list[bytes] = []
        for _ in range(_DEALS):
            deal = self._deal(count)
            attempts = _Attempts(self._source, self._sizes, deal, self._coding)
            payloads, overflow = attempts.fill(
                self._update_bytes, self._useful_bytes, segment_bytes=self._segment_bytes
            )
            if sum(map(len, payloads)) > sum(map(len, best)):
                best = payloads
            if not overflow:
                break
            count = deal.segments + max(1, deal.segments // 16)
            if count > self._most_segments:
                break
        if not best and count > 1:
            # Segments so small that not all can say what they are of: one of them alone can.
            attempts = _Attempts(self._source, self._sizes, self._deal(1), self._coding)
            most = min(self._useful_bytes, self._segment_bytes)
            best, _ = attempts.fill(most, most, segment_bytes=self._segment_bytes)
        if not best:
            raise InvalidInput(
                f"no update of this layout fits {self._update_bytes:,} bytes in segments of "
                f"{self._segment_bytes:,}"
            )
        return best

    def _first_count(self) -> int:
        """Return so many segments that chance hardly ever makes one of them too large."""
        if self._useful_bytes <= self._segment_bytes:
            return 1
        # A segment's coordinates vary by the root of their number, of which each takes 5 bits.
        room = self._segment_bytes - _LEAST_SEGMENT_BYTES
        margin = 0.01 + 4 / float(np.sqrt(1.6 * room))
        count = -(-self._useful_bytes // int(_LEAST_SEGMENT_BYTES + room / (1 + margin)))
        return min(count, self._most_segments)

    def _deal(self, count: int) -> Deal:
        """Return at least so many segments, in groups where a segment is small for all tensors."""
        tensors = self._sizes.size
        each = self._useful_bytes / count
        wanted = int(np.ceil(tensors * _TENSOR_BYTES / (_DESCRIBING * each)))
        # Groups as large as one another cannot be more than what the largest tensor leaves.
        balanced = int(self._sizes.sum() // self._sizes.max())
        groups = min(wanted, count, balanced)
        shares = min(-(-count // groups), max(1, self._most_segments // groups))
        deal = Deal(self._source.seed, groups, shares)
        check_count(deal.segments)
        return deal


class _Attempts:
    """Packs an update that is dealt in one way, with one allowance of bits after the other."""

    def __init__(self, source: Source, sizes: IntArray, deal: Deal, coding: Coding) -> None:
        self._source = source
        self._coding = coding
        self._sizes = sizes
        self._deal = deal
        self._members = deal.members(source.layout)
        self._rotated = RotatedDelta(
            source.delta, layout=source.layout, seed=deal.seed, shares=deal.shares
        )
        self._energies = np.array(
            [energy_of(self._rotated.values(place)) for place in range(sizes.size)]
        )
        self._peels = np.zeros(sizes.size, dtype=np.int64)
        self._demand = self._demand_of_energies()
        self._uniforms = uniforms(
            deal.seed, stream=stream_of(Use.ROUNDING), start=0, count=sizes.size
        )

    def fill(
        self, update_bytes: int, useful_bytes: int, *, segment_bytes: int
    ) -> tuple[list[bytes], bool]:
        """Return payloads whose segments fill the budget and are never over it.

        Returns:
            The payloads, none where nothing fits, and whether a segment's limit kept them from
            filling the budget.
        """
        count = self._deal.segments
        aim = _AIM * min(update_bytes, useful_bytes)
        enough = min(_ENOUGH * update_bytes, update_bytes - _SPARE_BYTES)
        bits = 8 * max(0.0, aim - _SEGMENT_BYTES * count)
        self._peel(bits)
        fitting, excessive = 0.0, np.inf
        best: list[bytes] = []
        best_bytes, overflow = 0, False
        for attempt in range(_MOST_ATTEMPTS):
            payloads = self._pack(bits)
            lengths = [HEADER_BYTES + len(payload) for payload in payloads]
            size, longest = sum(lengths), max(lengths)
            if size <= update_bytes and longest <= segment_bytes:
                fitting = bits
                if size >= best_bytes:
                    best, best_bytes = payloads, size
            else:
                excessive = bits
                overflow |= size <= update_bytes
            if best and (best_bytes >= enough or attempt + 1 >= _ATTEMPTS):
                break
            if self._coding is Coding.PLAIN:
                # What rates take for an entropy code is a part of what it takes, at any rate.
                bits *= min(aim / size, segment_bytes / longest)
            else:
                bits += 8 * min(aim - size, count * (segment_bytes - longest) or aim)
            if not fitting < bits < excessive:
                bits = (fitting + min(excessive, 2 * fitting + 64)) / 2
        return best, overflow and best_bytes < _TOLERABLE * update_bytes

    def _peel(self, bits: float) -> None:
        """Take out of each tensor what is better sent apart, where all may take so many bits."""
        rates = fit(self._demand, bits=bits)
        pressures = rates.pressures
        candidates = self._peaked() & (rates.odds > 0) & ~rates.raw
        while candidates.any():
            found = {
                place: peeled(
                    self._rotated.values(place),
                    energy=self._energies[place],
                    pressure=pressures[place],
                )
                for place in map(int, np.flatnonzero(candidates))
            }
            if PEEL_BITS * sum(places.size for places in found.values()) <= bits * _PEELED:
                break
            # So many are worth it only because the bits for them were not reckoned with.
            pressures = pressures / 2
        else:
            return
        for place, places in found.items():
            self._rotated.peel(place, places)
            self._peels[place] = places.size
            self._energies[place] = energy_of(self._rotated.rest(place))
        self._demand = self._demand_of_energies()

    def _peaked(self) -> npt.NDArray[np.bool_]:
        """Return which tensors have a coordinate that may be worth being sent apart."""
        peaks = np.array([self._rotated.peak(place) for place in range(self._sizes.size)])
        peaked: npt.NDArray[np.bool_] = np.square(peaks) * self._sizes > (
            LEAST_PEAK**2 * self._energies
        )
        return peaked

    def _demand_of_energies(self) -> Demand:
        return Demand.of(
            self._energies,
            self._source.fishers,
            sizes=self._sizes,
            peels=self._peels,
            shares=self._deal.shares,
        )

    def _pack(self, bits: float) -> list[bytes]:
        """Return the payloads when the tensors are allowed so many bits."""
        plan = self._plan(bits)
        first = self._payload(0, plan)
        if len(first) < _SMALL_SEGMENT and self._coding is Coding.GOLOMB:
            # What is best for one segment is best for all, or nearly so.
            heads = [replace(plan.head, merge=merge) for merge in _MERGES]
            plans = [replace(plan, head=head) for head in heads]
            plan = min(plans, key=lambda merged: len(self._payload(0, merged)))
            first = self._payload(0, plan)
        others = (self._payload(segment, plan) for segment in range(1, self._deal.segments))
        return [first, *others]

    def _plan(self, bits: float) -> _Plan:
        rates = fit(self._demand, bits=bits)
        chosen = drawn(rates.odds, seed=self._deal.seed)
        scales = np.zeros(self._sizes.size)
        cuts = {}
        for place in map(int, np.flatnonzero(chosen)):
            if rates.raw[place]:
                # A power of two over all values, which f16 then holds as well as it can.
                peak = self._rotated.peak(place) / rates.odds[place]
                scales[place] = np.ldexp(1.0, int(np.frexp(peak)[1]))
            elif self._demand.roots[place]:
                cuts[place], inner = self._cut(place, rates.points)
                scales[place] = self._energies[place] / inner / rates.odds[place]
        chosen &= (scales > 0) | (self._peels > 0)
        exponent = int(np.frexp(scales.max())[1]) + self._rotated.exponent
        exponent = min(max(exponent, MIN_EXPONENT), MAX_EXPONENT)
        mantissa_bits = self._mantissa_bits(rates, chosen)
        codes = np.full(self._sizes.size, MAX_CODE)
        coded = np.flatnonzero(scales)
        codes[coded] = codes_of(
            np.ldexp(scales[coded], self._rotated.exponent - exponent),
            mantissa_bits=mantissa_bits,
            uniforms=self._uniforms[coded],
        )
        head = Head(self._deal.seed, self._deal.groups, exponent, mantissa_bits, 1)
        return _Plan(head, rates, chosen, cuts, codes)

    def _cut(self, place: int, points: Points) -> tuple[Cut, float]:
        """Return what of a tensor is sent, and its inner product with the tensor, which is > 0."""
        root = np.sqrt(self._energies[place] / self._sizes[place])
        number = int(points.numbers[place])
        threshold = np.float32(points.thresholds[place] * root)
        cut = Cut(threshold, np.float32(points.steps[place] * root), number)
        values = self._rotated.whole(place)
        count, inner = cut.weigh(values)
        if not count:
            # By chance, or because few coordinates of the tensor are not zero, nothing passes.
            cut = replace(cut, threshold=peak_of(values))
            count, inner = cut.weigh(values)
        usual = self._sizes[place] * points.rates[place] / 2
        if number < LEVELLED and count > usual + _UNUSUAL:
            # Few coordinates that are not zero make many that are equal: a part of them will do.
            cut = replace(cut, stride=int(2 * count / (usual + _UNUSUAL)) + 1)
            shares = (self._rotated.share(place, share=i) for i in range(self._deal.shares))
            inner = sum(cut.weigh(share)[1] for share in shares)
        return cut, inner

    def _mantissa_bits(self, rates: Rates, chosen: npt.NDArray[np.bool_]) -> int:
        """Return so many bits that one more would not be worth itself."""
        rotated = np.flatnonzero(chosen & ~rates.raw)
        worth: SumArray = np.square(rates.pressures[rotated])
        worth *= self._sizes[rotated]
        worth *= (1 + rates.points.noises[rotated]) / rates.odds[rotated]
        whole = 0.75 * float(worth.sum())
        bits = _COARSEST_MANTISSA
        while bits < _FINEST_MANTISSA and (
            whole * rounding_noise(bits) > rotated.size * self._deal.shares
        ):
            bits += 1
        return bits

    def _payload(self, segment: int, plan: _Plan) -> bytes:
        members = self._members[self._deal.group_of(segment)]
        share = self._deal.share_of(segment)
        shares = [
            self._share(place, share, plan) for place in map(int, members[plan.chosen[members]])
        ]
        return pack_shares(plan.head, shares, members=members, coding=self._coding)

    def _share(self, place: int, share: int, plan: _Plan) -> Share:
        size = share_size(int(self._sizes[place]), share=share, shares=self._deal.shares)
        code = int(plan.codes[place])
        if plan.rates.raw[place]:
            shift = self._rotated.exponent - plan.head.exponent
            unit = scale_of(code, mantissa_bits=plan.head.mantissa_bits)
            values = self._rotated.values(place)[share :: self._deal.shares].astype(np.float64)
            values *= np.ldexp(1 / (unit * plan.rates.odds[place]), shift)
            halves = to_half(values.astype(np.float32))
            return Share(place, size, RAW, code, NO_PLACES, NO_LEVELS, halves, NO_PLACES, NO_PEELS)
        number = int(plan.rates.points.numbers[place])
        places, levels = NO_PLACES, NO_LEVELS
        if place in plan.cuts:
            places, levels = plan.cuts[place].levels(self._rotated.share(place, share=share))
        peeled_places, peels = self._rotated.peels(place, share=share)
        np.clip(peels, -MAX_PEEL, MAX_PEEL, out=peels)
        return Share(place, size, number, code, places, levels, NO_VALUES, peeled_places, peels)
