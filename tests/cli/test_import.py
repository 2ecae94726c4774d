"""attnconv import: checkpoints of 2019 as their programs saved them, into a folder that the other commands take."""

import json
import sys
import types

import numpy as np
import pytest
import torch
from cli.conftest import picture
from cli.test_bad_input import assert_refused
from golden_files import error, golden, state_dict
from torch import nn

from attnconv import checks
from attnconv.cli.import_ import class_names
from attnconv.models import from_pretrained
from attnconv.recipes import load_trained
from attnconv.recipes.trained import images_for

pytest.importorskip("safetensors")

WIDE, SSA = "seed_a_wide_resnet10_1", "seed_b_ssa_xresnet18"
CIFAR10 = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
CIFAR100 = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def as_module(state, kind):
    """A tree of modules of ``kind`` whose state dict has these names."""
    root = kind()
    for name, tensor in state.items():
        *path, last = name.split(".")
        module = root
        for part in path:
            if part not in module._modules:
                module.add_module(part, kind())
            module = module._modules[part]
        if tensor.is_floating_point() and not last.startswith("running"):
            module.register_parameter(last, nn.Parameter(tensor))
        else:
            module.register_buffer(last, tensor)
    return root


def save_whole(state, path, **settings):
    """{"model": the module itself} of a class that is gone when the file is read."""
    program = types.ModuleType("attention_augmented_wide_resnet")
    program.Wide_ResNet = type("Wide_ResNet", (nn.Module,), {"__module__": program.__name__})
    sys.modules[program.__name__] = program
    try:
        torch.save({"model": as_module(state, program.Wide_ResNet), "acc": 59.8, "epoch": 35}, path, **settings)
    finally:
        del sys.modules[program.__name__]


def averaged(state, path):
    torch.save({"state_dict": {name: 0.9 * t for name, t in state.items()}, "model_ema": state}, path)


SAVED = {
    "a state dict": torch.save,
    "main.py": lambda state, path: torch.save({"model": state, "acc": torch.tensor(59.8), "epoch": 35}, path),
    "Learner.save": lambda state, path: torch.save({"model": state, "opt": {"lr": np.float64(3e-3)}}, path),
    "a whole module": save_whole,
    "one of torch 1.0's format": lambda state, path: save_whole(state, path, _use_new_zipfile_serialization=False),
    "one on several devices": lambda state, path: torch.save({f"module.{n}": t for n, t in state.items()}, path),
}


@pytest.mark.parametrize(
    ("file", "name", "how"),
    [
        (SSA, "ssa_xresnet18", "Learner.save"),
        (WIDE, "seed_aa_wide_resnet10_1", "a whole module"),
        (WIDE, "seed_aa_wide_resnet10_1", "one of torch 1.0's format"),
        *(pytest.param(SSA, "ssa_xresnet18", how, marks=pytest.mark.slow) for how in SAVED if how != "Learner.save"),
    ],
)
def test_a_checkpoint_becomes_a_folder_with_the_numbers_of_its_program(attnconv, tmp_path, file, name, how):
    found = golden(file)
    SAVED[how](state_dict(found), tmp_path / "checkpoint")
    code, out, err = attnconv("import", tmp_path / "checkpoint", "--as", name, "--out", tmp_path / "saved")
    assert code == 0, err
    assert out.startswith(f"{tmp_path / 'saved'}: config.json, model.safetensors, README.md\n{name}, ")
    assert "10 classes, called 0, 1, ...; --data or --classes names them\n" in out
    assert error(from_pretrained(tmp_path / "saved"), found) < 1e-5


def test_the_average_is_taken_if_it_is_asked_for(attnconv, tmp_path):
    found = golden(SSA)
    averaged(state_dict(found), tmp_path / "checkpoint")
    words = ["import", tmp_path / "checkpoint", "--as", "ssa_xresnet18", "--out", tmp_path / "saved"]
    assert "model_ema" in attnconv(*words, "--average")[1]
    assert error(from_pretrained(tmp_path / "saved"), found) < 1e-5
    assert attnconv(*words)[0] == 0
    assert error(from_pretrained(tmp_path / "saved"), found) > 0.01


def classes_of(state, count):
    """``state`` with a head of so many classes: its first rows, and as many copies of them as need be."""
    return {
        name: tensor.repeat(-(-count // 10), *[1] * (tensor.dim() - 1))[:count]
        if name.startswith(("linear.", "10."))
        else tensor
        for name, tensor in state.items()
    }


@pytest.mark.parametrize(
    ("file", "name", "classes", "size", "ratio", "normalised"),
    [
        pytest.param(WIDE, "seed_aa_wide_resnet10_1", 10, 32, 1.0, CIFAR10, marks=pytest.mark.slow),
        (WIDE, "seed_aa_wide_resnet10_1", 100, 32, 1.0, CIFAR100),
        pytest.param(SSA, "ssa_xresnet18", 10, 128, 160 / 128, IMAGENET, marks=pytest.mark.slow),
    ],
)
def test_images_are_those_of_the_program_unless_they_are_given(
    attnconv, tmp_path, file, name, classes, size, ratio, normalised
):
    torch.save(classes_of(state_dict(golden(file)), classes), tmp_path / "checkpoint")
    words = ["import", tmp_path / "checkpoint", "--as", name, "--out", tmp_path / "saved"]
    assert attnconv(*words)[0] == 0
    meta = from_pretrained(tmp_path / "saved").meta
    assert (meta["image_size"], meta["resize_ratio"]) == ([size, size], ratio)
    assert (tuple(meta["mean"]), tuple(meta["std"])) == normalised
    assert meta["classes"] == [str(i) for i in range(classes)]
    given = ["--mean", "0.1", "0.2", "0.3", "--std", "0.4", "0.5", "0.6", "--image-size", "24"]
    assert attnconv(*words, *given)[0] == 0
    meta = from_pretrained(tmp_path / "saved").meta
    assert (meta["image_size"], meta["mean"], meta["std"]) == ([24, 24], [0.1, 0.2, 0.3], [0.4, 0.5, 0.6])


def test_a_file_of_classes_with_a_byte_order_mark(tmp_path):
    (tmp_path / "classes.txt").write_text("cat\ndog\n", encoding="utf-8-sig")
    assert class_names(tmp_path / "classes.txt") == ["cat", "dog"]


@pytest.fixture
def dogs(attnconv, tmp_path, folder):
    """An ssa_xresnet18 of two classes, imported for a folder of images."""
    torch.save({"model": classes_of(state_dict(golden(SSA)), 2), "opt": {}}, tmp_path / "dogs.pth")
    words = ["--as", "ssa_xresnet18", "--out", tmp_path / "dogs", "--data", folder, "--image-size", "64"]
    code, _, err = attnconv("import", tmp_path / "dogs.pth", *words)
    assert code == 0, err
    return tmp_path / "dogs"


def test_evaluate_predict_explain_export_and_hub_take_it(attnconv, dogs, folder, tmp_path):
    code, out, err = attnconv("evaluate", dogs, "--data", folder, "--workers", "0", "--device", "cpu", "--json")
    assert code == 0, err
    assert 0 <= json.loads(out)["top1"] <= 100
    image = picture(tmp_path / "x.png", size=(80, 70))
    code, out, err = attnconv("predict", dogs, image, "--device", "cpu", "--json")
    assert code == 0, err
    predicted = json.loads(out)["predictions"][0]["top"]
    assert {top["class"] for top in predicted} == {"blue", "red"}
    code, _, err = attnconv("explain", dogs, image, "--point", "30,30", "--out", tmp_path / "x.figure.png")
    assert code == 0, err
    assert (tmp_path / "x.figure.png").stat().st_size > 1000
    code, _, err = attnconv("export", dogs, "--format", "safetensors", "--out", tmp_path / "exported")
    assert code == 0, err
    for source in (dogs, tmp_path / "exported"):
        code, _, err = attnconv("hub", "save", source, tmp_path / "shared")
        assert code == 0, err
        card = (tmp_path / "shared" / "README.md").read_text()
        assert "The weights are a checkpoint of another program" in card
        assert "attnconv train" not in card
        code, out, err = attnconv("predict", tmp_path / "shared", image, "--device", "cpu", "--json")
        assert code == 0, err
        again = json.loads(out)["predictions"][0]["top"]
        assert [top["class"] for top in again] == [top["class"] for top in predicted]
        assert [top["probability"] for top in again] == pytest.approx([top["probability"] for top in predicted])


def test_what_it_predicts_is_what_the_network_says_of_the_prepared_image(attnconv, tmp_path):
    from PIL import Image

    found = golden(WIDE)
    torch.save(state_dict(found), tmp_path / "checkpoint")
    words = ["--as", "seed_aa_wide_resnet10_1", "--out", tmp_path / "saved"]
    attnconv("import", tmp_path / "checkpoint", *words)
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "x.png")
    _, out, _ = attnconv("predict", tmp_path / "saved", tmp_path / "x.png", "--device", "cpu", "--json", "--top", "10")
    mean, std = (np.array(values) for values in CIFAR10)
    normal = torch.from_numpy(((pixels / 255 - mean) / std).transpose(2, 0, 1)).float()
    with torch.no_grad():
        expected = from_pretrained(tmp_path / "saved")(normal[None])[0].softmax(0)
    for top in json.loads(out)["predictions"][0]["top"]:
        assert top["probability"] == pytest.approx(expected[int(top["class"])].item(), rel=1e-4)


def test_validation_images_are_cut_as_predicted_ones_are(dogs, folder):
    """As in 2019: shorter side 64 + 32."""
    trained = load_trained(dogs, device="cpu")
    assert trained.meta["resize_ratio"] == 1.5
    assert images_for(trained, data=str(folder)).val.resize_ratio == 1.5


def test_nothing_of_it_names_a_folder_here(dogs, tmp_path):
    assert str(tmp_path) not in (dogs / "config.json").read_text()
    assert json.loads((dogs / "config.json").read_text())["provenance"]["imported"]["file"] == "dogs.pth"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("import") / "ckpt.t7"
    torch.save({"model": state_dict(golden(WIDE))}, path)
    return path


def lines(*names):
    return "".join(f"{name}\n" for name in names)


REFUSED = {
    "another depth": (
        ["--as", "seed_aa_wide_resnet28_1"],
        "ckpt.t7 does not hold the weights of .*28_1: missing key .*; it looks like seed_aa_wide_resnet10_1",
    ),
    "no network of that name": (
        ["--as", "seed_aa_wide_resnet"],
        "unknown model 'seed_aa_wide_resnet'; nearest: 'seed_",
    ),
    "a function": (["--as", "nets:make"], "--as must be one of our networks, such as ssa_xresnet50, got 'nets:make'"),
    "no such option": (["--option", "heads=4"], "unknown option of seed_aa_wide_resnet10_1: 'heads'"),
    "other data": (["--data", "FOLDER"], "'images' has 2 classes, the network in .*ckpt.t7 has 10"),
    "grey images": (["--data", "digits"], "'digits' has 1 image channels, the network in .*ckpt.t7 3"),
    "both": (["--data", "digits", "--classes", "FILE"], "--data names the classes already; leave --classes out"),
    "too few names": (["--classes", "FILE"], "--classes names 2 classes, the network in .*ckpt.t7 has 10"),
    "one mean": (["--mean", "0.5"], "meta's 'mean' must list one number per channel, 3, got"),
    "no width": (["--std", "0.5", "0", "0.5"], "meta's 'std' must be above 0"),
    "larger images": (["--image-size", "40"], "images of 40 x 40 are larger than the position tables"),
    "no images": (["--image-size", "0"], "image_size must be at least 1, got 0"),
    "no averaged weights": (["--average"], "holds no averaged weights"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_gets_one_line_and_leaves_nothing(attnconv, checkpoint, folder, tmp_path, case):
    words, message = REFUSED[case]
    (tmp_path / "names.txt").write_text(lines("cat", "dog"))
    words = [{"FILE": tmp_path / "names.txt", "FOLDER": folder}.get(word, word) for word in words]
    name = [] if "--as" in words else ["--as", "seed_aa_wide_resnet10_1"]
    assert_refused(attnconv("import", checkpoint, *name, "--out", tmp_path / "out", *words), message)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"cat\n\ndog\n", "--classes: line 2 of .*names.txt is empty"),
        (b"cat\ndog\ncat\n", "--classes: lines 1 and 3 of .*names.txt are 'cat' both"),
        (b"\xff\xfe", "--classes: cannot read .*names.txt"),
        (None, "--classes: cannot read .*names.txt: .*No such file"),
    ],
)
def test_names_of_classes_that_cannot_be_read(attnconv, checkpoint, tmp_path, text, message):
    if text is not None:
        (tmp_path / "names.txt").write_bytes(text)
    words = ["--as", "seed_aa_wide_resnet10_1", "--out", tmp_path / "out", "--classes", tmp_path / "names.txt"]
    assert_refused(attnconv("import", checkpoint, *words), message)


def test_classes_by_their_names(attnconv, checkpoint, tmp_path):
    names = [f"class {i}" for i in range(10)]
    (tmp_path / "names.txt").write_text(lines(*names))
    words = ["--as", "seed_aa_wide_resnet10_1", "--out", tmp_path / "out", "--classes", tmp_path / "names.txt"]
    code, out, err = attnconv("import", checkpoint, *words)
    assert code == 0, err
    assert out.endswith("\n10 classes\n")
    assert from_pretrained(tmp_path / "out").meta["classes"] == names


def test_a_network_of_grey_images_says_how_they_are_normalised(attnconv, tmp_path):
    state = state_dict(golden("seed_b_xresnet18"))
    state["0.0.weight"] = state["0.0.weight"][:, :1]
    torch.save(state, tmp_path / "grey.pth")
    words = ["import", tmp_path / "grey.pth", "--as", "xresnet18", "--out", tmp_path / "out"]
    assert_refused(attnconv(*words), "takes images of 1 channels: give --mean and --std, one number a channel")
    assert attnconv(*words, "--mean", "0.5", "--std", "0.25")[0] == 0
    assert from_pretrained(tmp_path / "out").meta["channels"] == 1
    assert attnconv(*words, "--data", "digits")[0] == 0
    meta = from_pretrained(tmp_path / "out").meta
    assert (meta["name"], meta["image_size"], len(meta["mean"])) == ("digits", [8, 8], 1)


def test_a_run_is_not_written_into(attnconv, checkpoint, finished):
    words = ["--as", "seed_aa_wide_resnet10_1", "--out", finished]
    assert_refused(attnconv("import", checkpoint, *words), "is the folder of a run; give --out another one")


@pytest.mark.timeout(120)
def test_many_classes_and_one_that_stands_there_twice(tmp_path):
    file = tmp_path / "classes.txt"
    file.write_text("\n".join(map(str, range(200_000))) + "\n7\n")
    with pytest.raises(checks.InputError, match=r"lines 8 and 200001 of \S+ are '7' both"):
        class_names(file)
