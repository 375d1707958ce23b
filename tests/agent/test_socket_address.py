from __future__ import annotations

import socket
from pathlib import Path

import pytest

from agent.socket_address import MAX_PATH_BYTES, address_of


def test_a_short_path_is_used_as_it_is(tmp_path: Path) -> None:
    with address_of(tmp_path / "s") as address:
        assert address == str(tmp_path / "s")


@pytest.mark.parametrize("depth", [1, 20])
def test_two_processes_meet_at_a_path_of_any_depth(tmp_path: Path, depth: int) -> None:
    folder = tmp_path.joinpath(*["deep-folder"] * depth)
    folder.mkdir(parents=True)
    path = folder / "trainer.sock"
    assert (len(str(path)) > MAX_PATH_BYTES) is (depth == 20)
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        with address_of(path) as address:
            listener.bind(address)
        listener.listen()
        with address_of(path) as address:
            client.connect(address)
        assert path.is_socket()


def test_a_deep_folder_that_is_not_there_is_an_error_of_the_world(tmp_path: Path) -> None:
    path = tmp_path.joinpath(*["deep-folder"] * 20, "trainer.sock")
    with pytest.raises(FileNotFoundError), address_of(path):
        raise AssertionError("there is no folder to name")
