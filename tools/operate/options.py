"""The options by which every tool of a person names a federation and a login."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="YAML with federation, login and broker."),
]
FleetOption = Annotated[
    Path | None,
    typer.Option(
        "--fleet", metavar="DIR", help="The fleet's folder; this one or ./fleet by default."
    ),
]
WatcherOption = Annotated[str, typer.Option("--as", metavar="NAME", help="A person of that fleet.")]
