"""Recipes of SimpleSelfAttention (2019) on Imagenette and Imagewoof, and one for a CPU.

Source: SimpleSelfAttention's table of results and its train.py. Its results are on the split before December 2019
(``imagenette-old``, ``imagewoof-old``), so that is the split here; ``--data imagewoof`` takes today's, for which it has
none. All eight are its one-cycle from lr/10 in half precision, for a GPU; on a CPU add ``--precision fp32``. They are
for every network of the XResNet family: ``--model xresnet50`` is its baseline, ``--model sa_xresnet50`` has SAGAN's
layer, and ``--option symmetric=true`` is the symmetric form of the default. Departures: gamma does not decay; spectral
norm is warmed up; attention's sums are in float32; mixup has one share a batch. docs/migrating.md has their effects.
Whether the longer runs used mixup is not stated, and here there is none (``--mixup 0.2``).
"""

from attnconv.recipes.recipe import recipe
from attnconv.train.config import RunConfig


def simple_self_attention(data: str, image_size: int, epochs: int) -> RunConfig:
    """The settings that all runs of the document share."""
    return RunConfig(
        model="ssa_xresnet50",
        data=data,
        image_size=image_size,
        presize=True,
        epochs=epochs,
        batch_size=64,
        optimizer="adamw",
        lr=3e-3,
        base_momentum=0.85,
        max_momentum=0.95,
        weight_decay=1e-2,
        schedule="one-cycle",
        warmup=0.3,
        label_smoothing=0.1,
        crop_scale=0.35,
        precision="fp16",
    )


@recipe
def imagewoof_128_5ep() -> RunConfig:
    """Ten dog breeds at 128 px in 5 epochs, the setting in which the three layers were compared.

    attnconv train --recipe imagewoof-128-5ep

    Source: SimpleSelfAttention (2019), 12 runs each.
    Expected: xresnet50 62.3, sa_xresnet50 64.0, ssa_xresnet50 65.2
    Measured: not measured here
    """
    return simple_self_attention("imagewoof-old", 128, 5)


@recipe
def imagewoof_256_5ep() -> RunConfig:
    """Ten dog breeds at 256 px in 5 epochs.

    attnconv train --recipe imagewoof-256-5ep

    Source: SimpleSelfAttention (2019), 10 runs each.
    Expected: xresnet50 61.9, ssa_xresnet50 67.6
    Measured: not measured here
    """
    return simple_self_attention("imagewoof-old", 256, 5)


@recipe
def imagewoof_256_20ep() -> RunConfig:
    """Ten dog breeds at 256 px in 20 epochs.

    attnconv train --recipe imagewoof-256-20ep

    Source: SimpleSelfAttention (2019), 10 runs each.
    Expected: xresnet50 83.9, ssa_xresnet50 85.66
    Measured: not measured here
    """
    return simple_self_attention("imagewoof-old", 256, 20)


@recipe
def imagewoof_256_80ep() -> RunConfig:
    """Ten dog breeds at 256 px in 80 epochs.

    attnconv train --recipe imagewoof-256-80ep

    Source: SimpleSelfAttention (2019), 10 runs each.
    Expected: xresnet50 89.9, ssa_xresnet50 90.3
    Measured: not measured here
    """
    return simple_self_attention("imagewoof-old", 256, 80)


@recipe
def imagewoof_256_400ep() -> RunConfig:
    """Ten dog breeds at 256 px in 400 epochs; runs of this length were reported to diverge.

    attnconv train --recipe imagewoof-256-400ep --on-nan rollback

    Source: SimpleSelfAttention (2019), which doubts its baseline's number itself; 1 run of the other.
    Expected: xresnet50 90.2 (doubted), ssa_xresnet50 91
    Measured: not measured here
    """
    return simple_self_attention("imagewoof-old", 256, 400)


@recipe
def imagenette_128_5ep() -> RunConfig:
    """Ten easy classes at 128 px in 5 epochs.

    attnconv train --recipe imagenette-128-5ep

    Source: SimpleSelfAttention (2019), 10 runs each.
    Expected: xresnet50 85.5, ssa_xresnet50 86.3
    Measured: not measured here
    """
    return simple_self_attention("imagenette-old", 128, 5)


@recipe
def imagenette_256_5ep() -> RunConfig:
    """Ten easy classes at 256 px in 5 epochs.

    attnconv train --recipe imagenette-256-5ep

    Source: SimpleSelfAttention (2019), 6 runs each.
    Expected: xresnet50 84.6, ssa_xresnet50 85.3
    Measured: not measured here
    """
    return simple_self_attention("imagenette-old", 256, 5)


@recipe
def imagenette_256_20ep() -> RunConfig:
    """Ten easy classes at 256 px in 20 epochs.

    attnconv train --recipe imagenette-256-20ep

    Source: SimpleSelfAttention (2019), 6 runs each.
    Expected: xresnet50 93.6, ssa_xresnet50 94.4
    Measured: not measured here
    """
    return simple_self_attention("imagenette-old", 256, 20)


@recipe
def imagewoof_48_5ep() -> RunConfig:
    """Ten dog breeds (today's split) at 48 px in 5 epochs, small enough for a CPU.

    attnconv train --recipe imagewoof-48-5ep

    Source: this library; the other recipes' settings with a smaller network and image.
    Expected: nothing published
    Measured: xresnet18 48.8, ssa_xresnet18 49.5, 3 seeds, with the stem of commit 749e938: docs/results/training.md
    """
    return RunConfig(
        model="ssa_xresnet18",
        data="imagewoof",
        image_size=48,
        epochs=5,
        batch_size=64,
        optimizer="adamw",
        lr=3e-3,
        base_momentum=0.85,
        max_momentum=0.95,
        weight_decay=1e-2,
        label_smoothing=0.1,
        cache_images=True,
    )
