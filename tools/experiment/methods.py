"""A method of an experiment: a codec with its rate, and what differs from plain averaging. Pure.

The text form is the codec's name, then what is not as in FedAvg:

    fstq-r@0.15:0.8,mask=hard,ratio=0.5
    top-k@0.5,ef=0.95,server=fedadam,tau=0.001,step=0.01

    CODEC[@BITS[:LAST]] and, each at most once, after commas:
    ef[=DECAY]                    error feedback; the residual's decay, 1 by default
    step=STEP|auto                the server's step, 1 by default
    full-step                     the step is not shortened where few updates arrived
    momentum=BETA                 FedAvgM
    server=fedadam|fedyogi        with tau=TAU, 0.001 by default, and a step
    prox=MU                       FedProx
    scaffold                      control variates, sent in the same codec
    freeze=A                      only LoRA's B is trained and sent
    mask=hard|soft|random|gradient-norm|attention   with ratio=R, interval=H
    merge=R                       tokens merged by attention
    importance=fisher|uniform|magnitude|gradient-norm|random|oracle
    down=CODEC[@BITS]             versions go down as deltas in an ordered codec; else whole
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, TypeVar

from codec.codec import Codec, Order
from codec.registry import codec_named
from tools.bench.methods import STEP_MAX, BadMethod, Rate, number_of, rate_of, shortest, step_of
from tools.bench.methods import Method as CodecMethod
from tools.bench.methods import check_method as check_codec
from tools.experiment.local_options import Importance, LocalOptions, TokenMask

E = TypeVar("E", bound=Enum)

_CODEC: Final = re.compile(r"[a-z0-9][a-z0-9+-]{0,39}")
_INTERVAL_MAX: Final = 1_000_000
_TAU: Final = 1e-3
_PLAIN: Final = LocalOptions()
_FLAGS: Final = frozenset({"scaffold", "full-step"})
_OPTIONS: Final = (
    "ef",
    "step",
    "full-step",
    "momentum",
    "server",
    "tau",
    "prox",
    "scaffold",
    "freeze",
    "mask",
    "ratio",
    "interval",
    "merge",
    "importance",
    "down",
)


class Server(str, Enum):
    """What makes the server's direction of a round's mean."""

    AVERAGE = "average"
    FEDADAM = "fedadam"
    FEDYOGI = "fedyogi"


@dataclass(frozen=True, slots=True)
class Method:
    """What an experiment compares; all else is the same for every method.

    Attributes:
        codec: Its name in the registry.
        rate: Of the budget, in bits per coordinate that is sent; None for a dense codec.
        feedback: What the residual of error feedback is multiplied by from one update to the next,
            above 0 to 1; None keeps no residual.
        server: The server's optimizer.
        server_step: η; None follows the rate, as `tools.bench.experiment.step_at_rate` says.
        full_step: Whether the step is as long where few updates arrived; else it is shortened as
            the aggregator's `step_by_arrivals` does.
        momentum: β of plain averaging's velocity, 0 to below 1.
        tau: τ of the adaptive servers, above 0.
        local: What differs in the clients' training.
        down: Codec and rate of the versions' deltas; None sends every version whole.
    """

    codec: str
    rate: Rate | None = None
    feedback: float | None = None
    server: Server = Server.AVERAGE
    server_step: float | None = 1.0
    full_step: bool = False
    momentum: float = 0.0
    tau: float = _TAU
    local: LocalOptions = _PLAIN
    down: CodecMethod | None = None

    @property
    def uplink(self) -> CodecMethod:
        """What of the method concerns the codec."""
        return CodecMethod(self.codec, self.rate, self.feedback)

    def __str__(self) -> str:
        down = [] if self.down is None else [f"down={self.down}"]
        return ",".join([str(self.uplink), *_server_parts(self), *_local_parts(self.local), *down])


def parse_method(text: str) -> Method:
    """Return the method that a text stands for; `str` of a method gives its shortest text.

    Raises:
        BadMethod: The text is none, a number is out of range, or options do not go together.
    """
    head, *options = text.strip().split(",")
    codec, at, rate = head.partition("@")
    try:
        if not _CODEC.fullmatch(codec):
            raise ValueError("it begins with a codec's name, as fstq+@0.25,ef")  # noqa: TRY301  # one line for all of them
        found = _options(options)
        method = Method(
            codec=codec,
            rate=rate_of(rate) if at else None,
            feedback=number_of(found["ef"] or "1", most=1.0) if "ef" in found else None,
            server=_choice(Server, found.get("server") or "average", "server"),
            server_step=step_of(found.get("step") or "1"),
            full_step="full-step" in found,
            momentum=_share(found.get("momentum") or "0", "momentum"),
            tau=number_of(found.get("tau") or str(_TAU), most=STEP_MAX),
            local=_local(found),
            down=_down(down) if (down := found.get("down")) else None,
        )
        _check_options(method, found)
    except ValueError as error:
        raise BadMethod(f"method {text!r:.120}: {error}") from error
    return method


def check_method(method: Method, codec: Codec) -> None:
    """Check that a codec can do what a method asks of it.

    Raises:
        BadMethod: A rate for a codec of fixed size, none for one that needs it, or feedback for a
            codec whose segments stand for the whole; or versions cannot go down as they should.
        UnknownCodec: No codec is called as that of the versions' deltas.
    """
    check_codec(method.uplink, codec)
    if method.down is not None:
        down = codec_named(method.down.codec)
        if down.order is not Order.ORDERED:
            raise BadMethod(f"method {method}: down needs an ordered codec, as fstq+@4")
        check_codec(method.down, down)


def _options(options: list[str]) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for option in options:
        key, equals, value = option.strip().partition("=")
        needs_value = key not in _FLAGS and key != "ef"
        if key not in _OPTIONS:
            raise ValueError(f"{option!r:.40} is none of {', '.join(_OPTIONS)}")
        if key in found:
            raise ValueError(f"{key} stands twice")
        if (needs_value and not value) or (equals and (key in _FLAGS or not value)):
            form = f"{key}=…" if needs_value else f"{key} alone"
            raise ValueError(f"write {form} in place of {option!r:.40}")
        found[key] = value if equals else None
    return found


def _local(found: Mapping[str, str | None]) -> LocalOptions:
    given: dict[str, Any] = {}
    if "ratio" in found:
        given["ratio"] = number_of(found["ratio"] or "", most=1.0)
    if "interval" in found:
        given["interval"] = _whole(found["interval"] or "")
    if "merge" in found:
        given["merge"] = _share(found["merge"] or "", "merge")
    if "prox" in found:
        given["prox"] = (
            0.0 if found["prox"] == "0" else number_of(found["prox"] or "", most=math.inf)
        )
    if found.get("freeze", "A") != "A":
        raise ValueError(f"freeze={found['freeze']!s:.40}: only A can be frozen")
    return LocalOptions(
        mask=_choice(TokenMask, found.get("mask") or _PLAIN.mask.value, "mask"),
        importance=_choice(
            Importance, found.get("importance") or _PLAIN.importance.value, "importance"
        ),
        scaffold="scaffold" in found,
        freeze_a="freeze" in found,
        **given,
    )


def _down(text: str) -> CodecMethod:
    codec, at, rate = text.partition("@")
    if not _CODEC.fullmatch(codec):
        raise ValueError(f"down={text:.40}: write a codec, as fstq+@4")
    found = rate_of(rate) if at else None
    if found is not None and found.first != found.last:
        raise ValueError(f"down={text:.40}: a delta has one rate in all rounds")
    return CodecMethod(codec, found)


def _check_options(method: Method, found: Mapping[str, str | None]) -> None:
    if method.server is Server.AVERAGE:
        if "tau" in found:
            raise ValueError("tau belongs to server=fedadam or server=fedyogi")
    elif "momentum" in found:
        raise ValueError(f"momentum is of plain averaging; {method.server.value} has its own")
    elif "step" not in found or method.server_step is None:
        raise ValueError(f"{method.server.value} needs its own step, as step=0.01")
    if method.full_step and method.server_step is None:
        raise ValueError("step=auto follows what arrives: leave full-step out")
    if method.local.mask is TokenMask.OFF and not found.keys().isdisjoint({"ratio", "interval"}):
        raise ValueError("ratio and interval belong to a mask, as mask=hard")


def _server_parts(method: Method) -> list[str]:
    parts = []
    adaptive = method.server is not Server.AVERAGE
    if adaptive:
        parts.append(f"server={method.server.value}")
        if method.tau != _TAU:
            parts.append(f"tau={shortest(method.tau)}")
    if adaptive or method.server_step != 1:
        step = "auto" if method.server_step is None else shortest(method.server_step)
        parts.append(f"step={step}")
    if method.full_step:
        parts.append("full-step")
    if method.momentum:
        parts.append(f"momentum={shortest(method.momentum)}")
    return parts


def _local_parts(local: LocalOptions) -> list[str]:
    parts = []
    if local.mask is not _PLAIN.mask:
        parts.append(f"mask={local.mask.value}")
    if local.ratio != _PLAIN.ratio:
        parts.append(f"ratio={shortest(local.ratio)}")
    if local.interval != _PLAIN.interval:
        parts.append(f"interval={local.interval}")
    if local.merge:
        parts.append(f"merge={shortest(local.merge)}")
    if local.importance is not _PLAIN.importance:
        parts.append(f"importance={local.importance.value}")
    if local.prox:
        parts.append(f"prox={shortest(local.prox)}")
    if local.scaffold:
        parts.append("scaffold")
    if local.freeze_a:
        parts.append("freeze=A")
    return parts


def _choice(kind: type[E], text: str, key: str) -> E:
    try:
        return kind(text)
    except ValueError:
        known = ", ".join(str(each.value) for each in kind)
        raise ValueError(f"{key}={text:.40} is none of {known}") from None


def _share(text: str, key: str) -> float:
    """Return a number from 0 to below 1."""
    try:
        value = float(text)
    except ValueError:
        raise ValueError(f"{text!r:.40} is no number") from None
    if not 0 <= value < 1:
        raise ValueError(f"{key}={text:.40} is not at least 0 and below 1")
    return value


def _whole(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or not 1 <= int(text) <= _INTERVAL_MAX:
        raise ValueError(f"{text!r:.40} is not a whole number from 1 to {_INTERVAL_MAX}")
    return int(text)
