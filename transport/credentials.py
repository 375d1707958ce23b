"""Where a service's private key is read from: systemd's credentials, or the file that is named.

With `LoadCredential=` systemd (247 and later) reads a key that root alone may read, and hands the
service a copy in memory that no other process of the same user can open. Where there is none, the
file is read where the configuration names it, and must then be the service's own.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

# The units hand over a word in the place of a key that is not there.
_PEM: Final = b"-----BEGIN "


def credential(file: Path, *, environ: Mapping[str, str] = os.environ) -> Path:
    """Return systemd's copy of a PEM file where it has one of that name, else the file."""
    folder = environ.get("CREDENTIALS_DIRECTORY")
    if folder:
        copy = Path(folder) / file.name
        try:
            with copy.open("rb") as content:
                if content.read(len(_PEM)) == _PEM:
                    return copy
        except OSError:
            pass
    return file
