"""Which configurations are one method, and on which side of the comparison it stands. Pure.

A *configuration* is a method's text, `CODEC[@BITS[:LAST]][,option[=value]]…`. A *family* is what
one would call one method: the configurations that differ only in what is tuned, which is the rate,
the decay of the error feedback, the server's step and optimizer, and the strength of an option. How
many configurations a family was tried with stands in each table beside its best.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final

# Options whose value alone is tuned: with and without them are two methods.
_PRESENCE: Final = ("ef", "prox", "scaffold", "freeze", "merge", "full-step")
# Options whose every value is a method of its own; the first value is as good as none.
_VALUED: Final = {"mask": "off", "importance": "fisher"}

_OWN: Final = frozenset({"fstq-r", "fstq+"})
_PAPER: Final = frozenset({"fstq-paper", "fstq", "fstq-percentile"})
_FISHER_MASKS: Final = frozenset({"hard", "soft"})

_TITLES: Final[Mapping[str, str]] = {
    "fp32": "FedAvg-LoRA fp32",
    "fp32,merge": "Fed-ToMe",
    "fp32,prox": "FedProx",
    "fp32,scaffold": "SCAFFOLD",
    "fp16": "FedAvg-LoRA fp16",
    "bf16": "FedAvg-LoRA bf16",
    "qsgd": "QSGD 4-bit",
    "fedpaq": "FedPAQ",
    "fedbat": "FedBAT",
    "fedfq": "FedFQ",
    "flasc": "FLASC",
    "sparseloco": "SparseLoCo",
    "sparseloco,ef": "SparseLoCo",
    "stc": "STC",
    "stc,ef": "STC",
    "eden": "EDEN",
    "top-k": "top-k",
    "top-k,ef": "top-k with error feedback",
    "sign": "sign",
    "sign,ef": "sign with error feedback",
    "fstq-paper": "Fed-FSTQ, the paper's, no token mask",
    "fstq-paper,mask=hard": "Fed-FSTQ as in the paper",
    "fstq-paper,mask=soft": "Fed-FSTQ as in the paper, soft mask",
    "fstq": "Fed-FSTQ, allocation mended, no token mask",
    "fstq,mask=hard": "Fed-FSTQ, allocation mended",
    "fstq,mask=soft": "Fed-FSTQ, allocation mended, soft mask",
    "fstq-percentile": "Fed-FSTQ, the paper's percentiles, no token mask",
    "fstq-percentile,mask=hard": "Fed-FSTQ, the paper's percentiles",
    "fstq-r": "fstq-r",
    "fstq+,ef": "fstq+",
    "fstq+": "fstq+ without error feedback",
    "fstq-r-plain": "fstq-r without entropy coder",
    "fstq-plus-plain": "fstq+ without error feedback and entropy coder",
    "fstq-plus-plain,ef": "fstq+ without entropy coder",
    "fstq-random": "random support",
    "fstq-random,ef": "random support",
    "fstq-uniform": "uniform Fisher",
    "fstq-uniform,ef": "uniform Fisher",
    "fstq-magnitude": "magnitude",
    "fstq-magnitude,ef": "magnitude",
}


class Role(str, Enum):
    """On which side of the comparison a method stands."""

    OWN = "this project's codec"
    PAPER = "the paper's codec"
    BASELINE = "baseline"
    CONTROL = "control"


@dataclass(frozen=True, slots=True)
class Configuration:
    """A method's text, taken apart.

    Attributes:
        text: The text.
        codec: Its codec's name.
        rate: Bits per coordinate, as they are written; "" for a codec of fixed size.
        options: Name → value; "" where it has none.
    """

    text: str
    codec: str
    rate: str
    options: tuple[tuple[str, str], ...]

    @property
    def family(self) -> str:
        """What this is a configuration of: one text per method."""
        known = dict(self.options)
        parts = [self.codec, *(name for name in _PRESENCE if name in known)]
        parts += [
            f"{name}={known[name]}"
            for name, default in _VALUED.items()
            if known.get(name, default) != default
        ]
        return ",".join(parts)

    @property
    def tuning(self) -> str:
        """What is tuned of it: configurations with the same have the same budget and server."""
        names = set(_VALUED) | {"freeze", "ratio", "interval"}
        options = [
            f"{name}={value}" if value else name
            for name, value in self.options
            if name not in names
        ]
        return ",".join([f"@{self.rate}", *sorted(options)])

    @property
    def role(self) -> Role:
        """On which side it stands."""
        known = dict(self.options)
        if not self.codec.startswith("fstq"):
            return Role.BASELINE
        changed = (
            known.get("importance", "fisher") != "fisher"
            or known.get("mask", "off") not in _FISHER_MASKS | {"off"}
            or bool({"freeze", "merge", "scaffold", "prox", "full-step"} & known.keys())
        )
        if changed or self.codec not in _OWN | _PAPER:
            return Role.CONTROL
        return Role.OWN if self.codec in _OWN else Role.PAPER

    @property
    def is_one_bit(self) -> bool:
        """Whether it is an honest codec of one bit per coordinate: EDEN, or sign with feedback."""
        sign = self.codec == "sign" and "ef" in dict(self.options)
        return sign or (self.codec == "eden" and _is_one(self.rate))


def configuration(text: str) -> Configuration:
    """Take a method's text apart; any is taken, as files may hold methods of other versions."""
    head, *options = text.split(",")
    codec, _, rate = head.partition("@")
    pairs = (option.strip().partition("=") for option in options if option.strip())
    return Configuration(
        text, codec.strip(), rate.strip(), tuple((name, value) for name, _, value in pairs)
    )


def title(family: str) -> str:
    """Return what people call a family."""
    if family in _TITLES:
        return _TITLES[family]
    head, _, last = family.rpartition(",")
    return f"{title(head)}, {last}" if head else family


def _is_one(rate: str) -> bool:
    try:
        return all(float(part) == 1 for part in rate.split(":"))
    except ValueError:
        return False
