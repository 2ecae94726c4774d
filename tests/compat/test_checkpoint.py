"""The facts that `compat.load_checkpoint` reads off the weights, and what it says of those of another network."""

import pytest
import torch
from golden_files import golden, state_dict

from attnconv import checks, compat
from attnconv.compat.recognised import recognised
from attnconv.models import create_model

WIDE, PLAIN, SSA, FASTAI = "seed_a_wide_resnet10_1", "seed_b_xresnet18", "seed_b_ssa_xresnet18", "fastai_ssa_xresnet18"


def weights(file):
    return state_dict(golden(file))


@pytest.mark.parametrize(
    ("file", "name", "stem"),
    [(SSA, "ssa_xresnet18", (32, 64, 64)), (FASTAI, "ssa_xresnet18", (32, 32, 64)), (PLAIN, "xresnet18", (32, 64, 64))],
)
def test_the_stem_is_read_off_the_weights(file, name, stem):
    assert compat.load_checkpoint(weights(file), name).blueprint.options["stem"] == stem


def test_the_image_size_is_that_of_the_tables():
    assert compat.load_checkpoint(weights(WIDE), "seed_aa_wide_resnet10_1").blueprint.image_size == (32, 32)


def their_names(name_of_ours, ours):
    """The names in the program of 2019 or in fastai, for the tensors of a network of ours."""
    theirs = {}
    for name in ours:
        if name_of_ours.startswith("seed_aa"):
            name = name.replace("bn.", "bn1.", 1) if name.startswith("bn.") else name.replace("fc.", "linear.")
            stage, _, rest = name.partition(".")
            name = f"{stage}.0.{rest}" if stage.startswith("layer") else name
            theirs[name.replace(".shortcut.", ".shortcut.0.")] = ours
        else:
            theirs[in_a_sequential(name)] = ours
    return theirs


def in_a_sequential(name):
    part, _, rest = name.partition(".")
    words = rest.split(".")
    if part == "fc":
        return f"10.{rest}"
    if part == "stem":
        return ".".join([str(int(words[0]) // 3), str(int(words[0]) % 3), *words[1:]])
    stage, block, kind, *words = int(part.removeprefix("layer")), *words
    if kind == "convs":
        words = [str(int(words[0]) // 3), str(int(words[0]) % 3), *words[1:]]
    if kind == "shortcut":
        words[0] = str(int(words[0]) - (stage > 1))
    return ".".join([str(stage + 3), block, {"convs": "convs", "shortcut": "idconv", "attention": "sa"}[kind], *words])


ANY_SIZE = [
    "seed_aa_wide_resnet10_3",
    "seed_aa_wide_resnet22_1",
    "seed_aa_wide_resnet28_10",
    *(
        pytest.param(f"{prefix}xresnet{depth}", marks=[pytest.mark.slow] * (depth not in (18, 50)))
        for prefix in ("", "ssa_", "sa_")
        for depth in (18, 34, 50, 101, 152)
    ),
]


@pytest.mark.parametrize("name", ANY_SIZE)
def test_every_size_is_told_by_its_names_and_shapes(name):
    with torch.device("meta"):
        model = create_model(name, num_classes=7, in_channels=4, image_size=24)
    state = model.state_dict()
    theirs = their_names(name, state)
    assert len(theirs) == len(state)
    shapes = dict(zip(theirs, (tuple(tensor.shape) for tensor in state.values()), strict=True))
    found = recognised(shapes)
    assert (found.name, found.num_classes, found.in_channels) == (name, 7, 4)
    assert list(found.names.values()) == list(state)
    assert found.image_size == (24 if name.startswith("seed_aa") else None)


WRONG = {
    "another depth": (
        (WIDE, "seed_aa_wide_resnet16_1"),
        "the state dict does not hold the weights of seed_aa_wide_resnet16_1: missing key 'layer1.1.bn1.weight'; "
        "it looks like seed_aa_wide_resnet10_1",
    ),
    "another width": (
        (WIDE, "seed_aa_wide_resnet10_2"),
        "missing key 'layer1.0.shortcut.key_rel_h'; it looks like seed_aa_wide_resnet10_1",
    ),
    "another program": (
        (WIDE, "ssa_xresnet50"),
        r"the weights of ssa_xresnet50: its tensors are named as those of seed_aa_wide_resnet\{depth\}_\{k\}; "
        "it looks like seed_aa_wide_resnet10_1",
    ),
    "a network that no program had": ((SSA, "resnet18"), "its tensors are named as those of xresnet.* ssa_xresnet18"),
    "attention that the network has not": (
        (SSA, "xresnet18"),
        "unexpected key '4.1.sa.gamma'; it looks like ssa_xresnet18",
    ),
    "none that it has": ((PLAIN, "ssa_xresnet18"), "missing key 'layer1.1.attention.gamma'; it looks like xresnet18"),
    "a deeper one": ((SSA, "ssa_xresnet34"), "missing key 'layer1.2.convs.0.weight'; it looks like ssa_xresnet18"),
    "a depth that is none": (
        (WIDE, "seed_aa_wide_resnet12_1"), r"the depth of a wide_resnet must be 6n \+ 4; got 12, nearest: 10 or 16",
    ),
    "a name that is none": ((SSA, "ssa_xresnet19"), "unknown model 'ssa_xresnet19'; nearest: 'ssa_xresnet18'"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_another_network_is_named(case):
    (file, name), message = WRONG[case]
    with pytest.raises(checks.InputError, match=message) as caught:
        compat.load_checkpoint(weights(file), name)
    assert "\n" not in str(caught.value)


def with_1x1(state):
    """As fastai 1.0.52 has its basic blocks."""
    first = [name for name in state if name.endswith(".convs.0.0.weight")]
    return state | {name: torch.ones(*state[name].shape[:2], 1, 1) for name in first}


def without_tables(state):
    return {name: tensor for name, tensor in state.items() if "key_rel" not in name}


@pytest.mark.parametrize(
    ("file", "name", "change", "reason"),
    [
        (PLAIN, "xresnet18", with_1x1, "fastai 1's basic blocks begin with a 1x1 convolution, those here with a 3x3"),
        (WIDE, "seed_aa_wide_resnet10_1", without_tables, "the program saved no position tables before 11 May 2019"),
        (
            *(WIDE, "seed_aa_wide_resnet16_1", without_tables),
            "it looks like seed_aa_wide_resnet10_1; the program saved no position tables before 11 May 2019",
        ),
    ],
)
def test_versions_that_differ_are_told(file, name, change, reason):
    with pytest.raises(checks.InputError, match=rf"does not hold the weights of {name}: [^\n]*; {reason}$"):
        compat.load_checkpoint(change(weights(file)), name)


def test_a_name_with_a_long_number():
    with pytest.raises(checks.InputError, match=r"unexpected key '4\.0\.convs\.1111"):
        compat.load_checkpoint(weights(PLAIN) | {f"4.0.convs.{'1' * 5000}.0.weight": torch.ones(1)}, "xresnet18")


def without(state, name):
    del state[name]


DAMAGED = {
    "one missing": (lambda s: without(s, "5.1.convs.1.0.weight"), "missing key 'layer2.1.convs.3.weight'$"),
    "one too many": (lambda s: s.update({"12.a": torch.ones(2)}), "unexpected key '12.a'$"),
    "another shape": (
        lambda s: s.update({"6.0.idconv.0.weight": torch.ones(256, 128, 3, 3)}),
        r"'6.0.idconv.0.weight' is \(256, 128, 3, 3\) in it and \(256, 128, 1, 1\) in the network$",
    ),
    "under two names": (
        lambda s: s.update({"4.0.convpath.0.0.weight": torch.ones(64, 64, 3, 3)}),
        "the state dict holds a tensor of xresnet.* twice, under the names of two programs",
    ),
    "spectral norm of another shape": (
        lambda s: s.update({"4.1.sa.conv.weight_v": torch.ones(2, 2)}),
        r"'layer1.1.attention.conv.parametrizations.weight.0._v' is \(2, 2\) in it and \(64,\) in the network$",
    ),
    "spectral norm without axes": (
        lambda s: s.update({"4.1.sa.conv.weight_orig": torch.ones(())}),
        "the spectral norm of layer1.1.attention.conv is damaged: ",
    ),
    "no classifier": (lambda s: without(s, "10.weight"), "holds neither .* nor an XResNet of .* '0.0.weight' of shape"),
    "a stem of another shape": (
        lambda s: s.update({"1.0.weight": torch.ones(())}), "holds neither .* its first tensor is '0.0.weight'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGED)
def test_a_tensor_that_does_not_fit_is_named_as_the_file_names_it(case):
    damage, message = DAMAGED[case]
    state = weights(SSA)
    damage(state)
    with pytest.raises(checks.InputError, match=message) as caught:
        compat.load_checkpoint(state, "ssa_xresnet18")
    assert "\n" not in str(caught.value)


def test_a_file_and_its_average(tmp_path):
    state = weights(SSA)
    torch.save({"model": {name: 0.9 * value for name, value in state.items()}, "model_ema": state}, tmp_path / "x.pth")
    plain = compat.load_checkpoint(tmp_path / "x.pth", "ssa_xresnet18").fc.weight
    average = compat.load_checkpoint(str(tmp_path / "x.pth"), "ssa_xresnet18", average=True).fc.weight
    torch.testing.assert_close(average.detach(), state["10.weight"], rtol=0, atol=0)
    torch.testing.assert_close(plain.detach(), 0.9 * state["10.weight"], rtol=0, atol=0)
    with pytest.raises(checks.InputError, match=r"x\.pth does not hold the weights of xresnet18"):
        compat.load_checkpoint(tmp_path / "x.pth", "xresnet18")


def test_the_number_of_classes_is_compared_with_the_head():
    assert compat.load_checkpoint(weights(SSA), "ssa_xresnet18", num_classes=10).num_classes == 10
    with pytest.raises(checks.InputError, match="the state dict is of a network with 10 classes, not 100"):
        compat.load_checkpoint(weights(SSA), "ssa_xresnet18", num_classes=100)


def test_the_symmetric_option_of_2019_had_no_effect():
    with pytest.raises(checks.InputError, match=r"the symmetric option had no effect .* leave symmetric=True out"):
        compat.load_checkpoint(weights(SSA), "ssa_xresnet18", symmetric=True)


def test_options_are_the_network_s():
    assert compat.load_checkpoint(weights(SSA), "ssa_xresnet18", act="mish").blueprint.options["act"] == "mish"
    with pytest.raises(checks.InputError, match="unknown option of ssa_xresnet18: 'head_layout'"):
        compat.load_checkpoint(weights(SSA), "ssa_xresnet18", head_layout="legacy")


def test_nothing_random_is_drawn():
    before = torch.get_rng_state()
    compat.load_checkpoint(weights(SSA), "ssa_xresnet18")
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(number):
    given = weights(PLAIN)
    given["4.0.convs.0.0.weight"][0, 0, 0, 0] = number
    with pytest.raises(checks.InputError, match=r"of xresnet18: '.*' holds a number that is not finite"):
        compat.load_checkpoint(given, "xresnet18")
