"""A JSON document of two levels that knows what has changed in it. Pure.

A path is a section, as `round`, or a section and a key, as `devices.nano-01`; keys have no dots. A
value is replaced as a whole and never changed in place, so that whoever has got one may keep it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final, TypeAlias

Json: TypeAlias = Any
Snapshot: TypeAlias = dict[str, Any]
Changes: TypeAlias = dict[str, Any]

# Paths that are remembered for somebody who does not ask; beyond that, everything has changed.
MAX_CHANGED: Final = 8_192


class Document:
    """Sections of values, some of them keyed; `take_changes` tells what is new since it was asked.

    Args:
        sections: The sections that are values, with what each is at first.
        keyed: The sections that map keys to values.
    """

    def __init__(self, sections: Mapping[str, Json], keyed: Collection[str]) -> None:
        self._sections: dict[str, Json] = dict(sections)
        self._keyed: dict[str, dict[str, Json]] = {name: {} for name in keyed}
        self._changed: dict[str, None] = {}

    def put(self, section: str, value: Json, *, key: str = "") -> None:
        """Set a value; nothing has changed where it is the same."""
        home, name, path = self._place(section, key)
        if name not in home or home[name] != value:
            home[name] = value
            self._mark(path)

    def remove(self, section: str, key: str) -> None:
        """Remove a key of a section, where it is there."""
        if self._keyed[section].pop(key, None) is not None:
            self._mark(f"{section}.{key}")

    def clear(self, section: str) -> None:
        """Remove all keys of a section."""
        for key in tuple(self._keyed[section]):
            self.remove(section, key)

    def value(self, section: str) -> Json:
        """Return a section that is a value."""
        return self._sections[section]

    def section(self, name: str) -> Mapping[str, Json]:
        """Return a keyed section as it is now."""
        return self._keyed[name]

    def snapshot(self) -> Snapshot:
        """Return everything; the caller may add and remove, but not change values in place."""
        return {
            **self._sections,
            **{name: dict(values) for name, values in self._keyed.items()},
        }

    def take_changes(self) -> Changes:
        """Return what has changed since the last call: path → value, None for a key removed."""
        changes: Changes = {}
        for path in self._changed:
            section, _, key = path.partition(".")
            if key:
                changes[path] = self._keyed[section].get(key)
            elif section in self._keyed:
                changes[path] = dict(self._keyed[section])
            else:
                changes[path] = self._sections[section]
        self._changed.clear()
        return changes

    def _mark(self, path: str) -> None:
        self._changed[path] = None
        if len(self._changed) > MAX_CHANGED:
            self._changed = dict.fromkeys((*self._sections, *self._keyed))

    def _place(self, section: str, key: str) -> tuple[dict[str, Json], str, str]:
        if key:
            return self._keyed[section], key, f"{section}.{key}"
        return self._sections, section, section


def apply(snapshot: Snapshot, changes: Changes) -> None:
    """Bring a snapshot up to date, in place: what a viewer does with the changes it is sent."""
    for path, value in changes.items():
        section, _, key = path.partition(".")
        if not key:
            snapshot[section] = value
        elif value is None:
            snapshot[section].pop(key, None)
        else:
            snapshot[section][key] = value


def merge(pending: Changes, changes: Changes) -> None:
    """Put newer changes behind those that somebody has not taken yet, in place."""
    for path, value in changes.items():
        # In the order of the last word: a section as a whole would undo what came after it.
        pending.pop(path, None)
        pending[path] = value
