"""What every open page is sent: a snapshot at first, then what has changed. Pure.

Of a device that has changed, a page is sent the fields that have: with 500 devices that is a tenth
of their rows. Fields say how things are, not what was done, so for a page that reads slowly newer
changes are merged into those that wait, and it never costs more memory than one snapshot.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tools.monitor.document import Changes, Snapshot

# Pages that are open at once.
MAX_PAGES: Final = 64
# Sections whose keys map to rows, of which the changed fields are sent.
_KEYED: Final = frozenset({"devices", "rounds", "losses", "alerts", "alert_log"})


class TooManyPages(Exception):
    """As many pages are open as there may be."""


@dataclass(slots=True)
class Batch:
    """Changes that are encoded once, however many pages they are sent to."""

    changes: Changes
    _event: bytes = b""

    def event(self) -> bytes:
        """Return it as a server-sent event."""
        self._event = self._event or event("changes", self.changes)
        return self._event


@dataclass(slots=True)
class Page:
    """One open page.

    Attributes:
        wake: Called when something waits for it.
    """

    wake: Callable[[], None]
    _waiting: Batch | None = None
    _wants_snapshot: bool = True

    def offer(self, batch: Batch) -> None:
        """Let changes wait until the page takes them."""
        if self._wants_snapshot:
            return
        if self._waiting is None:
            self._waiting = batch
        else:
            self._waiting = Batch(merged(self._waiting.changes, batch.changes))
        self.wake()

    def take(self, snapshot: Callable[[], bytes]) -> bytes:
        """Return the event that it is sent next, b"" where nothing waits."""
        if self._wants_snapshot:
            self._wants_snapshot = False
            return snapshot()
        batch, self._waiting = self._waiting, None
        return b"" if batch is None else batch.event()


@dataclass(slots=True)
class Feed:
    """Brings changes to all open pages."""

    _document: Snapshot = field(default_factory=dict)
    _pages: list[Page] = field(default_factory=list)

    @property
    def pages(self) -> int:
        """How many pages are open."""
        return len(self._pages)

    @property
    def is_ready(self) -> bool:
        """Whether there is something to show."""
        return bool(self._document)

    def begin(self, snapshot: Snapshot) -> None:
        """Start with what is known."""
        self._document = snapshot

    def offer(self, changes: Changes) -> None:
        """Take what has changed: path → value."""
        batch = Batch(self._reduced(changes))
        if batch.changes:
            for page in self._pages:
                page.offer(batch)

    def open(self, wake: Callable[[], None]) -> Page:
        """Return a new page's place.

        Raises:
            TooManyPages: There is none.
        """
        if len(self._pages) >= MAX_PAGES:
            raise TooManyPages
        page = Page(wake)
        self._pages.append(page)
        return page

    def close(self, page: Page) -> None:
        """Forget a page."""
        self._pages = [one for one in self._pages if one is not page]

    def snapshot_event(self) -> bytes:
        """Return everything as a server-sent event."""
        return event("snapshot", self._document)

    def _reduced(self, changes: Changes) -> Changes:
        """Apply changes, and return what of them a page does not know: fields instead of rows."""
        reduced: Changes = {}
        for path, value in changes.items():
            section, _, key = path.partition(".")
            if section not in _KEYED:
                if self._document.get(section) != value:
                    self._document[section] = reduced[path] = value
                continue
            rows: dict[str, Any] = self._document.setdefault(section, {})
            before = rows.get(key)
            if value is None:
                rows.pop(key, None)
                reduced[path] = None
            elif before != value:
                reduced[path] = value if before is None else _changed_fields(before, value)
                rows[key] = value
        return reduced


def merged(older: Changes, newer: Changes) -> Changes:
    """Return changes that do what two do one after the other."""
    result = dict(older)
    for path, value in newer.items():
        before = result.get(path)
        is_row = path.partition(".")[0] in _KEYED
        if is_row and before is not None and value is not None:
            result[path] = {**before, **value}
        else:
            result[path] = value
    return result


def event(name: str, value: object) -> bytes:
    """Return a server-sent event; JSON has no line ends of its own."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return f"event: {name}\ndata: {text}\n\n".encode()


def _changed_fields(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value for name, value in after.items() if name not in before or before[name] != value
    }
