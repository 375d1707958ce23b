"""What a lab asks of its router, and the one that is a namespace of this machine."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from tools.netem.commands import Command
from tools.netem.namespaces import within
from tools.netem.programs import output_of


class Router(Protocol):
    """What joins devices and server; its interfaces lead to the devices and to the server."""

    @property
    def interfaces(self) -> tuple[str, str]:
        """Their names."""
        ...

    def run(self, commands: Iterable[Command]) -> str:
        """Run commands up to the first that fails; return what they wrote."""
        ...

    def close(self) -> None:
        """End it."""
        ...


class KernelRouter:
    """A router that is the hub's namespace itself: this kernel has netem."""

    interfaces = ("devices", "server")

    def __init__(self, namespace: str) -> None:
        """Let a namespace forward packets."""
        self._namespace = namespace
        forward = "echo 1 > /proc/sys/net/ipv4/ip_forward"
        output_of(*within(namespace, ("sh", "-c", forward)))

    def run(self, commands: Iterable[Command]) -> str:
        """Run commands up to the first that fails; return what they wrote."""
        return "\n".join(output_of(*within(self._namespace, command)) for command in commands)

    def close(self) -> None:
        """The namespace ends with the lab."""
