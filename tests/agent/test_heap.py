"""The heap is trimmed where there is glibc, and left alone elsewhere."""

import ctypes

import pytest

from agent import heap


class Libc:
    """Writes down what is asked of it."""

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []

    def malloc_trim(self, pad: int) -> None:
        self.calls.append(("trim", pad))

    def mallopt(self, parameter: int, value: int) -> None:
        self.calls.append((parameter, value))


def test_large_blocks_go_back_at_once_inside_and_the_rest_at_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    libc = Libc()
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: libc)
    with heap.giving_back():
        assert libc.calls == [(-3, 64 << 10)]
    assert libc.calls[1:] == [(-3, 32 << 20), ("trim", 0)]
    heap.trim()
    assert libc.calls[-1] == ("trim", 0)


def test_another_libc_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: object())
    with heap.giving_back():
        heap.trim()


def test_this_libc_takes_it() -> None:
    heap.trim()
