"""What the tests of the command line share: a finished run, a folder of images, and a way to call a command."""

import pytest

from attnconv.cli import main

TRAIN = ["train", "--model", "aa_convnet3", "--data", "digits", "--batch-size", "32", "--device", "cpu"]


@pytest.fixture
def attnconv(capsys, monkeypatch):
    """Call a command in this process, in a wide terminal: (exit code, stdout, stderr)."""
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments):
        try:
            code = main([str(a) for a in arguments])
        except SystemExit as done:
            code = done.code or 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("cli") / "run"
    assert main([*TRAIN, "--epochs", "2", "--train-subset", "200", "--seed", "1", "--out", str(out)]) == 0
    return out


def picture(path, size=(20, 16), colour=(200, 30, 40)):
    from PIL import Image

    Image.new("RGB", size, colour).save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    """train/<class>/* and val/<class>/*: two classes of four images."""
    for part in ("train", "val"):
        for label, colour in (("blue", (10, 20, 200)), ("red", (200, 20, 10))):
            (tmp_path / "images" / part / label).mkdir(parents=True)
            for i in range(4):
                picture(tmp_path / "images" / part / label / f"{i}.png", colour=colour)
    return tmp_path / "images"
