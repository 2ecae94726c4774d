"""The built-in studies, each in its published size, for a GPU, and in a small one, meant for an hour of two CPU cores.

Sources of the published numbers: Bello et al. 2019, arXiv:1904.09925 (AA); the tables of SimpleSelfAttention (2019) and
of Attention-Augmented-Conv2d (2019). Those marked "unverified" are quoted from memory, not read in their source. In the
published size a study has the seeds with which its largest table can reach 5 % after Holm. The small studies ask the
same question with small networks, small images and few epochs, and most with five seeds, for the hour's sake: nothing
published belongs to them.
"""

from collections.abc import Callable
from typing import Any, Literal

from attnconv import checks
from attnconv.study.plan import Study
from attnconv.study.plan_file import arms_in_blocks

Scale = Literal["published", "small"]
Options = dict[str, Any]

AA = "Bello et al. 2019, arXiv:1904.09925"
SSA = "SimpleSelfAttention (2019), its table"
THREE_LAYERS = "Attention-Augmented-Conv2d (2019), its table"

UNVERIFIED = "unverified: quoted from memory"

# SimpleSelfAttention's training, of which facts and departures stand in attnconv.recipes.
SSA_TRAINING: Options = {
    "batch_size": 64,
    "optimizer": "adamw",
    "lr": 3e-3,
    "base_momentum": 0.85,
    "max_momentum": 0.95,
    "weight_decay": 1e-2,
    "label_smoothing": 0.1,
}
SSA_PUBLISHED: Options = {**SSA_TRAINING, "presize": True, "precision": "fp16"}
WOOF_SMALL: Options = {
    **SSA_TRAINING,
    "data": "imagewoof",
    "train_subset": 4500,  # of 9,025
    "image_size": 48,
    "epochs": 5,
    "cache_images": True,
}
GENERATED: Options = {**SSA_TRAINING, "epochs": 1, "label_smoothing": 0.0, "workers": 0, "device": "cpu"}

# The table does not say whether its averages are of last or of best epochs.
SSA_EPOCH = "taken for the best epoch's, which the table leaves open"

# The paper's training on CIFAR-100, unverified: 0.2 for 256 images, and another batch and decay with attention.
AA_CIFAR: Options = {"data": "cifar100", "epochs": 500, "optimizer": "sgd", "schedule": "cosine", "warmup": 0.05}
PLAIN_CIFAR: Options = {"batch_size": 1024, "lr": 0.8, "weight_decay": 2e-4}
ATTENTION_CIFAR: Options = {"batch_size": 256, "lr": 0.2, "weight_decay": 5e-4}
CIFAR_SMALL: Options = {"data": "cifar100", "train_subset": 5000}

# Settings that are usual for ResNet-50; the paper's own for ImageNet were not at hand.
IMAGENET: Options = {
    "data": "imagenet",
    "image_size": 224,
    "epochs": 100,
    "batch_size": 256,
    "optimizer": "sgd",
    "lr": 0.1,
    "weight_decay": 1e-4,
    "schedule": "cosine",
    "warmup": 0.05,
    "label_smoothing": 0.1,
    "crop_scale": 0.08,
    "precision": "bf16",
    "channels_last": True,
}
IN_SMALL = "Three layers, a tenth of CIFAR-100, 4 epochs."
ON_IMAGENET = (
    "ResNet-50 on ImageNet. The folder imagenet, with train/<class>/* and val/<class>/*, must be in the current one."
)

# data, pixels, epochs, top-1 of the baseline and with the layer, runs; averages.
SSA_ROWS = (
    ("imagewoof", 128, 5, 62.3, 65.2, 12),
    ("imagewoof", 256, 5, 61.9, 67.6, 10),
    ("imagewoof", 256, 20, 83.9, 85.66, 10),
    ("imagewoof", 256, 80, 89.9, 90.3, 10),
    ("imagewoof", 256, 400, 90.2, 91.0, 1),
    ("imagenette", 128, 5, 85.5, 86.3, 10),
    ("imagenette", 256, 5, 84.6, 85.3, 6),
    ("imagenette", 256, 20, 93.6, 94.4, 6),
)


def number(value: float, source: str, **more: Any) -> Options:
    """An entry of `Study.published`."""
    return {"value": value, "source": source, **more}


def simple_self_attention(scale: Scale) -> Study:
    text = "Does one SimpleSelfAttention layer help an XResNet, beside SAGAN's layer and the symmetric form?"
    if scale == "small":
        return Study(
            name="simple-self-attention",
            text=f"{text} One row: half of Imagewoof's training images at 48 px, 5 epochs, xresnet18.",
            scale=scale,
            base=WOOF_SMALL,
            arms={
                "xresnet18": {"model": "xresnet18"},
                "ssa_xresnet18": {"model": "ssa_xresnet18"},
                "sa_xresnet18": {"model": "sa_xresnet18"},
                "ssa_xresnet18-symmetric": {"model": "ssa_xresnet18", "model_options": {"symmetric": True}},
            },
            baseline="xresnet18",
            seeds=tuple(range(7)),  # with fewer, none of three comparisons can reach 5 % after Holm
        )
    rows = {f"{data}-{size}-{epochs}ep": row for row in SSA_ROWS for data, size, epochs in [row[:3]]}
    arms = arms_in_blocks(
        {
            block: {"data": f"{data}-old", "image_size": size, "epochs": epochs}
            for block, (data, size, epochs, *_) in rows.items()
        },
        {"xresnet50": {"model": "xresnet50"}, "ssa_xresnet50": {"model": "ssa_xresnet50"}},
    )
    first = next(iter(rows))
    shared = {key: value for key, value in arms[f"{first}/ssa_xresnet50"].items() if key != "model"}
    arms[f"{first}/sa_xresnet50"] = {**shared, "model": "sa_xresnet50"}
    arms[f"{first}/ssa_xresnet50-symmetric"] = {
        **shared,
        "model": "ssa_xresnet50",
        "model_options": {"symmetric": True},
    }
    published = {}
    for block, (*_, plain, attention, runs) in rows.items():
        for arm, value in (("xresnet50", plain), ("ssa_xresnet50", attention)):
            published[f"{block}/{arm}"] = number(value, SSA, score="best_top1", runs=runs, note=SSA_EPOCH)
    doubted = f"doubted by its source; {SSA_EPOCH}"
    published["imagewoof-256-400ep/xresnet50"] = number(90.2, SSA, score="best_top1", note=doubted)
    published[f"{first}/sa_xresnet50"] = number(64.0, SSA, score="best_top1", runs=12, note=SSA_EPOCH)
    return Study(
        name="simple-self-attention",
        text=f"{text} All eight rows of its table, in the split before December 2019.",
        scale=scale,
        base=SSA_PUBLISHED,
        arms=arms,
        baseline="xresnet50",
        seeds=tuple(range(7)),
        published=published,
    )


def aa_cifar100(scale: Scale) -> Study:
    text = "Do attention-augmented convolutions help on CIFAR-100?"
    if scale == "small":
        return Study(
            name="aa-cifar100",
            text=f"{text} Three layers, a tenth of the training images, 8 epochs.",
            scale=scale,
            base={**CIFAR_SMALL, "epochs": 8},
            arms={
                "convnet3": {"model": "convnet3"},
                "aa_convnet3": {"model": "aa_convnet3"},
                "aa_convnet3-last": {"model": "aa_convnet3", "model_options": {"augment": [3]}},
            },
            baseline="convnet3",
            seeds=tuple(range(5)),
        )
    wide, three = "wide_resnet28_10", "three-layers"
    return Study(
        name="aa-cifar100",
        text=f"{text} The paper's row in 500 epochs, and three layers, all of them augmented, in 100.",
        scale=scale,
        base=AA_CIFAR,
        arms={
            f"{wide}/plain": {"model": wide, **PLAIN_CIFAR},
            f"{wide}/se": {"model": f"se_{wide}", **PLAIN_CIFAR},
            f"{wide}/aa": {"model": f"aa_{wide}", **ATTENTION_CIFAR},
            # What it was trained with is not published: these are this library's defaults.
            f"{three}/plain": {"model": "convnet3", "epochs": 100, "schedule": "one-cycle", "warmup": 0.3},
            f"{three}/aa": {
                "model": "aa_convnet3",
                "model_options": {"augment": [1, 2, 3]},
                "epochs": 100,
                "schedule": "one-cycle",
                "warmup": 0.3,
            },
        },
        baseline="plain",
        seeds=tuple(range(7)),
        published={
            f"{wide}/plain": number(80.3, f"{AA}, table 1"),
            f"{wide}/se": number(81.0, f"{AA}, table 1"),
            f"{wide}/aa": number(81.6, f"{AA}, table 1"),
            f"{three}/plain": number(61.6, THREE_LAYERS, note="100 epochs"),
            f"{three}/aa": number(59.82, THREE_LAYERS, note="35 epochs"),
        },
    )


def position_encodings(scale: Scale) -> Study:
    text = "Which positions should augmented convolutions see: none, sines, coordinates or relative ones?"
    small = scale == "small"
    kinds = {"none": None, "sine": "sine", "coordconv": "coordconv", "relative": "relative"}
    model = "aa_convnet3" if small else "aa_resnet50"
    published = {"none": 77.5, "sine": 77.5, "coordconv": 77.5, "relative": 77.7}
    return Study(
        name="position-encodings",
        text=f"{text} {IN_SMALL if small else ON_IMAGENET}",
        scale=scale,
        base={**({**CIFAR_SMALL, "epochs": 4} if small else IMAGENET), "model": model},
        arms={name: {"model_options": {"position": kind}} for name, kind in kinds.items()},
        baseline="none",
        seeds=tuple(range(5 if small else 7)),
        published={} if small else {name: number(value, AA) for name, value in published.items()},
    )


def attention_fraction(scale: Scale) -> Study:
    text = "How much of a convolution should be attention? Key ratio = value ratio, from a quarter to all of it."
    small = scale == "small"
    plain, augmented = ("convnet3", "aa_convnet3") if small else ("resnet50", "aa_resnet50")
    published = {0.25: 77.7, 0.5: 77.3, 0.75: 76.7, 1.0: 73.9}
    fractions = {
        f"fraction-{ratio:g}": {"model": augmented, "model_options": {"key_ratio": ratio, "value_ratio": ratio}}
        for ratio in published
    }
    numbers = {
        plain: number(76.4, f"{AA}, table 2"),
        **{f"fraction-{ratio:g}": number(top1, AA, note=UNVERIFIED) for ratio, top1 in published.items()},
    }
    return Study(
        name="attention-fraction",
        text=f"{text} {IN_SMALL if small else ON_IMAGENET}",
        scale=scale,
        base={**CIFAR_SMALL, "epochs": 4} if small else IMAGENET,
        arms={plain: {"model": plain}, **fractions},
        baseline=plain,
        seeds=tuple(range(5 if small else 8)),
        published={} if small else numbers,
    )


def sa_placement(scale: Scale) -> Study:
    small = scale == "small"
    depth = 18 if small else 50
    stages = {"stage1": [1], "stage2": [2], "stage3": [3], "stages123": [1, 2, 3]}
    if not small:
        stages |= {"stage4": [4], "stages1234": [1, 2, 3, 4]}
    row = "48 px" if small else "128 px, in the split before December 2019"
    base = WOOF_SMALL if small else {**SSA_PUBLISHED, "data": "imagewoof-old", "image_size": 128, "epochs": 5}
    return Study(
        name="sa-placement",
        text=f"Behind which stage of an XResNet does SimpleSelfAttention help, and do many help more than one? "
        f"{'Half of ' if small else ''}Imagewoof at {row}, 5 epochs.",
        scale=scale,
        base=base,
        arms={
            f"xresnet{depth}": {"model": f"xresnet{depth}"},
            **{
                name: {"model": f"ssa_xresnet{depth}", "model_options": {"attention_stages": chosen}}
                for name, chosen in stages.items()
            },
        },
        baseline=f"xresnet{depth}",
        seeds=tuple(range(5 if small else 8)),
    )


def why_attention(scale: Scale) -> Study:
    """The same in both sizes: it is made to be small."""
    blocks: dict[str, Options] = {
        "far-pairs": {"data": "far-pairs", "batch_size": 16},
        "textures": {"data": "textures", "batch_size": 16},
        "far-context": {"data": "far-context", "batch_size": 8},
    }
    networks: dict[str, Options] = {
        "plain": {"model": "convnet3"},
        "attention": {"model": "aa_convnet3", "model_options": {"augment": [3]}},
    }
    dense = {"plain": {"model": "unet"}, "attention": {"model": "aa_unet"}}
    arms = arms_in_blocks({block: options for block, options in blocks.items() if block != "far-context"}, networks)
    return Study(
        name="why-attention",
        text="What can attention do that a convolution cannot, and where does it not help? Generated data: far-pairs, "
        "which no window of a three-layer network can tell; textures, which a window can; far-context, whose pixels "
        "need a far cue, for a U-Net with and without attention at its bottleneck.",
        scale=scale,
        base=GENERATED,
        arms={**arms, **arms_in_blocks({"far-context": blocks["far-context"]}, dense)},
        baseline="plain",
        seeds=tuple(range(6)),  # with fewer, no table of two arms can reach 5 %
        score={"far-context": "miou"},
    )


BUILT_IN: dict[str, Callable[[Scale], Study]] = {
    "simple-self-attention": simple_self_attention,
    "aa-cifar100": aa_cifar100,
    "position-encodings": position_encodings,
    "attention-fraction": attention_fraction,
    "sa-placement": sa_placement,
    "why-attention": why_attention,
}


def built_in(name: str, scale: Scale = "published") -> Study:
    """A built-in study; InputError, with the nearest name, if there is none."""
    checks.one_of("scale", scale, ("published", "small"))
    return BUILT_IN[checks.one_of("study", name, BUILT_IN)](scale)
