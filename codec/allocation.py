"""How many bits each coordinate gets: greedy by Fisher-weighted gain per bit, under a budget.

The paper spends a bit on coordinate j only where λ·F_j·(drop in squared error per extra bit) ≥ 1,
and lets λ follow from the budget. The same rule here, with its two open ends closed:

- A class of b bits has the scale max|Δ| / q_max, so the drop is not a smooth function of b: with
  2 bits everything under half the maximum becomes zero and gains nothing. Each coordinate's errors
  at 0, 2, 4 and 16 bits are therefore computed with the scales of its tensor's largest magnitude,
  and only the classes on the lower convex hull of error against bits are ever chosen. With u_j =
  F_j·Δ_j² as the error at 0 bits, this is the order of u_j wherever the classes are fine enough.
- The bits of a class count its tag and its share of the support.

A coordinate's way up the hull is three thresholds on gain per bit, one per class, that fall; a
level of gain per bit therefore gives every coordinate its class, and less is sent the higher the
level is. The lowest level that fits the budget is found by bisection over the bit patterns of
float32, so it is exact. Coordinates that lie on the very level where the budget ends share what is
left in an order that spreads them evenly over the tensors.

Memory decides how the bisection goes. Float32 thresholds would take three times the delta's, so
only their upper 16 bits are kept; once those of the level are known, the lower ones are worked out
for the few thresholds that share them.

Source: arXiv 2604.25421, section on greedy allocation, and Algorithm 1, step 2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt

from codec.gains import blocks
from codec.slices import CLASS_BITS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from codec.gains import Thresholds
    from codec.layout import TensorSpec

# Counts of coordinates with 2, 4 and 16 bits, int64 (tensors, 3).
Counts = npt.NDArray[np.int64]
Fits = Callable[[Counts], bool]

_Halves = npt.NDArray[np.uint16]

# A key is _STEP times its upper half plus its lower one. All keys lie under the bit pattern of
# infinity, 255·2^23; these factors are where a bisection of that range passes by, so that counts
# of each digit answer all of its questions.
_STEP: Final = 255 << 7
_UPPER_DIGITS: Final = (256, 256)
_LOWER_DIGITS: Final = (128, 255)

# Multiplier of Fibonacci hashing (2^32 over the golden ratio): multiples modulo 2^32 spread evenly.
_GOLDEN: Final = 0x9E37_79B1


# A coordinate's range of classes in one number: the least in the low two bits, the most over them.
_LEAST: Final = np.uint8(0b11)
_MOST: Final = np.uint8(2)


@dataclass(frozen=True, slots=True, eq=False)
class _Group:
    """When it is the turn of one tensor's undecided coordinates of one range, ascending."""

    place: int
    least: int
    most: int
    turns: npt.NDArray[np.uint32]


def allocate(steps: Thresholds, *, fits: Fits, seed: int) -> npt.NDArray[np.uint8]:
    """Return the class of each coordinate: the most that fits.

    Args:
        steps: From `codec.gains.thresholds`.
        fits: Whether an update with these counts of coordinates stays in the budget; never false
            for fewer where it is true for more. Nothing at all has to fit.
        seed: Shifts the order in which coordinates of equal gain share what is left.

    Returns:
        uint8 (size,), 0 to 3 for 0, 2, 4 and 16 bits.
    """
    tensors = steps.layout.tensors
    halves = [_upper_halves(steps, place) for place in range(len(tensors))]
    none_above = np.zeros((len(tensors), len(CLASS_BITS) - 1), dtype=np.int64)
    upper, above = _highest_unfit(halves, above=none_above, digits=_UPPER_DIGITS, fits=fits)
    ranges, lowers = _lower_halves(steps, halves, upper)
    lower, above = _highest_unfit(lowers, above=above, digits=_LOWER_DIGITS, fits=fits)
    _narrow(ranges, lowers, lower, tensors)
    del halves, lowers
    if upper or lower:  # level 0 would send what gains nothing
        _share_rest(ranges, tensors, base=_exactly(above), fits=fits, seed=seed)
    ranges &= _LEAST
    return ranges


def _upper_halves(steps: Thresholds, place: int) -> _Halves:
    """Return the upper half of each key of a tensor, uint16 (3, coordinates)."""
    tensor = steps.layout.tensors[place]
    halves = np.empty((len(CLASS_BITS) - 1, tensor.size), dtype=np.uint16)
    for block in blocks(tensor):
        here = halves[:, block.start - tensor.offset : block.stop - tensor.offset]
        np.floor_divide(steps.keys(place, block), _STEP, out=here, casting="unsafe")
    return halves


def _lower_halves(
    steps: Thresholds, halves: Sequence[_Halves], upper: int
) -> tuple[npt.NDArray[np.uint8], list[list[_Halves]]]:
    """Return each coordinate's range of classes, and the lower halves that decide within it.

    Args:
        steps: Works the keys out again.
        halves: Per tensor, the upper half of each key; overwritten with what is returned.
        upper: The upper half of the level.

    Returns:
        Ranges, uint8 (size,), and per tensor and class, in the order of coordinates, the lower half
        of each key whose upper half is the level's.
    """
    ranges = np.empty(steps.layout.size, dtype=np.uint8)
    lowers = []
    for place, tensor in enumerate(steps.layout.tensors):
        ends = [0] * len(halves[place])
        for block in blocks(tensor):
            here = halves[place][:, block.start - tensor.offset : block.stop - tensor.offset]
            alike = here == upper
            ranges[block] = _range(_number(here > upper), _number(here >= upper))
            some = np.flatnonzero(alike.any(axis=0))
            if not some.size:
                continue
            keys = steps.keys(place, block.start + some) - np.uint32(upper * _STEP)
            for row, (end, members) in enumerate(zip(ends, alike[:, some], strict=True)):
                ends[row] += np.count_nonzero(members)
                halves[place][row, end : ends[row]] = keys[row, members]
        lowers.append([row[:end] for row, end in zip(halves[place], ends, strict=True)])
    return ranges, lowers


def _narrow(
    ranges: npt.NDArray[np.uint8],
    lowers: Sequence[Sequence[_Halves]],
    lower: int,
    tensors: Sequence[TensorSpec],
) -> None:
    """Leave only what lies on the level itself undecided, in place."""
    for tensor, rows in zip(tensors, lowers, strict=True):
        window = ranges[tensor.offset : tensor.end]
        least, most = window & _LEAST, window >> _MOST
        fewest, all_of_them = least.copy(), least.copy()
        for row, halves in enumerate(rows):
            if not halves.size:
                continue
            members = np.flatnonzero((least <= row) & (row < most))
            fewest[members] += halves > lower
            all_of_them[members] += halves >= lower
        window[:] = _range(fewest, all_of_them)


def _range(least: npt.NDArray[np.uint8], most: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return a coordinate's least and most class in one number."""
    both: npt.NDArray[np.uint8] = least | most << _MOST
    return both


def _number(rows: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """Return how many of the rows are true, uint8 (coordinates,)."""
    number = np.zeros(rows.shape[1], dtype=np.uint8)
    for row in rows:
        number += row
    return number


def _highest_unfit(
    rows: Sequence[Iterable[_Halves]], *, above: Counts, digits: tuple[int, int], fits: Fits
) -> tuple[int, Counts]:
    """Return the highest value that fits no more, and how many lie over it.

    Args:
        rows: Per tensor and class, values under the product of `digits`, any number of them.
        above: How many more lie over all values, int64 (tensors, 3).
        digits: How many values each of a value's two digits has, the upper digit first.
        fits: As in `allocate`.
    """
    size, rest = digits
    table = _at_least(((row // rest for row in three) for three in rows), above, size)
    upper = _bisect(table, fits)
    lasts = ((row[row // rest == upper] % rest for row in three) for three in rows)
    table = _at_least(lasts, table[..., upper + 1].copy(), rest)
    last = _bisect(table, fits)
    return upper * rest + last, table[..., last + 1].copy()


def _at_least(digits: Iterable[Iterable[_Halves]], above: Counts, size: int) -> Counts:
    """Return how many keys have each digit or a higher one, int64 (tensors, 3, size + 1)."""
    table = np.empty((*above.shape, size + 1), dtype=np.int64)
    table[..., size] = above
    for place, three in enumerate(digits):
        for row, values in enumerate(three):
            table[place, row, :size] = np.bincount(values, minlength=size)
    falling = table[..., ::-1]
    np.cumsum(falling, axis=-1, out=falling)
    return table


def _bisect(table: Counts, fits: Fits) -> int:
    low, high = 0, table.shape[-1] - 1  # `high` fits always, `low` never
    while high - low > 1:
        middle = (low + high) // 2
        if fits(_exactly(table[..., middle])):
            high = middle
        else:
            low = middle
    return low


def _exactly(at_least: Counts) -> Counts:
    """Return how many have each class, from how many have each class or a higher one."""
    counts: Counts = at_least.copy()
    counts[:, :-1] -= at_least[:, 1:]
    return counts


def _share_rest(
    ranges: npt.NDArray[np.uint8],
    tensors: Sequence[TensorSpec],
    *,
    base: Counts,
    fits: Fits,
    seed: int,
) -> None:
    """Raise to their most class as many undecided coordinates as still fit, in place."""
    groups = [
        _Group(place, int(number & _LEAST), int(number >> _MOST), np.sort(turns[kinds == number]))
        for place, tensor in enumerate(tensors)
        for _, kinds, turns in [_undecided(ranges, tensor, seed)]
        for number in np.flatnonzero(np.bincount(kinds))
    ]

    def with_first(bound: int) -> Counts:
        counts: Counts = base.copy()
        for group in groups:
            moved = int(np.searchsorted(group.turns, np.uint32(bound)))
            counts[group.place, group.most - 1] += moved
            if group.least:
                counts[group.place, group.least - 1] -= moved
        return counts

    low, high = 0, 1 << 32  # the first 0 fit, all of them do not
    while high - low > 1:
        middle = (low + high) // 2
        if fits(with_first(middle)):
            low = middle
        else:
            high = middle
    for place in {group.place for group in groups}:
        places, kinds, turns = _undecided(ranges, tensors[place], seed)
        chosen = turns < np.uint32(low)
        ranges[places[chosen]] = kinds[chosen] >> _MOST


def _undecided(
    ranges: npt.NDArray[np.uint8], tensor: TensorSpec, seed: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8], npt.NDArray[np.uint32]]:
    """Return a tensor's undecided coordinates, their ranges, and when it is their turn."""
    window = ranges[tensor.offset : tensor.end]
    places = np.flatnonzero(window & _LEAST != window >> _MOST)
    shifted = (places + tensor.offset).astype(np.uint32) + np.uint32(seed & 0xFFFF_FFFF)
    return places + tensor.offset, window[places], shifted * np.uint32(_GOLDEN)
