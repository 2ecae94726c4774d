"""attnconv shards: from a folder to a run on shards."""

import json

from cli.test_bad_input import assert_refused


def test_shards_are_made_trained_on_and_scored(attnconv, folder, tmp_path):
    code, out, err = attnconv("shards", folder, "--out", tmp_path / "shards", "--images-per-shard", "3")
    assert code == 0, err
    assert out.startswith(f"{tmp_path}/shards: 8 training and 8 validation images of 2 classes in 6 shards, ")
    for name, data in (("one", folder), ("other", tmp_path / "shards")):
        code, _, err = attnconv(
            "train", "--model", "convnet3", "--data", data, "--image-size", "16", "--epochs", "1", "--batch-size", "4",
            "--workers", "0", "--out", tmp_path / name,
        )  # fmt: skip
        assert code == 0, err
    scores = [
        json.loads(attnconv("evaluate", tmp_path / run, "--data", data, "--workers", "0", "--json")[1])
        for run, data in (("one", tmp_path / "shards"), ("other", folder))
    ]
    assert [score["count"] for score in scores] == [8, 8]
    assert scores[0]["loss"] == scores[1]["loss"]
    _, out, _ = attnconv("predict", tmp_path / "other", folder / "val" / "red" / "0.png", "--json")
    assert {entry["class"] for entry in json.loads(out)["predictions"][0]["top"]} == {"blue", "red"}


def test_the_index_is_made_anew(attnconv, folder, tmp_path):
    attnconv("shards", folder, "--out", tmp_path / "shards")
    (tmp_path / "shards" / "index.npy").write_bytes(b"")
    assert attnconv("train", "--data", tmp_path / "shards", "--out", tmp_path / "run")[0] == 2
    code, out, _ = attnconv("shards", tmp_path / "shards", "--json")
    assert code == 0
    described = json.loads(out)
    assert described.pop("bytes") > 0
    assert described == {
        "folder": str(tmp_path / "shards"), "classes": 2, "train_images": 8, "val_images": 8, "shards": 2,
    }  # fmt: skip
    assert json.loads((tmp_path / "shards" / "index.json").read_text())["classes"] == ["blue", "red"]


def test_what_is_refused(attnconv, folder, tmp_path):
    shards = tmp_path / "shards"
    assert_refused(attnconv("shards", folder), r"shards of '.*/images' need --out, a folder to make$")
    assert_refused(attnconv("shards", "digits"), "shards of 'digits' need --out")
    assert_refused(attnconv("shards", "digits", "--out", shards), "shards are made of image files")
    assert_refused(attnconv("shards", "nowhere", "--out", shards), "'nowhere' is neither a data set nor")
    wrong = attnconv("shards", folder, "--out", shards, "--images-per-shard", "0")
    assert_refused(wrong, "images_per_shard must be at least 1, got 0")
    assert list(tmp_path.iterdir()) == [folder]
    assert attnconv("shards", folder, "--out", shards)[0] == 0
    assert_refused(attnconv("shards", folder, "--out", shards), "is there already, and shards overwrite nothing")
    assert_refused(attnconv("shards", shards, "--out", tmp_path / "more"), "holds shards already; leave --out out")
