"""`fstq+` and `fstq-r` without their entropy code: the controls that tell what it saves.

What is sent is chosen and quantised by the same rules; only supports stand as a bitmap or as
indices of one width, whichever is smaller, and levels as raw bits. Of the same budget less is left
for coordinates, so that they send fewer of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from codec.codings import Coding
from codec.fstq_plus import FstqPlus
from codec.fstq_r import FstqR


@dataclass(frozen=True, slots=True)
class FstqPlusPlain(FstqPlus):
    """`fstq+`, its three sets per slice as plain ones; its levels are raw bits anyway.

    Classes are still chosen as if theirs cost their entropy, which is what is to be the same.
    """

    name: str = "fstq-plus-plain"
    codec_id: int = 17
    coding: Coding = Coding.PLAIN


@dataclass(frozen=True, slots=True)
class FstqRPlain(FstqR):
    """`fstq-r`, its sets as plain ones, tensor by tensor, and steps of levels in a fixed width.

    Tensors of like density share a set in `fstq-r` so that its step fits them; plain sets would
    only get wider indices from it. Thresholds stay those that suit an entropy code. A codec made
    for plain fields would send more coordinates with signs alone, and `eden` is one: the saving is
    at most what this control loses, and where `eden` loses less, at most that.
    """

    name: str = "fstq-r-plain"
    codec_id: int = 18
    coding: Coding = Coding.PLAIN
