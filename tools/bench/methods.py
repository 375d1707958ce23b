"""A method of the learning experiment: a codec with its rate, its feedback and the server's step.

The text form is the codec's name, then what differs from plain federated averaging:

    fstq+@0.25,ef,step=0.5,momentum=0.9
    CODEC[@BITS[:LAST]][,ef[=DECAY]][,step=STEP|auto][,momentum=MOMENTUM]
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Final

from codec.codec import Codec, Order
from codec.limits import MIN_SEGMENT_BYTES

BASELINE: Final = "fp32"

_CODEC: Final = re.compile(r"[a-z0-9][a-z0-9+-]{0,39}")
_BITS_MAX: Final = 64.0
STEP_MAX: Final = 100.0


class BadMethod(ValueError):
    """A method's text cannot be read, or says what its codec cannot do; one line says why."""


@dataclass(frozen=True, slots=True)
class Rate:
    """Bits per coordinate over a run's rounds: from the first to the last geometrically."""

    first: float
    last: float

    def bits(self, round_number: int, *, rounds: int) -> float:
        """Return the bits per coordinate of one round, 1 to `rounds`."""
        if rounds == 1 or self.first == self.last:
            return self.first
        return float(self.first * (self.last / self.first) ** ((round_number - 1) / (rounds - 1)))

    def update_bytes(self, coordinates: int, *, round_number: int, rounds: int) -> int:
        """Return the bytes that one update of a round may take, headers of segments counted."""
        bits = self.bits(round_number, rounds=rounds)
        return max(MIN_SEGMENT_BYTES, int(coordinates * bits) // 8)

    def __str__(self) -> str:
        if self.first == self.last:
            return shortest(self.first)
        return f"{shortest(self.first)}:{shortest(self.last)}"


@dataclass(frozen=True, slots=True)
class Method:
    """What the experiment compares; all else is the same for every method.

    Attributes:
        codec: Its name in the registry.
        rate: Of the budget; None for a dense codec, whose size follows from the layout.
        feedback: What the residual of error feedback is multiplied by from one update to the next,
            above 0 to 1; None keeps no residual.
        server_step: η; None follows the rate, as `tools.bench.experiment.step_at_rate` says.
        momentum: β of the server's velocity, 0 to below 1.
    """

    codec: str
    rate: Rate | None = None
    feedback: float | None = None
    server_step: float | None = 1.0
    momentum: float = 0.0

    def __str__(self) -> str:
        parts = [self.codec if self.rate is None else f"{self.codec}@{self.rate}"]
        if self.feedback is not None:
            parts.append("ef" if self.feedback == 1 else f"ef={shortest(self.feedback)}")
        if self.server_step != 1:
            step = "auto" if self.server_step is None else shortest(self.server_step)
            parts.append(f"step={step}")
        if self.momentum:
            parts.append(f"momentum={shortest(self.momentum)}")
        return ",".join(parts)


def parse_method(text: str) -> Method:
    """Return the method that a text stands for; `str` of a method gives its shortest text.

    Raises:
        BadMethod: The text is none, or a number is out of range.
    """
    head, *options = text.strip().split(",")
    codec, at, rate = head.partition("@")
    if not _CODEC.fullmatch(codec):
        raise BadMethod(f"method {text!r:.80}: it begins with a codec's name, as fstq+@0.25,ef")
    known: dict[str, str | None] = {}
    for option in options:
        key, equals, value = option.strip().partition("=")
        if key in known or key not in {"ef", "step", "momentum"} or (key != "ef" and not equals):
            raise BadMethod(
                f"method {text!r:.80}: {option!r:.40} is not one of ef, ef=DECAY, step=STEP,"
                " step=auto, momentum=MOMENTUM, each at most once"
            )
        known[key] = value if equals else None
    try:
        return Method(
            codec=codec,
            rate=rate_of(rate) if at else None,
            feedback=number_of(known["ef"] or "1", most=1.0) if "ef" in known else None,
            server_step=step_of(known.get("step") or "1"),
            momentum=_momentum(known.get("momentum") or "0"),
        )
    except ValueError as error:
        raise BadMethod(f"method {text!r:.80}: {error}") from error


def check_method(method: Method, codec: Codec) -> None:
    """Check that a codec can do what a method asks of it.

    Raises:
        BadMethod: A rate for a codec of fixed size, none for one that needs it, or feedback for a
            codec whose segments stand for the whole.
    """
    if codec.dense and method.rate is not None:
        raise BadMethod(f"{method}: the size of {codec.name} is fixed; leave out @{method.rate}")
    if not codec.dense and method.rate is None:
        raise BadMethod(f"{method}: name the bits per coordinate, as {codec.name}@0.5")
    if codec.order is Order.EXCHANGEABLE and method.feedback is not None:
        raise BadMethod(f"{method}: {codec.name} leaves no residual; leave out ef")


def rate_of(text: str) -> Rate:
    """Return the rate that a method's text gives: one number of bits, or the first and the last.

    Raises:
        ValueError: It is none.
    """
    first, colon, last = text.partition(":")
    bits = number_of(first, most=_BITS_MAX)
    return Rate(bits, number_of(last, most=_BITS_MAX) if colon else bits)


def step_of(text: str) -> float | None:
    """Return a method's server step, None for the one that follows the rate.

    Raises:
        ValueError: It is none.
    """
    return None if text == "auto" else number_of(text, most=STEP_MAX)


def _momentum(text: str) -> float:
    if float(text) == 0:
        return 0.0
    momentum = number_of(text, most=1.0)
    if momentum == 1:
        raise ValueError("momentum is below 1")
    return momentum


def number_of(text: str, *, most: float) -> float:
    """Return a number above 0, finite and at most that.

    Raises:
        ValueError: It is none.
    """
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{text!r:.40} is no number") from None
    if not 0 < value <= most or not math.isfinite(value):
        limit = "finite" if math.isinf(most) else f"at most {most:g}"
        raise ValueError(f"{text!r:.40} is not above 0 and {limit}")
    return value


def shortest(value: float) -> str:
    """Return the text that stands for a number in a method's name."""
    return repr(float(value)).removesuffix(".0")
