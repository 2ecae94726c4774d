"""Benchmarks of networks: twins, and steps that train."""

import pytest
import torch
from bench.candidates import settings

from attnconv.bench import models
from attnconv.bench.benchmark import STEP, measure
from attnconv.bench.models import Case
from attnconv.layers.augmented_conv import AugmentedConvNd
from attnconv.models import list_models

TINY = Case("aa_convnet3", 3, 8, 5)


@pytest.mark.parametrize(
    ("name", "twin"),
    [
        ("aa_resnet50", "resnet50"), ("sa_xresnet50", "xresnet50"), ("ssa_xresnet18", "xresnet18"),
        ("seed_aa_wide_resnet28_10", "wide_resnet28_10"), ("se_resnet34", "resnet34"), ("aa_convnet3", "convnet3"),
    ],
)  # fmt: skip
def test_twins(name, twin):
    assert models.case_of(name).twin == twin


def test_every_network_with_a_twin_has_one():
    known = set(list_models())
    assert len(models.twinned_models()) > 10
    assert {models.case_of(name).twin for name in models.twinned_models()} <= known
    assert set(models.NAMED) <= known


def test_families_have_their_own_images():
    assert models.case_of("aa_wide_resnet40_4").image_size == 32
    assert models.case_of("ssa_xresnet18").image_size == 128
    assert models.case_of("se_resnet34") == Case("se_resnet34", 2, 224, 1000)
    assert models.case_of("aa_resnet50", batch=1, image_size=64) == Case("aa_resnet50", 1, 64, 1000)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"name": "aa_resnet5"}, "unknown model 'aa_resnet5'; nearest: 'aa_resnet50'"),
        ({"name": "resnet50"}, "'resnet50' is plain and has no twin to compare with; 'aa_resnet50' is compared"),
        ({"name": "aa_resnet50", "batch": 0}, "batch size must be at least 1, got 0"),
        ({"name": "aa_resnet50", "image_size": 0}, "image size must be at least 1, got 0"),
    ],
)
def test_cases_that_cannot_be(given, message):
    with pytest.raises(ValueError, match=message):
        models.case_of(**given)


def test_an_impl_that_does_not_exist():
    with pytest.raises(ValueError, match="unknown impl 'egar'; nearest: 'eager'"):
        models.model_benchmark(TINY, settings(), impls=["egar"])


def test_the_network_takes_part_once_with_each_impl():
    one = models.model_benchmark(TINY, settings())
    two = models.model_benchmark(TINY, settings(), impls=["auto", "blocked"])
    assert one.names == ["convnet3", "aa_convnet3"]
    assert two.names == ["convnet3", "aa_convnet3-auto", "aa_convnet3-blocked"]
    assert (one.baseline, one.what, one.case) == ("convnet3", STEP, "aa_convnet3")


def test_impls_reach_the_layers(monkeypatch):
    seen = []
    create = models.create_model

    def keep(*arguments, **options):
        seen.append(create(*arguments, **options))
        return seen[-1]

    monkeypatch.setattr(models, "create_model", keep)
    found = models.model_benchmark(TINY, settings(), impls=["blocked"])
    found.build("aa_convnet3", found.inputs())
    found = [m.impl for m in seen[0].modules() if isinstance(m, AugmentedConvNd)]
    assert found == ["blocked"] * 2


def test_a_step_trains():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
    before = model[1].weight.detach().clone()
    step = models.step_of(model, model, torch.randn(4, 3, 2, 2), torch.tensor([0, 1, 2, 0]), torch.float32)
    losses = [step().item() for _ in range(200)]
    assert losses[-1] < losses[0]
    assert not torch.equal(model[1].weight, before)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_steps_of_both_run_on_the_same_images(dtype):
    given = settings(rounds=1, dtype=dtype)
    outcomes = measure(models.model_benchmark(TINY, given, channels_last=True), given)
    assert [o.why_not for o in outcomes.values()] == [None, None]
    first, second = (models.draw(TINY, given, channels_last=True) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert first[0].is_contiguous(memory_format=torch.channels_last)


def test_flops_of_a_step():
    forward = 9 * (64 * 3 * 64 + 16 * 64 * 128 + 4 * 128 * 192) + 192 * 5
    first = 9 * 64 * 3 * 64  # whose input needs no gradient
    assert models.flops(TINY, settings(), plain=True) == 3 * 2 * (3 * forward - first)
