"""Codecs by the name that configuration and manifests use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from codec.errors import UnknownCodec, UnsupportedVersion
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


def name_of(codec_id: int) -> str:
    """Return the name of the codec whose segments bear this number.

    Raises:
        UnsupportedVersion: This version knows no such codec.
    """
    for codec in _BY_NAME.values():
        if codec.codec_id == codec_id:
            return codec.name
    raise UnsupportedVersion(f"no codec has the number {codec_id}; a newer version may know it")
