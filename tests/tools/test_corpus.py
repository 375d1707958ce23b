"""The standard library as text: who owns what, and that nothing is shared or left to chance."""

import re
import sysconfig
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tools import corpus
from tools.corpus import (
    CLIENT_PACKAGES,
    HELDOUT_PASSAGES_MAX,
    PASSAGE_CHARS_MAX,
    TRAIN_PASSAGES_MAX,
    base_texts,
    client_groups,
    passages,
)

GROUPS = len(CLIENT_PACKAGES)
STDLIB = Path(sysconfig.get_paths()["stdlib"])


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in the place of the standard library."""
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    return tmp_path


def write(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(text, encoding="utf-8")


def prose(name: str, lines: int) -> str:
    return "".join(f"{name} says line {i} of its own text\n" for i in range(lines))


@pytest.mark.parametrize("count", [1, 4, GROUPS, GROUPS + 3, 30])
def test_as_many_clients_as_asked_each_with_text_of_its_own(count: int) -> None:
    """No held-out passage is trained on, and ids fit a topic level."""
    clients = client_groups(count)
    assert len({client.client_id for client in clients}) == count
    for client in clients:
        assert re.fullmatch(r"[a-z0-9-]+", client.client_id)
        assert 32 <= len(client.train) <= TRAIN_PASSAGES_MAX
        assert 8 <= len(client.heldout) <= HELDOUT_PASSAGES_MAX
        assert not set(client.train) & set(client.heldout)
        assert client.packages


def test_the_largest_fleet_is_disjoint_by_file() -> None:
    """Dealing out a group gives every file to exactly one of its clients."""
    for package in ("asyncio", "xml"):
        sources = corpus._sources(package)
        shares = [share for _, share in corpus._deal(sources, 3)]
        paths = [source.path for share in shares for source in share]
        assert sorted(paths) == sorted(source.path for source in sources)
        assert all(shares)


def test_clients_of_different_packages_share_almost_no_passage() -> None:
    """Only licence notices recur between packages."""
    clients = client_groups(GROUPS)
    for i, one in enumerate(clients):
        for other in clients[i + 1 :]:
            assert not set(one.packages) & set(other.packages)
            assert len(set(one.train) & set(other.train)) <= 1


def test_the_same_call_gives_the_same_text() -> None:
    assert client_groups(5) == client_groups(5)
    assert base_texts() == base_texts()


def test_fewer_clients_are_the_first_of_more() -> None:
    assert client_groups(2) == client_groups(GROUPS)[:2]


@pytest.mark.parametrize("count", [0, -1])
def test_no_clients_are_a_callers_error(count: int) -> None:
    with pytest.raises(ValueError, match="at least 1 client"):
        client_groups(count)


def test_too_many_clients_are_refused_with_the_number_that_is_possible() -> None:
    with pytest.raises(ValueError, match=r"enough for \d+ clients, not 1000"):
        client_groups(1000)


def test_base_texts_contain_no_client_file() -> None:
    documents = set(base_texts())
    owned = [source for _, names in CLIENT_PACKAGES for n in names for source in corpus._sources(n)]
    assert len(owned) > 100
    for source in owned:
        # Some packages have empty or one-line __init__ files, equal to others' by chance.
        assert len(source.text) < 200 or source.text not in documents


def test_base_texts_are_enough_to_pretrain_on_and_hold_no_tests() -> None:
    documents = base_texts()
    assert sum(map(len, documents)) > 3_000_000
    support = STDLIB / "test" / "support" / "__init__.py"
    if support.is_file():
        assert support.read_text(encoding="utf-8") not in documents


def test_generated_tables_and_foreign_packages_are_left_out(library: Path) -> None:
    kept = prose("module", 20)
    write(library, "module.py", kept)
    write(library, "package/part.py", kept + "# part\n")
    write(library, "package/tests/case.py", "skipped")
    write(library, "site-packages/other.py", "skipped")
    write(library, "test/case.py", "skipped")
    write(library, "_sysconfigdata_linux.py", "skipped")
    write(library, "big.py", "#" * 400_001)
    write(library, "empty.py", "\n")
    write(library, "email/message.py", "a client's")
    (library / "old.py").write_bytes(b"# \xe9t\xe9 in latin-1\n")
    (library / "extension.so").write_bytes(b"\x7fELF")
    assert base_texts() == [kept, kept + "# part\n"]


@pytest.mark.parametrize("form", ["# comment\ntopics = {}\n", "topics: dict[str, str] = {}\n"])
def test_topics_are_read_as_prose_not_as_source(library: Path, form: str) -> None:
    """Python 3.13 and before write the dictionary in different forms."""
    topics = {"while": "The while\nstatement\n", "assert": "Assert statements\n"}
    write(library, "pydoc_data/topics.py", form.replace("{}", repr(topics)))
    assert base_texts() == ["Assert statements\n", "The while\nstatement\n"]


def test_topics_without_a_dictionary_are_no_text(library: Path) -> None:
    write(library, "pydoc_data/topics.py", "import os\n")
    assert base_texts() == []


def test_heldout_passages_come_from_files_of_their_own(library: Path) -> None:
    for name in "abcdefghij":
        write(library, f"email/{name}.py", prose(name, 100))
    (client,) = client_groups(1)
    trained = {passage[0] for passage in client.train}
    heldout = {passage[0] for passage in client.heldout}
    assert trained | heldout == set("abcdefghij")
    assert len(heldout) == 2
    assert not trained & heldout


def test_a_single_file_is_split_before_its_last_fifth(library: Path) -> None:
    write(library, "email.py", prose("only", 500))
    (client,) = client_groups(1)
    everything = passages(prose("only", 500))
    assert list(client.train + client.heldout) == everything
    assert len(client.heldout) == len(everything) // 5


def test_a_passage_that_was_trained_on_is_not_held_out(library: Path) -> None:
    notice = prose("licence", 13) + "\n"
    for name in "abcdefghij":
        write(library, f"email/{name}.py", notice + prose(name, 100))
    (client,) = client_groups(1)
    assert sum(passage.startswith("licence") for passage in client.train) == 8
    assert not any(passage.startswith("licence") for passage in client.heldout)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.text(st.characters(codec="ascii", exclude_characters="\r"), max_size=700)))
def test_passages_are_pieces_of_the_text_of_bounded_length(pieces: list[str]) -> None:
    text = "\n".join(pieces)
    short = "".join(
        line for line in text.splitlines(keepends=True) if len(line) <= PASSAGE_CHARS_MAX
    )
    at = 0
    for passage in passages(text):
        assert 200 <= len(passage) <= PASSAGE_CHARS_MAX
        at = short.index(passage, at) + len(passage)


def test_a_passage_ends_at_a_blank_line_when_it_is_long_enough() -> None:
    text = prose("first", 14) + "\n" + prose("second", 14)
    assert passages(text) == [prose("first", 14).strip("\n"), prose("second", 14).strip("\n")]
