"""Codecs by the name that configuration and manifests use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from codec.errors import UnknownCodec, UnsupportedVersion
from codec.fstq import Fstq
from codec.fstq_percentile import FstqPercentile
from codec.fstq_plain import FstqPlusPlain, FstqRPlain
from codec.fstq_plus import FstqPlus
from codec.fstq_r import FstqR
from codec.fstq_variants import FstqMagnitude, FstqRandom, FstqUniform
from codec.reference.dense import BF16, FP16, FP32
from codec.reference.eden import EDEN
from codec.reference.fedbat import FEDBAT
from codec.reference.fedfq import FEDFQ
from codec.reference.fedpaq import FEDPAQ
from codec.reference.flasc import FLASC
from codec.reference.fstq_paper import FstqPaper
from codec.reference.qsgd import QSGD
from codec.reference.sign import SIGN
from codec.reference.sparseloco import SPARSELOCO
from codec.reference.stc import STC
from codec.reference.top_k import TOP_K

if TYPE_CHECKING:
    from codec.codec import Codec

_REFERENCES: Final = (
    *(FP32, FP16, BF16, QSGD, FEDPAQ, TOP_K, STC, SIGN, EDEN, FEDBAT),
    *(SPARSELOCO, FEDFQ, FLASC),
)

# Of codecs that write the same format the first is the one whose name stands for it.
_FISHER: Final = (Fstq(), FstqPercentile(), FstqPaper(), FstqPlus(), FstqR())
_CONTROLS: Final = (
    *(FstqRandom(), FstqMagnitude(), FstqUniform()),
    *(FstqPlusPlain(), FstqRPlain()),
)

_BY_NAME: Final[dict[str, Codec]] = {
    codec.name: codec for codec in (*_FISHER, *_CONTROLS, *_REFERENCES)
}

CODECS: Final[tuple[str, ...]] = tuple(_BY_NAME)


def codec_named(name: str) -> Codec:
    """Return the codec of this name.

    Raises:
        UnknownCodec: There is none; the message names those that there are.
    """
    try:
        return _BY_NAME[name]
    except KeyError:
        raise UnknownCodec(f"no codec is named {name!r:.40}; known: {', '.join(CODECS)}") from None


def name_of(codec_id: int) -> str:
    """Return the name of the codec whose segments bear this number.

    Raises:
        UnsupportedVersion: This version knows no such codec.
    """
    for codec in _BY_NAME.values():
        if codec.codec_id == codec_id:
            return codec.name
    raise UnsupportedVersion(f"no codec has the number {codec_id}; a newer version may know it")
