"""Codecs by the name that configuration and manifests use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from codec.errors import UnknownCodec
from codec.fstq import Fstq
from codec.reference.dense import Dense

if TYPE_CHECKING:
    from codec.codec import Codec

_BY_NAME: Final[dict[str, Codec]] = {codec.name: codec for codec in (Fstq(), Dense())}

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
