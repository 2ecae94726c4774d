"""What the card says is so: sizes, sources, and code that runs as it stands there."""

import re

import numpy as np
import own_networks
import pytest
import torch
from markdown_it import MarkdownIt
from PIL import Image

from attnconv import register_attention, surgery
from attnconv.layers import SimpleSelfAttention, registry
from attnconv.models import create_model, save_pretrained
from attnconv.models.hub import MARK

pytest.importorskip("safetensors")

META = {"channels": 3, "image_size": [16, 12], "mean": [0.5] * 3, "std": [0.2] * 3, "resize_ratio": 1.0}


def network(name, **settings):
    torch.manual_seed(0)
    return create_model(name, **{"num_classes": 2, "image_size": (16, 12), **settings})


def card_of(model, folder):
    save_pretrained(model, folder)
    return (folder / "README.md").read_text()


@pytest.mark.parametrize(
    ("name", "settings", "text"),
    [
        (
            "convnet3",
            {"in_channels": 1, "num_classes": 1},
            "1 image channel, images of 8 x 8 pixels or more, 1 class",
        ),
        ("unet", {}, "3 image channels, images of 4 x 4 pixels or more, 2 classes a pixel."),
        ("ssa_xresnet18", {"stem": (8, 8, 8)}, "images of any size, 2 classes an image."),
        ("aa_convnet3", {}, "images of 8 x 8 to 17 x 13 pixels"),
        ("aa_convnet3", {"position": None}, "images of 8 x 8 pixels or more"),
        ("aa_convnet3", {"image_size": 4}, "images of no size, since its position tables are too small"),
        ("aa_wide_resnet10_1", {}, "images of up to 16 x 12 pixels"),
    ],
)
def test_it_says_what_the_network_takes_and_gives(tmp_path, name, settings, text):
    assert text in card_of(network(name, **settings), tmp_path)


def test_tables_that_were_resized_and_a_classifier_that_was_left_out(tmp_path):
    model = network("aa_convnet3")
    surgery.resize_feat_size(model, (32, 40))
    model.reset_classifier(0)
    model.meta = {**META, "classes": ["cat", "dog"]}
    text = card_of(model, tmp_path)
    assert "images of 8 x 8 to 33 x 41 pixels, no classifier." in text
    assert "Classes:" not in text
    with torch.no_grad():
        model(torch.zeros(1, 3, 33, 41))


BELLO, SAGAN = "arXiv:1904.09925", "arXiv:1805.08318"


@pytest.mark.parametrize(
    ("name", "sources"),
    [
        ("convnet3", set()),
        ("aa_convnet3", {BELLO}),
        ("aa_wide_resnet10_1", {BELLO}),
        ("sa_xresnet18", {SAGAN}),
        ("ssa_xresnet18", {"SimpleSelfAttention (2019)", SAGAN}),
    ],
)
def test_it_names_the_sources_of_the_layers_that_are_in_the_network(tmp_path, name, sources):
    text = card_of(network(name), tmp_path)
    assert {source for source in (BELLO, SAGAN, "SimpleSelfAttention (2019)") if source in text} == sources
    assert ("- attention\n" in text) == ("## Sources" in text) == bool(sources)


@pytest.mark.parametrize("name", ["aa_convnet3", "aa_unet", "own_networks:small"])
def test_its_code_runs_and_tells_a_class(tmp_path, monkeypatch, capsys, name):
    model = network(name)
    model.meta = {**META, "classes": ["cat", "dog"]}
    text = card_of(model, tmp_path / "path" / "to" / "this" / "folder")
    assert "`pip install 'attnconv[train,hub]'`" in text
    Image.fromarray(np.full((20, 16, 3), 90, dtype=np.uint8)).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    exec(re.search(r"```python\n(.*?)```", text, re.DOTALL)[1], {})
    printed = capsys.readouterr().out
    assert printed in ("cat\n", "dog\n") if name != "aa_unet" else printed.startswith("tensor([[[")


class Own(SimpleSelfAttention):
    """A layer of a user's own."""


def test_it_says_which_code_it_needs(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "_REGISTERED", dict(registry._REGISTERED))
    register_attention("own_layer", Own)
    steps = [{"add": {"after": "1", "kind": "own_layer"}}, {"add": {"after": "0", "kind": "simple"}}]
    model = network("own_small", attention=steps)
    model.provenance = {"config": {"data": "digits"}, "command": "attnconv train", "scores": None}
    text = card_of(model, tmp_path / "registered")
    assert "`own_small`, saved by attnconv 0.1.0:" in text
    assert "# First import the module that registers own_small and own_layer.\nfrom attnconv" in text
    assert "It needs `--import MODULE`, the module that registers own_small and own_layer." in text
    local = card_of(network(lambda num_classes: own_networks.small(num_classes)), tmp_path / "local")
    assert '# make: the function that makes this network\n\nmodel = models.from_pretrained("path/' in local
    assert 'folder", model=make)' in local
    plain = card_of(network("convnet3"), tmp_path / "plain")
    assert "import MODULE" not in plain
    assert 'folder")' in plain


def test_without_facts_of_images_its_code_reads_none(tmp_path):
    text = card_of(network("convnet3"), tmp_path)
    assert "`pip install 'attnconv[hub]'`" in text
    assert "attnconv.data" not in text


def test_nothing_in_a_network_becomes_markup_of_its_card(tmp_path):
    name = "\n---\n# <script>a</script> `b` | c [d](e)\x1b\u202e\udcff\n```\n"
    model = network("convnet3")
    model.meta = {**META, "classes": [name, "dog"]}
    scores = {"val_top1": 50.0, "epoch": name}
    model.provenance = {
        "config": {"data": name}, "command": name, "recipe": name, "made_with": {"torch": name}, "scores": scores
    }  # fmt: skip
    model.save_pretrained(tmp_path, license=name)
    text = (tmp_path / "README.md").read_bytes().decode()
    assert all(line.isprintable() for line in text.split("\n"))
    head, body = re.fullmatch(r"---\n(.*?)\n---\n(.*)", text, re.DOTALL).groups()
    assert [line.partition(":")[0] for line in head.splitlines()[:4]] == [
        "library_name", "license", "pipeline_tag", "tags"
    ]  # fmt: skip
    parts = MarkdownIt("gfm-like", {"linkify": False, "html": True}).parse(body)
    assert [part.content for part in parts if part.type == "html_block"] == [f"{MARK}\n"]
    assert [part.tag for part in parts if part.type == "heading_open"] == ["h1", "h2", "h2", "h2", "h2"]
    inline = [piece for part in parts for piece in part.children or ()]
    assert {piece.type for piece in inline} == {"text", "code_inline"}
    assert sum("script" in part.content for part in parts if part.type == "fence") == 1


def test_classes_that_nobody_named(tmp_path):
    model = network("convnet3")
    model.meta = {"classes": None, "channels": 3}
    model.provenance = {"config": {"data": "digits"}, "command": "attnconv train", "scores": {"val_top1": 50.0}}
    assert "Classes:" not in card_of(model, tmp_path)
