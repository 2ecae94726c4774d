"""MACs, FLOPs in both conventions and attention memory by hand; published sizes, and the page that shows both."""

from pathlib import Path

import pytest
import torch
from torch import nn

from attnconv import AugmentedConv2d, SelfAttention
from attnconv.bench.cost import HEADER, UNVERIFIED, Compared, compare, cost
from attnconv.bench.published import PUBLISHED, Published
from attnconv.models import create_model


def layer(**settings):
    return AugmentedConv2d(3, 10, 3, padding=1, key_channels=6, value_channels=4, num_heads=2, feat_size=9, **settings)


def test_an_augmented_convolution_by_hand():
    found = cost(layer(), in_channels=3, image_size=(5, 7))
    positions = 5 * 7
    convolution = positions * 6 * 3 * 9
    projections = positions * (3 * 16 + 4 * 4)
    products = positions**2 * (6 + 4)
    terms = positions * (5 + 7) * 6
    assert found.macs == convolution + projections + products + terms
    assert found.flops == 2 * found.macs
    assert found.paper_flops == 2 * (convolution + projections) + products
    (attention,) = found.attention
    assert attention.eager_bytes == 4 * 2 * positions**2
    assert attention.linear_bytes == 4 * positions * (6 + 6 + 4 + 4 + 2)


def test_without_tables_there_are_no_position_terms():
    assert cost(layer(position=None), in_channels=3, image_size=(5, 7)).attention[0].position_macs == 0


def test_pooled_attention_is_counted_on_its_own_map():
    found = cost(layer(attention_pool=2), in_channels=3, image_size=(5, 7)).attention[0]
    assert found.map_size == (3, 4)
    assert found.product_macs == 12**2 * 10


def test_a_network_without_attention_has_one_count():
    found = cost(create_model("convnet3", num_classes=10, image_size=32), in_channels=3, image_size=(32, 32))
    assert found.paper_flops == found.flops == 2 * found.macs
    assert found.macs == 9 * (1024 * 3 * 64 + 256 * 64 * 128 + 64 * 128 * 192) + 192 * 10
    assert found.attention == ()


def test_sagan_attention_is_counted():
    found = cost(nn.Sequential(SelfAttention(16)), in_channels=16, image_size=(4, 5))
    assert found.attention[0].product_macs == 20**2 * (2 + 16)
    assert found.paper_flops == found.flops - 20**2 * (2 + 16)


def test_pooled_keys_are_counted():
    layer = SelfAttention(16, value_ratio=1 / 2, pool=2)
    found = cost(nn.Sequential(layer), in_channels=16, image_size=(4, 5))
    (one,) = found.attention
    assert (one.map_size, one.product_macs) == ((4, 5), 20 * 4 * (2 + 8))
    assert found.paper_flops == found.flops - one.product_macs
    assert found.macs == 20 * (2 * 16 * 2 + 2 * 16 * 8) + one.product_macs
    assert one.eager_bytes == 4 * 20 * 4
    assert one.linear_bytes == 4 * ((20 + 4) * (2 + 8) + 20)


def test_the_network_itself_is_left_alone():
    model = layer().train()
    cost(model, in_channels=3, image_size=(5, 7))
    assert model.training
    assert model.qkv_conv.weight.device == torch.device("cpu")
    assert not model._forward_hooks


DOCUMENT = Path(__file__).parents[2] / "docs" / "models.md"

PARAMETERS = {
    "wide_resnet28_10": 36_278_324,
    "se_wide_resnet28_10": 36_551_884,
    "aa_wide_resnet28_10": 36_054_100,
    "seed_aa_wide_resnet28_10": 206_229_580,
    "resnet34": 21_797_672,
    "se_resnet34": 21_958_868,
    "aa_resnet34": 20_745_072,
    "resnet50": 25_557_032,
    "se_resnet50": 28_088_024,
    "aa_resnet50": 25_809_392,
    "resnet101": 44_549_160,
    "se_resnet101": 49_326_872,
    "aa_resnet101": 45_386_728,
    "resnet152": 60_192_808,
    "se_resnet152": 66_821_848,
    "aa_resnet152": 61_613_536,
    "aa_resnet50 key_ratio=0.25 value_ratio=0.25": 24_303_728,
    "aa_resnet50 key_ratio=0.5 value_ratio=0.5": 22_342_680,
    "aa_resnet50 key_ratio=0.75 value_ratio=0.75": 20_735_496,
    "aa_resnet50 key_ratio=1.0 value_ratio=1.0": 19_383_560,
    "xresnet50": 23_575_466,
    "sa_xresnet50": 23_575_466 + 2 * 256 * 32 + 256 * 256 + 1,
    "ssa_xresnet50": 23_641_003,
}

# What does not come out as printed; everything else does.
DISAGREE = {
    "se_wide_resnet28_10": "no: params",
    "aa_wide_resnet28_10": "no: params, FLOPs",
    "resnet34": "no: FLOPs",
    "se_resnet34": "no: FLOPs",
    "se_resnet152": "no: FLOPs",
    "xresnet50": "-",
    "sa_xresnet50": "-",
    "ssa_xresnet50": "-",
}


@pytest.fixture(scope="module")
def all_rows():
    return {row.cells()[0]: row for row in compare()}


@pytest.fixture(scope="module", params=["*34", pytest.param("*", marks=pytest.mark.slow)])
def rows(request):
    return {row.cells()[0]: row for row in compare(request.param)}


def among(rows, expected):
    """``expected`` of the networks in ``rows``; all of them, where there are more than three."""
    assert len(rows) == 3 or rows.keys() == expected.keys()
    return {name: expected[name] for name in rows}


def on_meta(name, **settings):
    with torch.device("meta"):
        return create_model(name, **{"num_classes": 1000, "image_size": 224, **settings})


def count(model):
    return sum(p.numel() for p in model.parameters())


def test_parameters(rows):
    assert {name: row.params for name, row in rows.items()} == among(rows, PARAMETERS)


def test_what_agrees_with_the_digits_printed(rows):
    expected = {name: DISAGREE.get(name, "yes") for name in PARAMETERS}
    assert {name: row.agrees for name, row in rows.items()} == among(rows, expected)


def test_convolution_shortcuts():
    names = ("wide_resnet28_10", "aa_wide_resnet28_10")
    found = [count(on_meta(name, num_classes=100, image_size=32, shortcut="conv")) for name in names]
    assert [f"{n / 1e6:.2f}" for n in found] == ["36.54", "36.31"]


def test_xresnet50_is_resnet50_with_another_stem():
    """As timm's resnet50d, which is the same network with fastai's stem: 25,576,264."""
    stem = 9 * (3 * 32 + 32 * 32 + 32 * 64) + 2 * (32 + 32 + 64)
    assert count(on_meta("xresnet50", stem=(32, 32, 64))) == 25_557_032 - (49 * 3 * 64 + 2 * 64) + stem == 25_576_264


def test_the_networks_of_2019_at_256_pixels():
    """Ten classes; the sizes of SimpleSelfAttention's own networks."""
    made = {name: on_meta(name, num_classes=10, image_size=256) for name in ("xresnet50", "ssa_xresnet50")}
    assert {name: count(model) for name, model in made.items()} == {
        "xresnet50": 23_575_466,
        "ssa_xresnet50": 23_641_003,
    }
    flops = cost(made["ssa_xresnet50"], in_channels=3, image_size=(256, 256)).flops
    assert f"{flops / 1e9:.2f}" == "13.32"
    plain, ssa = (on_meta(name, num_classes=10, image_size=256, stem=(32, 32, 64)) for name in made)  # fastai's stem
    assert (count(plain), count(ssa)) == (23_547_754, 23_613_291)
    flops = [f"{cost(model, in_channels=3, image_size=(256, 256)).flops / 1e9:.2f}" for model in (plain, ssa)]
    assert flops == ["11.30", "12.41"]


@pytest.mark.parametrize(
    ("name", "full"),
    [
        ("aa_resnet34", "7.21"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (("aa_resnet50", "8.43"), ("aa_resnet101", "16.4"), ("aa_resnet152", "24.3"))
        ),
    ],
)
def test_the_full_count_of_the_paper_s_code(name, full):
    """It multiplies each query with all 2n - 1 rows of a table; ours with the n rows that the query's place needs."""
    found = cost(on_meta(name), in_channels=3, image_size=(224, 224))
    rest = sum(2 * a.position_macs * sum(n - 1 for n in a.map_size) / sum(a.map_size) for a in found.attention)
    assert f"{(found.flops + rest) / 1e9:.{len(full.partition('.')[2])}f}" == full


def test_agreement_is_to_the_digits_printed():
    def agrees(params, gflops):
        return Compared(Published("x", "ImageNet", params, gflops), 25_849_000, 0, 8_360_000_000).agrees

    assert agrees("25.8", "8.4") == "yes"
    assert agrees("26", None) == "yes"
    assert agrees("25.9", "8.4") == "no: params"
    assert agrees(None, "8.3") == "no: FLOPs"
    assert agrees("25.85", "8.3") == "no: FLOPs"
    assert agrees(None, None) == "-"


def test_numbers_that_nobody_read_are_marked():
    def cells(unverified):
        return Compared(Published("x", "ImageNet", "25.8", None, unverified=unverified), 0, 0, 0).cells()

    assert (cells(False)[3], cells(False)[6]) == ("25.8", "-")
    assert (cells(True)[3], cells(True)[6]) == ("25.8†", "-")
    fractions = {f"aa_resnet50 key_ratio={r} value_ratio={r}" for r in (0.25, 0.5, 0.75, 1.0)}
    deep = {"se_resnet34", "se_resnet101", "resnet152", "se_resnet152", "aa_resnet152"}
    names = {" ".join([one.name, *(f"{k}={v}" for k, v in one.options.items())]) for one in PUBLISHED if one.unverified}
    assert names == fractions | deep


def test_compare_takes_a_pattern():
    assert [row.published.name for row in compare("aa_wide*")] == ["aa_wide_resnet28_10"]
    assert compare("nothing") == []


@pytest.mark.slow
def test_the_document_shows_this_table(all_rows):
    text = DOCUMENT.read_text()
    assert f"\n{UNVERIFIED}\n" in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + len(PUBLISHED)
    assert lines[0] == "| " + " | ".join(HEADER) + " |"
    assert lines[2:] == ["| " + " | ".join(row.cells()) + " |" for row in all_rows.values()]
