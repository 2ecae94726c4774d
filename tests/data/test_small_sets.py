"""CIFAR and MNIST from a small server on this machine."""

import functools
import gzip
import hashlib
import http.server
import io
import pickle
import shutil
import struct
import tarfile
import threading

import numpy as np
import pytest
import torch
import torchvision

from attnconv.checks import InputError
from attnconv.data import load_data
from attnconv.data.small_sets import SMALL_SETS

COUNTS = {"train": 10, "test": 4}


@pytest.fixture
def server(tmp_path):
    """A folder whose files are served, the address, and the paths asked for."""
    folder, asked = tmp_path / "served", []
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format, *args):
            asked.append(self.path)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder)) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield folder, f"http://127.0.0.1:{httpd.server_address[1]}/", asked
        httpd.shutdown()
        thread.join()


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


def pixels(split: str, *shape: int) -> np.ndarray:
    return np.random.default_rng(len(split)).integers(0, 256, (COUNTS[split], *shape), dtype=np.uint8)


def serve_cifar10(folder, address, monkeypatch):
    """An archive as the official one, but of two training images a file and four test images."""
    train, labels = pixels("train", 3072), list(range(10))
    files = {
        f"data_batch_{i + 1}": {"data": train[2 * i : 2 * i + 2], "labels": labels[2 * i : 2 * i + 2]} for i in range(5)
    }
    files["test_batch"] = {"data": pixels("test", 3072), "labels": [3, 2, 1, 0]}
    files["batches.meta"] = {"label_names": [f"thing {i}" for i in range(10)]}
    raw = {name: pickle.dumps(content) for name, content in files.items()}
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for name, content in raw.items():
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    (folder / "cifar-10-python.tar.gz").write_bytes(archive.getvalue())
    kind = torchvision.datasets.CIFAR10
    monkeypatch.setattr(kind, "url", f"{address}cifar-10-python.tar.gz")
    monkeypatch.setattr(kind, "tgz_md5", md5(archive.getvalue()))
    monkeypatch.setattr(kind, "train_list", [[name, md5(raw[name])] for name in raw if name.startswith("data")])
    monkeypatch.setattr(kind, "test_list", [["test_batch", md5(raw["test_batch"])]])
    monkeypatch.setattr(kind, "meta", {**kind.meta, "md5": md5(raw["batches.meta"])})


def serve_mnist(kind, folder, address, monkeypatch):
    """Four gzipped IDX files as the official ones, of ten and four images."""
    resources = []
    for split, prefix in (("train", "train"), ("test", "t10k")):
        n = COUNTS[split]
        images = struct.pack(">4B3I", 0, 0, 8, 3, n, 28, 28) + pixels(split, 28, 28).tobytes()
        labels = struct.pack(">4BI", 0, 0, 8, 1, n) + bytes(range(n))
        for name, content in ((f"{prefix}-images-idx3-ubyte.gz", images), (f"{prefix}-labels-idx1-ubyte.gz", labels)):
            (folder / name).write_bytes(gzip.compress(content))
            resources.append((name, md5((folder / name).read_bytes())))
    monkeypatch.setattr(kind, "mirrors", [address])
    monkeypatch.setattr(kind, "resources", resources)


@pytest.fixture(params=["cifar10", "mnist", "fashion-mnist"])
def served(request, server, monkeypatch):
    """Name of a set that the server has, the folder served and the paths asked for."""
    folder, address, asked = server
    if request.param == "cifar10":
        serve_cifar10(folder, address, monkeypatch)
    else:
        kind = {"mnist": torchvision.datasets.MNIST, "fashion-mnist": torchvision.datasets.FashionMNIST}[request.param]
        serve_mnist(kind, folder, address, monkeypatch)
    return request.param, folder, asked


EXPECTED = {  # channels, side, pad, flip
    "cifar10": (3, 32, 4, True),
    "mnist": (1, 28, 2, False),
    "fashion-mnist": (1, 28, 2, True),
}


def test_a_download(served, tmp_path):
    name, _, _ = served
    data = load_data(name, data_dir=tmp_path / "data")
    channels, side, pad, flip = EXPECTED[name]
    shape = (channels, side, side)
    assert (data.name, data.channels, data.image_size, len(data.classes)) == (name, channels, (side, side), 10)
    assert (data.train.pad, data.train.flip, data.val.pad, data.val.flip) == (pad, flip, 0, False)
    assert torch.equal(data.train.images, torch.from_numpy(pixels("train", *shape)))
    assert torch.equal(data.val.images, torch.from_numpy(pixels("test", *shape)))
    assert data.train.labels.tolist() == list(range(10))
    assert data.train.labels.dtype == torch.int64


def test_stdout_stays_clean(served, tmp_path, capsys, monkeypatch):
    """Older versions of torchvision print where they download from."""
    name, _, _ = served
    kind = torchvision.datasets.CIFAR10 if name == "cifar10" else torchvision.datasets.MNIST
    download = kind.download
    monkeypatch.setattr(kind, "download", lambda self: print("Downloading") or download(self))
    load_data(name, data_dir=tmp_path / "data")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Downloading" in captured.err


def test_the_second_time_nothing_is_asked_for(served, tmp_path):
    name, _, asked = served
    first = load_data(name, data_dir=tmp_path / "data")
    assert asked
    asked.clear()
    second = load_data(name, data_dir=tmp_path / "data")
    assert asked == []
    assert torch.equal(first.train.images, second.train.images)


def test_the_environment_names_the_folder(served, tmp_path, monkeypatch):
    name, _, _ = served
    monkeypatch.setenv("ATTNCONV_DATA", str(tmp_path / "elsewhere"))
    load_data(name)
    assert list((tmp_path / "elsewhere").iterdir())


def test_the_folder_without_any_wish_is_in_the_cache(served, tmp_path, monkeypatch):
    name, _, _ = served
    monkeypatch.delenv("ATTNCONV_DATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    load_data(name)
    assert list((tmp_path / ".cache" / "attnconv").iterdir())


def failure(name, folder) -> str:
    """The one line of a load that fails, less its beginning, which names the set and the folder."""
    with pytest.raises(InputError) as caught:
        load_data(name, data_dir=folder)
    kind = SMALL_SETS[name].torchvision_name
    line, start = str(caught.value), f"cannot read or download torchvision:{kind} in {folder}: "
    assert line.startswith(start)
    assert "\n" not in line
    return line.removeprefix(start)


def damage(folder) -> None:
    for path in folder.iterdir():
        path.write_bytes(path.read_bytes()[:-1] + b"?")


def test_a_wrong_checksum(served, tmp_path):
    name, folder, _ = served
    damage(folder)
    assert "File not found or corrupted" in failure(name, tmp_path / "data")


def test_a_download_that_failed_is_repeated(served, tmp_path):
    name, folder, _ = served
    shutil.copytree(folder, tmp_path / "whole")
    damage(folder)
    failure(name, tmp_path / "data")
    shutil.copytree(tmp_path / "whole", folder, dirs_exist_ok=True)
    assert load_data(name, data_dir=tmp_path / "data").num_train == 10


def test_files_that_the_server_lacks(served, tmp_path):
    name, folder, _ = served
    shutil.rmtree(folder)
    assert "404" in failure(name, tmp_path / "data")


def test_no_network(served, tmp_path, monkeypatch):
    name, _, _ = served
    nowhere = "http://127.0.0.1:1/"  # a port that nobody listens on
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", f"{nowhere}cifar-10-python.tar.gz")
    monkeypatch.setattr(torchvision.datasets.MNIST, "mirrors", [nowhere])
    monkeypatch.setattr(torchvision.datasets.FashionMNIST, "mirrors", [nowhere])
    assert "refused" in failure(name, tmp_path / "data")


def test_a_folder_that_cannot_be_written(served, tmp_path):
    name, _, _ = served
    (tmp_path / "data").write_text("a file where the folder should be")
    assert "[Errno " in failure(name, tmp_path / "data")


def cut_off(folder, file_name) -> None:
    (path,) = folder.rglob(file_name)
    path.write_bytes(path.read_bytes()[:-10])


@pytest.mark.parametrize("served", ["cifar10"], indirect=True)
def test_a_cifar_file_that_is_cut_off_is_downloaded_again(served, tmp_path):
    load_data("cifar10", data_dir=tmp_path / "data")
    cut_off(tmp_path / "data", "data_batch_1")
    assert load_data("cifar10", data_dir=tmp_path / "data").num_train == 10


@pytest.mark.parametrize("served", ["mnist", "fashion-mnist"], indirect=True)
def test_an_mnist_file_that_is_cut_off_is_to_be_deleted(served, tmp_path):
    """torchvision takes extracted files as they are; an extraction that was broken off leaves such a one."""
    name, _, _ = served
    load_data(name, data_dir=tmp_path / "data")
    cut_off(tmp_path / "data", "train-images-idx3-ubyte")
    assert failure(name, tmp_path / "data").endswith("; if files there are damaged, delete them")
