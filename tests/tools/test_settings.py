from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict, Field

from tools.settings import SettingsError, load


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    host: str = "localhost"
    port: int = Field(default=1883, ge=1)


class Service(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    broker: Inner = Inner()
    extra: Inner | None = None
    rate: float = 1.0


def write(folder: Path, text: str) -> Path:
    path = folder / "service.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(path: Path, **given: object) -> str:
    with pytest.raises(SettingsError) as caught:
        load(Service, path, **given)  # type: ignore[arg-type]
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_values_come_from_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "name: a\nbroker:\n  port: 99\n")
    assert load(Service, path) == Service(name="a", broker=Inner(port=99))


def test_the_command_line_beats_the_environment_which_beats_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "name: file\nbroker: {host: file, port: 1}\nrate: 1.5\n")
    environ = {"FEDFSTQ__BROKER__HOST": "environ", "FEDFSTQ__BROKER__PORT": "2", "HOME": "x"}
    settings = load(Service, path, overrides=["broker.port=3"], environ=environ)
    assert settings == Service(name="file", broker=Inner(host="environ", port=3), rate=1.5)


def test_an_override_may_open_a_section_that_the_file_lacks(tmp_path: Path) -> None:
    settings = load(Service, write(tmp_path, "name: a"), overrides=["extra.port=7"])
    assert settings.extra == Inner(port=7)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: a\nbroker: {prot: 1}\n", "broker.prot: unknown key, did you mean port?"),
        ("name: a\nextra: {prot: 1}\n", "extra.prot: unknown key, did you mean port?"),
        ("nam: a\n", "nam: unknown key, did you mean name?"),
        ("name: a\nzzz: 1\n", "zzz: unknown key (known: broker, extra, name, rate)"),
        ("broker: {}\n", "name: missing"),
        ("name: a\nbroker: {port: x}\n", "broker.port: input should be a valid integer"),
        ("name: a\nname: b\n", "line 2, column 1: name stands twice"),
        ("name: [a\n", "line 2, column 1: "),
        ("1: a\n", "line 1, column 1: 1 is no name"),
        ("- a\n", "expected `key: value` lines, found a list"),
        ("name: a\nbroker: !!python/object:os.system {}\n", "could not determine a constructor"),
    ],
)
def test_what_does_not_fit_is_one_line_that_says_where_and_how_to_mend(
    tmp_path: Path, text: str, expected: str
) -> None:
    path = write(tmp_path, text)
    said = refusal(path)
    assert said.startswith(f"{path}:")
    assert expected in said


def test_an_unknown_environment_variable_is_an_error_with_a_hint(tmp_path: Path) -> None:
    said = refusal(write(tmp_path, "name: a"), environ={"FEDFSTQ__BROKER__HOTS": "x"})
    assert "broker.hots: unknown key, did you mean host?" in said


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("name", "write --set key=value"),
        ("name.first=1", "name holds a text, not further keys"),
        ("broker.port={", "the value is no YAML"),
        ("broker.port=0", "broker.port: input should be greater than or equal to 1"),
    ],
)
def test_a_wrong_override_is_named(tmp_path: Path, override: str, expected: str) -> None:
    assert expected in refusal(write(tmp_path, "name: a"), overrides=[override])


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "absent.yaml")
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    assert "not UTF-8" in refusal(binary)
