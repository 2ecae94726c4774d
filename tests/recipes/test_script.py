"""`attnconv.fit`: the trainer of a script, on its own network and its own images."""

import functools

import numpy as np
import own_networks
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, TensorDataset

import attnconv
from attnconv import checks, surgery
from attnconv.recipes import load_trained
from attnconv.train.checkpoint import load_checkpoint

QUICK = {"epochs": 2, "batch_size": 16, "lr": 0.05, "device": "cpu", "workers": 0, "progress": False}
LOADED = {name: value for name, value in QUICK.items() if name not in ("batch_size", "workers")}  # by a loader


class Photos(Dataset):
    """Noise of two brightnesses, of which the second is class "bright"."""

    classes = ("dark", "bright")

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        noise = np.random.default_rng(index).random((20, 24, 3)) * 120 + 100 * (index % 2)
        return Image.fromarray(noise.astype("uint8")), index % 2


def tensors(count=48, classes=3):
    numbers = torch.Generator().manual_seed(0)
    return TensorDataset(torch.randn(count, 3, 8, 10, generator=numbers), torch.arange(count) % classes)


def fitted(out, *, resume=False):
    torch.manual_seed(0)
    model = own_networks.small(2)
    attnconv.fit(model, Photos(48), Photos(10), out=out, image_size=(16, 20), resume=resume, **QUICK)
    return model


def test_a_module_is_trained_in_place_on_a_dataset(tmp_path):
    torch.manual_seed(0)
    before = own_networks.small(2)[4].weight
    model = fitted(tmp_path)
    assert not torch.equal(model[4].weight, before)
    trained = load_trained(tmp_path, model=own_networks.small, device="cpu")
    assert trained.meta["classes"] == ["dark", "bright"]
    assert trained.meta["image_size"] == [16, 20]
    assert trained.scores["top1"] == 100
    assert trained.model.provenance["command"] is None  # no command line makes it again


def test_grey_images_are_repeated_for_a_module_of_three_channels(tmp_path, capsys):
    grey = [(Image.new("L", (12, 10), 40 * label), label) for label in range(3)] * 6
    attnconv.fit(own_networks.small(3), grey, grey, out=tmp_path, **QUICK | {"progress": True})
    assert capsys.readouterr().err.count("the network takes 3 channels: the grey images of 'DATASET'") == 1
    assert load_trained(tmp_path, model=own_networks.small, device="cpu").meta["channels"] == 3


def test_it_goes_on_in_the_same_bits(tmp_path, interrupted_in_the_second_epoch):
    fitted(tmp_path / "whole")
    with interrupted_in_the_second_epoch(), pytest.raises(KeyboardInterrupt):
        fitted(tmp_path / "half")
    fitted(tmp_path / "half", resume=True)
    whole, half = (load_checkpoint(tmp_path / run / "last.pt")["model"] for run in ("whole", "half"))
    for name, tensor in whole.items():
        assert torch.equal(tensor, half[name]), name


def test_a_network_by_name_gets_its_attention(tmp_path):
    steps = [{"add": {"after": "1"}}]
    result = attnconv.fit(
        own_networks.small,
        tensors(),
        out=tmp_path,
        val_split=0.25,
        attention=steps,
        model_options={"width": 6},
        **QUICK,
    )
    assert result["model"] == "own_networks:small"
    model = load_trained(tmp_path, model=own_networks.small, device="cpu").model
    assert isinstance(model[1], surgery.Attended)
    assert model[1].attention.channels == 12


def test_loaders_of_ones_own(tmp_path):
    train, val = (DataLoader(tensors(), batch_size=12, shuffle=shuffle) for shuffle in (True, False))
    attnconv.fit(own_networks.small(3), train, val, out=tmp_path, **LOADED)
    trained = load_trained(tmp_path, model=own_networks.small, device="cpu")
    assert trained.meta["classes"] == ["0", "1", "2"]
    assert trained.meta["prepared"]


@pytest.mark.parametrize(
    "option",
    [
        {"batch_size": 16},
        {"workers": 0},
        {"image_size": 8},
        {"val_split": 0.2},
        {"skip_bad_images": True},
        {"mixup": 0.2},
        {"cutmix": 0.2},
        {"crop_scale": 0.5},
        {"trivial_augment": True},
        {"random_erasing": 0.2},
    ],
)
def test_an_option_that_a_loader_leaves_without_effect_is_refused(tmp_path, option):
    loader = DataLoader(tensors(), batch_size=12)
    with pytest.raises(checks.InputError, match=f"{next(iter(option))} has no effect here: a loader makes its batches"):
        attnconv.fit(own_networks.small(3), loader, loader, out=tmp_path / "run", **LOADED | option)
    assert not (tmp_path / "run").exists()


class Unnamed(attnconv.SimpleSelfAttention):
    """A layer that nobody has registered."""


def test_a_layer_without_a_name_is_refused_before_training(tmp_path):
    model = attnconv.models.create_model("convnet3", num_classes=3, image_size=8)
    surgery.add_self_attention(model, after="layer1", kind=Unnamed, image_size=8, inplace=True)
    message = "unknown attention layer '.*test_script.Unnamed'; known: .* register your own with register_attention"
    with pytest.raises(checks.InputError, match=message):
        attnconv.fit(model, tensors(), tensors(12), out=tmp_path / "run", **QUICK)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("val", "message"),
    [
        (None, "a loader for training needs one for validation: val is None"),
        ([], "the loader for validation gives no batch"),
    ],
)
def test_a_loader_needs_one_for_validation(tmp_path, val, message):
    with pytest.raises(checks.InputError, match=message):
        attnconv.fit(own_networks.small(3), DataLoader(tensors(), 12), val, out=tmp_path / "run", **LOADED)


@pytest.mark.parametrize(
    ("count", "classes", "message"),
    [
        (
            25,
            3,
            "batch 2 has 1 image, and batch norm needs 2 at least: a DataLoader with drop_last=True leaves the last",
        ),
        (24, 4, "batch 0 has the label 3: it must be 0 to 2"),
    ],
)
def test_a_loader_is_checked_as_it_is_read(tmp_path, count, classes, message):
    train, val = DataLoader(tensors(count, classes), 12), DataLoader(tensors(13), 12)  # one by itself may validate
    with pytest.raises(checks.InputError, match=message):
        attnconv.fit(own_networks.small(3), train, val, out=tmp_path, **LOADED)


def test_one_image_is_a_batch_without_batch_norm(tmp_path):
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(240, 3))
    loader = DataLoader(tensors(13), 12)
    assert attnconv.fit(model, loader, loader, out=tmp_path, **LOADED)["epochs"] == 2


def test_a_network_of_ours_needs_no_second_telling(tmp_path):
    model = attnconv.models.create_model("convnet3", num_classes=3, image_size=8)
    attnconv.fit(model, tensors(), tensors(12), out=tmp_path, **QUICK)
    assert type(load_trained(tmp_path, device="cpu").model) is type(model)


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (own_networks.small, {"data": "digits"}, "unknown option of fit: 'data'"),
        (own_networks.small, {"epoch": 1}, "unknown option of fit: 'epoch'; nearest: 'epochs'"),
        (own_networks.small(3), {"attention": []}, "attention is for a network by name"),
        (own_networks.small, {"trivial_augment": True}, "trivial_augment has no effect here: float tensors are taken"),
        (own_networks.small(2), {}, "gives 2 numbers, and data set 'DATASET' has 3 classes"),
        (own_networks.too_many, {}, "gives 4 numbers, and data set 'DATASET' has 3 classes"),
        (own_networks.pair, {}, r"must give one tensor \(B, 3\) of logits, it gives a tuple"),
        (torch.nn.Conv2d(1, 3, 1), {}, "does not take images of 3 x 8 x 10: RuntimeError"),
        (7, {}, "model must be a module, a name or a function, got int"),
        (own_networks.small, {"freeze_epochs": 1}, "freeze_epochs 1 needs init_from"),
        (
            own_networks.small,
            {"init_from": "nowhere.pt"},
            "'nowhere.pt' is neither a file nor one of torchvision, timm",
        ),
        (own_networks.small, {"attention": [{"add": {"after": "7"}}]}, r"step 1 \(add\): after='7' is not a module"),
        (own_networks.small, {"attention": [{"ad": {"after": "1"}}]}, "unknown step of attention 'ad'; nearest: 'add'"),
        (own_networks.small, {"attention": [{"augment": {"were": "1"}}]}, "'were'; nearest: 'where'"),
        (own_networks.small, {"attention": {"add": {}}}, "attention must be list"),
        (own_networks.small, {"attention": [{"add": {}}]}, "step 'add' of attention needs 'after'"),
    ],
)
def test_what_is_refused(tmp_path, model, options, message):
    with pytest.raises(checks.InputError, match=message):
        attnconv.fit(model, tensors(), tensors(12), out=tmp_path / "run", **QUICK | options)
    assert not (tmp_path / "run").exists()


def test_a_partial_is_a_factory_too(tmp_path):
    model = functools.partial(own_networks.small, width=4)
    attnconv.fit(model, tensors(), tensors(12), out=tmp_path, **QUICK)
    assert load_trained(tmp_path, model=model, device="cpu").model[0][0].out_channels == 4


def test_weights_to_start_from_are_told_and_not_opened_again(tmp_path, interrupted_in_the_second_epoch, capsys):
    file = tmp_path / "weights.pt"
    weights = own_networks.small(5).state_dict()
    torch.save({"model": {f"module.{name}": tensor for name, tensor in weights.items()}, "model_ema": weights}, file)
    options = QUICK | {"init_from": str(file), "freeze_epochs": 1, "progress": True}
    with interrupted_in_the_second_epoch(), pytest.raises(KeyboardInterrupt):
        attnconv.fit(own_networks.small, tensors(), tensors(12), out=tmp_path / "run", **options)
    told = "init_from: 14 tensors taken over (model, without 'module.'), 2 new: 4.weight, 4.bias"
    assert told in capsys.readouterr().err
    file.unlink()
    attnconv.fit(own_networks.small, tensors(), tensors(12), out=tmp_path / "run", resume=True, **options)


def test_weights_that_leave_nothing_to_train_are_refused(tmp_path):
    torch.save(own_networks.small(3).state_dict(), tmp_path / "weights.pt")
    options = QUICK | {"init_from": str(tmp_path / "weights.pt"), "freeze_epochs": 1}
    with pytest.raises(
        checks.InputError, match="freeze_epochs 1 leaves nothing to train: init_from brought every weight"
    ):
        attnconv.fit(own_networks.small, tensors(), tensors(12), out=tmp_path / "run", **options)
