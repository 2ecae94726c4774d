"""Checkpoints of 2019 and of fastai give the numbers that their own programs computed from them."""

import pytest
import torch
from golden_files import error, golden, images, state_dict

from attnconv import AugmentedConv2d, SelfAttention, compat

CLOSE = 1e-5
NETWORKS = {
    "seed_a_wide_resnet10_1": "seed_aa_wide_resnet10_1",
    "seed_b_xresnet18": "xresnet18",
    "seed_b_ssa_xresnet18": "ssa_xresnet18",
    "seed_b_ssa_xresnet50": "ssa_xresnet50",
    "fastai_ssa_xresnet18": "ssa_xresnet18",
}
LAYERS = ("seed_a_layer_16", "seed_a_layer_24", "seed_a_layer_40")


@pytest.mark.parametrize(
    "file", [pytest.param(file, marks=[pytest.mark.slow] * file.endswith("50")) for file in NETWORKS]
)
def test_whole_networks(file):
    found = golden(file)
    model = compat.load_checkpoint(state_dict(found), NETWORKS[file])
    assert not model.training
    assert error(model, found) < CLOSE


@pytest.mark.parametrize("file", LAYERS)
def test_augmented_convolutions(file):
    found = golden(file)
    layer = compat.AugmentedConv(**found["arguments"], head_layout="legacy")
    layer.load_state_dict(state_dict(found))
    assert error(layer, found) < CLOSE


def test_those_with_a_projection_of_1x1():
    found = golden("seed_a_paper_layer")
    layer = compat.InPaperAugmentedConv(**found["arguments"])
    layer.load_state_dict(state_dict(found))
    assert error(layer, found) < CLOSE


def test_those_load_into_the_library_s_own_class_and_are_something_else():
    """The trap that docs/migrating.md warns of."""
    found = golden("seed_a_paper_layer")
    layer = AugmentedConv2d(3, 20, 3, padding=1, key_channels=40, value_channels=16, num_heads=4, position=None)
    layer.load_state_dict(state_dict(found))
    assert error(layer, found) > 0.5


@pytest.mark.parametrize("kind", [compat.SelfAttention, SelfAttention])
def test_fastai_s_layer_of_sagan(kind):
    found = golden("fastai_self_attention")
    layer = kind(16)
    layer.load_state_dict(state_dict(found))
    assert error(layer, found) < CLOSE


def test_its_names_in_fastai_1():
    found = golden("fastai_self_attention")
    layer = compat.SelfAttention(16)
    layer.load_state_dict({name.replace(".0.", "."): value for name, value in state_dict(found).items()})
    assert error(layer, found) < CLOSE


WRAPPED = {
    "model": lambda state: {"model": state, "acc": 59.82, "epoch": 35},
    "module.": lambda state: {f"module.{name}": value for name, value in state.items()},
    "both": lambda state: {"model": {f"module.{name}": value for name, value in state.items()}, "opt": {}},
}


@pytest.mark.parametrize("wrap", WRAPPED)
@pytest.mark.parametrize("file", ["seed_a_layer_40", "seed_a_paper_layer", "fastai_self_attention"])
def test_layers_load_out_of_what_was_saved_around_them(file, wrap):
    found = golden(file)
    if file == "fastai_self_attention":
        layer = compat.SelfAttention(16)
    elif file == "seed_a_layer_40":
        layer = compat.AugmentedConv(**found["arguments"], head_layout="legacy")
    else:
        layer = compat.InPaperAugmentedConv(**found["arguments"])
    layer.load_state_dict(WRAPPED[wrap](state_dict(found)))
    assert error(layer, found) < CLOSE


def test_heads_in_the_right_order_are_another_network():
    """dv is 4 a head of 1 channel in the stem of a network with k = 1, and 2 and 3 in its later stages."""
    found = golden("seed_a_wide_resnet10_1")
    legacy = compat.load_checkpoint(state_dict(found), "seed_aa_wide_resnet10_1")
    correct = compat.load_checkpoint(state_dict(found), "seed_aa_wide_resnet10_1", head_layout="correct")
    assert legacy.blueprint.options["head_layout"] == "legacy"
    assert error(correct, found) > 1e-3


def test_a_checkpoint_in_half_precision():
    """As fastai's to_fp16 left it: convolutions in half, norms in float."""
    found = golden("seed_b_ssa_xresnet18")
    state = {name: value.half() if value.dim() > 1 else value for name, value in state_dict(found).items()}
    model = compat.load_checkpoint(state, "ssa_xresnet18")
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert CLOSE < error(model, found) < 0.1


def test_images_of_another_size_where_there_are_no_tables():
    model = compat.load_checkpoint(state_dict(golden("seed_b_xresnet18")), "xresnet18", image_size=(40, 72))
    assert model.blueprint.image_size == (40, 72)
    with torch.no_grad():
        assert model(images({"input": [2, 3, 40, 72]}).float()).shape == (2, 10)
