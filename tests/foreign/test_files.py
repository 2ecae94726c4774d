"""The kind of file at a path: only regular files are opened, and a size alone takes no memory."""

import os
import socket

import pytest
import torch

from attnconv.checks import InputError
from attnconv.foreign import read_plain, read_state_dict
from attnconv.foreign.stored import Storages

READERS = pytest.mark.parametrize("read", [read_state_dict, read_plain])


@READERS
@pytest.mark.timeout(20)
def test_a_pipe_a_socket_a_device_and_a_folder_are_not_opened(tmp_path, read, monkeypatch):
    monkeypatch.chdir(tmp_path)  # whose own name is too long for a socket
    os.mkfifo("pipe.pt")
    os.mkdir("folder.pt")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.pt")
    for name, kind in (("pipe.pt", "a FIFO"), ("socket.pt", "a socket")):
        with pytest.raises(InputError, match=f"^{name} is {kind} and not a regular file: it is not opened$"):
            read(tmp_path.__class__(name))
    with pytest.raises(InputError, match=r"^/dev/zero is a character device and not a regular file: it is not opened$"):
        read(tmp_path.__class__("/dev/zero"))
    with pytest.raises(InputError, match=r"^no file folder\.pt to take weights from: it is a folder$"):
        read(tmp_path.__class__("folder.pt"))
    with pytest.raises(InputError, match=r"^no file none\.pt to take weights from$"):
        read(tmp_path.__class__("none.pt"))
    os.symlink("none.pt", "loop.pt")
    with pytest.raises(InputError, match=r"^no file loop\.pt to take weights from$"):
        read(tmp_path.__class__("loop.pt"))


def test_a_link_to_a_file_is_followed(tmp_path):
    torch.save({"w": torch.ones(1)}, tmp_path / "w.pt")
    os.symlink("w.pt", tmp_path / "link.pt")
    assert read_state_dict(tmp_path / "link.pt").tensors["w"].item() == 1


@pytest.mark.parametrize("name", ["a\0b", "x" * 300])
def test_names_that_no_file_can_have(name):
    with pytest.raises(InputError, match=r"^cannot open '[^\n]+$"):
        read_state_dict(name)


def test_a_storage_larger_than_memory(tmp_path):
    with open(tmp_path / "w.pt", "wb+") as file, pytest.raises(ValueError, match="more than this machine has memory"):
        Storages(file, {"0": (0, 2**50)})._bytes("0")


@pytest.mark.parametrize("length", [4_000_001, 2**60])
def test_headers_of_safetensors(tmp_path, length):
    path = tmp_path / "w.safetensors"
    path.write_bytes(length.to_bytes(8, "little") + b"{" + b" " * 9_000_000)
    message = "of which at most 4000000 are read" if length < 2**60 else "is damaged or not a safetensors file"
    with pytest.raises(InputError, match=rf"w\.safetensors [^\n]*{message}"):
        read_state_dict(path)
