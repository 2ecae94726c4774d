"""attnconv lr-find: its files, its curve, and bad input."""

import json

import pytest
from cli.test_bad_input import assert_refused

SMALL = ["lr-find", "--model", "convnet3", "--data", "digits", "--train-subset", "96", "--batch-size", "32"]


def test_the_curve_is_drawn_and_left_in_the_folder(attnconv, tmp_path):
    code, out, err = attnconv(*SMALL, "--steps", "20", "--device", "cpu", "--out", tmp_path / "curve")
    assert code == 0, err
    assert sorted(path.name for path in (tmp_path / "curve").iterdir()) == ["lr-find.json", "lr-find.png"]
    curve = json.loads((tmp_path / "curve" / "lr-find.json").read_text())
    assert len(curve["lrs"]) == len(curve["losses"]) <= 20
    assert (tmp_path / "curve" / "lr-find.png").read_bytes().startswith(b"\x89PNG")
    assert f"steepest: {curve['steepest']:.2g}" in out
    assert f"valley: {curve['valley']:.2g}" in out


def test_the_curve_as_json_does_not_depend_on_the_epochs(attnconv, tmp_path):
    curves = [
        json.loads(attnconv(*SMALL, "--steps", "10", "--epochs", n, "--json", "--device", "cpu", "--out", tmp_path)[1])
        for n in ("1", "50")
    ]
    assert curves[0] == curves[1]


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--low", "1", "--high", "0.1"], "low and high must be positive and in this order, got 1.0 and 0.1"),
        (["--low", "0"], "low and high must be positive"),
        (["--steps", "9"], "steps must be at least 10, got 9"),
        (["--option", "widht=3"], "widht"),
        (["--lr", "-1"], "lr must be positive"),
    ],
)
def test_bad_input(attnconv, tmp_path, flags, sentence):
    assert_refused(attnconv(*SMALL, "--out", tmp_path / "curve", *flags), sentence)
    assert not (tmp_path / "curve").exists()


def test_a_folder_that_is_a_file(attnconv, tmp_path):
    (tmp_path / "curve").write_text("here already")
    assert_refused(attnconv(*SMALL, "--steps", "10", "--out", tmp_path / "curve"), "cannot make the folder ")
