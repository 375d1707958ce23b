"""What `fedfstq netem up` would do, line by line, in a form that a shell reads. Pure."""

from __future__ import annotations

from tools.netem import commands
from tools.netem.profile import Profile


def plan(interface: str, profile: Profile, *, with_ifb: bool, for_s: float | None) -> list[str]:
    """Return the commands with comments on when they run."""
    ifb = commands.ifb_name(interface) if with_ifb else None
    lines = [f"# {profile.name}: {profile.title}"]
    lines += map(commands.render, commands.set_up(interface, profile.at(0.0)[0], ifb=ifb))
    elapsed_s = 0.0
    links = [profile.phase_link(phase) for phase in profile.phases]
    followers = [*links[1:], links[0] if profile.cycle else profile.link] if links else []
    for phase, link in zip(profile.phases, followers, strict=True):
        elapsed_s += phase.for_s
        lines.append(f"# after {elapsed_s:g} s")
        lines += map(commands.render, commands.change(interface, link, ifb=ifb))
    if profile.phases and profile.cycle:
        lines.append(f"# and so on, every {profile.cycle_s:g} s")
    lines.append("# at the end" if for_s is None else f"# at the end, after {for_s:g} s")
    lines += map(commands.render, commands.take_down(interface, ifb=ifb))
    return lines
