"""Networks saved and loaded again: the same outputs, whatever was done to them; to the Hub and back; damaged files."""

import copy
import hashlib
import json
import os
import shutil

import pytest
import torch

from attnconv import checks, surgery
from attnconv.layers import SimpleSelfAttention
from attnconv.models import create_model, from_pretrained, list_models
from attnconv.models.convnet3 import ConvNet3
from attnconv.models.network import HubNetwork
from attnconv.models.saved import KEYS, describe

pytest.importorskip("huggingface_hub")


def network(name="aa_convnet3", **settings):
    """With batch statistics and open gates, so that each tensor of the state has a say in the output."""
    torch.manual_seed(0)
    model = create_model(name, **{"num_classes": 5, "in_channels": 2, "image_size": (21, 14), **settings})
    for layer in model.modules():
        if isinstance(layer, SimpleSelfAttention):
            torch.nn.init.constant_(layer.gamma, 0.1)
    with torch.no_grad():
        model.train()(torch.randn(4, 2, 21, 14))
    assert isinstance(model, HubNetwork)
    return model.eval()


def assert_same(model, other, size=(21, 14)):
    x = torch.randn(3, 2, *size)
    with torch.no_grad():
        torch.testing.assert_close(other(x), model(x), rtol=0, atol=0)
    assert type(other) is type(model)
    assert not other.training


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("convnet3", {}),
        ("aa_convnet3", {"augment": (1, 3), "position": None}),
        ("aa_unet", {}),
        ("ssa_xresnet18", {"symmetric": True, "stem": (8, 8, 16)}),
        ("sa_xresnet18", {"attention_stages": (1, 2)}),
        ("aa_wide_resnet10_1", {}),
    ],
)
def test_a_folder_gives_back_the_network(tmp_path, name, options):
    model = network(name, **options)
    model.save_pretrained(tmp_path / "saved")
    assert {path.name for path in (tmp_path / "saved").iterdir()} == {"config.json", "model.safetensors", "README.md"}
    assert_same(model, from_pretrained(tmp_path / "saved"))
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert (config["model"], config["num_classes"], config["image_size"]) == (name, 5, [21, 14])
    assert {key: config["options"][key] for key in options} == json.loads(json.dumps(options))


def test_the_spectral_norm_comes_back_and_goes_on(tmp_path):
    """Both power iterations start from the same vectors, so that a training step of either is the other's."""
    model = network("ssa_xresnet18", symmetric=True)
    model.save_pretrained(tmp_path)
    found = from_pretrained(tmp_path)
    assert any(key.endswith("._u") for key in found.state_dict())
    x = torch.randn(3, 2, 21, 14)
    for each in (model, found):
        each.train()(x).square().mean().backward()
    one, other = ([p.grad for p in each.parameters()] for each in (model, found))
    torch.testing.assert_close(other, one, rtol=0, atol=0)
    torch.testing.assert_close(found.state_dict(), model.state_dict(), rtol=0, atol=0)


def test_every_network_has_the_three_methods_and_a_blueprint():
    names = [
        name
        for name in (*list_models(), *list_models(dense=True))
        if not name.endswith(("01", "52", "50", "_10")) and not name.startswith("own_")  # which other tests register
    ]
    assert len(names) > 10
    with torch.device("meta"):
        for model in (create_model(name, num_classes=3, image_size=32) for name in names):
            assert isinstance(model, HubNetwork)
            assert set(json.loads(json.dumps(describe(model)))) <= set(KEYS)


def test_nothing_random_is_drawn(tmp_path):
    network().save_pretrained(tmp_path)
    before = torch.get_rng_state()
    from_pretrained(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_new_classifier_is_saved_as_it_is(tmp_path):
    model = network()
    model.reset_classifier(7)
    model.save_pretrained(tmp_path)
    assert_same(model, from_pretrained(tmp_path))
    model.reset_classifier(0, "")
    model.save_pretrained(tmp_path)
    found = from_pretrained(tmp_path)
    assert_same(model, found)
    found.save_pretrained(tmp_path / "again")
    assert_same(model, from_pretrained(tmp_path / "again"))


def test_resized_tables_are_saved_as_they_are(tmp_path):
    model = network()
    surgery.resize_feat_size(model, (33, 40))
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["feat_sizes"] == {
        "layer2.0": [16, 20], "layer3.0": [8, 10],
    }  # fmt: skip
    assert_same(model, from_pretrained(tmp_path), size=(33, 40))


def test_the_dtype_is_kept(tmp_path):
    model = network("convnet3").to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    assert {p.dtype for p in from_pretrained(tmp_path).parameters()} == {torch.bfloat16}


def test_other_programs_read_the_weights(tmp_path):
    """Plain safetensors under the names of the state dict, which init_from takes too."""
    model = network()
    model.save_pretrained(tmp_path)
    other, transfer = create_model(
        "aa_convnet3", num_classes=5, in_channels=2, image_size=(21, 14), init_from=tmp_path / "model.safetensors"
    )
    assert (transfer.left, transfer.unused) == ((), ())
    assert_same(model, other.eval())


def test_a_class_takes_its_own_networks_only(tmp_path):
    network().save_pretrained(tmp_path)
    assert isinstance(ConvNet3.from_pretrained(tmp_path), ConvNet3)
    network("aa_unet").save_pretrained(tmp_path)
    with pytest.raises(checks.InputError, match=r"holds a UNet, not a ConvNet3; attnconv.models.from_pretrained takes"):
        ConvNet3.from_pretrained(tmp_path)


def test_a_card_is_made_anew_unless_a_person_has_taken_it_over(tmp_path):
    network().save_pretrained(tmp_path)
    card = tmp_path / "README.md"
    assert "# aa_convnet3" in card.read_text()
    network("convnet3").save_pretrained(tmp_path, license="cc-by-4.0")
    assert "# convnet3" in card.read_text()
    assert 'license: "cc-by-4.0"\n' in card.read_text()
    card.write_text("mine")
    network().save_pretrained(tmp_path)
    assert card.read_text() == "mine"


def test_the_header_of_the_card_is_what_the_hub_reads(tmp_path):
    from huggingface_hub import ModelCard

    network("aa_unet").save_pretrained(tmp_path, license="mit")
    data = ModelCard.load(tmp_path / "README.md").data.to_dict()
    assert (data["library_name"], data["license"], data["pipeline_tag"]) == ("attnconv", "mit", "image-segmentation")


def test_nobody_is_said_to_have_given_a_licence(tmp_path):
    from huggingface_hub import ModelCard

    network("aa_unet").save_pretrained(tmp_path)
    assert ModelCard.load(tmp_path / "README.md").data.license is None
    assert "Weights: not stated." in (tmp_path / "README.md").read_text()


class Hub:
    """Repositories as folders, behind the three calls that the client makes."""

    def __init__(self, folder):
        self.folder, self.settings = folder, {}

    def create_repo(self, api, repo_id, **settings):
        self.settings |= settings
        (self.folder / repo_id).mkdir(parents=True, exist_ok=True)
        return type("Url", (), {"repo_id": repo_id})

    def upload_folder(self, api, *, repo_id, folder_path, **settings):
        self.settings |= settings
        shutil.copytree(folder_path, self.folder / repo_id, dirs_exist_ok=True)
        return f"https://hub/{repo_id}/commit/1"

    def download(self, repo_id, filename, **settings):
        return str(self.folder / repo_id / filename)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    import huggingface_hub

    from attnconv.models import hub as hub_module

    found = Hub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", lambda *a, **k: found.create_repo(*a, **k))
    monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", lambda *a, **k: found.upload_folder(*a, **k))
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", found.download)
    monkeypatch.setattr(hub_module, "_reachable", lambda: True)
    return found


def test_to_the_hub_and_back(hub):
    model = network("ssa_xresnet18", symmetric=True)
    assert model.push_to_hub("someone/thing", token="hf_x", private=True) == "https://hub/someone/thing/commit/1"
    assert hub.settings["private"] is True
    assert 'models.from_pretrained("someone/thing")' in (hub.folder / "someone" / "thing" / "README.md").read_text()
    assert_same(model, from_pretrained("someone/thing"))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    network().save_pretrained(folder)
    return folder


def tampered(file, change):
    data = bytearray(file.read_bytes())
    change(data)
    file.write_bytes(data)


def flip_a_weight(data):
    data[-5] ^= 1


def announce_too_long_a_header(data):
    data[:8] = (2**60).to_bytes(8, "little")


def cut(data):
    del data[len(data) // 2 :]


def edit(**changes):
    def change(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **changes}))

    return change


def without_checksum(change):
    """The checksum is for accidents; whoever changes a file on purpose can take it out."""

    def changed(folder):
        edit(sha256=None)(folder)
        tampered(folder / "model.safetensors", change)

    return changed


def pickled(folder):
    edit(sha256=None)(folder)
    torch.save({"x": torch.ones(2)}, folder / "model.safetensors")


BAD = {
    "a flipped bit": (
        lambda f: tampered(f / "model.safetensors", flip_a_weight),
        r"model.safetensors is damaged or was changed: config.json has another checksum for it",
    ),
    "a header too long": (without_checksum(announce_too_long_a_header), "is damaged or not a safetensors file: "),
    "a file cut short": (without_checksum(cut), "is damaged or not a safetensors file: "),
    "a pickle": (pickled, "is damaged or not a safetensors file: "),
    "other weights": (
        lambda f: (network("convnet3").save_pretrained(f), edit(model="aa_convnet3")(f)),
        "does not hold the weights of aa_convnet3: missing key 'layer2.0.key_rel_h'",
    ),
    "another size": (edit(num_classes=6), r"'fc.weight' is \(5, 192\) in it and \(6, 192\) in the network"),
    "a size beyond any memory": (edit(num_classes=10**14), r"'fc.weight' is \(5, 192\) in it and"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "holds no model.safetensors, which save_pretrained"),
    "no config": (lambda f: (f / "config.json").unlink(), "holds no config.json, which save_pretrained writes"),
    "broken JSON": (lambda f: (f / "config.json").write_text("{"), "config.json is damaged: Expecting"),
    "another library": (
        lambda f: (f / "config.json").write_text('{"architectures": ["Bert"]}'),
        "config.json describes no network of attnconv that this version reads: its 'format' is None, not 'attnconv 1'$",
    ),
    "no mapping": (lambda f: (f / "config.json").write_text("[1]"), "describes no network of attnconv .* is None, not"),
    "a newer format": (edit(format="attnconv 2"), "that this version reads: its 'format' is 'attnconv 2', not"),
    "an unknown key": (edit(modle="unet"), "unknown key in .*config.json 'modle'; nearest: 'model'"),
    "steps of surgery": (
        edit(attention=[{"after": "layer2"}]),
        "unknown step of 'attention' in .*config.json 'after'; known: add, augment$",
    ),
    "no model": (edit(model=None), "config.json: unknown model 'None'; "),
    "an unknown network": (edit(model="aa_convnet33"), "unknown model 'aa_convnet33'; nearest: 'aa_convnet3'"),
    "an unknown option": (edit(options={"head": 4}), "unknown option of aa_convnet3: 'head'; nearest: 'num_heads'"),
    "no number": (edit(num_classes="5"), "config.json: 'num_classes' must be int, got '5'"),
    "a size that is none": (edit(image_size=[8, "x"]), "image_size must be an integer, got 'x'"),
    "no list of sizes": (edit(feat_sizes={"layer2.0": 3}), "'feat_sizes' must give each layer a list of integers"),
    "a table of three axes": (
        edit(feat_sizes={"layer2.0": [3, 3, 3]}),
        "feat_size must be one integer or 2",
    ),
    "a table beyond any memory": (
        edit(feat_sizes={"layer2.0": [10**9, 3]}),
        r"does not hold .*'layer2.0.key_rel_h' is \(\d+, 16\) in it and \(19999",
    ),
    "no such layer": (edit(feat_sizes={"layer9.0": [3, 3]}), "unknown layer in feat_sizes of aa_convnet3: 'layer9.0'"),
    "no pool": (edit(global_pool="max"), "unknown global_pool in .*config.json: 'max'"),
    "too deep JSON": (
        lambda f: (f / "config.json").write_text("[" * 10**6),
        r"config.json is damaged: it is nested more than 100 deep$",
    ),
    "one name for five outputs": (
        edit(meta={"classes": ["cat"]}),
        "config.json: 'meta' has 1 names of classes, and its network is of 5$",
    ),
    "text for names": (edit(meta={"classes": "abcde"}), "'meta.classes' must be list, got 'abcde'$"),
    "a number for scores": (edit(provenance={"scores": 3}), "'provenance.scores' must be dict, got 3$"),
    "text for a score": (
        edit(provenance={"scores": {"val_top1": "high"}}),
        "config.json: the score 'val_top1' must be a number, got 'high'$",
    ),
    "a list of versions": (edit(provenance={"made_with": [1]}), r"'provenance.made_with' must be dict, got \[1\]$"),
    "a number for a command": (edit(provenance={"command": 1}), "'provenance.command' must be str, got 1$"),
    "no facts": (edit(meta=[1]), r"'meta' must be dict, got \[1\]"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_damaged_folder_gets_a_sentence(saved, tmp_path, case):
    spoil, message = BAD[case]
    folder = shutil.copytree(saved, tmp_path / "folder")
    spoil(folder)
    with pytest.raises(checks.InputError, match=message) as caught:
        from_pretrained(folder)
    assert len(str(caught.value).splitlines()) == 1


def test_a_pickle_beside_them_is_never_read(saved, tmp_path):
    folder = shutil.copytree(saved, tmp_path / "folder")
    (folder / "model.safetensors").unlink()
    torch.save(network().state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(checks.InputError, match=r"holds no model\.safetensors"):
        from_pretrained(folder)


def test_what_cannot_be_made_again_is_not_saved(tmp_path):
    model = network("convnet3")
    model.layer3[0] = torch.nn.Identity()
    with pytest.raises(
        checks.InputError, match=r"is not what create_model\('convnet3'\) makes, missing key 'layer3.0.we"
    ):
        model.save_pretrained(tmp_path)
    with torch.device("meta"):
        empty = create_model("convnet3", num_classes=3, image_size=8)
    with pytest.raises(checks.InputError, match="cannot be saved from the meta device"):
        empty.save_pretrained(tmp_path)
    own = ConvNet3([torch.nn.Conv2d(3, 64, 1), torch.nn.Conv2d(64, 128, 1), torch.nn.Conv2d(128, 192, 1)], 2)
    with pytest.raises(checks.InputError, match="this ConvNet3 was not made by create_model"):
        own.save_pretrained(tmp_path)
    assert not (tmp_path / "model.safetensors").exists()


def test_a_card_that_cannot_be_made_leaves_nothing_behind(tmp_path):
    model = network()
    model.provenance = {"config": {}, "command": "attnconv train", "scores": {"val_top1": "high"}}
    with pytest.raises(
        checks.InputError, match=r"^this aa_convnet3: the score 'val_top1' must be a number, got 'high'$"
    ):
        model.save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_names_of_classes_go_with_the_classifier_that_had_them(tmp_path):
    model = network()
    model.meta = {"classes": ["a", "b", "c", "d", "e"], "channels": 3}
    model.save_pretrained(tmp_path)
    assert from_pretrained(tmp_path).meta == model.meta
    model.reset_classifier(7)
    model.save_pretrained(tmp_path)
    assert from_pretrained(tmp_path).meta == {"classes": None, "channels": 3}


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(checks.InputError, match=r"cannot write a network to .*file: File exists"):
        network().save_pretrained(tmp_path / "file")
    with pytest.raises(checks.InputError, match=r"file is a file; from_pretrained takes the folder that"):
        from_pretrained(tmp_path / "file")
    with pytest.raises(checks.InputError, match=r"there is no folder .*nowhere"):
        from_pretrained(tmp_path / "nowhere")


def test_the_checksum_is_that_of_the_file(saved):
    config = json.loads((saved / "config.json").read_text())
    assert config["sha256"] == hashlib.sha256((saved / "model.safetensors").read_bytes()).hexdigest()


def test_a_copy_is_saved_like_the_original(tmp_path):
    model = network()
    copy.deepcopy(model).save_pretrained(tmp_path)
    assert_same(model, from_pretrained(tmp_path))


def test_a_sparse_file_larger_than_the_memory(saved, tmp_path, monkeypatch):
    folder, size = shutil.copytree(saved, tmp_path / "folder"), 30 * 2**30
    header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + size)
    real = os.sysconf
    monkeypatch.setattr(os, "sysconf", lambda name: 2**20 if name == "SC_PHYS_PAGES" else real(name))
    with pytest.raises(checks.InputError, match=r"model\.safetensors has [\d]+ bytes, more than this machine has mem"):
        from_pretrained(folder)


def test_options_that_are_no_plain_values(tmp_path):
    model = network("convnet3")
    model.meta = {"classes": None, "mean": object()}
    with pytest.raises(checks.InputError, match=r"meta\['mean'\] must hold plain values .*, got <object"):
        model.save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_network_of_larger_images_than_are_read_is_not_saved(tmp_path):
    model = create_model("convnet3", num_classes=2, image_size=8192)
    with pytest.raises(checks.InputError, match=r"image_size must be at most 4096 per side, got 8192$"):
        model.save_pretrained(tmp_path / "net")
    assert not (tmp_path / "net").exists()
