"""Runs assembled from a configuration, and read back."""

import sys

import pytest
import torch

from attnconv.checks import InputError
from attnconv.data import Augmentation, ImageData
from attnconv.recipes import default_out, load_trained, run
from attnconv.recipes.run import lr_find
from attnconv.train.config import RunConfig

TINY = {"data": "digits", "epochs": 1, "train_subset": 64, "batch_size": 32, "device": "cpu"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "one"
    config = RunConfig(model="aa_convnet3", model_options={"augment": [2]}, **TINY)
    return out, config, run(config, out, progress=False)


def test_a_run_says_what_it_was(finished):
    _, _, result = finished
    assert (result["model"], result["data"], result["epochs"]) == ("aa_convnet3", "digits", 1)
    assert 0 <= result["top1"] <= result["top5"] <= 100


def test_the_network_comes_back_with_its_weights_and_classes(finished):
    out, config, _ = finished
    trained = load_trained(out, device="cpu")
    assert trained.config == config
    assert trained.meta["classes"] == [str(i) for i in range(10)]
    assert not trained.model.training
    stored = torch.load(out / "best.pt", weights_only=True)["model"]
    torch.testing.assert_close(dict(trained.model.state_dict()), dict(stored), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["best", "last"])
def test_a_checkpoint_file_may_be_named_instead(finished, name):
    out, _, _ = finished
    assert load_trained(out / f"{name}.pt", device="cpu").checkpoint == out / f"{name}.pt"


def test_the_same_seed_gives_the_same_run(finished, tmp_path):
    out, config, _ = finished
    run(config, tmp_path / "again", progress=False)
    one, other = (load_trained(folder, device="cpu").model.state_dict() for folder in (out, tmp_path / "again"))
    torch.testing.assert_close(dict(one), dict(other), rtol=0, atol=0)


def test_nothing_is_loaded_or_written_where_a_run_is(finished):
    out, config, _ = finished
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    with pytest.raises(ValueError, match=r"already holds a run: give --resume"):
        run(config, out, progress=False)
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "convnet4"}, "unknown model 'convnet4'; nearest: 'convnet3'"),
        ({"data": "digit"}, "'digit' is neither a data set nor an existing folder; nearest: 'digits'"),
        ({"model_options": {"augmnt": [1]}}, "unknown option of aa_convnet3: 'augmnt'; nearest: 'augment'"),
        ({"model_options": {"init_from": "w.pt"}}, "unknown option of aa_convnet3: 'init_from'"),
        ({"train_subset": 5000}, "train_subset must be at most 1437"),
        ({"train_subset": None, "batch_size": 2000}, "batch_size must be at most 1437"),
        ({"mixup": -1.0}, r"mixup must be at least 0, got -1\.0"),
        ({"image_size": 4}, r"at least 8 x 8 pixels, got \(4, 4\)"),
        (
            {"data": "far-context"},
            "'far-context' has a label for each pixel, and model 'aa_convnet3' an answer for each image; models of "
            "pixels: aa_unet, unet",
        ),
        ({"model": "unet"}, "'digits' has a label for each image, and model 'unet' an answer for each pixel"),
        ({"data": "far-context", "model": "unet", "mixup": 0.2}, "mixup would part the images from their labels"),
    ],
)
def test_bad_settings_leave_nothing_behind(tmp_path, change, message):
    settings = {"model": "aa_convnet3", **TINY, **change}
    with pytest.raises(ValueError, match=message):
        run(RunConfig(**settings), tmp_path / "out", progress=False)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("start", [lambda config, out: run(config, out), lambda config, _: lr_find(config)])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_options": {"num_heads": 0}}, "num_heads must be at least 1, got 0"),
        ({"random_erasing": 2.0}, "erasing"),
        ({"data": "digit"}, "neither a data set nor an existing folder"),
    ],
)
def test_a_configuration_is_checked_before_its_data_are_loaded(monkeypatch, tmp_path, start, change, message):
    monkeypatch.setattr(sys.modules["attnconv.recipes.run"], "load_data", None)  # not the function
    with pytest.raises(InputError, match=message):
        start(RunConfig(**{"model": "aa_convnet3", **TINY, **change}), tmp_path / "out")


AUGMENTED = {"trivial_augment": True, "random_erasing": 0.5, "mixup": 0.4, "cutmix": 1.0, "crop_scale": 0.5}


def test_augmentation_reaches_the_loaders(monkeypatch, tmp_path):
    seen = []
    loaders = ImageData.loaders
    monkeypatch.setattr(ImageData, "loaders", lambda self, **options: seen.append(options) or loaders(self, **options))
    run(RunConfig(model="convnet3", **TINY, **AUGMENTED), tmp_path / "out", progress=False)
    assert seen[0]["augmentation"] == Augmentation(crop_scale=0.5, trivial=True, erasing=0.5, mixup=0.4, cutmix=1.0)


def test_an_augmented_run_repeats_itself_and_differs_from_a_plain_one(tmp_path):
    settings = {"plain": {}, "one": AUGMENTED, "again": AUGMENTED}
    states = {}
    for name, options in settings.items():
        run(RunConfig(model="convnet3", **TINY, **options), tmp_path / name, progress=False)
        states[name] = load_trained(tmp_path / name, device="cpu").model.state_dict()
    torch.testing.assert_close(dict(states["one"]), dict(states["again"]), rtol=0, atol=0)
    assert not all(torch.equal(a, b) for a, b in zip(states["one"].values(), states["plain"].values(), strict=True))


def test_labels_of_pixels(tmp_path):
    config = RunConfig(model="aa_unet", **{**TINY, "data": "far-context"})
    result = run(config, tmp_path / "run", progress=False)
    assert 0 < result["miou"] <= 100
    trained = load_trained(tmp_path / "run", device="cpu")
    assert trained.meta["dense"]
    assert trained.model(torch.zeros(1, 1, 32, 32)).shape == (1, 3, 32, 32)


def test_checkpoints_of_another_network_are_refused(finished, tmp_path):
    out, _, _ = finished
    state = torch.load(out / "best.pt", weights_only=True)
    state["config"]["model"] = "convnet3"
    state["config"]["model_options"] = {}
    torch.save(state, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"is a checkpoint of 'convnet3': missing key 'layer2\.0\.weight'"):
        load_trained(tmp_path / "other.pt", device="cpu")


def test_a_missing_run_is_named(tmp_path):
    with pytest.raises(ValueError, match="neither a run folder nor a checkpoint"):
        load_trained(tmp_path / "nothing")


def test_a_run_without_its_first_checkpoint_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"holds no best\.pt"):
        load_trained(tmp_path)


def test_images_that_the_checkpoint_does_not_describe(finished, tmp_path):
    out, _, _ = finished
    state = torch.load(out / "best.pt", weights_only=True)
    del state["meta"]["classes"]
    torch.save(state, tmp_path / "bare.pt")
    with pytest.raises(ValueError, match="does not say what its images are: meta lacks 'classes'"):
        load_trained(tmp_path / "bare.pt")


def test_the_default_folder_names_model_data_and_seed():
    assert str(default_out(RunConfig(model="convnet3", data="/pictures/dogs/", seed=3))) == "runs/convnet3-dogs-seed3"


def test_attention_is_computed_again_where_there_is_some(tmp_path):
    results = [
        run(RunConfig(model="aa_convnet3", recompute_attention=recompute, **TINY), tmp_path / str(recompute))["loss"]
        for recompute in (False, True)
    ]
    assert results[0] == results[1]
    with pytest.raises(InputError, match="recompute_attention needs attention layers, and model 'convnet3' has none"):
        run(RunConfig(model="convnet3", recompute_attention=True, **TINY), tmp_path / "plain")
    assert not (tmp_path / "plain").exists()


def test_the_averaged_weights_are_what_is_used(tmp_path):
    config = RunConfig(model="convnet3", ema=0.5, **TINY)
    run(config, tmp_path, progress=False)
    stored = torch.load(tmp_path / "best.pt", weights_only=True)
    used = load_trained(tmp_path, device="cpu").model.state_dict()
    name = next(iter(stored["average"]))
    assert torch.equal(used[name], stored["average"][name])
    assert not torch.equal(used[name], stored["model"][name])
