"""Text of installed packages: documented, each part once, and nothing that is to be measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.metadata import Distribution, PathDistribution
from pathlib import Path

import pytest

from tools import package_texts as module
from tools.package_texts import package_texts, prose_share, required_distributions, text_digest

Install = Callable[..., Distribution]


def documented(name: str, lines: int = 20) -> str:
    """A source that is mostly docstring, every line of it its own."""
    text = "".join(f"    Line {n} says what {name} is good for, at length.\n" for n in range(lines))
    return f'def {name}():\n    """Does.\n\n{text}    """\n'


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Installs packages of given files; nothing else is there."""
    installed: dict[str, Distribution] = {}

    def find(name: str) -> Distribution:
        if name not in installed:
            raise module.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(module, "distribution", find)

    def add(
        name: str, files: dict[str, str | bytes] | None = None, *, requires: Iterable[str] = ()
    ) -> Distribution:
        files = files or {}
        about = tmp_path / f"{name}-1.0.dist-info"
        about.mkdir()
        lines = "".join(f"Requires-Dist: {each}\n" for each in requires)
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n{lines}")
        for path, text in files.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            content = text.encode() if isinstance(text, str) else text
            (tmp_path / path).write_bytes(content)
        (about / "RECORD").write_text("".join(f"{path},,\n" for path in sorted(files)))
        installed[name] = PathDistribution(about)
        return installed[name]

    return add


def test_packages_are_those_that_the_project_reaches(install: Install) -> None:
    install("fedfstq", requires=["b-b>=1", "A", "absent", "c ; extra == 'dev'"])
    install("a", requires=["d>2; python_version>'3'", "e ; extra == 'more'", "b_b"])
    for name in ("b-b", "c", "d", "e", "f"):
        install(name)
    found = [package.name for package in required_distributions()]
    assert found == ["a", "b-b", "c", "d"]


def test_documented_sources_and_pages_are_taken_in_order(install: Install) -> None:
    page = "What one has to know of it, in so many words.\n" * 10
    code = "".join(f"variable_of_some_length_{n} = {n} + {n}\n" for n in range(50))
    install("fedfstq", {"fedfstq/own.py": documented("own")}, requires=["b", "a"])
    install("b", {"b/z.py": documented("bz"), "b/code.py": code})
    install(
        "a",
        {
            "a/one.py": documented("one"),
            "a/README.md": page,
            "a/data.json": page + page,
            "a/short.py": '"""Short."""\n',
            "a/latin.py": documented("latin").encode().replace(b"Does", b"D\xe9"),
            "a/tests/two.py": documented("two"),
            "a/_vendor/three.py": documented("three"),
            "a/gone.py": documented("gone"),
        },
    )
    gone = next(path for path in module.distribution("a").files or () if path.name == "gone.py")
    Path(gone.locate()).unlink()
    found = package_texts()
    assert found.texts == (page, documented("one"), documented("bz"))
    assert found.packages == ("a==1", "b==1")


def test_what_is_known_is_not_taken_again(install: Install) -> None:
    """Whether it is another package's or one of the texts that will be measured on."""
    install("fedfstq", requires=["a", "b"])
    install("a", {"a/one.py": documented("one"), "a/secret.py": documented("secret")})
    install("b", {"b/copy.py": "# copied\n" + documented("one"), "b/two.py": documented("two")})
    found = package_texts(seen=[documented("secret")])
    assert found.texts == (documented("one"), documented("two"))


def test_no_package_is_most_of_the_text(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    install("fedfstq", requires=["a"])
    install("a", {f"a/m{n}.py": documented(f"m{n}") for n in range(8)})
    size = len(documented("m0"))
    monkeypatch.setattr(module, "_DISTRIBUTION_CHARS_MAX", 4 * size)
    assert package_texts().texts == tuple(documented(f"m{n}") for n in (0, 2, 4, 6))


def test_prose_is_comments_and_strings_over_several_lines() -> None:
    assert prose_share("# all of it") == 1.0
    assert prose_share("x = 'a string of one line'\n") == 0.0
    assert prose_share('"""a\nb"""\nabcdefgh\n') == pytest.approx(9 / 19)
    assert prose_share("") == 0.0
    assert prose_share("def broken(:\n  '''") == 0.0


def test_digests_tell_texts_and_their_order() -> None:
    texts = ["ab", "c"]
    assert text_digest(texts) == text_digest(list(texts))
    assert len({text_digest(each) for each in (texts, ["c", "ab"], ["a", "bc"], ["abc"])}) == 4


def test_this_installation_has_them() -> None:
    names = {package.name.lower() for package in required_distributions()}
    assert {"numpy", "torch", "transformers"} <= names
    assert "fedfstq" not in names
