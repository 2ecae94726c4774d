"""Recipes of the public leaderboard of Imagenette and Imagewoof, in today's split.

Source: fastai/imagenette, its training runs of January 2020, and ducha-aiki/imagewoofv2-fastv2-maxpoolblur, which adds
blurred pools. The numbers are means of the last epochs of 5 runs: Imagewoof's from the logs of the latter (digits cut,
not rounded, as its notebook has them), Imagenette's from the leaderboard. In September 2022 the leaderboard
stood at 78.84 and 88.58 for Imagewoof at 256 px in 5 and 20 epochs, by other settings. The network is an SE-ResNeXt-50
of 32 groups of 4 channels with Mish and SimpleSelfAttention; Ranger with a flat, then falling learning rate; no mixup.
For a GPU (half precision); on a CPU add ``--precision fp32``. The blurred pools need ``attnconv[timm]``.
Departures: those of `models.xresnet`; gamma does not decay; up to 128 px the 160 px edition of the images is
taken, there the 320 px one; images are normalised, there they are not; validation images keep their aspect ratio and
are cut from 8/7 of the size, there the whole image is squeezed into a square of 152, 224 or 296 px and cut from it.
"""

from attnconv.recipes.recipe import recipe
from attnconv.train.config import RunConfig


def leaderboard(data: str, image_size: int, epochs: int) -> RunConfig:
    """The settings that the runs share."""
    return RunConfig(
        model="ssa_xresnet50",
        model_options={
            "stem": [32, 32, 64],
            "act": "mish",
            "shortcut_pool": "max",
            "blur_pool": True,
            "se": True,
            "groups": 32,
            "width_per_group": 4,
        },
        data=data,
        image_size=image_size,
        epochs=epochs,
        batch_size=64,
        optimizer="ranger",
        lr=8e-3,
        momentum=0.95,
        weight_decay=1e-2,
        schedule="flat-cosine",
        label_smoothing=0.1,
        crop_scale=0.35,
        precision="fp16",
    )


@recipe
def leaderboard_imagewoof_256_5ep() -> RunConfig:
    """The leaderboard's SE-ResNeXt on ten dog breeds at 256 px in 5 epochs; --image-size 192 is its smaller form.

    attnconv train --recipe leaderboard-imagewoof-256-5ep

    Source: ducha-aiki/imagewoofv2-fastv2-maxpoolblur, 5 runs each.
    Expected: 76.87 (75.94 at 192 px)
    Measured: not measured here
    """
    return leaderboard("imagewoof", 256, 5)


@recipe
def leaderboard_imagewoof_256_20ep() -> RunConfig:
    """The same in 20 epochs; --image-size 192 and 128 are its smaller forms.

    attnconv train --recipe leaderboard-imagewoof-256-20ep

    Source: ducha-aiki/imagewoofv2-fastv2-maxpoolblur, 5 runs each.
    Expected: 88.29 (87.25 at 192 px, 85.52 at 128 px)
    Measured: not measured here
    """
    return leaderboard("imagewoof", 256, 20)


@recipe
def leaderboard_imagenette_256_5ep() -> RunConfig:
    """The same on ten easy classes in 5 epochs; --image-size 192 is its smaller form.

    attnconv train --recipe leaderboard-imagenette-256-5ep

    Source: fastai/imagenette, the rows "2020-01 + MaxBlurPool", 5 runs each.
    Expected: 86.85 (86.76 at 192 px)
    Measured: not measured here
    """
    return leaderboard("imagenette", 256, 5)


@recipe
def leaderboard_imagenette_256_20ep() -> RunConfig:
    """The same in 20 epochs; --image-size 192 and 128 are its smaller forms.

    attnconv train --recipe leaderboard-imagenette-256-20ep

    Source: fastai/imagenette, the rows "2020-01 + MaxBlurPool", 5 runs each.
    Expected: 93.53 (92.50 at 192 px, 92.70 in its author's logs; 91.57 at 128 px)
    Measured: not measured here
    """
    return leaderboard("imagenette", 256, 20)
