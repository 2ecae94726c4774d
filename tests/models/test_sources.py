"""Networks that are not ours: timm's, torchvision's, registered ones, and those of a factory."""

import json
import subprocess
import sys
from importlib import metadata

import own_networks
import pytest
import torch

import attnconv
from attnconv import checks, extensions, models, networks, surgery
from attnconv.cli.models import models as list_networks
from attnconv.models import create_model
from attnconv.models.registry import build_model

ATTENTION = [{"add": {"after": "1", "kind": "simple"}}]


def make(name, **settings):
    return create_model(name, **{"num_classes": 4, "image_size": 32, **settings})


def test_a_network_of_each_origin_is_the_librarys_own():
    timm, torchvision = pytest.importorskip("timm"), pytest.importorskip("torchvision")
    for name, own in (
        ("timm:resnet18", timm.create_model("resnet18", num_classes=4)),
        ("torchvision:resnet18", torchvision.models.resnet18(num_classes=4)),
    ):
        found = make(name)
        assert type(found) is type(own)
        assert {k: v.shape for k, v in found.state_dict().items()} == {k: v.shape for k, v in own.state_dict().items()}
    assert make("own_networks:small", in_channels=1)[0][0].weight.shape == (8, 1, 3, 3)
    assert make(own_networks.small, width=5)[0][0].weight.shape == (5, 3, 3, 3)
    assert make("own_small", width=6)[0][0].weight.shape == (6, 3, 3, 3)


def test_timm_gets_channels_and_a_size_where_it_is_fixed():
    pytest.importorskip("timm")
    assert make("timm:resnet18", in_channels=1).conv1.weight.shape[1] == 1
    assert make("timm:vit_tiny_patch16_224", image_size=64).patch_embed.img_size == (64, 64)


def test_torchvisions_two_with_auxiliary_classifiers_give_one_tensor():
    pytest.importorskip("torchvision")
    with torch.device("meta"):
        model = make("torchvision:googlenet", image_size=64)
    assert model.train()(torch.empty(2, 3, 64, 64, device="meta")).shape == (2, 4)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("timm:resnet1", {}, "unknown network of timm: 'resnet1'; nearest: 'resnet18'"),
        ("torchvision:resnet5", {}, "unknown network of torchvision: 'resnet5'; nearest: 'resnet50'"),
        ("torchvision:fasterrcnn_resnet50_fpn", {}, "unknown network of torchvision"),
        ("timm:hf-hub:somebody/net", {}, "unknown network of timm: 'hf-hub:somebody/net'"),
        ("timm:resnet18", {"pretrained": True}, "pretrained is not an option of timm:resnet18: attnconv sets it"),
        ("timm:resnet18", {"checkpoint_path": "x.pt"}, "checkpoint_path is not an option of timm:resnet18"),
        ("timm:resnet18", {"nonsense": 1}, "timm:resnet18 cannot be made: TypeError: .*nonsense"),
        ("torchvision:resnet18", {"weights": "DEFAULT"}, "weights is not an option of torchvision:resnet18"),
        ("torchvision:resnet18", {"in_channels": 1}, "takes images of 3 channels only, got in_channels=1"),
        ("no_such_package:make", {}, "model 'no_such_package:make': there is no module 'no_such_package'"),
        ("own_networks.deep:make", {}, "there is no module 'own_networks.deep'"),
        ("own_networks:smal", {}, "own_networks has no 'smal'; nearest: 'small'"),
        ("own_networks:number", {}, r"number is not callable \(int\)"),
        ("own_networks:small.x", {}, "own_networks has no 'small.x'$"),
        ("own_networks:no_module", {}, "own_networks:no_module makes a int, not an nn.Module"),
        ("own_networks:broken", {}, "own_networks:broken cannot be made: RuntimeError: weights of the moon$"),
        ("own_networks:small", {"widht": 4}, "unknown option of own_networks:small: 'widht'; nearest: 'width'"),
        ("own_networks:three_channels", {"in_channels": 1}, "takes images of 3 channels only"),
        ("own_smal", {}, "unknown model 'own_smal'; nearest: 'own_small'"),
        (dict, {}, "makes a dict, not an nn.Module|has no signature"),
    ],
)
def test_what_is_refused(name, settings, message):
    pytest.importorskip("timm"), pytest.importorskip("torchvision")
    with pytest.raises(checks.InputError, match=message):
        make(name, **settings)


def test_a_builder_is_registered_under_one_name(monkeypatch):
    monkeypatch.setattr(networks, "REGISTERED", dict(networks.REGISTERED))
    attnconv.register_model("own_small", own_networks.small)  # again, as of a module loaded twice
    attnconv.register_model("own_lambda", lambda num_classes: None)
    for name, build, message in (
        ("own_small", own_networks.three_channels, "there is a network 'own_small' already"),
        ("aa_wide_resnet16_4", own_networks.small, "there is a network 'aa_wide_resnet16_4' already"),
        ("own:small", own_networks.small, "must be of letters, digits"),
        ("own_lambda", lambda num_classes: None, "there is a network 'own_lambda' already"),  # another lambda
        ("another", lambda classes: None, "must take num_classes, it takes classes"),
        ("another", 3, "must be a function, got int"),
        ("another", own_networks.small(2), "the builder of 'another' is a module, not a function that makes one"),
        ("another", lambda num_classes, /: None, "must take num_classes by name, not by position alone"),
    ):
        with pytest.raises(checks.InputError, match=message):
            attnconv.register_model(name, build)
    assert "own_small" in models.list_models()


def test_the_plain_part_is_drawn_as_without_attention():
    plain, attended = (
        (torch.manual_seed(3), make(own_networks.small, attention=steps))[1] for steps in ([], ATTENTION)
    )
    assert torch.equal(plain[1][0].weight, attended[1].inner[0].weight)
    assert torch.equal(plain[4].weight, attended[4].weight)


@pytest.mark.parametrize("name", ["torchvision:resnet18", "timm:resnet18", "own_small", own_networks.small])
def test_any_of_them_is_saved_and_read_with_its_attention(name, tmp_path):
    if isinstance(name, str) and ":" in name:
        pytest.importorskip(name.partition(":")[0])
    after = "layer3" if isinstance(name, str) and ":" in name else "1"
    model = make(name, attention=[{"add": {"after": after}}, {"augment": {"where": "(layer4.1.conv2|^0.0)$"}}]).eval()
    for module in model.modules():
        if isinstance(module, surgery.Attended):
            torch.nn.init.constant_(module.attention.gamma, 0.3)
    x = torch.randn(2, 3, 32, 32)
    models.save_pretrained(model, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["attention"][0] == {"add": {"after": after}}
    found = models.from_pretrained(tmp_path, model=name if callable(name) else None)
    torch.testing.assert_close(found(x), model(x), rtol=0, atol=0)
    models.save_pretrained(found, tmp_path / "again")


def test_surgery_by_hand_is_saved_too(tmp_path):
    model, _ = surgery.add_self_attention(make(own_networks.small), after="1", image_size=32)
    model, _ = surgery.augment(
        model, where=lambda name, conv: name == "0.0", key_ratio=0.5, value_ratio=0.25, num_heads=2, image_size=32
    )
    models.save_pretrained(model, tmp_path)
    steps = json.loads((tmp_path / "config.json").read_text())["attention"]
    assert steps[0] == {"add": {"after": "1", "kind": "simple"}}
    assert steps[1]["augment"]["where"] == r"^(?:0\.0)$"
    found, x = models.from_pretrained(tmp_path, model=own_networks.small), torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(found(x), model.eval()(x), rtol=0, atol=0)


def test_what_a_file_names_is_not_imported(tmp_path):
    models.save_pretrained(make(own_networks.small), tmp_path / "saved")
    (tmp_path / "trap.py").write_text("raise SystemExit('imported')\n")
    file = tmp_path / "saved" / "config.json"
    file.write_text(file.read_text().replace("own_networks:small", "trap:make"))
    program = (
        "import sys; sys.path.insert(0, '.')\n"
        "from attnconv import models\n"
        "try: models.from_pretrained('saved')\n"
        "except ValueError as error: print(error)\n"
        "assert 'trap' not in sys.modules\n"
    )
    answer = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "'trap:make' is made by your own code, which no file may import: give --model trap:make" in answer.stdout
    with pytest.raises(checks.InputError, match="which no file may import"):
        build_model("trap:make", num_classes=4, in_channels=3, image_size=32, attention=(), options={})
    with pytest.raises(checks.InputError, match="model must be a function that makes the network, got str"):
        models.from_pretrained(tmp_path / "saved", model="own_networks:small")


def test_a_lambda_or_a_local_function_is_given_again(tmp_path):
    def local(num_classes):
        return own_networks.small(num_classes)

    for number, function in enumerate((local, lambda num_classes: own_networks.small(num_classes))):
        model = make(function)
        models.save_pretrained(model, tmp_path / str(number))
        found = models.from_pretrained(tmp_path / str(number), model=function)
        assert torch.equal(found[4].weight, model[4].weight)
    models.save_pretrained(make("own_small"), tmp_path / "named")
    with pytest.raises(checks.InputError, match="'own_small' is a network by name: leave model="):
        models.from_pretrained(tmp_path / "named", model=local)


@pytest.mark.parametrize("name", ["torch.nn.modules.container:Sequential", "__main__:Net", "nets:f.<locals>.make"])
def test_a_name_that_no_command_can_import(name):
    message = "give --model package.module:function, or the function as model= in Python"
    with pytest.raises(checks.InputError, match=message):
        extensions.factory(name)


def test_a_module_of_import_makes_its_own_networks_alone(monkeypatch):
    monkeypatch.setattr(extensions, "_factories", {})
    monkeypatch.setattr(extensions, "imported", [])
    with pytest.raises(checks.InputError, match="give --model own_networks:small or --import own_networks again"):
        extensions.factory("own_networks:small")
    extensions.import_modules(["own_networks"])
    assert extensions.factory("own_networks:small") is own_networks.small
    monkeypatch.setattr(own_networks, "anything", lambda **options: None, raising=False)
    own_networks.anything.__module__ = "own_networks"
    for name in ("register_model", "nn.Module", "number", "absent", "anything"):
        with pytest.raises(checks.InputError, match="which no file may import"):
            extensions.factory(f"own_networks:{name}")


def test_a_module_that_ends_the_program_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "ending.py").write_text("import sys\nsys.exit('no GPU')\n")
    with pytest.raises(checks.InputError, match="--import ending: ending cannot be imported: SystemExit: no GPU"):
        extensions.import_modules(["ending"])
    offer(monkeypatch, "ending")
    with pytest.raises(checks.InputError, match=r"'offered' of group .* cannot be imported: SystemExit"):
        make("offered")


def offer(monkeypatch, module):
    """Let an installed package offer the network "offered" of ``module``."""
    entry = metadata.EntryPoint("offered", f"{module}:make", "attnconv.models")
    monkeypatch.setattr(
        "attnconv.extensions.metadata.entry_points", lambda group: [entry] if group == entry.group else []
    )


@pytest.mark.parametrize("json", [False, True])
def test_a_broken_package_is_listed_with_the_reason(monkeypatch, capsys, json):
    offer(monkeypatch, "no_such_package")
    list_networks("*_small", json=json)
    list_networks("offered", json=json)
    printed = capsys.readouterr().out
    assert "own_small" in printed
    reason = "cannot be imported: ModuleNotFoundError: No module named 'no_such_package'"
    assert reason in " ".join(printed.split())


def test_trained_weights_are_taken_over_before_or_after_surgery():
    trained = make(own_networks.small)
    steps = [*ATTENTION, {"augment": {"where": r"^0\.0$", "key_ratio": 1, "value_ratio": 0.5, "num_heads": 4}}]
    model, before = make(own_networks.small, attention=steps, init_from=trained.state_dict())
    assert torch.equal(model[1].inner[0].weight, trained[1][0].weight)
    assert torch.equal(model[0][0].conv_out.weight, trained[0][0].weight[:4])
    assert set(before.cut) == {"0.0.conv_out.weight", "0.0.conv_out.bias"}
    assert "1.inner.0.weight" in before.copied
    assert {name.partition(".")[0] for name in before.left} == {"0", "1"}  # attention's own
    again, after = make(own_networks.small, attention=steps, init_from=model.state_dict())
    assert not after.left
    assert not after.cut
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)


def test_the_classifier_of_other_classes_stays_as_drawn():
    trained = make(own_networks.small, num_classes=7)
    model, transfer = make(own_networks.small, init_from=trained.state_dict())
    assert set(transfer.left) == {"4.weight", "4.bias"}
    assert torch.equal(model[0][0].weight, trained[0][0].weight)
    with pytest.raises(checks.InputError, match="nothing in the state dict fits own_networks:small"):
        make(own_networks.small, width=16, init_from=trained.state_dict())


def with_convolution(num_classes, width=8):
    """A classifier that is a 1x1 convolution."""
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, width, 3),
        torch.nn.Conv2d(width, num_classes, 1),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
    )


def test_a_classifier_may_be_a_convolution():
    trained = make(with_convolution, num_classes=7)
    _, transfer = make(with_convolution, init_from=trained.state_dict())
    assert set(transfer.left) == {"1.weight", "1.bias"}


def test_attention_behind_a_module_is_new_whatever_the_file_calls_its_own():
    steps = [{"add": {"after": "0.0"}}]
    trained = {**make(own_networks.small).state_dict(), "0.0.attention.gamma": torch.ones(1)}
    model, transfer = make(own_networks.small, attention=steps, init_from=trained)
    assert "0.0.attention.gamma" in transfer.left
    assert model[0][0].attention.gamma == 0
