"""Runs assembled from a configuration, and read back."""

import contextlib
import dataclasses
import shutil
import sys

import pytest
import torch
from PIL import Image

from attnconv.checks import InputError
from attnconv.data import Augmentation, ImageData, prepare_image
from attnconv.recipes import default_out, load_trained, run
from attnconv.recipes.trained import images_for
from attnconv.recipes.training import lr_find, require_batch_norm
from attnconv.train.config import RunConfig, read_yaml
from attnconv.train.evaluate import evaluate

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
    monkeypatch.setattr(sys.modules["attnconv.recipes.training"], "load_data", None)  # not the function
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


# Batches


def photos(folder, count):
    """``count`` images of two classes for training, four for validation."""
    for part, number in (("train", count), ("val", 4)):
        for i in range(number):
            path = folder / part / ("cat", "dog")[i % 2] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (20, 16), (i, 0, 255 - i)).save(path)
    return {"data": str(folder), "image_size": 16, "epochs": 1, "device": "cpu", "workers": 0}


@pytest.mark.parametrize(("count", "size", "steps"), [(4, 2, 2), (13, 2, 6), (40, 8, 5), (127, 16, 7)])
def test_the_default_batch_fits_a_small_set_and_says_so(tmp_path, capfd, count, size, steps):
    config = RunConfig(model="convnet3", **photos(tmp_path / "photos", count))
    run(config, tmp_path / "run")
    said = capfd.readouterr().err
    assert f"batches of {size}: the default, 128, is more than the {count} images" in said
    assert (tmp_path / "run" / "metrics.csv").read_text().splitlines()[1].startswith(f"1,{steps},")
    assert RunConfig.from_dict(read_yaml(tmp_path / "run" / "config.yaml"), source="") == config


def test_a_batch_that_was_chosen_is_not_changed(tmp_path):
    config = RunConfig(model="convnet3", batch_size=14, **photos(tmp_path / "photos", 13))
    with pytest.raises(InputError, match="batch_size must be at most 13, the training images of 'photos', got 14"):
        run(config, tmp_path / "run", progress=False)


@pytest.mark.parametrize(
    ("batch_size", "said"),
    [
        (13, "an epoch has 1 step of 13 images: a smaller batch_size gives more"),
        (6, "an epoch has 2 steps of 6 images, and 1 of 13 images are left out of it: a smaller batch_size gives more"),
        (4, None),
    ],
)
def test_an_epoch_of_one_or_two_steps_is_said(tmp_path, capfd, batch_size, said):
    run(RunConfig(model="convnet3", batch_size=batch_size, **photos(tmp_path / "photos", 13)), tmp_path / "run")
    error = capfd.readouterr().err
    assert said in error if said else "an epoch has" not in error


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 1}, "batch_size 1 leaves batch norm one image at a time: give batch_size 2 at least"),
        (
            {"batch_size": 8, "accumulate": 8},
            "batch_size 8 leaves batch norm one image at a time with accumulate 8: give accumulate 4 at most, or "
            "batch_size 16 at least",
        ),
        ({"batch_size": 7, "accumulate": 4}, "with accumulate 4: give accumulate 3 at most, or batch_size 8 at least"),
    ],
)
def test_batch_norm_wants_two_images_at_a_time(tmp_path, options, message):
    config = RunConfig(model="convnet3", **photos(tmp_path / "photos", 13), **options)
    with pytest.raises(InputError, match=message):
        run(config, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "world", "refused"),
    [
        ({"batch_size": 4}, 4, True),
        ({"batch_size": 8}, 4, False),
        ({"batch_size": 4, "sync_batchnorm": True}, 4, False),
        ({"batch_size": 2, "accumulate": 2}, 1, True),
    ],
)
def test_processes_share_a_batch(options, world, refused):
    config = RunConfig(**options)
    with pytest.raises(InputError, match="leaves batch norm one image") if refused else contextlib.nullcontext():
        require_batch_norm(torch.nn.BatchNorm2d(3), config, config.batch_size, world)
    require_batch_norm(torch.nn.GroupNorm(1, 3), config, config.batch_size, world)


# Rectangles


def test_a_rectangle_from_training_to_prediction(tmp_path):
    options = {**photos(tmp_path / "photos", 8), "image_size": (12, 20)}
    config = RunConfig(model="aa_convnet3", batch_size=4, **options)
    run(config, tmp_path / "run", progress=False)
    trained = load_trained(tmp_path / "run", device="cpu")
    assert (trained.config.image_size, trained.meta["image_size"]) == ((12, 20), [12, 20])
    assert images_for(trained).image_size == (12, 20)
    assert images_for(trained, data=str(tmp_path / "photos")).image_size == (12, 20)
    seen = prepare_image(torch.zeros(3, 30, 30, dtype=torch.uint8), trained.meta)
    assert trained.model(seen[None]).shape == (1, 2)


def test_a_split_off_share_is_the_same_for_whoever_reads_the_run(tmp_path):
    options = photos(tmp_path / "photos", 20) | {"data": str(tmp_path / "photos" / "train"), "val_split": 0.3}
    result = run(RunConfig(model="convnet3", batch_size=4, seed=3, **options), tmp_path / "run", progress=False)
    trained = load_trained(tmp_path / "run", device="cpu")
    val = images_for(trained)
    assert (val.num_train, val.num_val) == (14, 6)
    loader = val.val_loader(batch_size=6, device=torch.device("cpu"), workers=0)
    assert evaluate(trained.model, loader).top1 == pytest.approx(result["best_top1"])
    assert trained.meta["images"]["validation"] == val.val.fingerprint
    moved = tmp_path / "moved"
    shutil.copytree(tmp_path / "photos" / "train", moved)
    assert images_for(trained, data=str(moved)).val.fingerprint == val.val.fingerprint
    assert images_for(trained, data=str(tmp_path / "photos")).num_val == 4  # of its own
    for folder, data in ((moved, str(moved)), (tmp_path / "photos" / "train", None)):
        Image.new("RGB", (9, 9)).save(folder / "cat" / "0_more.png")
        with pytest.raises(
            InputError, match=f"'{folder.name}' has other images than .* trained on: val_split 0.3 would"
        ):
            images_for(trained, data=data)
    with pytest.raises(InputError, match="is neither a data set nor an existing folder"):
        images_for(trained, data=str(tmp_path / "nowhere"))
    other = run(RunConfig(model="convnet3", batch_size=4, seed=4, **options), tmp_path / "other", progress=False)
    assert load_trained(tmp_path / "other", device="cpu").meta["images"] != trained.meta["images"]
    assert other["seed"] == 4


def test_a_set_of_the_hub_is_not_loaded_because_a_run_names_it(finished, tmp_path):
    trained = load_trained(finished[0], device="cpu")
    trained = dataclasses.replace(trained, config=dataclasses.replace(trained.config, data="hf:nobody/nothing"))
    with pytest.raises(InputError, match="names 'hf:nobody/nothing', which is not loaded because a file says so; name"):
        images_for(trained)
