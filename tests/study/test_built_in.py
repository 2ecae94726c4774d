"""The built-in studies: each can be run as it is, and has the published numbers that belong to it."""

import pytest

from attnconv.checks import InputError
from attnconv.recipes import run
from attnconv.study.plan_file import BUILT_IN, built_in, study_of
from attnconv.study.statistics import seeds_to_reach

SCALES = ("published", "small")


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", BUILT_IN)
def test_all_that_it_names_exists(name, scale, tmp_path, monkeypatch):
    (tmp_path / "imagenet").mkdir()
    monkeypatch.chdir(tmp_path)
    study = built_in(name, scale)
    assert (study.name, study.scale) == (name, scale)
    study.require_runnable()
    assert len(study.runs()) == len(study.arms) * len(study.seeds)
    assert study_of(study.to_dict(), source="study.yaml") == study
    assert not (scale == "small" and study.published)  # nothing published belongs to it


@pytest.mark.parametrize("name", BUILT_IN)
def test_the_published_size_has_the_seeds_that_its_own_correction_needs(name):
    study = built_in(name)
    comparisons = len(study.arms) - len(study.blocks())
    assert len(study.seeds) >= seeds_to_reach(comparisons)
    assert comparisons * 2 / 2 ** len(study.seeds) <= 0.05  # the least p paired by seed, after Holm


def test_all_eight_rows_and_the_comparisons_of_simple_self_attention():
    study = built_in("simple-self-attention")
    assert len(study.blocks()) == 8
    assert [arm.partition("/")[2] for arm in study.blocks()["imagewoof-128-5ep"]] == [
        "xresnet50", "ssa_xresnet50", "sa_xresnet50", "ssa_xresnet50-symmetric",
    ]  # fmt: skip
    config = study.config("imagewoof-256-80ep/ssa_xresnet50", 0)
    assert (config.data, config.image_size, config.epochs, config.lr) == ("imagewoof-old", 256, 80, 3e-3)
    assert study.published["imagewoof-128-5ep/sa_xresnet50"]["value"] == 64.0
    assert len(study.published) == 17


def test_the_small_one_is_a_row_of_48_pixels():
    study = built_in("simple-self-attention", "small")
    assert 3 * 2 / 2 ** len(study.seeds) <= 0.05  # the least p of three arms paired by seed, after Holm
    assert study.base == {
        "data": "imagewoof", "train_subset": 4500, "image_size": 48, "epochs": 5, "batch_size": 64,
        "optimizer": "adamw", "lr": 3e-3, "base_momentum": 0.85, "max_momentum": 0.95, "weight_decay": 1e-2,
        "label_smoothing": 0.1, "cache_images": True,
    }  # fmt: skip
    assert study.config("ssa_xresnet18-symmetric", 0).model_options == {"symmetric": True}


def test_why_attention_is_the_same_in_both_sizes():
    study, small = built_in("why-attention"), built_in("why-attention", "small")
    assert study.to_dict() | {"scale": "small"} == small.to_dict()
    assert list(study.blocks()) == ["far-pairs", "textures", "far-context"]
    assert [study.score_of(block) for block in study.blocks()] == ["top1", "top1", "miou"]
    assert [study.options(arm)["model"] for arm in study.arms] == [
        "convnet3", "aa_convnet3", "convnet3", "aa_convnet3", "unet", "aa_unet",
    ]  # fmt: skip


@pytest.mark.slow
def test_what_why_attention_shows_holds_for_another_seed(tmp_path):
    """The bounds are those of the data sets' constructions; 80 and 90 are far from what chance could do."""
    study = built_in("why-attention")
    last = {}
    for arm in study.arms:
        result = run(study.config(arm, 100), tmp_path / arm, progress=False)
        last[arm] = result["miou" if arm.startswith("far-context") else "top1"]
    assert last["far-pairs/plain"] <= 75
    assert last["far-pairs/attention"] > 80
    assert abs(last["textures/attention"] - last["textures/plain"]) < 5
    assert last["far-context/plain"] <= 55.6
    assert last["far-context/attention"] > 90


def test_unknown_names():
    with pytest.raises(InputError, match="unknown study 'aa-cifar10'; nearest: 'aa-cifar100'"):
        built_in("aa-cifar10")
