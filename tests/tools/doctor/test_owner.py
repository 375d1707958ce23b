"""What a user may read, decided by owners and modes alone."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from tools.doctor.owner import Entry, entries_of, obstacle, reader, rights_of

DIR, FILE = stat.S_IFDIR, stat.S_IFREG
ROOT = Entry("/", 0, 0, DIR | 0o755)


@pytest.mark.parametrize(
    ("last", "blocked"),
    [
        (Entry("/f", 0, 0, FILE | 0o644), False),
        (Entry("/f", 0, 0, FILE | 0o640), True),
        (Entry("/f", 0, 7, FILE | 0o640), False),
        (Entry("/f", 5, 0, FILE | 0o600), False),
        (Entry("/f", 5, 7, FILE | 0o044), True),  # the owner's bits count for the owner
        (Entry("/d", 0, 0, DIR | 0o754), True),  # may be listed, and nothing in it opened
        (Entry("/d", 0, 0, DIR | 0o755), False),
    ],
)
def test_the_last_entry_must_be_readable(last: Entry, *, blocked: bool) -> None:
    found = obstacle([ROOT, last], uid=5, gids=frozenset({7}))
    assert found == (last if blocked else None)


def test_a_closed_folder_on_the_way_is_named() -> None:
    closed = Entry("/home/me", 1, 1, DIR | 0o700)
    file = Entry("/home/me/f", 1, 1, FILE | 0o644)
    assert obstacle([ROOT, closed, file], uid=5, gids=frozenset()) == closed
    assert obstacle([ROOT, closed, file], uid=0, gids=frozenset()) is None


def test_a_folder_on_the_way_need_not_be_listed() -> None:
    passed = Entry("/srv", 0, 0, DIR | 0o711)
    file = Entry("/srv/f", 0, 0, FILE | 0o644)
    assert obstacle([ROOT, passed, file], uid=5, gids=frozenset()) is None


def test_entries_go_from_the_root_to_the_file(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.touch()
    link = tmp_path / "link"
    link.symlink_to(file)
    found = entries_of(link)
    assert found[0].path == "/"
    assert found[-1].path == str(file.resolve())


def test_a_reader_says_why_not(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.touch()
    tmp_path.chmod(0o700)
    assert reader(None)(file) == ""
    assert "cannot be read" in reader(None)(tmp_path / "absent")
    assert "closed to user nobody" in reader("nobody")(file)
    assert "No such file" in reader("nobody")(tmp_path / "absent")
    assert rights_of("root")[0] == 0
