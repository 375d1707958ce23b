"""What a link is like: rates, delays, losses, and how they change with time. Read from YAML.

A profile is a link of two directions, `up` (from the device to its broker) and `down`. Where it has
`phases`, the link goes through them in order, again and again where `cycle` is true; after the last
one of a profile that does not cycle it stays as `up` and `down` say.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from tools.netem.errors import BadProfile

Percent = Annotated[float, Field(ge=0, le=100)]

_STRICT = ConfigDict(extra="forbid", frozen=True, strict=True)
_SUFFIX = ".yaml"


class GilbertElliott(BaseModel):
    """Losses in bursts: a link that is good or bad, and may change with each packet.

    The clock of this model is the packet. A sender that backs off sends fewer, so that its bad
    time lasts the longer; phases have a real clock.

    Attributes:
        bad_begins_percent: p, the chance that a packet turns the good state into the bad one.
        bad_ends_percent: r, the chance that a packet turns the bad state into the good one.
        bad_loss_percent: 1 - h, the chance to be lost in the bad state.
        good_loss_percent: 1 - k, the chance to be lost in the good state.

    Source:
        E. N. Gilbert, "Capacity of a Burst-Noise Channel", 1960; E. O. Elliott, 1963.
    """

    model_config = _STRICT

    bad_begins_percent: Percent
    bad_ends_percent: Annotated[float, Field(gt=0, le=100)]
    bad_loss_percent: Percent = 100.0
    good_loss_percent: Percent = 0.0


class Direction(BaseModel):
    """One direction of a link.

    Attributes:
        rate_kbit: Kilobits (1000 bits) per second, headers counted; None does not limit it.
        delay_ms: Added to every packet, besides what the rate costs.
        jitter_ms: Each packet's delay is uniform in delay ± this. Without a rate it reorders.
        loss_percent: Packets lost, each by itself.
        bursts: Packets lost in bursts instead.
        queue_ms: How long the queue before the rate is, at full packets; what comes when it is
            full is dropped. A home router has some 200 ms, a mobile network a second and more.
    """

    model_config = _STRICT

    rate_kbit: Annotated[float, Field(gt=0, le=10_000_000)] | None = None
    delay_ms: Annotated[float, Field(ge=0, le=60_000)] = 0.0
    jitter_ms: Annotated[float, Field(ge=0, le=60_000)] = 0.0
    loss_percent: Percent = 0.0
    bursts: GilbertElliott | None = None
    queue_ms: Annotated[float, Field(gt=0, le=60_000)] = 500.0

    @model_validator(mode="after")
    def _consistent(self) -> Direction:
        if self.jitter_ms > self.delay_ms:
            raise ValueError("jitter_ms is above delay_ms: no packet arrives before it was sent")
        if self.bursts is not None and self.loss_percent:
            raise ValueError("loss_percent and bursts exclude each other: give one of them")
        return self


class Phase(BaseModel):
    """What a link is like for a while.

    Attributes:
        for_s: How long.
        cut: Nothing passes, in either direction.
        up: Replaces the profile's.
        down: Replaces the profile's.
    """

    model_config = _STRICT

    for_s: Annotated[float, Field(ge=0.05, le=86_400)]
    cut: bool = False
    up: Direction | None = None
    down: Direction | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Phase:
        if self.cut and (self.up or self.down):
            raise ValueError("a phase that is cut has no directions: leave up and down out")
        return self


class Link(BaseModel):
    """What a link is like at one moment."""

    model_config = _STRICT

    up: Direction = Direction()
    down: Direction = Direction()
    cut: bool = False


class Profile(BaseModel):
    """A named kind of link.

    Attributes:
        title: One line for lists.
        phases: What it goes through, in order; empty for a link that stays as it is.
        cycle: After the last phase the first one comes again.
    """

    model_config = _STRICT

    name: str = ""
    title: str
    up: Direction = Direction()
    down: Direction = Direction()
    phases: tuple[Phase, ...] = ()
    cycle: bool = True

    @model_validator(mode="after")
    def _consistent(self) -> Profile:
        links = [self.link, *map(self.phase_link, self.phases)]
        for side in ("up", "down"):
            if len({getattr(link, side).rate_kbit is None for link in links}) > 1:
                # A running netem keeps the rate that a change does not name.
                raise ValueError(f"{side}.rate_kbit is missing in some phases: give it in all")
        return self

    @property
    def link(self) -> Link:
        """The link outside of all phases."""
        return Link(up=self.up, down=self.down)

    @property
    def cycle_s(self) -> float:
        """How long all phases take together."""
        return sum(phase.for_s for phase in self.phases)

    def phase_link(self, phase: Phase) -> Link:
        """Return the link during one of the phases."""
        return Link(up=phase.up or self.up, down=phase.down or self.down, cut=phase.cut)

    def at(self, elapsed_s: float) -> tuple[Link, float | None]:
        """Return the link at this time since it began, and when it changes next, if ever."""
        if not self.phases:
            return self.link, None
        cycles = int(elapsed_s // self.cycle_s) if self.cycle else 0
        end_s = cycles * self.cycle_s
        for phase in self.phases:
            end_s += phase.for_s
            if elapsed_s < end_s:
                return self.phase_link(phase), end_s
        if self.cycle:  # rounding put the moment at the very end of its cycle
            return self.phase_link(self.phases[0]), end_s + self.phases[0].for_s
        return self.link, None


def profile_names() -> tuple[str, ...]:
    """Return the names of the profiles that come with the project."""
    names = (entry.name for entry in files("tools.netem").iterdir())
    return tuple(sorted(name[: -len(_SUFFIX)] for name in names if name.endswith(_SUFFIX)))


def load_profile(wanted: str) -> Profile:
    """Return the profile of this name, or of the file where `wanted` is a path to one.

    Raises:
        BadProfile: There is no such profile, or its file is wrong.
    """
    if wanted.endswith(_SUFFIX) or "/" in wanted:
        path = Path(wanted)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
            raise BadProfile(f"profile {wanted} cannot be read: {reason}") from error
        return parse_profile(text, name=path.stem)
    if wanted not in profile_names():
        raise BadProfile(
            f"no profile is called {wanted!r}: there are {', '.join(profile_names())},"
            " or give the path of a .yaml file"
        )
    text = files("tools.netem").joinpath(wanted + _SUFFIX).read_text(encoding="utf-8")
    return parse_profile(text, name=wanted)


def parse_profile(text: str, *, name: str) -> Profile:
    """Read a profile from the text of its file.

    Raises:
        BadProfile: It is no YAML, or not what a profile is made of.
    """
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        line = str(error).replace("\n", " ")
        raise BadProfile(f"profile {name} is not YAML: {line}") from error
    if not isinstance(value, Mapping):
        raise BadProfile(f"profile {name} is no mapping: see docs/netem.md for its keys")
    phases: Any = value.get("phases", ())
    fields = {**value, "phases": tuple(phases) if isinstance(phases, list) else phases}
    try:
        return Profile.model_validate({**fields, "name": name})
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the profile"
        raise BadProfile(f"profile {name}: {place}: {first['msg']}") from error
